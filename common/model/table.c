#include "common/model/table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OFFSET_STEP = 16 }; /* elements: 64 bytes of the smallest master type */

/* Far above any model in use; keeps every byte count inside size_t. */
static const int64_t max_elements = (int64_t)1 << 48;

/* --- The one declaration of every parameter -----------------------------------------------------
 */

typedef enum part { BEFORE_BLOCKS, IN_BLOCK, AFTER_BLOCKS } part;
typedef enum dim { NONE, V, D, F, K, HK, GK } dim;
typedef enum condition { ALWAYS, WITH_QK_NORM, WITH_QKV_BIAS, WITH_OUTPUT_BIAS, UNTIED } condition;

typedef struct declaration {
    rf_role role;
    part part;
    const char *name; /* in a block: after "model.layers.<layer>." */
    dim shape[2];     /* matrices: [out, in] */
    condition condition;
} declaration;

static const declaration declarations[] = {
    {RF_ROLE_EMBED, BEFORE_BLOCKS, "model.embed_tokens.weight", {V, D}, ALWAYS},
    {RF_ROLE_ATTENTION_NORM, IN_BLOCK, "input_layernorm.weight", {D, NONE}, ALWAYS},
    {RF_ROLE_Q, IN_BLOCK, "self_attn.q_proj.weight", {HK, D}, ALWAYS},
    {RF_ROLE_Q_BIAS, IN_BLOCK, "self_attn.q_proj.bias", {HK, NONE}, WITH_QKV_BIAS},
    {RF_ROLE_K, IN_BLOCK, "self_attn.k_proj.weight", {GK, D}, ALWAYS},
    {RF_ROLE_K_BIAS, IN_BLOCK, "self_attn.k_proj.bias", {GK, NONE}, WITH_QKV_BIAS},
    {RF_ROLE_V, IN_BLOCK, "self_attn.v_proj.weight", {GK, D}, ALWAYS},
    {RF_ROLE_V_BIAS, IN_BLOCK, "self_attn.v_proj.bias", {GK, NONE}, WITH_QKV_BIAS},
    {RF_ROLE_Q_NORM, IN_BLOCK, "self_attn.q_norm.weight", {K, NONE}, WITH_QK_NORM},
    {RF_ROLE_K_NORM, IN_BLOCK, "self_attn.k_norm.weight", {K, NONE}, WITH_QK_NORM},
    {RF_ROLE_O, IN_BLOCK, "self_attn.o_proj.weight", {D, HK}, ALWAYS},
    {RF_ROLE_O_BIAS, IN_BLOCK, "self_attn.o_proj.bias", {D, NONE}, WITH_OUTPUT_BIAS},
    {RF_ROLE_MLP_NORM, IN_BLOCK, "post_attention_layernorm.weight", {D, NONE}, ALWAYS},
    {RF_ROLE_GATE, IN_BLOCK, "mlp.gate_proj.weight", {F, D}, ALWAYS},
    {RF_ROLE_UP, IN_BLOCK, "mlp.up_proj.weight", {F, D}, ALWAYS},
    {RF_ROLE_DOWN, IN_BLOCK, "mlp.down_proj.weight", {D, F}, ALWAYS},
    {RF_ROLE_FINAL_NORM, AFTER_BLOCKS, "model.norm.weight", {D, NONE}, ALWAYS},
    {RF_ROLE_HEAD, AFTER_BLOCKS, "lm_head.weight", {V, D}, UNTIED},
};
enum { N_DECLARATIONS = sizeof(declarations) / sizeof(declarations[0]) };

static int64_t dim_of(dim d, const rf_model_config *config)
{
    switch (d) {
    case NONE:
        return 1;
    case V:
        return config->vocab_size;
    case D:
        return config->hidden_size;
    case F:
        return config->intermediate_size;
    case K:
        return config->head_dim;
    case HK:
        return config->num_attention_heads * config->head_dim;
    case GK:
        return config->num_key_value_heads * config->head_dim;
    }
    rf_error_panic(__FILE__, __LINE__, "a dimension of the list above");
}

static bool holds(condition c, const rf_model_config *config)
{
    switch (c) {
    case ALWAYS:
        return true;
    case WITH_QK_NORM:
        return config->qk_norm;
    case WITH_QKV_BIAS:
        return config->qkv_bias;
    case WITH_OUTPUT_BIAS:
        return config->output_bias;
    case UNTIED:
        return !config->tie_word_embeddings;
    }
    rf_error_panic(__FILE__, __LINE__, "a condition of the list above");
}

/* --- Building -----------------------------------------------------------------------------------
 */

static void append(rf_table *table, const declaration *d, int layer, const rf_model_config *config)
{
    rf_tensor *t = &table->tensor[table->n_tensors];
    *t = (rf_tensor){.role = d->role, .layer = layer};
    if (layer >= 0) {
        snprintf(t->name, sizeof(t->name), "model.layers.%d.%s", layer, d->name);
    } else {
        snprintf(t->name, sizeof(t->name), "%s", d->name);
    }
    t->n_dims = d->shape[1] == NONE ? 1 : 2;
    t->shape[0] = dim_of(d->shape[0], config);
    t->shape[1] = dim_of(d->shape[1], config);
    t->count = t->shape[0] * t->shape[1];
    t->decay = t->n_dims == 2;
    t->offset = table->n_elements;
    table->n_tensors++;
    table->n_elements += (t->count + OFFSET_STEP - 1) / OFFSET_STEP * OFFSET_STEP;
    table->n_parameters += t->count;
}

static void append_part(rf_table *table, part which, int layer, const rf_model_config *config)
{
    for (int i = 0; i < N_DECLARATIONS; i++) {
        if (declarations[i].part == which && holds(declarations[i].condition, config)) {
            append(table, &declarations[i], layer, config);
        }
    }
}

int rf_table_build(rf_table *out, const rf_model_config *config, rf_error *err)
{
    *out = (rf_table){0};
    int rc = rf_model_config_check(config, err);
    if (rc != RF_OK) {
        return rc;
    }
    size_t most = (size_t)N_DECLARATIONS * (size_t)(config->num_hidden_layers + 1);
    out->tensor = calloc(most, sizeof(*out->tensor));
    if (out->tensor == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the table of %zu tensors: free some", most);
    }
    append_part(out, BEFORE_BLOCKS, -1, config);
    for (int layer = 0; layer < (int)config->num_hidden_layers; layer++) {
        append_part(out, IN_BLOCK, layer, config);
    }
    append_part(out, AFTER_BLOCKS, -1, config);
    /* The bounds of rf_model_config_check keep the sums above inside int64_t. */
    if (out->n_elements > max_elements) {
        rc = rf_error_set(err, RF_ERR,
                          "the model has %" PRId64 " parameters: at most %" PRId64
                          " are supported, reduce its sizes",
                          out->n_parameters, max_elements);
        rf_table_free(out);
    }
    return rc;
}

void rf_table_free(rf_table *table)
{
    free(table->tensor);
    *table = (rf_table){0};
}

const rf_tensor *rf_table_find(const rf_table *table, const char *name)
{
    for (int64_t i = 0; i < table->n_tensors; i++) {
        if (strcmp(table->tensor[i].name, name) == 0) {
            return &table->tensor[i];
        }
    }
    return NULL;
}

const rf_tensor *rf_table_role(const rf_table *table, int layer, rf_role role)
{
    for (int64_t i = 0; i < table->n_tensors; i++) {
        if (table->tensor[i].layer == layer && table->tensor[i].role == role) {
            return &table->tensor[i];
        }
    }
    return NULL;
}
