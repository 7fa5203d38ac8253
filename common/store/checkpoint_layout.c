#include "common/store/checkpoint_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static int create_group(hid_t file, const char *name, const char *path, rf_error *err)
{
    int rc = RF_OK;
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    hid_t group = -1;
    if (creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0) {
        group = H5Gcreate2(file, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    }
    if (group < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot create the group %s", name);
    } else {
        H5Gclose(group);
    }
    if (creation >= 0) {
        H5Pclose(creation);
    }
    return rc;
}

/* Contiguous, with its place in the file decided now and never filled; without times, so that the
 * same content makes the same bytes. */
static int create_dataset(hid_t *out, hid_t file, const char *name, hid_t type, int n_dims,
                          const hsize_t *shape, const char *path, rf_error *err)
{
    int rc = RF_OK;
    hid_t space = H5Screate_simple(n_dims, shape, NULL);
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (space >= 0 && creation >= 0 && H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0 &&
        H5Pset_obj_track_times(creation, false) >= 0) {
        *out = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    }
    if (*out < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot create the dataset %s", name);
    }
    if (creation >= 0) {
        H5Pclose(creation);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    return rc;
}

static int create_text(hid_t file, int64_t *crc, const char *name, const char *text, size_t bytes,
                       const char *path, rf_error *err)
{
    hsize_t n = bytes;
    hid_t data = -1;
    int rc = create_dataset(&data, file, name, H5T_STD_U8LE, 1, &n, path, err);
    if (rc == RF_OK && bytes > 0 &&
        H5Dwrite(data, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot write the dataset %s", name);
    }
    if (data >= 0) {
        H5Dclose(data);
    }
    *crc = (int64_t)crc32_z(0, (const unsigned char *)text, bytes);
    return rc;
}

static int create_item(rf_checkpoint_item *item, hid_t file, const char *path, rf_error *err)
{
    const rf_tensor *tensor = item->tensor;
    hsize_t shape[2] = {(hsize_t)item->shape[0], (hsize_t)item->shape[1]};
    hid_t type = rf_hdf5_type(item->type);
    hid_t data = -1;
    haddr_t offset = HADDR_UNDEF;
    int rc = create_dataset(&data, file, item->name, type, tensor->n_dims, shape, path, err);
    if (rc != RF_OK) {
        goto out;
    }
    offset = H5Dget_offset(data);
    if (offset == HADDR_UNDEF) {
        rc = rf_hdf5_refuse(err, path, "the dataset %s got no place in the file", item->name);
        goto out;
    }
    item->offset = (int64_t)offset;
    rc = rf_hdf5_create_i64(data, "bytes", item->bytes, path, err);
    if (rc == RF_OK) {
        rc = rf_hdf5_create_i64(data, "crc32", 0, path, err);
    }
out:
    if (data >= 0) {
        H5Dclose(data);
    }
    if (type >= 0) {
        H5Tclose(type);
    }
    return rc;
}

static int create_texts(rf_checkpoint_values *values, hid_t file, const rf_checkpoint_info *info,
                        const char *path, rf_error *err)
{
    const char *text[RF_N_TEXTS] = {"", info->run_config, info->corpora};
    size_t bytes[RF_N_TEXTS] = {0};
    if (info->tokenizer != NULL) {
        text[RF_TEXT_TOKENIZER] = rf_tokenizer_text(info->tokenizer, &bytes[RF_TEXT_TOKENIZER]);
    }
    for (int i = RF_TEXT_RUN_CONFIG; i < RF_N_TEXTS; i++) {
        bytes[i] = text[i] != NULL ? strlen(text[i]) : 0;
    }
    int rc = RF_OK;
    for (int i = 0; i < RF_N_TEXTS && rc == RF_OK; i++) {
        rc = create_text(file, &values->text_crc32[i], rf_checkpoint_text_names[i], text[i],
                         bytes[i], path, err);
    }
    return rc;
}

/* The config.json of the model, and what of it is trained, where that is not all. Caller frees;
 * NULL when memory is out. */
static char *describe_model(const rf_model_config *config, const rf_checkpoint_info *info)
{
    char *json = rf_model_config_json(config);
    if (json == NULL || (info->adaptation.rank == 0 && info->adaptation.only[0] == '\0')) {
        return json;
    }
    json_t *root = json_loads(json, 0, NULL);
    free(json);
    json = NULL;
    if (json_object_set_new(root, RF_CHECKPOINT_ADAPTATION,
                            rf_adapt_json(&info->adaptation, &info->base)) == 0) {
        json = json_dumps(root, JSON_INDENT(2));
    }
    json_decref(root);
    return json;
}

static int make_values(rf_checkpoint_values *out, const rf_model_config *config, bool has_optimizer,
                       const rf_checkpoint_info *info, rf_error *err)
{
    memset(out, 0, sizeof *out);
    char *json = describe_model(config, info);
    if (json == NULL || strlen(json) >= sizeof out->model_config) {
        free(json);
        return rf_error_set(err, RF_ERR, "no memory for the model's configuration");
    }
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

static int create_groups(hid_t file, bool has_optimizer, bool quantized, const char *path,
                         rf_error *err)
{
    int rc = has_optimizer ? create_group(file, "/adam", path, err) : RF_OK;
    for (int g = 0; g < RF_N_GROUPS && rc == RF_OK; g++) {
        if (rf_checkpoint_has_group((rf_checkpoint_group)g, has_optimizer, quantized)) {
            rc = create_group(file, rf_checkpoint_group_names[g], path, err);
        }
    }
    return rc;
}

static int create_attributes(hid_t file, const rf_checkpoint_values *values, const char *path,
                             rf_error *err)
{
    int rc = rf_hdf5_create_text(file, "format", RF_CHECKPOINT_FORMAT, path, err);
    if (rc == RF_OK) {
        rc = rf_hdf5_create_i64(file, "version", RF_CHECKPOINT_VERSION, path, err);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_values_create(file, values, path, err);
    }
    if (rc == RF_OK) {
        rc = rf_hdf5_create_i64(file, "attributes_crc32", 0, path, err);
    }
    if (rc == RF_OK) {
        rc = rf_hdf5_create_i64(file, "complete", 0, path, err);
    }
    return rc;
}

static int create_file(hid_t *out, const char *path, hid_t access, rf_error *err)
{
    /* All attributes of the root in its header, where they can be overwritten in place. */
    enum { MAX_COMPACT_ATTRIBUTES = 64 };
    int rc = RF_OK;
    hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    if (access >= 0 && creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0 &&
        H5Pset_attr_phase_change(creation, MAX_COMPACT_ATTRIBUTES, 0) >= 0) {
        *out = H5Fcreate(path, H5F_ACC_EXCL, creation, access);
    }
    if (*out < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot create");
    }
    if (creation >= 0) {
        H5Pclose(creation);
    }
    return rc;
}

int rf_checkpoint_layout(rf_checkpoint_values *values, rf_checkpoint_item *item, int64_t n_items,
                         const char *path, const rf_model_config *config, bool has_optimizer,
                         bool quantized, const rf_checkpoint_info *info, rf_error *err)
{
    int rc = make_values(values, config, has_optimizer, info, err);
    if (rc != RF_OK) {
        return rf_error_prefix(err, "%s", path);
    }
    hid_t access = rf_hdf5_access();
    hid_t file = -1;
    rc = create_file(&file, path, access, err);
    if (rc != RF_OK) {
        goto out;
    }
    rc = create_texts(values, file, info, path, err);
    if (rc == RF_OK) {
        rc = create_groups(file, has_optimizer, quantized, path, err);
    }
    for (int64_t i = 0; i < n_items && rc == RF_OK; i++) {
        rc = create_item(&item[i], file, path, err);
    }
    if (rc == RF_OK) {
        rc = create_attributes(file, values, path, err);
    }
    if (H5Fclose(file) < 0 && rc == RF_OK) {
        rc = rf_hdf5_refuse(err, path, "cannot write");
    }
out:
    if (access >= 0) {
        H5Pclose(access);
    }
    return rc;
}

/* --- Completion ------------------------------------------------------------------------------- */

static int write_checksums(rf_checkpoint_values *values, hid_t file, const rf_checkpoint_item *item,
                           int64_t n_items, const char *path, rf_error *err)
{
    int rc = RF_OK;
    for (int64_t i = 0; i < n_items && rc == RF_OK; i++) {
        hid_t data = H5Dopen2(file, item[i].name, H5P_DEFAULT);
        if (data < 0) {
            return rf_hdf5_refuse(err, path, "cannot open the dataset %s", item[i].name);
        }
        rc = rf_hdf5_write_i64(data, "crc32", (int64_t)item[i].crc, path, err);
        H5Dclose(data);
    }
    values->tensors_crc32 = (int64_t)rf_checkpoint_items_crc(item, n_items);
    if (rc == RF_OK) {
        rc = rf_hdf5_write_i64(file, "tensors_crc32", values->tensors_crc32, path, err);
    }
    if (rc == RF_OK) {
        rc = rf_hdf5_write_i64(file, "attributes_crc32", (int64_t)rf_checkpoint_values_crc(values),
                               path, err);
    }
    if (rc == RF_OK) {
        rc = rf_hdf5_write_i64(file, "complete", 1, path, err);
    }
    return rc;
}

int rf_checkpoint_complete(rf_checkpoint_values *values, const rf_checkpoint_item *item,
                           int64_t n_items, const char *path, rf_error *err)
{
    int rc = RF_OK;
    hid_t access = rf_hdf5_access();
    hid_t file = access >= 0 ? H5Fopen(path, H5F_ACC_RDWR, access) : -1;
    if (file < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot open for its checksums");
        goto out;
    }
    rc = write_checksums(values, file, item, n_items, path, err);
    if (H5Fclose(file) < 0 && rc == RF_OK) {
        rc = rf_hdf5_refuse(err, path, "cannot write");
    }
out:
    if (access >= 0) {
        H5Pclose(access);
    }
    return rc;
}
