#include "common/kernels/ref/ref.h"

#include "common/kernels/gumbel.h"

#include <tgmath.h>

/* logits[j] = x . w_j. */
static void compute_logits(const rf_ctx *ctx, real *logits, const real *x, const real *w, int64_t d,
                           int64_t v)
{
    for (int64_t j = 0; j < v; j++) {
        real sum = 0;
        for (int64_t c = 0; c < d; c++) {
            sum += ref_operand(ctx, x[c]) * ref_operand(ctx, w[j * d + c]);
        }
        logits[j] = sum;
    }
}

static real log_sum_exp(const real *logits, int64_t v)
{
    real max = logits[0];
    for (int64_t j = 1; j < v; j++) {
        max = logits[j] > max ? logits[j] : max;
    }
    double sum = 0;
    for (int64_t j = 0; j < v; j++) {
        sum += (double)exp(logits[j] - max);
    }
    return max + (real)log(sum);
}

/* Room for the logits of one place. */
static real *logits_of(rf_ctx *ctx, int64_t v)
{
    RF_ASSERT((size_t)v * sizeof(real) <= ctx->scratch_bytes);
    return ctx->scratch;
}

/* Of one place with target t and logits l_j = x.w_j:
 *
 *   loss = -log softmax(l)_t = lse(l) - l_t,   dlse/dl_j = exp(l_j - lse) = softmax(l)_j
 *   dl_j = weight (softmax(l)_j - [j = t])
 *   dx   = sum_j dl_j w_j,   dw_j += dl_j x */
void RF_REF(head_loss)(rf_ctx *ctx, void *loss_, void *dx_, void *dw_, const void *x_, rf_matrix w_,
                       const int32_t *target, const void *weight_, const int32_t *host_target,
                       int64_t n, int64_t d, int64_t v)
{
    RF_ASSERT(dx_ == NULL || w_.layout == RF_ROWS);
    (void)host_target; /* without chunks, target itself decides */
    real *loss = loss_, *dx = dx_, *dw = dw_, *logits = logits_of(ctx, v);
    const real *x = x_, *w = w_.data, *weight = weight_;
    for (int64_t i = 0; i < n; i++) {
        loss[i] = 0;
        for (int64_t c = 0; dx != NULL && c < d; c++) {
            dx[i * d + c] = 0;
        }
        if (target[i] < 0) {
            continue;
        }
        compute_logits(ctx, logits, x + i * d, w, d, v);
        real lse = log_sum_exp(logits, v);
        loss[i] = lse - logits[target[i]];
        for (int64_t j = 0; dx != NULL && j < v; j++) {
            real dl =
                ref_operand(ctx, weight[i] * (exp(logits[j] - lse) - (j == target[i] ? 1 : 0)));
            for (int64_t c = 0; c < d; c++) {
                dx[i * d + c] += dl * ref_operand(ctx, w[j * d + c]);
                if (dw != NULL) {
                    dw[j * d + c] += dl * ref_operand(ctx, x[i * d + c]);
                }
            }
        }
    }
}

static bool may_produce(const rf_sampling *sampling, int64_t id)
{
    for (int64_t b = 0; b < sampling->n_banned; b++) {
        if (sampling->banned[b] == id) {
            return false;
        }
    }
    return id < sampling->n_usable;
}

void RF_REF(head_sample)(rf_ctx *ctx, int32_t *token, void *score_, const void *x_, rf_matrix w_,
                         const int32_t *place, const rf_sampling *sampling, int64_t n, int64_t d,
                         int64_t v)
{
    real *score = score_, *logits = logits_of(ctx, v);
    const real *x = x_, *w = w_.data;
    for (int64_t i = 0; i < n; i++) {
        compute_logits(ctx, logits, x + place[i] * d, w, d, v);
        int32_t best = -1;
        double best_value = 0;
        for (int32_t j = 0; j < v; j++) {
            double value = (double)logits[j];
            if (sampling->temperature > 0) { /* argmax of l/T + noise samples softmax(l/T) */
                value = value / sampling->temperature + rf_gumbel(sampling->key[i], j);
            }
            if (may_produce(sampling, j) && (best < 0 || value > best_value)) {
                best = j;
                best_value = value;
            }
        }
        RF_ASSERT(best >= 0); /* at least one id is usable and not banned */
        token[i] = best;
        score[i] = exp(logits[best] - log_sum_exp(logits, v));
    }
}

void RF_REF(head_logprob)(rf_ctx *ctx, void *logprob_, const void *x_, rf_matrix w_,
                          const int32_t *place, const int32_t *target, int64_t n, int64_t d,
                          int64_t v)
{
    real *logprob = logprob_, *logits = logits_of(ctx, v);
    const real *x = x_, *w = w_.data;
    for (int64_t i = 0; i < n; i++) {
        compute_logits(ctx, logits, x + place[i] * d, w, d, v);
        logprob[i] = logits[target[i]] - log_sum_exp(logits, v);
    }
}

void RF_REF(head_logits)(rf_ctx *ctx, void *logits_, const void *x_, rf_matrix w_,
                         const int32_t *place, int64_t n, int64_t d, int64_t v)
{
    real *logits = logits_;
    const real *x = x_, *w = w_.data;
    for (int64_t i = 0; i < n; i++) {
        compute_logits(ctx, logits + i * v, x + place[i] * d, w, d, v);
    }
}
