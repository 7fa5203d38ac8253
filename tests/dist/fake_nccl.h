/* fake_nccl.h: NCCL and CUDA's streams as link/nccl.c sees them, on host memory and over rf_dist's small
 * collectives, so that links run on any machine.
 *
 * What a group brings is fixed when it ends, as streams would; it is seen only when its mark has passed,
 * which takes several polls. A lane that does not follow the context, a call outside of a group, or one
 * that another rank does not match, fails the test.
 */
#ifndef RF_TESTS_DIST_FAKE_NCCL_H
#define RF_TESTS_DIST_FAKE_NCCL_H

#include "common/base/alloc.h"
#include "common/kernels/cuda/link/nccl.h"
#include "tests/mpi.h"

#include <stdlib.h>
#include <string.h>

enum { FAKE_CALLS = 64, FAKE_DELIVERIES = 256, FAKE_POLLS = 3 };

/* What a test wants to go wrong, and as what this rank comes. */
static struct {
    rf_dist *dist;
    bool is_missing;        /* no library */
    int init_result;        /* of ncclCommInitRank */
    int group_result;       /* of ncclGroupEnd, */
    int async_result;       /* and of a link that is polled, */
    int64_t group_fails_at; /* from this group on; 0: never */
    unsigned char device;   /* number of this rank's */
    bool is_named;          /* by RF_DEVICE */
    int64_t n_groups;       /* that ended */
    int n_aborts, n_destroyed;
} fake;

/* --- Lanes ------------------------------------------------------------------------------------ */

struct rf_cuda_lane {
    void *memory;
    bool follows; /* since its last mark */
    int64_t n_marks, n_passed;
    int n_polls; /* of the mark after n_passed */
    struct delivery {
        int64_t mark; /* it is seen behind */
        void *to, *what;
        size_t bytes;
    } delivery[FAKE_DELIVERIES];
    int n_deliveries;
};

int rf_cuda_lane_new(rf_cuda_lane **out, size_t bytes, rf_error *err)
{
    (void)err;
    *out = rf_alloc(1, sizeof **out);
    (*out)->memory = rf_alloc(1, bytes);
    return RF_OK;
}

void rf_cuda_lane_free(rf_cuda_lane *lane)
{
    if (lane != NULL) {
        for (int i = 0; i < lane->n_deliveries; i++) {
            free(lane->delivery[i].what);
        }
        free(lane->memory);
        free(lane);
    }
}

rf_cuda_stream rf_cuda_lane_stream(const rf_cuda_lane *lane)
{
    return (rf_cuda_stream)(uintptr_t)lane;
}

void *rf_cuda_lane_memory(const rf_cuda_lane *lane)
{
    return lane->memory;
}

int rf_cuda_lane_follow(rf_cuda_lane *lane, rf_ctx *ctx, rf_error *err)
{
    (void)ctx;
    (void)err;
    lane->follows = true;
    return RF_OK;
}

static void deliver(rf_cuda_lane *lane, void *to, const void *what, size_t bytes)
{
    cr_assert(lane->n_deliveries < FAKE_DELIVERIES && lane->follows);
    struct delivery *d = &lane->delivery[lane->n_deliveries++];
    *d = (struct delivery){
        .mark = lane->n_marks + 1, .to = to, .what = rf_alloc(1, bytes), .bytes = bytes};
    memcpy(d->what, what, bytes);
}

int rf_cuda_lane_copy(rf_cuda_lane *lane, void *dst, const void *src, size_t bytes, rf_error *err)
{
    (void)err;
    deliver(lane, dst, src, bytes);
    return RF_OK;
}

int rf_cuda_lane_mark(rf_cuda_lane *lane, int64_t *mark, rf_error *err)
{
    (void)err;
    *mark = ++lane->n_marks;
    lane->follows = false;
    return RF_OK;
}

/* One mark after the other passes, each after some polls of any. */
static void move_on(rf_cuda_lane *lane)
{
    int kept = 0;
    if (lane->n_passed == lane->n_marks || ++lane->n_polls < FAKE_POLLS) {
        return;
    }
    lane->n_polls = 0;
    lane->n_passed++;
    for (int i = 0; i < lane->n_deliveries; i++) {
        struct delivery *d = &lane->delivery[i];
        if (d->mark > lane->n_passed) {
            lane->delivery[kept++] = *d;
        } else {
            memcpy(d->to, d->what, d->bytes);
            free(d->what);
        }
    }
    lane->n_deliveries = kept;
}

int rf_cuda_lane_passed(const rf_cuda_lane *lane, int64_t mark, bool *passed, rf_error *err)
{
    (void)err;
    cr_assert(mark >= 1 && mark <= lane->n_marks);
    move_on((rf_cuda_lane *)(uintptr_t)lane);
    *passed = mark <= lane->n_passed;
    return RF_OK;
}

/* --- Groups of calls -------------------------------------------------------------------------- */

typedef enum fake_kind { FAKE_SEND, FAKE_RECEIVE, FAKE_BROADCAST, FAKE_REDUCE } fake_kind;

static struct fake_call {
    fake_kind kind;
    const void *from;
    void *to;
    size_t bytes;
    int type, peer;
} fake_call[FAKE_CALLS];
static int n_fake_calls = -1; /* -1: outside of a group */
static rf_cuda_lane *fake_lane;

static int put(fake_kind kind, const void *from, void *to, size_t n, int type, int peer,
               rf_cuda_stream stream)
{
    const size_t bytes = n * (type == RF_NCCL_DOUBLE ? 8 : type == RF_NCCL_FLOAT ? 4 : 1);
    cr_assert(n_fake_calls >= 0 && n_fake_calls < FAKE_CALLS && n > 0);
    cr_assert(peer >= 0 && peer < rf_dist_size(fake.dist));
    fake_lane = (rf_cuda_lane *)(uintptr_t)stream;
    fake_call[n_fake_calls++] = (struct fake_call){kind, from, to, bytes, type, peer};
    return RF_NCCL_SUCCESS;
}

static int fake_send(const void *from, size_t n, int type, int peer, rf_nccl_comm comm,
                     rf_cuda_stream stream)
{
    (void)comm;
    return put(FAKE_SEND, from, NULL, n, type, peer, stream);
}

static int fake_receive(void *to, size_t n, int type, int peer, rf_nccl_comm comm,
                        rf_cuda_stream stream)
{
    (void)comm;
    return put(FAKE_RECEIVE, NULL, to, n, type, peer, stream);
}

static int fake_broadcast(const void *from, void *to, size_t n, int type, int root,
                          rf_nccl_comm comm, rf_cuda_stream stream)
{
    (void)comm;
    return put(FAKE_BROADCAST, from, to, n, type, root, stream);
}

static int fake_reduce(const void *from, void *to, size_t n, int type, int op, int root,
                       rf_nccl_comm comm, rf_cuda_stream stream)
{
    (void)comm;
    cr_assert(op == RF_NCCL_SUM && type != RF_NCCL_UINT8);
    return put(FAKE_REDUCE, from, to, n, type, root, stream);
}

static int fake_group_start(void)
{
    cr_assert(n_fake_calls == -1);
    n_fake_calls = 0;
    return RF_NCCL_SUCCESS;
}

/* Does this call send something from this rank to rank r? */
static bool sends(const struct fake_call *c, int r)
{
    const bool is_root = c->peer == rf_dist_rank(fake.dist);
    return (c->kind == FAKE_SEND && c->peer == r) ||
           (c->kind == FAKE_BROADCAST && is_root && c->peer != r) ||
           (c->kind == FAKE_REDUCE && !is_root && c->peer == r);
}

/* Bytes for rank r, which go to `box` where there is one. */
static size_t fill_box(char *box, int r)
{
    size_t used = 0;
    for (int i = 0; i < n_fake_calls; i++) {
        if (sends(&fake_call[i], r)) {
            if (box != NULL) {
                memcpy(box + used, fake_call[i].from, fake_call[i].bytes);
            }
            used += fake_call[i].bytes;
        }
    }
    return used;
}

static void add(void *sum, const void *x, const struct fake_call *c)
{
    for (size_t i = 0; c->type == RF_NCCL_FLOAT && i < c->bytes / 4; i++) {
        ((float *)sum)[i] += ((const float *)x)[i];
    }
    for (size_t i = 0; c->type == RF_NCCL_DOUBLE && i < c->bytes / 8; i++) {
        ((double *)sum)[i] += ((const double *)x)[i];
    }
}

/* box [rank]: where the next bytes from a rank lie. */
static void finish_call(const struct fake_call *c, const char **box)
{
    const int own = rf_dist_rank(fake.dist);
    if (c->kind == FAKE_RECEIVE || (c->kind == FAKE_BROADCAST && c->peer != own)) {
        deliver(fake_lane, c->to, box[c->peer], c->bytes);
        box[c->peer] += c->bytes;
    } else if (c->kind == FAKE_BROADCAST) {
        deliver(fake_lane, c->to, c->from, c->bytes);
    } else if (c->kind == FAKE_REDUCE && c->peer == own) {
        char *sum = rf_alloc(1, c->bytes);
        for (int r = 0; r < rf_dist_size(fake.dist); r++) {
            add(sum, r == own ? c->from : box[r], c);
            box[r] += r == own ? 0 : c->bytes;
        }
        deliver(fake_lane, c->to, sum, c->bytes);
        free(sum);
    }
}

static int fake_group_end(void)
{
    const int size = rf_dist_size(fake.dist), own = rf_dist_rank(fake.dist);
    rf_error err = {0};
    int64_t most = 1;
    for (int r = 0; r < size; r++) {
        const int64_t bytes = (int64_t)fill_box(NULL, r);
        most = bytes > most ? bytes : most;
    }
    if (fake.group_fails_at > 0 && fake.n_groups + 1 >= fake.group_fails_at) {
        n_fake_calls = -1;
        return fake.group_result;
    }
    cr_assert(rf_dist_max_i64(fake.dist, &most, 1, &err) == RF_OK, "%s", err.message);
    const size_t n = (size_t)size, bytes = (size_t)most;
    char *out = rf_alloc(n, bytes), *all = rf_alloc(n * n, bytes);
    const char **box = rf_alloc(n, sizeof *box);
    for (int r = 0; r < size; r++) {
        fill_box(out + (size_t)r * bytes, r);
        box[r] = all + ((size_t)r * n + (size_t)own) * bytes;
    }
    cr_assert(rf_dist_allgather_bytes(fake.dist, all, out, n * bytes, &err) == RF_OK, "%s",
              err.message);
    for (int i = 0; i < n_fake_calls; i++) {
        finish_call(&fake_call[i], box);
    }
    free(box);
    free(all);
    free(out);
    n_fake_calls = -1;
    fake.n_groups++;
    return RF_NCCL_SUCCESS;
}

/* --- The rest of the library ------------------------------------------------------------------ */

static int fake_unique_id(rf_nccl_id *id)
{
    snprintf(id->internal, sizeof id->internal, "made by rank %d", rf_dist_rank(fake.dist));
    return RF_NCCL_SUCCESS;
}

static int fake_init_rank(rf_nccl_comm *comm, int n_ranks, rf_nccl_id id, int rank)
{
    cr_assert(n_ranks == rf_dist_size(fake.dist) && rank == rf_dist_rank(fake.dist));
    cr_assert(strcmp(id.internal, "made by rank 0") == 0, "%s", id.internal);
    *comm = fake.init_result == RF_NCCL_SUCCESS ? (rf_nccl_comm)(void *)&fake : NULL;
    return fake.init_result;
}

static int fake_destroy(rf_nccl_comm comm)
{
    cr_assert(comm == (rf_nccl_comm)(void *)&fake);
    fake.n_destroyed++;
    return RF_NCCL_SUCCESS;
}

static int fake_abort(rf_nccl_comm comm)
{
    cr_assert(comm == (rf_nccl_comm)(void *)&fake);
    fake.n_aborts++;
    return RF_NCCL_SUCCESS;
}

static int fake_async_error(rf_nccl_comm comm, int *result)
{
    cr_assert(comm == (rf_nccl_comm)(void *)&fake);
    *result = fake.async_result;
    return RF_NCCL_SUCCESS;
}

static const char *fake_error_string(int result)
{
    return result == 6 ? "remote process exited or there was a network error" : "a failure";
}

int rf_nccl_load(const rf_nccl **out, rf_error *err)
{
    static const rf_nccl nccl = {.name = "NCCL 0.0.0",
                                 .get_unique_id = fake_unique_id,
                                 .init_rank = fake_init_rank,
                                 .destroy = fake_destroy,
                                 .abort = fake_abort,
                                 .get_async_error = fake_async_error,
                                 .get_error_string = fake_error_string,
                                 .group_start = fake_group_start,
                                 .group_end = fake_group_end,
                                 .send = fake_send,
                                 .receive = fake_receive,
                                 .broadcast = fake_broadcast,
                                 .reduce = fake_reduce};
    if (fake.is_missing) {
        return rf_error_set(err, RF_ERR_USAGE, "there is no NCCL");
    }
    *out = &nccl;
    return RF_OK;
}

bool rf_cuda_device_id(unsigned char id[RF_DEVICE_ID])
{
    memset(id, 0, RF_DEVICE_ID);
    id[RF_DEVICE_ID - 1] = fake.device;
    return fake.is_named;
}

#endif
