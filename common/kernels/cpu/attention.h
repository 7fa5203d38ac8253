/* attention.h: what the forward and the backward pass of attention share.       all local
 *
 * Work is cut into blocks of queries (rf_spans) for each key/value head. The rows of a block are
 * the queries of the H/G query heads that share that head: row r = hh * n + i. Keys are visited in
 * tiles of RF_KEY_TILE.
 *
 * Probabilities are powers of 2: p = 2^(unit q.k - lse/ln 2), unit = log2(e)/sqrt(K).
 * Where rf_limits.compute asks for it, activations lie as bf16 and every product rounds its
 * operands to it (cells of two neighbours along the inner dimension: internal.h); scores, softmax
 * and sums stay f32.
 */
#ifndef RF_KERNELS_CPU_ATTENTION_H
#define RF_KERNELS_CPU_ATTENTION_H

#include "common/kernels/cpu/internal.h"

#include <math.h>

typedef struct attention {
    const void *q, *k, *v, *o, *do_; /* activations */
    const float *lse, *delta;
    const rf_spans *spans;
    int64_t h, g, head_dim;
    int64_t group; /* H/G */
    int64_t ld;    /* floats of a row of K in scratch: whole cache lines */
    float scale;   /* 1/sqrt(K) */
    float unit;    /* scale log2(e) */
    bool bf16;     /* activations and products of bf16 */
} attention;

/* Of activations. */
V_INLINE rf_type type_in(const attention *t)
{
    return t->bf16 ? RF_BF16 : RF_F32;
}

/* Head `head` of place `at`, of n_heads: an index. */
V_INLINE int64_t head_of(const attention *t, int64_t at, int64_t n_heads, int64_t head)
{
    return (at * n_heads + head) * t->head_dim;
}

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

/* Rows of a block: dst [group*n, ld] from src [N,H,K], of `type`. */
V_INLINE void gather_rows(float *dst, rf_type type, const void *src, const attention *t,
                          const query_block *b, int64_t kv_head)
{
    for (int64_t hh = 0; hh < t->group; hh++) {
        const int64_t first = head_of(t, b->begin, t->h, kv_head * t->group + hh);
        copy_rows(dst + hh * b->n * t->ld, t->ld, type, element(type, src, first),
                  t->h * t->head_dim, b->n, t->head_dim);
    }
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

/* q .. delta are left to the caller. */
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

/* Cuts scratch into pieces of size[i] floats, each at the begin of a cache line; returns their sum.
 * base NULL: only measures. */
V_INLINE int64_t cut(float *piece[], float *base, const int64_t size[], int n_pieces)
{
    int64_t total = 0;
    for (int i = 0; i < n_pieces; i++) {
        if (base != NULL) {
            piece[i] = base + total;
        }
        total += line_floats(size[i]);
    }
    return total;
}

#endif
