#include "common/model/model_config.h"

#include "common/base/number.h"
#include "common/model/model_config_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- What the fields are ---------------------------------------------------------------------- */

/* The upper bounds keep every product of sizes that the program forms inside int64_t and size_t
 * (model.h, RF_MODEL_MAX_PLACES); they are far above any model in use. */
const rf_field_size rf_field_sizes[RF_N_SIZES] = {
    {"vocab_size", offsetof(rf_model_config, vocab_size), INT32_MAX, true},
    {"hidden_size", offsetof(rf_model_config, hidden_size), 1 << 20, true},
    {"intermediate_size", offsetof(rf_model_config, intermediate_size), 1 << 21, true},
    {"num_hidden_layers", offsetof(rf_model_config, num_hidden_layers), 1 << 10, true},
    {"num_attention_heads", offsetof(rf_model_config, num_attention_heads), 1 << 14, true},
    {"num_key_value_heads", offsetof(rf_model_config, num_key_value_heads), 1 << 14, true},
    {"head_dim", offsetof(rf_model_config, head_dim), 1 << 14, true},
    {"max_position_embeddings", offsetof(rf_model_config, max_position_embeddings), INT32_MAX,
     false},
};
static const int64_t max_attention_width = 1 << 20; /* H * K */

/* Missing reals take the values that Transformers gives them. */
const rf_field_real rf_field_reals[RF_N_REALS] = {
    {"rms_norm_eps", offsetof(rf_model_config, rms_norm_eps), 1e-6},
    {"rope_theta", offsetof(rf_model_config, rope_theta), 10000.0},
    {"initializer_range", offsetof(rf_model_config, initializer_range), 0.02},
};

static const rf_architecture architectures[] = {
    {"Qwen3ForCausalLM", "qwen3", true, false, true, false},
    {"Qwen2ForCausalLM", "qwen2", false, true, false, true},
    {"LlamaForCausalLM", "llama", false, false, true, true},
    {"MistralForCausalLM", "mistral", false, false, false, true},
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

const rf_field_switch rf_field_switches[RF_N_SWITCHES] = {
    {"tie_word_embeddings", offsetof(rf_model_config, tie_word_embeddings)},
    {"qk_norm", offsetof(rf_model_config, qk_norm)},
    {"qkv_bias", offsetof(rf_model_config, qkv_bias)},
    {"output_bias", offsetof(rf_model_config, output_bias)},
};

const rf_architecture *rf_architecture_find(const char *name, const char *model_type)
{
    for (int i = 0; i < N_ARCHITECTURES; i++) {
        const rf_architecture *a = &architectures[i];
        if (name != NULL ? strcmp(a->name, name) == 0 : strcmp(a->model_type, model_type) == 0) {
            return a;
        }
    }
    return NULL;
}

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

/* --- Checking --------------------------------------------------------------------------------- */

static int check_reals(const rf_model_config *config, rf_error *err)
{
    if (!(config->rms_norm_eps > 0.0 && config->rms_norm_eps <= 1.0)) {
        return rf_error_set(err, RF_ERR,
                            "rms_norm_eps is %g: it must be above 0 and at most 1, often 1e-6",
                            config->rms_norm_eps);
    }
    if (!(config->rope_theta >= 1.0 && config->rope_theta <= 1e12)) {
        return rf_error_set(err, RF_ERR, "rope_theta is %g: it must be in [1, 1e12], often 1e6",
                            config->rope_theta);
    }
    if (!(config->initializer_range >= 0.0 && config->initializer_range <= 100.0)) {
        return rf_error_set(err, RF_ERR,
                            "initializer_range is %g: it must be in [0, 100], often 0.02",
                            config->initializer_range);
    }
    return RF_OK;
}

int rf_model_config_check(const rf_model_config *config, rf_error *err)
{
    if (memchr(config->architecture, 0, sizeof config->architecture) == NULL ||
        rf_architecture_find(config->architecture, "") == NULL) {
        return rf_error_set(err, RF_ERR,
                            "architecture %.64s is not supported: use Qwen3ForCausalLM, "
                            "Qwen2ForCausalLM, LlamaForCausalLM or MistralForCausalLM",
                            config->architecture);
    }
    for (int i = 0; i < RF_N_SIZES; i++) {
        int64_t value = *(const int64_t *)rf_field_at(config, rf_field_sizes[i].offset);
        if (value < 1 || value > rf_field_sizes[i].max) {
            return rf_error_set(err, RF_ERR, "%s is %" PRId64 ": it must be between 1 and %" PRId64,
                                rf_field_sizes[i].name, value, rf_field_sizes[i].max);
        }
    }
    if (config->num_attention_heads % config->num_key_value_heads != 0) {
        return rf_error_set(err, RF_ERR,
                            "num_attention_heads is %" PRId64 " and num_key_value_heads is %" PRId64
                            ": the second must divide the first",
                            config->num_attention_heads, config->num_key_value_heads);
    }
    if (config->head_dim % 2 != 0) {
        return rf_error_set(err, RF_ERR,
                            "head_dim is %" PRId64 ": it must be even, for RoPE turns pairs",
                            config->head_dim);
    }
    if (config->num_attention_heads * config->head_dim > max_attention_width) {
        return rf_error_set(err, RF_ERR,
                            "num_attention_heads times head_dim is %" PRId64 ": at most %" PRId64,
                            config->num_attention_heads * config->head_dim, max_attention_width);
    }
    RF_TRY(check_reals(config, err));
    return rf_rope_check(&config->rope, err);
}

/* --- Architectures of others ------------------------------------------------------------------ */

static bool computes(const rf_architecture *a, const rf_model_config *config)
{
    bool bias = a->reads_attention_bias && config->output_bias;
    return config->qk_norm == a->qk_norm && config->output_bias == bias &&
           config->qkv_bias == (a->qkv_bias || bias);
}

int rf_model_config_express(rf_model_config *out, const rf_model_config *config, rf_error *err)
{
    RF_TRY(rf_model_config_check(config, err));
    const rf_architecture *a = rf_architecture_find(config->architecture, "");
    for (int i = 0; i < N_ARCHITECTURES && !computes(a, config); i++) {
        a = &architectures[i];
    }
    if (!computes(a, config)) {
        return rf_error_set(err, RF_ERR,
                            "no architecture of Transformers has qk_norm %s, qkv_bias %s and "
                            "output_bias %s together: train a model with other switches",
                            truth(config->qk_norm), truth(config->qkv_bias),
                            truth(config->output_bias));
    }
    *out = *config;
    snprintf(out->architecture, sizeof out->architecture, "%s", a->name);
    return RF_OK;
}

/* --- Printing and comparing ------------------------------------------------------------------- */

/* The shortest decimal form that reads back as the same double. */
static void print_real(FILE *file, double value)
{
    char text[RF_NUMBER_BYTES];
    snprintf(text, sizeof text, "%.*g", rf_number_digits(value), value); /* as Python writes it */
    bool is_real = strpbrk(text, ".e") != NULL; /* else JSON readers take it for an integer */
    fprintf(file, "%s%s", text, is_real ? "" : ".0");
}

static void print_rope_real(FILE *file, const char *name, double value)
{
    fprintf(file, ", \"%s\": ", name);
    print_real(file, value);
}

static void print_rope(FILE *file, const rf_rope *rope)
{
    if (rope->kind == RF_ROPE_DEFAULT) {
        fprintf(file, "null");
        return;
    }
    fprintf(file, "{\"rope_type\": \"%s\", \"factor\": ", rf_rope_name(rope->kind));
    print_real(file, rope->factor);
    if (rope->kind == RF_ROPE_LLAMA3) {
        print_rope_real(file, "low_freq_factor", rope->low_freq_factor);
        print_rope_real(file, "high_freq_factor", rope->high_freq_factor);
    }
    if (rope->kind == RF_ROPE_YARN) {
        print_rope_real(file, "beta_fast", rope->beta_fast);
        print_rope_real(file, "beta_slow", rope->beta_slow);
        if (rope->attention_factor > 0) {
            print_rope_real(file, "attention_factor", rope->attention_factor);
        }
    }
    if (rope->kind != RF_ROPE_LINEAR) {
        fprintf(file, ", \"original_max_position_embeddings\": %" PRId64,
                rope->original_max_position_embeddings);
    }
    fprintf(file, "}");
}

char *rf_model_config_json(const rf_model_config *config)
{
    const rf_architecture *arch = rf_architecture_find(config->architecture, "");
    RF_ASSERT(arch != NULL);
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    RF_ASSERT(file != NULL);
    fprintf(file, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n", arch->name,
            arch->model_type);
    for (int i = 0; i < RF_N_SIZES; i++) {
        fprintf(file, "  \"%s\": %" PRId64 ",\n", rf_field_sizes[i].name,
                *(const int64_t *)rf_field_at(config, rf_field_sizes[i].offset));
    }
    for (int i = 0; i < RF_N_REALS; i++) {
        fprintf(file, "  \"%s\": ", rf_field_reals[i].name);
        print_real(file, *(const double *)rf_field_at(config, rf_field_reals[i].offset));
        fprintf(file, ",\n");
    }
    bool bias = arch->reads_attention_bias && config->qkv_bias && config->output_bias;
    fprintf(file, "  \"tie_word_embeddings\": %s,\n", truth(config->tie_word_embeddings));
    if (arch->reads_attention_bias) {
        fprintf(file, "  \"attention_bias\": %s,\n", truth(bias));
    }
    if (config->qk_norm != arch->qk_norm) {
        fprintf(file, "  \"qk_norm\": %s,\n", truth(config->qk_norm));
    }
    if (config->qkv_bias != (arch->qkv_bias || bias)) {
        fprintf(file, "  \"qkv_bias\": %s,\n", truth(config->qkv_bias));
    }
    if (config->output_bias != bias) {
        fprintf(file, "  \"output_bias\": %s,\n", truth(config->output_bias));
    }
    fprintf(file, "  \"hidden_act\": \"silu\",\n  \"rope_scaling\": ");
    print_rope(file, &config->rope);
    /* Transformers gives a Mistral model without the field a window of 4096. */
    fprintf(file, ",\n  \"%s\n}\n",
            strcmp(arch->model_type, "mistral") == 0 ? "sliding_window\": null"
                                                     : "use_sliding_window\": false");
    const int rc = fclose(file);
    RF_ASSERT(rc == 0 && text != NULL);
    return text;
}

bool rf_model_config_same_shape(const rf_model_config *a, const rf_model_config *b,
                                char *difference, size_t bytes)
{
    if (bytes > 0) {
        difference[0] = 0;
    }
    for (int i = 0; i < RF_N_SIZES; i++) {
        int64_t x = *(const int64_t *)rf_field_at(a, rf_field_sizes[i].offset),
                y = *(const int64_t *)rf_field_at(b, rf_field_sizes[i].offset);
        if (rf_field_sizes[i].is_shape && x != y) {
            snprintf(difference, bytes, "%s is %" PRId64 " here and %" PRId64 " there",
                     rf_field_sizes[i].name, x, y);
            return false;
        }
    }
    for (int i = 0; i < RF_N_SWITCHES; i++) {
        bool x = *(const bool *)rf_field_at(a, rf_field_switches[i].offset),
             y = *(const bool *)rf_field_at(b, rf_field_switches[i].offset);
        if (x != y) {
            snprintf(difference, bytes, "%s is %s here and %s there", rf_field_switches[i].name,
                     truth(x), truth(y));
            return false;
        }
    }
    return true;
}
