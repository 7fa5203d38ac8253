#include "train/math/reduce.h"

#include "common/base/alloc.h"
#include "common/kernels/kernels.h"
#include "data/loader.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool is_shared(const rf_reduce *reduce)
{
    return reduce->shards->kind != RF_SHARD_NONE;
}

/* --- Description ------------------------------------------------------------------------------ */

static int check_ranks(int64_t n_ranks, int64_t n_leaves, bool exact, rf_error *err)
{
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
    return RF_OK;
}

/* How many leaves make a round, and what is pending of the tree. */
static void describe_tree(rf_reduce *r, int64_t n_leaves)
{
    const int64_t n_ranks = rf_dist_size(r->dist);
    const int64_t subtree = r->exact ? n_leaves & -n_leaves : n_leaves; /* a power of two */
    const int64_t of_rank = subtree / n_ranks;
    const bool one_by_one = is_shared(r) && (r->exact || r->shards->kind != RF_SHARD_STATE);
    r->n_leaves = n_leaves / n_ranks;
    r->round = one_by_one ? 1 : of_rank;
    r->n_subtree = is_shared(r) ? of_rank / r->round : of_rank;
    r->n_summed = rf_shards_trained(r->shards);
    r->n_buffers = 1 + (n_leaves > subtree);
    for (int64_t n = r->n_subtree; r->exact && n > 1; n /= 2) {
        r->n_buffers++;
    }
}

/* The place of a part's gradient. With RF_SHARD_STATE each has its own; else the first part has one,
 * for a tied embedding gets its first share before all others and its last one behind them, and the
 * others, which come from the last to the first, take turns. */
static int64_t place_of(const rf_reduce *r, int64_t part)
{
    return r->shards->kind == RF_SHARD_STATE ? part : part == 0 ? 0 : 1 + part % 2;
}

static void describe_places(rf_reduce *r)
{
    r->n_places = r->shards->kind == RF_SHARD_STATE ? r->shards->n_trained : 3;
    r->place = rf_alloc((size_t)r->n_places + 1, sizeof *r->place);
    for (int64_t i = 0; i < r->shards->n_trained; i++) {
        rf_reduce_place *place = &r->place[place_of(r, i)];
        const int64_t n = rf_range_length(r->shards->part[i]);
        place->n = n > place->n ? n : place->n;
    }
}

int rf_reduce_new(rf_reduce *out, rf_dist *dist, const rf_shards *shards, size_t element_bytes,
                  int64_t n_leaves, bool exact, bool narrow, rf_error *err)
{
    *out = (rf_reduce){.dist = dist, .shards = shards, .exact = exact};
    RF_TRY(check_ranks(rf_dist_size(dist), n_leaves, exact, err));
    describe_tree(out, n_leaves);
    out->all = rf_alloc(2 * (size_t)n_leaves, sizeof(double[RF_REDUCE_LOSSES]));
    if (is_shared(out)) {
        describe_places(out);
        rf_scatter_new(&out->scatter, dist, shards, element_bytes, narrow);
    } else {
        out->exchange = rf_exchange_new(dist, RF_CHANNEL_GRADIENTS);
    }
    return RF_OK;
}

void rf_reduce_free(rf_reduce *reduce)
{
    rf_exchange_free(reduce->exchange);
    rf_scatter_free(&reduce->scatter);
    free(reduce->place);
    free(reduce->all);
    *reduce = (rf_reduce){0};
}

void rf_reduce_layout(rf_reduce *reduce, rf_arena *arena, const rf_backend *backend)
{
    for (int i = 0; i < reduce->n_buffers; i++) {
        reduce->buffer[i] =
            rf_arena_take(arena, rf_backend_bytes(backend, RF_MASTER, reduce->n_summed));
    }
    for (int64_t i = 0; i < reduce->n_places; i++) {
        reduce->place[i].memory =
            rf_arena_take(arena, rf_backend_bytes(backend, RF_MASTER, reduce->place[i].n));
    }
    if (is_shared(reduce)) {
        rf_scatter_layout(&reduce->scatter, arena, backend);
    } else {
        reduce->work =
            rf_arena_take(arena, rf_dist_reduce_bytes(reduce->dist, backend, reduce->n_summed));
    }
}

size_t rf_reduce_gradient_bytes(const rf_reduce *reduce, const rf_backend *backend)
{
    int64_t n = reduce->n_buffers * reduce->n_summed;
    for (int64_t i = 0; i < reduce->n_places; i++) {
        n += reduce->place[i].n;
    }
    return rf_backend_bytes(backend, RF_MASTER, n);
}

/* --- The tree --------------------------------------------------------------------------------- */

/* Where the sum of the next item of the subtree goes. */
static void *next_item(const rf_reduce *reduce)
{
    return reduce->buffer[reduce->exact ? reduce->depth : 0];
}

static void add(rf_reduce *reduce, int to, int from)
{
    reduce->ctx->backend->kernels->add(reduce->ctx, reduce->buffer[to], reduce->buffer[from],
                                       reduce->n_summed);
}

/* The next item is there. Like carries of a binary counter: two subtrees of one size make the next. */
static void item_done(rf_reduce *reduce)
{
    reduce->n_items++;
    if (!reduce->exact) {
        return;
    }
    reduce->level[reduce->depth++] = 0;
    while (reduce->depth > 1 &&
           reduce->level[reduce->depth - 1] == reduce->level[reduce->depth - 2]) {
        reduce->depth--;
        add(reduce, reduce->depth - 1, reduce->depth);
        reduce->level[reduce->depth - 1]++;
    }
}

/* One of the largest subtrees is complete, in the first buffer: to those before. */
static void subtree_done(rf_reduce *reduce)
{
    const int last = reduce->n_buffers - 1;
    RF_ASSERT(reduce->n_items == reduce->n_subtree && reduce->depth == reduce->exact);
    reduce->n_items = 0;
    reduce->depth = 0;
    if (reduce->n_subtree * (is_shared(reduce) ? reduce->round : 1) == reduce->n_leaves) {
        reduce->total = 0;
    } else if (reduce->total < 0) { /* of several: the first one moves out of the way */
        void *first = reduce->buffer[0];
        reduce->buffer[0] = reduce->buffer[last];
        reduce->buffer[last] = first;
        reduce->total = last;
    } else {
        add(reduce, last, 0);
    }
}

/* --- The gradient of a pass, where ranks hold slices ------------------------------------------ */

/* collective. The round before is summed over ranks: its place in the tree. */
static int settle(rf_reduce *reduce, rf_error *err)
{
    if (!reduce->flies) {
        return RF_OK;
    }
    reduce->flies = false;
    RF_TRY(rf_scatter_wait(&reduce->scatter, err));
    item_done(reduce);
    if (reduce->n_items == reduce->n_subtree) {
        subtree_done(reduce);
    }
    return RF_OK;
}

/* Does this pass add to what the one before left? */
static bool accumulates(const rf_reduce *reduce)
{
    return reduce->done % reduce->round != 0;
}

/* Makes room for the gradient of a part, which another may still need; nothing is in it yet. */
static void *open_part(rf_reduce *r, int64_t part)
{
    rf_reduce_place *place = &r->place[place_of(r, part)];
    if (place->tenant != part) {
        const int64_t n = rf_range_length(r->shards->part[part]);
        if (place->tenant >= 0) {
            rf_scatter_wait_part(&r->scatter, place->tenant);
        }
        rf_backend_zero(r->ctx, place->memory, RF_MASTER, n);
        place->tenant = part;
    }
    return place->memory;
}

/* As rf_gradient has them. */
static void *find_layer(void *user, int64_t layer)
{
    rf_reduce *r = user;
    const int64_t begin = r->shards->layer[layer].begin;
    const int64_t part = rf_shards_find(r->shards, begin);
    return rf_backend_at(r->ctx->backend, RF_MASTER, open_part(r, part),
                         begin - r->shards->part[part].begin);
}

/* A part is complete with its first layer, which comes last; it travels when the round ends. */
static void hear_layer(void *user, int64_t layer)
{
    rf_reduce *r = user;
    const rf_range range = r->shards->layer[layer];
    const bool is_last = (r->done + 1) % r->round == 0;
    if (range.begin == range.end || !is_last) {
        return;
    }
    const int64_t part = rf_shards_find(r->shards, range.begin);
    if (r->shards->part[part].begin == range.begin) {
        rf_scatter_push(&r->scatter, part, open_part(r, part));
    }
}

static rf_gradient leaf_of_slices(rf_reduce *r)
{
    const int rc = settle(r, NULL); /* stays in the scatter, and comes out with the gradient */
    (void)rc;
    if (!accumulates(r)) {
        for (int64_t i = 0; i < r->n_places; i++) {
            r->place[i].tenant = -1;
        }
    }
    rf_scatter_begin(&r->scatter, next_item(r), !r->exact && r->n_items > 0);
    return (rf_gradient){.find = find_layer, .done = hear_layer, .user = r};
}

/* --- Gradients -------------------------------------------------------------------------------- */

void rf_reduce_begin(rf_reduce *reduce)
{
    RF_ASSERT(!reduce->flies);
    reduce->done = 0;
    reduce->n_items = 0;
    reduce->depth = 0;
    reduce->total = -1;
}

rf_gradient rf_reduce_leaf(rf_reduce *reduce)
{
    RF_ASSERT(reduce->done < reduce->n_leaves);
    if (is_shared(reduce)) {
        return leaf_of_slices(reduce);
    }
    void *gradient = next_item(reduce);
    if (reduce->exact || reduce->done == 0) {
        rf_backend_zero(reduce->ctx, gradient, RF_MASTER, reduce->n_summed);
    }
    return rf_gradient_whole(gradient);
}

void rf_reduce_leaf_done(rf_reduce *reduce)
{
    RF_ASSERT(reduce->done < reduce->n_leaves);
    reduce->done++;
    if (!is_shared(reduce)) {
        item_done(reduce);
    }
}

void rf_reduce_poll(rf_reduce *reduce)
{
    if (is_shared(reduce)) {
        rf_scatter_poll(&reduce->scatter);
    }
}

int rf_reduce_round(rf_reduce *reduce, rf_error *err)
{
    RF_ASSERT(reduce->done % reduce->round == 0);
    if (is_shared(reduce)) {
        reduce->flies = true; /* the next leaf, or the end of the step, waits */
        return RF_OK;
    }
    RF_TRY(rf_dist_reduce(reduce->dist, reduce->exchange, reduce->ctx, reduce->buffer[0],
                          reduce->n_summed, reduce->work, err));
    subtree_done(reduce);
    return RF_OK;
}

int rf_reduce_gradient(void **out, rf_reduce *reduce, rf_error *err)
{
    RF_TRY(settle(reduce, err));
    RF_ASSERT(reduce->done == reduce->n_leaves && reduce->total >= 0);
    *out = reduce->buffer[reduce->total];
    return RF_OK;
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
