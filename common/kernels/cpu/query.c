/* The head without gradients: what decoders and scores ask about chosen places. */
#include "common/kernels/cpu/head.h"

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

/* Hides the logits of ids that are not to be drawn; the lowest id that may be. */
static int32_t ban(float *row, const rf_head_query *query)
{
    for (int64_t b = 0; b < query->n_banned; b++) {
        if (query->banned[b] >= 0 && query->banned[b] < query->n_usable) {
            row[query->banned[b]] = -INFINITY;
        }
    }
    for (int32_t j = 0; j < query->n_usable; j++) {
        bool banned = false;
        for (int64_t b = 0; b < query->n_banned; b++) {
            banned = banned || query->banned[b] == j;
        }
        if (!banned) {
            return j;
        }
    }
    return -1;
}

/* log(sum) - sum_j p_j (logit_j - largest), p_j = exp(logit_j - largest) / sum; an id of no
 * probability adds nothing, however far below it is. */
static float entropy_of(const float *row, float largest, float sum, int64_t v)
{
    vf total = v_zero();
    for (int64_t j = 0; j < v; j += VL) {
        vf below = v_max(v_sub(v_load_n(row + j, v - j), v_set(largest)), v_set(-200.0F));
        total = v_fma(v_first(v - j, v_exp(below), v_zero()), below, total);
    }
    const float entropy = logf(sum) - v_sum(total) / sum;
    return entropy < 0.0F ? 0.0F : entropy;
}

/* The answers about place number i from its logits; the row is spoilt. `spare` has room for two
 * others, ld apart. */
static void answer(const rf_head_answer *out, float *row, float *spare, int64_t ld,
                   const rf_head_query *query, int64_t i, int64_t v)
{
    float largest, sum;
    RF_CPU(head_row_sum)(&largest, &sum, NULL, row, v);
    if (out->logprob != NULL) {
        const int32_t target = query->target[i];
        ((float *)out->logprob)[i] = target < 0 ? 0.0F : (row[target] - largest) - logf(sum);
    }
    if (out->entropy != NULL) { /* of all ids, before some are hidden */
        ((float *)out->entropy)[i] = entropy_of(row, largest, sum, v);
    }
    if (out->token != NULL) {
        const rf_draw how = query->draw != NULL ? query->draw[i] : (rf_draw){0};
        const int32_t first = ban(row, query);
        RF_ASSERT(first >= 0); /* at least one id is usable and not banned */
        const int32_t id = RF_CPU(draw)(spare, spare + ld, row, first, query, &how);
        out->token[i] = id;
        ((float *)out->score)[i] = expf(row[id] - largest) / sum;
        if (out->second != NULL) {
            row[id] = -INFINITY;
            ((float *)out->second)[i] =
                expf(RF_CPU(head_largest)(row, query->n_usable) - largest) / sum;
        }
    }
}

void RF_CPU(head_query)(rf_ctx *ctx, const rf_head_answer *out, const void *x, rf_matrix w,
                        const rf_head_query *query, int64_t n, int64_t d, int64_t v)
{
    head_scratch s = RF_CPU(head_take)(ctx, d, v);
    RF_ASSERT(query->n_usable <= v);
    for (int64_t begin = 0; begin < n; begin += s.rows) {
        int64_t m = min_of(s.rows, n - begin);
        float *logits = make_logits(ctx, &s, NULL, x, w, query->place + begin, m, d, v);
#pragma omp parallel for schedule(dynamic) num_threads(threads_for(ctx, 2 * m * v))
        for (int64_t i = 0; i < m; i++) {
            float *spare = s.spare + 2 * omp_get_thread_num() * s.ld;
            answer(out, logits + i * s.ld, spare, s.ld, query, begin + i, v);
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
