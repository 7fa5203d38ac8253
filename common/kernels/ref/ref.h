/* ref.h: the functions behind the reference tables.                            all local
 *
 * Their contract is kernels.h; here are only the names, which differ by precision (real.h).
 */
#ifndef RF_KERNELS_REF_REF_H
#define RF_KERNELS_REF_REF_H

#include "common/kernels/kernels.h"
#include "common/kernels/quantize.h"
#include "common/kernels/ref/real.h"

#include <string.h>

/* An operand of a matrix product: as it is, or rounded to bf16 (backend.h). */
static inline real ref_operand(const rf_ctx *ctx, real x)
{
    const bool rounds = ctx->limits.compute == RF_COMPUTE_BF16;
    return rounds ? (real)rf_quantize_from_bf16(rf_quantize_bf16((float)x)) : x;
}

size_t RF_REF(scratch_bytes)(int n_threads, const rf_limits *limits);

/* pack.c */
size_t RF_REF(pack_bytes)(rf_layout layout, int64_t in, int64_t out);
void RF_REF(pack)(rf_ctx *ctx, void *packed_, rf_layout layout, const void *w_, int64_t first,
                  int64_t n, int64_t in, int64_t out);

/* embedding.c */
void RF_REF(embedding_forward)(rf_ctx *ctx, void *x_, rf_matrix table_, const int32_t *token,
                               int64_t n, int64_t d);
void RF_REF(embedding_backward)(rf_ctx *ctx, void *dtable_, const void *dx_, const int32_t *token,
                                int64_t n, int64_t d);
void RF_REF(scatter_rows)(rf_ctx *ctx, void *y_, const void *x_, const int32_t *place, int64_t n,
                          int64_t d);

/* norm.c */
void RF_REF(rmsnorm_forward)(rf_ctx *ctx, void *y_, void *rstd_, const void *x_, const void *gain_,
                             int64_t n, int64_t d, double eps, rf_class x_class);
void RF_REF(rmsnorm_backward)(rf_ctx *ctx, void *dx_, void *dgain_, const void *dy_, const void *x_,
                              const void *gain_, const void *rstd_, int64_t n, int64_t d,
                              bool accumulate, rf_class x_class);

/* linear.c */
void RF_REF(linear_forward)(rf_ctx *ctx, void *y_, const void *x_, rf_matrix w_, const void *bias_,
                            const void *residual_, int64_t n, int64_t in, int64_t out,
                            rf_class y_class);
void RF_REF(linear_backward_input)(rf_ctx *ctx, void *dx_, const void *dy_, const void *w_,
                                   int64_t n, int64_t in, int64_t out, bool accumulate,
                                   rf_class dy_class, rf_class dx_class);
void RF_REF(linear_backward_weight)(rf_ctx *ctx, void *dw_, void *dbias_, const void *dy_,
                                    const void *x_, int64_t n, int64_t in, int64_t out,
                                    rf_class dy_class);

/* rope.c */
void RF_REF(rope)(rf_ctx *ctx, void *x_, const void *cos_, const void *sin_,
                  const int32_t *position, int64_t n, int64_t h, int64_t k, bool inverse,
                  rf_class x_class);

/* attention.c */
void RF_REF(attention_forward)(rf_ctx *ctx, void *o_, void *lse_, const void *q_, const void *k_,
                               const void *v_, const rf_spans *spans, int64_t h, int64_t g,
                               int64_t head_dim);
void RF_REF(attention_backward)(rf_ctx *ctx, void *dq_, void *dk_, void *dv_, void *delta_,
                                const void *do_, const void *q_, const void *k_, const void *v_,
                                const void *o_, const void *lse_, const rf_spans *spans, int64_t h,
                                int64_t g, int64_t head_dim);

/* swiglu.c */
void RF_REF(swiglu_forward)(rf_ctx *ctx, void *h_, const void *gate_, const void *up_,
                            int64_t count);
void RF_REF(swiglu_backward)(rf_ctx *ctx, void *dgate_, void *dup_, const void *dh_,
                             const void *gate_, const void *up_, int64_t count);
void RF_REF(swiglu_up_forward)(rf_ctx *ctx, void *h, void *up, const void *x, rf_matrix w,
                               const void *gate, int64_t n, int64_t in, int64_t out);
void RF_REF(swiglu_down_backward)(rf_ctx *ctx, void *dgate, void *dup, void *h, const void *dy,
                                  const void *w, const void *gate, const void *up, int64_t n,
                                  int64_t in, int64_t out);

/* dropout.c */
void RF_REF(scale_dropout)(rf_ctx *ctx, void *y_, const void *x_, double factor, double rate,
                           uint64_t key, int64_t count, bool accumulate, rf_class y_class);

/* head.c */
void RF_REF(head_loss)(rf_ctx *ctx, void *loss_, void *dx_, void *dw_, const void *x_, rf_matrix w_,
                       const int32_t *target, const void *weight_, const int32_t *host_target,
                       int64_t n, int64_t d, int64_t v);
void RF_REF(head_sample)(rf_ctx *ctx, int32_t *token, void *score_, const void *x_, rf_matrix w_,
                         const int32_t *place, const rf_sampling *sampling, int64_t n, int64_t d,
                         int64_t v);
void RF_REF(head_logprob)(rf_ctx *ctx, void *logprob_, const void *x_, rf_matrix w_,
                          const int32_t *place, const int32_t *target, int64_t n, int64_t d,
                          int64_t v);
void RF_REF(head_logits)(rf_ctx *ctx, void *logits_, const void *x_, rf_matrix w_,
                         const int32_t *place, int64_t n, int64_t d, int64_t v);

/* flat.c */
void RF_REF(add)(rf_ctx *ctx, void *y_, const void *x_, int64_t n);
void RF_REF(sum_squares)(rf_ctx *ctx, double *out, const void *x_, int64_t n);
void RF_REF(adamw)(rf_ctx *ctx, void *w_, void *m_, void *v_, const void *g_, int64_t n,
                   const rf_adamw *step);

#endif
