#include "common/kernels/ref/ref.h"

void RF_REF(linear_forward)(rf_ctx *ctx, rf_array y_, const void *x_, rf_matrix w_,
                            const void *bias_, const void *residual_, int64_t n, int64_t in,
                            int64_t out)
{
    real *y = y_.data;
    const real *x = x_, *w = w_.data, *bias = bias_, *residual = residual_;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t o = 0; o < out; o++) {
            real sum = 0;
            for (int64_t j = 0; j < in; j++) {
                sum += ref_operand(ctx, x[i * in + j]) * ref_operand(ctx, w[o * in + j]);
            }
            if (bias != NULL) {
                sum += bias[o];
            }
            if (residual != NULL) {
                sum += residual[i * out + o];
            }
            y[i * out + o] = sum;
        }
    }
}

/* y_io = sum_j x_ij w_oj + bias_o + residual_io, so x_ij reaches every y_io with the factor w_oj:
 *   dx_ij = sum_o dy_io w_oj */
void RF_REF(linear_backward_input)(rf_ctx *ctx, rf_array dx_, rf_const_array dy_, const void *w_,
                                   int64_t n, int64_t in, int64_t out, bool accumulate)
{
    real *dx = dx_.data;
    const real *dy = dy_.data, *w = w_;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < in; j++) {
            real sum = 0;
            for (int64_t o = 0; o < out; o++) {
                sum += ref_operand(ctx, dy[i * out + o]) * ref_operand(ctx, w[o * in + j]);
            }
            dx[i * in + j] = accumulate ? dx[i * in + j] + sum : sum;
        }
    }
}

/* From the same equation, w_oj reaches y_io with the factor x_ij and bias_o with the factor 1, in
 * every row i:
 *   dw_oj = sum_i dy_io x_ij,   dbias_o = sum_i dy_io */
void RF_REF(linear_backward_weight)(rf_ctx *ctx, void *dw_, void *dbias_, rf_const_array dy_,
                                    const void *x_, int64_t n, int64_t in, int64_t out)
{
    real *dw = dw_, *dbias = dbias_;
    const real *dy = dy_.data, *x = x_;
    for (int64_t o = 0; o < out; o++) {
        for (int64_t j = 0; dw != NULL && j < in; j++) {
            real sum = 0;
            for (int64_t i = 0; i < n; i++) {
                sum += ref_operand(ctx, dy[i * out + o]) * ref_operand(ctx, x[i * in + j]);
            }
            dw[o * in + j] += sum;
        }
        if (dbias != NULL) {
            real sum = 0;
            for (int64_t i = 0; i < n; i++) {
                sum += dy[i * out + o];
            }
            dbias[o] += sum;
        }
    }
}
