/* infer_test.h: what the tests of decoders, scores and evaluation share.
 *
 * sharp_model: a small random model of the byte tokenizer's vocabulary whose answers are worth
 * decoding: few tokens are likely (the end of text and all forbidden ones among them), predictions
 * depend on the context, and their probabilities lie on both sides of any threshold.
 */
#ifndef RF_TESTS_INFER_TEST_H
#define RF_TESTS_INFER_TEST_H

#include "common/text/tokenizer.h"
#include "infer/engine.h"
#include "tests/model/tiny.h"

enum {
    SHARP_VOCABULARY = 272, /* ten padding rows behind the tokenizer's 262 */
    SHARP_WIDTH = 16,
    SHARP_POSITIONS = 96,
    SHARP_PLACES = 128
};

static inline rf_model_config sharp_config(void)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    config.vocab_size = SHARP_VOCABULARY;
    config.hidden_size = SHARP_WIDTH;
    config.intermediate_size = 24;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 1;
    config.head_dim = 8;
    config.max_position_embeddings = SHARP_POSITIONS;
    return config;
}

/* Tokens with a large row in the head, and how likely each is before the context has its say. */
typedef struct sharp_token {
    int32_t id;
    double prior;
} sharp_token;

static const sharp_token sharp_tokens[] = {{'a', 4.2}, {'b', 3.8}, {'c', 3.4},
                                           {'d', 2.8}, {'e', 2.4}, {256, 3.4}, /* end of text */
                                           {257, 3.0},                         /* mask */
                                           {258, 2.8},                         /* begin of text */
                                           {263, 3.0}, {271, 2.4}};
/* padding rows */ /* padding rows */

static inline void sharp_upload(rf_model *model, const rf_tensor *t, const float *value)
{
    rf_backend_upload(model->ctx,
                      rf_backend_at(model->ctx->backend, RF_MASTER, model->master, t->offset),
                      RF_MASTER, value, RF_F32, t->count);
    rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
}

/* Random values around 0, the first column apart where it is not 0. */
static inline void sharp_fill(float *value, const rf_tensor *t, double deviation, double first,
                              rf_rng *rng)
{
    for (int64_t i = 0; i < t->count; i++) {
        bool is_first = t->n_dims == 2 && i % t->shape[1] == 0;
        value[i] = (float)(is_first && first > 0 ? first : deviation * rf_rng_normal(rng));
    }
}

/* Column 0 of the embedding is large, so that it survives to the head, where it carries the priors;
 * the other columns of the head carry the context, scaled by `sharpness`. Queries and the
 * attention's output are scaled up: places differ by what they attend. */
static inline void sharp_randomize(rf_model *model, uint64_t seed, double sharpness)
{
    static float value[SHARP_VOCABULARY * SHARP_WIDTH];
    tiny_randomize(model, seed);
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_TEST, 77, (uint64_t)i);
        if (t->role == RF_ROLE_EMBED) {
            sharp_fill(value, t, 1.0, 4.0, &rng);
        } else if (t->role == RF_ROLE_O) {
            sharp_fill(value, t, 1.0, 0.0, &rng);
        } else if (t->role == RF_ROLE_Q_NORM) {
            sharp_fill(value, t, 2.0, 0.0, &rng);
        } else if (t->role == RF_ROLE_HEAD) {
            sharp_fill(value, t, 0.05, 0.0, &rng);
            for (size_t j = 0; j < sizeof sharp_tokens / sizeof *sharp_tokens; j++) {
                float *row = value + (size_t)sharp_tokens[j].id * SHARP_WIDTH;
                for (int c = 0; c < SHARP_WIDTH; c++) {
                    row[c] =
                        (float)(c == 0 ? sharp_tokens[j].prior : sharpness * rf_rng_normal(&rng));
                }
            }
        } else {
            continue;
        }
        sharp_upload(model, t, value);
    }
    rf_model_prepare(model);
}

static inline rf_model *sharp_model(const rf_backend *backend, int n_threads, uint64_t seed,
                                    double sharpness)
{
    rf_model *model = NULL;
    rf_model_config config = sharp_config();
    rf_model_limits limits = {.places = SHARP_PLACES, .keys = SHARP_PLACES};
    TINY_MUST(rf_model_new(&model, &config, backend, n_threads, &limits, tiny_error()));
    sharp_randomize(model, seed, sharpness);
    return model;
}

static inline rf_tokenizer *byte_tokenizer(void)
{
    rf_tokenizer *tokenizer = NULL;
    TINY_MUST(rf_tokenizer_load(&tokenizer, "byte", tiny_error()));
    return tokenizer;
}

/* Every branch of an oracle was taken by some trial. */
static inline void expect_all_branches(const int64_t *hits, const char *const *text, int n)
{
    for (int b = 0; b < n; b++) {
        cr_log_info("%6lld  %s\n", (long long)hits[b], text[b]);
        cr_expect(hits[b] > 0, "no trial took this branch: %s", text[b]);
    }
}

/* n random bytes as a prompt. */
static inline void random_prompt(int32_t *prompt, int64_t n, rf_rng *rng)
{
    for (int64_t i = 0; i < n; i++) {
        prompt[i] = (int32_t)rf_rng_below(rng, 256);
    }
}

#define INFER_TEST_COMMA             ,
#define INFER_TEST_ADDRESS(id, name) &rf_decoder_##id
static const rf_decoder *const every_decoder[] = {
    RF_DECODERS(INFER_TEST_ADDRESS, INFER_TEST_COMMA)};
enum { N_DECODERS = sizeof every_decoder / sizeof *every_decoder };

static inline rf_decode_options plain_options(const rf_decoder *kind, int64_t gen_length,
                                              int64_t slot_size)
{
    return (rf_decode_options){.kind = kind,
                               .gen_length = gen_length,
                               .slot_size = slot_size,
                               .slot_threshold = 0.4,
                               .token_threshold = 0.2,
                               .cache = RF_CANVAS_CACHE_DUAL,
                               .rule = RF_RULE_THRESHOLD,
                               .threshold = 0.4,
                               .trained_block = 4};
}

#endif
