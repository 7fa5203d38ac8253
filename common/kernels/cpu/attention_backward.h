/* attention_backward.h: a chunk of keys in the backward pass of attention.        all local
 *
 * attention_backward.c says what is done and in which order; attention_tile.c does one tile of keys
 * for one query run, and one run's dq for one chunk.
 */
#ifndef RF_KERNELS_CPU_ATTENTION_BACKWARD_H
#define RF_KERNELS_CPU_ATTENTION_BACKWARD_H

#include "common/kernels/cpu/attention.h"

enum {
    CHUNK_TILES = 4, /* a chunk and all that a unit needs with it stay in the L2 cache */
    CHUNK = CHUNK_TILES * RF_KEY_TILE, /* keys */
    STEP = 32,           /* keys of a step with bf16; fewer are carried to the next chunk */
    KEYS = CHUNK + STEP, /* those carried from the chunk before, and the chunk's own */
    /* Floats from row to row: no powers of two, so that rows lie in different sets of the L1. */
    LD_P = RF_KEY_TILE + 16,
    LD_DS = KEYS + 16,
    LD_SUMS = CHUNK + 16,
    /* In a tile a product begins at a key that is a multiple of GRAIN: where a panel begins or,
     * if a tile is a single panel, a vector. */
    WIDEST = (int)BF16_PANEL > (int)PANEL ? BF16_PANEL : PANEL,
    NARROWEST = (int)BF16_PANEL < (int)PANEL ? BF16_PANEL : PANEL,
    GRAIN = (int)NARROWEST < (int)RF_KEY_TILE ? NARROWEST : VL,
    PAIRS = KEYS / 2 + STEP / 2 /* cells in a column of k, with a whole step from any of them on */
};
_Static_assert((int)RF_KEY_TILE % (int)WIDEST == 0, "a tile of keys is whole panels");
_Static_assert((int)STEP % (2 * (int)BF16_CELLS) == 0, "whole steps of every ISA");

/* A thread's scratch: the rows of one run, and the keys of one chunk. */
typedef struct workspace {
    float *q, *do_, *dq;          /* [rows, ld] */
    float *p;                     /* [rows, LD_P] of one tile */
    float *ds;                    /* [rows, LD_DS] the first key is STEP before the chunk */
    float *k;                     /* [KEYS + STEP, ld] likewise; keys that are not finite are 0 */
    float *k_columns, *v_columns; /* panels of k^T and v^T, tile by tile: [K, RF_KEY_TILE] each */
    float *dk, *dv;               /* [CHUNK, ld]; bf16: transposed, [K, LD_SUMS] */
    float *lse, *delta;           /* [rows] lse / ln 2 */
    float *limit[2];              /* [rows] see tile_view */
    /* bf16 only: operands in cells */
    float *q_cells, *do_cells;   /* [rows, cells_ld(K)] */
    float *q_turned, *do_turned; /* [K, cells_ld(rows)] transposed */
    float *p_cells;              /* panels of p or ds of a tile: [rows / 2, RF_KEY_TILE] */
    float *ds_cells;             /* [rows, cells_ld(KEYS)] */
    float *k_cells[2];           /* panels of k: [PAIRS, K], of keys 0 and 1, 2 and 3 .. of w->k;
                                      of keys 1 and 2, 3 and 4 .. for steps that begin at odd keys */
} workspace;

typedef struct key_chunk {
    int64_t index, key, n_keys, kv_head; /* keys [key, key + n_keys) */
    bool odd;                            /* bf16: k_cells[1] is packed */
} key_chunk;

/* What the rows of a run see of a tile, in offsets from the tile's first key. All keys that any row
 * sees lie in [begin, end), begin being a multiple of GRAIN. Row r sees those from from[0] to below
 * limit[0][r], and those from from[1] to below limit[1][r]. (Offsets are small, so that f32 holds
 * them.) */
typedef struct tile_view {
    int64_t begin, end;
    int64_t from[2];
    const float *limit[2]; /* [rows] */
    bool all;              /* every row sees all of [begin, end) */
} tile_view;

/* Looks at the tile [key, key + n_keys) and sets w->limit. False where no row sees any of it. */
bool RF_CPU(attention_look)(tile_view *view, const attention *t, const workspace *w,
                            const query_run *run, int64_t key, int64_t n_keys);
/* p and ds of tile `tile` of a chunk for a run's rows; adds their part to dk and dv of its keys. */
void RF_CPU(attention_take_tile)(const attention *t, const workspace *w, const tile_view *view,
                                 int64_t tile, int64_t rows);
/* w->dq += ds k over the keys of a chunk that a run sees. f32: one chain, key by key. bf16: whole
 * steps from the span's begin on: those of carry [rows, STEP], which the chunk before left, first;
 * what remains at this chunk's end is left there. */
void RF_CPU(attention_add_to_queries)(float *carry, const attention *t, const workspace *w,
                                      const query_run *run, key_chunk *chunk);

#endif
