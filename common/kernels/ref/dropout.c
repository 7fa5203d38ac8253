#include "common/kernels/ref/ref.h"

#include "common/kernels/gumbel.h"

void RF_REF(scale_dropout)(rf_ctx *ctx, rf_array y_, const void *x_, double factor, double rate,
                           uint64_t key, int64_t count, bool accumulate)
{
    (void)ctx;
    real *y = y_.data;
    const real *x = x_;
    for (int64_t i = 0; i < count; i++) {
        bool keep = rate <= 0 || rf_gumbel_uniform(key, i) >= rate;
        real value = keep ? (real)factor * x[i] : 0;
        y[i] = accumulate ? y[i] + value : value;
    }
}
