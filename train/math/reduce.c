#include "train/math/reduce.h"

#include "common/base/alloc.h"
#include "common/kernels/kernels.h"
#include "data/loader.h"

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
    out->n_leaves = out->round = n_leaves / n_ranks;
    out->n_buffers = 1;
    if (exact) {
        int64_t subtree = n_leaves & -n_leaves; /* the largest power of two in it */
        out->round = subtree / n_ranks;
        out->n_buffers += (n_leaves > subtree);
        for (int64_t n = out->round; n > 1; n /= 2) {
            out->n_buffers++;
        }
    }
    out->all = rf_alloc(2 * (size_t)n_leaves, sizeof(double[RF_REDUCE_LOSSES]));
    out->exchange = rf_exchange_new(dist);
    out->n_buckets = 1;
    out->bucket = rf_alloc(1, sizeof *out->bucket);
    out->bucket[0].end = n_elements;
    return RF_OK;
}

void rf_reduce_set_buckets(rf_reduce *reduce, const rf_table *table, const rf_backend *backend)
{
    RF_ASSERT(table->n_elements == reduce->n_elements);
    free(reduce->bucket);
    reduce->n_buckets =
        rf_bucket_cut(&reduce->bucket, table, rf_type_bytes(backend->type[RF_MASTER]));
}

void rf_reduce_free(rf_reduce *reduce)
{
    rf_exchange_free(reduce->exchange);
    free(reduce->bucket);
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

/* --- Gradients -------------------------------------------------------------------------------- */

void rf_reduce_begin(rf_reduce *reduce)
{
    reduce->done = 0;
    reduce->depth = 0;
    reduce->total = -1;
}

void *rf_reduce_leaf(rf_reduce *reduce)
{
    void *gradient = reduce->buffer[reduce->exact ? reduce->depth : 0];
    RF_ASSERT(reduce->done < reduce->n_leaves);
    if (reduce->exact || reduce->done == 0) {
        rf_backend_zero(reduce->ctx, gradient, RF_MASTER, reduce->n_elements);
    }
    return gradient;
}

static void add(rf_reduce *reduce, int to, int from)
{
    reduce->ctx->backend->kernels->add(reduce->ctx, reduce->buffer[to], reduce->buffer[from],
                                       reduce->n_elements);
}

void rf_reduce_leaf_done(rf_reduce *reduce)
{
    RF_ASSERT(reduce->done < reduce->n_leaves);
    reduce->done++;
    if (!reduce->exact) {
        return;
    }
    reduce->level[reduce->depth++] = 0;
    /* Like carries of a binary counter: two subtrees of one size make the next. */
    while (reduce->depth > 1 &&
           reduce->level[reduce->depth - 1] == reduce->level[reduce->depth - 2]) {
        reduce->depth--;
        add(reduce, reduce->depth - 1, reduce->depth);
        reduce->level[reduce->depth - 1]++;
    }
}

int rf_reduce_round(rf_reduce *reduce, rf_error *err)
{
    int last = reduce->n_buffers - 1;
    RF_ASSERT(reduce->done % reduce->round == 0 && reduce->depth == reduce->exact);
    for (int64_t i = 0; i < reduce->n_buckets; i++) {
        const rf_range *b = &reduce->bucket[i];
        void *x = rf_backend_at(reduce->ctx->backend, RF_MASTER, reduce->buffer[0], b->begin);
        RF_TRY(rf_dist_reduce(reduce->dist, reduce->exchange, reduce->ctx, x, b->end - b->begin,
                              reduce->work, err));
    }
    reduce->depth = 0;
    if (reduce->round == reduce->n_leaves) {
        reduce->total = 0;
    } else if (reduce->total < 0) { /* of several: the first one moves out of the way */
        void *first = reduce->buffer[0];
        reduce->buffer[0] = reduce->buffer[last];
        reduce->buffer[last] = first;
        reduce->total = last;
    } else {
        add(reduce, last, 0);
    }
    return RF_OK;
}

void *rf_reduce_gradient(const rf_reduce *reduce)
{
    RF_ASSERT(reduce->done == reduce->n_leaves && reduce->total >= 0);
    return reduce->buffer[reduce->total];
}

/* --- Losses ----------------------------------------------------------------------------------- */

static void add_losses(double *sum, const double *x)
{
    for (int i = 0; i < RF_REDUCE_LOSSES; i++) {
        sum[i] += x[i];
    }
}

/* The tree over n leaves, in place; the sum ends in x[0]. */
static void sum_leaves(double (*x)[RF_REDUCE_LOSSES], int64_t n)
{
    for (; n % 2 == 0; n /= 2) {
        for (int64_t i = 0; i < n / 2; i++) {
            memmove(x[i], x[2 * i], sizeof *x);
            add_losses(x[i], x[2 * i + 1]);
        }
    }
    for (int64_t i = 1; i < n; i++) {
        add_losses(x[0], x[i]);
    }
}

int rf_reduce_losses(rf_reduce *reduce, double *sum, const double *leaf, rf_error *err)
{
    int64_t n_ranks = rf_dist_size(reduce->dist), n = reduce->n_leaves;
    double(*dealt)[RF_REDUCE_LOSSES] = (void *)reduce->all;
    double(*ordered)[RF_REDUCE_LOSSES] = dealt + n_ranks * n;
    RF_TRY(rf_dist_allgather_bytes(reduce->dist, dealt, leaf, (size_t)n * sizeof *dealt, err));
    for (int64_t rank = 0; rank < n_ranks; rank++) {
        for (int64_t i = 0; i < n; i++) {
            int64_t index = rf_loader_leaf(rank, n_ranks, reduce->round, i);
            memcpy(ordered[index], dealt[rank * n + i], sizeof *dealt);
        }
    }
    sum_leaves(ordered, n_ranks * n);
    memcpy(sum, ordered[0], sizeof *ordered);
    return RF_OK;
}
