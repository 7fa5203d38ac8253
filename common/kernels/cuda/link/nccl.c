#include "common/kernels/cuda/link/nccl.h"

#include "common/base/alloc.h"

#include <stdlib.h>
#include <string.h>

struct rf_link {
    const rf_nccl *nccl;
    rf_nccl_comm comm; /* NULL: the link has failed */
    rf_cuda_lane *lane;
    int rank, n_ranks;
};

/* --- Errors ----------------------------------------------------------------------------------- */

static int check(const rf_nccl *nccl, int result, const char *call, rf_error *err)
{
    if (result == RF_NCCL_SUCCESS) {
        return RF_OK;
    }
    return rf_error_set(err, result == RF_NCCL_INVALID_USAGE ? RF_ERR : RF_ERR_RETRY,
                        "%s: %s: a rank, its GPU or the network failed: start again from the "
                        "checkpoint (NCCL_DEBUG=WARN tells more)",
                        call, nccl->get_error_string(result));
}

/* What has begun on the link is given up, so that the device can end. */
static int fail(rf_link *link, int rc)
{
    if (rc != RF_OK && link->comm != NULL) {
        (void)link->nccl->abort(link->comm);
        link->comm = NULL;
    }
    return rc;
}

static int check_alive(const rf_link *link, rf_error *err)
{
    return link->comm != NULL
               ? RF_OK
               : rf_error_set(err, RF_ERR_RETRY, "the link to the other ranks has failed before");
}

/* --- What travels ----------------------------------------------------------------------------- */

static const void *part(const rf_pieces *p, int rank)
{
    return (const char *)p->in + (size_t)p->in_begin[rank] * rf_type_bytes(p->type);
}

static void *place(const rf_pieces *p, int rank)
{
    return (char *)p->out + (size_t)p->out_begin[rank] * rf_type_bytes(p->type);
}

/* Each of these puts the calls of one rank into an open group; the first failure ends it. */
typedef int put_calls(rf_link *link, const rf_pieces *pieces);

/* Own elements are copied outside of NCCL (all_to_all below). */
static int put_all_to_all(rf_link *l, const rf_pieces *p)
{
    const rf_cuda_stream stream = rf_cuda_lane_stream(l->lane);
    const size_t bytes = rf_type_bytes(p->type);
    int result = RF_NCCL_SUCCESS;
    for (int r = 0; r < l->n_ranks && result == RF_NCCL_SUCCESS; r++) {
        if (r != l->rank && p->in_count[r] > 0) {
            result = l->nccl->send(part(p, r), (size_t)p->in_count[r] * bytes, RF_NCCL_UINT8, r,
                                   l->comm, stream);
        }
        if (r != l->rank && p->out_count[r] > 0 && result == RF_NCCL_SUCCESS) {
            result = l->nccl->receive(place(p, r), (size_t)p->out_count[r] * bytes, RF_NCCL_UINT8,
                                      r, l->comm, stream);
        }
    }
    return result;
}

/* Slices differ in length, which NCCL's own all-gather does not allow. */
static int put_all_gather(rf_link *l, const rf_pieces *p)
{
    int result = RF_NCCL_SUCCESS;
    for (int r = 0; r < l->n_ranks && result == RF_NCCL_SUCCESS; r++) {
        const size_t bytes = (size_t)p->out_count[r] * rf_type_bytes(p->type);
        if (bytes > 0) {
            result = l->nccl->broadcast(r == l->rank ? p->in : place(p, r), place(p, r), bytes,
                                        RF_NCCL_UINT8, r, l->comm, rf_cuda_lane_stream(l->lane));
        }
    }
    return result;
}

/* Nor does its reduce-scatter. */
static int put_reduce_scatter(rf_link *l, const rf_pieces *p)
{
    const int type = p->type == RF_F64 ? RF_NCCL_DOUBLE : RF_NCCL_FLOAT;
    int result = RF_NCCL_SUCCESS;
    RF_ASSERT(p->type == RF_F32 || p->type == RF_F64);
    for (int r = 0; r < l->n_ranks && result == RF_NCCL_SUCCESS; r++) {
        if (p->in_count[r] > 0) {
            result = l->nccl->reduce(part(p, r), p->out, (size_t)p->in_count[r], type, RF_NCCL_SUM,
                                     r, l->comm, rf_cuda_lane_stream(l->lane));
        }
    }
    return result;
}

/* A group that was opened is closed in any case. */
static int make_calls(rf_link *l, put_calls *put, const rf_pieces *p, const char *what,
                      rf_error *err)
{
    RF_TRY(check(l->nccl, l->nccl->group_start(), what, err));
    const int put_result = put(l, p);
    const int end_result = l->nccl->group_end();
    return check(l->nccl, put_result != RF_NCCL_SUCCESS ? put_result : end_result, what, err);
}

static int begin(rf_link *l, rf_ctx *ctx, put_calls *put, const rf_pieces *p, const char *what,
                 rf_error *err)
{
    RF_TRY(check_alive(l, err));
    RF_TRY(rf_cuda_lane_follow(l->lane, ctx, err));
    return make_calls(l, put, p, what, err);
}

/* Behind what has begun, if it has. */
static int mark(rf_link *l, int rc, int64_t *ticket, rf_error *err)
{
    return fail(l, rc == RF_OK ? rf_cuda_lane_mark(l->lane, ticket, err) : rc);
}

static int all_to_all(rf_link *l, rf_ctx *ctx, const rf_pieces *p, int64_t *ticket, rf_error *err)
{
    const int own = l->rank, n = p->in_count[own];
    int rc = begin(l, ctx, put_all_to_all, p, "all-to-all by NCCL", err);
    if (rc == RF_OK && n > 0) {
        rc = rf_cuda_lane_copy(l->lane, place(p, own), part(p, own),
                               (size_t)n * rf_type_bytes(p->type), err);
    }
    return mark(l, rc, ticket, err);
}

static int all_gather(rf_link *l, rf_ctx *ctx, const rf_pieces *p, int64_t *ticket, rf_error *err)
{
    return mark(l, begin(l, ctx, put_all_gather, p, "all-gather by NCCL", err), ticket, err);
}

static int reduce_scatter(rf_link *l, rf_ctx *ctx, const rf_pieces *p, int64_t *ticket,
                          rf_error *err)
{
    return mark(l, begin(l, ctx, put_reduce_scatter, p, "reduce-scatter by NCCL", err), ticket,
                err);
}

static int poll(rf_link *l, int64_t ticket, bool *done, rf_error *err)
{
    int result = RF_NCCL_SUCCESS;
    *done = false;
    RF_TRY(check_alive(l, err));
    int rc = rf_cuda_lane_passed(l->lane, ticket, done, err);
    if (rc == RF_OK && !*done) {
        rc = check(l->nccl, l->nccl->get_async_error(l->comm, &result), "NCCL", err);
        result = result == RF_NCCL_IN_PROGRESS ? RF_NCCL_SUCCESS : result;
        rc = rc == RF_OK ? check(l->nccl, result, "NCCL", err) : rc;
    }
    return fail(l, rc);
}

/* --- Begin and end ---------------------------------------------------------------------------- */

static int load(const char **name, rf_error *err)
{
    const rf_nccl *nccl = NULL;
    RF_TRY(rf_nccl_load(&nccl, err));
    *name = nccl->name;
    return RF_OK;
}

static int new_id(unsigned char id[RF_LINK_ID], rf_error *err)
{
    const rf_nccl *nccl = NULL;
    rf_nccl_id made = {{0}};
    RF_TRY(rf_nccl_load(&nccl, err));
    RF_TRY(check(nccl, nccl->get_unique_id(&made), "ncclGetUniqueId", err));
    memcpy(id, made.internal, RF_LINK_ID);
    return RF_OK;
}

/* NCCL joins two ranks when the first call asks for it, and that call then waits for the other rank. So
 * every kind of call is made once here, by all ranks in the same order: later ones never wait. */
static int join_ranks(rf_link *l, rf_ctx *ctx, rf_error *err)
{
    int *const begin = rf_alloc((size_t)l->n_ranks * 2, sizeof *begin), *const one =
                                                                            begin + l->n_ranks;
    char *const out = (char *)rf_cuda_lane_memory(l->lane) + (size_t)l->n_ranks * sizeof(float);
    const rf_pieces pieces = {.type = RF_F32,
                              .in = rf_cuda_lane_memory(l->lane),
                              .in_begin = begin,
                              .in_count = one,
                              .out = out,
                              .out_begin = begin,
                              .out_count = one};
    rf_link_begin *const kinds[] = {all_to_all, all_gather, reduce_scatter};
    int64_t ticket = 0;
    bool done = false;
    int rc = RF_OK;
    for (int r = 0; r < l->n_ranks; r++) {
        begin[r] = r;
        one[r] = 1;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && rc == RF_OK; i++) {
        rc = kinds[i](l, ctx, &pieces, &ticket, err);
    }
    while (rc == RF_OK && !done) {
        rc = poll(l, ticket, &done, err);
    }
    free(begin);
    return rc;
}

static void close_link(rf_link *link)
{
    if (link != NULL) {
        if (link->comm != NULL) {
            (void)link->nccl->destroy(link->comm);
        }
        rf_cuda_lane_free(link->lane);
        free(link);
    }
}

static int open_link(rf_link **out, rf_ctx *ctx, const unsigned char id[RF_LINK_ID], int rank,
                     int n_ranks, rf_error *err)
{
    rf_link *l = rf_alloc(1, sizeof *l);
    rf_nccl_id name;
    int rc = RF_OK;
    memcpy(name.internal, id, RF_LINK_ID);
    *l = (rf_link){.rank = rank, .n_ranks = n_ranks};
    RF_TRY_OUT(rf_nccl_load(&l->nccl, err));
    RF_TRY_OUT(rf_cuda_lane_new(&l->lane, 2 * (size_t)n_ranks * sizeof(float), err));
    RF_TRY_OUT(
        check(l->nccl, l->nccl->init_rank(&l->comm, n_ranks, name, rank), "ncclCommInitRank", err));
    RF_TRY_OUT(join_ranks(l, ctx, err));
    *out = l;
    l = NULL;
out:
    close_link(l);
    return rc;
}

const rf_transport rf_cuda_transport = {
    .device_id = rf_cuda_device_id,
    .load = load,
    .new_id = new_id,
    .open = open_link,
    .close = close_link,
    .all_to_all = all_to_all,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .poll = poll,
};
