/* Collectives on 1, 2 and 4 ranks, the exchange of backend memory, and the sum over ranks whose bits
 * do not depend on their number. */
#include "tests/dist/exchanges.h"

#include "common/dist/srun.h"
#include "common/dist/threads.h"

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
    MUST(rf_dist_allgather_bytes(dist, all, mine, sizeof mine, &error));
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

/* A program that mpirun (where it is built without MPI) or srun starts twice, and that knows nothing of the other. */
Test(dist, many_that_know_nothing_of_each_other)
{
    const bool has_mpi = strcmp(rf_dist_library(), "none") != 0;
    rf_dist *dist = NULL;
    setenv(has_mpi ? "SLURM_STEP_NUM_TASKS" : "OMPI_COMM_WORLD_SIZE", "2", 1);
    cr_assert(rf_dist_open(&dist, NULL, NULL, &error) == RF_ERR_USAGE && dist == NULL);
    cr_assert(strstr(error.message, "one of 2 ") != NULL, "%s", error.message);
}

/* What srun sets for a PMI that the program does not speak. */
Test(dist, many_by_srun_with_a_strange_pmi)
{
    setenv("SLURM_STEP_NUM_TASKS", "4", 1);
    setenv("PMI_RANK", "2", 1);
    setenv("PMI_SIZE", "4", 1);
    rf_dist *dist = NULL;
    cr_assert(rf_dist_open(&dist, NULL, NULL, &error) == RF_ERR_USAGE && dist == NULL);
    setenv("PMI_SIZE", "1", 1);
    cr_assert_eq(rf_srun_tasks(), 1); /* mpiexec -n 1 within the step */
}

Test(dist, threads_that_the_environment_asks_for)
{
    mpi_need();
    rf_dist *dist = NULL;
    int n = 0;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    setenv("OMP_NUM_THREADS", "3,2", 1);
    MUST(rf_threads_choose(&n, dist, 0, &error));
    cr_assert_eq(n, 3);
    setenv("OMP_NUM_THREADS", "many", 1);
    cr_assert_eq(rf_threads_choose(&n, dist, 0, &error), RF_ERR_USAGE);
    cr_assert(strstr(error.message, "OMP_NUM_THREADS=many") != NULL, "%s", error.message);
    MUST(rf_threads_choose(&n, dist, 2, &error));
    cr_assert_eq(n, 2);
    rf_dist_close(dist);
}

Test(dist, library_name)
{
    const char *name = rf_dist_library();
    cr_assert(name[0] != '\0' && strpbrk(name, ",\n\t") == NULL, "%s", name);
}

/* --- Exchanges -------------------------------------------------------------------------------- */

static const rf_backend *named(const char *name)
{
    const rf_backend *backend = NULL;
    MUST(rf_backend_choose(&backend, name, &error));
    return backend;
}

static void check_reduces(rf_dist *dist)
{
    check_reduces_of(dist, named(""));
    check_reduces_of(dist, named("ref64"));
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
    rf_ctx *ctx = make_ctx(dist, named(""));
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
    rf_ctx *ctx = make_ctx(dist, named(""));
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

static void check_exchanges(rf_dist *dist)
{
    check_exchanges_of(dist, named(""));
    check_exchanges_of(dist, named("ref64"));
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
