#include "common/kernels/spans.h"

#include "common/base/arena.h"

#include <inttypes.h>
#include <stdbool.h>

/* Columns of rf_spans.block. */
enum { QUERY_BEGIN, QUERY_END, BEGIN_0, END_0, BEGIN_1, END_1, N_COLUMNS };

static int64_t count_tiles(int64_t m)
{
    return (m + RF_KEY_TILE - 1) / RF_KEY_TILE;
}

size_t rf_spans_bytes(const rf_backend *backend, int64_t n, int64_t m, int backward)
{
    rf_arena arena = {0};
    rf_arena_take(&arena, rf_backend_bytes(backend, RF_INDEX, 4 * n));
    rf_arena_take(&arena, rf_backend_bytes(backend, RF_INDEX, N_COLUMNS * n));
    if (backward) {
        rf_arena_take(&arena, rf_backend_bytes(backend, RF_INDEX, count_tiles(m) + 1));
        rf_arena_take(&arena, rf_backend_bytes(backend, RF_INDEX, n * count_tiles(m)));
    }
    return arena.used;
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

/* Do the spans of query b continue a block that begins like query a's? Queries without keys stay
 * among themselves: otherwise how the queries after some padding are cut into blocks would depend
 * on the amount of padding. (The second spans need no such rule: one that has keys cannot begin at
 * 0, where the first span is.) */
static bool begins_alike(const int32_t *a, const int32_t *b)
{
    return a[0] == b[0] && a[2] == b[2] && (a[0] < a[1]) == (b[0] < b[1]);
}

static int64_t build_blocks(int32_t *block, const int32_t *span, int64_t n)
{
    int64_t n_blocks = 0;
    int32_t *last = NULL;
    for (int64_t i = 0; i < n; i++) {
        const int32_t *own = span + 4 * i;
        if (last == NULL || i - last[QUERY_BEGIN] == RF_QUERY_BLOCK ||
            !begins_alike(span + 4 * (int64_t)last[QUERY_BEGIN], own)) {
            last = block + N_COLUMNS * n_blocks++;
            last[QUERY_BEGIN] = (int32_t)i;
            for (int c = 0; c < 4; c++) {
                last[BEGIN_0 + c] = own[c];
            }
        }
        last[QUERY_END] = (int32_t)(i + 1);
        last[END_0] = own[1] > last[END_0] ? own[1] : last[END_0];
        last[END_1] = own[3] > last[END_1] ? own[3] : last[END_1];
    }
    return n_blocks;
}

/* The tiles that a block sees, each once: [tile[0],tile[1]) and, after them, [tile[2],tile[3]). */
static void find_tiles(int32_t tile[4], const int32_t *block)
{
    for (int s = 0; s < 2; s++) {
        int32_t begin = block[BEGIN_0 + 2 * s], end = block[END_0 + 2 * s];
        tile[2 * s] = begin / RF_KEY_TILE;
        tile[2 * s + 1] = begin < end ? (end - 1) / RF_KEY_TILE + 1 : tile[2 * s];
    }
    if (tile[2] < tile[3] && tile[2] < tile[1]) { /* both ranges touch one tile */
        tile[2] = tile[1];
    }
}

/* Counts into begin[t+1], turns counts into begins, and then fills: while filling, begin[t] is the
 * next free entry of tile t; afterwards it is where tile t ends, so it is shifted back by one. */
static int build_tiles(int32_t *begin, int32_t *list, const int32_t *block, int64_t n_blocks,
                       int64_t n_tiles, rf_error *err)
{
    int32_t tile[4];
    int64_t total = 0;
    for (int64_t t = 0; t <= n_tiles; t++) {
        begin[t] = 0;
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        find_tiles(tile, block + N_COLUMNS * b);
        for (int s = 0; s < 2; s++) {
            for (int32_t t = tile[2 * s]; t < tile[2 * s + 1]; t++) {
                begin[t]++;
                total++;
            }
        }
    }
    if (total > INT32_MAX) {
        return rf_error_set(err, RF_ERR,
                            "attention index: %" PRId64 " pairs of blocks and key tiles are too "
                            "many: use fewer rows at once",
                            total);
    }
    int32_t next = 0;
    for (int64_t t = 0; t <= n_tiles; t++) {
        int32_t count = begin[t];
        begin[t] = next;
        next += count;
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        find_tiles(tile, block + N_COLUMNS * b);
        for (int s = 0; s < 2; s++) {
            for (int32_t t = tile[2 * s]; t < tile[2 * s + 1]; t++) {
                list[begin[t]++] = (int32_t)b;
            }
        }
    }
    for (int64_t t = n_tiles; t > 0; t--) {
        begin[t] = begin[t - 1];
    }
    begin[0] = 0;
    return RF_OK;
}

int rf_spans_build(rf_spans *out, rf_ctx *ctx, void *memory, size_t bytes, const int32_t *host_span,
                   int64_t n, int64_t m, int backward, rf_error *err)
{
    *out = (rf_spans){0};
    if (n < 0 || n > INT32_MAX || m < 0 || m > INT32_MAX) {
        return rf_error_set(err, RF_ERR,
                            "attention of %" PRId64 " queries and %" PRId64
                            " keys: both must be from 0 to 2^31-1: use fewer rows at once",
                            n, m);
    }
    RF_ASSERT(bytes >= rf_spans_bytes(ctx->backend, n, m, backward));
    /* Every backend of this folder lives in host memory, so the index is built in place. */
    rf_arena arena = {.base = memory, .size = bytes};
    int32_t *span = rf_arena_take(&arena, rf_backend_bytes(ctx->backend, RF_INDEX, 4 * n));
    int32_t *block = rf_arena_take(&arena, rf_backend_bytes(ctx->backend, RF_INDEX, N_COLUMNS * n));
    for (int64_t i = 0; i < n; i++) {
        int code = take_query(span + 4 * i, host_span + 4 * i, i, m, err);
        if (code != RF_OK) {
            return code;
        }
    }
    rf_spans spans = {.n = n, .m = m, .span = span, .block = block};
    spans.n_blocks = build_blocks(block, span, n);
    if (backward) {
        spans.n_tiles = count_tiles(m);
        int32_t *begin =
            rf_arena_take(&arena, rf_backend_bytes(ctx->backend, RF_INDEX, spans.n_tiles + 1));
        int32_t *list =
            rf_arena_take(&arena, rf_backend_bytes(ctx->backend, RF_INDEX, n * spans.n_tiles));
        int code = build_tiles(begin, list, block, spans.n_blocks, spans.n_tiles, err);
        if (code != RF_OK) {
            return code;
        }
        spans.tile_begin = begin;
        spans.tile_block = list;
    }
    *out = spans;
    return RF_OK;
}
