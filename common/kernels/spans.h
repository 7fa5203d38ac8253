/* spans.h: what each query may attend.                                         all local
 *
 * Query i of N attends the keys [b0,e0) and [b1,e1) of M (ALGORITHM: "attention is described by
 * spans"): ordered, disjoint (e0 <= b1 unless one is empty), possibly empty; a query without keys
 * has output and gradients 0. From the spans the host makes an index of blocks once per batch, so
 * that the kernels visit visible tiles only, and in an order that depends on a query's own spans
 * alone.
 *
 * rf_spans_build brings the spans into a canonical form without changing what is seen: an empty
 * span becomes [0,0), and where only the second span has keys, it becomes the first. Therefore all
 * first spans of a block are empty or none is, likewise all second spans, and a block's first range
 * ends where its second begins or before: block[b][3] <= block[b][4] unless the second is empty.
 */
#ifndef RF_KERNELS_SPANS_H
#define RF_KERNELS_SPANS_H

#include "common/kernels/backend.h"

typedef struct rf_spans {
    int64_t n; /* N queries */
    int64_t m; /* M keys */
    const int32_t
        *span; /* [N,2,2] begin, end of each span, canonical; index class, backend memory */
    /* Query blocks: runs of at most RF_QUERY_BLOCK consecutive queries whose two spans begin at the
     * same keys. Block b holds queries [block[b][0], block[b][1]); its spans begin at block[b][2]
     * and block[b][4]; the largest ends are block[b][3] and block[b][5]. [n_blocks,6] */
    int64_t n_blocks;
    const int32_t *block;
    /* For each key tile t (keys [t*RF_KEY_TILE, (t+1)*RF_KEY_TILE)), the blocks that see any of its
     * keys: tile_block[tile_begin[t] .. tile_begin[t+1]), ascending. Only with backward. */
    int64_t n_tiles;
    const int32_t *tile_begin; /* [n_tiles+1] */
    const int32_t *tile_block;
} rf_spans;

enum { RF_QUERY_BLOCK = 32, RF_KEY_TILE = 64 };

/* Backend memory that rf_spans_build needs at most for n queries and m keys. */
size_t rf_spans_bytes(const rf_backend *backend, int64_t n, int64_t m, int backward);

/* Checks host_span [N,2,2] (host memory) and builds the index in `memory` (backend memory of at
 * least rf_spans_bytes). *out points into it. A span outside [0,m), out of order or overlapping is
 * an error naming the query; so is n or m outside [0, 2^31). Allocates nothing. */
RF_MUST_CHECK int rf_spans_build(rf_spans *out, rf_ctx *ctx, void *memory, size_t bytes,
                                 const int32_t *host_span, int64_t n, int64_t m, int backward,
                                 rf_error *err);

#endif
