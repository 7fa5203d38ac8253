#include "common/store/safetensors.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define REMEDY "download or export it again"

/* What the reference implementation allows; a longer header is a damaged or hostile file. */
static const uint64_t max_header = 100000000;
enum { MAX_INDEX_BYTES = 256 << 20, LENGTH_BYTES = 8 };

struct rf_safetensors_file {
    char *path;
    void *map; /* NULL: not mapped by us */
    size_t bytes;
};

typedef struct dtype {
    const char *name;
    int bits; /* of an element */
    rf_type type;
} dtype;

static const dtype dtypes[] = {
    {"F32", 32, RF_F32},        {"BF16", 16, RF_BF16},      {"F16", 16, RF_F16},
    {"F64", 64, RF_F64},        {"I64", 64, RF_N_TYPES},    {"U64", 64, RF_N_TYPES},
    {"I32", 32, RF_N_TYPES},    {"U32", 32, RF_N_TYPES},    {"I16", 16, RF_N_TYPES},
    {"U16", 16, RF_N_TYPES},    {"I8", 8, RF_N_TYPES},      {"U8", 8, RF_N_TYPES},
    {"BOOL", 8, RF_N_TYPES},    {"F8_E4M3", 8, RF_N_TYPES}, {"F8_E5M2", 8, RF_N_TYPES},
    {"F8_E8M0", 8, RF_N_TYPES}, {"C64", 64, RF_N_TYPES},
};

/* --- One tensor of a header ------------------------------------------------------------------- */

/* "<file>: tensor <name>: what: download or export it again" */
static RF_PRINTF(3, 4) int refuse(const rf_safetensor *t, rf_error *err, const char *format, ...)
{
    char what[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return rf_error_set(err, RF_ERR, "%s: tensor %.200s: %s: " REMEDY, t->file, t->name, what);
}

static int read_dtype(rf_safetensor *t, int *bits, const json_t *entry, rf_error *err)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0] && name != NULL; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            t->dtype = dtypes[i].name;
            t->type = dtypes[i].type;
            *bits = dtypes[i].bits;
            return RF_OK;
        }
    }
    return name == NULL ? refuse(t, err, "dtype is missing or not a text")
                        : refuse(t, err, "dtype \"%.32s\" is unknown", name);
}

static int read_shape(rf_safetensor *t, const json_t *entry, rf_error *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > RF_SAFETENSORS_DIMS) {
        return refuse(t, err, "shape is missing or not a list of at most %d sizes",
                      RF_SAFETENSORS_DIMS);
    }
    t->n_dims = (int)json_array_size(shape);
    t->count = 1;
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) < 0) {
            return refuse(t, err, "shape[%d] is not a size", i);
        }
        t->shape[i] = (int64_t)json_integer_value(size);
        if (__builtin_mul_overflow(t->count, t->shape[i], &t->count)) {
            return refuse(t, err, "its shape has too many elements");
        }
    }
    return RF_OK;
}

static int read_offsets(rf_safetensor *t, int bits, const unsigned char *data, uint64_t data_bytes,
                        const json_t *entry, rf_error *err)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end)) {
        return refuse(t, err, "data_offsets is not a pair of numbers");
    }
    int64_t from = (int64_t)json_integer_value(begin), to = (int64_t)json_integer_value(end);
    int64_t bytes = 0;
    if (from < 0 || to < from || (uint64_t)to > data_bytes) {
        return refuse(t, err,
                      "its values lie at [%" PRId64 ", %" PRId64 ") and the file has %" PRIu64
                      " bytes of them%s",
                      from, to, data_bytes, from >= 0 && to >= from ? " (truncated?)" : "");
    }
    if (__builtin_mul_overflow(t->count, bits / 8, &bytes) || bytes != to - from) {
        return refuse(t, err,
                      "%" PRId64 " elements of %s do not take the %" PRId64
                      " bytes of its data_offsets",
                      t->count, t->dtype, to - from);
    }
    t->data = data + from;
    t->bytes = (size_t)bytes;
    return RF_OK;
}

static int read_tensor(rf_safetensor *t, const char *name, const json_t *entry,
                       const unsigned char *data, uint64_t data_bytes, rf_error *err)
{
    int bits = 0;
    t->name = rf_alloc_string(name);
    if (!json_is_object(entry)) {
        return refuse(t, err, "is not described");
    }
    RF_TRY(read_dtype(t, &bits, entry, err));
    RF_TRY(read_shape(t, entry, err));
    RF_TRY(read_offsets(t, bits, data, data_bytes, entry, err));
    return json_object_size(entry) == 3 /* these three */
               ? RF_OK
               : refuse(t, err, "has fields beside dtype, shape and data_offsets");
}

/* --- A header --------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const rf_safetensor *x = a, *y = b;
    if (x->data != y->data) {
        return x->data < y->data ? -1 : 1;
    }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The values of a file follow each other from its first byte to its last. */
static int check_cover(rf_safetensor *tensor, int64_t n, const unsigned char *data,
                       uint64_t data_bytes, const char *path, rf_error *err)
{
    const unsigned char *at = data;
    if (n > 0) {
        qsort(tensor, (size_t)n, sizeof *tensor, by_place);
    }
    for (int64_t i = 0; i < n; i++) {
        if (tensor[i].data != at) {
            bool overlap = tensor[i].data < at;
            return rf_error_set(
                err, RF_ERR, "%s: tensor %.200s: %s tensor %.200s: " REMEDY, path, tensor[i].name,
                overlap ? "overlaps with" : "bytes of no tensor lie before it, after",
                i > 0 ? tensor[i - 1].name : "(none)");
        }
        at += tensor[i].bytes;
    }
    if ((uint64_t)(at - data) != data_bytes) {
        return rf_error_set(err, RF_ERR,
                            "%s: %" PRIu64 " bytes behind its tensors belong to none: " REMEDY,
                            path, data_bytes - (uint64_t)(at - data));
    }
    return RF_OK;
}

static int check_metadata(const json_t *metadata, const char *path, rf_error *err)
{
    bool ok = json_is_object(metadata);
    for (void *at = ok ? json_object_iter((json_t *)metadata) : NULL; at != NULL;
         at = json_object_iter_next((json_t *)metadata, at)) {
        ok = ok && json_is_string(json_object_iter_value(at));
    }
    return ok ? RF_OK
              : rf_error_set(err, RF_ERR, "%s: __metadata__ is not an object of texts: " REMEDY,
                             path);
}

/* Appends the tensors that the header describes to out. */
static int read_header(rf_safetensors *out, json_t *root, const unsigned char *data,
                       uint64_t data_bytes, const char *path, rf_error *err)
{
    const int64_t first = out->n;
    out->tensor =
        rf_realloc(out->tensor, (size_t)first + json_object_size(root), sizeof *out->tensor);
    for (void *at = json_object_iter(root); at != NULL; at = json_object_iter_next(root, at)) {
        const char *name = json_object_iter_key(at);
        const json_t *entry = json_object_iter_value(at);
        if (strcmp(name, "__metadata__") == 0) {
            RF_TRY(check_metadata(entry, path, err));
            continue;
        }
        rf_safetensor *t = &out->tensor[out->n++];
        *t = (rf_safetensor){.file = path};
        RF_TRY(read_tensor(t, name, entry, data, data_bytes, err));
    }
    return check_cover(out->tensor + first, out->n - first, data, data_bytes, path, err);
}

static int scan(rf_safetensors *out, const unsigned char *map, size_t bytes, const char *path,
                rf_error *err)
{
    uint64_t length = 0;
    if (bytes < LENGTH_BYTES) {
        return rf_error_set(err, RF_ERR, "%s: has %zu bytes, too few for safetensors: " REMEDY,
                            path, bytes);
    }
    memcpy(&length, map, sizeof length);
    if (length > max_header) {
        return rf_error_set(err, RF_ERR,
                            "%s: a header of %" PRIu64 " bytes, at most %" PRIu64
                            " are allowed: not a safetensors file, or damaged: " REMEDY,
                            path, length, max_header);
    }
    if (length > bytes - LENGTH_BYTES) {
        return rf_error_set(
            err, RF_ERR, "%s: truncated: a header of %" PRIu64 " bytes in a file of %zu: " REMEDY,
            path, length, bytes);
    }
    const char *text = (const char *)map + LENGTH_BYTES;
    const unsigned char *data = map + LENGTH_BYTES + length;
    json_error_t where;
    json_t *root = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &where);
    int rc = RF_OK;
    if (!json_is_object(root)) {
        rc = rf_error_set(err, RF_ERR, "%s: its header is not a JSON object (%s): " REMEDY, path,
                          root == NULL ? where.text : "another value");
    } else {
        rc = read_header(out, root, data, bytes - LENGTH_BYTES - (size_t)length, path, err);
    }
    json_decref(root);
    return rc;
}

/* --- A set ------------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const rf_safetensor *)a)->name, ((const rf_safetensor *)b)->name);
}

static int sort_by_name(rf_safetensors *set, rf_error *err)
{
    if (set->n > 0) {
        qsort(set->tensor, (size_t)set->n, sizeof *set->tensor, by_name);
    }
    for (int64_t i = 1; i < set->n; i++) {
        const rf_safetensor *t = &set->tensor[i];
        if (strcmp(t[-1].name, t->name) == 0) {
            return rf_error_set(err, RF_ERR, "tensor %.200s lies in %s and in %s: " REMEDY, t->name,
                                t[-1].file, t->file);
        }
    }
    return RF_OK;
}

int rf_safetensors_scan(rf_safetensors *out, const void *data, size_t bytes, const char *origin,
                        rf_error *err)
{
    *out = (rf_safetensors){0};
    RF_TRY(scan(out, data, bytes, origin, err));
    return sort_by_name(out, err);
}

const rf_safetensor *rf_safetensors_find(const rf_safetensors *set, const char *name)
{
    const rf_safetensor key = {.name = (char *)name};
    return set->n > 0 ? bsearch(&key, set->tensor, (size_t)set->n, sizeof key, by_name) : NULL;
}

void rf_safetensors_forget(const rf_safetensor *tensor, size_t first, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)tensor->data + first) / page * page;
    uintptr_t end = ((uintptr_t)tensor->data + first + bytes) / page * page;
    if (end > begin) {
        madvise((void *)begin, end - begin, MADV_DONTNEED); /* a hint: failing costs nothing */
    }
}

void rf_safetensors_close(rf_safetensors *set)
{
    for (int64_t i = 0; i < set->n; i++) {
        free(set->tensor[i].name);
    }
    for (int64_t i = 0; i < set->n_files; i++) {
        if (set->file[i].map != NULL) {
            munmap(set->file[i].map, set->file[i].bytes);
        }
        free(set->file[i].path);
    }
    free(set->tensor);
    free(set->file);
    *set = (rf_safetensors){0};
}

/* --- Files ------------------------------------------------------------------------------------ */

static int map_file(struct rf_safetensors_file *file, rf_error *err)
{
    struct stat status;
    int rc = RF_OK;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        rc = rf_error_system(err, errno, file->path, "cannot open");
    } else if (!S_ISREG(status.st_mode)) {
        rc = rf_error_set(err, RF_ERR, "%s: is not a regular file: name a safetensors file",
                          file->path);
    } else if (status.st_size > 0) {
        void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            rc = rf_error_set(err, RF_ERR, "%s: cannot map: %s", file->path, strerror(errno));
        } else {
            file->map = map;
            file->bytes = (size_t)status.st_size;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

static int add_file(rf_safetensors *set, const char *path, rf_error *err)
{
    set->file = rf_realloc(set->file, (size_t)set->n_files + 1, sizeof *set->file);
    struct rf_safetensors_file *file = &set->file[set->n_files++];
    *file = (struct rf_safetensors_file){.path = rf_alloc_string(path)};
    RF_TRY(map_file(file, err));
    return scan(set, file->map, file->bytes, file->path, err);
}

/* --- Shards ----------------------------------------------------------------------------------- */

static int check_shard_name(const char *name, const char *index, rf_error *err)
{
    if (name != NULL && name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL) {
        return RF_OK;
    }
    return rf_error_set(err, RF_ERR,
                        "%s: weight_map names \"%.100s\", which is no file beside it: " REMEDY,
                        index, name != NULL ? name : "(not a text)");
}

static bool has_file(const rf_safetensors *set, const char *path)
{
    for (int64_t i = 0; i < set->n_files; i++) {
        if (strcmp(set->file[i].path, path) == 0) {
            return true;
        }
    }
    return false;
}

static int open_shards(rf_safetensors *out, json_t *map, const char *folder, const char *index,
                       rf_error *err)
{
    for (void *at = json_object_iter(map); at != NULL; at = json_object_iter_next(map, at)) {
        const char *name = json_string_value(json_object_iter_value(at));
        RF_TRY(check_shard_name(name, index, err));
        char *path = rf_alloc_format("%s/%s", folder, name);
        int rc = has_file(out, path) ? RF_OK : add_file(out, path, err);
        free(path);
        RF_TRY(rc);
    }
    return sort_by_name(out, err);
}

static int compare_with_index(const rf_safetensors *set, json_t *map, const char *index,
                              rf_error *err)
{
    for (int64_t i = 0; i < set->n; i++) {
        const rf_safetensor *t = &set->tensor[i];
        const char *file = strrchr(t->file, '/') + 1;
        const char *wanted = json_string_value(json_object_get(map, t->name));
        if (wanted == NULL || strcmp(wanted, file) != 0) {
            return rf_error_set(err, RF_ERR,
                                "%s: tensor %.200s lies in %s and the index says %s: " REMEDY,
                                index, t->name, file, wanted != NULL ? wanted : "nothing");
        }
    }
    for (void *at = json_object_iter(map); at != NULL; at = json_object_iter_next(map, at)) {
        if (rf_safetensors_find(set, json_object_iter_key(at)) == NULL) {
            return rf_error_set(err, RF_ERR, "%s: tensor %.200s is missing from %s: " REMEDY, index,
                                json_object_iter_key(at),
                                json_string_value(json_object_iter_value(at)));
        }
    }
    return RF_OK;
}

static int open_index(rf_safetensors *out, const char *index, const char *folder, rf_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    json_error_t where;
    RF_TRY(rf_file_read(&text, &bytes, index, MAX_INDEX_BYTES, err));
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    json_t *map = json_object_get(root, "weight_map");
    int rc = RF_OK;
    if (!json_is_object(map)) {
        rc = rf_error_set(err, RF_ERR, "%s: %s: " REMEDY, index,
                          root == NULL ? where.text : "weight_map is missing or not an object");
        goto out;
    }
    RF_TRY_OUT(open_shards(out, map, folder, index, err));
    RF_TRY_OUT(compare_with_index(out, map, index, err));
out:
    json_decref(root);
    free(text);
    return rc;
}

static int open_folder(rf_safetensors *out, const char *path, rf_error *err)
{
    char *single = rf_alloc_format("%s/model.safetensors", path);
    char *index = rf_alloc_format("%s/model.safetensors.index.json", path);
    int rc = rf_path_exists(single)  ? add_file(out, single, err)
             : rf_path_exists(index) ? open_index(out, index, path, err)
                                     : rf_error_set(err, RF_ERR,
                                                    "%s: has neither model.safetensors nor "
                                                    "model.safetensors.index.json: name a model's "
                                                    "folder with weights in this format",
                                                    path);
    free(single);
    free(index);
    return rc;
}

int rf_safetensors_open(rf_safetensors *out, const char *path, rf_error *err)
{
    struct stat status;
    *out = (rf_safetensors){0};
    if (stat(path, &status) != 0) {
        return rf_error_system(err, errno, path, "cannot open");
    }
    RF_TRY(S_ISDIR(status.st_mode) ? open_folder(out, path, err) : add_file(out, path, err));
    return sort_by_name(out, err);
}
