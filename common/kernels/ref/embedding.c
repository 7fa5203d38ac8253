#include "common/kernels/ref/ref.h"

void RF_REF(embedding_forward)(rf_ctx *ctx, void *x_, rf_matrix table_, const int32_t *token,
                               int64_t n, int64_t d)
{
    (void)ctx;
    real *x = x_;
    const real *table = table_.data;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < d; j++) {
            x[i * d + j] = table[token[i] * d + j];
        }
    }
}

/* x_i = table[token_i], so dtable[t] is the sum of dx_i over the places i whose token is t. */
void RF_REF(embedding_backward)(rf_ctx *ctx, void *dtable_, const void *dx_, const int32_t *token,
                                int64_t n, int64_t d)
{
    (void)ctx;
    real *dtable = dtable_;
    const real *dx = dx_;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < d; j++) {
            dtable[token[i] * d + j] += dx[i * d + j];
        }
    }
}

void RF_REF(scatter_rows)(rf_ctx *ctx, void *y_, const void *x_, const int32_t *place, int64_t n,
                          int64_t d)
{
    (void)ctx;
    real *y = y_;
    const real *x = x_;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < d; j++) {
            y[place[i] * d + j] = x[i * d + j];
        }
    }
}
