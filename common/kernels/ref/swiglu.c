#include "common/kernels/ref/ref.h"

#include <tgmath.h>

static real sigmoid(real x)
{
    return 1 / (1 + exp(-x));
}

void RF_REF(swiglu_forward)(rf_ctx *ctx, void *h_, const void *gate_, const void *up_,
                            int64_t count)
{
    (void)ctx;
    real *h = h_;
    const real *gate = gate_, *up = up_;
    for (int64_t i = 0; i < count; i++) {
        h[i] = gate[i] * sigmoid(gate[i]) * up[i];
    }
}

/* h = a s(a) u with a the gate and u the up projection. From s'(a) = s(a) (1 - s(a)):
 *   dh/da = u (s(a) + a s(a) (1 - s(a))) = u s(a) (1 + a (1 - s(a)))
 *   dh/du = a s(a) */
void RF_REF(swiglu_backward)(rf_ctx *ctx, void *dgate_, void *dup_, const void *dh_,
                             const void *gate_, const void *up_, int64_t count)
{
    (void)ctx;
    real *dgate = dgate_, *dup = dup_;
    const real *dh = dh_, *gate = gate_, *up = up_;
    for (int64_t i = 0; i < count; i++) {
        real s = sigmoid(gate[i]);
        dgate[i] = dh[i] * up[i] * s * (1 + gate[i] * (1 - s));
        dup[i] = dh[i] * gate[i] * s; /* last: dup may be dh itself */
    }
}

void RF_REF(swiglu_up_forward)(rf_ctx *ctx, void *h, void *up, const void *x, rf_matrix w,
                               const void *gate, int64_t n, int64_t in, int64_t out)
{
    RF_REF(linear_forward)(ctx, (rf_array){up, RF_ACTIVATION}, x, w, NULL, NULL, n, in, out);
    RF_REF(swiglu_forward)(ctx, h, gate, up, n * out);
}

void RF_REF(swiglu_down_backward)(rf_ctx *ctx, void *dgate, void *dup, void *h, const void *dy,
                                  const void *w, const void *gate, const void *up, int64_t n,
                                  int64_t in, int64_t out)
{
    RF_REF(linear_backward_input)
    (ctx, (rf_array){dup, RF_ACTIVATION}, (rf_const_array){dy, RF_RESIDUAL}, w, n, in, out, false);
    RF_REF(swiglu_backward)(ctx, dgate, dup, dup, gate, up, n * in);
    RF_REF(swiglu_forward)(ctx, h, gate, up, n * in);
}
