/* Collectives on 1, 2 and 4 ranks, the exchange of backend memory, and the sum over ranks whose bits
 * do not depend on their number. */
#include "tests/mpi.h"

#include "common/base/rng.h"
#include "common/kernels/kernels.h"

#include <math.h>
#include <sys/time.h>

static rf_error error;

#define MUST(call) cr_assert((call) == RF_OK, "%s: %s", #call, error.message)

/* --- Small collectives ------------------------------------------------------------------------ */

static void check_small(rf_dist *dist)
{
    int rank = rf_dist_rank(dist), size = rf_dist_size(dist);
    cr_assert(rank >= 0 && rank < size);
    cr_assert(rf_dist_local_size(dist) == size);

    int64_t x[3] = {rank, -rank, 7};
    MUST(rf_dist_max_i64(dist, x, 3, &error));
    cr_assert(x[0] == size - 1 && x[1] == 0 && x[2] == 7);
    int64_t y[2] = {rank, INT64_C(1) << 40};
    MUST(rf_dist_sum_i64(dist, y, 2, &error));
    cr_assert(y[0] == size * (size - 1) / 2 && y[1] == size * (INT64_C(1) << 40));
    MUST(rf_dist_sum_i64(dist, NULL, 0, &error));

    char text[32] = "";
    snprintf(text, sizeof text, "from %d", rank);
    MUST(rf_dist_broadcast(dist, text, sizeof text, size - 1, &error));
    char wanted[32];
    snprintf(wanted, sizeof wanted, "from %d", size - 1);
    cr_assert(strcmp(text, wanted) == 0);
    MUST(rf_dist_broadcast(dist, NULL, 0, 0, &error));

    double mine[2] = {rank + 0.5, -rank}, all[2 * 8];
    MUST(rf_dist_allgather_f64(dist, all, mine, 2, &error));
    unsigned char byte = (unsigned char)(200 + rank), bytes[8];
    MUST(rf_dist_allgather_bytes(dist, bytes, &byte, 1, &error));
    for (int r = 0; r < size; r++) {
        cr_assert(all[2 * r] == r + 0.5 && all[2 * r + 1] == -r && bytes[r] == 200 + r);
    }
    MUST(rf_dist_agree(dist, RF_OK, &error));
}

static void check_agree(rf_dist *dist)
{
    int rank = rf_dist_rank(dist), size = rf_dist_size(dist);
    rf_error err = {0};
    cr_assert(rf_dist_agree(dist, RF_OK, &err) == RF_OK && err.message[0] == '\0');

    int code = rank == size - 1 ? rf_error_set(&err, RF_ERR_RETRY, "the disk is gone") : RF_OK;
    cr_assert(rf_dist_agree(dist, code, &err) == RF_ERR_RETRY && err.code == RF_ERR_RETRY);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "rank %d: the disk is gone", size - 1);
    cr_assert(strcmp(err.message, size > 1 ? wanted : "the disk is gone") == 0, "%s", err.message);

    /* Several fail: everyone hears of the lowest. */
    rf_error_set(&err, rank == 0 ? RF_ERR : RF_ERR_USAGE, "failure of %d", rank);
    cr_assert(rf_dist_agree(dist, err.code, &err) == RF_ERR);
    cr_assert(strstr(err.message, "failure of 0") != NULL);
    cr_assert(rf_dist_agree(dist, rank == 0 ? RF_ERR : RF_OK, NULL) == RF_ERR);
}

static void check_same_text(rf_dist *dist)
{
    char text[64];
    rf_error err = {0};
    MUST(rf_dist_same_text(dist, "", &error));
    MUST(rf_dist_same_text(dist, "a 1\nb 2\n", &error));
    /* the last rank differs, in its second line, or has a line more */
    bool is_last = rf_dist_rank(dist) == rf_dist_size(dist) - 1;
    for (int more = 0; more < 2 && rf_dist_size(dist) > 1; more++) {
        snprintf(text, sizeof text, "a 1\nb %d\n%s", is_last && !more ? 3 : 2,
                 is_last && more ? "c 4\n" : "");
        cr_assert(rf_dist_same_text(dist, text, &err) == RF_ERR_USAGE);
        char wanted[64];
        snprintf(wanted, sizeof wanted, "rank %d: this rank has \"%s\" and rank 0 has \"%s\"",
                 rf_dist_size(dist) - 1, more ? "c 4" : "b 3", more ? "" : "b 2");
        cr_assert(strstr(err.message, wanted) != NULL, "%s", err.message);
    }
}

MPI_TEST(dist, small_2, 2)
{
    check_small(dist);
    check_agree(dist);
    check_same_text(dist);
}
MPI_TEST(dist, small_4, 4)
{
    check_small(dist);
    check_agree(dist);
    check_same_text(dist);
}

/* Not started by mpirun at all. */
Test(dist, alone)
{
    rf_dist *dist = NULL;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    cr_assert(rf_dist_size(dist) == 1);
    check_small(dist);
    check_agree(dist);
    check_same_text(dist);
    rf_dist_close(dist);
    rf_dist_close(NULL);
}

Test(dist, opens_once)
{
    mpi_need();
    rf_dist *dist = NULL, *again = NULL;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    MUST(rf_dist_open(&again, NULL, NULL, &error)); /* MPI runs already: shared */
    rf_dist_close(again);
    MUST(rf_dist_agree(dist, RF_OK, &error));
    rf_dist_close(dist);
    cr_assert(rf_dist_open(&dist, NULL, NULL, &error) == RF_ERR && dist == NULL);
    cr_assert(strstr(error.message, "cannot start again") != NULL, "%s", error.message);
}

/* A program without MPI that mpirun starts twice would be two lone programs. */
Test(dist, many_without_mpi)
{
    if (strcmp(rf_dist_library(), "none") != 0) {
        setenv("SLURM_STEP_NUM_TASKS", "2", 1);
    } else {
        setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    }
    rf_dist *dist = NULL;
    cr_assert(rf_dist_open(&dist, NULL, NULL, &error) == RF_ERR_USAGE && dist == NULL);
}

Test(dist, library_name)
{
    const char *name = rf_dist_library();
    cr_assert(name[0] != '\0' && strpbrk(name, ",\n\t") == NULL, "%s", name);
}

/* --- Reduction -------------------------------------------------------------------------------- */

enum { LEAVES = 4 };

/* Element i of leaf `leaf`: signs and magnitudes of which every other order of summation shows. */
static double element(int leaf, int64_t i)
{
    rf_rng rng = RF_RNG_STREAM(5, RF_RNG_TEST, (uint64_t)leaf, (uint64_t)i);
    double magnitude = rf_rng_uniform(&rng) * 12.0 - 6.0;
    return rf_rng_normal(&rng) * pow(10.0, magnitude);
}

static rf_ctx *make_ctx(const char *backend_name)
{
    const rf_backend *backend = NULL;
    rf_ctx *ctx = NULL;
    rf_limits limits = {.places = 1,
                        .keys = 1,
                        .width = 2,
                        .n_heads = 1,
                        .n_kv_heads = 1,
                        .head_dim = 2,
                        .ffn = 2,
                        .vocab = 2};
    MUST(rf_backend_choose(&backend, backend_name, &error));
    MUST(rf_ctx_new(&ctx, backend, 1, &limits, &error));
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

static void check_reduce(rf_dist *dist, const char *backend_name, int64_t n)
{
    rf_ctx *ctx = make_ctx(backend_name);
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
    cr_assert(memcmp(a, b, (size_t)n * sizeof *a) == 0, "%s: %zu bytes", backend_name, bytes);
    rf_exchange_free(exchange);
    free(a);
    free(b);
    rf_backend_free(ctx, x);
    rf_backend_free(ctx, wanted);
    rf_backend_free(ctx, work);
    rf_ctx_free(ctx);
}

static void check_reduces(rf_dist *dist)
{
    static const int64_t sizes[] = {0, 1, 17, 1000, RF_SUM_RUN + 99, 4 * RF_SUM_RUN};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_reduce(dist, "", sizes[i]);
        check_reduce(dist, "ref64", sizes[i]);
    }
}

Test(reduce, exact_1)
{
    rf_dist *dist = NULL;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    check_reduces(dist);
    rf_dist_close(dist);
}
MPI_TEST(reduce, exact_2, 2)
{
    check_reduces(dist);
}
MPI_TEST(reduce, exact_4, 4)
{
    check_reduces(dist);
}

/* More than one bucket, with a ragged last one; small integers, whose sums are exact. */
MPI_TEST(reduce, many_buckets, 4)
{
    const int64_t n = 2 * (25 << 18) + 1234567;
    rf_ctx *ctx = make_ctx("");
    float *value = malloc((size_t)n * sizeof *value);
    void *x = alloc(ctx, n), *work = NULL;
    rf_exchange *exchange = rf_exchange_new(dist, RF_CHANNEL_GRADIENTS);
    size_t work_bytes = rf_dist_reduce_bytes(dist, ctx->backend, n);
    cr_assert(work_bytes <= (size_t)26 << 20, "work stays small: %zu bytes", work_bytes);
    MUST(rf_backend_alloc(&work, ctx, work_bytes, &error));
    for (int64_t i = 0; i < n; i++) {
        value[i] = (float)((i * 7 + rf_dist_rank(dist) * 13) % 1001);
    }
    rf_backend_upload(ctx, x, RF_MASTER, value, RF_F32, n);
    MUST(rf_dist_reduce(dist, exchange, ctx, x, n, work, &error));
    rf_backend_download(ctx, value, RF_F32, x, RF_MASTER, n);
    for (int64_t i = 0; i < n; i++) {
        int64_t sum = 0;
        for (int r = 0; r < 4; r++) {
            sum += (i * 7 + r * 13) % 1001;
        }
        if (value[i] != (float)sum) {
            cr_assert(false, "element %lld: %g", (long long)i, (double)value[i]);
        }
    }
    free(value);
    rf_exchange_free(exchange);
    rf_backend_free(ctx, x);
    rf_backend_free(ctx, work);
    rf_ctx_free(ctx);
}

/* A number of ranks that is no power of two: the third one's version comes to the sum of the first
 * two. */
MPI_TEST(reduce, odd_ranks, 3)
{
    enum { N = 50 };
    rf_ctx *ctx = make_ctx("");
    rf_exchange *exchange = rf_exchange_new(dist, RF_CHANNEL_GRADIENTS);
    void *x = alloc(ctx, N), *work = NULL;
    float value[N];
    MUST(rf_backend_alloc(&work, ctx, rf_dist_reduce_bytes(dist, ctx->backend, N), &error));
    fill_tree(ctx, x, rf_dist_rank(dist), 1, N);
    MUST(rf_dist_reduce(dist, exchange, ctx, x, N, work, &error));
    rf_backend_download(ctx, value, RF_F32, x, RF_MASTER, N);
    for (int i = 0; i < N; i++) {
        float sum = (float)element(0, i) + (float)element(1, i);
        cr_assert(value[i] == sum + (float)element(2, i), "element %d", i);
    }
    rf_exchange_free(exchange);
    rf_backend_free(ctx, x);
    rf_backend_free(ctx, work);
    rf_ctx_free(ctx);
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
    f->slot = rf_dist_slot(dist, n);
    f->begin = rf_dist_slice_begin(dist, n, f->rank);
    f->mine = rf_dist_slice_begin(dist, n, f->rank + 1) - f->begin;
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
        int64_t end = rf_dist_slice_begin(dist, f->n, r + 1);
        for (int64_t i = rf_dist_slice_begin(dist, f->n, r); i < end; i++) {
            cr_assert(value[i] == integer(2, r, i), "slice of %d", r);
        }
    }
    free(value);
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
static void check_exchange(rf_dist *dist, const char *backend, int64_t n)
{
    rf_ctx *ctx = make_ctx(backend);
    flight f;
    for (int order = 0; order < 2; order++) {
        take_off(&f, dist, ctx, n);
        for (int k = 0; k < IN_FLIGHT; k++) {
            MUST(rf_exchange_wait(f.exchange[order == 0 ? k : IN_FLIGHT - 1 - k], &error));
        }
        check_landed(&f, dist, ctx);
        MUST(rf_exchange_wait(f.exchange[0], &error)); /* fine after its end */
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

static void check_exchanges(rf_dist *dist)
{
    static const int64_t sizes[] = {0, 1, 16, 17, 1000, 300001};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_exchange(dist, "", sizes[i]);
        check_exchange(dist, "ref64", sizes[i]);
    }
}

Test(exchange, alone)
{
    rf_dist *dist = NULL;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    check_exchanges(dist);
    rf_dist_close(dist);
}
MPI_TEST(exchange, on_two_ranks, 2)
{
    check_exchanges(dist);
}
MPI_TEST(exchange, on_three_ranks, 3)
{
    check_exchanges(dist);
}
MPI_TEST(exchange, on_four_ranks, 4)
{
    check_exchanges(dist);
}

/* --- Ends ------------------------------------------------------------------------------------- */

/* One rank breaks an invariant while the other waits for it: both end, and the rank is named. */
Test(dist, panic_ends_all)
{
    static char output[1 << 16];
    mpi_need();
    if (!mpi_is_inside()) {
        int status = mpi_launch(output, sizeof output, "dist/panic_ends_all", 2, NULL);
        cr_assert(status != 0 && status != 124, "exit status %d\n%s", status, output);
        cr_assert(strstr(output, "rank 1: ") != NULL, "%s", output);
        cr_assert(strstr(output, "broken invariant: ") != NULL, "%s", output);
        return;
    }
    rf_dist *dist = NULL;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    RF_ASSERT(rf_dist_rank(dist) == 0 || 1 == 2);
    MUST(rf_dist_agree(dist, RF_OK, &error));
}

Test(dist, abort_ends_all)
{
    static char output[1 << 16];
    mpi_need();
    if (!mpi_is_inside()) {
        int status = mpi_launch(output, sizeof output, "dist/abort_ends_all", 2, NULL);
        cr_assert(status != 0 && status != 124, "exit status %d\n%s", status, output);
        return;
    }
    rf_dist *dist = NULL;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    if (rf_dist_rank(dist) == 1) {
        rf_dist_abort(dist, 5);
    }
    MUST(rf_dist_agree(dist, RF_OK, &error));
}
