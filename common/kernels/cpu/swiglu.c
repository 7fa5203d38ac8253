/* SwiGLU (arXiv:2002.05202), alone and on pieces of a product that are still in the cache. */
#include "common/kernels/cpu/internal.h"

#include <omp.h>

V_INLINE vf sigmoid(vf x)
{
    vf one = v_set(1.0F);
    return v_div(one, v_add(one, v_exp(v_sub(v_zero(), x))));
}

/* Elements [at, end) of operands of `type`. */
V_INLINE void forward_span(rf_type type, void *h, const void *gate, const void *up, int64_t at,
                           int64_t end)
{
    for (; at < end; at += VL) {
        const int64_t n = end - at;
        vf x = load_as(type, gate, at, n);
        vf y = v_mul(v_mul(x, sigmoid(x)), load_as(type, up, at, n));
        store_as(type, h, at, y, n);
    }
}

/* h = g s(g) u with s = sigmoid and s' = s (1 - s):
 *   du = dh g s,   dg = dh u (s + g s (1 - s)) = dh u s (1 + g (1 - s)).
 * dup may be dh; h as forward gives it, where not NULL. */
V_INLINE void backward_span(rf_type type, void *dgate, void *dup, const void *dh, const void *gate,
                            const void *up, void *h, int64_t at, int64_t end)
{
    const vf one = v_set(1.0F);
    for (; at < end; at += VL) {
        const int64_t n = end - at;
        vf g = load_as(type, gate, at, n);
        vf u = load_as(type, up, at, n);
        vf grad = load_as(type, dh, at, n);
        vf s = sigmoid(g), gated = v_mul(g, s);
        vf slope = v_mul(s, v_fma(g, v_sub(one, s), one));
        store_as(type, dup, at, v_mul(grad, gated), n);
        store_as(type, dgate, at, v_mul(v_mul(grad, u), slope), n);
        if (h != NULL) {
            store_as(type, h, at, v_mul(gated, u), n);
        }
    }
}

void RF_CPU(swiglu_forward)(rf_ctx *ctx, void *h, const void *gate, const void *up, int64_t count)
{
#pragma omp parallel num_threads(threads_for(ctx, 8 * count))
    {
        int64_t begin, end;
        part_of_lines(&begin, &end, count, omp_get_thread_num(), omp_get_num_threads());
        forward_span(type_of(ctx, RF_ACTIVATION), h, gate, up, begin, end);
    }
}

void RF_CPU(swiglu_backward)(rf_ctx *ctx, void *dgate, void *dup, const void *dh, const void *gate,
                             const void *up, int64_t count)
{
#pragma omp parallel num_threads(threads_for(ctx, 12 * count))
    {
        int64_t begin, end;
        part_of_lines(&begin, &end, count, omp_get_thread_num(), omp_get_num_threads());
        backward_span(type_of(ctx, RF_ACTIVATION), dgate, dup, dh, gate, up, NULL, begin, end);
    }
}

void RF_CPU(gate_piece)(const gemm *g, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    const gating *then = &g->then;
    for (int64_t r = row; then->gate != NULL && r < row + rows; r++) {
        const int64_t at = r * g->ldc + col, end = at + cols;
        if (then->up == NULL) {
            forward_span(g->c_type, then->h, then->gate, g->c, at, end);
        } else {
            backward_span(g->c_type, then->dgate, g->c, g->c, then->gate, then->up, then->h, at,
                          end);
        }
    }
}
