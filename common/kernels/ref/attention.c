#include "common/kernels/ref/ref.h"

#include <math.h>
#include <tgmath.h>

/* Of operands as a matrix product takes them. */
static real dot(const rf_ctx *ctx, const real *a, const real *b, int64_t n)
{
    real sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += ref_operand(ctx, a[i]) * ref_operand(ctx, b[i]);
    }
    return sum;
}

void RF_REF(attention_forward)(rf_ctx *ctx, void *o_, void *lse_, const void *q_, const void *k_,
                               const void *v_, const rf_spans *spans, int64_t h, int64_t g,
                               int64_t head_dim)
{
    real *o = o_, *lse = lse_, *score = ctx->scratch;
    const real *q = q_, *k = k_, *v = v_;
    RF_ASSERT((size_t)spans->m * sizeof(real) <= ctx->scratch_bytes);
    real scale = (real)(1 / sqrt((double)head_dim));
    for (int64_t i = 0; i < spans->n; i++) {
        const int32_t *span = spans->span + 4 * i;
        for (int64_t head = 0; head < h; head++) {
            const real *q_i = q + (i * h + head) * head_dim;
            real *o_i = o + (i * h + head) * head_dim;
            int64_t kv = head / (h / g);
            real max = -(real)INFINITY;
            for (int s = 0; s < 2; s++) {
                for (int64_t j = span[2 * s]; j < span[2 * s + 1]; j++) {
                    score[j] = scale * dot(ctx, q_i, k + (j * g + kv) * head_dim, head_dim);
                    max = score[j] > max ? score[j] : max;
                }
            }
            double sum = 0;
            for (int s = 0; s < 2; s++) {
                for (int64_t j = span[2 * s]; j < span[2 * s + 1]; j++) {
                    sum += (double)exp(score[j] - max);
                }
            }
            lse[i * h + head] = max + (real)log(sum); /* no keys: -inf */
            for (int64_t c = 0; c < head_dim; c++) {
                o_i[c] = 0;
            }
            for (int s = 0; s < 2; s++) {
                for (int64_t j = span[2 * s]; j < span[2 * s + 1]; j++) {
                    real p = ref_operand(ctx, exp(score[j] - lse[i * h + head]));
                    for (int64_t c = 0; c < head_dim; c++) {
                        o_i[c] += p * ref_operand(ctx, v[(j * g + kv) * head_dim + c]);
                    }
                }
            }
        }
    }
}

/* Of one query i and one of its heads, with a = 1/sqrt(K) and j over the keys of i's spans:
 *
 *   s_j = a q.k_j,   p_j = exp(s_j - lse),   o = sum_j p_j v_j
 *
 * v_j reaches o with the factor p_j:            dv_j += p_j do
 * p_j reaches o through v_j:                    dp_j  = do.v_j
 * softmax, dp_l/ds_j = p_l ([l=j] - p_j):       ds_j  = p_j (dp_j - sum_l p_l dp_l)
 *   and sum_l p_l dp_l = do.(sum_l p_l v_l) = do.o = delta, which needs no second pass over keys
 * s_j is bilinear:                              dq    = a sum_j ds_j k_j,   dk_j += a ds_j q
 *
 * A key/value head serves H/G query heads and many queries; its gradients are sums over all. */
void RF_REF(attention_backward)(rf_ctx *ctx, void *dq_, void *dk_, void *dv_, void *delta_,
                                const void *do_, const void *q_, const void *k_, const void *v_,
                                const void *o_, const void *lse_, const rf_spans *spans, int64_t h,
                                int64_t g, int64_t head_dim)
{
    real *dq = dq_, *dk = dk_, *dv = dv_, *delta = delta_;
    const real *dout = do_, *q = q_, *k = k_, *v = v_, *o = o_, *lse = lse_;
    real scale = (real)(1 / sqrt((double)head_dim));
    for (int64_t c = 0; c < spans->n * h * head_dim; c++) {
        dq[c] = 0;
    }
    for (int64_t c = 0; c < spans->m * g * head_dim; c++) {
        dk[c] = 0;
        dv[c] = 0;
    }
    for (int64_t i = 0; i < spans->n; i++) {
        const int32_t *span = spans->span + 4 * i;
        for (int64_t head = 0; head < h; head++) {
            int64_t row = (i * h + head) * head_dim;
            delta[i * h + head] = 0;
            for (int64_t c = 0; c < head_dim; c++) { /* no matrix product */
                delta[i * h + head] += dout[row + c] * o[row + c];
            }
            for (int s = 0; s < 2; s++) {
                for (int64_t j = span[2 * s]; j < span[2 * s + 1]; j++) {
                    int64_t key = (j * g + head / (h / g)) * head_dim;
                    real p = exp(scale * dot(ctx, q + row, k + key, head_dim) - lse[i * h + head]);
                    real dp = dot(ctx, dout + row, v + key, head_dim);
                    real ds = ref_operand(ctx, p * (dp - delta[i * h + head]));
                    p = ref_operand(ctx, p);
                    for (int64_t c = 0; c < head_dim; c++) {
                        dv[key + c] += p * ref_operand(ctx, dout[row + c]);
                        dq[row + c] += scale * ds * ref_operand(ctx, k[key + c]);
                        dk[key + c] += scale * ds * ref_operand(ctx, q[row + c]);
                    }
                }
            }
        }
    }
}
