#include "common/store/checkpoint_private.h"

#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* --- Before HDF5 sees the file ---------------------------------------------------------------- */

/* Superblock of versions 2 and 3 (HDF5 File Format Specification, II.A): 8 bytes signature, 1
 * version, 1 bytes of an offset, 2 more, then base, extension, end of file, root and a checksum. */
enum { SUPERBLOCK_BYTES = 48, SUPERBLOCK_END = 28 };

/* Not HDF5 at all, truncated, or of a format without checksums over its metadata (which HDF5 would
 * follow wherever a damaged byte leads): refused here, with a message about the file. */
static int check_superblock(int64_t *file_bytes, const char *path, rf_error *err)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1A, '\n'};
    unsigned char block[SUPERBLOCK_BYTES];
    struct stat status;
    int rc = RF_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        rc = rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot open: %s", path,
                          strerror(errno));
        goto out;
    }
    if (!S_ISREG(status.st_mode)) {
        rc = rf_error_set(err, RF_ERR, "%s: is not a regular file: name a checkpoint file", path);
        goto out;
    }
    *file_bytes = (int64_t)status.st_size;
    if (status.st_size < SUPERBLOCK_BYTES) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: has %lld bytes, too few for a checkpoint: it is truncated or "
                          "another file: " RF_CHECKPOINT_REMEDY,
                          path, (long long)status.st_size);
        goto out;
    }
    rc = rf_file_pread(fd, block, sizeof block, 0, path, err);
    if (rc != RF_OK) {
        goto out;
    }
    if (memcmp(block, signature, sizeof signature) != 0) {
        rc = rf_error_set(err, RF_ERR, "%s: is not an HDF5 file: name a checkpoint file", path);
        goto out;
    }
    if ((block[8] != 2 && block[8] != 3) || block[9] != 8) {
        rc = rf_error_set(
            err, RF_ERR,
            "%s: is an HDF5 file, but not a checkpoint of this program: " RF_CHECKPOINT_REMEDY,
            path);
        goto out;
    }
    uint64_t end = 0;
    memcpy(&end, block + SUPERBLOCK_END, sizeof end);
    if (end > (uint64_t)status.st_size) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: is truncated: %lld bytes of %" PRIu64 ": " RF_CHECKPOINT_REMEDY,
                          path, (long long)status.st_size, end);
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

/* --- Attributes and texts --------------------------------------------------------------------- */

static int read_values(rf_checkpoint_values *values, hid_t file, const char *path, rf_error *err)
{
    char format[64];
    int64_t version = 0, complete = 0, crc = 0;
    if (rf_hdf5_read_text(format, sizeof format, file, "format", path, NULL) != RF_OK ||
        strcmp(format, RF_CHECKPOINT_FORMAT) != 0) {
        return rf_error_set(
            err, RF_ERR,
            "%s: is an HDF5 file, but not a checkpoint of this program: " RF_CHECKPOINT_REMEDY,
            path);
    }
    int rc = rf_hdf5_read_i64(&version, file, "version", path, err);
    if (rc != RF_OK) {
        return rc;
    }
    if (version != RF_CHECKPOINT_VERSION) {
        return rf_error_set(err, RF_ERR,
                            "%s: has format version %lld and this program reads version %d: use "
                            "the program that wrote it",
                            path, (long long)version, RF_CHECKPOINT_VERSION);
    }
    rc = rf_hdf5_read_i64(&complete, file, "complete", path, err);
    if (rc != RF_OK) {
        return rc;
    }
    if (complete != 1) {
        return rf_error_set(err, RF_ERR, "%s: its writing was interrupted: " RF_CHECKPOINT_REMEDY,
                            path);
    }
    rc = rf_checkpoint_values_read(values, file, path, err);
    if (rc == RF_OK) {
        rc = rf_hdf5_read_i64(&crc, file, "attributes_crc32", path, err);
    }
    if (rc == RF_OK && crc != (int64_t)rf_checkpoint_values_crc(values)) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: the checksum of its attributes is wrong: " RF_CHECKPOINT_REMEDY,
                          path);
    }
    return rc;
}

static int read_text(char **out, size_t *bytes, hid_t file, const char *name, int64_t crc,
                     int64_t file_bytes, const char *path, rf_error *err)
{
    int rc = RF_OK;
    hid_t space = -1;
    hsize_t n = 0;
    hid_t data = H5Dopen2(file, name, H5P_DEFAULT);
    if (data >= 0) {
        space = H5Dget_space(data);
    }
    if (space < 0 || H5Sget_simple_extent_ndims(space) != 1 ||
        H5Sget_simple_extent_dims(space, &n, NULL) != 1) {
        rc = rf_hdf5_refuse(err, path, "dataset %s is missing or damaged: " RF_CHECKPOINT_REMEDY,
                          name);
        goto out;
    }
    if (n > (hsize_t)file_bytes) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: dataset %s is longer than the file: " RF_CHECKPOINT_REMEDY, path,
                          name);
        goto out;
    }
    *out = calloc((size_t)n + 1, 1);
    if (*out == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s: no memory for %s", path, name);
        goto out;
    }
    *bytes = (size_t)n;
    if (n > 0 && H5Dread(data, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, *out) < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot read the dataset %s", name);
        goto out;
    }
    if ((int64_t)crc32_z(0, (const unsigned char *)*out, *bytes) != crc) {
        rc = rf_error_set(err, RF_ERR, "%s: the checksum of %s is wrong: " RF_CHECKPOINT_REMEDY,
                          path, name);
    }
out:
    if (space >= 0) {
        H5Sclose(space);
    }
    if (data >= 0) {
        H5Dclose(data);
    }
    return rc;
}

/* --- Tensors ---------------------------------------------------------------------------------- */

static void describe_shape(char *text, size_t size, const hsize_t *dims, int n_dims)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < n_dims && used < size; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s%llu", i > 0 ? "," : "",
                                 (unsigned long long)dims[i]);
    }
}

static int check_shape(const rf_checkpoint_item *item, hid_t data, const char *path, rf_error *err)
{
    enum { MAX_DIMS = 8 };
    hsize_t is[MAX_DIMS] = {0}, wanted[2] = {0};
    hid_t space = H5Dget_space(data);
    int n_dims = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    if (n_dims >= 0 && n_dims <= MAX_DIMS) {
        n_dims = H5Sget_simple_extent_dims(space, is, NULL);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    if (n_dims < 0 || n_dims > MAX_DIMS) {
        return rf_hdf5_refuse(err, path, "cannot read the shape of %s", item->name);
    }
    bool same = n_dims == item->tensor->n_dims;
    for (int i = 0; i < item->tensor->n_dims; i++) {
        wanted[i] = (hsize_t)item->shape[i];
        same = same && is[i] == wanted[i];
    }
    if (same) {
        return RF_OK;
    }
    char is_text[256], wanted_text[64];
    describe_shape(is_text, sizeof is_text, is, n_dims);
    describe_shape(wanted_text, sizeof wanted_text, wanted, item->tensor->n_dims);
    return rf_error_set(err, RF_ERR,
                        "%s: tensor %s has shape [%s] and the file's configuration says "
                        "[%s]: " RF_CHECKPOINT_REMEDY,
                        path, item->name, is_text, wanted_text);
}

/* RF_N_TYPES: another type than an item of a type `as` may have. */
static rf_type storage_of(hid_t type, rf_checkpoint_group group, rf_type as)
{
    static const rf_type candidates[] = {RF_F32, RF_F64, RF_BF16, RF_I8};
    for (size_t i = 0; i < sizeof candidates / sizeof candidates[0] && type >= 0; i++) {
        hid_t wanted = rf_hdf5_type(candidates[i]);
        bool same = wanted >= 0 && H5Tequal(type, wanted) > 0;
        if (wanted >= 0) {
            H5Tclose(wanted);
        }
        bool exact = as == RF_I8 || group == RF_GROUP_SCALES;
        if (same) {
            return candidates[i] == as || (!exact && candidates[i] != RF_I8) ? candidates[i]
                                                                             : RF_N_TYPES;
        }
    }
    return RF_N_TYPES;
}

/* Sets type, bytes and offset. The values are read without HDF5, so they must lie in one piece. */
static int check_storage(rf_checkpoint_item *item, hid_t data, int64_t file_bytes, const char *path,
                         rf_error *err)
{
    int rc = RF_OK;
    hid_t type = H5Dget_type(data), creation = H5Dget_create_plist(data);
    rf_type as = item->type, storage = storage_of(type, item->group, as);
    bool is_contiguous = creation >= 0 && H5Pget_layout(creation) == H5D_CONTIGUOUS &&
                         H5Pget_external_count(creation) == 0;
    haddr_t offset = H5Dget_offset(data);
    item->type = storage < RF_N_TYPES ? storage : RF_F32;
    item->bytes = item->count * (int64_t)rf_type_bytes(item->type);
    if (storage == RF_N_TYPES) {
        rc = rf_error_set(err, RF_ERR, "%s: tensor %s is %s: " RF_CHECKPOINT_REMEDY, path,
                          item->name,
                          as == RF_I8                      ? "not int8, but has scales"
                          : item->group == RF_GROUP_SCALES ? "not f32"
                                                           : "neither f32 nor f64 nor bf16");
    } else if (!is_contiguous || offset == HADDR_UNDEF) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: tensor %s is not stored in one piece (was the file "
                          "repacked?): " RF_CHECKPOINT_REMEDY,
                          path, item->name);
    } else if (item->bytes > file_bytes || offset > (haddr_t)(file_bytes - item->bytes)) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: tensor %s reaches beyond the end of the file: " RF_CHECKPOINT_REMEDY,
                          path, item->name);
    } else {
        item->offset = (int64_t)offset;
    }
    if (type >= 0) {
        H5Tclose(type);
    }
    if (creation >= 0) {
        H5Pclose(creation);
    }
    return rc;
}

static int read_item(rf_checkpoint_item *item, hid_t file, int64_t file_bytes, const char *path,
                     rf_error *err)
{
    int64_t crc = 0, bytes = 0;
    hid_t data = H5Dopen2(file, item->name, H5P_DEFAULT);
    if (data < 0) {
        return rf_hdf5_refuse(err, path, "tensor %s is missing or damaged: " RF_CHECKPOINT_REMEDY,
                            item->name);
    }
    int rc = check_shape(item, data, path, err);
    if (rc == RF_OK) {
        rc = check_storage(item, data, file_bytes, path, err);
    }
    if (rc == RF_OK) {
        rc = rf_hdf5_read_i64(&bytes, data, "bytes", path, err);
    }
    if (rc == RF_OK) {
        rc = rf_hdf5_read_i64(&crc, data, "crc32", path, err);
    }
    if (rc == RF_OK && bytes != item->bytes) {
        rc = rf_error_set(
            err, RF_ERR,
            "%s: tensor %s has %lld bytes and its attribute says %lld: " RF_CHECKPOINT_REMEDY, path,
            item->name, (long long)item->bytes, (long long)bytes);
    }
    item->crc = (uint32_t)crc;
    H5Dclose(data);
    return rc;
}

/* Every link of the group must be a tensor of the table (their number was not the expected one). */
static int name_surplus(hid_t group, const char *group_name, const rf_table *table, hsize_t n,
                        int64_t n_expected, const char *path, rf_error *err)
{
    for (hsize_t i = 0; i < n; i++) {
        char name[256] = "";
        if (H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name,
                               H5P_DEFAULT) < 0) {
            return rf_hdf5_refuse(err, path, "cannot list the tensors of %s", group_name);
        }
        if (rf_table_find(table, name) == NULL) {
            return rf_error_set(err, RF_ERR,
                                "%s: tensor %s/%s does not belong to the file's "
                                "configuration: " RF_CHECKPOINT_REMEDY,
                                path, group_name, name);
        }
    }
    return rf_error_set(err, RF_ERR,
                        "%s: %s has %llu tensors instead of %lld: " RF_CHECKPOINT_REMEDY, path,
                        group_name, (unsigned long long)n, (long long)n_expected);
}

static int check_group(hid_t file, const char *name, const rf_table *table, int64_t n_expected,
                       const char *path, rf_error *err)
{
    H5G_info_t info = {0};
    hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
    if (group < 0) {
        return rf_hdf5_refuse(err, path, "the group %s is missing or damaged: " RF_CHECKPOINT_REMEDY,
                            name);
    }
    int rc = RF_OK;
    if (H5Gget_info(group, &info) < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot list the tensors of %s", name);
    } else if (info.nlinks > (hsize_t)n_expected) {
        rc = name_surplus(group, name, table, info.nlinks, n_expected, path, err);
    }
    H5Gclose(group);
    return rc;
}

/* The configuration without the checkpoint's own field is a config.json. */
static int read_model(rf_checkpoint_structure *out, const char *path, rf_error *err)
{
    const char *text = out->values.model_config;
    int rc = RF_OK;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const json_t *adaptation = json_object_get(root, RF_CHECKPOINT_ADAPTATION);
    char *rest = NULL;
    if (adaptation != NULL) {
        rc = rf_adapt_parse(&out->adaptation, &out->base, adaptation, path, err);
        json_object_del(root, RF_CHECKPOINT_ADAPTATION);
        rest = json_dumps(root, 0);
        text = rest;
    }
    if (rc == RF_OK && text == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s: no memory for its configuration", path);
    }
    if (rc == RF_OK) {
        rc = rf_model_config_parse(&out->model, text, strlen(text), path, err);
    }
    free(rest);
    json_decref(root);
    return rc;
}

static int read_tensors(rf_checkpoint_structure *out, hid_t file, int64_t file_bytes,
                        const char *path, rf_error *err)
{
    bool has_optimizer = out->values.has_optimizer != 0;
    bool quantized = H5Lexists(file, rf_checkpoint_group_names[RF_GROUP_SCALES], H5P_DEFAULT) > 0;
    int rc = read_model(out, path, err);
    if (rc == RF_OK && quantized && (has_optimizer || out->adaptation.rank > 0)) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: holds int8 with %s, which no program writes: " RF_CHECKPOINT_REMEDY,
                          path, has_optimizer ? "optimizer state" : "adapters");
    }
    if (rc == RF_OK) {
        rc = rf_table_build_adapted(&out->table, &out->model, &out->adaptation, err);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_items(&out->item, &out->n_items, &out->table, quantized ? RF_I8 : RF_F32,
                                 has_optimizer, err);
    }
    for (int g = 0; g < RF_N_GROUPS && rc == RF_OK; g++) {
        int64_t n = 0;
        if (!rf_checkpoint_has_group((rf_checkpoint_group)g, has_optimizer, quantized)) {
            continue;
        }
        for (int64_t i = 0; i < out->n_items; i++) {
            n += out->item[i].group == (rf_checkpoint_group)g;
        }
        rc = check_group(file, rf_checkpoint_group_names[g], &out->table, n, path, err);
    }
    for (int64_t i = 0; i < out->n_items && rc == RF_OK; i++) {
        rc = read_item(&out->item[i], file, file_bytes, path, err);
    }
    if (rc == RF_OK &&
        (int64_t)rf_checkpoint_items_crc(out->item, out->n_items) != out->values.tensors_crc32) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: the checksum of its list of tensors is wrong: " RF_CHECKPOINT_REMEDY,
                          path);
    }
    return rc;
}

/* --- Structure -------------------------------------------------------------------------------- */

static int read_structure(rf_checkpoint_structure *out, const char *path, rf_error *err)
{
    int64_t file_bytes = 0;
    hid_t access = -1, file = -1;
    int rc = check_superblock(&file_bytes, path, err);
    if (rc != RF_OK) {
        goto out;
    }
    access = rf_hdf5_access();
    file = access >= 0 ? H5Fopen(path, H5F_ACC_RDONLY, access) : -1;
    if (file < 0) {
        rc = rf_hdf5_refuse(err, path, "damaged (" RF_CHECKPOINT_REMEDY ")");
        goto out;
    }
    rc = read_values(&out->values, file, path, err);
    for (int i = 0; i < RF_N_TEXTS && rc == RF_OK; i++) {
        rc = read_text(&out->text[i], &out->text_bytes[i], file, rf_checkpoint_text_names[i],
                       out->values.text_crc32[i], file_bytes, path, err);
    }
    if (rc == RF_OK) {
        rc = read_tensors(out, file, file_bytes, path, err);
    }
out:
    if (file >= 0) {
        H5Fclose(file);
    }
    if (access >= 0) {
        H5Pclose(access);
    }
    return rc;
}

int rf_checkpoint_structure_read(rf_checkpoint_structure *out, const char *path, rf_error *err)
{
    memset(out, 0, sizeof *out);
    rf_hdf5_silence silence = rf_hdf5_silence_begin();
    int rc = read_structure(out, path, err);
    rf_hdf5_silence_end(silence);
    return rc;
}

void rf_checkpoint_structure_free(rf_checkpoint_structure *structure)
{
    rf_table_free(&structure->table);
    free(structure->item);
    for (int i = 0; i < RF_N_TEXTS; i++) {
        free(structure->text[i]);
    }
    memset(structure, 0, sizeof *structure);
}
