#include "common/kernels/ref/ref.h"

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

/* Room for the logits of one place; behind it as much for a draw's logits, then its ids. */
static real *logits_of(rf_ctx *ctx, int64_t v)
{
    RF_ASSERT((size_t)v * (2 * sizeof(real) + sizeof(int32_t)) <= ctx->scratch_bytes);
    return ctx->scratch;
}

/* Of one place with target t and logits l_j = x.w_j:
 *
 *   loss = -log softmax(l)_t = lse(l) - l_t,   dlse/dl_j = exp(l_j - lse) = softmax(l)_j
 *   dl_j = weight (softmax(l)_j - [j = t])
 *   dx   = sum_j dl_j w_j,   dw_j += dl_j x */
void RF_REF(head_loss)(rf_ctx *ctx, void *loss_, void *dx_, void *dw_, const void *x_, rf_matrix w_,
                       const int32_t *target, const void *weight_, const int32_t *place, int64_t m,
                       int64_t n, int64_t d, int64_t v)
{
    RF_ASSERT(dx_ == NULL || w_.layout == RF_ROWS);
    real *loss = loss_, *dx = dx_, *dw = dw_, *logits = logits_of(ctx, v);
    const real *x = x_, *w = w_.data, *weight = weight_;
    for (int64_t i = 0; i < n; i++) {
        loss[i] = 0;
        for (int64_t c = 0; dx != NULL && c < d; c++) {
            dx[i * d + c] = 0;
        }
    }
    for (int64_t chosen = 0; chosen < m; chosen++) {
        const int64_t i = place[chosen];
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

static real runner_up(const real *logits, const rf_head_query *query, int32_t token, real lse)
{
    real most = -(real)INFINITY;
    for (int32_t j = 0; j < query->n_usable; j++) {
        if (!RF_REF(is_banned)(query, j) && j != token && logits[j] > most) {
            most = logits[j];
        }
    }
    return exp(most - lse);
}

static real entropy_of(const real *logits, real lse, int64_t v)
{
    real sum = 0;
    for (int64_t j = 0; j < v; j++) {
        const real p = exp(logits[j] - lse);
        sum += p > 0 ? p * (lse - logits[j]) : 0; /* 0 log 0 is 0 */
    }
    return sum < 0 ? 0 : sum;
}

void RF_REF(head_query)(rf_ctx *ctx, const rf_head_answer *out, const void *x_, rf_matrix w_,
                        const rf_head_query *query, int64_t n, int64_t d, int64_t v)
{
    real *score = out->score, *logprob = out->logprob, *second = out->second;
    real *entropy = out->entropy, *logits = logits_of(ctx, v);
    real *drawn = logits + v;
    int32_t *id = (int32_t *)(void *)(drawn + v);
    const real *x = x_, *w = w_.data;
    for (int64_t i = 0; i < n; i++) {
        compute_logits(ctx, logits, x + query->place[i] * d, w, d, v);
        const real lse = log_sum_exp(logits, v);
        if (logprob != NULL) {
            logprob[i] = query->target[i] < 0 ? 0 : logits[query->target[i]] - lse;
        }
        if (out->token != NULL) {
            out->token[i] = RF_REF(draw)(drawn, id, logits, query, i);
            score[i] = exp(logits[out->token[i]] - lse);
        }
        if (second != NULL) {
            second[i] = runner_up(logits, query, out->token[i], lse);
        }
        if (entropy != NULL) {
            entropy[i] = entropy_of(logits, lse, v);
        }
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
