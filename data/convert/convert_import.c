#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "data/convert/convert_private.h"

#include <dirent.h>
#include <errno.h>
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

const char *rf_convert_size(char *out, const char *path)
{
    struct stat status;
    out[0] = '\0';
    if (stat(path, &status) == 0 && S_ISREG(status.st_mode)) {
        snprintf(out, RF_CONVERT_SIZE, "%.1f MB ", (double)status.st_size / 1e6);
    }
    return out;
}

/* --- Import ----------------------------------------------------------------------------------- */

typedef struct importer {
    const char *folder;
    const rf_convert_options *options;
    rf_model_config config; /* of the folder, then of the checkpoint */
    rf_safetensors set;
    rf_tokenizer *tokenizer;
    rf_vocabulary vocabulary;
    rf_type type;  /* of the checkpoint */
    float *values; /* scratch [capacity] */
    size_t capacity;
} importer;

static bool is_file(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Of the files that are read. */
static bool is_read(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot != NULL && (strcmp(dot, ".json") == 0 || strcmp(dot, ".safetensors") == 0);
}

/* What stands where a folder of a model should: a file, or files that were never fetched, or pipes: to open
 * one would wait for its writer. */
static int check_folder(const char *folder, rf_error *err)
{
    static const char pointer[] = "version https://git-lfs";
    char path[RF_CONVERT_PATH], head[sizeof pointer] = "";
    const struct dirent *entry;
    DIR *entries = opendir(folder);
    int rc = RF_OK;
    if (entries == NULL) {
        return errno == ENOTDIR ? rf_error_set(err, RF_ERR,
                                               "%s: is a file: import takes the folder of a model "
                                               "(config.json, *.safetensors)",
                                               folder)
                                : rf_error_system(err, errno, folder, "cannot open");
    }
    while (rc == RF_OK && (entry = readdir(entries)) != NULL) {
        FILE *file = NULL;
        if (rf_path_join(path, sizeof path, folder, entry->d_name, NULL) != RF_OK) {
            continue;
        }
        if (is_file(path)) {
            file = fopen(path, "rb");
        } else if (is_read(path) && rf_path_exists(path) && !rf_path_is_folder(path)) {
            rc = rf_error_set(err, RF_ERR, "%s: is not a file", path);
        }
        if (file != NULL && fread(head, 1, sizeof pointer - 1, file) == sizeof pointer - 1 &&
            memcmp(head, pointer, sizeof pointer - 1) == 0) {
            rc = rf_error_set(err, RF_ERR,
                              "%s: is a pointer of Git LFS, not the file: fetch it (git lfs pull)",
                              path);
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    closedir(entries);
    return rc;
}

static int read_config(importer *im, rf_error *err)
{
    char path[RF_CONVERT_PATH], *text = NULL;
    size_t bytes = 0;
    RF_TRY(rf_path_join(path, sizeof path, im->folder, "adapter_config.json", err));
    if (rf_path_exists(path)) {
        return rf_error_set(err, RF_ERR,
                            "%s: the folder holds adapters: give the checkpoint that they are for "
                            "with --base",
                            path);
    }
    RF_TRY(rf_path_join(path, sizeof path, im->folder, "config.json", err));
    RF_TRY(rf_file_read(&text, &bytes, path, MAX_CONFIG_BYTES, err));
    rf_config_ignore ignore = {.name = im->options->ignored, .n = im->options->n_ignored};
    int rc = rf_model_config_parse_ignoring(&im->config, text, bytes, path, &ignore, err);
    free(text);
    if (rc == RF_OK && ignore.skipped[0] != '\0') {
        rf_convert_say(im->options, "%s: ignored: %s", path, ignore.skipped);
    }
    return rc;
}

/* A folder must have a tokenizer.json: from a vocabulary alone rf_tokenizer_load takes the
 * tokenizer for one of GPT-2. */
static int read_tokenizer(importer *im, rf_error *err)
{
    const char *given = im->options->tokenizer, *name = given != NULL ? given : im->folder;
    char path[RF_CONVERT_PATH], packed[RF_CONVERT_PATH];
    if (rf_path_is_folder(name)) {
        RF_TRY(check_folder(name, err));
        RF_TRY(rf_path_join(path, sizeof path, name, "tokenizer.json", err));
        RF_TRY(rf_path_join(packed, sizeof packed, name, "tokenizer.json.gz", err));
        if (!rf_path_exists(path) && !rf_path_exists(packed)) {
            return rf_error_set(err, RF_ERR, "%s: is missing: %s", path,
                                given == NULL
                                    ? "give --tokenizer byte or another folder"
                                    : "save the tokenizer as a fast one (save_pretrained)");
        }
    }
    return rf_tokenizer_load(&im->tokenizer, name, err);
}

/* A few tokens more than rows are tokens that were added; many, another model's tokenizer. */
static int check_growth(const importer *im, rf_error *err)
{
    const char *given = im->options->tokenizer;
    int64_t n_own = rf_tokenizer_n_own(im->tokenizer), n_file = im->vocabulary.n_file;
    bool is_bytes = given != NULL && strcmp(given, "byte") == 0; /* of no model, and wanted */
    return n_own - n_file <= n_file / 8 || is_bytes || im->options->grow
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "the tokenizer has %" PRId64 " tokens and the model %" PRId64
                              " rows: they do not belong together (--grow makes rows for all)",
                              n_own, n_file);
}

static void tell_rows(const importer *im)
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
static void fill_fresh_rows(const importer *im, const rf_tensor *t, int64_t first, int64_t n)
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

/* rf_checkpoint_source */
static int fetch(void *user, void *out, const rf_tensor *tensor, int64_t first, int64_t n,
                 rf_error *err)
{
    importer *im = user;
    const rf_safetensor *t = rf_safetensors_find(&im->set, tensor->name);
    size_t element = rf_type_bytes(t->type);
    im->values = rf_alloc_grow(im->values, &im->capacity, (size_t)n, sizeof *im->values);
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

static int open_source(importer *im, rf_error *err)
{
    rf_type type = RF_F32;
    RF_TRY(check_folder(im->folder, err));
    RF_TRY(read_config(im, err));
    RF_TRY(rf_safetensors_open(&im->set, im->folder, err));
    RF_TRY(rf_convert_match(&type, &im->set, &im->config, im->folder, err));
    RF_TRY(read_tokenizer(im, err));
    RF_TRY(rf_vocabulary_plan(&im->vocabulary, im->tokenizer, im->config.vocab_size, err));
    RF_TRY(check_growth(im, err));
    im->type = im->options->type < RF_N_TYPES ? im->options->type : type;
    im->config.vocab_size = im->vocabulary.n_rows;
    tell_rows(im);
    return rf_vocabulary_average(&im->vocabulary, &im->set, err);
}

int rf_convert_import(const char *folder, const char *path, const rf_convert_options *options,
                      rf_error *err)
{
    RF_ASSERT(options->type != RF_F16 && options->type != RF_F64);
    importer im = {.folder = folder, .options = options};
    rf_checkpoint_info info = {.progress = {.best_valid_loss = (double)INFINITY},
                               .corpora = "[]",
                               .written_by = "refusion-convert " RF_VERSION};
    int rc;
    RF_TRY_OUT(open_source(&im, err));
    info.tokenizer = im.tokenizer;
    RF_TRY_OUT(rf_checkpoint_write(path, &im.config, im.type, fetch, &im, &info, err));
    rf_convert_say(options, "%s: %s with %" PRId64 " tokens, %s", path, im.config.architecture,
                   im.config.vocab_size, rf_type_name(im.type));
out:
    rf_safetensors_close(&im.set);
    rf_tokenizer_free(im.tokenizer);
    rf_vocabulary_free(&im.vocabulary);
    free(im.values);
    return rc;
}
