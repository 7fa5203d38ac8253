/* attention.h: what the forward and the backward pass of attention share.       all local
 *
 * A unit of work is a block of at most RF_QUERY_BLOCK queries (rf_spans) and one key/value head.
 * Its rows are the queries of the H/G query heads that share that head: row r = hh * nq + i. Keys
 * are visited in tiles of RF_KEY_TILE that begin at the span's begin, so a row's arithmetic depends
 * on its own spans alone.
 *
 * A pass packs, once, the transpose of what it owns (queries, or keys), and reads the other side
 * where it lies. Where queries are owned, scores stand as [keys, rows]: vectors hold rows, and
 * neither maxima nor sums cross lanes.
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

/* A thread's part of scratch. Which pieces a pass uses, and for what, it says itself. columns:
 * max_rows or RF_KEY_TILE, whichever is more, in whole panels. */
typedef struct attention_scratch {
    float *q;             /* [max_rows, ld] queries times scale */
    float *do_;           /* [max_rows, ld] gradients of the output */
    float *sum[2];        /* [max(max_rows, RF_KEY_TILE), ld] accumulators */
    float *score[2];      /* [RF_KEY_TILE, columns] */
    float *transposed[2]; /* panels of transposed rows: [K, columns] */
    float *panels;        /* panels of rows of a key tile: [RF_KEY_TILE, K in whole panels] */
    float *row;           /* [4, columns] one number for each row */
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

/* Rows of a key tile as the right operand of a product: where they lie, or packed where K is not a
 * whole number of vectors. */
typedef struct tile_rows {
    const float *at;
    int64_t ld, panel_floats;
} tile_rows;
tile_rows RF_CPU(attention_rows)(const attention_scratch *s, const attention *t, const float *rows,
                                 int64_t n_keys);

/* What a tile of keys shows to each query of a block: its first visible[i] keys. */
typedef struct tile_sight {
    int64_t visible[RF_QUERY_BLOCK];
    bool all; /* every key to every query */
} tile_sight;
tile_sight RF_CPU(attention_look)(float *limit, const attention *t, const query_block *b, int span,
                                  int64_t key, int64_t n_keys, int64_t columns);

/* sum[r] += weight[.][r] times rows of the tile, for the rows r of a block; weight [n_keys,columns]
 * is 0 for keys that a row does not see. If the tile is not finite, such a key may hold a NaN: each
 * row then stops at its own last visible key. The bits are the same either way. */
void RF_CPU(attention_accumulate)(float *sum, const float *weight, const tile_rows *right,
                                  const attention *t, int64_t n_queries, int64_t n_keys,
                                  int64_t columns, const tile_sight *sight);

#endif
