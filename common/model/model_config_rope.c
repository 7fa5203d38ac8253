/* Rotary scaling in a config.json: rope_scaling, rope_parameters. */
#include "common/model/model_config_private.h"

#include <jansson.h>
#include <string.h>

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

static bool scales(const json_t *rope)
{
    bool found = false;
    for (int i = 0; i < N_ROPE_FIELDS; i++) {
        found = found || rf_field_of(rope, rope_fields[i].name) != NULL;
    }
    return found;
}

/* Without a type it is the default, where nothing says how to scale. */
static int read_rope_kind(rf_rope_kind *out, const json_t *rope, const char *origin,
                          const char *name, rf_error *err)
{
    const json_t *type = rf_field_of(rope, "rope_type");
    type = type != NULL ? type : rf_field_of(rope, "type"); /* as older files have it */
    if (type == NULL && json_is_object(rope) && !scales(rope)) {
        *out = RF_ROPE_DEFAULT;
        return RF_OK;
    }
    const char *text = json_string_value(type);
    for (int kind = 0; kind < RF_N_ROPES && text != NULL; kind++) {
        if (strcmp(text, rf_rope_name((rf_rope_kind)kind)) == 0) {
            *out = (rf_rope_kind)kind;
            return RF_OK;
        }
    }
    return rf_field_unsupported(err, origin, name,
                                "rope_type \"default\", \"linear\", \"llama3\" or \"yarn\"");
}

static int read_rope_field(rf_rope *out, const json_t *rope, const rope_field *field,
                           const char *origin, const char *name, rf_error *err)
{
    const json_t *value = rf_field_of(rope, field->name);
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
    const json_t *partial = rf_field_of(rope, "partial_rotary_factor");
    if (partial != NULL && !rf_field_is_number(partial, 1.0)) {
        return rf_field_unsupported(err, origin, name, "partial_rotary_factor 1");
    }
    RF_TRY(read_rope_kind(&out->kind, rope, origin, name, err));
    RF_TRY(check_rope_names(rope, origin, name, err));
    for (int i = 0; i < N_ROPE_FIELDS; i++) {
        RF_TRY(read_rope_field(out, rope, &rope_fields[i], origin, name, err));
    }
    return RF_OK;
}

/* Older files have rope_scaling, newer ones rope_parameters; where both stand they must agree. */
int rf_field_read_ropes(rf_rope *out, const json_t *root, const char *origin, rf_error *err)
{
    rf_rope newer;
    const json_t *scaling = rf_field_of(root, "rope_scaling");
    const json_t *parameters = rf_field_of(root, "rope_parameters");
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
