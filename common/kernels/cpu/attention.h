/* attention.h: what the forward and the backward pass of attention share.       all local
 *
 * Work is cut into query runs (spans.h) for each key/value head. H/G query heads share such a head,
 * so a run of n queries makes H/G * n rows: row hh*n + i is query i of the run in the group's query
 * head hh. Keys are visited in tiles of RF_KEY_TILE.
 *
 * Probabilities are made as powers of 2: p = 2^(unit q.k - lse/ln 2), unit = log2(e)/sqrt(K).
 * With compute = bf16 activations lie as bf16 and every product takes bf16 operands, in cells of
 * two neighbours along the inner dimension (internal.h); scores, softmax and sums stay f32.
 */
#ifndef RF_KERNELS_CPU_ATTENTION_H
#define RF_KERNELS_CPU_ATTENTION_H

#include "common/kernels/cpu/internal.h"

#include <math.h>

typedef struct attention {
    const void *q, *k, *v, *o, *do_; /* activations */
    const float *lse, *delta;
    const rf_spans *spans;
    int64_t h, g, head_dim; /* H, G, K */
    int64_t group;          /* H/G query heads share a key/value head */
    int64_t ld;             /* floats of a row of K numbers in scratch: whole cache lines */
    float scale;            /* 1/sqrt(K) */
    float unit;             /* scale log2(e) */
    bool bf16;              /* activations and operands of products are bf16 */
} attention;

/* The type of activations. */
V_INLINE rf_type type_in(const attention *t)
{
    return t->bf16 ? RF_BF16 : RF_F32;
}

/* Index of the first element of head `head` of place `at`, in [places, n_heads, K]. */
V_INLINE int64_t head_of(const attention *t, int64_t at, int64_t n_heads, int64_t head)
{
    return (at * n_heads + head) * t->head_dim;
}

/* A query run: queries [begin, begin + n). Each query's span s begins at key[s] and ends at
 * key_end[s] or before. */
typedef struct query_run {
    int64_t begin, n;
    int64_t key[2], key_end[2];
} query_run;

V_INLINE query_run get_run(const rf_spans *spans, int64_t r)
{
    const int32_t *x = spans->run + 6 * r;
    return (query_run){
        .begin = x[0], .n = x[1] - x[0], .key = {x[2], x[4]}, .key_end = {x[3], x[5]}};
}

/* How many keys of the tile [key, key + n_keys) lie before the end of the query's span; where the
 * tile does not begin before the span these are the keys that the query sees. */
V_INLINE int64_t visible_keys(const rf_spans *spans, int64_t query, int span, int64_t key,
                              int64_t n_keys)
{
    int64_t end = spans->span[4 * query + 2 * span + 1];
    return max_of(0, min_of(end - key, n_keys));
}

/* The rows of a run: dst [group*n, ld] from src [N,H,K], of `type`. */
V_INLINE void gather_rows(float *dst, rf_type type, const void *src, const attention *t,
                          const query_run *run, int64_t kv_head)
{
    for (int64_t hh = 0; hh < t->group; hh++) {
        const int64_t first = head_of(t, run->begin, t->h, kv_head * t->group + hh);
        copy_rows(dst + hh * run->n * t->ld, t->ld, type, element(type, src, first),
                  t->h * t->head_dim, run->n, t->head_dim);
    }
}

/* Of row r of a run: which of all N*H heads of queries it is. */
V_INLINE int64_t head_of_row(const attention *t, const query_run *run, int64_t kv_head, int64_t r)
{
    return (run->begin + r % run->n) * t->h + kv_head * t->group + r / run->n;
}

V_INLINE void zero_rows(float *dst, int64_t ld, int64_t begin, int64_t end)
{
    if (begin < end) {
        memset(dst + begin * ld, 0, (size_t)((end - begin) * ld) * sizeof(float));
    }
}

/* Cells from one row of an operand of n inner elements to the next: whole cache lines. */
V_INLINE int64_t cells_ld(int64_t n)
{
    return line_floats(bf16_cells(n));
}

/* The operands q to delta are left to the caller. */
V_INLINE attention make_attention(const rf_limits *limits, const rf_spans *spans, int64_t h,
                                  int64_t g, int64_t head_dim)
{
    const double scale = 1.0 / sqrt((double)head_dim);
    return (attention){.spans = spans,
                       .h = h,
                       .g = g,
                       .head_dim = head_dim,
                       .group = g > 0 ? h / g : 0,
                       .ld = line_floats(head_dim),
                       .scale = (float)scale,
                       .unit = (float)(scale * 1.4426950408889634),
                       .bf16 = limits->compute == RF_COMPUTE_BF16};
}

#endif
