#include "common/model/table.h"

#include "common/base/alloc.h"
#include "common/kernels/kernels.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OFFSET_STEP = 16 }; /* elements: 64 bytes of the smallest master type */

/* Far above any model in use; keeps every byte count inside size_t. */
static const int64_t max_elements = (int64_t)1 << 48;

/* --- The one declaration of every parameter --------------------------------------------------- */

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
enum {
    N_DECLARATIONS = sizeof declarations / sizeof declarations[0],
    N_ADAPTED = RF_ROLE_Q_B - RF_ROLE_Q_A
};

/* In the order of the adapters' roles. */
static const rf_role adapted[N_ADAPTED] = {RF_ROLE_Q,    RF_ROLE_K,  RF_ROLE_V,   RF_ROLE_O,
                                           RF_ROLE_GATE, RF_ROLE_UP, RF_ROLE_DOWN};

rf_role rf_table_adapter_a(rf_role role)
{
    for (int i = 0; i < N_ADAPTED; i++) {
        if (adapted[i] == role) {
            return (rf_role)(RF_ROLE_Q_A + i);
        }
    }
    return RF_N_ROLES;
}

rf_role rf_table_adapter_b(rf_role role)
{
    rf_role a = rf_table_adapter_a(role);
    return a == RF_N_ROLES ? a : (rf_role)(a + N_ADAPTED);
}

bool rf_table_is_adapter(rf_role role)
{
    return role >= RF_ROLE_Q_A && role < RF_N_ROLES;
}

static int64_t dim_of(dim d, const rf_model_config *config)
{
    const int64_t sizes[] = {[NONE] = 1,
                             [V] = config->vocab_size,
                             [D] = config->hidden_size,
                             [F] = config->intermediate_size,
                             [K] = config->head_dim,
                             [HK] = config->num_attention_heads * config->head_dim,
                             [GK] = config->num_key_value_heads * config->head_dim};
    return sizes[d];
}

static bool holds(condition c, const rf_model_config *config)
{
    const bool is[] = {[ALWAYS] = true,
                       [WITH_QK_NORM] = config->qk_norm,
                       [WITH_QKV_BIAS] = config->qkv_bias,
                       [WITH_OUTPUT_BIAS] = config->output_bias,
                       [UNTIED] = !config->tie_word_embeddings};
    return is[c];
}

/* --- Building --------------------------------------------------------------------------------- */

static void append(rf_table *table, const declaration *d, int layer, const rf_model_config *config)
{
    rf_tensor *t = &table->tensor[table->n_tensors];
    *t = (rf_tensor){.role = d->role, .layer = layer};
    if (layer >= 0) {
        snprintf(t->name, sizeof t->name, "model.layers.%d.%s", layer, d->name);
    } else {
        snprintf(t->name, sizeof t->name, "%s", d->name);
    }
    t->n_dims = d->shape[1] == NONE ? 1 : 2;
    t->shape[0] = dim_of(d->shape[0], config);
    t->shape[1] = dim_of(d->shape[1], config);
    t->count = t->shape[0] * t->shape[1];
    t->decay = t->n_dims == 2;
    table->n_tensors++;
}

/* Two matrices for each target of the block: their product, of rank r, has the target's shape. */
static int append_adapters(rf_table *table, int layer, const rf_adaptation *a, rf_error *err)
{
    int64_t n = a->rank > 0 ? table->n_tensors : 0;
    for (int64_t i = 0; i < n; i++) {
        const rf_tensor *of = &table->tensor[i];
        if (of->layer != layer || of->n_dims != 2 || !rf_adapt_matches(a->targets, of->name)) {
            continue;
        }
        rf_role roles[2] = {rf_table_adapter_a(of->role), rf_table_adapter_b(of->role)};
        if (roles[0] == RF_N_ROLES) {
            return rf_error_set(
                err, RF_ERR_USAGE,
                "lora.targets: %s is no matrix of a block: adapters are for q_proj, "
                "k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
                of->name);
        }
        int stem = (int)(strlen(of->name) - strlen("weight"));
        for (int b = 0; b < 2; b++) {
            rf_tensor *t = &table->tensor[table->n_tensors++];
            *t = (rf_tensor){.role = roles[b], .layer = layer, .n_dims = 2, .decay = true};
            snprintf(t->name, sizeof t->name, "%.*slora_%c.weight", stem, of->name, "AB"[b]);
            t->shape[0] = b == 0 ? a->rank : of->shape[0];
            t->shape[1] = b == 0 ? of->shape[1] : a->rank;
            t->count = t->shape[0] * t->shape[1];
        }
    }
    return RF_OK;
}

static void append_part(rf_table *table, part which, int layer, const rf_model_config *config)
{
    for (int i = 0; i < N_DECLARATIONS; i++) {
        if (declarations[i].part == which && holds(declarations[i].condition, config)) {
            append(table, &declarations[i], layer, config);
        }
    }
}

static int append_all(rf_table *out, const rf_model_config *config, const rf_adaptation *a,
                      rf_error *err)
{
    append_part(out, BEFORE_BLOCKS, -1, config);
    RF_TRY(append_adapters(out, -1, a, err));
    for (int layer = 0; layer < (int)config->num_hidden_layers; layer++) {
        append_part(out, IN_BLOCK, layer, config);
        RF_TRY(append_adapters(out, layer, a, err));
    }
    append_part(out, AFTER_BLOCKS, -1, config);
    return append_adapters(out, -1, a, err);
}

/* Every pattern must choose something (least_dims 2: a matrix): a mistyped name would train another
 * set in silence. */
static int check_patterns(const rf_table *table, const char *key, const char *patterns,
                          int least_dims, rf_error *err)
{
    char pattern[RF_ADAPT_PATTERNS];
    for (int64_t i = 0; rf_adapt_pattern(pattern, sizeof pattern, patterns, i); i++) {
        int64_t j = 0;
        while (j < table->n_tensors && (rf_table_is_adapter(table->tensor[j].role) ||
                                        table->tensor[j].n_dims < least_dims ||
                                        !rf_adapt_matches(pattern, table->tensor[j].name))) {
            j++;
        }
        if (j == table->n_tensors) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s: no %s of the model matches \"%.200s\": write a name as "
                                "%s, a part of it between dots, or `*` for any characters",
                                key, least_dims == 2 ? "matrix" : "tensor", pattern,
                                table->tensor[2].name);
        }
    }
    return RF_OK;
}

/* In the order of the trainable space. */
static int64_t layer_of(const rf_table *table, const rf_tensor *tensor)
{
    return tensor->role == RF_ROLE_EMBED ? 0
           : tensor->layer >= 0          ? tensor->layer + 1
                                         : table->n_layers + 1;
}

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Offsets: the trainable space first, then what is frozen. Layers that are trained begin where a run
 * of the norm's sum does, so that ranks can share each of them. */
static void place_all(rf_table *table, bool matrices)
{
    int64_t end = 0, layer = -1;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < table->n_tensors; i++) {
            rf_tensor *t = &table->tensor[i];
            if (t->trainable != (pass == 0)) {
                continue;
            }
            if (t->trainable && matrices && layer_of(table, t) != layer) {
                end = round_up(end, RF_SUM_RUN);
                layer = layer_of(table, t);
            }
            t->offset = matrices || !rf_table_is_matrix(t) ? end : -1;
            if (t->offset >= 0) {
                end += round_up(t->count, OFFSET_STEP);
            }
        }
        table->n_elements = pass == 0 ? end : table->n_elements;
    }
    table->n_stored = end;
}

bool rf_table_is_matrix(const rf_tensor *tensor)
{
    return tensor->n_dims == 2 && !rf_table_is_adapter(tensor->role);
}

void rf_table_drop_matrices(rf_table *table)
{
    place_all(table, false);
}

static void place(rf_table *table, const rf_adaptation *a)
{
    for (int64_t i = 0; i < table->n_tensors; i++) {
        rf_tensor *t = &table->tensor[i];
        t->trainable = a->rank > 0 ? rf_table_is_adapter(t->role)
                                   : a->only[0] == '\0' || rf_adapt_matches(a->only, t->name);
        table->n_adapters += rf_table_is_adapter(t->role);
        table->n_parameters += t->count;
        table->n_trainable += t->trainable ? t->count : 0;
    }
    place_all(table, true);
}

int rf_table_build(rf_table *out, const rf_model_config *config, rf_error *err)
{
    return rf_table_build_adapted(out, config, NULL, err);
}

int rf_table_build_adapted(rf_table *out, const rf_model_config *config,
                           const rf_adaptation *adaptation, rf_error *err)
{
    const rf_adaptation none = {0}, *a = adaptation != NULL ? adaptation : &none;
    *out = (rf_table){.n_layers = config->num_hidden_layers};
    int rc;
    RF_TRY(rf_model_config_check(config, err));
    RF_TRY(rf_adapt_check(a, err));
    out->tensor =
        rf_alloc((size_t)(N_DECLARATIONS + 2 * N_ADAPTED) * (size_t)(config->num_hidden_layers + 1),
                 sizeof *out->tensor);
    RF_TRY_OUT(append_all(out, config, a, err));
    RF_TRY_OUT(check_patterns(out, "train.only", a->only, 1, err));
    if (a->rank > 0) {
        RF_TRY_OUT(check_patterns(out, "lora.targets", a->targets, 2, err));
    }
    place(out, a);
    /* The bounds of rf_model_config_check keep the sums above inside int64_t. */
    if (out->n_stored > max_elements) {
        rc = rf_error_set(err, RF_ERR,
                          "the model has %" PRId64 " parameters: at most %" PRId64
                          " are supported, reduce its sizes",
                          out->n_parameters, max_elements);
    }
out:
    if (rc != RF_OK) {
        rf_table_free(out);
    }
    return rc;
}

rf_range rf_table_range(const rf_table *table, int64_t layer, bool trainable)
{
    const int64_t end = trainable ? table->n_elements : table->n_stored;
    rf_range range = {end, end};
    for (int64_t i = table->n_tensors; i-- > 0;) {
        const rf_tensor *tensor = &table->tensor[i];
        if (tensor->trainable != trainable) {
            continue;
        }
        if (layer_of(table, tensor) > layer) {
            range = (rf_range){tensor->offset, tensor->offset};
        } else if (layer_of(table, tensor) == layer) {
            range.begin = tensor->offset;
        }
    }
    return range;
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
