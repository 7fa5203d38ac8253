#include "common/store/checkpoint_private.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static int set_number(rf_hdf5 *file, const char *object, const char *name, int64_t value,
                      rf_error *err)
{
    return rf_hdf5_set(file, object, name, RF_HDF5_I64, RF_HDF5_SCALAR, &value, err);
}

static int create_text(rf_hdf5 *file, int64_t *crc, const char *name, const char *text,
                       size_t bytes, rf_error *err)
{
    int64_t n = (int64_t)bytes;
    RF_TRY(rf_hdf5_create_dataset(NULL, file, name, RF_HDF5_U8, 1, &n, 0, err));
    RF_TRY(n > 0 ? rf_hdf5_write(file, name, RF_HDF5_U8, 0, n, text, err) : RF_OK);
    *crc = (int64_t)crc32_z(0, (const unsigned char *)text, bytes);
    return RF_OK;
}

static int create_texts(rf_checkpoint_values *values, rf_hdf5 *file, const rf_checkpoint_info *info,
                        rf_error *err)
{
    const char *text[RF_N_TEXTS] = {"", info->run_config, info->corpora, info->state};
    size_t bytes[RF_N_TEXTS] = {0};
    if (info->tokenizer != NULL) {
        text[RF_TEXT_TOKENIZER] = rf_tokenizer_text(info->tokenizer, &bytes[RF_TEXT_TOKENIZER]);
    }
    for (int i = 0; i < rf_checkpoint_n_texts(values->version); i++) {
        if (i != RF_TEXT_TOKENIZER) {
            bytes[i] = text[i] != NULL ? strlen(text[i]) : 0;
        }
        RF_TRY(create_text(file, &values->text_crc32[i], rf_checkpoint_text_names[i], text[i],
                           bytes[i], err));
    }
    return RF_OK;
}

static int create_item(rf_checkpoint_item *item, rf_hdf5 *file, rf_error *err)
{
    RF_TRY(rf_hdf5_create_dataset(&item->offset, file, item->name,
                                  rf_checkpoint_hdf5_type(item->type), item->tensor->n_dims,
                                  item->shape, 0, err));
    RF_TRY(set_number(file, item->name, "bytes", item->bytes, err));
    return set_number(file, item->name, "crc32", 0, err);
}

/* The config.json of the model, and what of it is trained, where that is not all. Caller frees. */
static char *describe_model(const rf_model_config *config, const rf_checkpoint_info *info)
{
    char *json = rf_model_config_json(config);
    if (info->adaptation.rank == 0 && info->adaptation.only[0] == '\0') {
        return json;
    }
    json_t *root = json_loads(json, 0, NULL);
    free(json);
    json_object_set_new(root, RF_CHECKPOINT_ADAPTATION,
                        rf_adapt_json(&info->adaptation, &info->base));
    json = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    return json;
}

static int make_values(rf_checkpoint_values *out, const rf_model_config *config, bool has_optimizer,
                       const rf_checkpoint_info *info, rf_error *err)
{
    memset(out, 0, sizeof *out);
    char *json = describe_model(config, info);
    if (strlen(json) >= sizeof out->model_config) {
        free(json);
        return rf_error_set(err, RF_ERR,
                            "the model's configuration is too long: name fewer tensors");
    }
    out->version = info->state != NULL && info->state[0] != '\0' ? RF_CHECKPOINT_VERSION : 1;
    snprintf(out->model_config, sizeof out->model_config, "%s", json);
    free(json);
    out->progress = info->progress;
    out->has_optimizer = has_optimizer;
    snprintf(out->isa, sizeof out->isa, "%s", info->isa);
    snprintf(out->written_by, sizeof out->written_by, "%s", info->written_by);
    if (info->tokenizer != NULL) {
        out->tokenizer_hash = (int64_t)rf_tokenizer_hash(info->tokenizer);
    }
    return RF_OK;
}

static int create_groups(rf_hdf5 *file, bool has_optimizer, bool quantized, rf_error *err)
{
    RF_TRY(has_optimizer ? rf_hdf5_create_group(file, "/adam", err) : RF_OK);
    for (int g = 0; g < RF_N_GROUPS; g++) {
        if (rf_checkpoint_has_group((rf_checkpoint_group)g, has_optimizer, quantized)) {
            RF_TRY(rf_hdf5_create_group(file, rf_checkpoint_group_names[g], err));
        }
    }
    return RF_OK;
}

static int create_attributes(rf_hdf5 *file, const rf_checkpoint_values *values, rf_error *err)
{
    RF_TRY(rf_hdf5_set_text(file, "/", "format", RF_CHECKPOINT_FORMAT, err));
    RF_TRY(set_number(file, "/", "version", values->version, err));
    RF_TRY(rf_checkpoint_values_create(file, values, err));
    RF_TRY(set_number(file, "/", "attributes_crc32", 0, err));
    return set_number(file, "/", "complete", 0, err);
}

int rf_checkpoint_layout(rf_checkpoint_values *values, rf_checkpoint_item *item, int64_t n_items,
                         const char *path, const rf_model_config *config, bool has_optimizer,
                         bool quantized, const rf_checkpoint_info *info, rf_error *err)
{
    int rc = make_values(values, config, has_optimizer, info, err);
    if (rc != RF_OK) {
        return rf_error_prefix(err, "%s", path);
    }
    rf_hdf5 file = {0};
    RF_TRY_OUT(rf_hdf5_create(&file, path, RF_CHECKPOINT_ALIGN, true, err));
    RF_TRY_OUT(create_texts(values, &file, info, err));
    RF_TRY_OUT(create_groups(&file, has_optimizer, quantized, err));
    for (int64_t i = 0; i < n_items; i++) {
        RF_TRY_OUT(create_item(&item[i], &file, err));
    }
    RF_TRY_OUT(create_attributes(&file, values, err));
    RF_TRY_OUT(rf_hdf5_close(&file, err));
out:
    rf_hdf5_drop(&file);
    return rc;
}

int rf_checkpoint_complete(rf_checkpoint_values *values, const rf_checkpoint_item *item,
                           int64_t n_items, const char *path, rf_error *err)
{
    rf_hdf5 file = {0};
    int rc = rf_hdf5_open(&file, path, true, err);
    if (rc != RF_OK) {
        return rf_hdf5_fail(&file, err, "cannot open for its checksums");
    }
    for (int64_t i = 0; i < n_items; i++) {
        RF_TRY_OUT(set_number(&file, item[i].name, "crc32", (int64_t)item[i].crc, err));
    }
    values->tensors_crc32 = (int64_t)rf_checkpoint_items_crc(item, n_items);
    RF_TRY_OUT(set_number(&file, "/", "tensors_crc32", values->tensors_crc32, err));
    RF_TRY_OUT(
        set_number(&file, "/", "attributes_crc32", (int64_t)rf_checkpoint_values_crc(values), err));
    RF_TRY_OUT(set_number(&file, "/", "complete", 1, err));
    RF_TRY_OUT(rf_hdf5_close(&file, err));
out:
    rf_hdf5_drop(&file);
    return rc;
}
