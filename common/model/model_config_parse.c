#include "common/model/model_config_private.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* --- Values ----------------------------------------------------------------------------------- */

const json_t *rf_field_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

int rf_field_read_bool(bool *out, const json_t *root, const char *name, bool preset,
                       const char *origin, rf_error *err)
{
    const json_t *value = rf_field_of(root, name);
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

int rf_field_unsupported(rf_error *err, const char *origin, const char *name, const char *supported)
{
    return rf_error_set(err, RF_ERR,
                        "%s: %s asks for something this program does not compute: use a model "
                        "with %s",
                        origin, name, supported);
}

bool rf_field_is_number(const json_t *value, double number)
{
    return json_is_number(value) && json_number_value(value) == number;
}

static int read_architecture(const rf_architecture **out, const json_t *root, const char *origin,
                             rf_error *err)
{
    const json_t *list = rf_field_of(root, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    const char *model_type = json_string_value(rf_field_of(root, "model_type"));
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

/* A missing size is an error, except where the architecture derives it from others. */
static int read_sizes(rf_model_config *out, const json_t *root, const rf_architecture *arch,
                      const char *origin, rf_error *err)
{
    for (int i = 0; i < RF_N_SIZES; i++) {
        const json_t *value = rf_field_of(root, rf_field_sizes[i].name);
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
            *(int64_t *)rf_field_at(out, rf_field_sizes[i].offset) = json_integer_value(value);
        }
    }
    return RF_OK;
}

/* Older versions of Transformers read the rope_theta at the top, newer ones that of rope_parameters
 * or rope_scaling: where several stand they must agree. `out`: NULL where none stands. */
static int find_theta(const json_t **out, const json_t *root, const char *origin, rf_error *err)
{
    const json_t *all[] = {root, rf_field_of(root, "rope_parameters"),
                           rf_field_of(root, "rope_scaling")};
    *out = NULL;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const json_t *value = rf_field_of(all[i], "rope_theta");
        if (value != NULL && !json_is_number(value)) {
            return rf_error_set(err, RF_ERR, "%s: rope_theta is not a number: give a number",
                                origin);
        }
        if (value != NULL && *out != NULL && !rf_field_is_number(value, json_number_value(*out))) {
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
        const json_t *value = rf_field_of(root, rf_field_reals[i].name);
        if (rf_field_reals[i].offset == offsetof(rf_model_config, rope_theta)) {
            RF_TRY(find_theta(&value, root, origin, err));
        }
        if (value != NULL && !json_is_number(value)) {
            return rf_error_set(err, RF_ERR, "%s: %s is not a number: give a number", origin,
                                rf_field_reals[i].name);
        }
        *(double *)rf_field_at(out, rf_field_reals[i].offset) =
            value == NULL ? rf_field_reals[i].preset : json_number_value(value);
    }
    return RF_OK;
}

static int read_switches(rf_model_config *out, const json_t *root, const rf_architecture *arch,
                         const char *origin, rf_error *err)
{
    bool bias = false;
    RF_TRY(rf_field_read_bool(&bias, root, "attention_bias", false, origin, err));
    bias = bias && arch->reads_attention_bias;
    out->tie_word_embeddings = false;
    out->qk_norm = arch->qk_norm;
    out->qkv_bias = arch->qkv_bias || bias;
    out->output_bias = bias;
    for (int i = 0; i < RF_N_SWITCHES; i++) {
        bool *value = rf_field_at(out, rf_field_switches[i].offset);
        RF_TRY(rf_field_read_bool(value, root, rf_field_switches[i].name, *value, origin, err));
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
    RF_TRY_OUT(rf_field_reject_unsupported(root, origin, err));
    RF_TRY_OUT(rf_field_reject_window(root, arch, origin, err));
    RF_TRY_OUT(read_sizes(out, root, arch, origin, err));
    RF_TRY_OUT(read_reals(out, root, origin, err));
    RF_TRY_OUT(read_switches(out, root, arch, origin, err));
    RF_TRY_OUT(rf_field_read_ropes(&out->rope, root, origin, err));
    RF_TRY_OUT(rf_field_reject_unknown(root, ignore, origin, err));
    if ((rc = rf_model_config_check(out, err)) != RF_OK) {
        rf_error_prefix(err, "%s", origin);
    }
out:
    json_decref(root);
    return rc;
}
