#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/utf8.h"
#include "common/text/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

/* Hugging Face's files, as they are found (tokenizer_stored.c makes the stored text of them). */

enum { MAX_BYTES = 1 << 29 };

typedef rf_tokenizer_sources sources;

/* --- Files ------------------------------------------------------------------------------------ */

/* A whole file, plain or gzip, with a 0 behind it. */
static int read_file(char **out, size_t *bytes, const char *path, rf_error *err)
{
    rf_text text = {0};
    char piece[1 << 14];
    int n = 0, rc = RF_OK;
    gzFile file = gzopen(path, "rb");
    *out = NULL;
    if (file == NULL) {
        return rf_error_set(err, RF_ERR, "%s: cannot open", path);
    }
    while ((n = gzread(file, piece, sizeof piece)) > 0 && text.bytes < MAX_BYTES) {
        rf_text_add(&text, piece, (size_t)n);
    }
    rf_text_add(&text, "", 0);
    if (n != 0) {
        rc = rf_error_set(err, RF_ERR,
                          n > 0 ? "%s: is larger than 512 MiB: this is no tokenizer"
                                : "%s: cannot be read: damaged or no file",
                          path);
    }
    if (gzclose(file) != Z_OK && rc == RF_OK) {
        rc = rf_error_set(err, RF_ERR, "%s: ends too early: get the whole file", path);
    }
    if (rc != RF_OK) {
        rf_text_free(&text);
    }
    *out = text.data;
    *bytes = text.bytes;
    return rc;
}

/* folder/name or folder/name.gz, whichever is there. */
static bool find_file(char path[RF_PATH_BYTES], const char *folder, const char *name)
{
    char zipped[40];
    snprintf(zipped, sizeof zipped, "%s.gz", name);
    const char *const names[] = {name, zipped};
    for (int i = 0; i < 2; i++) {
        if (rf_path_join(path, RF_PATH_BYTES, folder, names[i], NULL) == RF_OK &&
            rf_path_exists(path)) {
            return true;
        }
    }
    return false;
}

/* Whole numbers of 19 digits or more get ".0" behind them: Transformers writes 10^30 for "no
 * limit", which jansson refuses. */
static void soften_integers(rf_text *out, const char *text)
{
    bool in_string = false;
    for (const char *p = text; *p != '\0';) {
        const size_t number = in_string ? 0 : strspn(p, "0123456789+-.eE");
        const size_t n = number > 0 ? number : *p == '\\' && p[1] != '\0' ? 2 : 1;
        in_string = in_string != (*p == '"');
        rf_text_add(out, p, n);
        if (number >= 19 && strcspn(p, ".eE") >= number) {
            rf_text_add_string(out, ".0");
        }
        p += n;
    }
}

static void parse_json(json_t **out, const char *text, size_t bytes, json_error_t *why)
{
    rf_text softened = {0};
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, why);
    if (*out == NULL && json_error_code(why) == json_error_numeric_overflow) {
        soften_integers(&softened, text);
        *out = json_loadb(softened.data, softened.bytes, JSON_REJECT_DUPLICATES, why);
    }
    rf_text_free(&softened);
}

static int read_json(json_t **out, const char *path, rf_error *err)
{
    char *text;
    size_t bytes;
    json_error_t why;
    RF_TRY(read_file(&text, &bytes, path, err));
    parse_json(out, text, bytes, &why);
    free(text);
    if (*out == NULL) {
        return rf_error_set(err, RF_ERR, "%s:%d:%d: is not JSON (%s): get the whole file again",
                            path, why.line, why.column, why.text);
    }
    return json_is_object(*out) ? RF_OK
                                : rf_error_set(err, RF_ERR, "%s: a JSON object is needed", path);
}

static int read_json_beside(json_t **out, const sources *s, const char *name)
{
    char path[RF_PATH_BYTES];
    return find_file(path, s->folder, name) ? read_json(out, path, s->err) : RF_OK;
}

static int read_beside(sources *s)
{
    char path[RF_PATH_BYTES];
    size_t bytes;
    RF_TRY(read_json_beside(&s->config, s, "tokenizer_config.json"));
    RF_TRY(read_json_beside(&s->others, s, "added_tokens.json"));
    RF_TRY(read_json_beside(&s->generation, s, "generation_config.json"));
    if (find_file(path, s->folder, "chat_template.jinja")) {
        RF_TRY(read_file(&s->template, &bytes, path, s->err));
        if (!rf_utf8_is_valid(s->template, strlen(s->template), NULL)) {
            return rf_error_set(s->err, RF_ERR, "%s: is not UTF-8: get the file again", path);
        }
    }
    return RF_OK;
}

/* --- GPT-2's own files ------------------------------------------------------------------------ */

/* vocab.bpe: a line "#version: ...", then a merge a line. */
static int read_merges(json_t **out, const char *path, rf_error *err)
{
    char *text;
    size_t bytes;
    int rc = RF_OK;
    RF_TRY(read_file(&text, &bytes, path, err));
    *out = json_array();
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line != NULL && rc == RF_OK;
         line = strtok_r(NULL, "\n", &save)) {
        line[strcspn(line, "\r")] = '\0';
        if (strncmp(line, "#version", 8) != 0 && line[0] != '\0' &&
            json_array_append_new(*out, json_string(line)) != 0) {
            rc = rf_error_set(err, RF_ERR, "%s: is not UTF-8: get the file again", path);
        }
    }
    free(text);
    return rc;
}

/* False: the folder has no such pair. */
static bool find_pair(char vocab[RF_PATH_BYTES], char merges[RF_PATH_BYTES], const char *folder)
{
    return (find_file(vocab, folder, "encoder.json") && find_file(merges, folder, "vocab.bpe")) ||
           (find_file(vocab, folder, "vocab.json") && find_file(merges, folder, "merges.txt"));
}

static int read_pair(sources *s, const char *vocab_path, const char *merges_path)
{
    json_t *vocab = NULL, *merges = NULL;
    snprintf(s->path, sizeof s->path, "%s", vocab_path);
    int rc;
    RF_TRY_OUT(read_json(&vocab, vocab_path, s->err));
    RF_TRY_OUT(read_merges(&merges, merges_path, s->err));
    const char *class = json_string_value(json_object_get(s->config, "tokenizer_class"));
    if (class != NULL && strncmp(class, "GPT2Tokenizer", 13) != 0) {
        rc = rf_error_set(s->err, RF_ERR,
                          "%s: a %.60s without tokenizer.json: only GPT-2's splitting is known "
                          "without it: save it as a fast tokenizer",
                          s->path, class);
        goto out;
    }
    s->tokenizer = json_pack(
        "{s:s, s:n, s:n, s:[], s:n, s:{s:s, s:b, s:b, s:b}, s:n, s:{s:s, s:b, s:b, s:b}, "
        "s:{s:s, s:n, s:n, s:s, s:s, s:b, s:O, s:O}}",
        "version", "1.0", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
        "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1,
        "post_processor", "decoder", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1,
        "use_regex", 1, "model", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix",
        "", "end_of_word_suffix", "", "fuse_unk", 0, "vocab", vocab, "merges", merges);
    RF_ASSERT(s->tokenizer != NULL);
    if (json_object_get(vocab, "<|endoftext|>") != NULL) {
        rf_tokenizer_ensure_added(s, "<|endoftext|>");
    }
out:
    json_decref(vocab);
    json_decref(merges);
    return rc;
}

/* --- All together --------------------------------------------------------------------------- */

static int find_sources(sources *s, const char *name)
{
    struct stat status;
    char vocab[RF_PATH_BYTES], merges[RF_PATH_BYTES];
    if (strlen(name) >= sizeof s->folder || stat(name, &status) != 0) {
        return rf_error_set(s->err, RF_ERR_USAGE,
                            "\"%.200s\": unknown tokenizer: known are \"byte\", the path of a "
                            "tokenizer.json, or of a folder that holds one",
                            name);
    }
    snprintf(s->folder, sizeof s->folder, "%s", name);
    snprintf(s->path, sizeof s->path, "%s", name);
    const bool is_folder = S_ISDIR(status.st_mode);
    if (!is_folder) {
        RF_TRY(rf_path_folder(s->folder, sizeof s->folder, name, s->err));
    }
    RF_TRY(read_beside(s));
    if (!is_folder || find_file(s->path, s->folder, "tokenizer.json")) {
        return read_json(&s->tokenizer, s->path, s->err);
    }
    if (find_pair(vocab, merges, s->folder)) {
        return read_pair(s, vocab, merges);
    }
    return rf_error_set(s->err, RF_ERR,
                        "%s: the folder has no tokenizer.json (nor encoder.json and vocab.bpe): "
                        "name the folder of a model",
                        name);
}

static int load_files(rf_tokenizer **out, const char *name, rf_error *err)
{
    sources s = {.err = err};
    json_t *stored = NULL;
    int rc;
    RF_TRY_OUT(find_sources(&s, name));
    RF_TRY_OUT(rf_tokenizer_store(&stored, &s));
    char *text = json_dumps(stored, JSON_COMPACT);
    RF_ASSERT(text != NULL);
    RF_TRY_OUT(rf_tokenizer_make(out, stored, text, strlen(text), s.path, err));
    (*out)->n_own = s.n_own;
out:
    json_decref(stored);
    json_decref(s.tokenizer);
    json_decref(s.config);
    json_decref(s.others);
    json_decref(s.generation);
    free(s.template);
    return rc;
}

int rf_tokenizer_load(rf_tokenizer **out, const char *name, rf_error *err)
{
    *out = NULL;
    if (strcmp(name, "byte") == 0) {
        return rf_tokenizer_parse(out, rf_tokenizer_byte_text, strlen(rf_tokenizer_byte_text),
                                  "byte", err);
    }
    return load_files(out, name, err);
}

int rf_tokenizer_check_outputs(const char *name, const char *const *outputs, int n_outputs,
                               rf_error *err)
{
    static const char *const beside[] = {"tokenizer_config.json", "added_tokens.json",
                                         "generation_config.json", "chat_template.jinja"};
    char folder[RF_PATH_BYTES], path[RF_PATH_BYTES];
    const char *const found = path;
    if (name == NULL || strcmp(name, "byte") == 0) {
        return RF_OK;
    }
    RF_TRY(rf_output_check(outputs, n_outputs, &name, 1, err));
    RF_TRY(rf_path_folder(folder, sizeof folder, name, err));
    for (size_t i = 0; !rf_path_is_folder(name) && i < sizeof beside / sizeof *beside; i++) {
        if (find_file(path, folder, beside[i])) {
            RF_TRY(rf_output_check(outputs, n_outputs, &found, 1, err));
        }
    }
    return RF_OK;
}
