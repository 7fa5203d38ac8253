#include "data/corpus/corpus_file.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/store/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

/* Is the dataset `name` one-dimensional, of integers of `element` bytes and n long (n < 0: any
 * length)? *n_found: its length. *offset: where its bytes lie in the file, -1 if compressed. */
static bool find_dataset(rf_corpus *c, const char *name, size_t element, int64_t n,
                         int64_t *n_found, int64_t *offset)
{
    static const size_t bytes_of[RF_HDF5_N_TYPES + 1] = {
        [RF_HDF5_U8] = 1,  [RF_HDF5_I8] = 1,  [RF_HDF5_I32] = 4,
        [RF_HDF5_U32] = 4, [RF_HDF5_I64] = 8, [RF_HDF5_U64] = 8};
    rf_hdf5_dataset is;
    if (rf_hdf5_describe(&is, &c->file, name, NULL) != RF_OK) {
        return false;
    }
    *n_found = is.shape[0];
    *offset = is.offset;
    bool fits = bytes_of[is.type] == element && is.n_dims == 1 && is.shape[0] >= 0 &&
                is.shape[0] <= INT64_MAX / 8 && (n < 0 || is.shape[0] == n);
    int64_t bytes = fits ? is.shape[0] * (int64_t)element : 0;
    return fits && (is.in_chunks || (is.offset >= 0 && is.offset <= c->file_bytes &&
                                     bytes <= c->file_bytes - is.offset));
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
static int load_array(rf_corpus_array *out, rf_corpus *c, const char *name, size_t element,
                      int64_t n, int64_t max, int64_t *n_found, rf_error *err)
{
    char what[96];
    snprintf(what, sizeof what, "dataset /%s is missing or not as the attributes say", name);
    int64_t offset;
    if (!find_dataset(c, name, element, n, n_found, &offset) || (n < 0 && *n_found > max)) {
        return rf_corpus_file_damaged(c, what, err);
    }
    size_t bytes = (size_t)*n_found * element;
    if (offset >= 0 && bytes > 0) {
        map_array(out, c, offset, bytes);
    }
    if (out->data != NULL) {
        return RF_OK;
    }
    /* Compressed data cannot be much smaller than 1/1032 of what it becomes (deflate). */
    if (offset < 0 && (int64_t)(bytes / 1100) > c->file_bytes) {
        return rf_corpus_file_damaged(c, what, err);
    }
    out->data = out->memory = malloc(bytes + 1);
    if (out->memory == NULL) {
        return rf_error_set(err, RF_ERR, "%s: no memory for its index of %zu bytes", c->path,
                            bytes);
    }
    const rf_hdf5_type type = element == 1 ? RF_HDF5_U8 : element == 4 ? RF_HDF5_I32 : RF_HDF5_I64;
    if (bytes > 0 && rf_hdf5_read(out->memory, &c->file, name, type, 0, *n_found, NULL) != RF_OK) {
        snprintf(what, sizeof what, "dataset /%s cannot be read", name);
        return rf_corpus_file_damaged(c, what, err);
    }
    return RF_OK;
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
        return rf_error_system(err, errno, c->path, "cannot open");
    }
    if (!S_ISREG(status.st_mode)) {
        return rf_error_set(err, RF_ERR, "%s: is not a regular file: give a corpus file", c->path);
    }
    c->file_bytes = (int64_t)status.st_size;
    if (!rf_hdf5_is(c->path)) {
        return rf_error_set(err, RF_ERR,
                            "%s: is not an HDF5 file: make a corpus with refusion-data build",
                            c->path);
    }
    return rf_hdf5_open(&c->file, c->path, false, NULL) == RF_OK
               ? RF_OK
               : rf_corpus_file_damaged(c, "is truncated or its structure is broken", err);
}

/* Numbers that are an attribute of the file. */
static bool get(rf_corpus *c, const char *name, rf_hdf5_type type, int64_t n, void *value)
{
    return rf_hdf5_get(value, &c->file, "/", name, type, n, NULL) == RF_OK;
}

static int check_format(rf_corpus *c, bool *has_turns, rf_error *err)
{
    char *format = NULL;
    size_t bytes;
    int64_t version = 0;
    uint8_t complete;
    int rc = RF_OK;
    if (rf_hdf5_get_bytes(&format, &bytes, &c->file, "/", "format", NULL) != RF_OK ||
        strcmp(format, RF_CORPUS_FORMAT) != 0) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: is an HDF5 file but no corpus, or it is damaged: make one with "
                          "refusion-data build",
                          c->path);
    } else if (!get(c, "version", RF_HDF5_I64, 1, &version)) {
        rc = rf_corpus_file_damaged(c, "has no format version", err);
    } else if (version != RF_CORPUS_VERSION && version != RF_CORPUS_VERSION_TURNS) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: has format version %" PRId64 ", this program reads versions %d and "
                          "%d: build it again with this version of refusion-data",
                          c->path, version, RF_CORPUS_VERSION, RF_CORPUS_VERSION_TURNS);
    } else if (!get(c, "complete", RF_HDF5_U8, 1, &complete) || complete != 1) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: was never finished: build it again with refusion-data build",
                          c->path);
    }
    free(format);
    *has_turns = version == RF_CORPUS_VERSION_TURNS;
    return rc;
}

static int load_tokenizer(rf_corpus *c, rf_error *err)
{
    rf_corpus_array text = {0};
    int64_t n;
    uint64_t hash;
    int rc = RF_OK;
    RF_TRY_OUT(load_array(&text, c, "tokenizer", 1, -1, (int64_t)1 << 30, &n, err));
    RF_TRY_OUT(rf_tokenizer_parse(&c->tokenizer, text.data, (size_t)n, c->path, err));
    if (!get(c, "tokenizer_hash", RF_HDF5_U64, 1, &hash) ||
        hash != rf_tokenizer_hash(c->tokenizer)) {
        rc = rf_corpus_file_damaged(
            c, "the tokenizer does not have the hash that the attributes say", err);
    }
out:
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
    out->name = rf_alloc_string(json_string_value(name));
    out->bytes = json_integer_value(bytes);
    out->crc32 = (uint32_t)json_integer_value(crc);
    out->weight = json_number_value(weight);
    return isfinite(out->weight) && out->weight > 0;
}

/* Sources are in the attribute, their first samples in a dataset. */
static int load_sources(rf_corpus *c, rf_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    rf_corpus_array first = {0};
    json_t *list = NULL;
    if (rf_hdf5_get_bytes(&text, &bytes, &c->file, "/", "sources", NULL) == RF_OK) {
        list = json_loadb(text, bytes, 0, NULL);
    }
    int64_t n = (int64_t)json_array_size(list), n_found;
    int rc = n > 0 ? load_array(&first, c, "source_begin", 8, n + 1, 0, &n_found, err)
                   : rf_corpus_file_damaged(c, "the attribute sources is missing or broken", err);
    if (rc != RF_OK) {
        goto out;
    }
    const int64_t *begin = first.data;
    c->source = rf_alloc((size_t)n, sizeof *c->source);
    bool good = begin[0] == 0 && begin[n] == c->n_samples;
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

/* Do the turns from *t on make up sample i? *t becomes the next sample's first. */
static bool is_sample(const rf_corpus *c, int64_t i, int64_t *t)
{
    const int64_t *begin = c->begins.data, *turn = c->turns.data;
    const uint8_t *trained = c->trained.data;
    const int32_t prompt = ((const int32_t *)c->prompts.data)[i];
    const int64_t first = *t;
    while (*t + 1 < c->n_turns && turn[*t] < begin[i + 1]) {
        if (trained[*t] != 0 || trained[*t + 1] != 1 || turn[*t + 1] <= turn[*t] ||
            turn[*t + 2] <= turn[*t + 1]) {
            return false;
        }
        *t += 2;
    }
    bool is_whole =
        *t > first && turn[*t] == begin[i + 1] && turn[first + 1] - turn[first] == prompt;
    return is_whole && (prompt > 1 || *t - first == 2); /* a text has one answer */
}

static int load_turns(rf_corpus *c, rf_error *err)
{
    int64_t n_begins, n_found, t = 0;
    RF_TRY(load_array(&c->turns, c, "turn_begin", 8, -1, c->n_tokens + 1, &n_begins, err));
    if (n_begins < 3) {
        return rf_corpus_file_damaged(c, "dataset /turn_begin is too short", err);
    }
    c->n_turns = n_begins - 1;
    RF_TRY(load_array(&c->trained, c, "turn_trained", 1, c->n_turns, 0, &n_found, err));
    if (crc32_z(0, c->turns.data, (size_t)n_begins * 8) != c->crc[4] ||
        crc32_z(0, c->trained.data, (size_t)c->n_turns) != c->crc[5]) {
        return rf_corpus_file_damaged(c, "the index of turns has a wrong checksum", err);
    }
    bool good = *(const int64_t *)c->turns.data == 0;
    for (int64_t i = 0; i < c->n_samples && good; i++) {
        good = is_sample(c, i, &t);
    }
    return good && t == c->n_turns
               ? RF_OK
               : rf_corpus_file_damaged(c, "the turns contradict the index of samples", err);
}

int rf_corpus_file_load(rf_corpus *c, rf_error *err)
{
    int64_t n_found;
    bool has_turns;
    RF_TRY(open_file(c, err));
    RF_TRY(check_format(c, &has_turns, err));
    if (!get(c, "n_samples", RF_HDF5_I64, 1, &c->n_samples) ||
        !get(c, "n_tokens", RF_HDF5_I64, 1, &c->n_tokens) ||
        !get(c, "crc32", RF_HDF5_U32, has_turns ? RF_CORPUS_CRCS_TURNS : RF_CORPUS_CRCS, c->crc) ||
        c->n_samples < 1 || c->n_tokens < 2 || c->n_samples > c->n_tokens / 2) {
        return rf_corpus_file_damaged(c, "the counts in the attributes are missing or wrong", err);
    }
    RF_TRY(load_tokenizer(c, err));
    if (rf_hdf5_get_text(c->date, sizeof c->date, &c->file, "/", "date", NULL) != RF_OK) {
        c->date[0] = '\0'; /* as most have it */
    }
    RF_TRY(load_sources(c, err));
    RF_TRY(load_array(&c->begins, c, "sample_begin", 8, c->n_samples + 1, 0, &n_found, err));
    RF_TRY(load_array(&c->prompts, c, "prompt_len", 4, c->n_samples, 0, &n_found, err));
    if (!find_dataset(c, "tokens", 4, c->n_tokens, &n_found, &c->tokens_offset)) {
        return rf_corpus_file_damaged(c, "dataset /tokens is missing or too short", err);
    }
    RF_TRY(check_index(c, err));
    return has_turns ? load_turns(c, err) : RF_OK;
}

bool rf_corpus_is_checkpoint(const char *path)
{
    rf_hdf5 file = {0};
    char format[64];
    bool found = rf_hdf5_is(path) && rf_hdf5_open(&file, path, false, NULL) == RF_OK;
    /* Damage may leave only one of the two readable. */
    found =
        found && (rf_hdf5_exists(&file, "params") ||
                  (rf_hdf5_get_text(format, sizeof format, &file, "/", "format", NULL) == RF_OK &&
                   strcmp(format, RF_CHECKPOINT_FORMAT) == 0));
    rf_hdf5_drop(&file);
    return found;
}
