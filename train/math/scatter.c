#include "train/math/scatter.h"

#include "common/base/alloc.h"
#include "common/kernels/kernels.h"

#include <stdlib.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void rf_scatter_new(rf_scatter *out, rf_dist *dist, const rf_shards *shards, size_t element_bytes,
                    bool narrow)
{
    const int64_t wanted = (int64_t)(RF_PART_BYTES / element_bytes) / shards->n_ranks;
    int64_t longest = 0; /* slice */
    *out = (rf_scatter){.dist = dist, .shards = shards, .narrow = narrow};
    for (int64_t i = 0; i < shards->n_trained; i++) {
        const int64_t slot = rf_slice_begin(rf_range_length(shards->part[i]), 1, shards->n_ranks);
        longest = slot > longest ? slot : longest;
    }
    out->portion = least(rf_sum_runs(wanted), rf_sum_runs(longest)) * RF_SUM_RUN;
    out->queue = rf_alloc((size_t)shards->n_trained + 1, sizeof *out->queue);
    for (int i = 0; i < RF_SCATTER_FLIGHTS; i++) {
        out->flight[i].exchange = rf_exchange_new(dist, RF_CHANNEL_GRADIENTS);
    }
}

void rf_scatter_free(rf_scatter *scatter)
{
    for (int i = 0; i < RF_SCATTER_FLIGHTS; i++) {
        rf_exchange_free(scatter->flight[i].exchange);
    }
    free(scatter->queue);
    *scatter = (rf_scatter){0};
}

void rf_scatter_layout(rf_scatter *scatter, rf_arena *arena, const rf_backend *backend)
{
    const int64_t n = scatter->portion * scatter->shards->n_ranks;
    for (int i = 0; i < RF_SCATTER_FLIGHTS; i++) {
        const size_t wire = scatter->narrow ? rf_backend_bytes(backend, RF_WIRE, n) : 0;
        scatter->flight[i].versions = rf_arena_take(arena, rf_backend_bytes(backend, RF_MASTER, n));
        scatter->flight[i].sent = rf_arena_take(arena, wire);
        scatter->flight[i].came = rf_arena_take(arena, wire);
    }
}

void rf_scatter_begin(rf_scatter *scatter, void *sums, bool adds)
{
    RF_ASSERT(scatter->n_landed == scatter->n_flown);
    scatter->n_queued = scatter->next = scatter->next_from = 0;
    scatter->n_flown = scatter->n_landed = scatter->n_done = 0;
    scatter->sums = sums;
    scatter->adds = adds;
}

static void keep_failure(rf_scatter *s, int rc, const rf_error *why)
{
    if (rc != RF_OK && s->failure.code == RF_OK) {
        s->failure = *why;
    }
}

/* Begins to bring all versions of elements [from, from + portion) of this rank's slice of a part. In
 * bf16 they go by way of memory that is laid out as one range of as many elements from each slice. */
static int set_off(rf_scatter *s, int64_t slot, const void *gradient, int64_t n, int64_t from,
                   rf_error *err)
{
    const rf_backend *backend = s->ctx->backend;
    const int64_t size = s->shards->n_ranks;
    rf_exchange *exchange = s->flight[slot].exchange;
    if (!s->narrow) {
        return rf_exchange_all_to_all(exchange, s->ctx, s->flight[slot].versions, gradient,
                                      RF_MASTER, n, from, s->portion, err);
    }
    for (int64_t r = 0; r < size; r++) {
        const int64_t begin = rf_slice_begin(n, r, size) + from;
        const int64_t left = rf_slice_begin(n, r + 1, size) - begin;
        rf_backend_convert(
            s->ctx, rf_backend_at(backend, RF_WIRE, s->flight[slot].sent, r * s->portion), RF_WIRE,
            left > 0 ? rf_backend_at(backend, RF_MASTER, gradient, begin) : gradient, RF_MASTER,
            left > 0 ? least(left, s->portion) : 0);
    }
    return rf_exchange_all_to_all(exchange, s->ctx, s->flight[slot].came, s->flight[slot].sent,
                                  RF_WIRE, size * s->portion, 0, s->portion, err);
}

/* Begins the exchange of the next portion. */
static void fly(rf_scatter *s)
{
    const rf_shards *shards = s->shards;
    const int64_t slot = s->n_flown % RF_SCATTER_FLIGHTS;
    const rf_range part = shards->part[s->queue[s->next].part];
    const int64_t n = rf_range_length(part);
    const int64_t mine = rf_range_length(rf_shards_held(shards, part, shards->rank));
    const int64_t left = mine - s->next_from;
    rf_error why = {0};
    s->flight[slot].first = s->next_from;
    s->flight[slot].n = left < 0 ? 0 : least(left, s->portion);
    s->flight[slot].queued = s->next;
    keep_failure(s, set_off(s, slot, s->queue[s->next].gradient, n, s->next_from, &why), &why);
    s->n_flown++;
    s->next_from += s->portion;
    if (s->next_from >= rf_slice_begin(n, 1, shards->n_ranks)) { /* the longest slice ends */
        s->next++;
        s->next_from = 0;
    }
}

/* The oldest flight is over: adds its versions up. */
static void land(rf_scatter *s)
{
    const rf_backend *backend = s->ctx->backend;
    const int64_t slot = s->n_landed % RF_SCATTER_FLIGHTS, n = s->flight[slot].n;
    const int64_t queued = s->flight[slot].queued, size = s->shards->n_ranks;
    void *versions = s->flight[slot].versions;
    for (int64_t r = 0; s->narrow && r < size; r++) {
        rf_backend_convert(
            s->ctx, rf_backend_at(backend, RF_MASTER, versions, r * s->portion), RF_MASTER,
            rf_backend_at(backend, RF_WIRE, s->flight[slot].came, r * s->portion), RF_WIRE, n);
    }
    rf_dist_add_versions(s->ctx, versions, size, s->portion, n);
    void *to = rf_backend_at(backend, RF_MASTER, s->sums,
                             s->shards->at[s->queue[queued].part] + s->flight[slot].first);
    if (s->adds) {
        backend->kernels->add(s->ctx, to, versions, n);
    } else {
        rf_backend_copy(s->ctx, to, versions, RF_MASTER, n);
    }
    s->n_landed++;
    /* Portions land in order: where none of this part is left to fly or to land, it is complete. */
    const bool flies =
        s->n_landed < s->n_flown && s->flight[s->n_landed % RF_SCATTER_FLIGHTS].queued == queued;
    if (s->next > queued && !flies) {
        s->n_done = queued + 1;
    }
}

static void take_off(rf_scatter *s)
{
    while (s->next < s->n_queued && s->n_flown - s->n_landed < RF_SCATTER_FLIGHTS) {
        fly(s);
    }
}

void rf_scatter_push(rf_scatter *scatter, int64_t part, const void *gradient)
{
    RF_ASSERT(scatter->n_queued < scatter->shards->n_trained);
    scatter->queue[scatter->n_queued].part = part;
    scatter->queue[scatter->n_queued].gradient = gradient;
    scatter->n_queued++;
    take_off(scatter);
}

void rf_scatter_poll(rf_scatter *s)
{
    bool done = true;
    rf_error why = {0};
    while (done && s->n_landed < s->n_flown) {
        rf_exchange *oldest = s->flight[s->n_landed % RF_SCATTER_FLIGHTS].exchange;
        keep_failure(s, rf_exchange_poll(oldest, &done, &why), &why);
        if (done) {
            land(s);
            take_off(s);
        }
    }
}

/* Until `n` parts of the queue are summed. */
static void wait_for(rf_scatter *s, int64_t n)
{
    rf_error why = {0};
    while (s->n_done < n) {
        rf_exchange *oldest = s->flight[s->n_landed % RF_SCATTER_FLIGHTS].exchange;
        keep_failure(s, rf_exchange_wait(oldest, &why), &why);
        land(s);
        take_off(s);
    }
}

void rf_scatter_wait_part(rf_scatter *scatter, int64_t part)
{
    for (int64_t i = 0; i < scatter->n_queued; i++) {
        if (scatter->queue[i].part == part) {
            wait_for(scatter, i + 1);
        }
    }
}

int rf_scatter_wait(rf_scatter *scatter, rf_error *err)
{
    wait_for(scatter, scatter->n_queued);
    return rf_error_pass(err, &scatter->failure);
}
