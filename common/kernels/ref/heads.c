#include "common/kernels/ref/ref.h"

/* A pair (a, b) turns by the angle t: (a cos t - b sin t, b cos t + a sin t). A rotation's
 * transpose is its inverse, so the gradient of the input is the gradient of the output turned back:
 * the same loop with -t. to may be from. */
static void turn(real *to, const real *from, const rf_angles *angles, int64_t n, int64_t h,
                 int64_t k, bool back)
{
    const real *cos_table = angles->cos, *sin_table = angles->sin;
    int64_t half = k / 2;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t head = 0; head < h; head++) {
            for (int64_t j = 0; j < half; j++) {
                int64_t angle = angles->position[i] * half + j, at = (i * h + head) * k + j;
                real c = cos_table[angle], s = back ? -sin_table[angle] : sin_table[angle];
                real a = from[at], b = from[at + half];
                to[at] = a * c - b * s;
                to[at + half] = b * c + a * s;
            }
        }
    }
}

void RF_REF(heads_forward)(rf_ctx *ctx, void *out, void *rstd, const void *raw, const void *gain,
                           const rf_angles *angles, int64_t n, int64_t h, int64_t k, double eps)
{
    if (gain != NULL) {
        const rf_const_array from = {raw, RF_ACTIVATION};
        RF_REF(rmsnorm_forward)(ctx, out, rstd, from, gain, n * h, k, eps);
    }
    turn(out, gain != NULL ? out : raw, angles, n, h, k, false);
}

void RF_REF(heads_backward)(rf_ctx *ctx, void *dy, void *dgain, const void *raw, const void *gain,
                            const void *rstd, const rf_angles *angles, int64_t n, int64_t h,
                            int64_t k)
{
    turn(dy, dy, angles, n, h, k, true);
    if (gain != NULL) {
        RF_REF(rmsnorm_backward)
        (ctx, (rf_array){dy, RF_PRODUCT}, dgain, (rf_const_array){dy, RF_PRODUCT},
         (rf_const_array){raw, RF_ACTIVATION}, gain, rstd, n * h, k, false);
    }
}
