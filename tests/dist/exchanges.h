/* exchanges.h: what must hold of exchanges of any backend's memory (test_dist.c, test_link.c). */
#ifndef RF_TESTS_DIST_EXCHANGES_H
#define RF_TESTS_DIST_EXCHANGES_H

#include "tests/mpi.h"

#include "common/base/rng.h"
#include "common/kernels/kernels.h"

#include <math.h>

static rf_error error;

#define MUST(call) cr_assert((call) == RF_OK, "%s: %s", #call, error.message)

/* --- Reduction -------------------------------------------------------------------------------- */

enum { LEAVES = 4 };

/* Element i of leaf `leaf`: signs and magnitudes of which every other order of summation shows. */
static double element(int leaf, int64_t i)
{
    rf_rng rng = RF_RNG_STREAM(5, RF_RNG_TEST, (uint64_t)leaf, (uint64_t)i);
    double magnitude = rf_rng_uniform(&rng) * 12.0 - 6.0;
    return rf_rng_normal(&rng) * pow(10.0, magnitude);
}

/* Ranks are connected, where the backend has a way. */
static rf_ctx *make_ctx(rf_dist *dist, const rf_backend *backend)
{
    rf_ctx *ctx = NULL;
    rf_limits limits = {.places = 1,
                        .keys = 1,
                        .width = 2,
                        .n_heads = 1,
                        .n_kv_heads = 1,
                        .head_dim = 2,
                        .ffn = 2,
                        .vocab = 2};
    MUST(rf_ctx_new(&ctx, backend, 1, &limits, &error));
    MUST(rf_dist_connect(dist, ctx, &error));
    return ctx;
}

static void *alloc(rf_ctx *ctx, int64_t n)
{
    void *memory = NULL;
    MUST(rf_backend_alloc(&memory, ctx, rf_backend_bytes(ctx->backend, RF_MASTER, n), &error));
    return memory;
}

/* x = balanced tree over leaves [first, first+n_leaves), as a rank makes it before the reduction.
 */
static void fill_tree(rf_ctx *ctx, void *x, int first, int n_leaves, int64_t n)
{
    if (n_leaves == 1) {
        double *value = malloc((size_t)n * sizeof *value + 1);
        cr_assert(value != NULL);
        for (int64_t i = 0; i < n; i++) {
            value[i] = element(first, i);
        }
        rf_backend_upload(ctx, x, RF_MASTER, value, RF_F64, n);
        rf_backend_wait(ctx, rf_backend_record(ctx));
        free(value);
        return;
    }
    void *right = alloc(ctx, n);
    fill_tree(ctx, x, first, n_leaves / 2, n);
    fill_tree(ctx, right, first + n_leaves / 2, n_leaves / 2, n);
    ctx->backend->kernels->add(ctx, x, right, n);
    rf_backend_free(ctx, right);
}

static void check_reduce(rf_dist *dist, const rf_backend *backend, int64_t n)
{
    rf_ctx *ctx = make_ctx(dist, backend);
    int size = rf_dist_size(dist), share = LEAVES / size;
    void *x = alloc(ctx, n), *wanted = alloc(ctx, n), *work = NULL;
    rf_exchange *exchange = rf_exchange_new(dist, RF_CHANNEL_GRADIENTS);
    size_t work_bytes = rf_dist_reduce_bytes(dist, ctx->backend, n);
    MUST(rf_backend_alloc(&work, ctx, work_bytes, &error));
    fill_tree(ctx, x, rf_dist_rank(dist) * share, share, n);
    fill_tree(ctx, wanted, 0, LEAVES, n); /* one rank's tree */
    MUST(rf_dist_reduce(dist, exchange, ctx, x, n, work, &error));
    size_t bytes = rf_backend_bytes(ctx->backend, RF_MASTER, n);
    double *a = malloc((size_t)n * sizeof *a + 1), *b = malloc((size_t)n * sizeof *b + 1);
    rf_backend_download(ctx, a, RF_F64, x, RF_MASTER, n);
    rf_backend_download(ctx, b, RF_F64, wanted, RF_MASTER, n);
    cr_assert(memcmp(a, b, (size_t)n * sizeof *a) == 0, "%s: %zu bytes", backend->name, bytes);
    rf_exchange_free(exchange);
    free(a);
    free(b);
    rf_backend_free(ctx, x);
    rf_backend_free(ctx, wanted);
    rf_backend_free(ctx, work);
    rf_ctx_free(ctx);
}

static void check_reduces_of(rf_dist *dist, const rf_backend *backend)
{
    static const int64_t sizes[] = {0, 1, 17, 1000, RF_SUM_RUN + 99, 4 * RF_SUM_RUN};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_reduce(dist, backend, sizes[i]);
    }
}

/* --- Exchange --------------------------------------------------------------------------------- */

enum { IN_FLIGHT = 3 };

/* Element i of rank r's range number k: small integers, whose sums are exact in any order. */
static double integer(int64_t k, int r, int64_t i)
{
    return (double)((k * 131 + r * 17 + i * 7) % 1001);
}

/* One exchange of each kind over ranges of n elements, all begun before any is over. */
typedef struct flight {
    rf_exchange *exchange[IN_FLIGHT];
    void *range[IN_FLIGHT]; /* [n] */
    void *versions;         /* [size, count] of the first */
    void *slice;            /* of the second */
    int64_t n, begin, mine, slot;
    int64_t first, count; /* the portion of a slice that the first brings */
    int size, rank;
} flight;

static void take_off(flight *f, rf_dist *dist, rf_ctx *ctx, int64_t n)
{
    double *value = malloc((size_t)n * sizeof *value + 1);
    *f = (flight){.n = n, .size = rf_dist_size(dist), .rank = rf_dist_rank(dist)};
    f->slot = rf_slice_slot(n, rf_dist_size(dist));
    f->begin = rf_slice_begin(n, f->rank, rf_dist_size(dist));
    f->mine = rf_slice_begin(n, f->rank + 1, rf_dist_size(dist)) - f->begin;
    cr_assert(value != NULL && f->mine <= f->slot);
    f->first = n % 3 * 100;
    f->count = f->slot - f->first > 0 ? f->slot - f->first : 0;
    f->count -= n % 2 * f->count / 4;
    for (int k = 0; k < IN_FLIGHT; k++) {
        f->exchange[k] = rf_exchange_new(dist, RF_CHANNEL_GRADIENTS);
        f->range[k] = alloc(ctx, n);
        for (int64_t i = 0; i < n; i++) {
            value[i] = integer(k, f->rank, i);
        }
        rf_backend_upload(ctx, f->range[k], RF_MASTER, value, RF_F64, n);
        rf_backend_wait(ctx, rf_backend_record(ctx));
    }
    f->versions = alloc(ctx, f->size * f->slot);
    f->slice = alloc(ctx, f->slot);
    const void *own = rf_backend_at(ctx->backend, RF_MASTER, f->range[2], f->begin);
    MUST(rf_exchange_all_to_all(f->exchange[0], ctx, f->versions, f->range[0], RF_MASTER, n,
                                f->first, f->count, &error));
    MUST(rf_exchange_reduce_scatter(f->exchange[1], ctx, f->slice, f->range[1], RF_MASTER, n,
                                    &error));
    MUST(rf_exchange_all_gather(f->exchange[2], ctx, f->range[2], own, RF_MASTER, n, &error));
    free(value);
}

static void check_landed(const flight *f, rf_dist *dist, rf_ctx *ctx)
{
    double *value = malloc((size_t)f->n * sizeof *value + 1);
    for (int r = 0; r < f->size; r++) {
        const void *row = rf_backend_at(ctx->backend, RF_MASTER, f->versions, r * f->count);
        const int64_t left = f->mine > f->first ? f->mine - f->first : 0;
        const int64_t n = left < f->count ? left : f->count;
        rf_backend_download(ctx, value, RF_F64, row, RF_MASTER, n);
        for (int64_t i = 0; i < n; i++) {
            cr_assert(value[i] == integer(0, r, f->begin + f->first + i), "version %d of %lld", r,
                      (long long)i);
        }
    }
    rf_backend_download(ctx, value, RF_F64, f->slice, RF_MASTER, f->mine);
    for (int64_t i = 0; i < f->mine; i++) {
        double sum = 0.0;
        for (int r = 0; r < f->size; r++) {
            sum += integer(1, r, f->begin + i);
        }
        cr_assert(value[i] == sum, "sum of %lld", (long long)i);
    }
    rf_backend_download(ctx, value, RF_F64, f->range[2], RF_MASTER, f->n);
    for (int r = 0; r < f->size; r++) {
        int64_t end = rf_slice_begin(f->n, r + 1, rf_dist_size(dist));
        for (int64_t i = rf_slice_begin(f->n, r, rf_dist_size(dist)); i < end; i++) {
            cr_assert(value[i] == integer(2, r, i), "slice of %d", r);
        }
    }
    free(value);
}

/* What the three exchanges sent to other ranks, and that their time holds the time they were waited for. */
static void check_cost(const flight *f, rf_dist *dist, const rf_ctx *ctx, rf_exchange_cost before)
{
    const rf_exchange_cost after = rf_dist_exchange_cost(dist);
    int64_t n_sent = f->n - f->mine + f->mine * (f->size - 1);
    for (int r = 0; r < f->size; r++) {
        const int64_t slice = rf_slice_begin(f->n, r + 1, rf_dist_size(dist)) -
                              rf_slice_begin(f->n, r, rf_dist_size(dist));
        const int64_t left = slice > f->first ? slice - f->first : 0;
        n_sent += r == f->rank ? 0 : left < f->count ? left : f->count;
    }
    cr_assert(after.bytes - before.bytes ==
              n_sent * (int64_t)rf_type_bytes(ctx->backend->type[RF_MASTER]));
    cr_assert(after.seconds >= before.seconds && after.waited >= before.waited);
    cr_assert(after.waited - before.waited <= after.seconds - before.seconds + 1e-9);
}

static void land(flight *f, rf_ctx *ctx)
{
    for (int k = 0; k < IN_FLIGHT; k++) {
        rf_exchange_free(f->exchange[k]);
        rf_backend_free(ctx, f->range[k]);
    }
    rf_backend_free(ctx, f->versions);
    rf_backend_free(ctx, f->slice);
}

/* Waited for at once, in the order of their ends and in another; polled while kernels run. */
static void check_exchange(rf_dist *dist, const rf_backend *backend, int64_t n)
{
    rf_ctx *ctx = make_ctx(dist, backend);
    flight f;
    for (int order = 0; order < 2; order++) {
        const rf_exchange_cost before = rf_dist_exchange_cost(dist);
        take_off(&f, dist, ctx, n);
        for (int k = 0; k < IN_FLIGHT; k++) {
            MUST(rf_exchange_wait(f.exchange[order == 0 ? k : IN_FLIGHT - 1 - k], &error));
        }
        check_landed(&f, dist, ctx);
        MUST(rf_exchange_wait(f.exchange[0], &error)); /* fine after its end */
        check_cost(&f, dist, ctx, before);
        land(&f, ctx);
    }
    void *x = alloc(ctx, 4096), *y = alloc(ctx, 4096);
    bool all_done = false;
    take_off(&f, dist, ctx, n);
    while (!all_done) {
        all_done = true;
        for (int k = 0; k < IN_FLIGHT; k++) {
            bool done = false;
            ctx->backend->kernels->add(ctx, x, y, 4096);
            MUST(rf_exchange_poll(f.exchange[k], &done, &error));
            all_done = all_done && done;
        }
    }
    check_landed(&f, dist, ctx);
    land(&f, ctx);
    rf_backend_free(ctx, x);
    rf_backend_free(ctx, y);
    rf_ctx_free(ctx);
}

static void check_exchanges_of(rf_dist *dist, const rf_backend *backend)
{
    static const int64_t sizes[] = {0, 1, 16, 17, 1000, 300001};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_exchange(dist, backend, sizes[i]);
    }
}

#endif
