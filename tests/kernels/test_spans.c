/* The index of spans against brute force over queries and keys; bad spans are refused. */
#include "tests/kernels/backends.h"
#include "tests/kernels/span_patterns.h"

#include "common/kernels/kernels.h"
#include "common/kernels/spans.h"

#include <criterion/criterion.h>
#include <string.h>

typedef struct built {
    rf_ctx *ctx;
    void *memory;
    rf_spans spans;
} built;

static int build(built *b, const int32_t *host, int64_t n, int64_t m, bool backward, rf_error *err)
{
    *b = (built){0};
    rf_error unexpected = {0};
    const rf_backend *backend = backend_named("ref32", "");
    cr_assert(rf_ctx_new(&b->ctx, backend, 1, &(rf_limits){0}, &unexpected) == RF_OK);
    size_t bytes = rf_spans_bytes(backend, n, m, backward);
    cr_assert(rf_backend_alloc(&b->memory, b->ctx, bytes, &unexpected) == RF_OK);
    return rf_spans_build(&b->spans, b->ctx, b->memory, bytes, host, n, m, backward, err);
}

static void release(built *b)
{
    rf_backend_free(b->ctx, b->memory);
    rf_ctx_free(b->ctx);
}

static bool sees(const int32_t *span, int64_t key)
{
    return (span[0] <= key && key < span[1]) || (span[2] <= key && key < span[3]);
}

/* Same keys as asked for, ordered and disjoint, canonical. */
static void check_queries(const rf_spans *s, const int32_t *host)
{
    for (int64_t i = 0; i < s->n; i++) {
        const int32_t *span = s->span + 4 * i;
        for (int64_t j = 0; j < s->m; j++) {
            if (sees(span, j) != sees(host + 4 * i, j)) {
                cr_assert_fail("query %ld, key %ld", (long)i, (long)j);
            }
        }
        bool first = span[0] < span[1], second = span[2] < span[3];
        cr_assert(first || (span[0] == 0 && span[1] == 0 && !second), "query %ld", (long)i);
        cr_assert(second ? span[1] <= span[2] : span[2] == 0 && span[3] == 0, "query %ld", (long)i);
    }
}

/* Blocks cut [0,n) into runs that begin alike and hold the largest ends. */
static void check_blocks(const rf_spans *s)
{
    int32_t next = 0;
    for (int64_t b = 0; b < s->n_blocks; b++) {
        const int32_t *block = s->block + 6 * b;
        cr_assert_eq(block[0], next);
        cr_assert(block[1] > block[0] && block[1] - block[0] <= RF_QUERY_BLOCK);
        next = block[1];
        int32_t end_0 = 0, end_1 = 0;
        for (int64_t i = block[0]; i < block[1]; i++) {
            const int32_t *span = s->span + 4 * i;
            cr_assert(span[0] == block[2] && span[2] == block[4]);
            cr_assert_eq(span[0] < span[1], block[2] < block[3]);
            cr_assert_eq(span[2] < span[3], block[4] < block[5]);
            end_0 = span[1] > end_0 ? span[1] : end_0;
            end_1 = span[3] > end_1 ? span[3] : end_1;
        }
        cr_assert(block[3] == end_0 && block[5] == end_1);
        cr_assert(block[4] == block[5] || block[3] <= block[4], "ranges of block %ld", (long)b);
    }
    cr_assert_eq(next, s->n);
    cr_assert(s->n == 0 || s->n_blocks > 0);
}

/* Each tile lists the blocks with a query that sees one of its keys, ascending, and no others. */
static void check_tiles(const rf_spans *s)
{
    cr_assert_eq(s->n_tiles, (s->m + RF_KEY_TILE - 1) / RF_KEY_TILE);
    cr_assert_eq(s->tile_begin[0], 0);
    for (int64_t t = 0; t < s->n_tiles; t++) {
        int32_t entry = s->tile_begin[t];
        int64_t end = (t + 1) * RF_KEY_TILE < s->m ? (t + 1) * RF_KEY_TILE : s->m;
        for (int64_t b = 0; b < s->n_blocks; b++) {
            bool visible = false;
            for (int64_t i = s->block[6 * b]; i < s->block[6 * b + 1]; i++) {
                for (int64_t j = t * RF_KEY_TILE; j < end; j++) {
                    visible = visible || sees(s->span + 4 * i, j);
                }
            }
            if (visible) {
                cr_assert(entry < s->tile_begin[t + 1] && s->tile_block[entry] == b,
                          "tile %ld misses block %ld", (long)t, (long)b);
                entry++;
            }
        }
        cr_assert_eq(entry, s->tile_begin[t + 1], "tile %ld lists too many blocks", (long)t);
    }
}

Test(spans, index_equals_brute_force)
{
    const int64_t sizes[][2] = {{0, 0},   {0, 5},    {3, 0},     {1, 1},    {31, 31},  {32, 64},
                                {33, 65}, {64, 128}, {100, 100}, {130, 40}, {40, 300}, {300, 300}};
    for (size_t c = 0; c < sizeof(sizes) / sizeof(sizes[0]); c++) {
        int64_t n = sizes[c][0], m = sizes[c][1];
        int32_t *host = calloc((size_t)(4 * n) + 1, sizeof(*host));
        cr_assert(host != NULL);
        for (int pattern = 0; pattern < N_SPAN_PATTERNS; pattern++) {
            built b;
            rf_error err = {0};
            fill_spans(host, pattern, n, m);
            cr_assert(build(&b, host, n, m, true, &err) == RF_OK, "%s", err.message);
            check_queries(&b.spans, host);
            check_blocks(&b.spans);
            check_tiles(&b.spans);
            release(&b);
            cr_assert(build(&b, host, n, m, false, &err) == RF_OK, "%s", err.message);
            check_blocks(&b.spans);
            cr_assert(b.spans.tile_begin == NULL && b.spans.tile_block == NULL);
            release(&b);
        }
        free(host);
    }
}

/* Many random queries of few keys, in runs, so that blocks of several queries are common. */
Test(spans, runs_of_random_spans)
{
    enum { N = 200, M = 150 };
    for (uint64_t round = 0; round < 30; round++) {
        rf_rng rng = RF_RNG_STREAM(22, RF_RNG_TEST, round);
        int32_t host[4 * N];
        for (int i = 0; i < N; i++) {
            if (i > 0 && rf_rng_below(&rng, 4) > 0) { /* like the last, with a shorter end */
                memcpy(host + 4 * i, host + 4 * (i - 1), 4 * sizeof(*host));
                int s = 2 * (int)rf_rng_below(&rng, 2);
                uint64_t length = (uint64_t)(host[4 * i + s + 1] - host[4 * i + s]);
                host[4 * i + s + 1] = host[4 * i + s] + (int32_t)rf_rng_below(&rng, length + 1);
            } else {
                random_spans(host + 4 * i, &rng, M);
            }
        }
        built b;
        rf_error err = {0};
        cr_assert(build(&b, host, N, M, true, &err) == RF_OK, "%s", err.message);
        check_queries(&b.spans, host);
        check_blocks(&b.spans);
        check_tiles(&b.spans);
        release(&b);
    }
}

/* A packed sample is cut into the same blocks wherever it lies, after padding too. */
Test(spans, blocks_of_a_sample_do_not_depend_on_its_place)
{
    enum { LENGTH = 70, N = 200 };
    for (int begin = 0; begin <= N - LENGTH; begin += 13) {
        int32_t host[4 * N] = {0};
        for (int i = begin; i < begin + LENGTH; i++) {
            host[4 * i] = begin;
            host[4 * i + 1] = i + 1;
        }
        built b;
        rf_error err = {0};
        cr_assert(build(&b, host, N, N, true, &err) == RF_OK, "%s", err.message);
        int64_t first = 0;
        while (b.spans.block[6 * first] < begin) {
            first++;
        }
        for (int i = 0; i < 3; i++) {
            const int32_t *block = b.spans.block + 6 * (first + i);
            cr_assert_eq(block[0], begin + 32 * i);
            cr_assert_eq(block[1], begin + (i < 2 ? 32 * (i + 1) : LENGTH));
        }
        release(&b);
    }
}

Test(spans, bad_spans_are_refused)
{
    const int32_t bad[][4] = {{-1, 2, 0, 0}, {0, 11, 0, 0},  {5, 4, 0, 0},         {0, 3, 2, 5},
                              {4, 6, 0, 2},  {0, 0, 9, 12},  {0, INT32_MAX, 0, 0}, {0, 0, 3, 1},
                              {0, 0, -7, 0}, {11, 11, 0, 0}, {0, 3, 3, INT32_MIN}, {2, 5, 3, 4}};
    for (size_t c = 0; c < sizeof(bad) / sizeof(bad[0]); c++) {
        int32_t host[4 * 8] = {0};
        memcpy(host + 4 * 5, bad[c], sizeof(bad[c]));
        built b;
        rf_error err = {0};
        cr_assert(build(&b, host, 8, 10, true, &err) == RF_ERR, "case %zu", c);
        cr_assert(strstr(err.message, "query 5") != NULL, "%s", err.message);
        cr_assert(b.spans.n == 0 && b.spans.block == NULL);
        release(&b);
    }
}

Test(spans, touching_and_whole_spans_are_fine)
{
    const int32_t host[] = {0, 4, 4, 10, 0, 10, 10, 10, 10, 10, 0, 10, 3, 3, 1, 1};
    built b;
    rf_error err = {0};
    cr_assert(build(&b, host, 4, 10, true, &err) == RF_OK, "%s", err.message);
    check_queries(&b.spans, host);
    release(&b);
}

Test(spans, bad_sizes_are_refused)
{
    const int64_t sizes[][2] = {{-1, 4}, {4, -1}, {INT64_C(1) << 31, 4}, {4, INT64_C(1) << 31}};
    built b;
    rf_error err = {0};
    cr_assert(build(&b, NULL, 0, 0, false, &err) == RF_OK);
    for (size_t c = 0; c < sizeof(sizes) / sizeof(sizes[0]); c++) {
        int code = rf_spans_build(&b.spans, b.ctx, b.memory, 0, NULL, sizes[c][0], sizes[c][1],
                                  false, &err);
        cr_assert_eq(code, RF_ERR);
        cr_assert(strlen(err.message) > 0);
    }
    release(&b);
}
