/* Rule 4 of the kernel contract on every instruction set of this machine: bits do not depend on the
 * number of threads, on the number of rows, or on a place in the batch; nothing leaks from places
 * that a query does not see. */
#include "tests/kernels/cpu_exact.h"

static const rf_limits small_limits = {.places = 700,
                                       .keys = 700,
                                       .width = 523,
                                       .n_heads = 4,
                                       .n_kv_heads = 2,
                                       .head_dim = 24,
                                       .ffn = 523,
                                       .vocab = 701,
                                       .backward = 1};

/* --- Matrix products: the same rows in batches of other sizes, and other threads -------------- */

enum { MAX_N = 200, IN = 523, OUT = 139 };

typedef struct products {
    float *x, *w, *bias, *residual, *dy, *y, *dx, *dw, *dbias;
    float *own, *own_dx; /* y and dx as activations, of one product */
} products;

static products products_new(void)
{
    return (products){.x = exact_random(MAX_N * IN, 1),
                      .w = exact_random(OUT * IN, 2),
                      .bias = exact_random(OUT, 3),
                      .residual = exact_random(MAX_N * OUT, 4),
                      .dy = exact_random(MAX_N * OUT, 5),
                      .y = exact_random(MAX_N * OUT, 6),
                      .dx = exact_random(MAX_N * IN, 7),
                      .dw = exact_random(OUT * IN, 8),
                      .dbias = exact_random(OUT, 9),
                      .own = exact_random(MAX_N * OUT, 10),
                      .own_dx = exact_random(MAX_N * IN, 11)};
}

static void products_free(products *p)
{
    float *all[] = {p->x,  p->w,  p->bias,  p->residual, p->dy,    p->y,
                    p->dx, p->dw, p->dbias, p->own,      p->own_dx};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
}

static rf_limits limits_for(rf_compute compute)
{
    rf_limits limits = small_limits;
    limits.compute = compute;
    return limits;
}

/* Rows [at, at + n) alone. */
static void products_run(products *p, const rf_backend *backend, int n_threads, rf_compute compute,
                         int64_t at, int64_t n)
{
    rf_limits limits = limits_for(compute);
    rf_ctx *ctx = exact_context(backend, n_threads, &limits);
    const rf_kernels *k = backend->kernels;
    void *x = exact_upload(ctx, RF_ACTIVATION, p->x + at * IN, n * IN);
    void *dy = exact_upload(ctx, RF_ACTIVATION, p->dy + at * OUT, n * OUT);
    void *own = exact_upload(ctx, RF_ACTIVATION, p->own + at * OUT, n * OUT);
    void *own_dx = exact_upload(ctx, RF_ACTIVATION, p->own_dx + at * IN, n * IN);
    k->linear_forward(ctx, (rf_array){p->y + at * OUT, RF_RESIDUAL}, x, rf_matrix_rows(p->w),
                      p->bias, p->residual + at * OUT, n, IN, OUT);
    k->linear_forward(ctx, (rf_array){own, RF_ACTIVATION}, x, rf_matrix_rows(p->w), p->bias, NULL,
                      n, IN, OUT);
    k->linear_backward_input(ctx, (rf_array){p->dx + at * IN, RF_RESIDUAL},
                             (rf_const_array){p->dy + at * OUT, RF_RESIDUAL}, p->w, n, IN, OUT,
                             true);
    k->linear_backward_input(ctx, (rf_array){own_dx, RF_ACTIVATION},
                             (rf_const_array){dy, RF_ACTIVATION}, p->w, n, IN, OUT, false);
    k->linear_backward_weight(ctx, p->dw, p->dbias, (rf_const_array){dy, RF_ACTIVATION}, x, n, IN,
                              OUT);
    exact_download(ctx, p->own + at * OUT, RF_ACTIVATION, own, n * OUT);
    exact_download(ctx, p->own_dx + at * IN, RF_ACTIVATION, own_dx, n * IN);
    free(x);
    free(dy);
    rf_ctx_free(ctx);
}

static void check_product_threads(rf_compute compute)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        products first = products_new();
        products_run(&first, list[b], 1, compute, 0, MAX_N);
        for (int threads = 2; threads <= 3; threads++) {
            products other = products_new();
            products_run(&other, list[b], threads, compute, 0, MAX_N);
            EXPECT_SAME(first.y, other.y, MAX_N * OUT, "%s: y", list[b]->isa);
            EXPECT_SAME(first.dx, other.dx, MAX_N * IN, "%s: dx", list[b]->isa);
            EXPECT_SAME(first.own, other.own, MAX_N * OUT, "%s: own y", list[b]->isa);
            EXPECT_SAME(first.own_dx, other.own_dx, MAX_N * IN, "%s: own dx", list[b]->isa);
            EXPECT_SAME(first.dw, other.dw, OUT * IN, "%s: dw", list[b]->isa);
            EXPECT_SAME(first.dbias, other.dbias, OUT, "%s: dbias", list[b]->isa);
            products_free(&other);
        }
        products_free(&first);
    }
}

Test(cpu_exact, products_do_not_depend_on_threads)
{
    check_product_threads(RF_COMPUTE_F32);
    check_product_threads(RF_COMPUTE_BF16);
}

/* Products of adapters of more rank than the model is wide: y = u B^T and dx = du A. */
Test(cpu_exact, adapters_may_be_wider_than_the_model)
{
    enum { N = 40, WIDTH = 16, RANK = 8230 };
    const rf_limits limits = {.places = N,
                              .keys = N,
                              .width = WIDTH,
                              .n_heads = 1,
                              .n_kv_heads = 1,
                              .head_dim = WIDTH,
                              .ffn = WIDTH,
                              .vocab = WIDTH,
                              .rank = RANK,
                              .backward = 1,
                              .compute = RF_COMPUTE_BF16};
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    float *u = exact_take(sizeof(float) * N * RANK), *w = exact_take(sizeof(float) * WIDTH * RANK);
    float y[N * WIDTH] = {0}, dx[N * WIDTH] = {0};
    for (int i = 0; i < N * RANK; i++) {
        u[i] = (float)(i / RANK + 1);
    }
    for (int i = 0; i < WIDTH * RANK; i++) {
        w[i] = 1.0F / 4096;
    }
    for (int b = 0; b < n_backends; b++) {
        rf_ctx *ctx = exact_context(list[b], 2, &limits);
        void *from = exact_upload(ctx, RF_ACTIVATION, u, N * RANK);
        void *out = exact_upload(ctx, RF_ACTIVATION, y, N * WIDTH);
        void *d_x = exact_upload(ctx, RF_ACTIVATION, dx, N * WIDTH);
        list[b]->kernels->linear_forward(ctx, (rf_array){out, RF_ACTIVATION}, from,
                                         rf_matrix_rows(w), NULL, NULL, N, RANK, WIDTH);
        list[b]->kernels->linear_backward_input(ctx, (rf_array){d_x, RF_ACTIVATION},
                                                (rf_const_array){from, RF_ACTIVATION}, w, N, WIDTH,
                                                RANK, false);
        exact_download(ctx, y, RF_ACTIVATION, out, N * WIDTH);
        exact_download(ctx, dx, RF_ACTIVATION, d_x, N * WIDTH);
        for (int i = 0; i < N * WIDTH; i++) {
            const float sum = (float)(i / WIDTH + 1) * RANK / 4096;
            cr_assert(fabsf(y[i] - sum) <= sum / 128 && fabsf(dx[i] - sum) <= sum / 128,
                      "%s: %g and %g for %g", list[b]->isa, (double)y[i], (double)dx[i],
                      (double)sum);
        }
        free(from);
        rf_ctx_free(ctx);
    }
    free(u);
    free(w);
}

static void check_product_rows(rf_compute compute)
{
    const int64_t sizes[] = {1, 2, 3, 5, 17, 31};
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        products all = products_new();
        products_run(&all, list[b], 2, compute, 0, MAX_N);
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            for (int64_t at = 0; at <= MAX_N - sizes[s]; at += 83) {
                products part = products_new();
                products_run(&part, list[b], (int)(at % 3) + 1, compute, at, sizes[s]);
                EXPECT_SAME(all.y + at * OUT, part.y + at * OUT, sizes[s] * OUT, "%s: %d rows of y",
                            list[b]->isa, (int)sizes[s]);
                EXPECT_SAME(all.dx + at * IN, part.dx + at * IN, sizes[s] * IN, "%s: %d rows of dx",
                            list[b]->isa, (int)sizes[s]);
                EXPECT_SAME(all.own + at * OUT, part.own + at * OUT, sizes[s] * OUT,
                            "%s: %d rows of own y", list[b]->isa, (int)sizes[s]);
                EXPECT_SAME(all.own_dx + at * IN, part.own_dx + at * IN, sizes[s] * IN,
                            "%s: %d rows of own dx", list[b]->isa, (int)sizes[s]);
                products_free(&part);
            }
        }
        products_free(&all);
    }
}

Test(cpu_exact, rows_do_not_depend_on_their_number_or_place)
{
    check_product_rows(RF_COMPUTE_F32);
    check_product_rows(RF_COMPUTE_BF16);
}

/* Weight gradients are one chain over rows: two calls are one call over all. bf16 takes rows in
 * steps of up to 32. */
static void check_weight_gradients(rf_compute compute)
{
    const int64_t cut = compute == RF_COMPUTE_BF16 ? 64 : 67;
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        products whole = products_new(), halves = products_new();
        products_run(&whole, list[b], 2, compute, 0, MAX_N);
        products_run(&halves, list[b], 2, compute, 0, cut);
        products_run(&halves, list[b], 1, compute, cut, MAX_N - cut);
        EXPECT_SAME(whole.dw, halves.dw, OUT * IN, "%s: dw", list[b]->isa);
        EXPECT_SAME(whole.dbias, halves.dbias, OUT, "%s: dbias", list[b]->isa);
        products_free(&whole);
        products_free(&halves);
    }
}

Test(cpu_exact, weight_gradients_do_not_depend_on_how_rows_are_cut_into_calls)
{
    check_weight_gradients(RF_COMPUTE_F32);
    check_weight_gradients(RF_COMPUTE_BF16);
}

/* --- Attention
 * ------------------------------------------------------------------------------------ */

/* More than one chunk of keys, by which the backward pass shares its work out. */
enum { SAMPLE = 289, ROW = 560, H = 4, G = 2, K = 24 };

static void check_attention_places(rf_compute compute)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
            exact_attention alone = exact_attention_new(compute, SAMPLE, H, G, K);
            exact_place_sample(&alone, 0, SAMPLE, pattern, 100);
            exact_attention_run(&alone, list[b], 1);
            for (int threads = 1; threads <= 5; threads += 4) {
                /* Neighbours in front, places without keys that hold NaN, and neighbours behind. */
                int64_t front = 40 + 31 * threads, at = front + 5 * (threads - 1);
                exact_attention packed = exact_attention_new(compute, ROW, H, G, K);
                exact_place_sample(&packed, 0, front, CAUSAL, 200);
                exact_place_sample(&packed, at, SAMPLE, pattern, 100);
                exact_place_sample(&packed, at + SAMPLE, 50, BIDIRECTIONAL, 300);
                exact_attention_run(&packed, list[b], threads);
                exact_attention_compare(&packed, at, &alone, 0, SAMPLE, list[b]->isa);
                exact_attention_free(&packed);
            }
            exact_attention_free(&alone);
        }
    }
}

Test(cpu_exact, attention_does_not_depend_on_threads_or_place)
{
    check_attention_places(RF_COMPUTE_F32);
    check_attention_places(RF_COMPUTE_BF16);
}

static exact_attention one_sample(rf_compute compute)
{
    exact_attention a = exact_attention_new(compute, SAMPLE, H, G, K);
    exact_place_sample(&a, 0, SAMPLE, CAUSAL, 100);
    return a;
}

/* Keys in the middle of a tile that some queries of a block see and others do not hold NaN: those
 * who do not see them get what they get when the keys are finite. */
static void check_invisible_keys(rf_compute compute)
{
    enum { LAST = 270 };
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        exact_attention clean = one_sample(compute), dirty = one_sample(compute);
        for (int64_t i = LAST * G * K; i < SAMPLE * G * K; i++) {
            dirty.key[i] = i % 3 == 0 ? INFINITY : NAN;
            dirty.v[i] = i % 2 == 0 ? NAN : -INFINITY;
        }
        exact_attention_run(&clean, list[b], 2);
        exact_attention_run(&dirty, list[b], 2);
        EXPECT_SAME(clean.o, dirty.o, LAST * H * K, "%s: o", list[b]->isa);
        EXPECT_SAME(clean.lse, dirty.lse, LAST * H, "%s: lse", list[b]->isa);
        EXPECT_SAME(clean.dq, dirty.dq, LAST * H * K, "%s: dq", list[b]->isa);
        cr_assert(isnan(dirty.o[LAST * H * K]), "%s: a visible NaN must show", list[b]->isa);
        exact_attention_free(&clean);
        exact_attention_free(&dirty);
    }
}

Test(cpu_exact, nothing_leaks_from_invisible_keys)
{
    check_invisible_keys(RF_COMPUTE_F32);
    check_invisible_keys(RF_COMPUTE_BF16);
}

/* Queries whose gradient is NaN, before the first key of a sample's second half can be seen. */
static void check_blind_queries(rf_compute compute)
{
    enum { FIRST = 270 };
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        exact_attention clean = one_sample(compute), dirty = one_sample(compute);
        for (int64_t i = 0; i < FIRST * H * K; i++) {
            dirty.do_[i] = NAN;
            dirty.q[i] = i % 2 == 0 ? NAN : INFINITY;
        }
        exact_attention_run(&clean, list[b], 1);
        exact_attention_run(&dirty, list[b], 3);
        const int64_t at = FIRST * G * K, n = (SAMPLE - FIRST) * G * K;
        EXPECT_SAME(clean.dk + at, dirty.dk + at, n, "%s: dk", list[b]->isa);
        EXPECT_SAME(clean.dv + at, dirty.dv + at, n, "%s: dv", list[b]->isa);
        cr_assert(isnan(dirty.dv[0]), "%s: a visible NaN must show", list[b]->isa);
        exact_attention_free(&clean);
        exact_attention_free(&dirty);
    }
}

Test(cpu_exact, nothing_leaks_from_queries_that_do_not_see_a_key)
{
    check_blind_queries(RF_COMPUTE_F32);
    check_blind_queries(RF_COMPUTE_BF16);
}

static void check_without_partner(rf_compute compute)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        exact_attention a = exact_attention_new(compute, 70, H, G, K); /* all NaN, no spans */
        exact_attention_run(&a, list[b], 2);
        for (int64_t i = 0; i < 70 * H * K; i++) {
            cr_assert(a.o[i] == 0.0F && a.dq[i] == 0.0F);
        }
        for (int64_t i = 0; i < 70 * G * K; i++) {
            cr_assert(a.dk[i] == 0.0F && a.dv[i] == 0.0F);
        }
        for (int64_t i = 0; i < 70 * H; i++) {
            cr_assert(a.lse[i] == -INFINITY);
        }
        exact_attention_free(&a);
    }
}

Test(cpu_exact, queries_and_keys_without_partner_get_zeros)
{
    check_without_partner(RF_COMPUTE_F32);
    check_without_partner(RF_COMPUTE_BF16);
}

/* --- Norm, head, embedding, flat buffers
 * ---------------------------------------------------------- */

/* Large enough that each kernel works as a team (threads_for). */
enum { N = 700, D = 97, V = 701 };

typedef struct others {
    float *loss, *dx, *dw, *y, *rstd, *dgain, *dtable, *score, *logprob, *second, *entropy, *moved,
        *gated;
    int32_t token[N];
    double squares[8]; /* sums over runs, then their sum in the first */
} others;

static others others_new(void)
{
    return (others){.loss = exact_random(N, 1),
                    .dx = exact_random(N * D, 2),
                    .dw = exact_random(V * D, 3),
                    .y = exact_random(N * D, 4),
                    .rstd = exact_random(N, 5),
                    .dgain = exact_random(D, 6),
                    .dtable = exact_random(V * D, 7),
                    .score = exact_random(N, 8),
                    .logprob = exact_random(N, 11),
                    .second = exact_random(N, 12),
                    .entropy = exact_random(N, 13),
                    .moved = exact_random(N * D, 9),
                    .gated = exact_random(N * D, 10)};
}

static void others_free(others *o)
{
    float *all[] = {o->loss,  o->dx,      o->dw,     o->y,       o->rstd,  o->dgain, o->dtable,
                    o->score, o->logprob, o->second, o->entropy, o->moved, o->gated};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
}

/* Everything else once; `head_bytes` decides how many places a chunk of the head holds. */
static void others_run(others *o, const rf_backend *backend, int n_threads, rf_compute compute,
                       int64_t head_bytes)
{
    rf_limits limits = limits_for(compute);
    limits.head_bytes = head_bytes;
    rf_ctx *ctx = exact_context(backend, n_threads, &limits);
    const rf_kernels *k = backend->kernels;
    float *x = exact_random(N * D, 20), *w = exact_random(V * D, 21), *weight = exact_random(N, 22);
    float *gain = exact_random(D, 23), *dy = exact_random(N * D, 24);
    int32_t target[N], chosen[N], place[N];
    int64_t m = 0;
    rf_draw hot[N];
    for (int32_t i = 0; i < N; i++) {
        target[i] = i % 4 == 1 ? -1 : i * 37 % V;
        chosen[m] = i;
        m += target[i] >= 0;
        place[i] = N - 1 - i;
        hot[i] = (rf_draw){.key = (uint64_t)i * 977, .temperature = 0.8};
    }
    const int32_t banned[] = {3, 7};
    const rf_head_query query = {.place = place,
                                 .target = target,
                                 .draw = hot,
                                 .banned = banned,
                                 .n_banned = 2,
                                 .n_usable = V - 5};
    const rf_head_answer answer = {o->token, o->score, o->logprob, o->second, o->entropy};
    void *act = exact_upload(ctx, RF_ACTIVATION, x, N * D);
    void *y = exact_upload(ctx, RF_ACTIVATION, o->y, N * D);
    void *gated = exact_upload(ctx, RF_ACTIVATION, o->gated, N * D);
    k->head_loss(ctx, o->loss, o->dx, o->dw, act, rf_matrix_rows(w), target, weight, chosen, m, N,
                 D, V);
    k->head_query(ctx, &answer, act, rf_matrix_rows(w), &query, N, D, V);
    k->rmsnorm_forward(ctx, y, o->rstd, (rf_const_array){x, RF_RESIDUAL}, gain, N, D, 1e-6);
    k->rmsnorm_backward(ctx, (rf_array){dy, RF_RESIDUAL}, o->dgain,
                        (rf_const_array){dy, RF_RESIDUAL}, (rf_const_array){x, RF_RESIDUAL}, gain,
                        o->rstd, N, D, false);
    k->swiglu_forward(ctx, gated, y, act, N * D - 1);
    free(act);
    exact_download(ctx, o->y, RF_ACTIVATION, y, N * D);
    exact_download(ctx, o->gated, RF_ACTIVATION, gated, N * D);
    k->embedding_backward(ctx, o->dtable, dy, place, N, D);
    rf_adamw step = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.1, 0.05};
    for (int64_t i = 0; i < N * D; i++) {
        dy[i] = fabsf(dy[i]);
    }
    k->adamw(ctx, o->moved, x, dy, o->y, N * D, &step);
    cr_assert(rf_sum_runs(V * D) <= (int64_t)(sizeof o->squares / sizeof *o->squares));
    k->sum_squares(ctx, o->squares, o->dtable, 0, V * D);
    k->sum_tree(ctx, o->squares, rf_sum_runs(V * D));
    float *all[] = {x, w, weight, gain, dy};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
    rf_ctx_free(ctx);
}

static void check_others(rf_compute compute)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        others first = others_new();
        others_run(&first, list[b], 1, compute, 0);
        for (int threads = 1; threads <= 3; threads++) {
            others other = others_new();
            others_run(&other, list[b], threads, compute, V * 4 * (13 + 27 * threads));
            EXPECT_SAME(first.loss, other.loss, N, "%s: loss", list[b]->isa);
            EXPECT_SAME(first.dw, other.dw, V * D, "%s: dw of the head", list[b]->isa);
            EXPECT_SAME(first.dx, other.dx, N * D, "%s: dx of the head", list[b]->isa);
            EXPECT_SAME(first.gated, other.gated, N * D, "%s: swiglu", list[b]->isa);
            EXPECT_SAME(first.score, other.score, N, "%s: score", list[b]->isa);
            EXPECT_SAME(first.logprob, other.logprob, N, "%s: logprob", list[b]->isa);
            EXPECT_SAME(first.second, other.second, N, "%s: second", list[b]->isa);
            EXPECT_SAME(first.entropy, other.entropy, N, "%s: entropy", list[b]->isa);
            EXPECT_SAME(first.token, other.token, N, "%s: token", list[b]->isa);
            EXPECT_SAME(first.y, other.y, N * D, "%s: norm", list[b]->isa);
            EXPECT_SAME(first.dgain, other.dgain, D, "%s: dgain", list[b]->isa);
            EXPECT_SAME(first.dtable, other.dtable, V * D, "%s: dtable", list[b]->isa);
            EXPECT_SAME(first.moved, other.moved, N * D, "%s: adamw", list[b]->isa);
            cr_assert(first.squares[0] == other.squares[0] && isfinite(first.squares[0]));
            others_free(&other);
        }
        others_free(&first);
    }
}

Test(cpu_exact, other_kernels_do_not_depend_on_threads_or_chunks)
{
    check_others(RF_COMPUTE_F32);
    check_others(RF_COMPUTE_BF16);
}

/* A place's loss, gradient, sample and log-probability are the same alone. */
Test(cpu_exact, places_of_the_head_do_not_depend_on_their_batch)
{
    enum { AT = 77 };
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    float *x = exact_random(N * D, 1), *w = exact_random(V * D, 2), *weight = exact_random(N, 3);
    float *dw = exact_random(V * D, 4);
    float loss[N], own_loss, logprob[N], own_logprob, logits[V], dx[N * D], own_dx[D];
    float together[N], score[N];
    int32_t target[N], place[N], token[N];
    for (int32_t i = 0; i < N; i++) {
        target[i] = i * 31 % V;
        place[i] = i;
    }
    for (int b = 0; b < n_backends; b++) {
        const rf_kernels *k = list[b]->kernels;
        rf_ctx *ctx = exact_context(list[b], 2, &small_limits);
        k->head_loss(ctx, loss, dx, dw, x, rf_matrix_rows(w), target, weight, place, N, N, D, V);
        k->head_loss(ctx, &own_loss, own_dx, dw, x + AT * D, rf_matrix_rows(w), target + AT,
                     weight + AT, place, 1, 1, D, V);
        EXPECT_SAME(loss + AT, &own_loss, 1, "%s: loss", list[b]->isa);
        EXPECT_SAME(dx + AT * D, own_dx, D, "%s: dx", list[b]->isa);
        rf_head_query query = {.place = place, .target = target, .n_usable = V};
        k->head_query(ctx, &(rf_head_answer){.logprob = logprob}, x, rf_matrix_rows(w), &query, N,
                      D, V);
        k->head_query(ctx, &(rf_head_answer){.token = token, .score = score, .logprob = together},
                      x, rf_matrix_rows(w), &query, N, D, V);
        EXPECT_SAME(logprob, together, N, "%s: logprob beside a token", list[b]->isa);
        query = (rf_head_query){.place = place + AT, .target = target + AT, .n_usable = V};
        k->head_query(ctx, &(rf_head_answer){.logprob = &own_logprob}, x, rf_matrix_rows(w), &query,
                      1, D, V);
        EXPECT_SAME(logprob + AT, &own_logprob, 1, "%s: logprob", list[b]->isa);
        cr_assert(fabsf(own_logprob + own_loss) < 1e-4F);
        k->head_logits(ctx, logits, x, rf_matrix_rows(w), place + AT, 1, D, V);
        cr_assert(isfinite(logits[0]) && isfinite(logits[V - 1]));
        rf_ctx_free(ctx);
    }
    float *all[] = {x, w, weight, dw};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
}

/* --- Sizes of 0
 * ------------------------------------------------------------------------------------- */

Test(cpu_exact, nothing_is_touched_for_sizes_of_zero)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        const rf_kernels *k = list[b]->kernels;
        rf_ctx *ctx = exact_context(list[b], 2, &small_limits);
        float y[6] = {1, 2, 3, 4, 5, 6}, x[6] = {1, 1, 1, 1, 1, 1}, bias[3] = {1, 2, 3};
        const float before[6] = {1, 2, 3, 4, 5, 6}, without_inner[6] = {1, 2, 3, 1, 2, 3};
        const rf_array to = {y, RF_RESIDUAL};
        const rf_const_array from = {x, RF_RESIDUAL};
        double squares = 1.0;
        rf_adamw step = {.c1 = 1.0, .c2 = 1.0};
        const rf_angles angles = {x, x, NULL};
        k->linear_forward(ctx, to, x, rf_matrix_rows(x), bias, NULL, 0, 3, 2);
        k->linear_backward_weight(ctx, y, NULL, from, x, 0, 2, 3);
        k->linear_backward_input(ctx, to, from, x, 2, 0, 3, true);
        k->head_loss(ctx, y, y, y, x, rf_matrix_rows(x), NULL, x, NULL, 0, 0, D, V);
        k->head_logits(ctx, y, x, rf_matrix_rows(x), NULL, 0, D, V);
        k->rmsnorm_forward(ctx, y, y, from, x, 0, D, 1e-6);
        k->rmsnorm_backward(ctx, to, y, from, from, x, x, 0, 0, false);
        k->swiglu_forward(ctx, y, x, x, 0);
        k->add(ctx, y, x, 0);
        k->adamw(ctx, y, y, y, x, 0, &step);
        k->embedding_forward(ctx, y, rf_matrix_rows(x), NULL, 0, D);
        k->scatter_rows(ctx, y, x, NULL, 0, D);
        k->heads_forward(ctx, y, y, x, x, &angles, 0, 2, 4, 1e-6);
        k->heads_backward(ctx, y, y, x, x, x, &angles, 0, 2, 4);
        EXPECT_SAME(y, before, 6, "%s: something was written", list[b]->isa);
        k->sum_squares(ctx, &squares, x, 0, 0);
        cr_assert(squares == 1.0);
        k->sum_tree(ctx, &squares, 0);
        cr_assert(squares == 0.0);
        k->linear_forward(ctx, to, x, rf_matrix_rows(x), bias, NULL, 2, 0, 3);
        EXPECT_SAME(y, without_inner, 6, "%s: an empty sum", list[b]->isa);
        rf_ctx_free(ctx);
    }
}
