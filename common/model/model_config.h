/* model_config.h: the sizes of a model, in Hugging Face's words.               all local */
#ifndef RF_MODEL_MODEL_CONFIG_H
#define RF_MODEL_MODEL_CONFIG_H

#include "common/base/error.h"
#include "common/model/rope.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rf_model_config {
    char architecture[64];       /* "Qwen3ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM" */
    int64_t vocab_size;          /* V, padding rows included */
    int64_t hidden_size;         /* D */
    int64_t intermediate_size;   /* F */
    int64_t num_hidden_layers;   /* L */
    int64_t num_attention_heads; /* H */
    int64_t num_key_value_heads; /* G, divides H */
    int64_t head_dim;            /* K, even */
    int64_t max_position_embeddings; /* P: positions are below it */
    double rms_norm_eps;
    double rope_theta;
    rf_rope rope;             /* rope_scaling; zero: none */
    double initializer_range; /* standard deviation of fresh weights */
    bool tie_word_embeddings; /* the head is the embedding table */
    bool qk_norm;             /* RMSNorm of each query and key head (Qwen3) */
    bool qkv_bias;            /* biases of q, k, v (Qwen2.5) */
    bool output_bias;         /* bias of o (Llama or Qwen3 with attention_bias) */
} rf_model_config;

/* Fields of a config.json that are not read. */
typedef struct rf_config_ignore {
    const char *const *name; /* [n] unknown fields that the caller vouches for */
    int n;
    char skipped[600]; /* out: fields that were ignored, "a, b"; "" where none was */
} rf_config_ignore;

/* From the text of a config.json. Unsupported fields that change the result (a
 * rope_scaling other than linear, llama3 and yarn, sliding windows in use, another hidden_act, ...) and
 * fields that nobody here knows are errors that name the field; `origin` stands for the file in
 * messages. Notes of tools ("unsloth_version") change nothing and are ignored, and attention_dropout is of the
 * training that was. Missing sizes are errors. */
RF_MUST_CHECK int rf_model_config_parse(rf_model_config *out, const char *json, size_t bytes,
                                        const char *origin, rf_error *err);
/* The same without the fields of `ignore`, and telling which were ignored. A field that
 * is read here cannot be ignored: RF_ERR_USAGE. */
RF_MUST_CHECK int rf_model_config_parse_ignoring(rf_model_config *out, const char *json,
                                                 size_t bytes, const char *origin,
                                                 rf_config_ignore *ignore, rf_error *err);
struct json_t;
/* Is this field read, or does its value say that it is off? value NULL: is the field read? */
typedef bool rf_config_is_known(const char *name, const struct json_t *value);
/* Refuses (RF_ERR, by name) the fields of an object that may change what a model computes: those that are
 * neither known nor notes of tools nor in `ignore`, which takes down what was passed over. */
RF_MUST_CHECK int rf_config_reject_unknown(const struct json_t *root, rf_config_is_known *is_known,
                                           rf_config_ignore *ignore, const char *origin,
                                           rf_error *err);
/* Checks ranges and divisibility; messages use Hugging Face's names. */
RF_MUST_CHECK int rf_model_config_check(const rf_model_config *config, rf_error *err);
/* config.json text; parsing it gives the same struct. Caller frees. */
char *rf_model_config_json(const rf_model_config *config);
/* The same model under an architecture of Transformers that computes it (config's own where that
 * does): for files that others read. An error names the switch that none has. */
RF_MUST_CHECK int rf_model_config_express(rf_model_config *out, const rf_model_config *config,
                                          rf_error *err);
/* Describes the first difference in a shape ("hidden_size is 384 here and 512 there"), or "". */
bool rf_model_config_same_shape(const rf_model_config *a, const rf_model_config *b,
                                char *difference, size_t bytes);

#endif
