#include "common/dist/dist.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/dist/srun.h"

#include <stdlib.h>
#include <string.h>

/* Most of what these functions are told does not matter to one rank. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

struct rf_dist {
    int size, local_size; /* 1, or as rf_dist_suppose says */
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
    if (rf_srun_tasks() > 1) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "started by srun as one of %d tasks, but built without MPI: use "
                            "srun -n 1, or build with MPI=1",
                            rf_srun_tasks());
    }
    return RF_OK;
}

int rf_dist_open(rf_dist **out, int *argc, char ***argv, rf_error *err)
{
    *out = NULL;
    RF_TRY(refuse_many_ranks(err));
    *out = rf_alloc(1, sizeof **out);
    (*out)->size = (*out)->local_size = 1;
    rf_log_set_rank(0, 1);
    return RF_OK;
}

void rf_dist_close(rf_dist *dist)
{
    free(dist);
}

_Noreturn void rf_dist_abort(rf_dist *dist, int status)
{
    _Exit(status);
}

int rf_dist_rank(const rf_dist *dist)
{
    return 0;
}

int rf_dist_size(const rf_dist *dist)
{
    return dist->size;
}

int rf_dist_local_size(const rf_dist *dist)
{
    return dist->local_size;
}

const char *rf_dist_library(void)
{
    return "none";
}

void rf_dist_suppose(rf_dist *dist, int n_ranks, int n_local)
{
    RF_ASSERT(n_local >= 1 && n_local <= n_ranks);
    dist->size = n_ranks;
    dist->local_size = n_local;
}

int rf_dist_check_devices(rf_dist *dist, const rf_backend *backend, rf_error *err)
{
    return RF_OK;
}

int rf_dist_connect(rf_dist *dist, rf_ctx *ctx, rf_error *err)
{
    return RF_OK;
}

const char *rf_dist_carrier(const rf_dist *dist)
{
    return "";
}

int rf_dist_broadcast(rf_dist *dist, void *data, size_t bytes, int root, rf_error *err)
{
    RF_ASSERT(root == 0);
    return RF_OK;
}

int rf_dist_max_i64(rf_dist *dist, int64_t *x, int n, rf_error *err)
{
    return RF_OK;
}

int rf_dist_sum_i64(rf_dist *dist, int64_t *x, int n, rf_error *err)
{
    for (int i = 0; i < n; i++) {
        x[i] *= dist->size;
    }
    return RF_OK;
}

int rf_dist_allgather_bytes(rf_dist *dist, void *all, const void *x, size_t bytes, rf_error *err)
{
    for (int r = 0; r < dist->size && bytes > 0; r++) {
        memmove((char *)all + (size_t)r * bytes, x, bytes);
    }
    return RF_OK;
}

int rf_dist_agree(rf_dist *dist, int rc, rf_error *err)
{
    return rc;
}

/* With one rank a range is one slice, and an exchange is a copy. */
struct rf_exchange {
    int unused;
};

rf_exchange *rf_exchange_new(rf_dist *dist, rf_channel channel)
{
    return rf_alloc(1, sizeof(rf_exchange));
}

void rf_exchange_free(rf_exchange *exchange)
{
    free(exchange);
}

static int copy(rf_ctx *ctx, void *dst, const void *src, rf_class cls, int64_t n)
{
    if (dst != src) {
        rf_backend_copy(ctx, dst, src, cls, n);
    }
    return RF_OK;
}

int rf_exchange_all_to_all(rf_exchange *exchange, rf_ctx *ctx, void *versions, const void *range,
                           rf_class cls, int64_t n, int64_t first, int64_t count, rf_error *err)
{
    const int64_t left = n > first ? n - first : 0;
    return copy(ctx, versions, rf_backend_at(ctx->backend, cls, range, first), cls,
                left < count ? left : count);
}

int rf_exchange_reduce_scatter(rf_exchange *exchange, rf_ctx *ctx, void *slice, const void *range,
                               rf_class cls, int64_t n, rf_error *err)
{
    return copy(ctx, slice, range, cls, n);
}

int rf_exchange_all_gather(rf_exchange *exchange, rf_ctx *ctx, void *range, const void *slice,
                           rf_class cls, int64_t n, rf_error *err)
{
    return copy(ctx, range, slice, cls, n);
}

rf_exchange_cost rf_dist_exchange_cost(const rf_dist *dist)
{
    return (rf_exchange_cost){0};
}

int rf_exchange_poll(rf_exchange *exchange, bool *done, rf_error *err)
{
    *done = true;
    return rf_exchange_wait(exchange, err);
}

int rf_exchange_wait(rf_exchange *exchange, rf_error *err)
{
    return RF_OK;
}
