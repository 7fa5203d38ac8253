/* wrap.h: kernels around kernels.                                               all local
 *
 * A backend that does something before and after each kernel of another (apart.c; the benchmarks'
 * times) needs a function for each, which takes its arguments and hands them on. C has no way to
 * make one from a function type, so they are listed here: X(name, parameters, arguments, in, out)
 * for every kernel that takes a context. in, out: the two sizes that tell calls of this kernel
 * apart, for products inner and outer width. A signature that differs from kernels.h does not
 * compile.
 */
#ifndef RF_KERNELS_WRAP_H
#define RF_KERNELS_WRAP_H

#include "common/kernels/kernels.h"

#define RF_KERNELS_TO_WRAP(X)                                                                      \
    X(pack,                                                                                        \
      (rf_ctx * ctx, void *packed, rf_layout layout, const void *w, int64_t first, int64_t n,      \
       int64_t in, int64_t out),                                                                   \
      (ctx, packed, layout, w, first, n, in, out), in, out)                                        \
    X(embedding_forward,                                                                           \
      (rf_ctx * ctx, void *x, rf_matrix table, const int32_t *token, int64_t n, int64_t d),        \
      (ctx, x, table, token, n, d), 0, d)                                                          \
    X(embedding_backward,                                                                          \
      (rf_ctx * ctx, void *dtable, const void *dx, const int32_t *token, int64_t n, int64_t d),    \
      (ctx, dtable, dx, token, n, d), 0, d)                                                        \
    X(rmsnorm_forward,                                                                             \
      (rf_ctx * ctx, void *y, void *rstd, rf_const_array x, const void *gain, int64_t n,           \
       int64_t d, double eps),                                                                     \
      (ctx, y, rstd, x, gain, n, d, eps), 0, d)                                                    \
    X(rmsnorm_backward,                                                                            \
      (rf_ctx * ctx, rf_array dx, void *dgain, rf_const_array dy, rf_const_array x,                \
       const void *gain, const void *rstd, int64_t n, int64_t d, bool accumulate),                 \
      (ctx, dx, dgain, dy, x, gain, rstd, n, d, accumulate), 0, d)                                 \
    X(linear_forward,                                                                              \
      (rf_ctx * ctx, rf_array y, const void *x, rf_matrix w, const void *bias,                     \
       const void *residual, int64_t n, int64_t in, int64_t out),                                  \
      (ctx, y, x, w, bias, residual, n, in, out), in, out)                                         \
    X(linear_backward_input,                                                                       \
      (rf_ctx * ctx, rf_array dx, rf_const_array dy, const void *w, int64_t n, int64_t in,         \
       int64_t out, bool accumulate),                                                              \
      (ctx, dx, dy, w, n, in, out, accumulate), in, out)                                           \
    X(linear_backward_weight,                                                                      \
      (rf_ctx * ctx, void *dw, void *dbias, rf_const_array dy, const void *x, int64_t n,           \
       int64_t in, int64_t out),                                                                   \
      (ctx, dw, dbias, dy, x, n, in, out), in, out)                                                \
    X(heads_forward,                                                                               \
      (rf_ctx * ctx, void *out, void *rstd, const void *raw, const void *gain,                     \
       const rf_angles *angles, int64_t n, int64_t h, int64_t k, double eps),                      \
      (ctx, out, rstd, raw, gain, angles, n, h, k, eps), 0, h *k)                                  \
    X(heads_backward,                                                                              \
      (rf_ctx * ctx, void *dy, void *dgain, const void *raw, const void *gain, const void *rstd,   \
       const rf_angles *angles, int64_t n, int64_t h, int64_t k),                                  \
      (ctx, dy, dgain, raw, gain, rstd, angles, n, h, k), 0, h *k)                                 \
    X(attention_forward,                                                                           \
      (rf_ctx * ctx, void *o, void *lse, const void *q, const void *k, const void *v,              \
       const rf_spans *spans, int64_t h, int64_t g, int64_t head_dim),                             \
      (ctx, o, lse, q, k, v, spans, h, g, head_dim), 0, h *head_dim)                               \
    X(attention_backward,                                                                          \
      (rf_ctx * ctx, void *dq, void *dk, void *dv, void *delta, const void *do_, const void *q,    \
       const void *k, const void *v, const void *o, const void *lse, const rf_spans *spans,        \
       int64_t h, int64_t g, int64_t head_dim),                                                    \
      (ctx, dq, dk, dv, delta, do_, q, k, v, o, lse, spans, h, g, head_dim), 0, h *head_dim)       \
    X(swiglu_forward, (rf_ctx * ctx, void *h, const void *gate, const void *up, int64_t count),    \
      (ctx, h, gate, up, count), 0, count)                                                         \
    X(swiglu_backward,                                                                             \
      (rf_ctx * ctx, void *dgate, void *dup, const void *dh, const void *gate, const void *up,     \
       int64_t count),                                                                             \
      (ctx, dgate, dup, dh, gate, up, count), 0, count)                                            \
    X(swiglu_up_forward,                                                                           \
      (rf_ctx * ctx, void *h, void *up, const void *x, rf_matrix w, const void *gate, int64_t n,   \
       int64_t in, int64_t out),                                                                   \
      (ctx, h, up, x, w, gate, n, in, out), in, out)                                               \
    X(swiglu_down_backward,                                                                        \
      (rf_ctx * ctx, void *dgate, void *dup, void *h, const void *dy, const void *w,               \
       const void *gate, const void *up, int64_t n, int64_t in, int64_t out),                      \
      (ctx, dgate, dup, h, dy, w, gate, up, n, in, out), in, out)                                  \
    X(scale_dropout,                                                                               \
      (rf_ctx * ctx, rf_array y, const void *x, double factor, double rate, uint64_t key,          \
       int64_t count, bool accumulate),                                                            \
      (ctx, y, x, factor, rate, key, count, accumulate), 0, count)                                 \
    X(head_loss,                                                                                   \
      (rf_ctx * ctx, void *loss, void *dx, void *dw, const void *x, rf_matrix w,                   \
       const int32_t *target, const void *weight, const int32_t *place, int64_t m, int64_t n,      \
       int64_t d, int64_t v),                                                                      \
      (ctx, loss, dx, dw, x, w, target, weight, place, m, n, d, v), d, v)                          \
    X(head_query,                                                                                  \
      (rf_ctx * ctx, const rf_head_answer *out, const void *x, rf_matrix w,                        \
       const rf_head_query *query, int64_t n, int64_t d, int64_t v),                               \
      (ctx, out, x, w, query, n, d, v), d, v)                                                      \
    X(head_logits,                                                                                 \
      (rf_ctx * ctx, void *logits, const void *x, rf_matrix w, const int32_t *place, int64_t n,    \
       int64_t d, int64_t v),                                                                      \
      (ctx, logits, x, w, place, n, d, v), d, v)                                                   \
    X(scatter_rows,                                                                                \
      (rf_ctx * ctx, void *y, const void *x, const int32_t *place, int64_t n, int64_t d),          \
      (ctx, y, x, place, n, d), 0, d)                                                              \
    X(add, (rf_ctx * ctx, void *y, const void *x, int64_t n), (ctx, y, x, n), 0, n)                \
    X(sum_squares, (rf_ctx * ctx, void *sums, const void *x, int64_t first, int64_t n),            \
      (ctx, sums, x, first, n), 0, n)                                                              \
    X(sum_tree, (rf_ctx * ctx, void *sums, int64_t n), (ctx, sums, n), 0, n)                       \
    X(adamw,                                                                                       \
      (rf_ctx * ctx, void *w, void *m, void *v, const void *g, int64_t n, const rf_adamw *step),   \
      (ctx, w, m, v, g, n, step), 0, n)

#endif
