#include "common/dist/dist.h"

#include "common/base/log.h"

#include <stdlib.h>
#include <string.h>

struct rf_dist {
    int unused; /* one rank needs no state; C wants a member */
};

/* Started as one of several ranks, each would train alone and write the same files. */
static int refuse_many_ranks(rf_error *err)
{
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const char *size = getenv(sizes[i]);
        if (size != NULL && atoi(size) > 1) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "started as one of %d ranks (%s), but built without MPI: start it "
                                "once, or build with MPI=1",
                                atoi(size), sizes[i]);
        }
    }
    return RF_OK;
}

int rf_dist_open(rf_dist **out, int *argc, char ***argv, rf_error *err)
{
    (void)argc;
    (void)argv;
    *out = NULL;
    int rc = refuse_many_ranks(err);
    if (rc != RF_OK) {
        return rc;
    }
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the communicator");
    }
    rf_log_set_rank(0, 1);
    return RF_OK;
}

void rf_dist_close(rf_dist *dist)
{
    free(dist);
}

_Noreturn void rf_dist_abort(rf_dist *dist, int status)
{
    (void)dist;
    _Exit(status);
}

int rf_dist_rank(const rf_dist *dist)
{
    (void)dist;
    return 0;
}

int rf_dist_size(const rf_dist *dist)
{
    (void)dist;
    return 1;
}

int rf_dist_local_rank(const rf_dist *dist)
{
    (void)dist;
    return 0;
}

int rf_dist_local_size(const rf_dist *dist)
{
    (void)dist;
    return 1;
}

const char *rf_dist_library(void)
{
    return "none";
}

int rf_dist_barrier(rf_dist *dist, rf_error *err)
{
    (void)dist;
    (void)err;
    return RF_OK;
}

int rf_dist_broadcast(rf_dist *dist, void *data, size_t bytes, int root, rf_error *err)
{
    (void)dist;
    (void)data;
    (void)bytes;
    (void)err;
    RF_ASSERT(root == 0);
    return RF_OK;
}

int rf_dist_max_i64(rf_dist *dist, int64_t *x, int n, rf_error *err)
{
    (void)dist;
    (void)x;
    (void)n;
    (void)err;
    return RF_OK;
}

int rf_dist_sum_i64(rf_dist *dist, int64_t *x, int n, rf_error *err)
{
    return rf_dist_max_i64(dist, x, n, err);
}

int rf_dist_allgather_f64(rf_dist *dist, double *all, const double *x, int n, rf_error *err)
{
    RF_ASSERT(n >= 0);
    return rf_dist_allgather_bytes(dist, all, x, (size_t)n * sizeof *x, err);
}

int rf_dist_allgather_bytes(rf_dist *dist, void *all, const void *x, size_t bytes, rf_error *err)
{
    (void)dist;
    (void)err;
    if (bytes > 0) {
        memmove(all, x, bytes);
    }
    return RF_OK;
}

int rf_dist_agree(rf_dist *dist, int code, rf_error *err)
{
    (void)dist;
    (void)err;
    return code;
}

int rf_dist_reduce(rf_dist *dist, rf_ctx *ctx, void *x, int64_t n, bool exact, void *work,
                   rf_error *err)
{
    (void)dist;
    (void)x;
    (void)n;
    (void)exact;
    (void)work;
    return rf_ctx_sync(ctx, err);
}

size_t rf_dist_reduce_bytes(const rf_dist *dist, const rf_backend *backend, int64_t n, bool exact)
{
    (void)dist;
    (void)backend;
    (void)n;
    (void)exact;
    return 0;
}
