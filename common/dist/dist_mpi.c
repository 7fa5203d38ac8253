#include "common/dist/dist.h"

#include "common/base/alloc.h"
#include "common/base/log.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* MPI counts are ints. */
#define MESSAGE_BYTES ((size_t)1 << 30)

struct rf_dist {
    MPI_Comm comm; /* our own, so that no other library's messages meet ours */
    MPI_Comm channel[RF_N_CHANNELS];
    int rank, size;
    int local_size;
    bool supposed; /* rf_dist_suppose */
    bool finalize; /* we started MPI */
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
    RF_TRY(check(MPI_Initialized(&is_initialized), "MPI_Initialized", err));
    RF_TRY(check(MPI_Finalized(&is_finalized), "MPI_Finalized", err));
    if (is_finalized) {
        return rf_error_set(err, RF_ERR, "MPI has ended in this process and cannot start again");
    }
    if (is_initialized) {
        RF_TRY(check(MPI_Query_thread(&provided), "MPI_Query_thread", err));
    } else {
        prepare_environment();
        RF_TRY(check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread",
                     err));
        *started = true;
    }
    if (provided < MPI_THREAD_FUNNELED) {
        return rf_error_set(err, RF_ERR,
                            "this MPI library allows no threads: use one with MPI_THREAD_FUNNELED");
    }
    return RF_OK;
}

static int duplicate(MPI_Comm *out, rf_error *err)
{
    RF_TRY(check(MPI_Comm_dup(MPI_COMM_WORLD, out), "MPI_Comm_dup", err));
    return check(MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", err);
}

static int learn_ranks(rf_dist *dist, rf_error *err)
{
    MPI_Comm host = MPI_COMM_NULL;
    RF_TRY(duplicate(&dist->comm, err));
    for (int i = 0; i < RF_N_CHANNELS; i++) {
        RF_TRY(duplicate(&dist->channel[i], err));
    }
    RF_TRY(check(MPI_Comm_rank(dist->comm, &dist->rank), "MPI_Comm_rank", err));
    RF_TRY(check(MPI_Comm_size(dist->comm, &dist->size), "MPI_Comm_size", err));
    RF_TRY(check(
        MPI_Comm_split_type(dist->comm, MPI_COMM_TYPE_SHARED, dist->rank, MPI_INFO_NULL, &host),
        "MPI_Comm_split_type", err));
    MPI_Comm_size(host, &dist->local_size);
    MPI_Comm_free(&host);
    return RF_OK;
}

int rf_dist_open(rf_dist **out, int *argc, char ***argv, rf_error *err)
{
    *out = NULL;
    rf_dist *dist = rf_alloc(1, sizeof *dist);
    dist->comm = MPI_COMM_NULL;
    for (int i = 0; i < RF_N_CHANNELS; i++) {
        dist->channel[i] = MPI_COMM_NULL;
    }
    int rc = RF_OK;
    RF_TRY_OUT(start_mpi(&dist->finalize, argc, argv, err));
    RF_TRY_OUT(learn_ranks(dist, err));
    RF_TRY_OUT(refuse_lonely_ranks(dist, err));
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
    for (int i = 0; i < RF_N_CHANNELS; i++) {
        if (dist->channel[i] != MPI_COMM_NULL) {
            MPI_Comm_free(&dist->channel[i]);
        }
    }
    if (dist->comm != MPI_COMM_NULL) {
        MPI_Comm_free(&dist->comm);
    }
    if (dist->finalize) {
        MPI_Finalize();
    }
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

int rf_dist_local_size(const rf_dist *dist)
{
    return dist->local_size;
}

void rf_dist_suppose(rf_dist *dist, int n_ranks, int n_local)
{
    RF_ASSERT(dist->size == 1 && n_local >= 1 && n_local <= n_ranks);
    dist->size = n_ranks;
    dist->local_size = n_local;
    dist->supposed = true;
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

int rf_dist_broadcast(rf_dist *dist, void *data, size_t bytes, int root, rf_error *err)
{
    RF_ASSERT(root >= 0 && root < dist->size);
    for (char *at = data; bytes > 0;) {
        size_t n = bytes < MESSAGE_BYTES ? bytes : MESSAGE_BYTES;
        RF_TRY(check(MPI_Bcast(at, (int)n, MPI_BYTE, root, dist->comm), "MPI_Bcast", err));
        at += n;
        bytes -= n;
    }
    return RF_OK;
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
    for (int i = 0; dist->supposed && i < n; i++) {
        x[i] *= dist->size;
    }
    return allreduce_i64(dist, x, n, MPI_SUM, err);
}

int rf_dist_allgather_bytes(rf_dist *dist, void *all, const void *x, size_t bytes, rf_error *err)
{
    if (bytes > INT_MAX) {
        return rf_error_set(err, RF_ERR, "allgather: %zu bytes of a rank are more than %d", bytes,
                            INT_MAX);
    }
    for (int r = 0; dist->supposed && r < dist->size; r++) {
        memcpy((char *)all + (size_t)r * bytes, x, bytes);
    }
    if (dist->supposed) {
        return RF_OK;
    }
    return check(MPI_Allgather(x, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, dist->comm),
                 "MPI_Allgather", err);
}

int rf_dist_agree(rf_dist *dist, int rc, rf_error *err)
{
    if (dist->size == 1 || dist->supposed) {
        return rc;
    }
    int lowest = rc != RF_OK ? dist->rank : dist->size;
    rf_error failure = {0};
    if (rc != RF_OK && err != NULL) {
        failure = *err;
    }
    failure.code = rc;
    RF_TRY(check(MPI_Allreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT, MPI_MIN, dist->comm),
                 "MPI_Allreduce", err));
    if (lowest == dist->size) {
        return RF_OK;
    }
    RF_TRY(rf_dist_broadcast(dist, &failure, sizeof failure, lowest, err));
    return rf_error_set(err, failure.code, "rank %d: %s", lowest, failure.message);
}

/* --- Exchange --------------------------------------------------------------------------------- */

/* MPI reads the counts until the exchange is over. Displacements and counts are in elements. */
struct rf_exchange {
    rf_dist *dist;
    MPI_Comm comm;       /* of its channel */
    MPI_Request request; /* MPI_REQUEST_NULL: over */
    int mine;            /* elements of this rank's slice */
    int *part, *begin;   /* [size] slices within the range */
    int *count, *place;  /* [size] rows of all versions */
    int *counts;         /* [4*size] the memory of these. Owned */
    /* Where backend memory is not the host's, MPI works on copies: */
    char *staged; /* of what it reads and, behind it, of what it sets. Owned; NULL: none */
    char *result; /* within staged; goes to `out` at the end, n_out elements */
    rf_ctx *ctx;
    rf_class cls;
    void *out;
    int64_t n_out;
};

rf_exchange *rf_exchange_new(rf_dist *dist, rf_channel channel)
{
    rf_exchange *exchange = rf_alloc(1, sizeof *exchange);
    size_t size = (size_t)dist->size;
    int *counts = rf_alloc(4 * size, sizeof *counts);
    *exchange = (rf_exchange){.dist = dist,
                              .comm = dist->channel[channel],
                              .request = MPI_REQUEST_NULL,
                              .counts = counts,
                              .part = counts,
                              .begin = counts + size,
                              .count = counts + 2 * size,
                              .place = counts + 3 * size};
    return exchange;
}

void rf_exchange_free(rf_exchange *exchange)
{
    if (exchange != NULL) {
        RF_ASSERT(exchange->request == MPI_REQUEST_NULL);
        free(exchange->counts);
        free(exchange->staged);
        free(exchange);
    }
}

/* Waits for what kernels are still making, and cuts the range. */
static void prepare_exchange(rf_exchange *exchange, rf_ctx *ctx, int64_t n)
{
    const rf_dist *dist = exchange->dist;
    int64_t slot = rf_dist_slot(dist, n);
    RF_ASSERT(exchange->request == MPI_REQUEST_NULL && n >= 0 && slot * dist->size <= INT_MAX);
    for (int r = 0; r < dist->size; r++) {
        exchange->begin[r] = (int)rf_dist_slice_begin(dist, n, r);
        exchange->part[r] = (int)rf_dist_slice_begin(dist, n, r + 1) - exchange->begin[r];
    }
    exchange->mine = exchange->part[dist->rank];
    int rc = rf_ctx_sync(ctx, NULL);
    (void)rc; /* an error stays in the context, and the other ranks are on their way here */
}

/* Puts copies in place of `in` and `out` where MPI cannot reach them. */
static void stage(rf_exchange *exchange, rf_ctx *ctx, rf_class cls, const void **in, int64_t n_in,
                  void **out, int64_t n_out)
{
    const rf_backend *backend = ctx->backend;
    if (backend->memory->is_host) {
        return;
    }
    size_t bytes = rf_backend_bytes(backend, cls, n_in);
    char *staged = rf_alloc(1, bytes + rf_backend_bytes(backend, cls, n_out));
    rf_backend_download(ctx, staged, backend->type[cls], *in, cls, n_in);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    exchange->ctx = ctx;
    exchange->cls = cls;
    exchange->out = *out;
    exchange->n_out = n_out;
    exchange->staged = staged;
    *in = staged;
    *out = exchange->result = staged + bytes;
}

/* The exchange is over: its result goes where it was asked for. */
static void unstage(rf_exchange *exchange)
{
    rf_ctx *ctx = exchange->ctx;
    if (exchange->staged != NULL) {
        rf_backend_upload(ctx, exchange->out, exchange->cls, exchange->result,
                          ctx->backend->type[exchange->cls], exchange->n_out);
        rf_backend_wait(ctx, rf_backend_record(ctx));
        free(exchange->staged);
        exchange->staged = NULL;
    }
}

static MPI_Datatype element_type(const rf_ctx *ctx, rf_class cls)
{
    switch (ctx->backend->type[cls]) {
    case RF_F64:
        return MPI_DOUBLE;
    case RF_I32:
        return MPI_INT32_T;
    case RF_BF16:
        return MPI_UINT16_T;
    default:
        return MPI_FLOAT;
    }
}

/* Narrows the slices to their elements [first, first + count), and lays out the versions. */
static void choose_portion(rf_exchange *exchange, int64_t first, int64_t count)
{
    const rf_dist *dist = exchange->dist;
    RF_ASSERT(first >= 0 && count >= 0 && count * dist->size <= INT_MAX);
    for (int r = 0; r < dist->size; r++) {
        int64_t left = exchange->part[r] - first;
        left = left < 0 ? 0 : left < count ? left : count;
        exchange->begin[r] += left > 0 ? (int)first : 0;
        exchange->part[r] = (int)left;
        exchange->place[r] = (int)(r * count);
    }
    for (int r = 0; r < dist->size; r++) {
        exchange->count[r] = exchange->part[dist->rank];
    }
}

int rf_exchange_all_to_all(rf_exchange *exchange, rf_ctx *ctx, void *versions, const void *range,
                           rf_class cls, int64_t n, int64_t first, int64_t count, rf_error *err)
{
    MPI_Datatype type = element_type(ctx, cls);
    prepare_exchange(exchange, ctx, n);
    choose_portion(exchange, first, count);
    stage(exchange, ctx, cls, &range, n, &versions, exchange->dist->size * count);
    return check(MPI_Ialltoallv(range, exchange->part, exchange->begin, type, versions,
                                exchange->count, exchange->place, type, exchange->comm,
                                &exchange->request),
                 "MPI_Ialltoallv", err);
}

int rf_exchange_reduce_scatter(rf_exchange *exchange, rf_ctx *ctx, void *slice, const void *range,
                               rf_class cls, int64_t n, rf_error *err)
{
    MPI_Datatype type = element_type(ctx, cls);
    RF_ASSERT(type == MPI_FLOAT || type == MPI_DOUBLE);
    prepare_exchange(exchange, ctx, n);
    stage(exchange, ctx, cls, &range, n, &slice, exchange->mine);
    return check(MPI_Ireduce_scatter(range, slice, exchange->part, type, MPI_SUM, exchange->comm,
                                     &exchange->request),
                 "MPI_Ireduce_scatter", err);
}

int rf_exchange_all_gather(rf_exchange *exchange, rf_ctx *ctx, void *range, const void *slice,
                           rf_class cls, int64_t n, rf_error *err)
{
    MPI_Datatype type = element_type(ctx, cls);
    prepare_exchange(exchange, ctx, n);
    int begin = exchange->begin[exchange->dist->rank];
    stage(exchange, ctx, cls, &slice, exchange->mine, &range, n);
    bool in_place = slice == rf_backend_at(ctx->backend, cls, range, begin);
    return check(MPI_Iallgatherv(in_place ? MPI_IN_PLACE : slice, exchange->mine, type, range,
                                 exchange->part, exchange->begin, type, exchange->comm,
                                 &exchange->request),
                 "MPI_Iallgatherv", err);
}

int rf_exchange_poll(rf_exchange *exchange, bool *done, rf_error *err)
{
    int flag = 0;
    int rc = check(MPI_Test(&exchange->request, &flag, MPI_STATUS_IGNORE), "MPI_Test", err);
    *done = flag != 0;
    if (*done && rc == RF_OK) {
        unstage(exchange);
    }
    return rc;
}

int rf_exchange_wait(rf_exchange *exchange, rf_error *err)
{
    RF_TRY(check(MPI_Wait(&exchange->request, MPI_STATUS_IGNORE), "MPI_Wait", err));
    unstage(exchange);
    return RF_OK;
}
