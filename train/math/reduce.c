#include "train/math/reduce.h"

#include "common/base/alloc.h"
#include "common/kernels/kernels.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int rf_reduce_new(rf_reduce *out, rf_dist *dist, int64_t n_elements, int64_t n_leaves, bool exact,
                  rf_error *err)
{
    int64_t n_ranks = rf_dist_size(dist);
    *out = (rf_reduce){.dist = dist, .exact = exact, .n_elements = n_elements};
    if (n_leaves % n_ranks != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%" PRId64 " leaves (train.batch_rows / train.micro_rows) cannot be "
                            "shared evenly by %" PRId64 " ranks: change train.batch_rows",
                            n_leaves, n_ranks);
    }
    if (exact && (n_ranks & (n_ranks - 1)) != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "train.reduce=exact needs 1, 2, 4, 8, ... ranks and there are %" PRId64
                            ": set train.reduce=fast, or change the number of ranks",
                            n_ranks);
    }
    out->n_leaves = n_leaves / n_ranks;
    out->group = out->n_leaves;
    int depth = 0;
    for (; out->group > 0 && out->group % 2 == 0; depth++) {
        out->group /= 2;
    }
    out->n_buffers = exact ? depth + 1 : 1;
    out->all = rf_alloc((size_t)n_ranks, sizeof(double[RF_REDUCE_LOSSES]));
    out->exchange = rf_exchange_new(dist);
    return RF_OK;
}

void rf_reduce_free(rf_reduce *reduce)
{
    rf_exchange_free(reduce->exchange);
    free(reduce->all);
    *reduce = (rf_reduce){0};
}

void rf_reduce_layout(rf_reduce *reduce, rf_arena *arena, const rf_backend *backend)
{
    for (int i = 0; i < reduce->n_buffers; i++) {
        reduce->buffer[i] =
            rf_arena_take(arena, rf_backend_bytes(backend, RF_MASTER, reduce->n_elements));
    }
    reduce->work =
        rf_arena_take(arena, rf_dist_reduce_bytes(reduce->dist, backend, reduce->n_elements));
}

void rf_reduce_begin(rf_reduce *reduce, bool gradients)
{
    reduce->gradients = gradients;
    reduce->done = 0;
    reduce->depth = 0;
}

void *rf_reduce_leaf(rf_reduce *reduce)
{
    bool begins_group = reduce->done % reduce->group == 0;
    void *gradient = reduce->buffer[reduce->exact ? reduce->depth : 0];
    RF_ASSERT(reduce->gradients && reduce->done < reduce->n_leaves);
    if (reduce->exact ? begins_group : reduce->done == 0) {
        rf_backend_zero(reduce->ctx, gradient, RF_MASTER, reduce->n_elements);
    }
    return gradient;
}

static void add_losses(double *sum, const double *x)
{
    for (int i = 0; i < RF_REDUCE_LOSSES; i++) {
        sum[i] += x[i];
    }
}

/* The two newest subtrees become one. */
static void merge(rf_reduce *reduce)
{
    int right = --reduce->depth, left = right - 1;
    if (reduce->exact && reduce->gradients) {
        reduce->ctx->backend->kernels->add(reduce->ctx, reduce->buffer[left], reduce->buffer[right],
                                           reduce->n_elements);
    }
    add_losses(reduce->loss[left], reduce->loss[right]);
    reduce->level[left]++;
}

void rf_reduce_leaf_done(rf_reduce *reduce, const double *loss)
{
    RF_ASSERT(reduce->done < reduce->n_leaves);
    if (reduce->done % reduce->group == 0) {
        memset(reduce->loss[reduce->depth], 0, sizeof reduce->loss[reduce->depth]);
    }
    add_losses(reduce->loss[reduce->depth], loss);
    reduce->done++;
    if (reduce->done % reduce->group != 0) {
        return;
    }
    reduce->level[reduce->depth++] = 0;
    /* Like carries of a binary counter: two subtrees of one size make the next. */
    while (reduce->depth > 1 &&
           reduce->level[reduce->depth - 1] == reduce->level[reduce->depth - 2]) {
        merge(reduce);
    }
}

/* The ranks' sums, by the tree where their number is a power of two. */
static int sum_ranks(rf_reduce *reduce, double *loss, rf_error *err)
{
    int n_ranks = rf_dist_size(reduce->dist);
    int rc = rf_dist_allgather_f64(reduce->dist, reduce->all, loss, RF_REDUCE_LOSSES, err);
    bool is_power = (n_ranks & (n_ranks - 1)) == 0;
    if (rc != RF_OK) {
        return rc;
    }
    for (int step = 1; is_power && step < n_ranks; step *= 2) {
        for (int r = 0; r < n_ranks; r += 2 * step) {
            add_losses(&reduce->all[r * RF_REDUCE_LOSSES],
                       &reduce->all[(r + step) * RF_REDUCE_LOSSES]);
        }
    }
    for (int r = 1; !is_power && r < n_ranks; r++) {
        add_losses(reduce->all, &reduce->all[r * RF_REDUCE_LOSSES]);
    }
    memcpy(loss, reduce->all, RF_REDUCE_LOSSES * sizeof *loss);
    return RF_OK;
}

int rf_reduce_finish(rf_reduce *reduce, void **gradient, double *loss, rf_error *err)
{
    RF_ASSERT(reduce->done == reduce->n_leaves && reduce->depth == 1);
    memcpy(loss, reduce->loss[0], sizeof reduce->loss[0]);
    *gradient = reduce->gradients ? reduce->buffer[0] : NULL;
    int rc = sum_ranks(reduce, loss, err);
    if (rc != RF_OK || !reduce->gradients) {
        return rc;
    }
    return rf_dist_reduce(reduce->dist, reduce->exchange, reduce->ctx, reduce->buffer[0],
                          reduce->n_elements, reduce->work, err);
}
