/* table.h: every parameter is declared once.                                   all local
 *
 * From the table follow the trainable space (one flat range in which master weights, gradients and
 * both Adam moments share offsets) and everything that loops over parameters: checkpoints, import,
 * export, sharding, gradient checks, printing. Tensors that are not trained lie behind the
 * trainable space: they have master weights only.
 */
#ifndef RF_MODEL_TABLE_H
#define RF_MODEL_TABLE_H

#include "common/model/adapt.h"
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
    RF_ROLE_Q_A,
    RF_ROLE_K_A,
    RF_ROLE_V_A,
    RF_ROLE_O_A,
    RF_ROLE_GATE_A,
    RF_ROLE_UP_A,
    RF_ROLE_DOWN_A, /* *_proj.lora_A.weight [r,in] */
    RF_ROLE_Q_B,
    RF_ROLE_K_B,
    RF_ROLE_V_B,
    RF_ROLE_O_B,
    RF_ROLE_GATE_B,
    RF_ROLE_UP_B,
    RF_ROLE_DOWN_B, /* *_proj.lora_B.weight [out,r] */
    RF_N_ROLES
} rf_role;

typedef struct rf_tensor {
    char name[96]; /* Hugging Face name */
    rf_role role;
    int layer; /* -1: outside the blocks */
    int n_dims;
    int64_t shape[2];
    int64_t count;  /* elements */
    int64_t offset; /* first element in the masters; a multiple of 16, gaps are 0. -1: not there */
    bool trainable; /* offset is in the trainable space; else behind it */
    bool decay;     /* weight decay applies (matrices: yes; gains and biases: no) */
} rf_tensor;

typedef struct rf_table {
    rf_tensor *tensor; /* [n_tensors]; those of the trainable space by offset, the others too */
    int64_t n_tensors;
    int64_t n_elements;   /* of the trainable space, gaps included; a multiple of 16 */
    int64_t n_stored;     /* of the masters: the trainable space, then the frozen tensors */
    int64_t n_parameters; /* sum of counts */
    int64_t n_trainable;  /* sum of the trainable ones' counts */
    int64_t n_adapters;   /* tensors of adapters: twice the number of adapted matrices */
    int64_t n_layers;     /* L */
} rf_table;

/* Builds the table of a checked configuration: all is trainable. Caller frees with rf_table_free.
 */
RF_MUST_CHECK int rf_table_build(rf_table *out, const rf_model_config *config, rf_error *err);
/* The same with an adaptation (NULL: none), whose adapters follow the tensors of their block. A
 * pattern that matches nothing, and a target that is no matrix of a block, are errors. */
RF_MUST_CHECK int rf_table_build_adapted(rf_table *out, const rf_model_config *config,
                                         const rf_adaptation *adaptation, rf_error *err);
void rf_table_free(rf_table *table);

/* Elements [begin, end) of the trainable space. */
typedef struct rf_range {
    int64_t begin, end;
} rf_range;

static inline int64_t rf_range_length(rf_range range)
{
    return range.end - range.begin;
}

/* The layers of the trainable space, in its order: 0 is what comes before the blocks, 1 to L are the
 * blocks, L+1 is what comes behind them. Their ranges cover the space without gaps (padding belongs
 * to the tensor in front of it) and begin at multiples of RF_SUM_RUN elements (kernels.h); that of a
 * layer without trained tensors is empty. trainable false: the same of what is frozen, behind the
 * trainable space and without that padding. (What a forward pass asks for, rf_model_acquire, is a
 * block, layer l + 1 here, or all that lies outside of them, layers 0 and L + 1.) */
rf_range rf_table_range(const rf_table *table, int64_t layer, bool trainable);
/* For models whose matrices are stored elsewhere: they lose their place (offset -1), the others
 * move up. Adapters stay. */
void rf_table_drop_matrices(rf_table *table);
/* Is it a matrix other than an adapter's? */
bool rf_table_is_matrix(const rf_tensor *tensor);
/* NULL when absent. */
const rf_tensor *rf_table_find(const rf_table *table, const char *name);
const rf_tensor *rf_table_role(const rf_table *table, int layer, rf_role role);

/* The adapter's A and B of a matrix of a block; RF_N_ROLES for other roles. */
rf_role rf_table_adapter_a(rf_role role);
rf_role rf_table_adapter_b(rf_role role);
bool rf_table_is_adapter(rf_role role);

#endif
