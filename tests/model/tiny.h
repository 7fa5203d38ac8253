/* tiny.h: tiny random models and batches, for tests of every area.
 *
 * All weights are values of f32, so that backends of any type hold the same model. Sizes are chosen
 * so that no two of D, F, V, H*K, G*K are equal: a mixed-up dimension shows.
 */
#ifndef TESTS_MODEL_TINY_H
#define TESTS_MODEL_TINY_H

#include "common/base/arena.h"
#include "common/base/rng.h"
#include "common/model/model.h"
#include "tests/kernels/backends.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where the calls of TINY_MUST leave their message. */
static inline rf_error *tiny_error(void)
{
    static rf_error error;
    return &error;
}

/* Fails the test with the message of a call that returned an error:
 * TINY_MUST(rf_batch_new(&batch, 8, tiny_error())). */
#define TINY_MUST(call) cr_assert((call) == RF_OK, "%s: %s", #call, tiny_error()->message)

enum { TINY_PACKED = 60 }; /* places of tiny_packed, and of a tiny_rig */

/* --- Models ----------------------------------------------------------------------------------- */

typedef struct tiny_switches {
    bool tied, qk_norm, qkv_bias, output_bias;
} tiny_switches;

/* V 37, D 24, F 36, L 2, H 4, G 2, K 10, 64 positions. */
static inline rf_model_config tiny_config(tiny_switches s)
{
    rf_model_config config = {.architecture = "Qwen3ForCausalLM",
                              .vocab_size = 37,
                              .hidden_size = 24,
                              .intermediate_size = 36,
                              .num_hidden_layers = 2,
                              .num_attention_heads = 4,
                              .num_key_value_heads = 2,
                              .head_dim = 10,
                              .max_position_embeddings = 64,
                              .rms_norm_eps = 1e-5,
                              .rope_theta = 100.0,
                              .initializer_range = 0.02,
                              .tie_word_embeddings = s.tied,
                              .qk_norm = s.qk_norm,
                              .qkv_bias = s.qkv_bias,
                              .output_bias = s.output_bias};
    return config;
}

/* Every weight random and of a size at which it matters: matrices normal(0, 1/sqrt(in)), the
 * embedding normal(0,1), gains around 1, biases around 0. */
static inline void tiny_randomize(rf_model *model, uint64_t seed)
{
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_TEST, (uint64_t)t->role, (uint64_t)t->layer);
        bool is_bias = t->role >= RF_ROLE_Q_BIAS && t->role <= RF_ROLE_O_BIAS;
        double mean = t->n_dims == 1 && !is_bias ? 1.0 : 0.0;
        double deviation = t->n_dims == 1 ? 0.3 : 1.0 / sqrt((double)t->shape[1]);
        deviation = t->role == RF_ROLE_EMBED ? 1.0 : deviation;
        float *value = malloc((size_t)t->count * sizeof(float));
        cr_assert_not_null(value);
        for (int64_t j = 0; j < t->count; j++) {
            value[j] = (float)(mean + deviation * rf_rng_normal(&rng));
        }
        rf_model_upload(model, t, 0, value, RF_F32, t->count);
        rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
        free(value);
    }
    rf_model_prepare(model);
}

/* A random model for batches of `places` and up to `keys` keys, with or without backward pass. */
static inline rf_model *tiny_model(const rf_backend *backend, int n_threads,
                                   const rf_model_config *config, int64_t places, int64_t keys,
                                   bool backward)
{
    rf_model *model = NULL;
    rf_model_limits limits = {.places = places, .keys = keys, .backward = backward};
    TINY_MUST(rf_model_new(&model, config, backend, n_threads, &limits, tiny_error()));
    tiny_randomize(model, 1);
    return model;
}

/* A model for inference, with the memory of its forward pass and a cache. */
typedef struct tiny_rig {
    rf_model *model;
    rf_acts *acts; /* TINY_PACKED places and keys, nothing kept */
    rf_cache *cache;
} tiny_rig;

static inline tiny_rig tiny_rig_packed(const rf_backend *backend, int n_threads,
                                       const rf_model_config *config, int64_t slab,
                                       rf_layout weights, const rf_adaptation *adaptation)
{
    tiny_rig r = {0};
    rf_model_limits limits = {.places = TINY_PACKED,
                              .keys = TINY_PACKED,
                              .backward = weights == RF_ROWS,
                              .weights = weights,
                              .adaptation = adaptation};
    TINY_MUST(rf_model_new(&r.model, config, backend, n_threads, &limits, tiny_error()));
    tiny_randomize(r.model, 1);
    TINY_MUST(rf_acts_new(&r.acts, r.model, TINY_PACKED, TINY_PACKED, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    TINY_MUST(rf_cache_new(&r.cache, r.model, slab, tiny_error()));
    return r;
}

static inline tiny_rig tiny_rig_new(const rf_backend *backend, int n_threads,
                                    const rf_model_config *config, int64_t slab)
{
    return tiny_rig_packed(backend, n_threads, config, slab, RF_ROWS, NULL);
}

static inline void tiny_rig_free(tiny_rig *r)
{
    rf_cache_free(r->cache);
    rf_acts_free(r->acts);
    rf_model_free(r->model);
}

/* --- Batches ---------------------------------------------------------------------------------- */

static inline rf_batch tiny_batch(int64_t capacity)
{
    rf_batch batch = {0};
    TINY_MUST(rf_batch_new(&batch, capacity, tiny_error()));
    return batch;
}

static inline int32_t tiny_token(rf_rng *rng, const rf_model_config *config)
{
    return (int32_t)rf_rng_below(rng, (uint64_t)config->vocab_size);
}

/* Gives place i a random target and a random weight in [0.5, 1.5). */
static inline void tiny_target(rf_batch *batch, int64_t i, rf_rng *rng,
                               const rf_model_config *config)
{
    batch->target[i] = tiny_token(rng, config);
    batch->weight[i] = (float)(0.5 + rf_rng_uniform(rng));
    batch->part[i] = 0;
}

/* Appends a causal sample of n places whose positions 0..n-1 come in a random order; two places of
 * three carry a target. Returns its first place. */
static inline int64_t tiny_add_causal(rf_batch *batch, rf_rng *rng, const rf_model_config *config,
                                      int64_t n)
{
    int64_t begin = batch->n, order[64];
    cr_assert(n <= 64);
    for (int64_t i = 0; i < n; i++) {
        order[i] = i;
    }
    rf_rng_shuffle(rng, order, n, sizeof *order);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = rf_batch_add(batch, tiny_token(rng, config), (int32_t)order[i], begin + i,
                                  begin, begin + i + 1, 0, 0);
        if (i % 3 != 1) {
            tiny_target(batch, at, rng, config);
        }
    }
    return begin;
}

/* Appends a sample that every place of sees whole (bidirectional). Returns its first place. */
static inline int64_t tiny_add_bidirectional(rf_batch *batch, rf_rng *rng,
                                             const rf_model_config *config, int64_t n)
{
    int64_t begin = batch->n;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = rf_batch_add(batch, tiny_token(rng, config), (int32_t)i, begin + i, begin,
                                  begin + n, 0, 0);
        if (i % 2 == 0) {
            tiny_target(batch, at, rng, config);
        }
    }
    return begin;
}

/* Appends `prompt` causal places, then n_slots slots of `size` places side by side: a place of slot
 * r sees the prompt and its own slot up to itself (two spans). Returns the first place. */
static inline int64_t tiny_add_slots(rf_batch *batch, rf_rng *rng, const rf_model_config *config,
                                     int64_t prompt, int64_t n_slots, int64_t size)
{
    int64_t begin = batch->n;
    for (int64_t i = 0; i < prompt; i++) {
        rf_batch_add(batch, tiny_token(rng, config), (int32_t)i, begin + i, begin, begin + i + 1, 0,
                     0);
    }
    for (int64_t i = 0; i < n_slots * size; i++) {
        int64_t slot = begin + prompt + i / size * size;
        int64_t at = begin + prompt + i;
        rf_batch_add(batch, tiny_token(rng, config), (int32_t)(prompt + i), at, begin,
                     begin + prompt, slot, at + 1);
        tiny_target(batch, at, rng, config);
    }
    return begin;
}

/* Appends n places that see nothing and predict nothing. */
static inline void tiny_add_padding(rf_batch *batch, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        rf_batch_add(batch, 0, 0, batch->n, 0, 0, 0, 0);
    }
}

/* One batch with all of the above, packed. Caller frees. */
static inline rf_batch tiny_packed(const rf_model_config *config, uint64_t seed)
{
    rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_TEST, 1000);
    rf_batch batch = tiny_batch(TINY_PACKED);
    tiny_add_causal(&batch, &rng, config, 19);
    tiny_add_slots(&batch, &rng, config, 7, 3, 4);
    tiny_add_padding(&batch, 2);
    tiny_add_bidirectional(&batch, &rng, config, 9);
    tiny_add_causal(&batch, &rng, config, 1);
    tiny_add_slots(&batch, &rng, config, 0, 2, 3);
    tiny_add_padding(&batch, 4);
    cr_assert(batch.n == TINY_PACKED);
    return batch;
}

/* --- Comparing -------------------------------------------------------------------------------- */

/* max|a-b| / max|b|; 0 where both are 0 throughout, NaN where anything is NaN. */
static inline double tiny_gap(const double *a, const double *b, int64_t n)
{
    double gap = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        double difference = fabs(a[i] - b[i]);
        if (isnan(difference)) {
            return difference;
        }
        gap = fmax(gap, difference);
        scale = fmax(scale, fabs(b[i]));
    }
    return gap > 0 ? gap / scale : 0;
}

/* All logits [n,V] of a batch that was forwarded. Caller frees. */
static inline double *tiny_logits(rf_model *model, rf_acts *acts)
{
    int64_t n = acts->n;
    double *logits = calloc((size_t)(n * model->config.vocab_size), sizeof(double));
    int32_t *place = calloc((size_t)n, sizeof(int32_t));
    cr_assert(logits != NULL && place != NULL);
    for (int64_t i = 0; i < n; i++) {
        place[i] = (int32_t)i;
    }
    TINY_MUST(rf_model_logits(model, acts, logits, place, n, tiny_error()));
    free(place);
    return logits;
}

#endif
