/* table.h: every parameter is declared once.                                   all local
 *
 * From the table follow the trainable space (one flat range in which master weights, gradients and
 * both Adam moments share offsets) and everything that loops over parameters: checkpoints, import,
 * export, sharding, gradient checks, printing.
 */
#ifndef RF_MODEL_TABLE_H
#define RF_MODEL_TABLE_H

#include "common/model/model_config.h"

typedef enum rf_role {
    RF_ROLE_EMBED,          /* model.embed_tokens.weight [V,D] */
    RF_ROLE_ATTENTION_NORM, /* input_layernorm.weight [D] */
    RF_ROLE_Q,
    RF_ROLE_K,
    RF_ROLE_V,
    RF_ROLE_O, /* self_attn.*_proj.weight [out,in] */
    RF_ROLE_Q_BIAS,
    RF_ROLE_K_BIAS,
    RF_ROLE_V_BIAS,
    RF_ROLE_O_BIAS,
    RF_ROLE_Q_NORM,
    RF_ROLE_K_NORM,   /* self_attn.{q,k}_norm.weight [K] */
    RF_ROLE_MLP_NORM, /* post_attention_layernorm.weight [D] */
    RF_ROLE_GATE,
    RF_ROLE_UP,
    RF_ROLE_DOWN,       /* mlp.*_proj.weight */
    RF_ROLE_FINAL_NORM, /* model.norm.weight [D] */
    RF_ROLE_HEAD,       /* lm_head.weight [V,D]; absent when tied */
    RF_N_ROLES
} rf_role;

typedef struct rf_tensor {
    char name[96]; /* Hugging Face name */
    rf_role role;
    int layer; /* -1: outside the blocks */
    int n_dims;
    int64_t shape[2];
    int64_t count;  /* elements */
    int64_t offset; /* first element in the trainable space; a multiple of 16, gaps are 0 */
    bool decay;     /* weight decay applies (matrices: yes; gains and biases: no) */
} rf_tensor;

typedef struct rf_table {
    rf_tensor *tensor; /* [n_tensors], in the order of the trainable space */
    int64_t n_tensors;
    int64_t n_elements;   /* of the trainable space, gaps included; a multiple of 16 */
    int64_t n_parameters; /* sum of counts */
} rf_table;

/* Builds the table of a checked configuration. Caller frees with rf_table_free. */
RF_MUST_CHECK int rf_table_build(rf_table *out, const rf_model_config *config, rf_error *err);
void rf_table_free(rf_table *table);
/* NULL when absent. */
const rf_tensor *rf_table_find(const rf_table *table, const char *name);
const rf_tensor *rf_table_role(const rf_table *table, int layer, rf_role role);

#endif
