#include "common/model/model.h"

#include "common/base/alloc.h"
#include "common/base/arena.h"

#include <inttypes.h>
#include <stdlib.h>

/* Run twice: to measure (k, v NULL), then to bind (arena.h). */
static void lay_out(void **k, void **v, rf_arena *arena, const rf_model_config *config,
                    const rf_backend *backend, int64_t length)
{
    int64_t width = config->num_key_value_heads * config->head_dim;
    size_t bytes = rf_backend_bytes(backend, RF_ACTIVATION, length * width);
    for (int64_t layer = 0; layer < config->num_hidden_layers; layer++) {
        void *keys = rf_arena_take(arena, bytes);
        void *values = rf_arena_take(arena, bytes);
        if (k != NULL) {
            k[layer] = keys;
            v[layer] = values;
        }
    }
}

size_t rf_cache_bytes(const rf_model_config *config, const rf_backend *backend, int64_t length)
{
    rf_arena arena = {0};
    lay_out(NULL, NULL, &arena, config, backend, length);
    return arena.peak;
}

int rf_cache_new(rf_cache **out, rf_model *model, int64_t length, rf_error *err)
{
    const rf_backend *backend = model->ctx->backend;
    size_t n_layers = (size_t)model->config.num_hidden_layers;
    *out = NULL;
    if (length < 1 || length > model->ctx->limits.keys) {
        return rf_error_set(err, RF_ERR,
                            "a key/value cache of %" PRId64
                            " places: choose between 1 and the %" PRId64
                            " keys that the model was made for",
                            length, model->ctx->limits.keys);
    }
    rf_cache *cache = rf_alloc(1, sizeof *cache);
    cache->ctx = model->ctx;
    cache->n_layers = model->config.num_hidden_layers;
    cache->length = length;
    cache->width = model->config.num_key_value_heads * model->config.head_dim;
    cache->k = rf_alloc(2 * n_layers, sizeof *cache->k);
    cache->v = cache->k + n_layers;
    cache->bytes = rf_cache_bytes(&model->config, backend, length);
    if (rf_backend_alloc(&cache->memory, model->ctx, cache->bytes, err) != RF_OK) {
        rf_cache_free(cache);
        return rf_error_prefix(err, "key/value cache of %" PRId64 " places", length);
    }
    rf_arena arena = {.base = cache->memory, .size = cache->bytes};
    lay_out(cache->k, cache->v, &arena, &model->config, backend, length);
    *out = cache;
    return RF_OK;
}

void rf_cache_free(rf_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    rf_backend_free(cache->ctx, cache->memory);
    free(cache->k); /* v lies in the same allocation */
    free(cache);
}

void rf_cache_copy(rf_cache *cache, int64_t to, int64_t from, int64_t n)
{
    const rf_backend *backend = cache->ctx->backend;
    const int64_t width = cache->width;
    RF_ASSERT(from >= 0 && to >= 0 && from + n <= cache->length && to + n <= cache->length);
    for (int64_t layer = 0; layer < cache->n_layers; layer++) {
        void *const of[] = {cache->k[layer], cache->v[layer]};
        for (int i = 0; i < 2; i++) {
            rf_backend_copy(cache->ctx, rf_backend_at(backend, RF_ACTIVATION, of[i], to * width),
                            rf_backend_at(backend, RF_ACTIVATION, of[i], from * width),
                            RF_ACTIVATION, n * width);
        }
    }
}
