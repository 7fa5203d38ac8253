#include "common/kernels/ref/ref.h"

#include <tgmath.h>

void RF_REF(add)(rf_ctx *ctx, void *y_, const void *x_, int64_t n)
{
    (void)ctx;
    real *y = y_;
    const real *x = x_;
    for (int64_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

void RF_REF(sum_squares)(rf_ctx *ctx, void *sums_, const void *x_, int64_t first, int64_t n)
{
    (void)ctx;
    double *sums = sums_;
    const real *x = x_;
    for (int64_t i = 0; i < n; i++) {
        double *sum = &sums[(first + i) / RF_SUM_RUN];
        double square = (double)x[i] * (double)x[i];
        *sum = (first + i) % RF_SUM_RUN == 0 ? square : *sum + square;
    }
}

void RF_REF(sum_tree)(rf_ctx *ctx, void *sums_, int64_t n)
{
    (void)ctx;
    double *sums = sums_;
    for (int64_t step = 1; step < n; step *= 2) {
        for (int64_t i = 0; i + step < n; i += 2 * step) {
            sums[i] += sums[i + step];
        }
    }
    if (n == 0) {
        sums[0] = 0;
    }
}

void RF_REF(adamw)(rf_ctx *ctx, void *w_, void *m_, void *v_, const void *g_, int64_t n,
                   const rf_adamw *step)
{
    (void)ctx;
    real *w = w_, *m = m_, *v = v_;
    const real *g = g_;
    const real lr = (real)step->lr, beta1 = (real)step->beta1, beta2 = (real)step->beta2;
    const real rest1 = (real)(1 - step->beta1), rest2 = (real)(1 - step->beta2);
    const real eps = (real)step->eps, decay = (real)step->decay, scale = (real)step->scale;
    const real c1 = (real)step->c1, c2 = (real)step->c2;
    for (int64_t i = 0; i < n; i++) {
        real gi = scale * g[i];
        m[i] = beta1 * m[i] + rest1 * gi;
        v[i] = beta2 * v[i] + rest2 * gi * gi;
        w[i] -= lr * ((m[i] / c1) / (sqrt(v[i] / c2) + eps) + decay * w[i]);
    }
}
