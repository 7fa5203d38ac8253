/* spans.h: what each query may attend.                                         all local
 *
 * Query i of N attends the keys [b0,e0) and [b1,e1) of M (ALGORITHM: "attention is described by
 * spans"): ordered, disjoint (e0 <= b1 unless one is empty), possibly empty; a query without keys
 * has output and gradients 0. From the spans the host makes an index once per batch: query runs,
 * and for each tile of keys the runs that may see it. With it the kernels visit visible tiles only,
 * and in an order that depends on a query's own spans alone.
 *
 * rf_spans_build brings the spans into a canonical form without changing what is seen: an empty
 * span becomes [0,0), and where only the second span has keys, it becomes the first. Therefore all
 * first spans of a run are empty or none is, likewise all second spans, and a run's first range
 * ends where its second begins or before: run[r][3] <= run[r][4] unless the second is empty.
 */
#ifndef RF_KERNELS_SPANS_H
#define RF_KERNELS_SPANS_H

#include "common/kernels/backend.h"

#include <stdbool.h>

/* The most queries of a run; keys of a tile. */
enum { RF_RUN_QUERIES = 32, RF_KEY_TILE = 64 };

/* All arrays are backend memory of class index. */
typedef struct rf_spans {
    int64_t n;           /* N queries */
    int64_t m;           /* M keys */
    const int32_t *span; /* [N,2,2] begin and end of each span, canonical */
    /* Query runs: at most RF_RUN_QUERIES consecutive queries whose two spans begin at the same
     * keys. Run r holds queries [run[r][0], run[r][1]); its spans begin at run[r][2] and run[r][4];
     * the largest ends are run[r][3] and run[r][5]. [n_runs,6] */
    int64_t n_runs;
    const int32_t *run; /* without backward [N,6]: those from n_runs on are empty */
    /* Key tile t holds keys [t*RF_KEY_TILE, (t+1)*RF_KEY_TILE). All runs that see any of its keys
     * lie in [tile[t][0], tile[t][1]) and [tile[t][2], tile[t][3]), disjoint, in this order,
     * and each possibly empty. Runs that do not see the tile may lie there too, so a kernel looks
     * at a run's own ranges before it reads its queries. What is left out between the two is the
     * longest series of runs that do not see the tile (in a row with a clean and a noisy copy of a
     * sample, the noisy blocks up to the tile's own). [n_tiles,4]; only with backward */
    int64_t n_tiles;
    const int32_t *tile;
} rf_spans;

/* Elements of class index that the index of n queries and m keys takes at most: O(n + m). */
int64_t rf_spans_size(int64_t n, int64_t m, bool backward);

/* Checks host_span [N,2,2], builds the index in `host` (host memory) and uploads it to `memory`
 * (backend memory), both of `size` elements, at least rf_spans_size. *out points into `memory`;
 * `host` belongs to the upload until the next sync. A span outside [0,m), out of order or
 * overlapping is an error naming the query; so is n or m outside [0, 2^31). Allocates nothing. */
RF_MUST_CHECK int rf_spans_build(rf_spans *out, rf_ctx *ctx, void *memory, int32_t *host,
                                 int64_t size, const int32_t *host_span, int64_t n, int64_t m,
                                 bool backward, rf_error *err);

#endif
