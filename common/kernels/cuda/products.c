/* Packed weights, and the products of matrices: which launches, or the library. */
#include "common/kernels/cuda/infer/block.h"
#include "common/kernels/cuda/scratch.h"

/* --- Packed weights -------------------------------------------------------------------------- */

static size_t row_bytes(rf_layout layout, int64_t in)
{
    return layout == RF_PACKED_INT8   ? (size_t)rf_cuda_int8_row(in)
           : layout == RF_PACKED_BF16 ? (size_t)in * sizeof(uint16_t)
                                      : (size_t)in * sizeof(float);
}

size_t RF_CUDA_KERNEL(pack_bytes)(rf_layout layout, int64_t in, int64_t out)
{
    return (size_t)out * row_bytes(layout, in);
}

void RF_CUDA_KERNEL(pack)(rf_ctx *ctx, void *packed, rf_layout layout, const void *w, int64_t first,
                          int64_t n, int64_t in, int64_t out)
{
    RF_ASSERT(layout != RF_ROWS && first % RF_PACK_ROWS == 0 && first + n <= out);
    void *to = (char *)packed + (size_t)first * row_bytes(layout, in);
    if (layout == RF_PACKED_INT8) {
        LAUNCH(quantize, to, w, n, in);
    } else {
        LAUNCH(convert, matrix(ctx, (rf_matrix){to, layout}), operand(ctx, RF_MASTER, w), n * in);
    }
}

/* --- Products -------------------------------------------------------------------------------- */

/* An f32 operand in the scratch's copy, if it is not there already. */
static void copy_in_half(rf_ctx *ctx, void *half, const void *x, int64_t n)
{
    rf_cuda_copy *copy = rf_cuda_copy_of(ctx);
    if (copy->of != x || copy->n != n) {
        LAUNCH(convert, (rf_cuda_real){half, RF_CUDA_BF16},
               (rf_cuda_real){(void *)(uintptr_t)x, RF_CUDA_F32}, n);
        *copy = (rf_cuda_copy){x, n};
    }
}

/* y in bf16 with a bias: the library's sums in f32 first, so that they are rounded once. */
static bool multiply_wide(rf_ctx *ctx, const rf_cuda_product *product, void *workspace)
{
    rf_arena arena = rf_cuda_own_part(ctx);
    rf_cuda_product wide = *product;
    wide.bias.data = NULL;
    wide.c = (rf_cuda_real){rf_cuda_take_sums(&arena, &ctx->limits), RF_CUDA_F32};
    if (product->start.data != NULL || product->n > rf_cuda_widest_sums(&ctx->limits) ||
        !rf_cuda_blas_takes(&wide)) {
        return false;
    }
    rf_cuda_blas_multiply(ctx, &wide, workspace);
    LAUNCH(add_bias, product->c, product->bias, wide.c, product->m, product->n);
    return true;
}

/* Does cuBLASLt make this product, with what bias and f32 operands ask for around it? */
static bool multiply_by_library(rf_ctx *ctx, const rf_cuda_product *product)
{
    const rf_cuda_product_scratch s = rf_cuda_take_products(ctx);
    const int64_t n = product->m * product->k;
    rf_cuda_product other = *product;
    if (product->bias.data != NULL && product->c.type == RF_CUDA_BF16) {
        return multiply_wide(ctx, product, s.workspace);
    }
    if (product->start.data != NULL && product->c.type == RF_CUDA_BF16) {
        return false; /* no model has such a product */
    }
    if (product->a.type == RF_CUDA_F32_AS_BF16 && n <= ctx->limits.places * ctx->limits.width) {
        other.a = (rf_cuda_real){s.half, RF_CUDA_BF16};
    }
    if (product->bias.data != NULL) {
        other.bias.data = NULL;
        other.start = product->c;
    }
    if (!rf_cuda_blas_takes(&other)) {
        return false;
    }
    if (product->a.type == RF_CUDA_F32_AS_BF16) {
        copy_in_half(ctx, s.half, product->a.data, n);
    }
    if (product->bias.data != NULL) {
        LAUNCH(add_bias, product->c, product->bias, product->start, product->m, product->n);
    }
    rf_cuda_blas_multiply(ctx, &other, s.workspace);
    return true;
}

static void multiply(rf_ctx *ctx, rf_cuda_product product)
{
    if (!rf_cuda_trains_in_half(&ctx->limits) || !multiply_by_library(ctx, &product)) {
        LAUNCH(multiply, &product);
    }
}

void RF_CUDA_KERNEL(linear_forward)(rf_ctx *ctx, rf_array y, const void *x, rf_matrix w,
                                    const void *bias, const void *residual, int64_t n, int64_t in,
                                    int64_t out)
{
    const rf_cuda_product product = {.a = factor(ctx, operand(ctx, RF_ACTIVATION, x)),
                                     .b = factor(ctx, matrix(ctx, w)),
                                     .c = array(ctx, y),
                                     .bias = operand(ctx, RF_MASTER, bias),
                                     .start = operand(ctx, y.cls, residual),
                                     .m = n,
                                     .n = out,
                                     .k = in,
                                     .a_step = in,
                                     .a_inner = 1,
                                     .b_step = in,
                                     .b_inner = 1};
    if (rf_cuda_takes_product(ctx, &product)) {
        rf_cuda_few_product(ctx, &product);
        return;
    }
    multiply(ctx, product);
}

/* Sums as long as over a vocabulary, of which there are no more tiles than a GPU of the architecture has
 * multiprocessors. */
static bool has_long_sums(int64_t m, int64_t n, int64_t k)
{
    enum { TILE = 128, MULTIPROCESSORS = 132, LONG = 1 << 15 };
    return k >= LONG && rf_cuda_tiles(m, TILE) * rf_cuda_tiles(n, TILE) <= MULTIPROCESSORS;
}

void rf_cuda_backward_input(rf_ctx *ctx, rf_cuda_real dx, rf_cuda_rows dy, const void *w, int64_t n,
                            int64_t in, int64_t out, bool accumulate)
{
    multiply(ctx, (rf_cuda_product){.a = factor(ctx, dy.real),
                                    .b = factor(ctx, operand(ctx, RF_WEIGHT, w)),
                                    .c = dx,
                                    .m = n,
                                    .n = in,
                                    .k = out,
                                    .a_step = dy.step,
                                    .a_inner = 1,
                                    .b_step = 1,
                                    .b_inner = in,
                                    .accumulates = accumulate,
                                    .long_sums = has_long_sums(n, in, out)});
}

void rf_cuda_backward_weight(rf_ctx *ctx, void *dw, rf_cuda_rows dy, const void *x, int64_t n,
                             int64_t in, int64_t out)
{
    multiply(ctx, (rf_cuda_product){.a = factor(ctx, dy.real),
                                    .b = factor(ctx, operand(ctx, RF_ACTIVATION, x)),
                                    .c = operand(ctx, RF_MASTER, dw),
                                    .m = out,
                                    .n = in,
                                    .k = n,
                                    .a_step = 1,
                                    .a_inner = dy.step,
                                    .b_step = 1,
                                    .b_inner = in,
                                    .accumulates = true,
                                    .long_sums = true});
}

void RF_CUDA_KERNEL(linear_backward_input)(rf_ctx *ctx, rf_array dx, rf_const_array dy,
                                           const void *w, int64_t n, int64_t in, int64_t out,
                                           bool accumulate)
{
    rf_cuda_backward_input(ctx, array(ctx, dx), (rf_cuda_rows){const_array(ctx, dy), out}, w, n, in,
                           out, accumulate);
}

void RF_CUDA_KERNEL(linear_backward_weight)(rf_ctx *ctx, void *dw, void *dbias, rf_const_array dy,
                                            const void *x, int64_t n, int64_t in, int64_t out)
{
    if (dw != NULL) {
        rf_cuda_backward_weight(ctx, dw, (rf_cuda_rows){const_array(ctx, dy), out}, x, n, in, out);
    }
    if (dbias != NULL) {
        LAUNCH(sum_columns, dbias, rf_cuda_take_part(ctx, n, out), const_array(ctx, dy),
               (rf_cuda_real){0}, NULL, n, out);
    }
}
