/* The head: logits in chunks, and what is asked of them. */
#include "common/kernels/cuda/scratch.h"

#include <stddef.h>

/* logits [m,V] of rows place[0..m) of x. */
static void make_logits(rf_ctx *ctx, float *logits, const rf_cuda_head_scratch *s, const void *x,
                        rf_matrix w, const int32_t *place, int64_t m, int64_t d, int64_t v)
{
    LAUNCH(move_rows, operand(ctx, RF_ACTIVATION, s->x), NULL, operand(ctx, RF_ACTIVATION, x),
           place, m, d);
    RF_CUDA_KERNEL(linear_forward)
    (ctx, (rf_array){logits, RF_STATISTIC}, s->x, w, NULL, NULL, m, d, v);
}

/* From the gradient of a chunk's logits, which is where they were: see rf_cuda_head_loss. */
static void take_gradient(rf_ctx *ctx, const rf_cuda_head_scratch *s, bool half, void *dx, void *dw,
                          const void *w, const int32_t *place, int64_t m, int64_t d, int64_t v)
{
    const rf_cuda_rows slope = {{s->logits, half ? RF_CUDA_BF16 : RF_CUDA_F32}, half ? 2 * v : v};
    rf_cuda_backward_input(ctx, operand(ctx, RF_STATISTIC, s->dx), slope, w, m, d, v, false);
    LAUNCH(move_rows, changed(ctx, RF_RESIDUAL, dx), place, operand(ctx, RF_STATISTIC, s->dx), NULL,
           m, d);
    if (dw != NULL) {
        rf_cuda_backward_weight(ctx, dw, slope, s->x, m, d, v);
    }
}

void RF_CUDA_KERNEL(head_loss)(rf_ctx *ctx, void *loss, void *dx, void *dw, const void *x,
                               rf_matrix w, const int32_t *target, const void *weight,
                               const int32_t *place, int64_t m, int64_t n, int64_t d, int64_t v)
{
    const rf_cuda_head_scratch s = rf_cuda_take_head(ctx, d, v);
    const bool half = rf_cuda_trains_in_half(&ctx->limits);
    RF_ASSERT(dx == NULL || w.layout == RF_ROWS);
    rf_backend_zero(ctx, loss, RF_STATISTIC, n);
    rf_backend_zero(ctx, dx, RF_RESIDUAL, dx != NULL ? n * d : 0);
    for (int64_t begin = 0; begin < m; begin += s.rows) {
        const int64_t rows = min_of(s.rows, m - begin);
        make_logits(ctx, s.logits, &s, x, w, place + begin, rows, d, v);
        LAUNCH(head_loss, loss, s.logits, half, target, weight, place + begin, rows, v, dx != NULL);
        if (dx != NULL) {
            take_gradient(ctx, &s, half, dx, dw, w.data, place + begin, rows, d, v);
        }
    }
}

/* The part of the query and of the answer that rows [at, ...) of it are. own: NULL where no tokens are
 * drawn. */
static rf_cuda_query query_from(const rf_head_query *query, const rf_head_answer *out, int64_t at,
                                float *own)
{
    _Static_assert(sizeof(rf_cuda_rule) == sizeof(rf_draw) &&
                       offsetof(rf_cuda_rule, top_k) == offsetof(rf_draw, top_k) &&
                       offsetof(rf_cuda_rule, key) == offsetof(rf_draw, key),
                   "one struct, for C and for kernels");
    rf_cuda_query part = {.banned = query->banned,
                          .seen = query->seen,
                          .n_banned = query->n_banned,
                          .n_usable = query->n_usable,
                          .own = own};
    if (out->logprob != NULL) {
        part.target = query->target + at;
        part.logprob = (float *)out->logprob + at;
    }
    if (out->entropy != NULL) {
        part.entropy = (float *)out->entropy + at;
    }
    if (out->token != NULL) {
        part.second = out->second != NULL ? (float *)out->second + at : NULL;
        part.draw = query->draw != NULL ? (const rf_cuda_rule *)query->draw + at : NULL;
        part.token = out->token + at;
        part.score = (float *)out->score + at;
    }
    return part;
}

void RF_CUDA_KERNEL(head_query)(rf_ctx *ctx, const rf_head_answer *out, const void *x, rf_matrix w,
                                const rf_head_query *query, int64_t n, int64_t d, int64_t v)
{
    const rf_cuda_head_scratch s = rf_cuda_take_head(ctx, d, v);
    const bool draws = out->token != NULL && query->draw != NULL;
    const int64_t most = draws ? (s.rows + 1) / 2 : s.rows;
    RF_ASSERT(query->n_usable <= v);
    for (int64_t at = 0; at < n; at += most) {
        const int64_t rows = min_of(most, n - at);
        const rf_cuda_query part = query_from(query, out, at, draws ? s.logits + rows * v : NULL);
        make_logits(ctx, s.logits, &s, x, w, query->place + at, rows, d, v);
        if (draws) {
            LAUNCH(draw, &part, s.logits, rows, v);
        }
        LAUNCH(answer, &part, s.parts, s.logits, rows, v);
    }
}

void RF_CUDA_KERNEL(head_logits)(rf_ctx *ctx, void *logits, const void *x, rf_matrix w,
                                 const int32_t *place, int64_t n, int64_t d, int64_t v)
{
    const rf_cuda_head_scratch s = rf_cuda_take_head(ctx, d, v);
    for (int64_t at = 0; at < n; at += s.rows) {
        make_logits(ctx, (float *)logits + at * v, &s, x, w, place + at, min_of(s.rows, n - at), d,
                    v);
    }
}
