#include "common/model/model.h"

#include "common/base/alloc.h"
#include "common/base/arena.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { STAGED = 4 * RF_PACK_ROWS }; /* rows that are packed at once */

/* --- Memory ----------------------------------------------------------------------------------- */

static bool shares_masters(const rf_model *model)
{
    return model->shards != NULL && model->shards->kind == RF_SHARD_WEIGHTS;
}

/* What kernels read instead of this tensor's master: 0 bytes where they read that, and where weights
 * are brought to them. */
static size_t view_bytes(const rf_model *model, const rf_tensor *t, const rf_backend *backend)
{
    if (model->weights != RF_ROWS && rf_table_is_matrix(t)) {
        return backend->kernels->pack_bytes(model->weights, t->shape[1], t->shape[0]);
    }
    bool is_copy = t->n_dims == 2 && backend->type[RF_WEIGHT] != backend->type[RF_MASTER] &&
                   !shares_masters(model);
    return is_copy ? rf_backend_bytes(backend, RF_WEIGHT, t->count) : 0;
}

/* The views, and rows on their way into a packed matrix. */
static void lay_out_views(rf_model *model, rf_arena *arena, const rf_backend *backend)
{
    int64_t widest = 0;
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        void *view = rf_arena_take(arena, view_bytes(model, t, backend));
        if (model->view != NULL) {
            model->view[i] = view;
        }
        widest = t->offset < 0 && t->shape[1] > widest ? t->shape[1] : widest;
    }
    model->staged = rf_arena_take(arena, rf_backend_bytes(backend, RF_MASTER, STAGED * widest));
}

/* Run twice: to measure, then to bind (arena.h). */
static void lay_out(rf_model *model, rf_arena *arena, const rf_backend *backend)
{
    int64_t n_angles = model->n_positions * (model->config.head_dim / 2);
    int64_t n_masters =
        shares_masters(model) ? rf_shards_stored(model->shards) : model->table.n_stored;
    model->master = rf_arena_take(arena, rf_backend_bytes(backend, RF_MASTER, n_masters));
    lay_out_views(model, arena, backend);
    model->cos = rf_arena_take(arena, rf_backend_bytes(backend, RF_STATISTIC, n_angles));
    model->sin = rf_arena_take(arena, rf_backend_bytes(backend, RF_STATISTIC, n_angles));
}

static int check_limits(const rf_model_limits *limits, const rf_model_config *config, rf_error *err)
{
    const struct {
        const char *what;
        int64_t value, min, max;
    } sizes[] = {{"places of a batch", limits->places, 1, RF_MODEL_MAX_PLACES},
                 {"keys", limits->keys, 1, RF_MODEL_MAX_PLACES},
                 {"positions", limits->positions, 0, config->max_position_embeddings}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].value < sizes[i].min || sizes[i].value > sizes[i].max) {
            return rf_error_set(err, RF_ERR,
                                "a model for %" PRId64 " %s: choose between %" PRId64
                                " and %" PRId64 "%s",
                                sizes[i].value, sizes[i].what, sizes[i].min, sizes[i].max,
                                i == 2 ? " (max_position_embeddings)" : "");
        }
    }
    if (limits->weights != RF_ROWS && limits->backward) {
        return rf_error_set(err, RF_ERR,
                            "packed weights cannot be trained: make the model with rows");
    }
    return RF_OK;
}

/* Config, table and number of positions: all that lay_out reads. */
static int describe(rf_model *model, const rf_model_config *config, const rf_model_limits *limits,
                    rf_error *err)
{
    RF_TRY(rf_table_build_adapted(&model->table, config, limits->adaptation, err));
    model->config = *config;
    if (limits->adaptation != NULL) {
        model->adaptation = *limits->adaptation;
    }
    model->n_positions =
        limits->positions > 0 ? limits->positions : config->max_position_embeddings;
    model->weights = limits->weights;
    model->shards = limits->shards;
    if (model->weights != RF_ROWS) {
        rf_table_drop_matrices(&model->table);
    }
    return check_limits(limits, config, err);
}

size_t rf_model_bytes(const rf_model_config *config, const rf_backend *backend,
                      const rf_model_limits *limits)
{
    rf_model model = {0};
    rf_arena arena = {0};
    if (describe(&model, config, limits, NULL) == RF_OK) {
        rf_compute compute = rf_backend_compute(backend, limits->weights, limits->compute);
        lay_out(&model, &arena, rf_backend_with(backend, compute));
    }
    rf_table_free(&model.table);
    return arena.peak;
}

/* cos and sin of position * frequency (rope.h), scaled where YaRN is used, made in double whatever
 * the backend: in f32 the angle itself would already be off by 1e-3 at position 10000. */
static void fill_rotary_tables(rf_model *model)
{
    enum { ROWS = 64 };
    int64_t half = model->config.head_dim / 2;
    size_t n = (size_t)half;
    double *host = rf_alloc((1 + 2 * (size_t)ROWS) * n, sizeof *host);
    double *frequency = host, *cosines = host + n, *sines = cosines + ROWS * n;
    rf_rope_frequencies(frequency, &model->config.rope, model->config.rope_theta,
                        model->config.head_dim);
    const double scale = rf_rope_attention(&model->config.rope);
    const rf_backend *backend = model->ctx->backend;
    for (int64_t first = 0; first < model->n_positions; first += ROWS) {
        int64_t left = model->n_positions - first;
        int64_t count = (left < ROWS ? left : ROWS) * half;
        for (int64_t j = 0; j < count; j++) {
            double angle = (double)(first + j / half) * frequency[j % half];
            cosines[j] = scale * cos(angle);
            sines[j] = scale * sin(angle);
        }
        rf_backend_upload(model->ctx,
                          rf_backend_at(backend, RF_STATISTIC, model->cos, first * half),
                          RF_STATISTIC, cosines, RF_F64, count);
        rf_backend_upload(model->ctx,
                          rf_backend_at(backend, RF_STATISTIC, model->sin, first * half),
                          RF_STATISTIC, sines, RF_F64, count);
        rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
    }
    free(host);
}

/* --- Weights ---------------------------------------------------------------------------------- */

static void bind_weights(rf_model *model)
{
    int64_t n_layers = model->config.num_hidden_layers;
    model->block = rf_alloc((size_t)n_layers + 1, sizeof *model->block);
    for (int64_t layer = 0; layer <= n_layers; layer++) {
        model->block[layer].layer = layer;
        model->block[layer].layout = model->weights;
    }
    for (int64_t i = 0; i < model->table.n_tensors && !shares_masters(model); i++) {
        const rf_tensor *t = &model->table.tensor[i];
        int64_t slot = t->layer >= 0 ? t->layer : n_layers;
        model->block[slot].of[t->role] =
            model->view[i] != NULL
                ? model->view[i]
                : rf_backend_at(model->ctx->backend, RF_MASTER, model->master, t->offset);
    }
    if (model->config.tie_word_embeddings) {
        const void **outside = model->block[n_layers].of;
        outside[RF_ROLE_HEAD] = outside[RF_ROLE_EMBED];
    }
}

rf_limits rf_model_kernel_limits(const rf_model_config *config, const rf_backend *backend,
                                 const rf_model_limits *limits)
{
    return (rf_limits){.places = limits->places,
                       .keys = limits->keys > limits->places ? limits->keys : limits->places,
                       .width = config->hidden_size,
                       .n_heads = config->num_attention_heads,
                       .n_kv_heads = config->num_key_value_heads,
                       .head_dim = config->head_dim,
                       .ffn = config->intermediate_size,
                       .vocab = config->vocab_size,
                       .rank = limits->adaptation != NULL ? limits->adaptation->rank : 0,
                       .backward = limits->backward,
                       .compute = rf_backend_compute(backend, limits->weights, limits->compute),
                       .weights = limits->weights};
}

int rf_model_new(rf_model **out, const rf_model_config *config, const rf_backend *backend,
                 int n_threads, const rf_model_limits *limits, rf_error *err)
{
    rf_arena arena = {0};
    *out = NULL;
    rf_model *model = rf_alloc(1, sizeof *model);
    int rc;
    RF_TRY_OUT(describe(model, config, limits, err));
    if (backend == NULL) {
        RF_TRY_OUT(rf_backend_choose(&backend, NULL, err));
    }
    rf_limits kernel_limits = rf_model_kernel_limits(config, backend, limits);
    RF_TRY_OUT(rf_ctx_new(&model->ctx, backend, n_threads, &kernel_limits, err));
    lay_out(model, &arena, model->ctx->backend);
    arena = (rf_arena){.size = arena.peak};
    rc = rf_backend_alloc(&model->memory, model->ctx, arena.size, err);
    if (rc != RF_OK) {
        rc = rf_error_prefix(err, "weights of %" PRId64 " parameters", model->table.n_parameters);
        goto out;
    }
    model->view = rf_alloc((size_t)model->table.n_tensors, sizeof *model->view);
    arena.base = model->memory;
    model->bytes = arena.size;
    lay_out(model, &arena, model->ctx->backend);
    fill_rotary_tables(model);
    bind_weights(model);
    *out = model;
    return RF_OK;
out:
    rf_model_free(model);
    return rc;
}

void rf_model_free(rf_model *model)
{
    if (model == NULL) {
        return;
    }
    if (model->ctx != NULL) {
        rf_backend_free(model->ctx, model->memory);
    }
    rf_ctx_free(model->ctx);
    rf_table_free(&model->table);
    free(model->block);
    free(model->view);
    free(model);
}

int rf_model_acquire(const rf_block_weights **out, rf_model *model, int64_t layer,
                     rf_direction direction, rf_error *err)
{
    const rf_weight_source *source = &model->source;
    RF_ASSERT(layer >= 0 && layer <= model->config.num_hidden_layers);
    *out = &model->block[layer];
    return source->acquire != NULL ? source->acquire(source->user, layer, direction, err) : RF_OK;
}

void rf_model_release(rf_model *model, int64_t layer, rf_direction direction)
{
    const rf_weight_source *source = &model->source;
    RF_ASSERT(layer >= 0 && layer <= model->config.num_hidden_layers);
    if (source->release != NULL) {
        source->release(source->user, layer, direction);
    }
}

rf_range rf_model_held(const rf_model *model, const rf_tensor *tensor, bool moments, int64_t first,
                       int64_t n, int64_t *at)
{
    const bool shares = moments ? model->shards != NULL : shares_masters(model);
    const rf_range all = {tensor->offset + first, tensor->offset + first + n};
    const rf_range held = shares ? rf_shards_held(model->shards, all, model->shards->rank) : all;
    *at = held.begin == held.end ? 0
          : shares               ? rf_shards_at(model->shards, held.begin)
                                 : held.begin;
    return (rf_range){held.begin - tensor->offset, held.end - tensor->offset};
}

/* Sets what this rank holds of a tensor that has a master. */
static void upload_held(rf_model *model, const rf_tensor *tensor, int64_t first, const void *values,
                        rf_type host, int64_t n)
{
    int64_t at;
    const rf_range held = rf_model_held(model, tensor, false, first, n, &at);
    const size_t skipped = (size_t)(held.begin - first) * rf_type_bytes(host);
    rf_backend_upload(model->ctx, rf_backend_at(model->ctx->backend, RF_MASTER, model->master, at),
                      RF_MASTER, (const char *)values + skipped, host, held.end - held.begin);
}

void rf_model_upload(rf_model *model, const rf_tensor *tensor, int64_t first, const void *values,
                     rf_type host, int64_t n)
{
    const rf_backend *backend = model->ctx->backend;
    RF_ASSERT(first >= 0 && n >= 0 && n <= tensor->count - first);
    if (tensor->offset >= 0) {
        upload_held(model, tensor, first, values, host, n);
        return;
    }
    int64_t in = tensor->shape[1], out = tensor->shape[0];
    void *packed = model->view[tensor - model->table.tensor];
    for (int64_t end = first + n; first < end;) {
        int64_t row = first / (STAGED * in) * STAGED, begin = row * in; /* of what is staged */
        int64_t rows = out - row < STAGED ? out - row : STAGED;
        int64_t stop = begin + rows * in, part = (end < stop ? end : stop) - first;
        RF_ASSERT(first == begin || first == begin + model->n_staged);
        rf_backend_upload(model->ctx,
                          rf_backend_at(backend, RF_MASTER, model->staged, first - begin),
                          RF_MASTER, values, host, part);
        values = (const char *)values + (size_t)part * rf_type_bytes(host);
        first += part;
        model->n_staged = first - begin;
        if (first == stop) {
            backend->kernels->pack(model->ctx, packed, model->weights, model->staged, row, rows, in,
                                   out);
        }
    }
}

void rf_model_prepare(rf_model *model)
{
    rf_model_prepare_range(model, (rf_range){0, model->table.n_stored});
}

void rf_model_prepare_range(rf_model *model, rf_range range)
{
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        if (model->view[i] != NULL && t->offset >= range.begin && t->offset < range.end) {
            rf_backend_convert(
                model->ctx, model->view[i], RF_WEIGHT,
                rf_backend_at(model->ctx->backend, RF_MASTER, model->master, t->offset), RF_MASTER,
                t->count);
        }
    }
}
