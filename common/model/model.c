#include "common/model/model.h"

#include "common/base/arena.h"
#include "common/base/rng.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { STAGED = 4 * RF_PACK_ROWS }; /* rows that are packed at once */

/* --- Memory ----------------------------------------------------------------------------------- */

/* Each matrix of a packed model, and rows on their way there. */
static void lay_out_packed(rf_model *model, rf_arena *arena, const rf_backend *backend)
{
    int64_t widest = 0;
    for (int64_t i = 0; i < model->table.n_tensors && model->weights != RF_ROWS; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        if (rf_table_is_matrix(t)) {
            void *packed = rf_arena_take(
                arena, backend->kernels->pack_bytes(model->weights, t->shape[1], t->shape[0]));
            if (model->packed != NULL) {
                model->packed[i] = packed;
            }
            widest = t->shape[1] > widest ? t->shape[1] : widest;
        }
    }
    model->staged = rf_arena_take(arena, rf_backend_bytes(backend, RF_MASTER, STAGED * widest));
}

/* Run twice: to measure, then to bind (arena.h). Weights are the masters themselves where both have
 * one type, as on every backend there is; copies of another type would be taken here and made by
 * rf_model_prepare. */
static void lay_out(rf_model *model, rf_arena *arena, const rf_backend *backend)
{
    RF_ASSERT(backend->type[RF_WEIGHT] == backend->type[RF_MASTER]);
    int64_t n_angles = model->n_positions * (model->config.head_dim / 2);
    model->master =
        rf_arena_take(arena, rf_backend_bytes(backend, RF_MASTER, model->table.n_stored));
    lay_out_packed(model, arena, backend);
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
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
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
    int rc = rf_table_build_adapted(&model->table, config, limits->adaptation, err);
    if (rc != RF_OK) {
        return rc;
    }
    model->config = *config;
    if (limits->adaptation != NULL) {
        model->adaptation = *limits->adaptation;
    }
    model->n_positions =
        limits->positions > 0 ? limits->positions : config->max_position_embeddings;
    model->weights = limits->weights;
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
        lay_out(&model, &arena, backend);
    }
    rf_table_free(&model.table);
    return arena.peak;
}

/* cos and sin of position * frequency (rope.h), made in double whatever the backend: in f32 the
 * angle itself would already be off by 1e-3 at position 10000. */
static int fill_rotary_tables(rf_model *model, rf_error *err)
{
    enum { ROWS = 64 };
    int64_t half = model->config.head_dim / 2;
    size_t n = (size_t)half;
    double *host = malloc((1 + 2 * (size_t)ROWS) * n * sizeof(double));
    if (host == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for rotary tables: free some");
    }
    double *frequency = host, *cosines = host + n, *sines = cosines + ROWS * n;
    rf_rope_frequencies(frequency, &model->config.rope, model->config.rope_theta,
                        model->config.head_dim);
    const rf_backend *backend = model->ctx->backend;
    for (int64_t first = 0; first < model->n_positions; first += ROWS) {
        int64_t left = model->n_positions - first;
        int64_t count = (left < ROWS ? left : ROWS) * half;
        for (int64_t j = 0; j < count; j++) {
            double angle = (double)(first + j / half) * frequency[j % half];
            cosines[j] = cos(angle);
            sines[j] = sin(angle);
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
    return RF_OK;
}

/* --- Weights ---------------------------------------------------------------------------------- */

static int bind_weights(rf_model *model, rf_error *err)
{
    int64_t n_layers = model->config.num_hidden_layers;
    model->block = calloc((size_t)n_layers + 1, sizeof(*model->block));
    if (model->block == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the weights of %" PRId64 " blocks",
                            n_layers);
    }
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        int64_t slot = t->layer >= 0 ? t->layer : n_layers;
        model->block[slot].layout = model->weights;
        model->block[slot].of[t->role] =
            t->offset < 0 ? model->packed[i]
                          : rf_backend_at(model->ctx->backend, RF_MASTER, model->master, t->offset);
    }
    if (model->config.tie_word_embeddings) {
        const void **outside = model->block[n_layers].of;
        outside[RF_ROLE_HEAD] = outside[RF_ROLE_EMBED];
    }
    return RF_OK;
}

rf_limits rf_model_kernel_limits(const rf_model_config *config, const rf_model_limits *limits)
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
                       .compute =
                           limits->weights == RF_PACKED_BF16 ? RF_COMPUTE_BF16 : limits->compute,
                       .weights = limits->weights};
}

int rf_model_new(rf_model **out, const rf_model_config *config, const rf_backend *backend,
                 int n_threads, const rf_model_limits *limits, rf_error *err)
{
    rf_arena arena = {0};
    *out = NULL;
    rf_model *model = calloc(1, sizeof(*model));
    int rc = RF_OK;
    if (model == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for a model: free some");
    }
    rc = describe(model, config, limits, err);
    if (rc != RF_OK) {
        goto out;
    }
    if (backend == NULL) {
        rc = rf_backend_choose(&backend, NULL, err);
        if (rc != RF_OK) {
            goto out;
        }
    }
    rf_limits kernel_limits = rf_model_kernel_limits(config, limits);
    rc = rf_ctx_new(&model->ctx, backend, n_threads, &kernel_limits, err);
    if (rc != RF_OK) {
        goto out;
    }
    lay_out(model, &arena, backend);
    arena = (rf_arena){.size = arena.peak};
    rc = rf_backend_alloc(&model->memory, model->ctx, arena.size, err);
    if (rc != RF_OK) {
        rc = rf_error_prefix(err, "weights of %" PRId64 " parameters", model->table.n_parameters);
        goto out;
    }
    model->packed = calloc((size_t)model->table.n_tensors, sizeof(*model->packed));
    if (model->packed == NULL) {
        rc = rf_error_set(err, RF_ERR, "no memory for a list of tensors: free some");
        goto out;
    }
    arena.base = model->memory;
    model->bytes = arena.size;
    lay_out(model, &arena, backend);
    rc = fill_rotary_tables(model, err);
    if (rc != RF_OK) {
        goto out;
    }
    rc = bind_weights(model, err);
out:
    if (rc != RF_OK) {
        rf_model_free(model);
        model = NULL;
    }
    *out = model;
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
    free(model->packed);
    free(model);
}

const rf_block_weights *rf_model_acquire(rf_model *model, int64_t layer)
{
    RF_ASSERT(layer >= 0 && layer <= model->config.num_hidden_layers);
    return &model->block[layer];
}

void rf_model_release(rf_model *model, int64_t layer)
{
    /* All weights are held all the time: nothing to give back. */
    RF_ASSERT(layer >= 0 && layer <= model->config.num_hidden_layers);
}

void rf_model_upload(rf_model *model, const rf_tensor *tensor, int64_t first, const void *values,
                     rf_type host, int64_t n)
{
    const rf_backend *backend = model->ctx->backend;
    RF_ASSERT(first >= 0 && n >= 0 && n <= tensor->count - first);
    if (tensor->offset >= 0) {
        rf_backend_upload(model->ctx,
                          rf_backend_at(backend, RF_MASTER, model->master, tensor->offset + first),
                          RF_MASTER, values, host, n);
        return;
    }
    int64_t in = tensor->shape[1], out = tensor->shape[0];
    void *packed = model->packed[tensor - model->table.tensor];
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
    /* The compute copies are the masters themselves (lay_out), or were packed as they came. */
    RF_ASSERT(model->ctx->backend->type[RF_WEIGHT] == model->ctx->backend->type[RF_MASTER]);
}

/* Standard deviation of a matrix's fresh elements. Each block adds two terms to the residual
 * stream, so that the terms are divided by sqrt(2L) to keep its variance (GPT-2 report,
 * section 2.3). */
static double deviation(const rf_tensor *t, const rf_model_config *config)
{
    bool writes_residual = t->role == RF_ROLE_O || t->role == RF_ROLE_DOWN;
    double scale = writes_residual ? sqrt(2.0 * (double)config->num_hidden_layers) : 1.0;
    return config->initializer_range / scale;
}

static bool is_gain(rf_role role)
{
    return role == RF_ROLE_ATTENTION_NORM || role == RF_ROLE_MLP_NORM ||
           role == RF_ROLE_FINAL_NORM || role == RF_ROLE_Q_NORM || role == RF_ROLE_K_NORM;
}

void rf_model_init(rf_model *model, uint64_t seed)
{
    enum { CHUNK = 1024 };
    double value[CHUNK];
    RF_ASSERT(model->weights == RF_ROWS);
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        if (rf_table_is_adapter(t->role)) {
            continue;
        }
        uLong crc = crc32(0, (const Bytef *)t->name, (uInt)strlen(t->name));
        rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_INIT, crc);
        double sigma = deviation(t, &model->config);
        for (int64_t first = 0; first < t->count; first += CHUNK) {
            int64_t n = t->count - first < CHUNK ? t->count - first : CHUNK;
            for (int64_t j = 0; j < n; j++) {
                value[j] = t->n_dims == 2 ? sigma * rf_rng_normal(&rng) : is_gain(t->role);
            }
            rf_backend_upload(
                model->ctx,
                rf_backend_at(model->ctx->backend, RF_MASTER, model->master, t->offset + first),
                RF_MASTER, value, RF_F64, n);
            rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
        }
    }
    rf_model_prepare(model);
}
