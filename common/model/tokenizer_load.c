#include "common/base/file.h"
#include "common/model/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

/* Hugging Face's files become the stored text (tokenizer_bpe.c). */

enum { MAX_BYTES = 1 << 29, BLOCK = 1 << 16 };

static const char begin_name[] = "<|beginoftext|>", mask_name[] = "<|mask|>";

typedef struct sources {
    char folder[4096];
    char path[4200]; /* of the tokenizer, for messages */
    json_t *tokenizer;
    json_t *config;     /* tokenizer_config.json, NULL: none */
    json_t *generation; /* generation_config.json, NULL: none */
    char *template;     /* chat_template.jinja, NULL: none */
    json_int_t next_id; /* behind all that are taken */
    rf_error *err;
} sources;

static int no_memory(sources *s)
{
    return rf_error_set(s->err, RF_ERR, "%s: no memory for the tokenizer", s->path);
}

/* --- Files ------------------------------------------------------------------------------------ */

/* A whole file, plain or gzip, with a 0 behind it. */
static int read_file(char **out, size_t *bytes, const char *path, rf_error *err)
{
    rf_text text = {0};
    char *buffer = malloc(BLOCK);
    gzFile file = buffer != NULL ? gzopen(path, "rb") : NULL;
    int n = 0, rc = RF_OK;
    *out = NULL;
    if (file == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s: cannot open", path);
        goto out;
    }
    while ((n = gzread(file, buffer, BLOCK)) > 0 && text.bytes < MAX_BYTES) {
        rf_text_add(&text, buffer, (size_t)n);
    }
    rf_text_add(&text, "", 0);
    rc = rf_text_check(&text, err);
    if (rc == RF_OK && n != 0) {
        rc = rf_error_set(err, RF_ERR,
                          n > 0 ? "%s: is larger than 512 MiB: this is no tokenizer"
                                : "%s: cannot be read: damaged or no file",
                          path);
    }
out:
    if (file != NULL && gzclose(file) != Z_OK && rc == RF_OK) {
        rc = rf_error_set(err, RF_ERR, "%s: ends too early: get the whole file", path);
    }
    free(buffer);
    if (rc == RF_OK) {
        *out = text.data;
        *bytes = text.bytes;
    } else {
        rf_text_free(&text);
    }
    return rc;
}

/* folder/name or folder/name.gz, whichever is there. */
static bool find_file(char path[4200], const char *folder, const char *name)
{
    snprintf(path, 4200, "%s/%s", folder, name);
    if (!rf_file_exists(path)) {
        snprintf(path, 4200, "%s/%s.gz", folder, name);
    }
    return rf_file_exists(path);
}

static int read_json(json_t **out, const char *path, rf_error *err)
{
    char *text;
    size_t bytes;
    json_error_t why;
    int rc = read_file(&text, &bytes, path, err);
    if (rc != RF_OK) {
        return rc;
    }
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
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
    char path[4200];
    return find_file(path, s->folder, name) ? read_json(out, path, s->err) : RF_OK;
}

static int read_beside(sources *s)
{
    char path[4200];
    size_t bytes;
    int rc = read_json_beside(&s->config, s, "tokenizer_config.json");
    if (rc == RF_OK) {
        rc = read_json_beside(&s->generation, s, "generation_config.json");
    }
    if (rc == RF_OK && find_file(path, s->folder, "chat_template.jinja")) {
        rc = read_file(&s->template, &bytes, path, s->err);
    }
    return rc;
}

/* --- Tokens that are added -------------------------------------------------------------------- */

static json_t *vocab_of(const sources *s)
{
    return json_object_get(json_object_get(s->tokenizer, "model"), "vocab");
}

static json_t *added_of(const sources *s)
{
    return json_object_get(s->tokenizer, "added_tokens");
}

/* The entry of an added token, or NULL. */
static const json_t *find_added(const sources *s, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(added_of(s), i, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        if (content != NULL && strcmp(content, name) == 0) {
            return item;
        }
    }
    return NULL;
}

static void raise_next_id(sources *s, const json_t *id)
{
    if (json_is_integer(id) && json_integer_value(id) >= s->next_id &&
        json_integer_value(id) < INT32_MAX) {
        s->next_id = json_integer_value(id) + 1;
    }
}

static void find_next_id(sources *s)
{
    const char *name;
    size_t i;
    json_t *item;
    json_object_foreach(vocab_of(s), name, item)
    {
        raise_next_id(s, item);
    }
    json_array_foreach(added_of(s), i, item)
    {
        raise_next_id(s, json_object_get(item, "id"));
    }
}

/* The id of a token that must be an added one; it becomes one, at the end, if it is none. */
static int ensure_added(json_int_t *out, sources *s, const char *name)
{
    const json_t *known = find_added(s, name);
    const json_t *id =
        known != NULL ? json_object_get(known, "id") : json_object_get(vocab_of(s), name);
    *out = json_is_integer(id) ? json_integer_value(id) : s->next_id;
    if (known != NULL) {
        return RF_OK;
    }
    json_t *item =
        json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", *out, "content", name, "single_word",
                  0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
    if (json_array_append_new(added_of(s), item) != 0) {
        return no_memory(s);
    }
    raise_next_id(s, json_object_get(item, "id"));
    return RF_OK;
}

/* tokenizer_config.json may list tokens that tokenizer.json does not have yet. */
static int merge_decoder(sources *s)
{
    json_t *decoder = json_object_get(s->config, "added_tokens_decoder"), *item;
    const char *key;
    json_object_foreach(decoder, key, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        char *end;
        long id = strtol(key, &end, 10);
        if (content == NULL || *end != '\0' || end == key || id < 0 || id >= INT32_MAX) {
            return rf_error_set(s->err, RF_ERR,
                                "%s/tokenizer_config.json: added_tokens_decoder: \"%.40s\" must be "
                                "an id, and its token have a \"content\"",
                                s->folder, key);
        }
        if (find_added(s, content) != NULL) {
            continue;
        }
        json_t *copy = json_copy(item);
        if (copy == NULL || json_object_set_new(copy, "id", json_integer(id)) != 0 ||
            json_array_append_new(added_of(s), copy) != 0) {
            return no_memory(s);
        }
        raise_next_id(s, json_object_get(copy, "id"));
    }
    return RF_OK;
}

/* --- GPT-2's own files ------------------------------------------------------------------------ */

/* vocab.bpe: a line "#version: ...", then a merge a line. */
static int read_merges(json_t **out, const char *path, rf_error *err)
{
    char *text;
    size_t bytes;
    int rc = read_file(&text, &bytes, path, err);
    if (rc != RF_OK) {
        return rc;
    }
    json_t *merges = *out = json_array();
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line != NULL && rc == RF_OK;
         line = strtok_r(NULL, "\n", &save)) {
        line[strcspn(line, "\r")] = '\0';
        if (strncmp(line, "#version", 8) != 0 && line[0] != '\0' &&
            json_array_append_new(merges, json_string(line)) != 0) {
            rc = rf_error_set(err, RF_ERR, "%s: is not UTF-8, or no memory", path);
        }
    }
    free(text);
    return rc;
}

/* False: the folder has no such pair. */
static bool find_pair(char vocab[4200], char merges[4200], const char *folder)
{
    return (find_file(vocab, folder, "encoder.json") && find_file(merges, folder, "vocab.bpe")) ||
           (find_file(vocab, folder, "vocab.json") && find_file(merges, folder, "merges.txt"));
}

static int read_pair(sources *s, const char *vocab_path, const char *merges_path)
{
    json_t *vocab = NULL, *merges = NULL;
    snprintf(s->path, sizeof s->path, "%s", vocab_path);
    int rc = read_json(&vocab, vocab_path, s->err);
    if (rc == RF_OK) {
        rc = read_merges(&merges, merges_path, s->err);
    }
    const char *class = json_string_value(json_object_get(s->config, "tokenizer_class"));
    if (rc == RF_OK && class != NULL && strncmp(class, "GPT2Tokenizer", 13) != 0) {
        rc = rf_error_set(s->err, RF_ERR,
                          "%s: a %.60s without tokenizer.json: only GPT-2's splitting is known "
                          "without it: save it as a fast tokenizer",
                          s->path, class);
    }
    if (rc == RF_OK) {
        s->tokenizer = json_pack(
            "{s:s, s:n, s:n, s:[], s:n, s:{s:s, s:b, s:b, s:b}, s:n, s:{s:s, s:b, s:b, s:b}, "
            "s:{s:s, s:n, s:n, s:s, s:s, s:b, s:O, s:O}}",
            "version", "1.0", "truncation", "padding", "added_tokens", "normalizer",
            "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
            "use_regex", 1, "post_processor", "decoder", "type", "ByteLevel", "add_prefix_space", 1,
            "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE", "dropout", "unk_token",
            "continuing_subword_prefix", "", "end_of_word_suffix", "", "fuse_unk", 0, "vocab",
            vocab, "merges", merges);
        rc = s->tokenizer != NULL ? RF_OK : no_memory(s);
    }
    if (rc == RF_OK && json_object_get(vocab, "<|endoftext|>") != NULL) {
        json_int_t unused;
        rc = ensure_added(&unused, s, "<|endoftext|>");
    }
    json_decref(vocab);
    json_decref(merges);
    return rc;
}

/* --- What the configuration names ------------------------------------------------------------- */

/* "eos_token": "..." or {"content": "..."}; NULL: not there. */
static const char *config_token(const sources *s, const char *key)
{
    const json_t *value = json_object_get(s->config, key);
    const char *content = json_string_value(json_object_get(value, "content"));
    return content != NULL ? content : json_string_value(value);
}

static const char *mask_of(const sources *s)
{
    static const char *const others[] = {"<|mdm_mask|>", "[MASK]", "<mask>"};
    const char *name = config_token(s, "mask_token");
    if (name != NULL) {
        return name;
    }
    for (int i = 0; i < 3 && find_added(s, mask_name) == NULL; i++) {
        if (json_is_true(json_object_get(find_added(s, others[i]), "special"))) {
            return others[i];
        }
    }
    return mask_name;
}

/* --- End of text ------------------------------------------------------------------------------ */

static int add_eos(json_t *list, sources *s, json_int_t id)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        if (json_integer_value(item) == id) {
            return RF_OK;
        }
    }
    if (json_array_size(list) == sizeof(rf_specials){0}.eos / sizeof(int32_t)) {
        return rf_error_set(s->err, RF_ERR, "%s: more than %zu end-of-text tokens", s->folder,
                            json_array_size(list));
    }
    return json_array_append_new(list, json_integer(id)) == 0 ? RF_OK : no_memory(s);
}

static int add_generation_eos(json_t *list, sources *s)
{
    json_t *eos = json_object_get(s->generation, "eos_token_id");
    const size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    int rc = RF_OK;
    for (size_t i = 0; i < n && rc == RF_OK && eos != NULL && !json_is_null(eos); i++) {
        const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= s->next_id) {
            return rf_error_set(s->err, RF_ERR,
                                "%s/generation_config.json: eos_token_id must be ids of the "
                                "tokenizer, which has %lld",
                                s->folder, (long long)s->next_id);
        }
        rc = add_eos(list, s, json_integer_value(id));
    }
    return rc;
}

/* First what ends an assistant's message, then what the configuration says; without either, the
 * first token with a usual name. */
static int find_eos(json_t *list, sources *s, rf_chat_kind kind)
{
    static const char *const usual[] = {"<|im_end|>",      "<|eot_id|>", "<|endoftext|>",
                                        "<|end_of_text|>", "</s>",       "<eos>"};
    const char *names[] = {rf_chat_end(kind), config_token(s, "eos_token")};
    json_int_t id;
    int rc = RF_OK;
    for (int i = 0; i < 2 && rc == RF_OK; i++) {
        if (names[i] == NULL) {
            continue;
        }
        if (find_added(s, names[i]) == NULL && json_object_get(vocab_of(s), names[i]) == NULL) {
            return rf_error_set(s->err, RF_ERR,
                                "%s: has no token \"%.60s\", which %s: the files do not belong "
                                "together",
                                s->path, names[i],
                                i == 0 ? "its chat template ends messages with"
                                       : "tokenizer_config.json names as eos_token");
        }
        rc = ensure_added(&id, s, names[i]);
        rc = rc == RF_OK ? add_eos(list, s, id) : rc;
    }
    if (rc == RF_OK) {
        rc = add_generation_eos(list, s);
    }
    for (int i = 0; i < 6 && rc == RF_OK && json_array_size(list) == 0; i++) {
        const json_t *known = find_added(s, usual[i]);
        if (known != NULL && json_is_integer(json_object_get(known, "id"))) {
            rc = add_eos(list, s, json_integer_value(json_object_get(known, "id")));
        }
    }
    return rc;
}

/* --- Chat template ---------------------------------------------------------------------------- */

/* The template's text; NULL: none. A list of templates has one that is called "default". */
static const char *template_of(const sources *s)
{
    const json_t *value = json_object_get(s->config, "chat_template");
    size_t i;
    json_t *item;
    if (s->template != NULL) {
        return s->template;
    }
    json_array_foreach((json_t *)value, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0) {
            return json_string_value(json_object_get(item, "template"));
        }
    }
    return json_string_value(value);
}

static int find_chat(rf_chat *chat, const sources *s)
{
    char origin[4300];
    const char *template = template_of(s);
    snprintf(origin, sizeof origin, "%s/%s", s->folder,
             s->template != NULL ? "chat_template.jinja" : "tokenizer_config.json");
    if (template == NULL) {
        *chat = (rf_chat){.kind = RF_CHAT_PLAIN};
        return RF_OK;
    }
    return rf_chat_recognise(chat, template, origin, s->err);
}

/* --- All together ----------------------------------------------------------------------------- */

static int make_stored(json_t **out, sources *s)
{
    rf_chat chat = {0};
    json_int_t mask, begin;
    json_t *eos = json_array();
    const json_t *added = added_of(s);
    if (added != NULL && !json_is_array(added) && !json_is_null(added)) {
        json_decref(eos);
        return rf_error_set(s->err, RF_ERR, "%s: added_tokens must be an array", s->path);
    }
    if (!json_is_array(added) &&
        json_object_set_new(s->tokenizer, "added_tokens", json_array()) != 0) {
        json_decref(eos);
        return no_memory(s);
    }
    find_next_id(s);
    int rc = find_chat(&chat, s);
    rc = rc == RF_OK ? merge_decoder(s) : rc;
    rc = rc == RF_OK ? find_eos(eos, s, chat.kind) : rc;
    rc = rc == RF_OK ? ensure_added(&begin, s, begin_name) : rc;
    rc = rc == RF_OK ? ensure_added(&mask, s, mask_of(s)) : rc;
    if (rc == RF_OK && s->template != NULL && s->config != NULL &&
        json_object_set_new(s->config, "chat_template", json_string(s->template)) != 0) {
        rc = no_memory(s);
    }
    if (rc == RF_OK) {
        *out = json_pack("{s:s, s:i, s:s, s:s, s:s*, s:O, s:I, s:I, s:O, s:O*}", "format",
                         "refusion-tokenizer", "version", 1, "kind", "bpe", "template",
                         rf_chat_name(chat.kind), "system", chat.system, "eos", eos, "mask", mask,
                         "begin", begin, "tokenizer", s->tokenizer, "config", s->config);
        rc = *out != NULL ? RF_OK : no_memory(s);
    }
    json_decref(eos);
    rf_chat_free(&chat);
    return rc;
}

static int find_sources(sources *s, const char *name)
{
    struct stat status;
    char vocab[4200], merges[4200];
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
        char *slash = strrchr(s->folder, '/');
        snprintf(slash != NULL ? slash + (slash == s->folder) : s->folder, 2, "%s",
                 slash != NULL ? "" : ".");
    }
    int rc = read_beside(s);
    if (rc != RF_OK) {
        return rc;
    }
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
    char *text = NULL;
    int rc = find_sources(&s, name);
    if (rc == RF_OK) {
        rc = make_stored(&stored, &s);
    }
    if (rc == RF_OK && (text = json_dumps(stored, JSON_COMPACT)) == NULL) {
        rc = no_memory(&s);
    }
    if (rc == RF_OK) {
        rc = rf_tokenizer_make(out, stored, text, strlen(text), s.path, err);
    }
    json_decref(stored);
    json_decref(s.tokenizer);
    json_decref(s.config);
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
