#include "common/kernels/ref/ref.h"

/* A pair (a, b) turns by the angle t: (a cos t - b sin t, b cos t + a sin t). A rotation's
 * transpose is its inverse, so the gradient of the input is the gradient of the output turned back:
 * the same loop with -t. */
void RF_REF(rope)(rf_ctx *ctx, void *x_, const void *cos_, const void *sin_,
                  const int32_t *position, int64_t n, int64_t h, int64_t k, bool inverse)
{
    (void)ctx;
    real *x = x_;
    const real *cos_table = cos_, *sin_table = sin_;
    int64_t half = k / 2;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t head = 0; head < h; head++) {
            for (int64_t j = 0; j < half; j++) {
                real c = cos_table[position[i] * half + j];
                real s = sin_table[position[i] * half + j];
                real *a = x + (i * h + head) * k + j, *b = a + half;
                real a_old = *a, b_old = *b;
                s = inverse ? -s : s;
                *a = a_old * c - b_old * s;
                *b = b_old * c + a_old * s;
            }
        }
    }
}
