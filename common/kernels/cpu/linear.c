/* Y = X W^T and its gradients: three forms of one matrix product. */
#include "common/kernels/cpu/internal.h"

#include <omp.h>

/* y = x w^T. */
static gemm forward_product(const rf_ctx *ctx, void *y, rf_class y_class, const void *x, int64_t n,
                            int64_t in, int64_t out)
{
    return (gemm){.a_type = type_of(ctx, RF_ACTIVATION),
                  .c_type = type_of(ctx, y_class),
                  .c = y,
                  .a = x,
                  .m = n,
                  .n = out,
                  .k = in};
}

/* dx = dy w: y = x W^T, so dL/dx_i = sum_o dL/dy_o W_oi. */
static gemm input_product(const rf_ctx *ctx, void *dx, rf_class dx_class, const void *dy,
                          rf_class dy_class, const void *w, int64_t n, int64_t in, int64_t out)
{
    return (gemm){.form = GEMM_NN,
                  .a_type = type_of(ctx, dy_class),
                  .c_type = type_of(ctx, dx_class),
                  .c = dx,
                  .a = dy,
                  .b = w,
                  .m = n,
                  .n = in,
                  .k = out};
}

void RF_CPU(linear_forward)(rf_ctx *ctx, void *y, const void *x, rf_matrix w, const void *bias,
                            const void *residual, int64_t n, int64_t in, int64_t out,
                            rf_class y_class)
{
    gemm g = forward_product(ctx, y, y_class, x, n, in, out);
    g.start = residual;
    g.bias = bias;
    RF_CPU(linear)(ctx, &g, w);
}

void RF_CPU(linear_backward_input)(rf_ctx *ctx, void *dx, const void *dy, const void *w, int64_t n,
                                   int64_t in, int64_t out, bool accumulate, rf_class dy_class,
                                   rf_class dx_class)
{
    gemm g = input_product(ctx, dx, dx_class, dy, dy_class, w, n, in, out);
    g.start = accumulate ? dx : NULL;
    RF_CPU(gemm)(ctx, &g);
}

void RF_CPU(swiglu_up_forward)(rf_ctx *ctx, void *h, void *up, const void *x, rf_matrix w,
                               const void *gate, int64_t n, int64_t in, int64_t out)
{
    gemm g = forward_product(ctx, up, RF_ACTIVATION, x, n, in, out);
    g.then = (gating){.gate = gate, .h = h};
    RF_CPU(linear)(ctx, &g, w);
}

void RF_CPU(swiglu_down_backward)(rf_ctx *ctx, void *dgate, void *dup, void *h, const void *dy,
                                  const void *w, const void *gate, const void *up, int64_t n,
                                  int64_t in, int64_t out)
{
    gemm g = input_product(ctx, dup, RF_ACTIVATION, dy, RF_RESIDUAL, w, n, in, out);
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
void RF_CPU(linear_backward_weight)(rf_ctx *ctx, void *dw, void *dbias, const void *dy,
                                    const void *x, int64_t n, int64_t in, int64_t out,
                                    rf_class dy_class)
{
    gemm g = {.form = GEMM_TN,
              .a_type = type_of(ctx, dy_class),
              .b_type = type_of(ctx, RF_ACTIVATION),
              .c = dw,
              .a = dy,
              .b = x,
              .m = out,
              .n = in,
              .k = n};
    if (dw != NULL) {
        RF_CPU(gemm)(ctx, &g);
    }
    if (dbias != NULL) {
#pragma omp parallel num_threads(ctx->n_threads)
        sum_columns(dbias, type_of(ctx, dy_class), dy, n, out, omp_get_thread_num(),
                    omp_get_num_threads());
    }
}
