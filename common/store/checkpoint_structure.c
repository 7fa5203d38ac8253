#include "common/store/checkpoint_private.h"

#include "common/base/files/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
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

static int refuse(const char *path, const char *what, rf_error *err)
{
    return rf_error_set(err, RF_ERR, "%s: %s", path, what);
}

/* Not HDF5 at all, truncated, or of a format without checksums over its metadata (which HDF5 would
 * follow wherever a damaged byte leads): refused here, with a message about the file. */
static int check_superblock(rf_checkpoint_structure *out, int64_t *file_bytes, const char *path,
                            rf_error *err)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1A, '\n'};
    unsigned char head[SUPERBLOCK_BYTES];
    char named[RF_PATH_BYTES];
    struct stat status;
    int rc = RF_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        rc = rf_error_system(err, errno, path, "cannot open");
        out->blameless = true;
        goto out;
    }
    if (S_ISDIR(status.st_mode)) {
        rc = rf_checkpoint_refuse_folder(path, err);
        goto out;
    }
    if (!S_ISREG(status.st_mode)) {
        rc = refuse(path, "is not a regular file: name a checkpoint file", err);
        goto out;
    }
    *file_bytes = (int64_t)status.st_size;
    if (status.st_size < SUPERBLOCK_BYTES && rf_checkpoint_follow(named, sizeof named, path)) {
        rc = rf_error_set(err, RF_ERR, "%s: is no checkpoint but names one: give %s", path, named);
        goto out;
    }
    if (status.st_size < SUPERBLOCK_BYTES) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: has %" PRId64 " bytes, too few for a checkpoint: it is truncated or "
                          "another file: " RF_CHECKPOINT_REMEDY,
                          path, *file_bytes);
        goto out;
    }
    if ((rc = rf_file_pread(fd, head, sizeof head, 0, path, err)) != RF_OK) {
        out->blameless = true;
        goto out;
    }
    if (memcmp(head, signature, sizeof signature) != 0) {
        rc = refuse(path, "is not an HDF5 file: name a checkpoint file", err);
        goto out;
    }
    if ((head[8] != 2 && head[8] != 3) || head[9] != 8) {
        rc = refuse(path,
                    "is an HDF5 file, but not a checkpoint of this program, or its first bytes are "
                    "damaged: " RF_CHECKPOINT_REMEDY,
                    err);
        goto out;
    }
    uint64_t end = 0;
    memcpy(&end, head + SUPERBLOCK_END, sizeof end);
    if (end > (uint64_t)status.st_size) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: is truncated: %" PRId64 " bytes of %" PRIu64
                          ": " RF_CHECKPOINT_REMEDY,
                          path, *file_bytes, end);
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

/* --- Attributes and texts --------------------------------------------------------------------- */

/* The file is a checkpoint, but a part of it cannot be read: puts in front of the cause what that means
 * and what to do. */
static int call_damaged(int rc, rf_error *err)
{
    return err == NULL ? rc
                       : rf_error_set(err, rc, "%s: the file is damaged: " RF_CHECKPOINT_REMEDY,
                                      err->message);
}

static int get_number(int64_t *value, rf_hdf5 *file, const char *object, const char *name,
                      rf_error *err)
{
    int rc = rf_hdf5_get(value, file, object, name, RF_HDF5_I64, RF_HDF5_SCALAR, err);
    return rc == RF_OK ? RF_OK : call_damaged(rc, err);
}

static int read_values(rf_checkpoint_structure *out, rf_hdf5 *file, rf_error *err)
{
    rf_checkpoint_values *values = &out->values;
    char format[64];
    int64_t complete = 0, crc = 0;
    const bool is_there =
        rf_hdf5_get_text(format, sizeof format, file, "/", "format", NULL) == RF_OK;
    if (!is_there && rf_hdf5_exists(file, rf_checkpoint_text_names[RF_TEXT_RUN_CONFIG])) {
        return refuse(file->name,
                      "is damaged: its attributes cannot be read: " RF_CHECKPOINT_REMEDY, err);
    }
    if (!is_there || strcmp(format, RF_CHECKPOINT_FORMAT) != 0) {
        return refuse(
            file->name,
            "is an HDF5 file, but not a checkpoint of this program: " RF_CHECKPOINT_REMEDY, err);
    }
    RF_TRY(get_number(&values->version, file, "/", "version", err));
    out->blameless = values->version > RF_CHECKPOINT_VERSION;
    if (values->version < 1 || values->version > RF_CHECKPOINT_VERSION) {
        return rf_error_set(err, RF_ERR,
                            "%s: has format version %" PRId64 " and this program reads versions "
                            "1 to %d: use the program that wrote it",
                            file->name, values->version, RF_CHECKPOINT_VERSION);
    }
    RF_TRY(get_number(&complete, file, "/", "complete", err));
    if (complete != 1) {
        return refuse(file->name, "its writing was interrupted: " RF_CHECKPOINT_REMEDY, err);
    }
    int rc = rf_checkpoint_values_read(values, file, err);
    if (rc != RF_OK) {
        return call_damaged(rc, err);
    }
    RF_TRY(get_number(&crc, file, "/", "attributes_crc32", err));
    return crc == (int64_t)rf_checkpoint_values_crc(values)
               ? RF_OK
               : refuse(
                     file->name,
                     "is damaged: the checksum of its attributes is wrong: " RF_CHECKPOINT_REMEDY,
                     err);
}

static int read_text(rf_checkpoint_structure *out, int which, rf_hdf5 *file, int64_t file_bytes,
                     rf_error *err)
{
    const char *name = rf_checkpoint_text_names[which];
    rf_hdf5_dataset is;
    if (rf_hdf5_describe(&is, file, name, err) != RF_OK || is.n_dims != 1) {
        return rf_hdf5_fail(file, err, "dataset %s is missing or damaged: " RF_CHECKPOINT_REMEDY,
                            name);
    }
    if (is.shape[0] < 0 || is.shape[0] > file_bytes) {
        return rf_error_set(err, RF_ERR,
                            "%s: dataset %s is longer than the file: " RF_CHECKPOINT_REMEDY,
                            file->name, name);
    }
    const size_t bytes = (size_t)is.shape[0];
    char *text = out->text[which] = calloc(bytes + 1, 1);
    out->text_bytes[which] = bytes;
    if (text == NULL) {
        out->blameless = true;
        return rf_error_set(err, RF_ERR, "%s: no memory for %s", file->name, name);
    }
    RF_TRY(bytes > 0 ? rf_hdf5_read(text, file, name, RF_HDF5_U8, 0, is.shape[0], err) : RF_OK);
    return (int64_t)crc32_z(0, (const unsigned char *)text, bytes) == out->values.text_crc32[which]
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "%s: is damaged: the checksum of %s is wrong: " RF_CHECKPOINT_REMEDY,
                              file->name, name);
}

/* --- Tensors ---------------------------------------------------------------------------------- */

static void describe_shape(char *text, size_t size, const int64_t *dims, int n_dims)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < n_dims && used < size; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i > 0 ? "," : "", dims[i]);
    }
}

static int check_shape(const rf_checkpoint_item *item, const rf_hdf5_dataset *is, const char *path,
                       rf_error *err)
{
    const int n_dims = item->tensor->n_dims;
    if (is->n_dims == n_dims &&
        memcmp(is->shape, item->shape, (size_t)n_dims * sizeof item->shape[0]) == 0) {
        return RF_OK;
    }
    char is_text[256], wanted_text[64];
    describe_shape(is_text, sizeof is_text, is->shape, is->n_dims);
    describe_shape(wanted_text, sizeof wanted_text, item->shape, n_dims);
    return rf_error_set(err, RF_ERR,
                        "%s: tensor %s has shape [%s] and the file's configuration says "
                        "[%s]: " RF_CHECKPOINT_REMEDY,
                        path, item->name, is_text, wanted_text);
}

/* The type of an item that should be `as`: of parameters and moments f32, f64 and bf16 are as good
 * as each other. RF_N_TYPES: none that it may have. */
static rf_type type_of(rf_hdf5_type is, rf_checkpoint_group group, rf_type as)
{
    static const rf_type candidates[] = {RF_F32, RF_F64, RF_BF16, RF_I8};
    const bool exact = as == RF_I8 || group == RF_GROUP_SCALES;
    for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; i++) {
        if (is == rf_checkpoint_hdf5_type(candidates[i])) {
            bool fits = candidates[i] == as || (!exact && candidates[i] != RF_I8);
            return fits ? candidates[i] : RF_N_TYPES;
        }
    }
    return RF_N_TYPES;
}

/* Sets type, bytes and offset. The values are read without HDF5, so they must lie in one piece. */
static int check_storage(rf_checkpoint_item *item, const rf_hdf5_dataset *is, int64_t file_bytes,
                         const char *path, rf_error *err)
{
    const rf_type as = item->type, type = type_of(is->type, item->group, as);
    const char *wrong = NULL;
    item->type = type < RF_N_TYPES ? type : RF_F32;
    item->bytes = item->count * (int64_t)rf_type_bytes(item->type);
    item->offset = is->offset;
    if (type == RF_N_TYPES) {
        wrong = as == RF_I8                      ? "is not int8, but has scales"
                : item->group == RF_GROUP_SCALES ? "is not f32"
                                                 : "is neither f32 nor f64 nor bf16";
    } else if (is->offset < 0) {
        wrong = "is not stored in one piece (was the file repacked?)";
    } else if (item->bytes > file_bytes || is->offset > file_bytes - item->bytes) {
        wrong = "reaches beyond the end of the file";
    }
    return wrong == NULL ? RF_OK
                         : rf_error_set(err, RF_ERR, "%s: tensor %s %s: " RF_CHECKPOINT_REMEDY,
                                        path, item->name, wrong);
}

static int read_item(rf_checkpoint_item *item, rf_hdf5 *file, int64_t file_bytes, rf_error *err)
{
    int64_t crc = 0, bytes = 0;
    rf_hdf5_dataset is;
    if (rf_hdf5_describe(&is, file, item->name, err) != RF_OK) {
        return rf_hdf5_fail(file, err, "tensor %s is missing or damaged: " RF_CHECKPOINT_REMEDY,
                            item->name);
    }
    RF_TRY(check_shape(item, &is, file->name, err));
    RF_TRY(check_storage(item, &is, file_bytes, file->name, err));
    RF_TRY(get_number(&bytes, file, item->name, "bytes", err));
    RF_TRY(get_number(&crc, file, item->name, "crc32", err));
    item->crc = (uint32_t)crc;
    return bytes == item->bytes
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "%s: tensor %s has %" PRId64 " bytes and its attribute says %" PRId64
                              ": " RF_CHECKPOINT_REMEDY,
                              file->name, item->name, item->bytes, bytes);
}

/* Every link of the group must be a tensor of the table (their number was not the expected one). */
static int name_surplus(rf_hdf5 *file, const char *group, const rf_table *table, int64_t n,
                        int64_t n_expected, rf_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        char name[256] = "";
        RF_TRY(rf_hdf5_link(name, sizeof name, file, group, i, err));
        if (rf_table_find(table, name) == NULL) {
            return rf_error_set(err, RF_ERR,
                                "%s: tensor %s/%s does not belong to the file's "
                                "configuration: " RF_CHECKPOINT_REMEDY,
                                file->name, group, name);
        }
    }
    return rf_error_set(
        err, RF_ERR, "%s: %s has %" PRId64 " tensors instead of %" PRId64 ": " RF_CHECKPOINT_REMEDY,
        file->name, group, n, n_expected);
}

static int check_group(rf_checkpoint_structure *out, rf_hdf5 *file, rf_checkpoint_group group,
                       rf_error *err)
{
    const char *name = rf_checkpoint_group_names[group];
    int64_t n = 0, n_expected = 0;
    for (int64_t i = 0; i < out->n_items; i++) {
        n_expected += out->item[i].group == group;
    }
    if (rf_hdf5_count(&n, file, name, err) != RF_OK) {
        return rf_hdf5_fail(file, err, "the group %s is missing or damaged: " RF_CHECKPOINT_REMEDY,
                            name);
    }
    return n <= n_expected ? RF_OK : name_surplus(file, name, &out->table, n, n_expected, err);
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
        RF_TRY_OUT(rf_adapt_parse(&out->adaptation, &out->base, adaptation, path, err));
        json_object_del(root, RF_CHECKPOINT_ADAPTATION);
        text = rest = json_dumps(root, 0);
        RF_ASSERT(rest != NULL);
    }
    RF_TRY_OUT(rf_model_config_parse(&out->model, text, strlen(text), path, err));
out:
    free(rest);
    json_decref(root);
    return rc;
}

static int read_tensors(rf_checkpoint_structure *out, rf_hdf5 *file, int64_t file_bytes,
                        rf_error *err)
{
    const char *path = file->name;
    bool has_optimizer = out->values.has_optimizer != 0;
    bool quantized = rf_hdf5_exists(file, rf_checkpoint_group_names[RF_GROUP_SCALES]);
    RF_TRY(read_model(out, path, err));
    if (quantized && (has_optimizer || out->adaptation.rank > 0)) {
        return rf_error_set(
            err, RF_ERR, "%s: holds int8 with %s, which no program writes: " RF_CHECKPOINT_REMEDY,
            path, has_optimizer ? "optimizer state" : "adapters");
    }
    RF_TRY(rf_table_build_adapted(&out->table, &out->model, &out->adaptation, err));
    out->item =
        rf_checkpoint_items(&out->n_items, &out->table, quantized ? RF_I8 : RF_F32, has_optimizer);
    for (int g = 0; g < RF_N_GROUPS; g++) {
        if (rf_checkpoint_has_group((rf_checkpoint_group)g, has_optimizer, quantized)) {
            RF_TRY(check_group(out, file, (rf_checkpoint_group)g, err));
        }
    }
    for (int64_t i = 0; i < out->n_items; i++) {
        RF_TRY(read_item(&out->item[i], file, file_bytes, err));
    }
    return (int64_t)rf_checkpoint_items_crc(out->item, out->n_items) == out->values.tensors_crc32
               ? RF_OK
               : refuse(path,
                        "is damaged: the checksum of its list of tensors is "
                        "wrong: " RF_CHECKPOINT_REMEDY,
                        err);
}

/* --- Structure -------------------------------------------------------------------------------- */

int rf_checkpoint_structure_read(rf_checkpoint_structure *out, const char *path, rf_error *err)
{
    int64_t file_bytes = 0;
    rf_hdf5 file = {0};
    int rc;
    memset(out, 0, sizeof *out);
    RF_TRY(check_superblock(out, &file_bytes, path, err));
    if ((rc = rf_hdf5_open(&file, path, false, err)) != RF_OK) {
        rf_hdf5_fail(&file, err, "damaged (" RF_CHECKPOINT_REMEDY ")");
        goto out;
    }
    RF_TRY_OUT(read_values(out, &file, err));
    for (int i = 0; i < rf_checkpoint_n_texts(out->values.version); i++) {
        RF_TRY_OUT(read_text(out, i, &file, file_bytes, err));
    }
    RF_TRY_OUT(read_tensors(out, &file, file_bytes, err));
out:
    if (rc != RF_OK && file.blameless) { /* whatever it looked like */
        rc = rf_hdf5_fail(&file, err, "cannot be read");
        out->blameless = true;
    }
    rf_hdf5_drop(&file);
    return rc;
}

void rf_checkpoint_structure_free(rf_checkpoint_structure *structure)
{
    rf_table_free(&structure->table);
    free(structure->item);
    for (int i = 0; i < RF_N_TEXTS; i++) {
        free(structure->text[i]);
    }
    *structure = (rf_checkpoint_structure){.blameless = structure->blameless};
}
