#include "common/model/tokenizer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* One entry a kind; a kind has its own encode and decode, everything else is shared. */
typedef enum tokenizer_kind { KIND_BYTE } tokenizer_kind;

typedef struct special {
    const char *name;
    int32_t id;
} special;

struct rf_tokenizer {
    tokenizer_kind kind;
    char *text; /* as stored in files */
    size_t bytes;
    uint64_t hash;
    int64_t size;
    rf_specials specials;
    const special *special; /* [n_special] */
    int64_t n_special;
};

/* --- Ids -------------------------------------------------------------------------------------- */

static int ids_reserve(rf_ids *ids, int64_t more, rf_error *err)
{
    RF_ASSERT(more >= 0 && ids->n >= 0);
    if (more <= ids->capacity - ids->n) {
        return RF_OK;
    }
    const int64_t most = INT64_MAX / 4 / (int64_t)sizeof *ids->id;
    int64_t capacity = ids->capacity < 16 ? 16 : ids->capacity;
    while (capacity - ids->n < more && capacity <= most) {
        capacity *= 2;
    }
    int32_t *id = capacity <= most ? realloc(ids->id, (size_t)capacity * sizeof *id) : NULL;
    if (id == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for %lld token ids: give shorter texts",
                            (long long)ids->n + (long long)more);
    }
    ids->id = id;
    ids->capacity = capacity;
    return RF_OK;
}

int rf_ids_push(rf_ids *ids, int32_t id, rf_error *err)
{
    int rc = ids_reserve(ids, 1, err);
    if (rc == RF_OK) {
        ids->id[ids->n++] = id;
    }
    return rc;
}

void rf_ids_free(rf_ids *ids)
{
    free(ids->id);
    *ids = (rf_ids){0};
}

/* --- The byte tokenizer ----------------------------------------------------------------------- */

enum { BYTE_EOS = 256, BYTE_MASK, BYTE_BEGIN, BYTE_SYSTEM, BYTE_USER, BYTE_ASSISTANT, BYTE_SIZE };

static const special byte_special[] = {
    {"<|endoftext|>", BYTE_EOS}, {"<|mask|>", BYTE_MASK}, {"<|beginoftext|>", BYTE_BEGIN},
    {"<|system|>", BYTE_SYSTEM}, {"<|user|>", BYTE_USER}, {"<|assistant|>", BYTE_ASSISTANT},
};
enum { N_BYTE_SPECIAL = sizeof byte_special / sizeof byte_special[0] };

static const char byte_text[] =
    "{\"format\":\"refusion-tokenizer\",\"version\":1,\"kind\":\"byte\",\"special\":{"
    "\"<|endoftext|>\":256,\"<|mask|>\":257,\"<|beginoftext|>\":258,\"<|system|>\":259,"
    "\"<|user|>\":260,\"<|assistant|>\":261}}";

static void make_byte(rf_tokenizer *tokenizer)
{
    tokenizer->kind = KIND_BYTE;
    tokenizer->size = BYTE_SIZE;
    tokenizer->special = byte_special;
    tokenizer->n_special = N_BYTE_SPECIAL;
    tokenizer->specials = (rf_specials){.eos = {BYTE_EOS},
                                        .n_eos = 1,
                                        .mask = BYTE_MASK,
                                        .begin = BYTE_BEGIN,
                                        .system = BYTE_SYSTEM,
                                        .user = BYTE_USER,
                                        .assistant = BYTE_ASSISTANT};
}

/* The special tokens of a file must be those of this program: ids in a corpus mean nothing else. */
static int check_byte(const json_t *root, const char *origin, rf_error *err)
{
    const json_t *stored = json_object_get(root, "special");
    bool same = json_is_object(stored) && json_object_size(stored) == N_BYTE_SPECIAL;
    for (int i = 0; same && i < N_BYTE_SPECIAL; i++) {
        const json_t *id = json_object_get(stored, byte_special[i].name);
        same = json_is_integer(id) && json_integer_value(id) == byte_special[i].id;
    }
    if (!same) {
        return rf_error_set(err, RF_ERR,
                            "%s: the byte tokenizer's special tokens are not those of this "
                            "program: use the version that wrote the file, or build it again",
                            origin);
    }
    return RF_OK;
}

static int encode_bytes(rf_ids *out, const char *text, size_t bytes, rf_error *err)
{
    if (bytes > (size_t)INT64_MAX) {
        return rf_error_set(err, RF_ERR, "a text of %zu bytes is too long: cut it", bytes);
    }
    int rc = ids_reserve(out, (int64_t)bytes, err);
    if (rc != RF_OK) {
        return rc;
    }
    int32_t *id = out->id + out->n;
    for (size_t i = 0; i < bytes; i++) {
        id[i] = (unsigned char)text[i];
    }
    out->n += (int64_t)bytes;
    return RF_OK;
}

/* --- Making one ------------------------------------------------------------------------------- */

/* FNV-1a, 64 bit. */
static uint64_t hash_text(const char *text, size_t bytes)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    }
    return hash;
}

int rf_tokenizer_load(rf_tokenizer **out, const char *name, rf_error *err)
{
    *out = NULL;
    if (strcmp(name, "byte") != 0) {
        return rf_error_set(err, RF_ERR_USAGE, "\"%s\": unknown tokenizer: known is \"byte\"",
                            name);
    }
    return rf_tokenizer_parse(out, byte_text, sizeof byte_text - 1, "byte", err);
}

static int parse_kind(rf_tokenizer *tokenizer, const char *text, size_t bytes, const char *origin,
                      rf_error *err)
{
    json_error_t why;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    int rc = RF_OK;
    if (root == NULL) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: the stored tokenizer is not JSON (%s): the file is damaged, make it "
                          "again",
                          origin, why.text);
        goto out;
    }
    const char *format = json_string_value(json_object_get(root, "format"));
    const char *kind = json_string_value(json_object_get(root, "kind"));
    const json_t *version = json_object_get(root, "version");
    if (format == NULL || strcmp(format, "refusion-tokenizer") != 0 || kind == NULL) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: the stored tokenizer is of an unknown format: make the "
                          "file with refusion-data or refusion-train",
                          origin);
        goto out;
    }
    if (!json_is_integer(version) || json_integer_value(version) != 1) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: the stored tokenizer is of another format version than "
                          "1: use the version of the program that wrote it",
                          origin);
        goto out;
    }
    if (strcmp(kind, "byte") != 0) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: tokenizers of kind \"%s\" are unknown to this program: "
                          "known is \"byte\"",
                          origin, kind);
        goto out;
    }
    rc = check_byte(root, origin, err);
    if (rc == RF_OK) {
        make_byte(tokenizer);
    }
out:
    json_decref(root);
    return rc;
}

int rf_tokenizer_parse(rf_tokenizer **out, const char *text, size_t bytes, const char *origin,
                       rf_error *err)
{
    *out = NULL;
    rf_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    char *copy = bytes < SIZE_MAX ? malloc(bytes + 1) : NULL;
    int rc = RF_OK;
    if (tokenizer == NULL || copy == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s: no memory for the tokenizer", origin);
        goto out;
    }
    rc = parse_kind(tokenizer, text, bytes, origin, err);
    if (rc != RF_OK) {
        goto out;
    }
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    tokenizer->text = copy;
    tokenizer->bytes = bytes;
    tokenizer->hash = hash_text(copy, bytes);
    *out = tokenizer;
    return RF_OK;
out:
    free(copy);
    free(tokenizer);
    return rc;
}

void rf_tokenizer_free(rf_tokenizer *tokenizer)
{
    if (tokenizer != NULL) {
        free(tokenizer->text);
        free(tokenizer);
    }
}

const char *rf_tokenizer_text(const rf_tokenizer *tokenizer, size_t *bytes)
{
    *bytes = tokenizer->bytes;
    return tokenizer->text;
}

uint64_t rf_tokenizer_hash(const rf_tokenizer *tokenizer)
{
    return tokenizer->hash;
}

int64_t rf_tokenizer_size(const rf_tokenizer *tokenizer)
{
    return tokenizer->size;
}

const rf_specials *rf_tokenizer_specials(const rf_tokenizer *tokenizer)
{
    return &tokenizer->specials;
}

bool rf_tokenizer_is_eos(const rf_tokenizer *tokenizer, int32_t id)
{
    for (int32_t i = 0; i < tokenizer->specials.n_eos; i++) {
        if (tokenizer->specials.eos[i] == id) {
            return true;
        }
    }
    return false;
}

const char *rf_tokenizer_special_name(const rf_tokenizer *tokenizer, int32_t id)
{
    for (int64_t i = 0; i < tokenizer->n_special; i++) {
        if (tokenizer->special[i].id == id) {
            return tokenizer->special[i].name;
        }
    }
    return NULL;
}

/* --- Text to ids and back --------------------------------------------------------------------- */

int rf_tokenizer_encode(const rf_tokenizer *tokenizer, rf_ids *out, const char *text, size_t bytes,
                        rf_error *err)
{
    RF_ASSERT(tokenizer->kind == KIND_BYTE);
    return encode_bytes(out, text, bytes, err);
}

/* Bytes at text that a decoder takes as one unit: a whole sequence (*valid), or the longest
 * beginning of one (Unicode 15, section 3.9, "maximal subpart"), which becomes one U+FFFD. */
static size_t utf8_unit(const unsigned char *text, size_t bytes, bool *valid)
{
    unsigned char c = text[0];
    *valid = c < 0x80;
    size_t n = c < 0xC2 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 1;
    unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < n; i++) {
        if (i >= bytes || text[i] < low || text[i] > high) {
            return i;
        }
        low = 0x80;
        high = 0xBF;
    }
    *valid = *valid || n > 1;
    return n;
}

/* A copy of raw with every broken sequence replaced; U+FFFD takes three bytes, a broken unit at
 * least one. */
static char *replace_broken(const char *raw, size_t bytes, size_t *out_bytes)
{
    char *text = bytes < SIZE_MAX / 4 ? malloc(3 * bytes + 1) : NULL;
    if (text == NULL) {
        return NULL;
    }
    size_t used = 0;
    for (size_t i = 0; i < bytes;) {
        bool valid;
        size_t n = utf8_unit((const unsigned char *)raw + i, bytes - i, &valid);
        memcpy(text + used, valid ? raw + i : "\xEF\xBF\xBD", valid ? n : 3);
        used += valid ? n : 3;
        i += n;
    }
    text[used] = '\0';
    *out_bytes = used;
    return text;
}

/* The bytes that an id stands for; NULL for none. */
static const char *bytes_of(const rf_tokenizer *tokenizer, int32_t id, bool skip_special, char *one,
                            size_t *n)
{
    const char *name = rf_tokenizer_special_name(tokenizer, id);
    *n = 0;
    if (name != NULL) {
        *n = skip_special ? 0 : strlen(name);
        return name;
    }
    if (id >= 0 && id < 256) {
        *one = (char)(unsigned char)id;
        *n = 1;
    }
    return one;
}

int rf_tokenizer_decode(const rf_tokenizer *tokenizer, char **text, size_t *bytes,
                        const int32_t *id, int64_t n, bool skip_special, rf_error *err)
{
    *text = NULL;
    *bytes = 0;
    char one;
    size_t raw_bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        size_t more;
        (void)bytes_of(tokenizer, id[i], skip_special, &one, &more);
        raw_bytes += more;
    }
    char *raw = malloc(raw_bytes + 1);
    if (raw != NULL) {
        size_t used = 0;
        for (int64_t i = 0; i < n; i++) {
            size_t more;
            const char *from = bytes_of(tokenizer, id[i], skip_special, &one, &more);
            memcpy(raw + used, from, more);
            used += more;
        }
        *text = replace_broken(raw, raw_bytes, bytes);
        free(raw);
    }
    if (*text == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the text of %lld ids", (long long)n);
    }
    return RF_OK;
}

/* --- Chat form -------------------------------------------------------------------------------- */

static int mark_of(int32_t *mark, const rf_tokenizer *tokenizer, const char *role, rf_error *err)
{
    const rf_specials *s = &tokenizer->specials;
    if (strcmp(role, "system") == 0) {
        *mark = s->system;
    } else if (strcmp(role, "user") == 0) {
        *mark = s->user;
    } else if (strcmp(role, "assistant") == 0) {
        *mark = s->assistant;
    } else {
        return rf_error_set(
            err, RF_ERR, "unknown role \"%.64s\": use \"system\", \"user\" or \"assistant\"", role);
    }
    return RF_OK;
}

int rf_tokenizer_render_prompt(const rf_tokenizer *tokenizer, rf_ids *out,
                               const rf_message *message, int64_t n, rf_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t mark = -1;
        int rc = mark_of(&mark, tokenizer, message[i].role, err);
        if (rc == RF_OK) {
            rc = rf_ids_push(out, mark, err);
        }
        if (rc == RF_OK) {
            rc = rf_tokenizer_encode(tokenizer, out, message[i].content, message[i].bytes, err);
        }
        if (rc == RF_OK && mark == tokenizer->specials.assistant) {
            rc = rf_ids_push(out, tokenizer->specials.eos[0], err);
        }
        if (rc != RF_OK) {
            return rc;
        }
    }
    return rf_ids_push(out, tokenizer->specials.assistant, err);
}
