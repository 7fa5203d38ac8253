#include "common/dist/dist_mpi.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/dist/srun.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* MPI counts are ints. */
#define MESSAGE_BYTES ((size_t)1 << 30)

/* The hook gets no argument of ours. */
static rf_dist *panicking = NULL;

static void print_and_abort_all(const char *message)
{
    fprintf(stderr, "rank %d: %s\n", panicking->rank, message);
    fflush(stderr);
    rf_dist_abort(panicking, -RF_ERR);
}

int rf_dist_check_mpi(int mpi_code, const char *call, rf_error *err)
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
    if (dist->size == 1 && rf_srun_tasks() > 1) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "started by srun as one of %d tasks, but MPI sees this one alone: use "
                            "mpirun, or srun --mpi=pmix",
                            rf_srun_tasks());
    }
    return RF_OK;
}

static int start_mpi(bool *started, int *argc, char ***argv, rf_error *err)
{
    int is_initialized = 0, is_finalized = 0, provided = 0;
    RF_TRY(rf_dist_check_mpi(MPI_Initialized(&is_initialized), "MPI_Initialized", err));
    RF_TRY(rf_dist_check_mpi(MPI_Finalized(&is_finalized), "MPI_Finalized", err));
    if (is_finalized) {
        return rf_error_set(err, RF_ERR, "MPI has ended in this process and cannot start again");
    }
    if (is_initialized) {
        RF_TRY(rf_dist_check_mpi(MPI_Query_thread(&provided), "MPI_Query_thread", err));
    } else {
        prepare_environment();
        RF_TRY(rf_dist_check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided),
                                 "MPI_Init_thread", err));
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
    RF_TRY(rf_dist_check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, out), "MPI_Comm_dup", err));
    return rf_dist_check_mpi(MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN),
                             "MPI_Comm_set_errhandler", err);
}

static int learn_ranks(rf_dist *dist, rf_error *err)
{
    MPI_Comm host = MPI_COMM_NULL;
    RF_TRY(duplicate(&dist->comm, err));
    for (int i = 0; i < RF_N_CHANNELS; i++) {
        RF_TRY(duplicate(&dist->channel[i], err));
    }
    RF_TRY(rf_dist_check_mpi(MPI_Comm_rank(dist->comm, &dist->rank), "MPI_Comm_rank", err));
    RF_TRY(rf_dist_check_mpi(MPI_Comm_size(dist->comm, &dist->size), "MPI_Comm_size", err));
    RF_TRY(rf_dist_check_mpi(
        MPI_Comm_split_type(dist->comm, MPI_COMM_TYPE_SHARED, dist->rank, MPI_INFO_NULL, &host),
        "MPI_Comm_split_type", err));
    int seat = 0;
    MPI_Comm_size(host, &dist->local_size);
    MPI_Comm_rank(host, &seat);
    rf_backend_set_seat(seat);
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
    rf_links_close(&dist->links);
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

int rf_dist_check_devices(rf_dist *dist, const rf_backend *backend, rf_error *err)
{
    return dist->size == 1 || dist->supposed ? RF_OK : rf_links_check(dist, backend, err);
}

int rf_dist_connect(rf_dist *dist, rf_ctx *ctx, rf_error *err)
{
    RF_ASSERT(!dist->supposed);
    return dist->size == 1 ? RF_OK : rf_links_open(&dist->links, dist, ctx, err);
}

const char *rf_dist_carrier(const rf_dist *dist)
{
    return dist->links.carrier;
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
        RF_TRY(
            rf_dist_check_mpi(MPI_Bcast(at, (int)n, MPI_BYTE, root, dist->comm), "MPI_Bcast", err));
        at += n;
        bytes -= n;
    }
    return RF_OK;
}

static int allreduce_i64(rf_dist *dist, int64_t *x, int n, MPI_Op op, rf_error *err)
{
    RF_ASSERT(n >= 0);
    return rf_dist_check_mpi(MPI_Allreduce(MPI_IN_PLACE, x, n, MPI_INT64_T, op, dist->comm),
                             "MPI_Allreduce", err);
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
    return rf_dist_check_mpi(
        MPI_Allgather(x, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, dist->comm),
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
    RF_TRY(rf_dist_check_mpi(MPI_Allreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT, MPI_MIN, dist->comm),
                             "MPI_Allreduce", err));
    if (lowest == dist->size) {
        return RF_OK;
    }
    RF_TRY(rf_dist_broadcast(dist, &failure, sizeof failure, lowest, err));
    return rf_error_set(err, failure.code, "rank %d: %s", lowest, failure.message);
}
