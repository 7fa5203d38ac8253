#include "data/corpus/corpus_file.h"

#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

int rf_corpus_file_damaged(const rf_corpus *c, const char *what, rf_error *err)
{
    return rf_error_set(err, RF_ERR,
                        "%s: %s: the file is damaged, build it again with refusion-data build",
                        c->path, what);
}

/* --- Datasets --------------------------------------------------------------------------------- */

/* The dataset `name` if it is one-dimensional, of integers of `element` bytes and n long (n < 0:
 * any length, stored in *n_found). *offset: where its bytes lie in the file, -1 if compressed. */
static hid_t open_dataset(const rf_corpus *c, const char *name, size_t element, int64_t n,
                          int64_t *n_found, int64_t *offset)
{
    hid_t dataset =
        H5Lexists(c->file, name, H5P_DEFAULT) > 0 ? H5Dopen2(c->file, name, H5P_DEFAULT) : -1;
    if (dataset < 0) {
        return -1;
    }
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    hid_t how = H5Dget_create_plist(dataset);
    hsize_t dims = 0;
    bool good = H5Tget_class(type) == H5T_INTEGER && H5Tget_size(type) == element &&
                H5Tget_order(type) != H5T_ORDER_BE && H5Sget_simple_extent_ndims(space) == 1 &&
                H5Sget_simple_extent_dims(space, &dims, NULL) == 1 &&
                dims <= (hsize_t)INT64_MAX / 8 && (n < 0 || dims == (hsize_t)n);
    *n_found = (int64_t)dims;
    *offset = -1;
    if (good && H5Pget_layout(how) == H5D_CONTIGUOUS && H5Pget_external_count(how) == 0) {
        haddr_t at = H5Dget_offset(dataset);
        int64_t bytes = (int64_t)(dims * element);
        good = at <= (haddr_t)c->file_bytes && bytes <= c->file_bytes - (int64_t)at;
        *offset = (int64_t)at;
    } else if (H5Pget_layout(how) != H5D_CHUNKED) {
        good = false;
    }
    H5Pclose(how);
    H5Sclose(space);
    H5Tclose(type);
    if (!good) {
        H5Dclose(dataset);
        return -1;
    }
    return dataset;
}

static hid_t memory_type(size_t element)
{
    return element == 1 ? H5T_NATIVE_UINT8 : element == 4 ? H5T_NATIVE_INT32 : H5T_NATIVE_INT64;
}

/* Maps [offset, offset+bytes) of the file. Datasets start on multiples of 64 bytes in files of the
 * writer; others are read into memory instead. */
static void map_array(rf_corpus_array *out, const rf_corpus *c, int64_t offset, size_t bytes)
{
    const int64_t page = sysconf(_SC_PAGESIZE);
    int64_t begin = offset / page * page;
    size_t map_bytes = bytes + (size_t)(offset - begin);
    if (offset % 8 != 0) {
        return;
    }
    void *map = mmap(NULL, map_bytes, PROT_READ, MAP_SHARED, c->fd, (off_t)begin);
    if (map != MAP_FAILED) {
        out->map = map;
        out->map_bytes = map_bytes;
        out->data = (const char *)map + (offset - begin);
    }
}

/* n < 0: the length is what the file says, at most max; *n_found gets it. */
static int load_array(rf_corpus_array *out, const rf_corpus *c, const char *name, size_t element,
                      int64_t n, int64_t max, int64_t *n_found, rf_error *err)
{
    char what[96];
    snprintf(what, sizeof what, "dataset /%s is missing or not as the attributes say", name);
    int64_t offset;
    hid_t dataset = open_dataset(c, name, element, n, n_found, &offset);
    if (dataset < 0 || (n < 0 && *n_found > max)) {
        if (dataset >= 0) {
            H5Dclose(dataset);
        }
        return rf_corpus_file_damaged(c, what, err);
    }
    size_t bytes = (size_t)*n_found * element;
    int rc = RF_OK;
    if (offset >= 0 && bytes > 0) {
        map_array(out, c, offset, bytes);
    }
    if (out->data == NULL) {
        /* Compressed data cannot be much smaller than 1/1032 of what it becomes (deflate). */
        bool plausible = offset >= 0 || (int64_t)(bytes / 1100) <= c->file_bytes;
        out->memory = plausible ? malloc(bytes + 1) : NULL;
        out->data = out->memory;
        if (!plausible) {
            rc = rf_corpus_file_damaged(c, what, err);
        } else if (out->memory == NULL) {
            rc = rf_error_set(err, RF_ERR, "%s: no memory for its index of %zu bytes", c->path,
                              bytes);
        } else if (bytes > 0 && H5Dread(dataset, memory_type(element), H5S_ALL, H5S_ALL,
                                        H5P_DEFAULT, out->memory) < 0) {
            snprintf(what, sizeof what, "dataset /%s cannot be read", name);
            rc = rf_corpus_file_damaged(c, what, err);
        }
    }
    H5Dclose(dataset);
    return rc;
}

void rf_corpus_file_free_array(rf_corpus_array *a)
{
    if (a->map != NULL) {
        munmap(a->map, a->map_bytes);
    }
    free(a->memory);
    *a = (rf_corpus_array){0};
}

/* --- Opening ---------------------------------------------------------------------------------- */

static int open_file(rf_corpus *c, rf_error *err)
{
    struct stat status;
    c->fd = open(c->path, O_RDONLY | O_CLOEXEC);
    if (c->fd < 0 || fstat(c->fd, &status) != 0) {
        return rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot open: %s", c->path,
                            strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return rf_error_set(err, RF_ERR, "%s: is not a regular file: give a corpus file", c->path);
    }
    c->file_bytes = (int64_t)status.st_size;
    if (H5Fis_hdf5(c->path) <= 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: is not an HDF5 file: make a corpus with refusion-data build",
                            c->path);
    }
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
#if H5_VERSION_GE(1, 10, 7)
    /* A corpus never changes in place; locks only fail on network file systems. */
    H5Pset_file_locking(access, false, true);
#endif
    c->file = H5Fopen(c->path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (c->file < 0) {
        return rf_corpus_file_damaged(c, "is truncated or its structure is broken", err);
    }
    return RF_OK;
}

static int check_format(const rf_corpus *c, rf_error *err)
{
    char *format = NULL;
    size_t bytes;
    int64_t version;
    uint8_t complete;
    int rc = RF_OK;
    if (rf_corpus_file_get_text(c->file, "format", &format, &bytes) < 0 ||
        strcmp(format, RF_CORPUS_FORMAT) != 0) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: is an HDF5 file but no corpus: make one with refusion-data build",
                          c->path);
    } else if (rf_corpus_file_get(c->file, "version", H5T_NATIVE_INT64, &version, 1) < 0) {
        rc = rf_corpus_file_damaged(c, "has no format version", err);
    } else if (version != RF_CORPUS_VERSION) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: has format version %lld, this program reads version %d: build it "
                          "again with this version of refusion-data",
                          c->path, (long long)version, RF_CORPUS_VERSION);
    } else if (rf_corpus_file_get(c->file, "complete", H5T_NATIVE_UINT8, &complete, 1) < 0 ||
               complete != 1) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: was never finished: build it again with refusion-data build",
                          c->path);
    }
    free(format);
    return rc;
}

static int load_tokenizer(rf_corpus *c, rf_error *err)
{
    rf_corpus_array text = {0};
    int64_t n;
    uint64_t hash;
    int rc = load_array(&text, c, "tokenizer", 1, -1, (int64_t)1 << 30, &n, err);
    if (rc == RF_OK) {
        rc = rf_tokenizer_parse(&c->tokenizer, text.data, (size_t)n, c->path, err);
    }
    if (rc == RF_OK &&
        (rf_corpus_file_get(c->file, "tokenizer_hash", H5T_NATIVE_UINT64, &hash, 1) < 0 ||
         hash != rf_tokenizer_hash(c->tokenizer))) {
        rc = rf_corpus_file_damaged(
            c, "the tokenizer does not have the hash that the attributes say", err);
    }
    rf_corpus_file_free_array(&text);
    return rc;
}

static bool parse_source(rf_corpus_source *out, const json_t *item)
{
    const json_t *name = json_object_get(item, "name"), *bytes = json_object_get(item, "bytes");
    const json_t *crc = json_object_get(item, "crc32"), *weight = json_object_get(item, "weight");
    if (!json_is_string(name) || !json_is_integer(bytes) || !json_is_integer(crc) ||
        !json_is_number(weight)) {
        return false;
    }
    out->name = strdup(json_string_value(name));
    out->bytes = json_integer_value(bytes);
    out->crc32 = (uint32_t)json_integer_value(crc);
    out->weight = json_number_value(weight);
    return out->name != NULL && isfinite(out->weight) && out->weight > 0;
}

/* Sources are in the attribute, their first samples in a dataset. */
static int load_sources(rf_corpus *c, rf_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    rf_corpus_array first = {0};
    json_t *list = NULL;
    if (rf_corpus_file_get_text(c->file, "sources", &text, &bytes) == 0) {
        list = json_loadb(text, bytes, 0, NULL);
    }
    int64_t n = (int64_t)json_array_size(list), n_found;
    int rc = n > 0 ? load_array(&first, c, "source_begin", 8, n + 1, 0, &n_found, err)
                   : rf_corpus_file_damaged(c, "the attribute sources is missing or broken", err);
    if (rc != RF_OK) {
        goto out;
    }
    const int64_t *begin = first.data;
    c->source = calloc((size_t)n, sizeof *c->source);
    bool good = c->source != NULL && begin[0] == 0 && begin[n] == c->n_samples;
    for (int64_t s = 0; s < n && good; s++) {
        c->n_sources = s + 1;
        good = parse_source(&c->source[s], json_array_get(list, (size_t)s)) &&
               begin[s] <= begin[s + 1];
        c->source[s].first = begin[s];
        c->source[s].n_samples = begin[s + 1] - begin[s];
    }
    if (!good) {
        rc = rf_corpus_file_damaged(c, "the list of sources does not fit the samples", err);
    } else if (crc32_z(0, first.data, (size_t)(n + 1) * 8) != c->crc[3]) {
        rc = rf_corpus_file_damaged(c, "dataset /source_begin has a wrong checksum", err);
    }
out:
    rf_corpus_file_free_array(&first);
    json_decref(list);
    free(text);
    return rc;
}

/* Checksums are right; lengths of samples and prompts make sense together; offsets end where the
 * tokens do. */
static int check_index(const rf_corpus *c, rf_error *err)
{
    const int64_t *begin = c->begins.data;
    const int32_t *prompt = c->prompts.data;
    size_t n_samples = (size_t)c->n_samples;
    if (crc32_z(0, c->begins.data, (n_samples + 1) * sizeof *begin) != c->crc[1] ||
        crc32_z(0, c->prompts.data, n_samples * sizeof *prompt) != c->crc[2]) {
        return rf_corpus_file_damaged(c, "the index of samples has a wrong checksum", err);
    }
    bool good = begin[0] == 0 && begin[c->n_samples] == c->n_tokens;
    for (int64_t i = 0; i < c->n_samples && good; i++) {
        good = begin[i] <= begin[i + 1] && begin[i + 1] <= c->n_tokens && prompt[i] >= 1 &&
               prompt[i] < begin[i + 1] - begin[i];
    }
    return good ? RF_OK : rf_corpus_file_damaged(c, "the index of samples contradicts itself", err);
}

int rf_corpus_file_load(rf_corpus *c, rf_error *err)
{
    int rc = open_file(c, err);
    if (rc == RF_OK) {
        rc = check_format(c, err);
    }
    if (rc == RF_OK) {
        bool good =
            rf_corpus_file_get(c->file, "n_samples", H5T_NATIVE_INT64, &c->n_samples, 1) >= 0 &&
            rf_corpus_file_get(c->file, "n_tokens", H5T_NATIVE_INT64, &c->n_tokens, 1) >= 0 &&
            rf_corpus_file_get(c->file, "crc32", H5T_NATIVE_UINT32, c->crc, 4) >= 0 &&
            c->n_samples >= 1 && c->n_tokens >= 2 && c->n_samples <= c->n_tokens / 2;
        rc = good ? RF_OK
                  : rf_corpus_file_damaged(c, "the counts in the attributes are missing or wrong",
                                           err);
    }
    if (rc == RF_OK) {
        rc = load_tokenizer(c, err);
    }
    if (rc == RF_OK) {
        rc = load_sources(c, err);
    }
    int64_t n_found;
    if (rc == RF_OK) {
        rc = load_array(&c->begins, c, "sample_begin", 8, c->n_samples + 1, 0, &n_found, err);
    }
    if (rc == RF_OK) {
        rc = load_array(&c->prompts, c, "prompt_len", 4, c->n_samples, 0, &n_found, err);
    }
    if (rc == RF_OK) {
        c->tokens = open_dataset(c, "tokens", 4, c->n_tokens, &n_found, &c->tokens_offset);
        rc = c->tokens >= 0
                 ? check_index(c, err)
                 : rf_corpus_file_damaged(c, "dataset /tokens is missing or too short", err);
    }
    return rc;
}

bool rf_corpus_is_checkpoint(const char *path)
{
    rf_corpus_file_quiet();
    hid_t file = H5Fis_hdf5(path) > 0 ? H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT) : -1;
    bool found = file >= 0 && H5Lexists(file, "params", H5P_DEFAULT) > 0;
    if (file >= 0) {
        H5Fclose(file);
    }
    return found;
}
