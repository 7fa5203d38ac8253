/* Y = X W^T and its gradients: three forms of one matrix product. */
#include "common/kernels/cpu/internal.h"

#include <omp.h>

/* y = x w^T. */
static gemm forward_product(const rf_ctx *ctx, rf_array y, const void *x, int64_t n, int64_t in,
                            int64_t out)
{
    return (gemm){.a_type = type_of(ctx, RF_ACTIVATION),
                  .c_type = type_of(ctx, y.cls),
                  .c = y.data,
                  .a = x,
                  .m = n,
                  .n = out,
                  .k = in};
}

/* dx = dy w: y = x W^T, so dL/dx_i = sum_o dL/dy_o W_oi. */
static gemm input_product(const rf_ctx *ctx, rf_array dx, rf_const_array dy, const void *w,
                          int64_t n, int64_t in, int64_t out)
{
    return (gemm){.form = GEMM_NN,
                  .a_type = type_of(ctx, dy.cls),
                  .c_type = type_of(ctx, dx.cls),
                  .c = dx.data,
                  .a = dy.data,
                  .b = w,
                  .m = n,
                  .n = in,
                  .k = out};
}

void RF_CPU(linear_forward)(rf_ctx *ctx, rf_array y, const void *x, rf_matrix w, const void *bias,
                            const void *residual, int64_t n, int64_t in, int64_t out)
{
    gemm g = forward_product(ctx, y, x, n, in, out);
    g.start = residual;
    g.bias = bias;
    RF_CPU(linear)(ctx, &g, w);
}

void RF_CPU(linear_backward_input)(rf_ctx *ctx, rf_array dx, rf_const_array dy, const void *w,
                                   int64_t n, int64_t in, int64_t out, bool accumulate)
{
    gemm g = input_product(ctx, dx, dy, w, n, in, out);
    g.start = accumulate ? dx.data : NULL;
    RF_CPU(gemm)(ctx, &g);
}

void RF_CPU(swiglu_up_forward)(rf_ctx *ctx, void *h, void *up, const void *x, rf_matrix w,
                               const void *gate, int64_t n, int64_t in, int64_t out)
{
    gemm g = forward_product(ctx, (rf_array){up, RF_ACTIVATION}, x, n, in, out);
    g.then = (gating){.gate = gate, .h = h};
    RF_CPU(linear)(ctx, &g, w);
}

void RF_CPU(swiglu_down_backward)(rf_ctx *ctx, void *dgate, void *dup, void *h, const void *dy,
                                  const void *w, const void *gate, const void *up, int64_t n,
                                  int64_t in, int64_t out)
{
    gemm g = input_product(ctx, (rf_array){dup, RF_ACTIVATION}, (rf_const_array){dy, RF_RESIDUAL},
                           w, n, in, out);
    g.then = (gating){.gate = gate, .up = up, .h = h, .dgate = dgate};
    RF_CPU(gemm)(ctx, &g);
}

/* dbias_o += sum over places of dy_o, places ascending; each thread owns columns. */
static void sum_columns(float *dbias, rf_type type, const void *dy, int64_t n, int64_t out,
                        int thread, int n_threads)
{
    int64_t begin, end;
    part_of_lines(&begin, &end, out, thread, n_threads);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = begin; c < end; c += VL) {
            vf sum = v_add(v_load_n(dbias + c, end - c), load_as(type, dy, i * out + c, end - c));
            v_store_n(dbias + c, sum, end - c);
        }
    }
}

/* dL/dW_oi = sum over places of dL/dy_o x_i. */
void RF_CPU(linear_backward_weight)(rf_ctx *ctx, void *dw, void *dbias, rf_const_array dy,
                                    const void *x, int64_t n, int64_t in, int64_t out)
{
    gemm g = {.form = GEMM_TN,
              .a_type = type_of(ctx, dy.cls),
              .b_type = type_of(ctx, RF_ACTIVATION),
              .c = dw,
              .a = dy.data,
              .b = x,
              .m = out,
              .n = in,
              .k = n};
    if (dw != NULL) {
        RF_CPU(gemm)(ctx, &g);
    }
    if (dbias != NULL) {
#pragma omp parallel num_threads(ctx->n_threads)
        sum_columns(dbias, type_of(ctx, dy.cls), dy.data, n, out, omp_get_thread_num(),
                    omp_get_num_threads());
    }
}
