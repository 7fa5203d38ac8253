#include "common/kernels/ref/ref.h"

#include <tgmath.h>

void RF_REF(rmsnorm_forward)(rf_ctx *ctx, void *y_, void *rstd_, rf_const_array x_,
                             const void *gain_, int64_t n, int64_t d, double eps)
{
    (void)ctx;
    real *y = y_, *rstd = rstd_;
    const real *x = x_.data, *gain = gain_;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t j = 0; j < d; j++) {
            sum += (double)x[i * d + j] * (double)x[i * d + j];
        }
        double mean = d > 0 ? sum / (double)d : 0;
        rstd[i] = (real)(1 / sqrt(mean + eps));
        for (int64_t j = 0; j < d; j++) {
            y[i * d + j] = x[i * d + j] * rstd[i] * gain[j];
        }
    }
}

/* Of one row, with r = rstd and the loss L:
 *
 *   y_j = gain_j x_j r,   r = (mean(x^2) + eps)^(-1/2)
 *
 * y_j depends on gain_j alone:  dL/dgain_j = dy_j x_j r, summed over the rows.
 * y_j depends on x_j directly and on every x_l through r:
 *   dr/dx_l = -1/2 (mean(x^2) + eps)^(-3/2) (2 x_l / D) = -r^3 x_l / D
 *   dL/dx_l = dy_l gain_l r + sum_j dy_j gain_j x_j dr/dx_l
 *           = r (dy_l gain_l - x_l c),   c = r^2 / D * sum_j dy_j gain_j x_j */
void RF_REF(rmsnorm_backward)(rf_ctx *ctx, rf_array dx_, void *dgain_, rf_const_array dy_,
                              rf_const_array x_, const void *gain_, const void *rstd_, int64_t n,
                              int64_t d, bool accumulate)
{
    (void)ctx;
    real *dx = dx_.data, *dgain = dgain_;
    const real *dy = dy_.data, *x = x_.data, *gain = gain_, *rstd = rstd_;
    for (int64_t i = 0; i < n; i++) {
        real r = rstd[i];
        double sum = 0;
        for (int64_t j = 0; j < d; j++) {
            sum += (double)dy[i * d + j] * (double)gain[j] * (double)x[i * d + j];
        }
        real c = (real)((double)r * (double)r * sum / (double)d);
        for (int64_t j = 0; j < d; j++) {
            real dy_j = dy[i * d + j]; /* before dx, which may be dy itself, is written */
            real dx_j = r * (dy_j * gain[j] - x[i * d + j] * c);
            if (dgain != NULL) {
                dgain[j] += dy_j * x[i * d + j] * r;
            }
            dx[i * d + j] = accumulate ? dx[i * d + j] + dx_j : dx_j;
        }
    }
}
