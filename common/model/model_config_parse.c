#include "common/model/model_config_private.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static void set_size(rf_model_config *config, const rf_field_size *field, int64_t value)
{
    *(int64_t *)(void *)((char *)config + field->offset) = value;
}

static void set_real(rf_model_config *config, const rf_field_real *field, double value)
{
    *(double *)(void *)((char *)config + field->offset) = value;
}

static void set_switch(rf_model_config *config, const rf_field_switch *field, bool value)
{
    *(bool *)((char *)config + field->offset) = value;
}

/* --- Values ----------------------------------------------------------------------------------- */

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

/* --- Unknown fields --------------------------------------------------------------------------- */

/* Fields that this program reads, and fields that change nothing in what a causal language model of
 * these architectures computes. Beside them: *_token_id, and names that begin with "_". */
static const char *const known[] = {"architectures",
                                    "model_type",
                                    "hidden_act",
                                    "rope_scaling",
                                    "rope_parameters",
                                    "use_sliding_window",
                                    "mlp_bias",
                                    "attention_dropout",
                                    "partial_rotary_factor",
                                    "quantization_config",
                                    "layer_types",
                                    "attention_bias",
                                    "sliding_window",
                                    "max_window_layers",
                                    "attn_implementation",
                                    "auto_map",
                                    "chunk_size_feed_forward",
                                    "cross_attention_hidden_size",
                                    "dtype",
                                    "finetuning_task",
                                    "id2label",
                                    "is_causal",
                                    "is_decoder",
                                    "is_encoder_decoder",
                                    "label2id",
                                    "max_length",
                                    "name_or_path",
                                    "output_attentions",
                                    "output_hidden_states",
                                    "pretraining_tp",
                                    "problem_type",
                                    "pruned_heads",
                                    "return_dict",
                                    "return_dict_in_generate",
                                    "suppress_tokens",
                                    "task_specific_params",
                                    "tf_legacy_loss",
                                    "tokenizer_class",
                                    "torch_dtype",
                                    "torchscript",
                                    "transformers.js_config",
                                    "transformers_version",
                                    "use_bfloat16",
                                    "use_cache",
                                    "add_cross_attention",
                                    "bad_words_ids",
                                    "begin_suppress_tokens",
                                    "diversity_penalty",
                                    "do_sample",
                                    "early_stopping",
                                    "encoder_no_repeat_ngram_size",
                                    "exponential_decay_length_penalty",
                                    "length_penalty",
                                    "min_length",
                                    "no_repeat_ngram_size",
                                    "num_beam_groups",
                                    "num_beams",
                                    "num_return_sequences",
                                    "output_scores",
                                    "prefix",
                                    "remove_invalid_values",
                                    "repetition_penalty",
                                    "temperature",
                                    "tie_encoder_decoder",
                                    "top_k",
                                    "top_p",
                                    "typical_p"};

static bool is_known(const char *name)
{
    static const char suffix[] = "_token_id";
    size_t n = strlen(name), m = sizeof suffix - 1;
    bool found = name[0] == '_' || (n >= m && strcmp(name + n - m, suffix) == 0);
    for (size_t i = 0; i < sizeof known / sizeof known[0] && !found; i++) {
        found = strcmp(name, known[i]) == 0;
    }
    for (int i = 0; i < RF_N_SIZES && !found; i++) {
        found = strcmp(name, rf_field_sizes[i].name) == 0;
    }
    for (int i = 0; i < RF_N_REALS && !found; i++) {
        found = strcmp(name, rf_field_reals[i].name) == 0;
    }
    for (int i = 0; i < RF_N_SWITCHES && !found; i++) {
        found = strcmp(name, rf_field_switches[i].name) == 0;
    }
    return found;
}

/* What tools note about themselves: versions, and everything that begins with "unsloth_". */
static bool is_note(const char *name, const json_t *value)
{
    static const char suffix[] = "_version", prefix[] = "unsloth_";
    size_t n = strlen(name), m = sizeof suffix - 1;
    return strncmp(name, prefix, sizeof prefix - 1) == 0 ||
           (n >= m && strcmp(name + n - m, suffix) == 0 && json_is_string(value));
}

static bool is_ignored(const rf_config_ignore *ignore, const char *name)
{
    for (int i = 0; i < ignore->n; i++) {
        if (strcmp(ignore->name[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Control characters become blanks: names come from a file, and go to a terminal. */
static void add_name(char *names, size_t bytes, const char *name)
{
    size_t used = strlen(names);
    snprintf(names + used, bytes - used, "%s%.64s", used > 0 ? ", " : "", name);
    for (char *at = names + used; *at != '\0'; at++) {
        *at = (unsigned char)*at < ' ' || *at == 0x7F ? ' ' : *at;
    }
}

/* A field nobody here knows may change the model; null and false say that it does not. */
static int reject_unknown(const json_t *root, rf_config_ignore *ignore, const char *origin,
                          rf_error *err)
{
    char names[600] = "";
    for (int i = 0; i < ignore->n; i++) {
        if (is_known(ignore->name[i])) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s: %.64s is a field that is read: it cannot be ignored", origin,
                                ignore->name[i]);
        }
    }
    for (void *at = json_object_iter((json_t *)root); at != NULL;
         at = json_object_iter_next((json_t *)root, at)) {
        const char *name = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        if (json_is_null(value) || json_is_false(value) || is_known(name)) {
            continue;
        }
        if (is_note(name, value) || is_ignored(ignore, name)) {
            add_name(ignore->skipped, sizeof ignore->skipped, name);
        } else {
            add_name(names, sizeof names, name);
        }
    }
    if (names[0] == '\0') {
        return RF_OK;
    }
    return rf_error_set(err, RF_ERR,
                        "%s: unknown fields: %s: they may change what the model computes; where "
                        "they do not, remove them, or import with --ignore-field NAME for each",
                        origin, names);
}

/* --- Rotary scaling --------------------------------------------------------------------------- */

static int read_rope_kind(rf_rope_kind *out, const json_t *rope, const char *origin,
                          const char *name, rf_error *err)
{
    const json_t *type = field_of(rope, "rope_type");
    type = type != NULL ? type : field_of(rope, "type"); /* as older files have it */
    const char *text = json_string_value(type);
    for (int kind = 0; kind < RF_N_ROPES && text != NULL; kind++) {
        if (strcmp(text, rf_rope_name((rf_rope_kind)kind)) == 0) {
            *out = (rf_rope_kind)kind;
            return RF_OK;
        }
    }
    return unsupported(err, origin, name,
                       "rope_type \"default\", \"linear\", \"llama3\" or \"yarn\"");
}

typedef struct rope_field {
    const char *name;
    size_t offset; /* in rf_rope */
    enum { NO, NEEDS, MAY } use[RF_N_ROPES];
    bool is_size;
    double preset; /* where a kind that may have it has none */
} rope_field;

static const rope_field rope_fields[] = {
    {"factor", offsetof(rf_rope, factor), {NO, NEEDS, NEEDS, NEEDS}, false, 0},
    {"low_freq_factor", offsetof(rf_rope, low_freq_factor), {NO, NO, NEEDS, NO}, false, 0},
    {"high_freq_factor", offsetof(rf_rope, high_freq_factor), {NO, NO, NEEDS, NO}, false, 0},
    {"beta_fast", offsetof(rf_rope, beta_fast), {NO, NO, NO, MAY}, false, 32},
    {"beta_slow", offsetof(rf_rope, beta_slow), {NO, NO, NO, MAY}, false, 1},
    {"attention_factor", offsetof(rf_rope, attention_factor), {NO, NO, NO, MAY}, false, 0},
    {"original_max_position_embeddings",
     offsetof(rf_rope, original_max_position_embeddings),
     {NO, NO, NEEDS, NEEDS},
     true,
     0},
};
enum { N_ROPE_FIELDS = sizeof rope_fields / sizeof rope_fields[0] };

static int read_rope_field(rf_rope *out, const json_t *rope, const rope_field *field,
                           const char *origin, const char *name, rf_error *err)
{
    const json_t *value = field_of(rope, field->name);
    if (field->use[out->kind] == NO) {
        return RF_OK; /* Transformers ignores it, too */
    }
    const bool preset = value == NULL && field->use[out->kind] == MAY;
    if (!preset && (field->is_size ? !json_is_integer(value) : !json_is_number(value))) {
        return rf_error_set(err, RF_ERR, "%s: %s: %s is %s: rope_type \"%s\" needs it", origin,
                            name, field->name, value == NULL ? "missing" : "not a number",
                            rf_rope_name(out->kind));
    }
    char *at = (char *)out + field->offset;
    double real = preset ? field->preset : json_number_value(value);
    int64_t size = (int64_t)json_integer_value(value);
    memcpy(at, field->is_size ? (const void *)&size : (const void *)&real, sizeof real);
    return RF_OK;
}

/* A field that none of the kinds has, "mscale" say, would be one that this program ignores. */
static int check_rope_names(const json_t *rope, const char *origin, const char *name, rf_error *err)
{
    static const char *const others[] = {"rope_type", "type", "rope_theta",
                                         "partial_rotary_factor"};
    for (void *at = json_object_iter((json_t *)rope); at != NULL;
         at = json_object_iter_next((json_t *)rope, at)) {
        const char *key = json_object_iter_key(at);
        bool found = json_is_null(json_object_iter_value(at));
        for (int i = 0; i < N_ROPE_FIELDS && !found; i++) {
            found = strcmp(key, rope_fields[i].name) == 0;
        }
        for (size_t i = 0; i < sizeof others / sizeof others[0] && !found; i++) {
            found = strcmp(key, others[i]) == 0;
        }
        if (!found) {
            return rf_error_set(err, RF_ERR, "%s: %s: unknown field %.64s: use a model without it",
                                origin, name, key);
        }
    }
    return RF_OK;
}

static int read_rope(rf_rope *out, const json_t *rope, const char *origin, const char *name,
                     rf_error *err)
{
    *out = (rf_rope){0};
    if (rope == NULL) {
        return RF_OK;
    }
    const json_t *partial = field_of(rope, "partial_rotary_factor");
    if (partial != NULL && !is_number(partial, 1.0)) {
        return unsupported(err, origin, name, "partial_rotary_factor 1");
    }
    RF_TRY(read_rope_kind(&out->kind, rope, origin, name, err));
    RF_TRY(check_rope_names(rope, origin, name, err));
    for (int i = 0; i < N_ROPE_FIELDS; i++) {
        RF_TRY(read_rope_field(out, rope, &rope_fields[i], origin, name, err));
    }
    return RF_OK;
}

/* Older files have rope_scaling, newer ones rope_parameters; where both stand they must agree. */
static int read_ropes(rf_rope *out, const json_t *root, const char *origin, rf_error *err)
{
    rf_rope newer;
    const json_t *scaling = field_of(root, "rope_scaling");
    const json_t *parameters = field_of(root, "rope_parameters");
    RF_TRY(read_rope(out, scaling, origin, "rope_scaling", err));
    if (parameters == NULL) {
        return RF_OK;
    }
    RF_TRY(read_rope(&newer, parameters, origin, "rope_parameters", err));
    if (scaling != NULL && !rf_rope_equal(out, &newer)) {
        return rf_error_set(err, RF_ERR,
                            "%s: rope_scaling and rope_parameters differ: remove the wrong one",
                            origin);
    }
    *out = newer;
    return RF_OK;
}

/* --- What is not supported -------------------------------------------------------------------- */

/* Fields that change what the supported architectures compute, at values not supported here. */
static int reject_unsupported(const json_t *root, const char *origin, rf_error *err)
{
    const json_t *act = field_of(root, "hidden_act");
    if (act != NULL && !(json_is_string(act) && (strcmp(json_string_value(act), "silu") == 0 ||
                                                 strcmp(json_string_value(act), "swish") == 0))) {
        return unsupported(err, origin, "hidden_act", "\"silu\"");
    }
    static const char *const must_be_false[] = {"use_sliding_window", "mlp_bias"};
    for (int i = 0; i < 2; i++) {
        bool value = false;
        RF_TRY(read_bool(&value, root, must_be_false[i], false, origin, err));
        if (value) {
            return unsupported(err, origin, must_be_false[i], "false");
        }
    }
    bool is_causal = true;
    RF_TRY(read_bool(&is_causal, root, "is_causal", true, origin, err));
    if (!is_causal) {
        return unsupported(err, origin, "is_causal", "true: embedding models see both directions");
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

static int read_architecture(const rf_architecture **out, const json_t *root, const char *origin,
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
    *out = rf_architecture_find(name, model_type);
    if (*out == NULL) {
        return rf_error_set(err, RF_ERR,
                            "%s: architecture %.64s is not supported: use a model of "
                            "Qwen3ForCausalLM, Qwen2ForCausalLM, LlamaForCausalLM or "
                            "MistralForCausalLM",
                            origin, name != NULL ? name : model_type);
    }
    return RF_OK;
}

/* In Mistral's configuration the number alone turns windows on, and Transformers takes a missing one
 * for 4096. One that no position leaves changes nothing. */
static int reject_window(const json_t *root, const rf_architecture *arch, const char *origin,
                         rf_error *err)
{
    const json_t *window = json_object_get(root, "sliding_window");
    const json_t *positions = field_of(root, "max_position_embeddings");
    return strcmp(arch->model_type, "mistral") != 0 || json_is_null(window) ||
                   (json_is_integer(window) && json_is_integer(positions) &&
                    json_integer_value(window) >= json_integer_value(positions))
               ? RF_OK
               : unsupported(err, origin, "sliding_window",
                             "null: attention within windows is not computed");
}

/* A missing size is an error, except where the architecture derives it from others. */
static int read_sizes(rf_model_config *out, const json_t *root, const rf_architecture *arch,
                      const char *origin, rf_error *err)
{
    for (int i = 0; i < RF_N_SIZES; i++) {
        const json_t *value = field_of(root, rf_field_sizes[i].name);
        if (value == NULL && arch->implies_sizes &&
            rf_field_sizes[i].offset == offsetof(rf_model_config, num_key_value_heads)) {
            out->num_key_value_heads = out->num_attention_heads;
        } else if (value == NULL && arch->implies_sizes && out->num_attention_heads > 0 &&
                   rf_field_sizes[i].offset == offsetof(rf_model_config, head_dim)) {
            out->head_dim = out->hidden_size / out->num_attention_heads;
        } else if (!json_is_integer(value)) {
            return rf_error_set(err, RF_ERR, "%s: %s is %s: give it as an integer", origin,
                                rf_field_sizes[i].name,
                                value == NULL ? "missing" : "not an integer");
        } else {
            set_size(out, &rf_field_sizes[i], (int64_t)json_integer_value(value));
        }
    }
    return RF_OK;
}

/* Older versions of Transformers read the rope_theta at the top, newer ones that of rope_parameters
 * or rope_scaling: where several stand they must agree. `out`: NULL where none stands. */
static int find_theta(const json_t **out, const json_t *root, const char *origin, rf_error *err)
{
    const json_t *all[] = {root, field_of(root, "rope_parameters"), field_of(root, "rope_scaling")};
    *out = NULL;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const json_t *value = field_of(all[i], "rope_theta");
        if (value != NULL && !json_is_number(value)) {
            return rf_error_set(err, RF_ERR, "%s: rope_theta is not a number: give a number",
                                origin);
        }
        if (value != NULL && *out != NULL && !is_number(value, json_number_value(*out))) {
            return rf_error_set(err, RF_ERR,
                                "%s: rope_theta is %g in one place and %g in another (at the top, "
                                "rope_parameters, rope_scaling): remove the wrong one",
                                origin, json_number_value(*out), json_number_value(value));
        }
        *out = value != NULL ? value : *out;
    }
    return RF_OK;
}

static int read_reals(rf_model_config *out, const json_t *root, const char *origin, rf_error *err)
{
    for (int i = 0; i < RF_N_REALS; i++) {
        const json_t *value = field_of(root, rf_field_reals[i].name);
        if (rf_field_reals[i].offset == offsetof(rf_model_config, rope_theta)) {
            RF_TRY(find_theta(&value, root, origin, err));
        }
        if (value != NULL && !json_is_number(value)) {
            return rf_error_set(err, RF_ERR, "%s: %s is not a number: give a number", origin,
                                rf_field_reals[i].name);
        }
        set_real(out, &rf_field_reals[i],
                 value == NULL ? rf_field_reals[i].preset : json_number_value(value));
    }
    return RF_OK;
}

static int read_switches(rf_model_config *out, const json_t *root, const rf_architecture *arch,
                         const char *origin, rf_error *err)
{
    bool bias = false;
    RF_TRY(read_bool(&bias, root, "attention_bias", false, origin, err));
    bias = bias && arch->reads_attention_bias;
    out->tie_word_embeddings = false;
    out->qk_norm = arch->qk_norm;
    out->qkv_bias = arch->qkv_bias || bias;
    out->output_bias = bias;
    for (int i = 0; i < RF_N_SWITCHES; i++) {
        bool value = false;
        RF_TRY(read_bool(&value, root, rf_field_switches[i].name,
                         rf_field_get_switch(out, &rf_field_switches[i]), origin, err));
        set_switch(out, &rf_field_switches[i], value);
    }
    return RF_OK;
}

int rf_model_config_parse(rf_model_config *out, const char *json, size_t bytes, const char *origin,
                          rf_error *err)
{
    rf_config_ignore none = {0};
    return rf_model_config_parse_ignoring(out, json, bytes, origin, &none, err);
}

int rf_model_config_parse_ignoring(rf_model_config *out, const char *json, size_t bytes,
                                   const char *origin, rf_config_ignore *ignore, rf_error *err)
{
    json_error_t where;
    const rf_architecture *arch = NULL;
    int rc;
    memset(out, 0, sizeof *out);
    ignore->skipped[0] = '\0';
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
    RF_TRY_OUT(read_architecture(&arch, root, origin, err));
    snprintf(out->architecture, sizeof out->architecture, "%s", arch->name);
    RF_TRY_OUT(reject_unsupported(root, origin, err));
    RF_TRY_OUT(reject_window(root, arch, origin, err));
    RF_TRY_OUT(read_sizes(out, root, arch, origin, err));
    RF_TRY_OUT(read_reals(out, root, origin, err));
    RF_TRY_OUT(read_switches(out, root, arch, origin, err));
    RF_TRY_OUT(read_ropes(&out->rope, root, origin, err));
    RF_TRY_OUT(reject_unknown(root, ignore, origin, err));
    if ((rc = rf_model_config_check(out, err)) != RF_OK) {
        rf_error_prefix(err, "%s", origin);
    }
out:
    json_decref(root);
    return rc;
}
