#include "common/base/file.h"
#include "data/convert/convert_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_CONFIG_BYTES = 16 << 20 };

/* --- Shared by import and export -------------------------------------------------------------- */

void rf_convert_say(const rf_convert_options *options, const char *format, ...)
{
    char line[1024];
    if (options->note == NULL) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    options->note(line);
}

/* --- Import ----------------------------------------------------------------------------------- */

typedef struct import {
    const char *folder;
    const rf_convert_options *options;
    rf_model_config config; /* of the folder, then of the checkpoint */
    rf_safetensors set;
    rf_tokenizer *tokenizer;
    rf_vocabulary vocabulary;
    rf_type type;  /* of the checkpoint */
    float *values; /* scratch [capacity] */
    int64_t capacity;
} import;

static int read_config(import *im, rf_error *err)
{
    char path[RF_CONVERT_PATH], *text = NULL;
    size_t bytes = 0;
    int rc = rf_file_join(path, sizeof path, im->folder, "config.json", err);
    if (rc == RF_OK) {
        rc = rf_file_read(&text, &bytes, path, MAX_CONFIG_BYTES, err);
    }
    if (rc == RF_OK) {
        rc = rf_model_config_parse(&im->config, text, bytes, path, err);
    }
    free(text);
    return rc;
}

/* name: a folder or a file. Rows are counted in a plain tokenizer.json: there must be one. */
static int find_tokenizer(const char *name, bool is_own, rf_error *err)
{
    char path[RF_CONVERT_PATH];
    struct stat status;
    const size_t n = strlen(name);
    if (stat(name, &status) != 0) {
        return RF_OK; /* rf_tokenizer_load knows what to say */
    }
    if (!S_ISDIR(status.st_mode)) {
        bool is_packed = n > 3 && strcmp(name + n - 3, ".gz") == 0;
        return is_packed
                   ? rf_error_set(err, RF_ERR, "%s: import needs it uncompressed: gunzip it", name)
                   : RF_OK;
    }
    int rc = rf_file_join(path, sizeof path - 3, name, "tokenizer.json", err);
    if (rc != RF_OK || rf_file_exists(path)) {
        return rc;
    }
    strcat(path, ".gz");
    if (rf_file_exists(path)) {
        return rf_error_set(err, RF_ERR, "%s: import needs it uncompressed: gunzip it", path);
    }
    path[strlen(path) - 3] = '\0';
    return rf_error_set(err, RF_ERR, "%s: is missing: %s", path,
                        is_own ? "give --tokenizer byte or another folder"
                               : "save the tokenizer as a fast one (save_pretrained)");
}

static int read_tokenizer(import *im, const char *name, rf_error *err)
{
    int rc = find_tokenizer(name, name == im->folder, err);
    return rc == RF_OK ? rf_tokenizer_load(&im->tokenizer, name, err) : rc;
}

static void tell_rows(const import *im)
{
    const rf_vocabulary *v = &im->vocabulary;
    int32_t mask = rf_tokenizer_specials(im->tokenizer)->mask;
    for (int i = 0; i < v->n_fresh; i++) {
        rf_convert_say(
            im->options,
            "token %s takes the spare row %d, set to the mean of the %" PRId64 " used rows",
            v->fresh[i] == mask ? "<|mask|>" : "<|beginoftext|>", v->fresh[i], v->n_used);
    }
    if (v->n_rows > v->n_file) {
        rf_convert_say(im->options,
                       "the table grows from %" PRId64 " to %" PRId64
                       " rows: new rows are the mean of the %" PRId64 " used ones",
                       v->n_file, v->n_rows, v->n_used);
    }
}

/* Where in a matrix [V,D] fresh rows lie, their values are set. */
static void fill_fresh_rows(const import *im, const rf_tensor *t, int64_t first, int64_t n)
{
    const rf_vocabulary *v = &im->vocabulary;
    const float *mean = t->role == RF_ROLE_EMBED ? v->embed : v->head;
    int64_t width = t->shape[1], end = first + n;
    for (int64_t row = first / width; mean != NULL && row * width < end; row++) {
        if (!rf_vocabulary_is_fresh(v, row)) {
            continue;
        }
        int64_t from = row * width > first ? row * width : first;
        int64_t to = (row + 1) * width < end ? (row + 1) * width : end;
        memcpy(im->values + (from - first), mean + (from - row * width),
               (size_t)(to - from) * sizeof *mean);
    }
}

static int reserve(import *im, int64_t n, rf_error *err)
{
    if (n <= im->capacity) {
        return RF_OK;
    }
    free(im->values);
    im->values = malloc((size_t)n * sizeof *im->values);
    im->capacity = im->values != NULL ? n : 0;
    return im->values != NULL ? RF_OK : rf_error_set(err, RF_ERR, "no memory for converting");
}

/* rf_checkpoint_source */
static int fetch(void *user, void *out, const rf_tensor *tensor, int64_t first, int64_t n,
                 rf_error *err)
{
    import *im = user;
    const rf_safetensor *t = rf_safetensors_find(&im->set, tensor->name);
    size_t element = rf_type_bytes(t->type);
    int rc = reserve(im, n, err);
    if (rc != RF_OK) {
        return rc;
    }
    int64_t stored = t->count - first < n ? t->count - first : n;
    if (stored > 0) {
        rf_storage_decode(im->values, t->data + (size_t)first * element, t->type, stored);
        rf_safetensors_forget(t, (size_t)first * element, (size_t)stored * element);
    }
    if (tensor->role == RF_ROLE_EMBED || tensor->role == RF_ROLE_HEAD) {
        fill_fresh_rows(im, tensor, first, n);
    }
    int64_t bad = rf_storage_encode(out, im->type, im->values, n);
    if (bad >= 0) {
        bool finite = isfinite(im->values[bad]);
        return rf_error_set(err, RF_ERR, "%s: tensor %s: element %" PRId64 " is %g%s", t->file,
                            tensor->name, first + bad, (double)im->values[bad],
                            finite ? ", too large for bf16: use --dtype f32"
                                   : ": the model is damaged");
    }
    return RF_OK;
}

static int open_source(import *im, rf_error *err)
{
    rf_type type = RF_F32;
    const char *name = im->options->tokenizer != NULL ? im->options->tokenizer : im->folder;
    int rc = read_config(im, err);
    if (rc == RF_OK) {
        rc = rf_safetensors_open(&im->set, im->folder, err);
    }
    if (rc == RF_OK) {
        rc = rf_convert_match(&type, &im->set, &im->config, im->folder, err);
    }
    if (rc == RF_OK) {
        rc = read_tokenizer(im, name, err);
    }
    if (rc == RF_OK) {
        rc = rf_vocabulary_plan(&im->vocabulary, im->tokenizer, name, im->config.vocab_size, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    im->type = im->options->type < RF_N_TYPES ? im->options->type : type;
    im->config.vocab_size = im->vocabulary.n_rows;
    tell_rows(im);
    return rf_vocabulary_average(&im->vocabulary, &im->set, err);
}

int rf_convert_import(const char *folder, const char *path, const rf_convert_options *options,
                      rf_error *err)
{
    RF_ASSERT(options->type != RF_F16 && options->type != RF_F64);
import im = {.folder = folder, .options = options };
    int rc = open_source(&im, err);
    if (rc != RF_OK) {
        goto out;
    }
    rf_checkpoint_info info = {.progress = {.best_valid_loss = (double)INFINITY},
                               .corpora = "[]",
                               .written_by = "refusion-convert " RF_VERSION,
                               .tokenizer = im.tokenizer};
    rc = rf_checkpoint_write(path, &im.config, im.type, fetch, &im, &info, err);
    if (rc == RF_OK) {
        rf_convert_say(options, "%s: %s with %" PRId64 " tokens, %s", path, im.config.architecture,
                       im.config.vocab_size, rf_type_name(im.type));
    }
out:
    rf_safetensors_close(&im.set);
    rf_tokenizer_free(im.tokenizer);
    rf_vocabulary_free(&im.vocabulary);
    free(im.values);
    return rc;
}
