/* The exchange of backend memory: by the backend's own links where ranks are connected (links.h), else by
 * MPI, on copies where the memory is not the host's. */
#include "common/dist/dist_mpi.h"

#include "common/base/alloc.h"
#include "common/base/log.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>

/* MPI reads the counts until the exchange is over. Displacements and counts are in elements. */
struct rf_exchange {
    rf_dist *dist;
    rf_channel channel;
    bool is_linked;      /* it travels by the channel's link; */
    int64_t ticket;      /* which knows it by this. 0: over */
    MPI_Comm comm;       /* of its channel */
    MPI_Request request; /* MPI_REQUEST_NULL: over */
    bool flies;          /* counted in dist->n_flying */
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
                              .channel = channel,
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
        RF_ASSERT(exchange->request == MPI_REQUEST_NULL && exchange->ticket == 0);
        free(exchange->counts);
        free(exchange->staged);
        free(exchange);
    }
}

/* --- Links ------------------------------------------------------------------------------------ */

/* Nobody could end in order: other ranks wait for this one on their devices (link.h). */
static int end_at_failure(const rf_exchange *exchange, int rc, const rf_error *err)
{
    if (rc != RF_OK) {
        rf_log_warn("%s", err->message);
        rf_dist_abort(exchange->dist, rf_error_exit_status(rc));
    }
    return rc;
}

static int begin_linked(rf_exchange *exchange, rf_link_begin *begin, rf_ctx *ctx,
                        const rf_pieces *pieces)
{
    rf_error why = {0};
    rf_link *link = exchange->dist->links.channel[exchange->channel];
    return end_at_failure(exchange, begin(link, ctx, pieces, &exchange->ticket, &why), &why);
}

static int poll_linked(rf_exchange *exchange, bool *done)
{
    const rf_links *links = &exchange->dist->links;
    rf_error why = {0};
    *done = true;
    if (exchange->ticket == 0) {
        return RF_OK;
    }
    const int rc =
        links->transport->poll(links->channel[exchange->channel], exchange->ticket, done, &why);
    exchange->ticket = *done ? 0 : exchange->ticket;
    return end_at_failure(exchange, rc, &why);
}

/* --- Begin ------------------------------------------------------------------------------------ */

/* Cuts the range. What is no link's waits for what kernels are still making. */
static void prepare_exchange(rf_exchange *exchange, rf_ctx *ctx, int64_t n)
{
    const rf_dist *dist = exchange->dist;
    const int64_t size = dist->size;
    RF_ASSERT(exchange->request == MPI_REQUEST_NULL && exchange->ticket == 0);
    RF_ASSERT(n >= 0 && rf_slice_slot(n, size) * size <= INT_MAX);
    for (int r = 0; r < dist->size; r++) {
        exchange->begin[r] = (int)rf_slice_begin(n, r, size);
        exchange->part[r] = (int)rf_slice_begin(n, r + 1, size) - exchange->begin[r];
    }
    exchange->mine = exchange->part[dist->rank];
    exchange->is_linked =
        dist->links.transport != NULL && dist->links.transport == ctx->backend->memory->transport;
    if (!exchange->is_linked) {
        int rc = rf_ctx_sync(ctx, NULL);
        (void)rc; /* an error stays in the context, and the other ranks are on their way here */
    }
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

/* --- What they cost --------------------------------------------------------------------------- */

rf_exchange_cost rf_dist_exchange_cost(const rf_dist *dist)
{
    return dist->cost;
}

/* An exchange begins, which sends so many elements to other ranks. */
static void take_off(rf_exchange *exchange, const rf_ctx *ctx, rf_class cls, int64_t n_sent)
{
    rf_dist *dist = exchange->dist;
    exchange->flies = true;
    dist->since = dist->n_flying++ == 0 ? rf_log_seconds() : dist->since;
    dist->cost.bytes += n_sent * (int64_t)rf_type_bytes(ctx->backend->type[cls]);
}

/* It is over. */
static void land(rf_exchange *exchange)
{
    rf_dist *dist = exchange->dist;
    if (exchange->flies) {
        exchange->flies = false;
        dist->n_flying--;
        dist->cost.seconds += dist->n_flying == 0 ? rf_log_seconds() - dist->since : 0.0;
    }
    unstage(exchange);
}

/* --- The three kinds -------------------------------------------------------------------------- */

static MPI_Datatype element_type(const rf_ctx *ctx, rf_class cls)
{
    const rf_type type = ctx->backend->type[cls];
    return type == RF_F64    ? MPI_DOUBLE
           : type == RF_I32  ? MPI_INT32_T
           : type == RF_BF16 ? MPI_UINT16_T
                             : MPI_FLOAT;
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
    int64_t n_sent = -exchange->part[exchange->dist->rank];
    for (int r = 0; r < exchange->dist->size; r++) {
        n_sent += exchange->part[r];
    }
    take_off(exchange, ctx, cls, n_sent);
    if (exchange->is_linked) {
        const rf_pieces pieces = {.type = ctx->backend->type[cls],
                                  .in = range,
                                  .in_begin = exchange->begin,
                                  .in_count = exchange->part,
                                  .out = versions,
                                  .out_begin = exchange->place,
                                  .out_count = exchange->count};
        return begin_linked(exchange, exchange->dist->links.transport->all_to_all, ctx, &pieces);
    }
    stage(exchange, ctx, cls, &range, n, &versions, exchange->dist->size * count);
    return rf_dist_check_mpi(MPI_Ialltoallv(range, exchange->part, exchange->begin, type, versions,
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
    take_off(exchange, ctx, cls, n - exchange->mine);
    if (exchange->is_linked) {
        const rf_pieces pieces = {.type = ctx->backend->type[cls],
                                  .in = range,
                                  .in_begin = exchange->begin,
                                  .in_count = exchange->part,
                                  .out = slice};
        return begin_linked(exchange, exchange->dist->links.transport->reduce_scatter, ctx,
                            &pieces);
    }
    stage(exchange, ctx, cls, &range, n, &slice, exchange->mine);
    return rf_dist_check_mpi(MPI_Ireduce_scatter(range, slice, exchange->part, type, MPI_SUM,
                                                 exchange->comm, &exchange->request),
                             "MPI_Ireduce_scatter", err);
}

int rf_exchange_all_gather(rf_exchange *exchange, rf_ctx *ctx, void *range, const void *slice,
                           rf_class cls, int64_t n, rf_error *err)
{
    MPI_Datatype type = element_type(ctx, cls);
    prepare_exchange(exchange, ctx, n);
    take_off(exchange, ctx, cls, (int64_t)exchange->mine * (exchange->dist->size - 1));
    if (exchange->is_linked) {
        const rf_pieces pieces = {.type = ctx->backend->type[cls],
                                  .in = slice,
                                  .out = range,
                                  .out_begin = exchange->begin,
                                  .out_count = exchange->part};
        return begin_linked(exchange, exchange->dist->links.transport->all_gather, ctx, &pieces);
    }
    int begin = exchange->begin[exchange->dist->rank];
    stage(exchange, ctx, cls, &slice, exchange->mine, &range, n);
    bool in_place = slice == rf_backend_at(ctx->backend, cls, range, begin);
    return rf_dist_check_mpi(MPI_Iallgatherv(in_place ? MPI_IN_PLACE : slice, exchange->mine, type,
                                             range, exchange->part, exchange->begin, type,
                                             exchange->comm, &exchange->request),
                             "MPI_Iallgatherv", err);
}

int rf_exchange_poll(rf_exchange *exchange, bool *done, rf_error *err)
{
    int rc, flag = 0;
    if (exchange->is_linked) {
        rc = poll_linked(exchange, done);
    } else {
        rc = rf_dist_check_mpi(MPI_Test(&exchange->request, &flag, MPI_STATUS_IGNORE), "MPI_Test",
                               err);
        *done = flag != 0;
    }
    if (*done && rc == RF_OK) {
        land(exchange);
    }
    return rc;
}

int rf_exchange_wait(rf_exchange *exchange, rf_error *err)
{
    bool done = !exchange->is_linked;
    const double begin = rf_log_seconds();
    while (!done) {
        RF_TRY(poll_linked(exchange, &done));
        sched_yield(); /* the core may be wanted by threads that build rows */
    }
    RF_TRY(rf_dist_check_mpi(MPI_Wait(&exchange->request, MPI_STATUS_IGNORE), "MPI_Wait", err));
    exchange->dist->cost.waited += exchange->flies ? rf_log_seconds() - begin : 0.0;
    land(exchange);
    return RF_OK;
}
