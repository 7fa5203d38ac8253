/* The head and its cross-entropy in one kernel: only a chunk of logits ever exists. */
#include "common/kernels/cpu/head.h"

#include <math.h>
#include <omp.h>

enum { MIN_ROWS = 16, MIN_TRAINING_ROWS = 256, MOST_CHUNKS = 8, DEFAULT_BYTES = 16 << 20 };

/* Each chunk reads w twice and reads and writes dw once: below some 256 places, and with many
 * chunks where many threads share the memory, that is what a training step would wait for, so only
 * a budget that was asked for makes chunks smaller. With bf16 whole steps of a product fit into a
 * chunk, so that chunks do not show in the order of dw's sum. */
int64_t RF_CPU(head_rows)(const rf_limits *limits)
{
    bool asked = limits->head_bytes > 0;
    int64_t bytes = asked ? limits->head_bytes : DEFAULT_BYTES;
    int64_t row_bytes = max_of(1, limits->vocab) * (int64_t)sizeof(float);
    int64_t step = limits->compute == RF_COMPUTE_BF16 ? 2 * BF16_CELLS : 1;
    int64_t least = MIN_ROWS;
    if (!asked && limits->backward) {
        least = max_of(MIN_TRAINING_ROWS, round_up(ceil_div(limits->places, MOST_CHUNKS), step));
    }
    int64_t rows = max_of(max_of(least, step), bytes / row_bytes / step * step);
    return max_of(1, min_of(rows, limits->places));
}

/* Floats from one row of logits to the next: never a large power of two, whose rows would all fall
 * into the same few sets of the caches. */
static int64_t logits_ld(int64_t v)
{
    int64_t ld = line_floats(v);
    return ld % 512 == 0 ? ld + 16 : ld;
}

size_t RF_CPU(head_bytes)(int n_threads, const rf_limits *limits)
{
    int64_t rows = RF_CPU(head_rows)(limits);
    int64_t floats =
        (rows + 2 * n_threads) * logits_ld(limits->vocab) + 2 * line_floats(rows * limits->width);
    return RF_CPU(linear_bytes)(n_threads, limits) + (size_t)floats * sizeof(float);
}

head_scratch RF_CPU(head_take)(rf_ctx *ctx, int64_t d, int64_t v)
{
    RF_ASSERT(d <= ctx->limits.width && v <= ctx->limits.vocab);
    RF_ASSERT(RF_CPU(head_bytes)(ctx->n_threads, &ctx->limits) <= ctx->scratch_bytes);
    head_scratch s = {.rows = RF_CPU(head_rows)(&ctx->limits), .ld = logits_ld(v)};
    char *base = ctx->scratch;
    s.logits = (float *)(void *)(base + RF_CPU(linear_bytes)(ctx->n_threads, &ctx->limits));
    s.spare = s.logits + s.rows * logits_ld(ctx->limits.vocab);
    float *x = s.spare + 2 * ctx->n_threads * logits_ld(ctx->limits.vocab);
    s.x = x;
    s.dx = x + line_floats(s.rows * ctx->limits.width);
    return s;
}

void RF_CPU(head_gather)(rf_ctx *ctx, void *x, const void *from, const int32_t *place, int64_t n,
                         int64_t d)
{
    const size_t row = rf_backend_bytes(ctx->backend, RF_ACTIVATION, d);
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * n * d))
    for (int64_t i = 0; i < n; i++) {
        memcpy((char *)x + (size_t)i * row, (const char *)from + (size_t)place[i] * row, row);
    }
}

void RF_CPU(head_row_sum)(float *largest, float *sum, float *e, const float *row, int64_t v)
{
    enum { WAYS = 4, STEP = WAYS * VL };
    vf top[WAYS], total[WAYS];
    for (int w = 0; w < WAYS; w++) {
        top[w] = v_set(-INFINITY);
        total[w] = v_zero();
    }
    for (int64_t j = 0; j < v; j += STEP) {
        for (int w = 0; w < WAYS; w++) {
            int64_t left = max_of(0, v - j - w * VL);
            if (left > 0) {
                vf x = v_load_n(row + j + w * VL, left);
                top[w] = v_max(v_first(left, x, v_set(-INFINITY)), top[w]);
            }
        }
    }
    float most = v_largest(v_max(v_max(top[0], top[1]), v_max(top[2], top[3])));
    for (int64_t j = 0; j < v; j += STEP) {
        for (int w = 0; w < WAYS; w++) {
            int64_t left = max_of(0, v - j - w * VL);
            if (left > 0) {
                vf x = v_exp(v_sub(v_load_n(row + j + w * VL, left), v_set(most)));
                if (e != NULL) {
                    v_store_n(e + j + w * VL, x, left);
                }
                total[w] = v_add(total[w], v_first(left, x, v_zero()));
            }
        }
    }
    *largest = most;
    *sum = v_sum(v_add(v_add(total[0], total[1]), v_add(total[2], total[3])));
}

/* The loss of one place, -log softmax(row)[target]; with `grad` the row becomes its gradient,
 * weight * (softmax(row) - onehot(target)), from its begin on in `type`: what products read. */
static float loss_row(float *row, int64_t target, float weight, bool grad, rf_type type, int64_t v)
{
    float own = row[target], largest, sum;
    RF_CPU(head_row_sum)(&largest, &sum, grad ? row : NULL, row, v);
    if (grad) {
        vf factor = v_set(weight / sum);
        row[target] -= sum; /* now all of it is to be multiplied */
        for (int64_t j = 0; j < v; j += VL) {
            store_as(type, row, j, v_mul(v_load_n(row + j, v - j), factor), v - j);
        }
    }
    return logf(sum) - (own - largest);
}

/* One chunk: m of the chosen places. Gradients of rows are summed in an order that knows nothing of
 * the chunk; dw is one chain over all places (GEMM_TN), so how places fall into chunks never shows.
 */
static void take_chunk(rf_ctx *ctx, const head_scratch *s, float *loss, float *dx, float *dw,
                       const void *x, rf_matrix w, const int32_t *target, const float *weight,
                       const int32_t *place, int64_t m, int64_t d, int64_t v)
{
    RF_CPU(head_gather)(ctx, s->x, x, place, m, d);
    const rf_type type = type_of(ctx, RF_ACTIVATION);
    gemm logits = {.a_type = type, .c = s->logits, .a = s->x, .m = m, .n = v, .k = d, .ldc = s->ld};
    RF_CPU(linear)(ctx, &logits, w);
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * m * v))
    for (int64_t i = 0; i < m; i++) {
        int32_t at = place[i];
        loss[at] = loss_row(s->logits + i * s->ld, target[at], weight[at], dx != NULL, type, v);
    }
    if (dx != NULL) {
        const int64_t lda = type == RF_BF16 ? 2 * s->ld : s->ld;
        gemm input = {.form = GEMM_NN,
                      .a_type = type,
                      .c = s->dx,
                      .a = s->logits,
                      .b = w.data,
                      .m = m,
                      .n = d,
                      .k = v,
                      .lda = lda};
        RF_CPU(gemm)(ctx, &input);
        gemm weights = {.form = GEMM_TN,
                        .a_type = type,
                        .b_type = type,
                        .c = dw,
                        .a = s->logits,
                        .b = s->x,
                        .m = v,
                        .n = d,
                        .k = m,
                        .lda = lda};
        if (dw != NULL) {
            RF_CPU(gemm)(ctx, &weights);
        }
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * m * d))
        for (int64_t i = 0; i < m; i++) {
            memcpy(dx + place[i] * d, s->dx + i * d, (size_t)d * sizeof(float));
        }
    }
}

/* 0 for the places that are not chosen: those before, between and behind place[0..m). */
static void clear_others(rf_ctx *ctx, float *loss, float *dx, const int32_t *place, int64_t m,
                         int64_t n, int64_t d)
{
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, (n - m) * d))
    for (int64_t i = 0; i <= m; i++) {
        const int64_t begin = i > 0 ? place[i - 1] + 1 : 0, end = i < m ? place[i] : n;
        memset(loss + begin, 0, (size_t)(end - begin) * sizeof(float));
        if (dx != NULL) {
            memset(dx + begin * d, 0, (size_t)((end - begin) * d) * sizeof(float));
        }
    }
}

void RF_CPU(head_loss)(rf_ctx *ctx, void *loss, void *dx, void *dw, const void *x, rf_matrix w,
                       const int32_t *target, const void *weight, const int32_t *place, int64_t m,
                       int64_t n, int64_t d, int64_t v)
{
    RF_ASSERT(dx == NULL || w.layout == RF_ROWS);
    head_scratch s = RF_CPU(head_take)(ctx, d, v);
    clear_others(ctx, loss, dx, place, m, n, d);
    for (int64_t begin = 0; begin < m; begin += s.rows) {
        take_chunk(ctx, &s, loss, dx, dw, x, w, target, weight, place + begin,
                   min_of(s.rows, m - begin), d, v);
    }
}
