#include "common/dist/dist.h"

#include "common/base/log.h"
#include "common/kernels/kernels.h"

#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* One reduction works on this many bytes at a time: long enough for the full bandwidth, short
 * enough that `work` stays small. The boundaries come from the buffer alone, never from the number
 * of ranks. */
#define BUCKET_BYTES ((int64_t)25 << 20)
/* MPI counts are ints. */
#define MESSAGE_BYTES ((size_t)1 << 30)

enum { SLICE_MULTIPLE = 16 }; /* elements; keeps slices at multiples of 64 bytes, as kernels ask */

struct rf_dist {
    MPI_Comm comm; /* our own, so that no other library's messages meet ours */
    int rank, size;
    int local_rank, local_size;
    bool finalize; /* we started MPI */
    int *counts;   /* [4*size] MPI's counts and displacements of a bucket; bucket_plan */
};

/* The hook gets no argument of ours. */
static rf_dist *panicking = NULL;

static void print_and_abort_all(const char *message)
{
    fprintf(stderr, "rank %d: %s\n", panicking->rank, message);
    fflush(stderr);
    rf_dist_abort(panicking, -RF_ERR);
}

/* 0, or RF_ERR_RETRY with MPI's own words. */
static int check(int mpi_code, const char *call, rf_error *err)
{
    if (mpi_code == MPI_SUCCESS) {
        return RF_OK;
    }
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (MPI_Error_string(mpi_code, text, &n) != MPI_SUCCESS) {
        snprintf(text, sizeof text, "error %d", mpi_code);
    }
    return rf_error_set(err, RF_ERR_RETRY,
                        "%s: %s: a rank or the network failed: start again from the checkpoint",
                        call, text);
}

/* --- Start and end ---------------------------------------------------------------------------- */

/* Did mpirun, or srun with a PMI, start this process? */
static bool was_launched(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMIX_RANK") != NULL ||
           getenv("PMI_RANK") != NULL;
}

/* Settings that Open MPI reads when it starts; other libraries ignore them. Values that the user
 * has set stay. */
static void prepare_environment(void)
{
    if (!was_launched()) {
        /* Alone: without this it starts a daemon, which is slow and fails for root in containers.
         */
        setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
        /* All such processes of a user would share one folder in /tmp: where one ends while another
         * starts, the other's MPI_Init fails. */
        setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
    }
    /* Containers may forbid reading another process's memory; Open MPI tries it all the same and
     * prints an error for each message. */
    char from = 0, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != 1) {
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    }
}

/* srun with a PMI that this MPI does not speak starts N programs that each believe to be alone. */
static int refuse_lonely_ranks(const rf_dist *dist, rf_error *err)
{
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (dist->size == 1 && !was_launched() && tasks != NULL && atoi(tasks) > 1) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "started by srun as one of %s tasks, but MPI sees this one alone: use "
                            "mpirun, or srun --mpi=pmix",
                            tasks);
    }
    return RF_OK;
}

static int start_mpi(bool *started, int *argc, char ***argv, rf_error *err)
{
    int is_initialized = 0, is_finalized = 0, provided = 0;
    int rc = check(MPI_Initialized(&is_initialized), "MPI_Initialized", err);
    if (rc == RF_OK) {
        rc = check(MPI_Finalized(&is_finalized), "MPI_Finalized", err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    if (is_finalized) {
        return rf_error_set(err, RF_ERR, "MPI has ended in this process and cannot start again");
    }
    if (is_initialized) {
        rc = check(MPI_Query_thread(&provided), "MPI_Query_thread", err);
    } else {
        prepare_environment();
        rc = check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread",
                   err);
        *started = rc == RF_OK;
    }
    if (rc == RF_OK && provided < MPI_THREAD_FUNNELED) {
        rc = rf_error_set(err, RF_ERR,
                          "this MPI library allows no threads: use one with MPI_THREAD_FUNNELED");
    }
    return rc;
}

static int learn_ranks(rf_dist *dist, rf_error *err)
{
    MPI_Comm host = MPI_COMM_NULL;
    int rc = check(MPI_Comm_dup(MPI_COMM_WORLD, &dist->comm), "MPI_Comm_dup", err);
    if (rc == RF_OK) {
        rc = check(MPI_Comm_set_errhandler(dist->comm, MPI_ERRORS_RETURN),
                   "MPI_Comm_set_errhandler", err);
    }
    if (rc == RF_OK) {
        rc = check(MPI_Comm_rank(dist->comm, &dist->rank), "MPI_Comm_rank", err);
    }
    if (rc == RF_OK) {
        rc = check(MPI_Comm_size(dist->comm, &dist->size), "MPI_Comm_size", err);
    }
    if (rc == RF_OK) {
        dist->counts = calloc(4 * (size_t)dist->size, sizeof *dist->counts);
        rc = dist->counts != NULL ? RF_OK
                                  : rf_error_set(err, RF_ERR, "no memory for %d ranks", dist->size);
    }
    if (rc == RF_OK) {
        rc = check(
            MPI_Comm_split_type(dist->comm, MPI_COMM_TYPE_SHARED, dist->rank, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type", err);
    }
    if (rc == RF_OK) {
        rc = check(MPI_Comm_rank(host, &dist->local_rank), "MPI_Comm_rank", err);
    }
    if (rc == RF_OK) {
        rc = check(MPI_Comm_size(host, &dist->local_size), "MPI_Comm_size", err);
    }
    if (host != MPI_COMM_NULL) {
        MPI_Comm_free(&host);
    }
    return rc;
}

int rf_dist_open(rf_dist **out, int *argc, char ***argv, rf_error *err)
{
    *out = NULL;
    rf_dist *dist = calloc(1, sizeof *dist);
    if (dist == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the communicator");
    }
    dist->comm = MPI_COMM_NULL;
    int rc = start_mpi(&dist->finalize, argc, argv, err);
    if (rc != RF_OK) {
        goto out;
    }
    rc = learn_ranks(dist, err);
    if (rc != RF_OK) {
        goto out;
    }
    rc = refuse_lonely_ranks(dist, err);
    if (rc != RF_OK) {
        goto out;
    }
    panicking = dist;
    rf_error_set_panic_hook(print_and_abort_all);
    rf_log_set_rank(dist->rank, dist->size);
    *out = dist;
    dist = NULL;
out:
    if (dist != NULL && dist->size > 1) {
        /* MPI_Finalize would wait for ranks that wait for this one; leaving without it ends all. */
        dist->finalize = false;
    }
    rf_dist_close(dist);
    return rc;
}

void rf_dist_close(rf_dist *dist)
{
    if (dist == NULL) {
        return;
    }
    if (panicking == dist) {
        rf_error_set_panic_hook(NULL);
        panicking = NULL;
    }
    if (dist->comm != MPI_COMM_NULL) {
        MPI_Comm_free(&dist->comm);
    }
    if (dist->finalize) {
        MPI_Finalize();
    }
    free(dist->counts);
    free(dist);
}

_Noreturn void rf_dist_abort(rf_dist *dist, int status)
{
    /* Open MPI 5's mpirun drops what it has not yet read of the ranks' output: the reason. */
    usleep(300000);
    MPI_Abort(dist->comm, status);
    _Exit(status);
}

int rf_dist_rank(const rf_dist *dist)
{
    return dist->rank;
}

int rf_dist_size(const rf_dist *dist)
{
    return dist->size;
}

int rf_dist_local_rank(const rf_dist *dist)
{
    return dist->local_rank;
}

int rf_dist_local_size(const rf_dist *dist)
{
    return dist->local_size;
}

/* "Open MPI v4.1.4, package: Debian..." becomes "Open MPI 4.1.4", "MPICH Version:\t4.0\n..."
 * "MPICH Version: 4.0". */
const char *rf_dist_library(void)
{
    static char name[128];
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int n = 0;
    if (MPI_Get_library_version(text, &n) != MPI_SUCCESS) {
        return "an unknown MPI";
    }
    size_t used = 0;
    for (const char *c = text; *c != '\0' && *c != ',' && *c != '\n'; c++) {
        bool is_v = *c == 'v' && c > text && c[-1] == ' ' && c[1] >= '0' && c[1] <= '9';
        if (!is_v && used + 1 < sizeof name) {
            name[used++] = *c == '\t' ? ' ' : *c;
        }
    }
    name[used] = '\0';
    return name;
}

/* --- Small collectives ------------------------------------------------------------------------ */

int rf_dist_barrier(rf_dist *dist, rf_error *err)
{
    return check(MPI_Barrier(dist->comm), "MPI_Barrier", err);
}

int rf_dist_broadcast(rf_dist *dist, void *data, size_t bytes, int root, rf_error *err)
{
    RF_ASSERT(root >= 0 && root < dist->size);
    char *at = data;
    int rc = RF_OK;
    while (bytes > 0 && rc == RF_OK) {
        size_t n = bytes < MESSAGE_BYTES ? bytes : MESSAGE_BYTES;
        rc = check(MPI_Bcast(at, (int)n, MPI_BYTE, root, dist->comm), "MPI_Bcast", err);
        at += n;
        bytes -= n;
    }
    return rc;
}

static int allreduce_i64(rf_dist *dist, int64_t *x, int n, MPI_Op op, rf_error *err)
{
    RF_ASSERT(n >= 0);
    return check(MPI_Allreduce(MPI_IN_PLACE, x, n, MPI_INT64_T, op, dist->comm), "MPI_Allreduce",
                 err);
}

int rf_dist_max_i64(rf_dist *dist, int64_t *x, int n, rf_error *err)
{
    return allreduce_i64(dist, x, n, MPI_MAX, err);
}

int rf_dist_sum_i64(rf_dist *dist, int64_t *x, int n, rf_error *err)
{
    return allreduce_i64(dist, x, n, MPI_SUM, err);
}

int rf_dist_allgather_f64(rf_dist *dist, double *all, const double *x, int n, rf_error *err)
{
    RF_ASSERT(n >= 0);
    return rf_dist_allgather_bytes(dist, all, x, (size_t)n * sizeof *x, err);
}

int rf_dist_allgather_bytes(rf_dist *dist, void *all, const void *x, size_t bytes, rf_error *err)
{
    if (bytes > INT_MAX) {
        return rf_error_set(err, RF_ERR, "allgather: %zu bytes of a rank are more than %d", bytes,
                            INT_MAX);
    }
    return check(MPI_Allgather(x, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, dist->comm),
                 "MPI_Allgather", err);
}

int rf_dist_agree(rf_dist *dist, int code, rf_error *err)
{
    if (dist->size == 1) {
        return code;
    }
    int lowest = code != RF_OK ? dist->rank : dist->size;
    rf_error failure = {.code = code};
    if (code != RF_OK && err != NULL) {
        failure = *err;
        failure.code = code;
    }
    int rc = check(MPI_Allreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT, MPI_MIN, dist->comm),
                   "MPI_Allreduce", err);
    if (rc != RF_OK || lowest == dist->size) {
        return rc;
    }
    rc = rf_dist_broadcast(dist, &failure, sizeof failure, lowest, err);
    if (rc != RF_OK) {
        return rc;
    }
    return rf_error_set(err, failure.code, "rank %d: %s", lowest, failure.message);
}

/* --- Reduction -------------------------------------------------------------------------------- */

static int64_t at_most(int64_t x, int64_t limit)
{
    return x < limit ? x : limit;
}

static int64_t bucket_elements(const rf_backend *backend)
{
    return BUCKET_BYTES / (int64_t)rf_type_bytes(backend->type[RF_MASTER]);
}

/* Elements of a bucket of n that one rank sums. Every rank but the last ones gets a full slice. */
static int64_t slice_elements(int64_t n, int size)
{
    int64_t share = (n + size - 1) / size;
    return (share + SLICE_MULTIPLE - 1) / SLICE_MULTIPLE * SLICE_MULTIPLE;
}

/* MPI's counts and displacements of one bucket. */
typedef struct bucket {
    int64_t slice;      /* elements between the slots of `work` */
    int64_t mine;       /* elements of this rank's slice */
    int *part, *begin;  /* [size] slices within x */
    int *count, *place; /* [size] slots within work, one for each rank's version of my slice */
} bucket;

static bucket bucket_plan(rf_dist *dist, int64_t n)
{
    int size = dist->size;
    bucket b = {.slice = slice_elements(n, size),
                .part = dist->counts,
                .begin = dist->counts + size,
                .count = dist->counts + 2 * size,
                .place = dist->counts + 3 * size};
    for (int r = 0; r < size; r++) {
        int64_t begin = at_most(r * b.slice, n);
        b.begin[r] = (int)begin;
        b.part[r] = (int)(at_most(begin + b.slice, n) - begin);
    }
    b.mine = b.part[dist->rank];
    for (int r = 0; r < size; r++) {
        b.count[r] = (int)b.mine;
        b.place[r] = (int)(r * b.slice);
    }
    return b;
}

/* Sums one bucket: every rank gets all versions of its slice, adds them in the tree
 * ((0+1)+(2+3))+((4+5)+(6+7)), and everyone gets every slice. */
static int reduce_bucket(rf_dist *dist, rf_ctx *ctx, void *x, int64_t n, void *work, rf_error *err)
{
    const rf_backend *backend = ctx->backend;
    MPI_Datatype type = backend->type[RF_MASTER] == RF_F64 ? MPI_DOUBLE : MPI_FLOAT;
    bucket b = bucket_plan(dist, n);
    int rc =
        check(MPI_Alltoallv(x, b.part, b.begin, type, work, b.count, b.place, type, dist->comm),
              "MPI_Alltoallv", err);
    if (rc != RF_OK) {
        return rc;
    }
    for (int step = 1; step < dist->size; step *= 2) {
        for (int r = 0; r < dist->size; r += 2 * step) {
            backend->kernels->add(ctx, rf_backend_at(backend, RF_MASTER, work, r * b.slice),
                                  rf_backend_at(backend, RF_MASTER, work, (r + step) * b.slice),
                                  b.mine);
        }
    }
    rf_error asynchronous = {0};
    int sync = rf_ctx_sync(ctx, &asynchronous);
    /* Also after an error: the other ranks are on their way into this call. */
    rc = check(MPI_Allgatherv(work, (int)b.mine, type, x, b.part, b.begin, type, dist->comm),
               "MPI_Allgatherv", err);
    return rc == RF_OK && sync != RF_OK ? rf_error_set(err, sync, "%s", asynchronous.message) : rc;
}

static int reduce_exact(rf_dist *dist, rf_ctx *ctx, void *x, int64_t n, void *work, rf_error *err)
{
    if ((dist->size & (dist->size - 1)) != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "train.reduce=exact needs 1, 2, 4, 8, ... ranks and this run has %d: "
                            "set train.reduce=fast or change the number of ranks",
                            dist->size);
    }
    int64_t whole = bucket_elements(ctx->backend);
    int rc = RF_OK;
    for (int64_t i = 0; i < n && rc != RF_ERR_RETRY; i += whole) {
        int once = reduce_bucket(dist, ctx, rf_backend_at(ctx->backend, RF_MASTER, x, i),
                                 at_most(whole, n - i), work, err);
        rc = once != RF_OK ? once : rc;
    }
    return rc;
}

static int reduce_fast(rf_dist *dist, rf_ctx *ctx, void *x, int64_t n, rf_error *err)
{
    const rf_backend *backend = ctx->backend;
    MPI_Datatype type = backend->type[RF_MASTER] == RF_F64 ? MPI_DOUBLE : MPI_FLOAT;
    int64_t whole = bucket_elements(backend);
    int rc = RF_OK;
    for (int64_t i = 0; i < n && rc == RF_OK; i += whole) {
        rc = check(MPI_Allreduce(MPI_IN_PLACE, rf_backend_at(backend, RF_MASTER, x, i),
                                 (int)at_most(whole, n - i), type, MPI_SUM, dist->comm),
                   "MPI_Allreduce", err);
    }
    return rc;
}

int rf_dist_reduce(rf_dist *dist, rf_ctx *ctx, void *x, int64_t n, bool exact, void *work,
                   rf_error *err)
{
    RF_ASSERT(n >= 0);
    rf_error asynchronous = {0};
    int sync = rf_ctx_sync(ctx, &asynchronous);
    int rc = RF_OK;
    if (dist->size > 1) {
        rc = exact ? reduce_exact(dist, ctx, x, n, work, err) : reduce_fast(dist, ctx, x, n, err);
    }
    return rc == RF_OK && sync != RF_OK ? rf_error_set(err, sync, "%s", asynchronous.message) : rc;
}

size_t rf_dist_reduce_bytes(const rf_dist *dist, const rf_backend *backend, int64_t n, bool exact)
{
    if (dist->size == 1 || !exact) {
        return 0;
    }
    int64_t slice = slice_elements(at_most(n, bucket_elements(backend)), dist->size);
    return rf_backend_bytes(backend, RF_MASTER, slice * dist->size);
}
