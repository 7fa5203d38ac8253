/* init.c: fresh weights, of models and of adapters. */
#include "common/model/lora.h"

#include "common/base/alloc.h"
#include "common/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Fresh elements, and the words of the tensor's own stream that one takes, if it is random. */
typedef struct fresh_kind {
    double (*element)(rf_rng *rng, const rf_tensor *t, const rf_model_config *config);
    uint64_t words;
} fresh_kind;

enum { CHUNK = 1 << 16, PIECE = 1 << 10 }; /* handed over together; drawn by a thread */

/* Each tensor's stream is keyed by (seed, CRC32 of its name): independent of ranks, threads and other tensors. */
static void fill(rf_model *model, const rf_tensor *t, uint64_t seed, const fresh_kind *fresh)
{
    double *value = rf_alloc(CHUNK, sizeof *value);
    const uLong crc = crc32(0, (const Bytef *)t->name, (uInt)strlen(t->name));
    const rf_rng stream = RF_RNG_STREAM(seed, RF_RNG_INIT, crc);
    for (int64_t first = 0; first < t->count; first += CHUNK) {
        const int64_t n = t->count - first < CHUNK ? t->count - first : CHUNK;
#pragma omp parallel for num_threads(model->ctx->n_threads)
        for (int64_t begin = 0; begin < n; begin += PIECE) {
            rf_rng rng = stream;
            rf_rng_skip(&rng, (uint64_t)(first + begin) * fresh->words);
            for (int64_t j = begin; j < n && j < begin + PIECE; j++) {
                value[j] = fresh->element(&rng, t, &model->config);
            }
        }
        rf_model_upload(model, t, first, value, RF_F64, n);
        rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
    }
    free(value);
}

static bool is_gain(rf_role role)
{
    return role == RF_ROLE_ATTENTION_NORM || role == RF_ROLE_MLP_NORM ||
           role == RF_ROLE_FINAL_NORM || role == RF_ROLE_Q_NORM || role == RF_ROLE_K_NORM;
}

/* Each block adds two terms to the residual stream, so that the terms are divided by sqrt(2L) to
 * keep its variance (GPT-2 report, section 2.3). */
static double fresh_weight(rf_rng *rng, const rf_tensor *t, const rf_model_config *config)
{
    if (t->n_dims == 1) {
        return is_gain(t->role);
    }
    bool writes_residual = t->role == RF_ROLE_O || t->role == RF_ROLE_DOWN;
    double scale = writes_residual ? sqrt(2.0 * (double)config->num_hidden_layers) : 1.0;
    return config->initializer_range / scale * rf_rng_normal(rng);
}

static double fresh_adapter(rf_rng *rng, const rf_tensor *t, const rf_model_config *config)
{
    (void)config;
    bool is_a = t->role < RF_ROLE_Q_B;
    return is_a ? 1.0 / sqrt((double)t->shape[1]) * (2.0 * rf_rng_uniform(rng) - 1.0) : 0.0;
}

static void fill_all(rf_model *model, uint64_t seed, bool adapters, const fresh_kind *fresh)
{
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        if (rf_table_is_adapter(t->role) == adapters) {
            fill(model, t, seed, fresh);
        }
    }
    rf_model_prepare(model);
}

void rf_model_init(rf_model *model, uint64_t seed)
{
    RF_ASSERT(model->weights == RF_ROWS);
    fill_all(model, seed, false, &(fresh_kind){fresh_weight, RF_RNG_NORMAL_WORDS});
}

void rf_lora_init(rf_model *model)
{
    fill_all(model, model->adaptation.seed, true,
             &(fresh_kind){fresh_adapter, RF_RNG_UNIFORM_WORDS});
}
