/* The kernels of kernels.h, and those of them that are a launch or two. */
#include "common/kernels/cuda/infer/block.h"
#include "common/kernels/cuda/scratch.h"

/* --- Rows ------------------------------------------------------------------------------------ */

void RF_CUDA_KERNEL(embedding_forward)(rf_ctx *ctx, void *x, rf_matrix table, const int32_t *token,
                                       int64_t n, int64_t d)
{
    LAUNCH(move_rows, changed(ctx, RF_RESIDUAL, x), NULL, matrix(ctx, table), token, n, d);
}

void RF_CUDA_KERNEL(embedding_backward)(rf_ctx *ctx, void *dtable, const void *dx,
                                        const int32_t *token, int64_t n, int64_t d)
{
    LAUNCH(add_by_token, dtable, operand(ctx, RF_RESIDUAL, dx), token, rf_cuda_take_order(ctx, n),
           n, d);
}

void RF_CUDA_KERNEL(scatter_rows)(rf_ctx *ctx, void *y, const void *x, const int32_t *place,
                                  int64_t n, int64_t d)
{
    LAUNCH(move_rows, operand(ctx, RF_ACTIVATION, y), place, operand(ctx, RF_ACTIVATION, x), NULL,
           n, d);
}

void RF_CUDA_KERNEL(rmsnorm_forward)(rf_ctx *ctx, void *y, void *rstd, rf_const_array x,
                                     const void *gain, int64_t n, int64_t d, double eps)
{
    LAUNCH(norm, operand(ctx, RF_ACTIVATION, y), rstd, const_array(ctx, x),
           operand(ctx, RF_MASTER, gain), n, d, (float)eps);
}

void RF_CUDA_KERNEL(rmsnorm_backward)(rf_ctx *ctx, rf_array dx, void *dgain, rf_const_array dy,
                                      rf_const_array x, const void *gain, const void *rstd,
                                      int64_t n, int64_t d, bool accumulate)
{
    rf_cuda_norm_slopes slopes = {.dx = array(ctx, dx),
                                  .dy = const_array(ctx, dy),
                                  .x = const_array(ctx, x),
                                  .gain = operand(ctx, RF_MASTER, gain),
                                  .dgain = dgain,
                                  .part = dgain != NULL ? rf_cuda_take_part(ctx, n, d) : NULL,
                                  .rstd = rstd,
                                  .n = n,
                                  .d = d,
                                  .accumulates = accumulate};
    const bool keeps = dx.cls == RF_RESIDUAL && rf_cuda_trains_in_half(&ctx->limits) &&
                       n <= ctx->limits.places && d <= ctx->limits.width;
    if (keeps) { /* the products before it will read it twice */
        slopes.half = (rf_cuda_real){rf_cuda_take_products(ctx).half, RF_CUDA_BF16};
    }
    LAUNCH(norm_backward, &slopes);
    if (keeps) {
        *rf_cuda_copy_of(ctx) = (rf_cuda_copy){dx.data, n * d};
    }
}

void RF_CUDA_KERNEL(heads_forward)(rf_ctx *ctx, void *out, void *rstd, const void *raw,
                                   const void *gain, const rf_angles *angles, int64_t n, int64_t h,
                                   int64_t k, double eps)
{
    const rf_cuda_angles turns = {angles->cos, angles->sin, angles->position, h};
    LAUNCH(norm_heads, operand(ctx, RF_ACTIVATION, out), rstd, operand(ctx, RF_ACTIVATION, raw),
           operand(ctx, RF_MASTER, gain), &turns, n * h, k, (float)eps);
}

void RF_CUDA_KERNEL(heads_backward)(rf_ctx *ctx, void *dy, void *dgain, const void *raw,
                                    const void *gain, const void *rstd, const rf_angles *angles,
                                    int64_t n, int64_t h, int64_t k)
{
    const rf_cuda_real slopes = operand(ctx, RF_PRODUCT, dy);
    const rf_cuda_angles turns = {angles->cos, angles->sin, angles->position, h};
    if (gain == NULL) {
        LAUNCH(turn, slopes, slopes, &turns, n * h, k, true);
        return;
    }
    const rf_cuda_norm_slopes all = {.dx = slopes,
                                     .dy = slopes,
                                     .x = operand(ctx, RF_ACTIVATION, raw),
                                     .gain = operand(ctx, RF_MASTER, gain),
                                     .dgain = dgain,
                                     .part =
                                         dgain != NULL ? rf_cuda_take_part(ctx, n * h, k) : NULL,
                                     .rstd = rstd,
                                     .angles = turns,
                                     .n = n * h,
                                     .d = k};
    LAUNCH(norm_heads_backward, &all);
}

/* --- SwiGLU, dropout ------------------------------------------------------------------------- */

void RF_CUDA_KERNEL(swiglu_forward)(rf_ctx *ctx, void *h, const void *gate, const void *up,
                                    int64_t count)
{
    LAUNCH(swiglu, operand(ctx, RF_ACTIVATION, h), operand(ctx, RF_ACTIVATION, gate),
           operand(ctx, RF_ACTIVATION, up), count);
}

void RF_CUDA_KERNEL(swiglu_backward)(rf_ctx *ctx, void *dgate, void *dup, const void *dh,
                                     const void *gate, const void *up, int64_t count)
{
    LAUNCH(swiglu_backward, operand(ctx, RF_ACTIVATION, dgate), operand(ctx, RF_ACTIVATION, dup),
           operand(ctx, RF_ACTIVATION, dh), operand(ctx, RF_ACTIVATION, gate),
           operand(ctx, RF_ACTIVATION, up), count);
}

void RF_CUDA_KERNEL(swiglu_up_forward)(rf_ctx *ctx, void *h, void *up, const void *x, rf_matrix w,
                                       const void *gate, int64_t n, int64_t in, int64_t out)
{
    RF_CUDA_KERNEL(linear_forward)
    (ctx, (rf_array){up, RF_ACTIVATION}, x, w, NULL, NULL, n, in, out);
    RF_CUDA_KERNEL(swiglu_forward)(ctx, h, gate, up, n * out);
}

void RF_CUDA_KERNEL(swiglu_down_backward)(rf_ctx *ctx, void *dgate, void *dup, void *h,
                                          const void *dy, const void *w, const void *gate,
                                          const void *up, int64_t n, int64_t in, int64_t out)
{
    RF_CUDA_KERNEL(linear_backward_input)
    (ctx, (rf_array){dup, RF_ACTIVATION}, (rf_const_array){dy, RF_RESIDUAL}, w, n, in, out, false);
    LAUNCH(swiglu_again, operand(ctx, RF_ACTIVATION, dgate), operand(ctx, RF_ACTIVATION, dup),
           operand(ctx, RF_ACTIVATION, h), operand(ctx, RF_ACTIVATION, dup),
           operand(ctx, RF_ACTIVATION, gate), operand(ctx, RF_ACTIVATION, up), n * in);
}

void RF_CUDA_KERNEL(scale_dropout)(rf_ctx *ctx, rf_array y, const void *x, double scale,
                                   double rate, uint64_t key, int64_t count, bool accumulate)
{
    LAUNCH(scale_dropout, array(ctx, y), operand(ctx, RF_ACTIVATION, x), (float)scale, rate, key,
           count, accumulate);
}

/* --- Flat buffers ---------------------------------------------------------------------------- */

void RF_CUDA_KERNEL(add)(rf_ctx *ctx, void *y, const void *x, int64_t n)
{
    LAUNCH(add, y, x, n);
}

void RF_CUDA_KERNEL(sum_squares)(rf_ctx *ctx, void *sums, const void *x, int64_t first, int64_t n)
{
    RF_ASSERT(first % RF_SUM_RUN == 0);
    LAUNCH(sum_squares, (double *)sums + first / RF_SUM_RUN, x, n, RF_SUM_RUN);
}

void RF_CUDA_KERNEL(sum_tree)(rf_ctx *ctx, void *sums, int64_t n)
{
    LAUNCH(sum_tree, sums, n);
}

void RF_CUDA_KERNEL(adamw)(rf_ctx *ctx, void *w, void *m, void *v, const void *g, int64_t n,
                           const rf_adamw *step)
{
    const rf_cuda_step own = {.lr = (float)step->lr,
                              .beta1 = (float)step->beta1,
                              .beta2 = (float)step->beta2,
                              .rest1 = (float)(1.0 - step->beta1),
                              .rest2 = (float)(1.0 - step->beta2),
                              .eps = (float)step->eps,
                              .decay = (float)step->decay,
                              .scale = (float)step->scale,
                              .c1 = (float)step->c1,
                              .c2 = (float)step->c2};
    LAUNCH(adamw, w, m, v, g, n, &own);
}

#define ENTRY(name) .name = RF_CUDA_KERNEL(name),
const rf_kernels rf_cuda_kernels = {RF_KERNELS(ENTRY).takes_blocks = rf_cuda_takes_blocks,
                                    .block_forward = rf_cuda_block_forward};
