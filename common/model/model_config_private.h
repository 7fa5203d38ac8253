/* model_config_private.h: the fields of config.json, shared by model_config*.c.  all local */
#ifndef RF_MODEL_MODEL_CONFIG_PRIVATE_H
#define RF_MODEL_MODEL_CONFIG_PRIVATE_H

#include "common/model/model_config.h"

enum { RF_N_SIZES = 8, RF_N_REALS = 3, RF_N_SWITCHES = 4 };

typedef struct rf_field_size {
    const char *name;
    size_t offset; /* in rf_model_config, as below */
    int64_t max;
    bool is_shape; /* decides the shape of a tensor */
} rf_field_size;

typedef struct rf_field_real {
    const char *name;
    size_t offset;
    double preset; /* the value of a file without the field */
} rf_field_real;

/* What an architecture implies. `attention_bias` of the file puts biases on q, k, v and o. */
typedef struct rf_architecture {
    const char *name, *model_type;
    bool qk_norm, qkv_bias;
    bool reads_attention_bias;
    bool implies_sizes; /* head_dim may be missing: D/H; num_key_value_heads too: H */
} rf_architecture;

/* Switches beyond Hugging Face's fields; in a file they stand only where the architecture implies
 * another value. */
typedef struct rf_field_switch {
    const char *name;
    size_t offset;
} rf_field_switch;

/* Where a field lies: of a size an int64_t, of a real a double, of a switch a bool. */
static inline void *rf_field_at(const rf_model_config *config, size_t offset)
{
    return (char *)(uintptr_t)config + offset;
}

extern const rf_field_size rf_field_sizes[RF_N_SIZES];
extern const rf_field_real rf_field_reals[RF_N_REALS];
extern const rf_field_switch rf_field_switches[RF_N_SWITCHES];

/* By name, or where that is NULL by model type; NULL when unknown. */
const rf_architecture *rf_architecture_find(const char *name, const char *model_type);

/* --- Reading a config.json; `origin` stands for the file in messages ----------------------------- */

struct json_t;

/* The field, or NULL where it is missing or null. */
const struct json_t *rf_field_of(const struct json_t *object, const char *name);
bool rf_field_is_number(const struct json_t *value, double number);
/* preset: where the field is missing. */
RF_MUST_CHECK int rf_field_read_bool(bool *out, const struct json_t *root, const char *name,
                                     bool preset, const char *origin, rf_error *err);
/* Sets the error that field `name` asks for what is not computed, and returns RF_ERR. */
int rf_field_unsupported(rf_error *err, const char *origin, const char *name,
                         const char *supported);

/* model_config_rope.c */
RF_MUST_CHECK int rf_field_read_ropes(rf_rope *out, const struct json_t *root, const char *origin,
                                      rf_error *err);
/* model_config_refuse.c. The last also notes in `ignore` which unknown fields it let pass. */
RF_MUST_CHECK int rf_field_reject_unsupported(const struct json_t *root, const char *origin,
                                              rf_error *err);
RF_MUST_CHECK int rf_field_reject_window(const struct json_t *root, const rf_architecture *arch,
                                         const char *origin, rf_error *err);
RF_MUST_CHECK int rf_field_reject_unknown(const struct json_t *root, rf_config_ignore *ignore,
                                          const char *origin, rf_error *err);

#endif
