/* The head for decoders: tokens, log-probabilities or logits of chosen places. */
#include "common/kernels/cpu/head.h"
#include "common/kernels/gumbel.h"

#include <math.h>
#include <omp.h>

/* Logits of places [begin, begin + m) into scratch, or into `logits` where it is not NULL. */
static float *make_logits(rf_ctx *ctx, const head_scratch *s, float *logits, const void *x,
                          rf_matrix w, const int32_t *place, int64_t m, int64_t d, int64_t v)
{
    RF_CPU(head_gather)(ctx, s->x, x, place, m, d);
    gemm g = {.a_type = type_of(ctx, RF_ACTIVATION),
              .c = logits != NULL ? logits : s->logits,
              .a = s->x,
              .m = m,
              .n = v,
              .k = d,
              .ldc = logits != NULL ? v : s->ld};
    RF_CPU(linear)(ctx, &g, w);
    return g.c;
}

/* Ids a decoder must not produce, in place of their logits; the lowest id it may produce. */
static int32_t ban(float *row, const rf_sampling *sampling)
{
    for (int64_t b = 0; b < sampling->n_banned; b++) {
        if (sampling->banned[b] >= 0 && sampling->banned[b] < sampling->n_usable) {
            row[sampling->banned[b]] = -INFINITY;
        }
    }
    for (int32_t j = 0; j < sampling->n_usable; j++) {
        bool banned = false;
        for (int64_t b = 0; b < sampling->n_banned; b++) {
            banned = banned || sampling->banned[b] == j;
        }
        if (!banned) {
            return j;
        }
    }
    return -1;
}

/* The lowest id with the largest logit; `first` where none is above -inf. */
static int32_t find_largest(const float *row, int32_t first, int64_t n)
{
    vf top = v_set(-INFINITY);
    for (int64_t j = 0; j < n; j += VL) {
        top = v_max(v_first(n - j, v_load_n(row + j, n - j), v_set(-INFINITY)), top);
    }
    float most = v_largest(top);
    for (int64_t j = 0; most > -INFINITY && j < n; j++) {
        if (row[j] == most) {
            return (int32_t)j;
        }
    }
    return first;
}

/* argmax of logit/temperature + noise is a sample of softmax(logit/temperature). */
static int32_t draw(const float *row, int32_t first, uint64_t key, double temperature, int64_t n)
{
    int32_t best = first;
    double most = -HUGE_VAL;
    for (int64_t j = first; j < n; j++) {
        if (row[j] > -INFINITY) {
            double value = (double)row[j] / temperature + rf_gumbel(key, j);
            if (value > most) {
                best = (int32_t)j;
                most = value;
            }
        }
    }
    return best;
}

void RF_CPU(head_sample)(rf_ctx *ctx, int32_t *token, void *score, const void *x, rf_matrix w,
                         const int32_t *place, const rf_sampling *sampling, int64_t n, int64_t d,
                         int64_t v)
{
    head_scratch s = RF_CPU(head_take)(ctx, d, v);
    RF_ASSERT(sampling->n_usable <= v);
    for (int64_t begin = 0; begin < n; begin += s.rows) {
        int64_t m = min_of(s.rows, n - begin);
        float *logits = make_logits(ctx, &s, NULL, x, w, place + begin, m, d, v);
#pragma omp parallel for schedule(dynamic) num_threads(threads_for(ctx, 2 * m * v))
        for (int64_t i = 0; i < m; i++) {
            float *row = logits + i * s.ld, largest, sum;
            RF_CPU(head_row_sum)(&largest, &sum, NULL, row, v);
            int32_t first = ban(row, sampling);
            RF_ASSERT(first >= 0); /* at least one id is usable and not banned */
            int32_t id = sampling->temperature > 0.0
                             ? draw(row, first, sampling->key[begin + i], sampling->temperature,
                                    sampling->n_usable)
                             : find_largest(row, first, sampling->n_usable);
            token[begin + i] = id;
            ((float *)score)[begin + i] = expf(row[id] - largest) / sum;
        }
    }
}

void RF_CPU(head_logprob)(rf_ctx *ctx, void *logprob, const void *x, rf_matrix w,
                          const int32_t *place, const int32_t *target, int64_t n, int64_t d,
                          int64_t v)
{
    head_scratch s = RF_CPU(head_take)(ctx, d, v);
    for (int64_t begin = 0; begin < n; begin += s.rows) {
        int64_t m = min_of(s.rows, n - begin);
        const float *logits = make_logits(ctx, &s, NULL, x, w, place + begin, m, d, v);
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * m * v))
        for (int64_t i = 0; i < m; i++) {
            const float *row = logits + i * s.ld;
            float largest, sum;
            RF_CPU(head_row_sum)(&largest, &sum, NULL, row, v);
            ((float *)logprob)[begin + i] = (row[target[begin + i]] - largest) - logf(sum);
        }
    }
}

void RF_CPU(head_logits)(rf_ctx *ctx, void *logits, const void *x, rf_matrix w,
                         const int32_t *place, int64_t n, int64_t d, int64_t v)
{
    head_scratch s = RF_CPU(head_take)(ctx, d, v);
    for (int64_t begin = 0; begin < n; begin += s.rows) {
        make_logits(ctx, &s, (float *)logits + begin * v, x, w, place + begin,
                    min_of(s.rows, n - begin), d, v);
    }
}
