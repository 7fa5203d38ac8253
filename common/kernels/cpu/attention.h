/* attention.h: what the forward and the backward pass of attention share.       all local
 *
 * A unit of work is a block of at most RF_QUERY_BLOCK queries (rf_spans) and one key/value head.
 * Its rows are the queries of the H/G query heads that share that head: row r = hh * nq + i. Keys
 * are visited in tiles of RF_KEY_TILE that begin at the span's begin, so a row's arithmetic depends
 * on its own spans alone.
 */
#ifndef RF_KERNELS_CPU_ATTENTION_H
#define RF_KERNELS_CPU_ATTENTION_H

#include "common/kernels/cpu/internal.h"

typedef struct attention {
    const float *q, *k, *v, *o, *do_, *lse, *delta;
    const rf_spans *spans;
    int64_t h, g, head_dim;
    int64_t group;    /* H/G */
    int64_t max_rows; /* RF_QUERY_BLOCK * group */
    int64_t ld;       /* floats of a row of K in scratch: whole cache lines */
    float scale;      /* 1/sqrt(K) */
} attention;

/* A thread's part of scratch. Which pieces a pass uses, and for what, it says itself. */
typedef struct attention_scratch {
    float *q;             /* [max_rows, ld] queries times scale */
    float *do_;           /* [max_rows, ld] gradients of the output */
    float *sum[2];        /* [max(max_rows, RF_KEY_TILE), ld] accumulators */
    float *score[2];      /* [max_rows, RF_KEY_TILE], or transposed with padded columns */
    float *transposed[2]; /* panels of transposed rows */
    float *panels[2];     /* panels of rows */
    float *row;           /* [4, padded rows] one number for each row */
    float *spare;         /* [ld] */
} attention_scratch;

V_INLINE int64_t panels_of(int64_t n)
{
    return ceil_div(n, PANEL);
}

/* The queries of a block. */
typedef struct query_block {
    int64_t begin, n;           /* queries */
    int64_t key[2], key_end[2]; /* spans: where they begin, the largest ends */
} query_block;

V_INLINE query_block get_block(const rf_spans *spans, int64_t b)
{
    const int32_t *x = spans->block + 6 * b;
    return (query_block){
        .begin = x[0], .n = x[1] - x[0], .key = {x[2], x[4]}, .key_end = {x[3], x[5]}};
}

/* How many keys of the tile [key, key + n_keys) query i sees; they are the first ones. */
V_INLINE int64_t visible_keys(const rf_spans *spans, int64_t query, int span, int64_t key,
                              int64_t n_keys)
{
    int64_t end = spans->span[4 * query + 2 * span + 1];
    return max_of(0, min_of(end - key, n_keys));
}

/* Rows of a block, times scale: dst [group*n, ld] from src [N,H,K]. */
V_INLINE void gather_rows(float *dst, const float *src, const attention *t, const query_block *b,
                          int64_t kv_head, float scale)
{
    const int64_t width = t->head_dim;
    for (int64_t hh = 0; hh < t->group; hh++) {
        const float *from = src + (b->begin * t->h + kv_head * t->group + hh) * width;
        for (int64_t i = 0; i < b->n; i++, dst += t->ld, from += t->h * width) {
            for (int64_t c = 0; c < width; c += VL) {
                v_store_n(dst + c, v_mul(v_set(scale), v_load_n(from + c, width - c)), width - c);
            }
        }
    }
}

attention RF_CPU(attention_make)(const rf_spans *spans, int64_t h, int64_t g, int64_t head_dim);
/* Thread `thread`'s part of the context's scratch. */
attention_scratch RF_CPU(attention_take)(rf_ctx *ctx, const attention *t, int thread);

/* sum[r] += score[r][0..n_keys) times rows packed as panels of n_keys rows, for the rows of a
 * block. Scores of keys that a row does not see are 0; where `finite` is false such a key may still
 * hold a NaN, so each row then stops at its own last visible key: visible[i] for query i. The bits
 * are the same either way. */
void RF_CPU(attention_accumulate)(float *sum, const float *score, const float *panels,
                                  const attention *t, int64_t n_queries, int64_t n_keys,
                                  const int64_t *visible, bool finite);

#endif
