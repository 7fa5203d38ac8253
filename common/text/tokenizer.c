#include "common/text/tokenizer.h"

#include "common/base/alloc.h"
#include "common/base/utf8.h"
#include "common/text/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

static const rf_tokenizer_kind *const kinds[] = {&rf_tokenizer_byte, &rf_tokenizer_bpe};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

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
    rf_tokenizer *tokenizer = rf_alloc(1, sizeof *tokenizer);
    tokenizer->text = text;
    tokenizer->bytes = bytes;
    int rc;
    RF_TRY_OUT(kind_of(&tokenizer->kind, root, origin, err));
    RF_TRY_OUT(tokenizer->kind->parse(tokenizer, root, origin, err));
    tokenizer->n_own = tokenizer->size;
    *out = tokenizer;
    return RF_OK;
out:
    rf_tokenizer_free(tokenizer);
    return rc;
}

int rf_tokenizer_parse(rf_tokenizer **out, const char *text, size_t bytes, const char *origin,
                       rf_error *err)
{
    *out = NULL;
    json_error_t why;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL) {
        return rf_error_set(err, RF_ERR,
                            "%s: the stored tokenizer is not JSON (%s): the file is damaged, make "
                            "it again",
                            origin, why.text);
    }
    int rc = rf_tokenizer_make(out, root, rf_alloc_copy(text, bytes), bytes, origin, err);
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

int64_t rf_tokenizer_n_own(const rf_tokenizer *tokenizer)
{
    return tokenizer->n_own;
}

size_t rf_tokenizer_memory(const rf_tokenizer *tokenizer)
{
    return tokenizer->bytes + (tokenizer->bpe != NULL ? rf_bpe_memory(tokenizer->bpe) : 0);
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

const char *rf_tokenizer_bytes(const rf_tokenizer *tokenizer, size_t *n, int32_t id,
                               bool skip_special)
{
    *n = 0;
    if (skip_special && rf_tokenizer_special_name(tokenizer, id) != NULL) {
        return NULL;
    }
    return tokenizer->kind->bytes_of(tokenizer, id, n);
}

char *rf_tokenizer_decode(const rf_tokenizer *tokenizer, size_t *bytes, const int32_t *id,
                          int64_t n, bool skip_special)
{
    rf_text raw = {0};
    for (int64_t i = 0; i < n; i++) {
        size_t more;
        const char *from = rf_tokenizer_bytes(tokenizer, &more, id[i], skip_special);
        if (from != NULL) {
            rf_text_add(&raw, from, more);
        }
    }
    char *text = rf_utf8_repair(raw.data, raw.bytes, bytes);
    rf_text_free(&raw);
    return text;
}
