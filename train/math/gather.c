#include "train/math/gather.h"

#include "common/base/alloc.h"

#include <stdlib.h>

static bool has_windows(const rf_gather *gather)
{
    return gather->shards->kind == RF_SHARD_WEIGHTS;
}

static int wait_for(rf_gather *gather, rf_exchange *exchange, rf_error *err)
{
    RF_TRY(rf_error_pass(err, &gather->failure));
    return rf_exchange_wait(exchange, err);
}

/* --- Description ------------------------------------------------------------------------------ */

/* The layers of the stored space (shard.h: layer) that a block, or what lies outside, consists of. */
static int layers_of(int64_t *layer, const rf_shards *s, int64_t of)
{
    const int64_t frozen = s->n_layers + 2;
    const bool outside = of == s->n_layers;
    int n = 0;
    layer[n++] = outside ? 0 : of + 1;
    layer[n++] = frozen + (outside ? 0 : of + 1);
    if (outside) {
        layer[n++] = s->n_layers + 1;
        layer[n++] = frozen + s->n_layers + 1;
    }
    return n;
}

/* The parts that hold these layers' parameters: of all, or of what is trained. */
static int parts_of(int64_t *part, const rf_shards *s, int64_t of, bool frozen_too)
{
    int64_t layer[RF_GATHER_PARTS];
    const int n_layers = layers_of(layer, s, of);
    int n = 0;
    for (int i = 0; i < n_layers; i++) {
        const rf_range range = s->layer[layer[i]];
        const bool is_frozen = layer[i] >= s->n_layers + 2;
        if (range.begin < range.end && (frozen_too || !is_frozen)) {
            part[n++] = rf_shards_find(s, range.begin);
        }
    }
    return n;
}

/* Parts behind each other, as a forward pass comes to them. */
static void find_order(rf_gather *g)
{
    const rf_shards *s = g->shards;
    int64_t part[RF_GATHER_PARTS], n = 0;
    g->order = rf_alloc((size_t)s->n_trained + 1, sizeof *g->order);
    for (int64_t i = 0; i <= s->n_layers; i++) {
        const int n_parts = parts_of(part, s, i == 0 ? s->n_layers : i - 1, false);
        for (int k = 0; k < n_parts; k++) {
            int64_t at = 0;
            while (at < n && g->order[at] != part[k]) {
                at++;
            }
            if (at == n) {
                g->order[n++] = part[k];
            }
        }
    }
    RF_ASSERT(n == s->n_trained);
    g->n_flown = g->n_landed = n; /* all is there */
}

static rf_gather_window *window_of(rf_gather *g, int64_t layer)
{
    return &g->window[layer == g->shards->n_layers ? 2 : layer % 2];
}

static void measure_windows(rf_gather *g)
{
    int64_t part[RF_GATHER_PARTS];
    for (int64_t layer = 0; layer <= g->shards->n_layers; layer++) {
        rf_gather_window *w = window_of(g, layer);
        int64_t n = 0;
        const int n_parts = parts_of(part, g->shards, layer, true);
        for (int i = 0; i < n_parts; i++) {
            n += rf_range_length(g->shards->part[part[i]]);
        }
        w->n = n > w->n ? n : w->n;
    }
}

void rf_gather_new(rf_gather *out, rf_dist *dist, const rf_shards *shards)
{
    *out = (rf_gather){.dist = dist, .shards = shards};
    for (int i = 0; i < RF_GATHER_WINDOWS; i++) {
        out->window[i].layer = -1;
    }
    if (has_windows(out)) {
        measure_windows(out);
        for (int i = 0; i < RF_GATHER_WINDOWS * RF_GATHER_PARTS; i++) {
            out->window[i / RF_GATHER_PARTS].exchange[i % RF_GATHER_PARTS] =
                rf_exchange_new(dist, RF_CHANNEL_WEIGHTS);
        }
    } else if (shards->kind != RF_SHARD_NONE) {
        find_order(out);
        for (int i = 0; i < RF_GATHER_FLIGHTS; i++) {
            out->flight[i] = rf_exchange_new(dist, RF_CHANNEL_WEIGHTS);
        }
    }
}

void rf_gather_free(rf_gather *gather)
{
    if (gather->model != NULL) {
        const int rc = rf_gather_settle(gather, NULL);
        (void)rc; /* whoever still wants the weights has heard of it */
        gather->model->source = (rf_weight_source){0};
    }
    for (int i = 0; i < RF_GATHER_WINDOWS * RF_GATHER_PARTS; i++) {
        rf_exchange_free(gather->window[i / RF_GATHER_PARTS].exchange[i % RF_GATHER_PARTS]);
    }
    for (int i = 0; i < RF_GATHER_FLIGHTS; i++) {
        rf_exchange_free(gather->flight[i]);
    }
    free(gather->order);
    *gather = (rf_gather){0};
}

void rf_gather_layout(rf_gather *gather, rf_arena *arena, const rf_backend *backend,
                      rf_compute compute)
{
    const rf_backend *own = rf_backend_with(backend, compute);
    const bool copies = own->type[RF_WEIGHT] != own->type[RF_MASTER];
    for (int i = 0; i < RF_GATHER_WINDOWS; i++) {
        rf_gather_window *w = &gather->window[i];
        w->master = rf_arena_take(arena, rf_backend_bytes(own, RF_MASTER, w->n));
        w->weight = rf_arena_take(arena, copies ? rf_backend_bytes(own, RF_WEIGHT, w->n) : 0);
    }
}

/* --- Whole masters ---------------------------------------------------------------------------- */

static int fly(rf_gather *g, rf_error *err)
{
    const rf_shards *s = g->shards;
    const rf_backend *backend = g->model->ctx->backend;
    while (g->n_flown < s->n_trained && g->n_flown - g->n_landed < RF_GATHER_FLIGHTS) {
        const rf_range part = s->part[g->order[g->n_flown]];
        const rf_range held = rf_shards_held(s, part, s->rank);
        rf_exchange *exchange = g->flight[g->n_flown++ % RF_GATHER_FLIGHTS];
        RF_TRY(
            rf_exchange_all_gather(exchange, g->model->ctx,
                                   rf_backend_at(backend, RF_MASTER, g->model->master, part.begin),
                                   rf_backend_at(backend, RF_MASTER, g->model->master, held.begin),
                                   RF_MASTER, rf_range_length(part), err));
    }
    return RF_OK;
}

/* The oldest flight is over. */
static int land(rf_gather *g, rf_error *err)
{
    rf_model_prepare_range(g->model, g->shards->part[g->order[g->n_landed++]]);
    return fly(g, err);
}

/* Until `n` parts of the order have come. */
static int wait_for_parts(rf_gather *g, int64_t n, rf_error *err)
{
    while (g->n_landed < n) {
        RF_TRY(wait_for(g, g->flight[g->n_landed % RF_GATHER_FLIGHTS], err));
        RF_TRY(land(g, err));
    }
    return RF_OK;
}

static int acquire_masters(rf_gather *g, int64_t layer, rf_error *err)
{
    int64_t part[RF_GATHER_PARTS];
    const int n = parts_of(part, g->shards, layer, false);
    for (int i = 0; i < n && g->n_landed < g->shards->n_trained; i++) {
        int64_t at = 0;
        while (g->order[at] != part[i]) {
            at++;
        }
        RF_TRY(wait_for_parts(g, at + 1, err));
    }
    return RF_OK;
}

/* --- Windows ---------------------------------------------------------------------------------- */

/* Sets off what a layer needs, unless it is there or on its way. */
static int open_window(rf_gather *g, int64_t layer, rf_error *err)
{
    const rf_shards *s = g->shards;
    const rf_backend *backend = g->model->ctx->backend;
    rf_gather_window *w = window_of(g, layer);
    if (w->layer == layer) {
        return RF_OK;
    }
    RF_ASSERT(w->layer < 0 || w->is_there);
    w->layer = layer;
    w->is_there = false;
    w->n_parts = parts_of(w->part, s, layer, true);
    int64_t at = 0;
    for (int i = 0; i < w->n_parts; i++) {
        const int64_t n = rf_range_length(s->part[w->part[i]]);
        w->begin[i] = at;
        RF_TRY(rf_exchange_all_gather(
            w->exchange[i], g->model->ctx, rf_backend_at(backend, RF_MASTER, w->master, at),
            rf_backend_at(backend, RF_MASTER, g->model->master, s->at[w->part[i]]), RF_MASTER, n,
            err));
        at += n;
    }
    return RF_OK;
}

/* Tells the model where a tensor of the window lies; products read matrices as class weight. */
static void bind(rf_gather *g, const rf_gather_window *w, int i, const rf_tensor *t)
{
    rf_ctx *ctx = g->model->ctx;
    const int64_t at = w->begin[i] + (t->offset - g->shards->part[w->part[i]].begin);
    void *master = rf_backend_at(ctx->backend, RF_MASTER, w->master, at);
    const void **of = g->model->block[w->layer].of;
    of[t->role] = master;
    if (w->weight != NULL && t->n_dims == 2) {
        void *weight = rf_backend_at(ctx->backend, RF_WEIGHT, w->weight, at);
        rf_backend_convert(ctx, weight, RF_WEIGHT, master, RF_MASTER, t->count);
        of[t->role] = weight;
    }
    if (t->role == RF_ROLE_EMBED && g->model->config.tie_word_embeddings) {
        of[RF_ROLE_HEAD] = of[RF_ROLE_EMBED];
    }
}

/* Waits for what was set off, and hands it to the model. */
static int fill_window(rf_gather *g, rf_gather_window *w, rf_error *err)
{
    const rf_table *table = &g->model->table;
    if (w->layer < 0 || w->is_there) {
        return RF_OK;
    }
    for (int i = 0; i < w->n_parts; i++) {
        RF_TRY(wait_for(g, w->exchange[i], err));
    }
    w->is_there = true;
    for (int64_t k = 0; k < table->n_tensors; k++) {
        const rf_tensor *t = &table->tensor[k];
        for (int i = 0; i < w->n_parts; i++) {
            const rf_range part = g->shards->part[w->part[i]];
            if (t->offset >= part.begin && t->offset < part.end) {
                bind(g, w, i, t);
            }
        }
    }
    return RF_OK;
}

/* The layer that a pass asks for next; -1: none. */
static int64_t next_layer(const rf_shards *s, int64_t layer, rf_direction direction)
{
    if (direction == RF_BACKWARD) {
        return layer - 1;
    }
    return layer == s->n_layers ? 0 : layer + 1 < s->n_layers ? layer + 1 : -1;
}

static int acquire_window(rf_gather *g, int64_t layer, rf_direction direction, rf_error *err)
{
    const int64_t next = next_layer(g->shards, layer, direction);
    RF_TRY(open_window(g, layer, err));
    RF_TRY(fill_window(g, window_of(g, layer), err));
    if (next < 0) {
        return RF_OK;
    }
    /* What was fetched ahead and is not wanted any more, where a pass turned round. */
    rf_gather_window *w = window_of(g, next);
    RF_TRY(w->layer != next ? fill_window(g, w, err) : RF_OK);
    return open_window(g, next, err);
}

/* --- The source of weights -------------------------------------------------------------------- */

static int acquire(void *user, int64_t layer, rf_direction direction, rf_error *err)
{
    rf_gather *g = user;
    return has_windows(g) ? acquire_window(g, layer, direction, err)
                          : acquire_masters(g, layer, err);
}

void rf_gather_attach(rf_gather *gather, rf_model *model)
{
    gather->model = model;
    if (gather->shards->kind != RF_SHARD_NONE) {
        model->source.acquire = acquire;
        model->source.user = gather;
    }
}

int rf_gather_renew(rf_gather *g, rf_error *err)
{
    if (g->shards->kind == RF_SHARD_NONE) {
        rf_model_prepare(g->model);
        return RF_OK;
    }
    for (int i = 0; i < RF_GATHER_WINDOWS; i++) {
        RF_ASSERT(g->window[i].layer < 0 || g->window[i].is_there);
        g->window[i].layer = -1;
    }
    RF_ASSERT(g->n_landed == g->n_flown);
    g->n_flown = g->n_landed = 0;
    return has_windows(g) ? RF_OK : fly(g, err);
}

/* Moves one on; a failure comes out where somebody waits. */
static bool is_over(rf_gather *g, rf_exchange *exchange)
{
    bool done = false;
    return g->failure.code == RF_OK && rf_exchange_poll(exchange, &done, &g->failure) == RF_OK &&
           done;
}

void rf_gather_poll(rf_gather *g)
{
    while (g->n_landed < g->n_flown && is_over(g, g->flight[g->n_landed % RF_GATHER_FLIGHTS]) &&
           land(g, &g->failure) == RF_OK) {
    }
    for (int i = 0; i < RF_GATHER_WINDOWS; i++) {
        const rf_gather_window *w = &g->window[i];
        for (int k = 0; w->layer >= 0 && !w->is_there && k < w->n_parts; k++) {
            is_over(g, w->exchange[k]);
        }
    }
}

int rf_gather_settle(rf_gather *g, rf_error *err)
{
    if (g->shards->kind == RF_SHARD_NONE) {
        return RF_OK;
    }
    for (int i = 0; i < RF_GATHER_WINDOWS; i++) {
        RF_TRY(fill_window(g, &g->window[i], err));
    }
    return has_windows(g) ? RF_OK : wait_for_parts(g, g->shards->n_trained, err);
}
