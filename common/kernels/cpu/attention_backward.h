/* attention_backward.h: a chunk of keys in the backward pass of attention.        all local
 *
 * attention_backward.c says what is done in which order; attention_tile.c does one tile of keys, or
 * one block's dq, of it.
 */
#ifndef RF_KERNELS_CPU_ATTENTION_BACKWARD_H
#define RF_KERNELS_CPU_ATTENTION_BACKWARD_H

#include "common/kernels/cpu/attention.h"

enum {
    CHUNK_TILES = 4, /* with all that belongs to it, a chunk stays in the L2 cache */
    CHUNK = CHUNK_TILES * RF_KEY_TILE,
    STEP = 32,               /* keys of a step with bf16, and the most that are carried over */
    KEYS = CHUNK + STEP,     /* of a chunk, behind those carried over */
    LD_P = RF_KEY_TILE + 16, /* not powers of two: rows fall into different sets of the L1 cache */
    LD_DS = KEYS + 16,
    LD_SUMS = CHUNK + 16,
    /* Products begin at a multiple of GRAIN of a tile's keys: whole panels, or vectors of one. */
    WIDEST = (int)BF16_PANEL > (int)PANEL ? BF16_PANEL : PANEL,
    NARROWEST = (int)BF16_PANEL < (int)PANEL ? BF16_PANEL : PANEL,
    GRAIN = (int)NARROWEST < (int)RF_KEY_TILE ? NARROWEST : VL,
    PAIRS = KEYS / 2 + STEP / 2 /* cells of a column of k: steps may begin at any of them */
};
_Static_assert((int)RF_KEY_TILE % (int)WIDEST == 0, "a tile of keys is whole panels");
_Static_assert((int)STEP % (2 * (int)BF16_CELLS) == 0, "whole steps of every ISA");

/* A thread's scratch. */
typedef struct workspace {
    float *q, *do_, *dq; /* [rows, ld] a block's rows */
    float *p;            /* [rows, LD_P] of one tile */
    float *ds;           /* [rows, LD_DS] keys from STEP before the chunk on */
    float *k;            /* [KEYS + STEP, ld] likewise; numbers that are not finite are 0 */
    float *k_columns;    /* panels of k^T and v^T, tile by tile: [K, RF_KEY_TILE] each */
    float *v_columns;    /*  */
    float *dk, *dv;      /* [CHUNK, ld]; bf16: [K, LD_SUMS] */
    float *lse, *delta;  /* [rows] lse / ln 2 */
    float *limit[2];     /* [rows] */
    /* bf16: */
    float *q_cells, *do_cells;   /* [rows, cells_ld(K)] */
    float *q_turned, *do_turned; /* [K, cells_ld(rows)] transposed */
    float *p_cells;              /* panels of p or ds of a tile: [rows / 2, RF_KEY_TILE] */
    float *ds_cells;             /* [rows, cells_ld(KEYS)] */
    float *k_cells[2];           /* panels of k: [PAIRS, K], pairs from key 0 and 1 on */
} workspace;

typedef struct key_chunk {
    int64_t index, key, n_keys, kv_head;
    bool odd; /* bf16: k_cells[1] is packed */
} key_chunk;

/* What of a tile the rows of a block see, as offsets from the tile's first key: [begin, end), begin
 * a multiple of GRAIN, holds all that any row sees. Row r sees, of these, those below limit[0][r]
 * from from[0] on, and likewise [1]. Offsets are small, so f32 holds them. */
typedef struct tile_view {
    int64_t begin, end;
    int64_t from[2];
    const float *limit[2]; /* [rows] */
    bool all;              /* every row sees all of [begin, end) */
} tile_view;

/* Looks at the tile [key, key + n_keys) and sets w->limit. False where no row sees any of it. */
bool RF_CPU(attention_look)(tile_view *view, const attention *t, const workspace *w,
                            const query_block *b, int64_t key, int64_t n_keys);
/* p and ds of tile `tile` of a chunk for a block's rows; dk and dv of its keys grow. */
void RF_CPU(attention_take_tile)(const attention *t, const workspace *w, const tile_view *view,
                                 int64_t tile, int64_t rows);
/* w->dq += ds k over the keys that a block sees of a chunk. f32: a chain, key by key. bf16: whole
 * steps from the span's begin on; what remains at the chunk's end goes to the next chunk, as what
 * remained of the chunk before has come here. carry [rows, STEP]: the block's. */
void RF_CPU(attention_take_queries)(float *carry, const attention *t, const workspace *w,
                                    const query_block *b, key_chunk *chunk);

#endif
