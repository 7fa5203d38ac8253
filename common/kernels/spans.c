#include "common/kernels/spans.h"

#include <inttypes.h>
#include <string.h>

/* Columns of rf_spans.run and of rf_spans.tile. */
enum { QUERY_BEGIN, QUERY_END, BEGIN_0, END_0, BEGIN_1, END_1, RUN_COLUMNS };
enum { RUN_BEGIN_0, RUN_END_0, RUN_BEGIN_1, RUN_END_1, TILE_COLUMNS };

static int64_t count_tiles(int64_t m)
{
    return (m + RF_KEY_TILE - 1) / RF_KEY_TILE;
}

int64_t rf_spans_size(int64_t n, int64_t m, bool backward)
{
    return (4 + RUN_COLUMNS) * n + (backward ? TILE_COLUMNS * count_tiles(m) : 0);
}

/* One query's spans, checked and in canonical form. */
static int take_query(int32_t *span, const int32_t *host, int64_t query, int64_t m, rf_error *err)
{
    for (int s = 0; s < 2; s++) {
        if (host[2 * s] < 0 || host[2 * s] > host[2 * s + 1] || host[2 * s + 1] > m) {
            return rf_error_set(err, RF_ERR,
                                "attention span %d of query %" PRId64 " is [%" PRId32 ",%" PRId32
                                "): it must lie within the %" PRId64 " keys",
                                s, query, host[2 * s], host[2 * s + 1], m);
        }
    }
    bool first = host[0] < host[1], second = host[2] < host[3];
    if (first && second && host[1] > host[2]) {
        return rf_error_set(err, RF_ERR,
                            "attention spans of query %" PRId64 ", [%" PRId32 ",%" PRId32
                            ") and [%" PRId32 ",%" PRId32 "): they must be in order and disjoint",
                            query, host[0], host[1], host[2], host[3]);
    }
    const int32_t *front = first ? host : host + 2;
    span[0] = first || second ? front[0] : 0;
    span[1] = first || second ? front[1] : 0;
    span[2] = first && second ? host[2] : 0;
    span[3] = first && second ? host[3] : 0;
    return RF_OK;
}

/* Do the spans of query b continue a run that begins like query a's? Queries without keys stay
 * among themselves: otherwise how the queries after some padding are cut into runs would depend on
 * the amount of padding. (The second spans need no such rule: one that has keys cannot begin at 0,
 * where the first span is.) */
static bool begins_alike(const int32_t *a, const int32_t *b)
{
    return a[0] == b[0] && a[2] == b[2] && (a[0] < a[1]) == (b[0] < b[1]);
}

static int64_t build_runs(int32_t *run, const int32_t *span, int64_t n)
{
    int64_t n_runs = 0;
    int32_t *last = NULL;
    for (int64_t i = 0; i < n; i++) {
        const int32_t *own = span + 4 * i;
        if (last == NULL || i - last[QUERY_BEGIN] == RF_RUN_QUERIES ||
            !begins_alike(span + 4 * (int64_t)last[QUERY_BEGIN], own)) {
            last = run + RUN_COLUMNS * n_runs++;
            last[QUERY_BEGIN] = (int32_t)i;
            for (int c = 0; c < 4; c++) {
                last[BEGIN_0 + c] = own[c];
            }
        }
        last[QUERY_END] = (int32_t)(i + 1);
        last[END_0] = own[1] > last[END_0] ? own[1] : last[END_0];
        last[END_1] = own[3] > last[END_1] ? own[3] : last[END_1];
    }
    return n_runs;
}

/* Run r, which comes after all runs that the tile has, sees it. The tile's two ranges lie on either
 * side of the longest gap between its runs; while there is no gap the first range is empty. */
static void add_run(int32_t tile[TILE_COLUMNS], int32_t r)
{
    if (tile[RUN_END_1] == 0) {
        tile[RUN_BEGIN_0] = tile[RUN_END_0] = tile[RUN_BEGIN_1] = r;
    } else if (r - tile[RUN_END_1] > tile[RUN_BEGIN_1] - tile[RUN_END_0]) {
        tile[RUN_END_0] = tile[RUN_END_1];
        tile[RUN_BEGIN_1] = r;
    }
    tile[RUN_END_1] = r + 1;
}

static void build_tiles(int32_t *tile, const int32_t *run, int64_t n_runs, int64_t n_tiles)
{
    for (int64_t c = 0; c < TILE_COLUMNS * n_tiles; c++) {
        tile[c] = 0;
    }
    for (int64_t r = 0; r < n_runs; r++, run += RUN_COLUMNS) {
        int32_t next = 0; /* the first tile not yet visited: both spans may touch the same one */
        for (int s = 0; s < 2; s++) {
            int32_t begin = run[BEGIN_0 + 2 * s], end = run[END_0 + 2 * s];
            int32_t t = begin / RF_KEY_TILE > next ? begin / RF_KEY_TILE : next;
            for (; begin < end && t <= (end - 1) / RF_KEY_TILE; t++) {
                add_run(tile + TILE_COLUMNS * (int64_t)t, (int32_t)r);
                next = t + 1;
            }
        }
    }
}

int rf_spans_build(rf_spans *out, rf_ctx *ctx, void *memory, int32_t *host, int64_t size,
                   const int32_t *host_span, int64_t n, int64_t m, bool backward, rf_error *err)
{
    *out = (rf_spans){0};
    if (n < 0 || n > INT32_MAX || m < 0 || m > INT32_MAX) {
        return rf_error_set(err, RF_ERR,
                            "attention of %" PRId64 " queries and %" PRId64
                            " keys: both must be from 0 to 2^31-1: use fewer rows at once",
                            n, m);
    }
    RF_ASSERT(size >= rf_spans_size(n, m, backward));
    const int64_t n_tiles = backward ? count_tiles(m) : 0;
    const int64_t tiles_at = 4 * n, runs_at = tiles_at + TILE_COLUMNS * n_tiles;
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(take_query(host + 4 * i, host_span + 4 * i, i, m, err));
    }
    const int64_t n_runs = build_runs(host + runs_at, host, n);
    if (backward) {
        build_tiles(host + tiles_at, host + runs_at, n_runs, n_tiles);
    }
    const int64_t n_sent = backward ? n_runs : n; /* see spans.h: run */
    memset(host + runs_at + RUN_COLUMNS * n_runs, 0,
           (size_t)(RUN_COLUMNS * (n_sent - n_runs)) * sizeof *host);
    rf_backend_upload(ctx, memory, RF_INDEX, host, RF_I32, runs_at + RUN_COLUMNS * n_sent);
    *out = (rf_spans){.n = n,
                      .m = m,
                      .span = rf_backend_at(ctx->backend, RF_INDEX, memory, 0),
                      .n_runs = n_runs,
                      .run = rf_backend_at(ctx->backend, RF_INDEX, memory, runs_at),
                      .n_tiles = n_tiles,
                      .tile = backward ? rf_backend_at(ctx->backend, RF_INDEX, memory, tiles_at)
                                       : NULL};
    return RF_OK;
}
