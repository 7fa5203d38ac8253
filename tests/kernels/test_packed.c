/* Packed weights on every instruction set of this machine: RF_PACKED_F32 and RF_PACKED_BF16 give
 * the bits of rows; * RF_PACKED_INT8 those of the formula written out in plain loops; both whatever
 * the number of rows and threads. What `ref` says of the values is near. */
#include "common/kernels/quantize.h"
#include "tests/kernels/cpu_exact.h"

typedef struct shape {
    int64_t n, in, out;
} shape;

static const shape shapes[] = {
    {1, 1, 1},    {1, 512, 64},   {2, 3, 200},   {3, 523, 139},  {5, 1024, 65},  {6, 129, 64},
    {7, 640, 63}, {8, 1100, 130}, {13, 255, 31}, {64, 300, 129}, {70, 256, 130}, {9, 1088, 65},
    {65, 96, 70}, {300, 131, 90}, {64, 96, 130}, {3, 1500, 700}}; /* the last ones occupy several
                                                                     threads */
enum { N_SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/* compute: of rows; packed weights say themselves what is multiplied. */
static rf_limits limits_for(const shape *s, rf_layout weights, rf_compute compute)
{
    return (rf_limits){.places = s->n,
                       .keys = s->n,
                       .width = s->in,
                       .vocab = s->out,
                       .compute = compute,
                       .weights = weights};
}

typedef struct problem {
    shape s;
    float *x, *w, *bias, *residual;
} problem;

static problem problem_new(const shape *s)
{
    return (problem){.s = *s,
                     .x = exact_random(s->n * s->in, 1),
                     .w = exact_random(s->out * s->in, 2),
                     .bias = exact_random(s->out, 3),
                     .residual = exact_random(s->n * s->out, 4)};
}

static void problem_free(problem *p)
{
    free(p->x);
    free(p->w);
    free(p->bias);
    free(p->residual);
}

/* Packed in pieces of one or more groups of rows, as a checkpoint is loaded. */
static void *pack(rf_ctx *ctx, const problem *p, rf_layout layout, int64_t groups)
{
    const rf_kernels *k = ctx->backend->kernels;
    void *packed = exact_take(k->pack_bytes(layout, p->s.in, p->s.out));
    for (int64_t row = 0; row < p->s.out; row += groups * RF_PACK_ROWS) {
        int64_t left = p->s.out - row, n = groups * RF_PACK_ROWS;
        k->pack(ctx, packed, layout, p->w + row * p->s.in, row, left < n ? left : n, p->s.in,
                p->s.out);
    }
    return packed;
}

static rf_compute compute_of(rf_layout layout)
{
    return layout == RF_PACKED_BF16 ? RF_COMPUTE_BF16 : RF_COMPUTE_F32;
}

/* y of rows [at, at + n) alone, of class stream; behind it the same without residual, of class
 * activation. Caller frees. */
static float *multiply_as(const problem *p, const rf_backend *backend, int n_threads,
                          rf_layout layout, rf_compute compute, int64_t at, int64_t n)
{
    rf_limits limits = limits_for(&p->s, layout, compute);
    rf_ctx *ctx = exact_context(backend, n_threads, &limits);
    void *packed = layout != RF_ROWS ? pack(ctx, p, layout, n_threads) : NULL;
    rf_matrix w = {packed != NULL ? packed : p->w, layout};
    float *y = exact_take((size_t)(2 * n * p->s.out) * sizeof(float)), *own = y + n * p->s.out;
    void *x = exact_upload(ctx, RF_ACTIVATION, p->x + at * p->s.in, n * p->s.in);
    void *half = exact_upload(ctx, RF_ACTIVATION, p->residual, n * p->s.out);
    backend->kernels->linear_forward(ctx, (rf_array){y, RF_RESIDUAL}, x, w, p->bias,
                                     p->residual + at * p->s.out, n, p->s.in, p->s.out);
    backend->kernels->linear_forward(ctx, (rf_array){half, RF_ACTIVATION}, x, w, p->bias, NULL, n,
                                     p->s.in, p->s.out);
    exact_download(ctx, own, RF_ACTIVATION, half, n * p->s.out);
    free(x);
    free(packed);
    rf_ctx_free(ctx);
    return y;
}

static float *multiply(const problem *p, const rf_backend *backend, int n_threads, rf_layout layout,
                       int64_t at, int64_t n)
{
    return multiply_as(p, backend, n_threads, layout, compute_of(layout), at, n);
}

static void check_bits(rf_layout layout)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        for (int i = 0; i < N_SHAPES; i++) {
            problem p = problem_new(&shapes[i]);
            float *rows = multiply_as(&p, list[b], 2, RF_ROWS, compute_of(layout), 0, p.s.n);
            for (int threads = 1; threads <= 3; threads++) {
                float *y = multiply(&p, list[b], threads, layout, 0, p.s.n);
                EXPECT_SAME(rows, y, 2 * p.s.n * p.s.out, "%s: shape %d, %d threads", list[b]->isa,
                            i, threads);
                free(y);
            }
            free(rows);
            problem_free(&p);
        }
    }
}

Test(packed, f32_has_the_bits_of_rows)
{
    check_bits(RF_PACKED_F32);
}

Test(packed, bf16_has_the_bits_of_rows)
{
    check_bits(RF_PACKED_BF16);
}

static void check_rows(const rf_backend *backend, rf_layout layout)
{
    const shape s = {150, 700, 139};
    const int64_t sizes[] = {1, 2, 4, 6, 7, 8, 31, 66};
    problem p = problem_new(&s);
    float *all = multiply(&p, backend, 2, layout, 0, s.n);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int64_t at = 0; at <= s.n - sizes[i]; at += 61) {
            float *y = multiply(&p, backend, (int)(at % 3) + 1, layout, at, sizes[i]);
            EXPECT_SAME(all + at * s.out, y, sizes[i] * s.out, "%s, %s: %d rows at %d",
                        backend->isa, rf_layout_name(layout), (int)sizes[i], (int)at);
            EXPECT_SAME(all + (s.n + at) * s.out, y + sizes[i] * s.out, sizes[i] * s.out,
                        "%s, %s: %d activations at %d", backend->isa, rf_layout_name(layout),
                        (int)sizes[i], (int)at);
            free(y);
        }
    }
    free(all);
    problem_free(&p);
}

Test(packed, rows_do_not_depend_on_their_number_or_place)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        check_rows(list[b], RF_PACKED_F32);
        check_rows(list[b], RF_PACKED_BF16);
        check_rows(list[b], RF_PACKED_INT8);
    }
}

/* --- int8 ------------------------------------------------------------------------------------- */

/* One element as int8.c's heading says. `fused`: the sum of blocks is a chain of fma. */
static float int8_element(const float *x, const float *w, int64_t in, bool fused)
{
    float sum = 0.0F;
    for (int64_t k0 = 0; k0 < in; k0 += RF_QUANTIZE_GROUP) {
        int64_t k = in - k0 < RF_QUANTIZE_GROUP ? in - k0 : RF_QUANTIZE_GROUP;
        int8_t qx[RF_QUANTIZE_GROUP], qw[RF_QUANTIZE_GROUP];
        float scale = rf_quantize(qw, w + k0, k) * rf_quantize(qx, x + k0, k);
        int32_t dot = 0;
        for (int64_t i = 0; i < k; i++) {
            dot += qx[i] * qw[i];
        }
        sum = fused ? fmaf((float)dot, scale, sum) : (float)dot * scale + sum;
    }
    return sum;
}

Test(packed, int8_has_the_bits_of_the_formula)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        bool fused = strcmp(list[b]->isa, "portable") != 0;
        for (int i = 0; i < N_SHAPES; i++) {
            problem p = problem_new(&shapes[i]);
            p.w[0] *= 1000.0F; /* a block of large scale, with weights that round to 0 */
            p.x[p.s.in - 1] *= 300.0F;
            float *y = multiply(&p, list[b], 1 + i % 3, RF_PACKED_INT8, 0, p.s.n);
            for (int64_t at = 0; at < p.s.n * p.s.out; at++) {
                int64_t o = at % p.s.out;
                float sum =
                    int8_element(p.x + at / p.s.out * p.s.in, p.w + o * p.s.in, p.s.in, fused);
                float wanted = (p.residual[at] + sum) + p.bias[o];
                cr_assert(memcmp(&y[at], &wanted, sizeof wanted) == 0,
                          "%s: shape %d, element %d is %.9g instead of %.9g", list[b]->isa, i,
                          (int)at, (double)y[at], (double)wanted);
            }
            free(y);
            problem_free(&p);
        }
    }
}

/* Values that are not finite show in every element they reach, and in no other. */
Test(packed, int8_does_not_hide_what_is_not_finite)
{
    const shape s = {4, 200, 70};
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        problem p = problem_new(&s);
        p.x[2 * s.in + 150] = INFINITY;
        p.w[3 * s.in + 10] = NAN;
        float *y = multiply(&p, list[b], 2, RF_PACKED_INT8, 0, s.n);
        for (int64_t at = 0; at < s.n * s.out; at++) {
            bool reached = at / s.out == 2 || at % s.out == 3;
            cr_assert(isfinite(y[at]) == !reached, "%s: element %d", list[b]->isa, (int)at);
        }
        free(y);
        problem_free(&p);
    }
}

/* --- Against ref ------------------------------------------------------------------------------ */

/* max|a - b| / max|b| */
static double difference(const float *a, const float *b, int64_t n)
{
    double most = 0.0, largest = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        most = !(d <= most) ? d : most;
        largest = fmax(largest, fabs((double)b[i]));
    }
    return most / largest;
}

Test(packed, ref_tells_the_values)
{
    const double bounds[RF_N_LAYOUTS] = {
        [RF_PACKED_F32] = 1e-5, [RF_PACKED_BF16] = 1e-5, [RF_PACKED_INT8] = 0.02};
    const rf_backend *list[MAX_CPU], *ref = NULL;
    rf_error err = {0};
    cr_assert(rf_backend_choose(&ref, "ref32", &err) == RF_OK);
    int n_backends = cpu_backends(list);
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(&shapes[i]);
        for (int layout = RF_PACKED_F32; layout < RF_N_LAYOUTS; layout++) {
            float *wanted = multiply(&p, ref, 1, (rf_layout)layout, 0, p.s.n);
            for (int b = 0; b < n_backends; b++) {
                float *y = multiply(&p, list[b], 1, (rf_layout)layout, 0, p.s.n);
                double d = difference(y, wanted, p.s.n * p.s.out);
                cr_assert(d <= bounds[layout], "%s, %s: shape %d is off by %g", list[b]->isa,
                          rf_layout_name((rf_layout)layout), i, d);
                free(y);
            }
            free(wanted);
        }
        problem_free(&p);
    }
}

/* --- Tables and heads ------------------------------------------------------------------------- */

enum { V = 203, D = 131, N = 9 };

/* Rows of a table come back as ref rounds them, bit for bit. */
Test(packed, rows_of_a_table)
{
    const int32_t token[N] = {0, 202, 63, 64, 65, 127, 128, 7, 7};
    const shape s = {N, D, V};
    const rf_layout layouts[] = {RF_PACKED_F32, RF_PACKED_BF16, RF_PACKED_INT8};
    const rf_backend *list[MAX_CPU], *ref = NULL;
    rf_error err = {0};
    cr_assert(rf_backend_choose(&ref, "ref32", &err) == RF_OK);
    int n_backends = cpu_backends(list);
    problem p = problem_new(&s);
    for (size_t l = 0; l < sizeof(layouts) / sizeof(layouts[0]); l++) {
        float *rows[2];
        for (int b = -1; b < n_backends; b++) {
            const rf_backend *backend = b < 0 ? ref : list[b];
            rf_limits limits = limits_for(&s, layouts[l], compute_of(layouts[l]));
            rf_ctx *ctx = exact_context(backend, 2, &limits);
            void *packed = pack(ctx, &p, layouts[l], 1);
            rows[b >= 0] = exact_nan(N * D);
            backend->kernels->embedding_forward(ctx, rows[b >= 0], (rf_matrix){packed, layouts[l]},
                                                token, N, D);
            EXPECT_SAME(rows[0], rows[b >= 0], N * D, "%s", backend->isa);
            free(packed);
            rf_ctx_free(ctx);
            if (b >= 0) {
                free(rows[1]);
            }
        }
        free(rows[0]);
    }
    problem_free(&p);
}

static void check_heads(rf_layout layout)
{
    const int32_t place[N] = {8, 0, 3, 1, 2, 4, 5, 6, 7};
    const int32_t target[N] = {1, -1, 202, 100, 64, 63, -1, 5, 6};
    const int32_t chosen[] = {0, 2, 3, 4, 5, 7, 8}; /* with a target */
    const rf_head_query query = {.place = place, .target = target, .n_usable = V};
    enum { M = sizeof(chosen) / sizeof(chosen[0]) };
    const shape s = {N, D, V};
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    problem p = problem_new(&s);
    for (int b = 0; b < n_backends; b++) {
        float *loss[2], *logits[2], *logprob[2], *score[2], weight[N] = {0};
        int32_t sampled[2][N];
        const rf_kernels *k = list[b]->kernels;
        for (int packed = 0; packed < 2; packed++) {
            rf_limits limits = limits_for(&s, packed ? layout : RF_ROWS, compute_of(layout));
            rf_ctx *ctx = exact_context(list[b], 2, &limits);
            void *data = packed ? pack(ctx, &p, layout, 2) : NULL;
            rf_matrix w = packed ? (rf_matrix){data, layout} : rf_matrix_rows(p.w);
            loss[packed] = exact_nan(N);
            logprob[packed] = exact_nan(N);
            score[packed] = exact_nan(N);
            logits[packed] = exact_nan(N * V);
            k->head_loss(ctx, loss[packed], NULL, NULL, p.x, w, target, weight, chosen, M, N, D, V);
            k->head_logits(ctx, logits[packed], p.x, w, place, N, D, V);
            const rf_head_answer answer = {
                .token = sampled[packed], .score = score[packed], .logprob = logprob[packed]};
            k->head_query(ctx, &answer, p.x, w, &query, N, D, V);
            free(data);
            rf_ctx_free(ctx);
        }
        EXPECT_SAME(loss[0], loss[1], N, "%s: loss", list[b]->isa);
        EXPECT_SAME(logprob[0], logprob[1], N, "%s: logprob", list[b]->isa);
        EXPECT_SAME(logits[0], logits[1], N * V, "%s: logits", list[b]->isa);
        EXPECT_SAME(score[0], score[1], N, "%s: score", list[b]->isa);
        cr_assert(memcmp(sampled[0], sampled[1], sizeof sampled[0]) == 0, "%s", list[b]->isa);
        for (int packed = 0; packed < 2; packed++) {
            free(loss[packed]);
            free(logprob[packed]);
            free(logits[packed]);
            free(score[packed]);
        }
    }
    problem_free(&p);
}

Test(packed, heads_have_the_bits_of_rows)
{
    check_heads(RF_PACKED_F32);
    check_heads(RF_PACKED_BF16);
}

/* --- quantize.h ------------------------------------------------------------------------------- */

/* What was quantized stays as it is; nothing is farther off than half a step and the scale's own
 * rounding. */
Test(quantize, is_idempotent)
{
    rf_rng rng = RF_RNG_STREAM(7, RF_RNG_TEST, 50);
    for (int trial = 0; trial < 20000; trial++) {
        float x[RF_QUANTIZE_GROUP], y[RF_QUANTIZE_GROUP];
        int8_t q[RF_QUANTIZE_GROUP], again[RF_QUANTIZE_GROUP];
        int64_t n = 1 + (int64_t)(rf_rng_u64(&rng) % RF_QUANTIZE_GROUP);
        double size = exp2((double)(rf_rng_u64(&rng) % 200) - 98.0);
        for (int64_t i = 0; i < n; i++) {
            x[i] = (float)(size * rf_rng_normal(&rng));
        }
        float scale = rf_quantize(q, x, n);
        for (int64_t i = 0; i < n; i++) {
            y[i] = scale * (float)q[i];
            cr_assert(fabsf(x[i] - y[i]) <= 0.5001F * scale || scale == 0.0F);
            cr_assert(scale > 0.0F || fabsf(x[i]) < 0x1p-100F);
        }
        float second = rf_quantize(again, y, n);
        cr_assert(memcmp(&scale, &second, sizeof scale) == 0, "%a became %a", (double)scale,
                  (double)second);
        cr_assert(memcmp(q, again, (size_t)n) == 0);
    }
}

Test(quantize, extremes)
{
    int8_t q[3];
    cr_assert(rf_quantize(q, (float[]){0.0F, -0.0F, 1e-40F}, 3) == 0.0F);
    cr_assert(q[0] == 0 && q[1] == 0 && q[2] == 0);
    cr_assert(rf_quantize(q, (float[]){1.0F, -127.0F, 0.49F}, 3) == 1.0F);
    cr_assert(q[0] == 1 && q[1] == -127 && q[2] == 0);
    cr_assert(isnan(rf_quantize(q, (float[]){1.0F, NAN, 2.0F}, 3)) && q[0] == 0);
    cr_assert(isnan(rf_quantize(q, (float[]){1.0F, -INFINITY, 2.0F}, 3)) && q[1] == 0);
    cr_assert(rf_quantize(q, NULL, 0) == 0.0F);
    cr_assert(rf_quantize_bf16(1.0F) == 0x3F80 && rf_quantize_bf16(-0.0F) == 0x8000);
    cr_assert(rf_quantize_bf16(0x1.01p0F) == 0x3F80 && rf_quantize_bf16(0x1.03p0F) == 0x3F82);
    cr_assert(rf_quantize_bf16(INFINITY) == 0x7F80 && rf_quantize_bf16(3.4e38F) == 0x7F80);
    cr_assert((rf_quantize_bf16(NAN) & 0x7FFF) > 0x7F80);
}
