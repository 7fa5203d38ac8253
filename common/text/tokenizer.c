#include "common/text/tokenizer.h"

#include "common/base/file.h"
#include "common/text/tokenizer_private.h"
#include "common/text/unicode.h"

#include <stdlib.h>
#include <string.h>

static const rf_tokenizer_kind *const kinds[] = {&rf_tokenizer_byte, &rf_tokenizer_bpe};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* --- Ids -------------------------------------------------------------------------------------- */

int rf_ids_reserve(rf_ids *ids, int64_t more, rf_error *err)
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
    int rc = rf_ids_reserve(ids, 1, err);
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

/* --- Making one ------------------------------------------------------------------------------- */

static int kind_of(const rf_tokenizer_kind **out, const json_t *root, const char *origin,
                   rf_error *err)
{
    const char *format = json_string_value(json_object_get(root, "format"));
    const char *kind = json_string_value(json_object_get(root, "kind"));
    const json_t *version = json_object_get(root, "version");
    if (format == NULL || strcmp(format, "refusion-tokenizer") != 0 || kind == NULL) {
        return rf_error_set(err, RF_ERR,
                            "%s: the stored tokenizer is of an unknown format: make the "
                            "file with refusion-data or refusion-train",
                            origin);
    }
    if (!json_is_integer(version) || json_integer_value(version) != 1) {
        return rf_error_set(err, RF_ERR,
                            "%s: the stored tokenizer is of another format version than "
                            "1: use the version of the program that wrote it",
                            origin);
    }
    for (int i = 0; i < N_KINDS; i++) {
        if (strcmp(kind, kinds[i]->name) == 0) {
            *out = kinds[i];
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR,
                        "%s: tokenizers of kind \"%.40s\" are unknown to this program: "
                        "known are \"byte\" and \"bpe\"",
                        origin, kind);
}

int rf_tokenizer_make(rf_tokenizer **out, const json_t *root, char *text, size_t bytes,
                      const char *origin, rf_error *err)
{
    *out = NULL;
    rf_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        free(text);
        return rf_error_set(err, RF_ERR, "%s: no memory for the tokenizer", origin);
    }
    tokenizer->text = text;
    tokenizer->bytes = bytes;
    int rc = kind_of(&tokenizer->kind, root, origin, err);
    if (rc == RF_OK) {
        rc = tokenizer->kind->parse(tokenizer, root, origin, err);
    }
    if (rc != RF_OK) {
        rf_tokenizer_free(tokenizer);
        return rc;
    }
    *out = tokenizer;
    return RF_OK;
}

int rf_tokenizer_parse(rf_tokenizer **out, const char *text, size_t bytes, const char *origin,
                       rf_error *err)
{
    *out = NULL;
    json_error_t why;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    char *copy = bytes < SIZE_MAX ? malloc(bytes + 1) : NULL;
    int rc;
    if (root == NULL) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: the stored tokenizer is not JSON (%s): the file is damaged, make it "
                          "again",
                          origin, why.text);
    } else if (copy == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s: no memory for the tokenizer", origin);
    } else {
        memcpy(copy, text, bytes);
        copy[bytes] = '\0';
        rc = rf_tokenizer_make(out, root, copy, bytes, origin, err);
        copy = NULL;
    }
    free(copy);
    json_decref(root);
    return rc;
}

void rf_tokenizer_free(rf_tokenizer *tokenizer)
{
    if (tokenizer != NULL) {
        rf_bpe_free(tokenizer->bpe);
        rf_chat_free(&tokenizer->chat);
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
    return tokenizer->kind->special_name(tokenizer, id);
}

/* --- Text to ids and back --------------------------------------------------------------------- */

int rf_tokenizer_encode(const rf_tokenizer *tokenizer, rf_ids *out, const char *text, size_t bytes,
                        rf_error *err)
{
    return tokenizer->kind->encode(tokenizer, out, text, bytes, err);
}

static const char *bytes_of(const rf_tokenizer *tokenizer, int32_t id, bool skip_special, size_t *n)
{
    *n = 0;
    if (skip_special && rf_tokenizer_special_name(tokenizer, id) != NULL) {
        return NULL;
    }
    return tokenizer->kind->bytes_of(tokenizer, id, n);
}

int rf_tokenizer_decode(const rf_tokenizer *tokenizer, char **text, size_t *bytes,
                        const int32_t *id, int64_t n, bool skip_special, rf_error *err)
{
    rf_text raw = {0};
    *text = NULL;
    *bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        size_t more;
        const char *from = bytes_of(tokenizer, id[i], skip_special, &more);
        if (from != NULL) {
            rf_text_add(&raw, from, more);
        }
    }
    if (!raw.failed) {
        *text = rf_unicode_replace_broken(raw.data, raw.bytes, bytes);
    }
    rf_text_free(&raw);
    if (*text == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the text of %lld ids", (long long)n);
    }
    return RF_OK;
}
