#include "common/model/model_config.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- What the fields are ------------------------------------------------------------------------
 */

/* The upper bounds keep every product of sizes that the program forms inside int64_t and size_t
 * (model.h, RF_MODEL_MAX_PLACES); they are far above any model in use. */
typedef struct size_field {
    const char *name;
    size_t offset;
    int64_t max;
    bool is_shape; /* decides the shape of a tensor */
} size_field;

static const size_field sizes[] = {
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
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };
static const int64_t max_attention_width = 1 << 20; /* H * K */

/* Missing reals take the values that Transformers gives them. */
typedef struct real_field {
    const char *name;
    size_t offset;
    double preset;
} real_field;

static const real_field reals[] = {
    {"rms_norm_eps", offsetof(rf_model_config, rms_norm_eps), 1e-6},
    {"rope_theta", offsetof(rf_model_config, rope_theta), 10000.0},
    {"initializer_range", offsetof(rf_model_config, initializer_range), 0.02},
};
enum { N_REALS = sizeof(reals) / sizeof(reals[0]) };

/* What an architecture implies. `attention_bias` of the file puts biases on q, k, v and o. */
typedef struct architecture {
    const char *name, *model_type;
    bool qk_norm, qkv_bias;
    bool reads_attention_bias;
    bool implies_sizes; /* head_dim may be missing: D/H; num_key_value_heads too: H */
} architecture;

static const architecture architectures[] = {
    {"Qwen3ForCausalLM", "qwen3", true, false, true, false},
    {"Qwen2ForCausalLM", "qwen2", false, true, false, true},
    {"LlamaForCausalLM", "llama", false, false, true, true},
};
enum { N_ARCHITECTURES = sizeof(architectures) / sizeof(architectures[0]) };

/* Switches beyond Hugging Face's fields; in a file they stand only where the architecture implies
 * another value. */
typedef struct switch_field {
    const char *name;
    size_t offset;
} switch_field;

static const switch_field switches[] = {
    {"tie_word_embeddings", offsetof(rf_model_config, tie_word_embeddings)},
    {"qk_norm", offsetof(rf_model_config, qk_norm)},
    {"qkv_bias", offsetof(rf_model_config, qkv_bias)},
    {"output_bias", offsetof(rf_model_config, output_bias)},
};
enum { N_SWITCHES = sizeof(switches) / sizeof(switches[0]) };

static int64_t get_size(const rf_model_config *config, const size_field *field)
{
    return *(const int64_t *)(const void *)((const char *)config + field->offset);
}

static void set_size(rf_model_config *config, const size_field *field, int64_t value)
{
    *(int64_t *)(void *)((char *)config + field->offset) = value;
}

static double get_real(const rf_model_config *config, const real_field *field)
{
    return *(const double *)(const void *)((const char *)config + field->offset);
}

static void set_real(rf_model_config *config, const real_field *field, double value)
{
    *(double *)(void *)((char *)config + field->offset) = value;
}

static bool get_switch(const rf_model_config *config, const switch_field *field)
{
    return *(const bool *)((const char *)config + field->offset);
}

static void set_switch(rf_model_config *config, const switch_field *field, bool value)
{
    *(bool *)((char *)config + field->offset) = value;
}

static const architecture *find_architecture(const char *name, const char *model_type)
{
    for (int i = 0; i < N_ARCHITECTURES; i++) {
        const architecture *a = &architectures[i];
        if (name != NULL ? strcmp(a->name, name) == 0 : strcmp(a->model_type, model_type) == 0) {
            return a;
        }
    }
    return NULL;
}

/* --- Parsing ------------------------------------------------------------------------------------
 */

/* The field, or NULL where it is missing or null. */
static const json_t *field_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

static int read_bool(bool *out, const json_t *root, const char *name, bool preset,
                     const char *origin, rf_error *err)
{
    const json_t *value = field_of(root, name);
    *out = preset;
    if (value != NULL && !json_is_boolean(value)) {
        return rf_error_set(err, RF_ERR, "%s: %s is not a boolean: write true or false", origin,
                            name);
    }
    if (value != NULL) {
        *out = json_is_true(value);
    }
    return RF_OK;
}

static int unsupported(rf_error *err, const char *origin, const char *name, const char *supported)
{
    return rf_error_set(err, RF_ERR,
                        "%s: %s asks for something this program does not compute: use a model "
                        "with %s",
                        origin, name, supported);
}

static bool is_number(const json_t *value, double number)
{
    return json_is_number(value) && json_number_value(value) == number;
}

/* {"rope_type": "default", ...} or {"type": "default"}, as older files have it. */
static bool is_default_rope(const json_t *rope)
{
    const json_t *type = field_of(rope, "rope_type");
    type = type != NULL ? type : field_of(rope, "type");
    const json_t *partial = field_of(rope, "partial_rotary_factor");
    return json_is_object(rope) && json_is_string(type) &&
           strcmp(json_string_value(type), "default") == 0 &&
           (partial == NULL || is_number(partial, 1.0));
}

/* Fields that change what the supported architectures compute, at values not supported here. */
static int reject_unsupported(const json_t *root, const char *origin, rf_error *err)
{
    const json_t *act = field_of(root, "hidden_act");
    if (act != NULL && !(json_is_string(act) && (strcmp(json_string_value(act), "silu") == 0 ||
                                                 strcmp(json_string_value(act), "swish") == 0))) {
        return unsupported(err, origin, "hidden_act", "\"silu\"");
    }
    static const char *const ropes[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        const json_t *rope = field_of(root, ropes[i]);
        if (rope != NULL && !is_default_rope(rope)) {
            return unsupported(err, origin, ropes[i], "rope_type \"default\"");
        }
    }
    static const char *const must_be_false[] = {"use_sliding_window", "mlp_bias"};
    for (int i = 0; i < 2; i++) {
        bool value = false;
        int rc = read_bool(&value, root, must_be_false[i], false, origin, err);
        if (rc != RF_OK) {
            return rc;
        }
        if (value) {
            return unsupported(err, origin, must_be_false[i], "false");
        }
    }
    const json_t *dropout = field_of(root, "attention_dropout");
    if (dropout != NULL && !is_number(dropout, 0.0)) {
        return unsupported(err, origin, "attention_dropout", "0");
    }
    const json_t *partial = field_of(root, "partial_rotary_factor");
    if (partial != NULL && !is_number(partial, 1.0)) {
        return unsupported(err, origin, "partial_rotary_factor", "1");
    }
    if (field_of(root, "quantization_config") != NULL) {
        return unsupported(err, origin, "quantization_config", "unquantized weights");
    }
    const json_t *types = field_of(root, "layer_types");
    if (types != NULL && !json_is_array(types)) {
        return unsupported(err, origin, "layer_types", "\"full_attention\" in every layer");
    }
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type == NULL || strcmp(type, "full_attention") != 0) {
            return unsupported(err, origin, "layer_types", "\"full_attention\" in every layer");
        }
    }
    return RF_OK;
}

static int read_architecture(const architecture **out, const json_t *root, const char *origin,
                             rf_error *err)
{
    const json_t *list = field_of(root, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    const char *model_type = json_string_value(field_of(root, "model_type"));
    if (name == NULL && (list != NULL || model_type == NULL)) {
        return rf_error_set(err, RF_ERR,
                            "%s: architectures is missing or not a list of names: write "
                            "\"architectures\": [\"Qwen3ForCausalLM\"]",
                            origin);
    }
    *out = find_architecture(name, model_type);
    if (*out == NULL) {
        return rf_error_set(err, RF_ERR,
                            "%s: architecture %.64s is not supported: use a model of "
                            "Qwen3ForCausalLM, Qwen2ForCausalLM or LlamaForCausalLM",
                            origin, name != NULL ? name : model_type);
    }
    return RF_OK;
}

/* A missing size is an error, except where the architecture derives it from others. */
static int read_sizes(rf_model_config *out, const json_t *root, const architecture *arch,
                      const char *origin, rf_error *err)
{
    for (int i = 0; i < N_SIZES; i++) {
        const json_t *value = field_of(root, sizes[i].name);
        if (value == NULL && arch->implies_sizes &&
            sizes[i].offset == offsetof(rf_model_config, num_key_value_heads)) {
            out->num_key_value_heads = out->num_attention_heads;
        } else if (value == NULL && arch->implies_sizes && out->num_attention_heads > 0 &&
                   sizes[i].offset == offsetof(rf_model_config, head_dim)) {
            out->head_dim = out->hidden_size / out->num_attention_heads;
        } else if (!json_is_integer(value)) {
            return rf_error_set(err, RF_ERR, "%s: %s is %s: give it as an integer", origin,
                                sizes[i].name, value == NULL ? "missing" : "not an integer");
        } else {
            set_size(out, &sizes[i], (int64_t)json_integer_value(value));
        }
    }
    return RF_OK;
}

static int read_reals(rf_model_config *out, const json_t *root, const char *origin, rf_error *err)
{
    for (int i = 0; i < N_REALS; i++) {
        const json_t *value = field_of(root, reals[i].name);
        if (value == NULL && reals[i].offset == offsetof(rf_model_config, rope_theta)) {
            value = field_of(field_of(root, "rope_parameters"), "rope_theta");
        }
        if (value != NULL && !json_is_number(value)) {
            return rf_error_set(err, RF_ERR, "%s: %s is not a number: give a number", origin,
                                reals[i].name);
        }
        set_real(out, &reals[i], value == NULL ? reals[i].preset : json_number_value(value));
    }
    return RF_OK;
}

static int read_switches(rf_model_config *out, const json_t *root, const architecture *arch,
                         const char *origin, rf_error *err)
{
    bool bias = false;
    int rc = read_bool(&bias, root, "attention_bias", false, origin, err);
    if (rc != RF_OK) {
        return rc;
    }
    bias = bias && arch->reads_attention_bias;
    out->tie_word_embeddings = false;
    out->qk_norm = arch->qk_norm;
    out->qkv_bias = arch->qkv_bias || bias;
    out->output_bias = bias;
    for (int i = 0; i < N_SWITCHES; i++) {
        bool value = false;
        rc = read_bool(&value, root, switches[i].name, get_switch(out, &switches[i]), origin, err);
        if (rc != RF_OK) {
            return rc;
        }
        set_switch(out, &switches[i], value);
    }
    return RF_OK;
}

int rf_model_config_parse(rf_model_config *out, const char *json, size_t bytes, const char *origin,
                          rf_error *err)
{
    json_error_t where;
    const architecture *arch = NULL;
    int rc = RF_OK;
    memset(out, 0, sizeof(*out));
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &where);
    if (root == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s:%d:%d: not valid JSON (%s): mend the file", origin,
                          where.line, where.column, where.text);
        goto out;
    }
    if (!json_is_object(root)) {
        rc = rf_error_set(err, RF_ERR, "%s: not a JSON object: give a model's config.json", origin);
        goto out;
    }
    rc = read_architecture(&arch, root, origin, err);
    if (rc != RF_OK) {
        goto out;
    }
    snprintf(out->architecture, sizeof(out->architecture), "%s", arch->name);
    rc = reject_unsupported(root, origin, err);
    if (rc != RF_OK) {
        goto out;
    }
    rc = read_sizes(out, root, arch, origin, err);
    if (rc != RF_OK) {
        goto out;
    }
    rc = read_reals(out, root, origin, err);
    if (rc != RF_OK) {
        goto out;
    }
    rc = read_switches(out, root, arch, origin, err);
    if (rc != RF_OK) {
        goto out;
    }
    rc = rf_model_config_check(out, err);
    if (rc != RF_OK) {
        rc = rf_error_prefix(err, "%s", origin);
    }
out:
    json_decref(root);
    return rc;
}

/* --- Checking -----------------------------------------------------------------------------------
 */

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
    if (memchr(config->architecture, 0, sizeof(config->architecture)) == NULL ||
        find_architecture(config->architecture, "") == NULL) {
        return rf_error_set(err, RF_ERR,
                            "architecture %.64s is not supported: use Qwen3ForCausalLM, "
                            "Qwen2ForCausalLM or LlamaForCausalLM",
                            config->architecture);
    }
    for (int i = 0; i < N_SIZES; i++) {
        int64_t value = get_size(config, &sizes[i]);
        if (value < 1 || value > sizes[i].max) {
            return rf_error_set(err, RF_ERR, "%s is %" PRId64 ": it must be between 1 and %" PRId64,
                                sizes[i].name, value, sizes[i].max);
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
    return check_reals(config, err);
}

/* --- Printing and comparing ---------------------------------------------------------------------
 */

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

/* The shortest decimal form that reads back as the same double. */
static void print_real(FILE *file, double value)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    bool is_real = strpbrk(text, ".e") != NULL; /* else JSON readers take it for an integer */
    fprintf(file, "%s%s", text, is_real ? "" : ".0");
}

char *rf_model_config_json(const rf_model_config *config)
{
    const architecture *arch = find_architecture(config->architecture, "");
    RF_ASSERT(arch != NULL);
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    if (file == NULL) {
        return NULL;
    }
    fprintf(file, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n", arch->name,
            arch->model_type);
    for (int i = 0; i < N_SIZES; i++) {
        fprintf(file, "  \"%s\": %" PRId64 ",\n", sizes[i].name, get_size(config, &sizes[i]));
    }
    for (int i = 0; i < N_REALS; i++) {
        fprintf(file, "  \"%s\": ", reals[i].name);
        print_real(file, get_real(config, &reals[i]));
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
    fprintf(file, "  \"hidden_act\": \"silu\",\n  \"rope_scaling\": null,\n"
                  "  \"use_sliding_window\": false\n}\n");
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}

bool rf_model_config_same_shape(const rf_model_config *a, const rf_model_config *b,
                                char *difference, size_t bytes)
{
    if (bytes > 0) {
        difference[0] = 0;
    }
    for (int i = 0; i < N_SIZES; i++) {
        int64_t x = get_size(a, &sizes[i]), y = get_size(b, &sizes[i]);
        if (sizes[i].is_shape && x != y) {
            snprintf(difference, bytes, "%s is %" PRId64 " here and %" PRId64 " there",
                     sizes[i].name, x, y);
            return false;
        }
    }
    for (int i = 0; i < N_SWITCHES; i++) {
        bool x = get_switch(a, &switches[i]), y = get_switch(b, &switches[i]);
        if (x != y) {
            snprintf(difference, bytes, "%s is %s here and %s there", switches[i].name, truth(x),
                     truth(y));
            return false;
        }
    }
    return true;
}
