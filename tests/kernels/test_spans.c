/* The index of spans against brute force over queries and keys; bad spans are refused. */
#include "tests/kernels/backends.h"
#include "tests/kernels/span_patterns.h"

#include "common/base/alloc.h"
#include "common/kernels/kernels.h"
#include "common/kernels/spans.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <stdlib.h>
#include <string.h>

typedef struct built {
    rf_ctx *ctx;
    void *memory;
    int32_t *host;
    rf_spans spans;
} built;

static int build(built *b, const int32_t *host, int64_t n, int64_t m, bool backward, rf_error *err)
{
    *b = (built){0};
    rf_error unexpected = {0};
    const rf_backend *backend = backend_named("ref32", "");
    cr_assert(rf_ctx_new(&b->ctx, backend, 1, &(rf_limits){0}, &unexpected) == RF_OK);
    const int64_t size = rf_spans_size(n, m, backward);
    const size_t bytes = rf_backend_bytes(backend, RF_INDEX, size);
    cr_assert(rf_backend_alloc(&b->memory, b->ctx, bytes, &unexpected) == RF_OK);
    b->host = rf_alloc((size_t)size, sizeof *b->host);
    return rf_spans_build(&b->spans, b->ctx, b->memory, b->host, size, host, n, m, backward, err);
}

static void release(built *b)
{
    rf_backend_free(b->ctx, b->memory);
    free(b->host);
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

/* Runs cut [0,n) into queries that begin alike, and hold the largest ends. */
static void check_runs(const rf_spans *s)
{
    int32_t next = 0;
    for (int64_t r = 0; r < s->n_runs; r++) {
        const int32_t *run = s->run + 6 * r;
        cr_assert_eq(run[0], next);
        cr_assert(run[1] > run[0] && run[1] - run[0] <= RF_RUN_QUERIES);
        next = run[1];
        int32_t end_0 = 0, end_1 = 0;
        for (int64_t i = run[0]; i < run[1]; i++) {
            const int32_t *span = s->span + 4 * i;
            cr_assert(span[0] == run[2] && span[2] == run[4]);
            cr_assert_eq(span[0] < span[1], run[2] < run[3]);
            cr_assert_eq(span[2] < span[3], run[4] < run[5]);
            end_0 = span[1] > end_0 ? span[1] : end_0;
            end_1 = span[3] > end_1 ? span[3] : end_1;
        }
        cr_assert(run[3] == end_0 && run[5] == end_1);
        cr_assert(run[4] == run[5] || run[3] <= run[4], "ranges of run %ld", (long)r);
    }
    cr_assert_eq(next, s->n);
    cr_assert(s->n == 0 || s->n_runs > 0);
}

static bool in_ranges(const int32_t *tile, int64_t r)
{
    return (tile[0] <= r && r < tile[1]) || (tile[2] <= r && r < tile[3]);
}

/* A run's own ranges show the tile [begin, end) just where one of its queries sees one of the keys;
 * of such runs the first and the last bound the tile's ranges, and the longest series of others
 * between them is left out. */
static void check_tiles(const rf_spans *s)
{
    cr_assert_eq(s->n_tiles, (s->m + RF_KEY_TILE - 1) / RF_KEY_TILE);
    for (int64_t t = 0; t < s->n_tiles; t++) {
        const int32_t *tile = s->tile + 4 * t;
        const int64_t begin = t * RF_KEY_TILE;
        const int64_t end = begin + RF_KEY_TILE < s->m ? begin + RF_KEY_TILE : s->m;
        int64_t first = -1, last = -1, n_between = 0, longest = 0;
        for (int64_t r = 0; r < s->n_runs; r++) {
            const int32_t *run = s->run + 6 * r;
            bool visible = false;
            for (int64_t i = run[0]; i < run[1]; i++) {
                for (int64_t j = begin; j < end; j++) {
                    visible = visible || sees(s->span + 4 * i, j);
                }
            }
            bool by_ranges = (run[2] < run[3] && run[2] < end && run[3] > begin) ||
                             (run[4] < run[5] && run[4] < end && run[5] > begin);
            cr_assert_eq(by_ranges, visible, "tile %ld, run %ld", (long)t, (long)r);
            cr_assert(!visible || in_ranges(tile, r), "tile %ld misses run %ld", (long)t, (long)r);
            if (visible) {
                first = first < 0 ? r : first;
                n_between = last < 0 ? 0 : r - last - 1;
                longest = n_between > longest ? n_between : longest;
                last = r;
            }
        }
        cr_assert(tile[0] <= tile[1] && tile[1] <= tile[2] && tile[2] <= tile[3]);
        cr_assert_eq(tile[3] - tile[0] - (tile[2] - tile[1]),
                     first < 0 ? 0 : last - first + 1 - longest, "tile %ld visits too much",
                     (long)t);
    }
}

Test(spans, index_equals_brute_force)
{
    const int64_t sizes[][2] = {{0, 0},   {0, 5},    {3, 0},     {1, 1},    {31, 31},  {32, 64},
                                {33, 65}, {64, 128}, {100, 100}, {130, 40}, {40, 300}, {300, 300}};
    for (size_t c = 0; c < sizeof(sizes) / sizeof(sizes[0]); c++) {
        int64_t n = sizes[c][0], m = sizes[c][1];
        int32_t *host = calloc((size_t)(4 * n) + 1, sizeof *host);
        cr_assert(host != NULL);
        for (int pattern = 0; pattern < N_SPAN_PATTERNS; pattern++) {
            built b;
            rf_error err = {0};
            fill_spans(host, pattern, n, m);
            cr_assert(build(&b, host, n, m, true, &err) == RF_OK, "%s", err.message);
            check_queries(&b.spans, host);
            check_runs(&b.spans);
            check_tiles(&b.spans);
            release(&b);
            cr_assert(build(&b, host, n, m, false, &err) == RF_OK, "%s", err.message);
            check_runs(&b.spans);
            cr_assert(b.spans.tile == NULL && b.spans.n_tiles == 0);
            release(&b);
        }
        free(host);
    }
}

/* Many random queries of few keys, in runs, so that runs of several queries are common. */
Test(spans, runs_of_random_spans)
{
    enum { N = 200, M = 150 };
    for (uint64_t round = 0; round < 30; round++) {
        rf_rng rng = RF_RNG_STREAM(22, RF_RNG_TEST, round);
        int32_t host[4 * N];
        for (int i = 0; i < N; i++) {
            if (i > 0 && rf_rng_below(&rng, 4) > 0) { /* like the last, with a shorter end */
                memcpy(host + 4 * i, host + 4 * (i - 1), 4 * sizeof *host);
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
        check_runs(&b.spans);
        check_tiles(&b.spans);
        release(&b);
    }
}

/* A packed sample is cut into the same runs wherever it lies, after padding too. */
Test(spans, runs_of_a_sample_do_not_depend_on_where_it_lies)
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
        while (b.spans.run[6 * first] < begin) {
            first++;
        }
        for (int i = 0; i < 3; i++) {
            const int32_t *run = b.spans.run + 6 * (first + i);
            cr_assert_eq(run[0], begin + 32 * i);
            cr_assert_eq(run[1], begin + (i < 2 ? 32 * (i + 1) : LENGTH));
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
        cr_assert(b.spans.n == 0 && b.spans.run == NULL);
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
        int rc = rf_spans_build(&b.spans, b.ctx, b.memory, b.host, 0, NULL, sizes[c][0],
                                sizes[c][1], false, &err);
        cr_assert_eq(rc, RF_ERR);
        cr_assert(strlen(err.message) > 0);
    }
    release(&b);
}

/* --- Cost --------------------------------------------------------------------------------------*/

Test(spans, index_is_linear_in_queries_and_keys)
{
    cr_assert_eq(rf_spans_size(0, 0, true), 0);
    cr_assert(rf_spans_size(131072, 131072, true) <= 11 * 131072);
}

enum { ROW = 4096, PROMPT = 100, RESPONSE = 412 };

/* Rows of samples of PROMPT and RESPONSE places. */
static int64_t causal_row(int32_t *span, int32_t size)
{
    (void)size;
    for (int32_t i = 0; i < ROW; i++) {
        span[4 * i] = i - i % (PROMPT + RESPONSE);
        span[4 * i + 1] = i + 1;
    }
    return ROW;
}

/* A clean copy of each sample, and a noisy one of its response in blocks of `size` (BD3-LM). */
static int64_t block_diffusion_row(int32_t *span, int32_t size)
{
    enum { CLEAN = PROMPT + RESPONSE, SAMPLE = CLEAN + RESPONSE };
    const int64_t n = ROW / SAMPLE * SAMPLE;
    for (int32_t i = 0; i < n; i++, span += 4) {
        const int32_t begin = i - i % SAMPLE, noisy = begin + CLEAN;
        const int32_t at = i < noisy ? i - begin - PROMPT : i - noisy; /* in the response */
        const int32_t block = at / size * size;
        const int32_t end = block + size < RESPONSE ? block + size : RESPONSE;
        span[0] = begin;
        span[1] = at < 0 ? i + 1 : begin + PROMPT + (i < noisy ? end : block);
        span[2] = i < noisy ? 0 : noisy + block;
        span[3] = i < noisy ? 0 : noisy + end;
    }
    return n;
}

typedef struct cost {
    double visible; /* pairs of query and key that attention needs */
    double forward; /* pairs in tiles that begin at a span's begin, each run with all its queries */
    double index;   /* pairs in the key tiles of the index that a run sees */
    double visited; /* runs looked at, tile by tile, over those that see the tile */
} cost;

static cost cost_of(const int32_t *host, int64_t n)
{
    built b;
    rf_error err = {0};
    cost c = {0};
    double seen = 0, visited = 0;
    cr_assert(build(&b, host, n, n, true, &err) == RF_OK, "%s", err.message);
    for (int64_t i = 0; i < n; i++) {
        c.visible += host[4 * i + 1] - host[4 * i] + host[4 * i + 3] - host[4 * i + 2];
    }
    for (int64_t r = 0; r < b.spans.n_runs; r++) {
        const int32_t *run = b.spans.run + 6 * r;
        for (int s = 0; s < 2; s++) {
            int32_t keys = run[3 + 2 * s] - run[2 + 2 * s];
            c.forward += (double)(run[1] - run[0]) * RF_KEY_TILE *
                         (double)((keys + RF_KEY_TILE - 1) / RF_KEY_TILE);
        }
    }
    for (int64_t t = 0; t < b.spans.n_tiles; t++) {
        const int32_t *tile = b.spans.tile + 4 * t;
        const int64_t begin = t * RF_KEY_TILE, end = begin + RF_KEY_TILE;
        for (int64_t r = tile[0]; r < tile[3]; r++) {
            const int32_t *run = b.spans.run + 6 * r;
            bool sees_it = (run[2] < run[3] && run[2] < end && run[3] > begin) ||
                           (run[4] < run[5] && run[4] < end && run[5] > begin);
            c.index += sees_it ? (double)(run[1] - run[0]) * RF_KEY_TILE : 0;
            seen += sees_it;
            visited += in_ranges(tile, r);
        }
    }
    c.visited = visited / seen;
    release(&b);
    return c;
}

/* Of what attention computes, how much is needed (README of common/kernels). */
Test(spans, executed_share_of_training_rows)
{
    const struct {
        const char *name;
        int64_t (*fill)(int32_t *span, int32_t size);
        int32_t size;
        double most_forward, most_index, most_visited;
    } rows[] = {{"causal, refusion", causal_row, 0, 1.13, 1.13, 1.0},
                {"block diffusion, blocks of 32", block_diffusion_row, 32, 1.2, 1.28, 1.0},
                {"block diffusion, blocks of 4", block_diffusion_row, 4, 1.21, 1.31, 1.0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int32_t span[4 * ROW] = {0};
        int64_t n = rows[i].fill(span, rows[i].size);
        cost c = cost_of(span, n);
        cr_log_info("%s: %.3f of all pairs visible; executed over visible: forward %.3f, tiles of "
                    "the index %.3f; runs visited over seeing %.3f",
                    rows[i].name, c.visible / ((double)n * (double)n), c.forward / c.visible,
                    c.index / c.visible, c.visited);
        cr_assert(c.forward <= rows[i].most_forward * c.visible, "%s", rows[i].name);
        cr_assert(c.index <= rows[i].most_index * c.visible, "%s", rows[i].name);
        cr_assert(c.visited <= rows[i].most_visited, "%s: %g", rows[i].name, c.visited);
    }
}
