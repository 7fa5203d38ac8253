#include "common/store/checkpoint_private.h"

#include "common/base/alloc.h"
#include "common/kernels/quantize.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

const char *const rf_checkpoint_text_names[RF_N_TEXTS] = {
    [RF_TEXT_TOKENIZER] = "/tokenizer",
    [RF_TEXT_RUN_CONFIG] = "/run_config",
    [RF_TEXT_CORPORA] = "/corpora",
    [RF_TEXT_STATE] = "/state",
};

int rf_checkpoint_n_texts(int64_t version)
{
    return version >= 2 ? RF_N_TEXTS : RF_TEXT_STATE;
}

const char *const rf_checkpoint_group_names[RF_N_GROUPS] = {
    [RF_GROUP_PARAMS] = "/params",
    [RF_GROUP_M] = "/adam/m",
    [RF_GROUP_V] = "/adam/v",
    [RF_GROUP_SCALES] = "/scales",
};

rf_hdf5_type rf_checkpoint_hdf5_type(rf_type type)
{
    return type == RF_F64    ? RF_HDF5_F64
           : type == RF_BF16 ? RF_HDF5_BF16
           : type == RF_I8   ? RF_HDF5_I8
                             : RF_HDF5_F32;
}

/* --- Attributes ------------------------------------------------------------------------------- */

typedef enum kind { TEXT, I64, F64 } kind;

static const rf_hdf5_type type_of[] = {[I64] = RF_HDF5_I64, [F64] = RF_HDF5_F64};

typedef struct attribute {
    const char *name;
    kind kind;
    size_t offset, size; /* in rf_checkpoint_values */
} attribute;

#define FIELD(name, kind, field)                                                                   \
    {                                                                                              \
        name, kind, offsetof(rf_checkpoint_values, field),                                         \
            sizeof(((rf_checkpoint_values *)NULL)->field)                                          \
    }

/* Names and order are part of the file format: the checksum runs over both. */
static const attribute attributes[] = {
    FIELD("model_config", TEXT, model_config),
    FIELD("step", I64, progress.step),
    FIELD("updates", I64, progress.updates),
    FIELD("tokens", I64, progress.tokens),
    FIELD("seed", I64, progress.seed),
    FIELD("epoch", I64, progress.epoch),
    FIELD("window", I64, progress.window),
    FIELD("row", I64, progress.row),
    FIELD("skipped", I64, progress.skipped),
    FIELD("best_valid_loss", F64, progress.best_valid_loss),
    FIELD("seconds", F64, progress.seconds),
    FIELD("has_optimizer", I64, has_optimizer),
    FIELD("isa", TEXT, isa),
    FIELD("written_by", TEXT, written_by),
    FIELD("tokenizer_hash", I64, tokenizer_hash),
    FIELD("tokenizer_crc32", I64, text_crc32[RF_TEXT_TOKENIZER]),
    FIELD("run_config_crc32", I64, text_crc32[RF_TEXT_RUN_CONFIG]),
    FIELD("corpora_crc32", I64, text_crc32[RF_TEXT_CORPORA]),
    FIELD("tensors_crc32", I64, tensors_crc32),
    FIELD("state_crc32", I64, text_crc32[RF_TEXT_STATE]), /* from version 2 on */
};

static int n_attributes(const rf_checkpoint_values *values)
{
    enum { N = sizeof attributes / sizeof attributes[0] };
    return values->version >= 2 ? N : N - 1;
}

int rf_checkpoint_values_create(rf_hdf5 *file, const rf_checkpoint_values *values, rf_error *err)
{
    for (int i = 0; i < n_attributes(values); i++) {
        const attribute *a = &attributes[i];
        const char *at = (const char *)values + a->offset;
        RF_TRY(a->kind == TEXT
                   ? rf_hdf5_set_text(file, "/", a->name, at, err)
                   : rf_hdf5_set(file, "/", a->name, type_of[a->kind], RF_HDF5_SCALAR, at, err));
    }
    return RF_OK;
}

int rf_checkpoint_values_read(rf_checkpoint_values *out, rf_hdf5 *file, rf_error *err)
{
    for (int i = 0; i < n_attributes(out); i++) {
        const attribute *a = &attributes[i];
        char *at = (char *)out + a->offset;
        RF_TRY(a->kind == TEXT
                   ? rf_hdf5_get_text(at, a->size, file, "/", a->name, err)
                   : rf_hdf5_get(at, file, "/", a->name, type_of[a->kind], RF_HDF5_SCALAR, err));
    }
    return RF_OK;
}

/* --- Checksums -------------------------------------------------------------------------------- */

static uint32_t add_bytes(uint32_t crc, const void *data, size_t bytes)
{
    return (uint32_t)crc32_z(crc, data, bytes);
}

/* With its terminating zero, so that two texts cannot trade characters. */
static uint32_t add_text(uint32_t crc, const char *text)
{
    return add_bytes(crc, text, strlen(text) + 1);
}

uint32_t rf_checkpoint_values_crc(const rf_checkpoint_values *values)
{
    uint32_t crc = 0;
    for (int i = 0; i < n_attributes(values); i++) {
        const attribute *a = &attributes[i];
        const char *at = (const char *)values + a->offset;
        crc = add_text(crc, a->name);
        crc = a->kind == TEXT ? add_text(crc, at) : add_bytes(crc, at, a->size);
    }
    return crc;
}

uint32_t rf_checkpoint_items_crc(const rf_checkpoint_item *item, int64_t n)
{
    uint32_t crc = 0;
    for (int64_t i = 0; i < n; i++) {
        const rf_tensor *tensor = item[i].tensor;
        crc = add_text(crc, item[i].name);
        crc = add_text(crc, rf_type_name(item[i].type));
        crc = add_bytes(crc, item[i].shape, (size_t)tensor->n_dims * sizeof item[i].shape[0]);
        crc = add_bytes(crc, &item[i].bytes, sizeof item[i].bytes);
        crc = add_bytes(crc, &item[i].crc, sizeof item[i].crc);
    }
    return crc;
}

/* --- Items ------------------------------------------------------------------------------------ */

/* Moments are there for what is trained. The parameters of a model with adapters are the adapters:
 * all else is in the file of their base. */
static bool holds(const rf_table *table, const rf_tensor *tensor, rf_checkpoint_group group)
{
    if (group == RF_GROUP_SCALES) {
        return rf_table_is_matrix(tensor);
    }
    if (group != RF_GROUP_PARAMS) {
        return tensor->trainable;
    }
    return table->n_adapters == 0 || rf_table_is_adapter(tensor->role);
}

bool rf_checkpoint_has_group(rf_checkpoint_group group, bool has_optimizer, bool quantized)
{
    return group == RF_GROUP_PARAMS || (group == RF_GROUP_SCALES ? quantized : has_optimizer);
}

static void describe(rf_checkpoint_item *item, const rf_tensor *tensor, rf_checkpoint_group group,
                     rf_type type)
{
    item->tensor = tensor;
    item->group = group;
    item->type = type;
    if (type == RF_I8 && (group == RF_GROUP_SCALES || !rf_table_is_matrix(tensor))) {
        item->type = RF_F32;
    }
    item->shape[0] = tensor->shape[0];
    item->shape[1] =
        group == RF_GROUP_SCALES ? rf_quantize_groups(tensor->shape[1]) : tensor->shape[1];
    item->count = item->shape[0] * item->shape[1];
    item->bytes = item->count * (int64_t)rf_type_bytes(item->type);
    snprintf(item->name, sizeof item->name, "%s/%s", rf_checkpoint_group_names[group],
             tensor->name);
}

rf_checkpoint_item *rf_checkpoint_items(int64_t *n, const rf_table *table, rf_type type,
                                        bool has_optimizer)
{
    rf_checkpoint_item *item = rf_alloc((size_t)(RF_N_GROUPS * table->n_tensors), sizeof *item);
    *n = 0;
    for (int g = 0; g < RF_N_GROUPS; g++) {
        rf_checkpoint_group group = (rf_checkpoint_group)g;
        bool is_there = rf_checkpoint_has_group(group, has_optimizer, type == RF_I8);
        for (int64_t i = 0; i < table->n_tensors && is_there; i++) {
            if (holds(table, &table->tensor[i], group)) {
                describe(&item[(*n)++], &table->tensor[i], group, type);
            }
        }
    }
    return item;
}
