#include "common/base/hash.h"
#include "common/text/tokenizer_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Stored as {"format", "version", "kind": "bpe", "template", "system", "eos", "mask", "begin",
 * "tokenizer": tokenizer.json with the added tokens in it, "config": tokenizer_config.json,
 * "generation": generation_config.json}, the last two as export writes them. */

static int damaged(const char *origin, const char *field, rf_error *err)
{
    return rf_error_set(err, RF_ERR,
                        "%s: the stored tokenizer's field \"%s\" is wrong: the file is damaged, "
                        "make it again",
                        origin, field);
}

static int read_chat(rf_chat *chat, const json_t *root, const char *origin, rf_error *err)
{
    const char *source = json_string_value(json_object_get(root, "template"));
    const json_t *system = json_object_get(root, "system");
    if (source == NULL) {
        return damaged(origin, "template", err);
    }
    if (system != NULL && !json_is_string(system)) {
        return damaged(origin, "system", err);
    }
    return rf_chat_open(chat, source, json_string_value(system), json_object_get(root, "config"),
                        origin, err);
}

static bool read_id(int32_t *out, const json_t *value, int64_t size)
{
    *out = -1;
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= size) {
        return false;
    }
    *out = (int32_t)json_integer_value(value);
    return true;
}

static int read_specials(rf_tokenizer *tokenizer, const json_t *root, const char *origin,
                         rf_error *err)
{
    rf_specials *s = &tokenizer->specials;
    *s = (rf_specials){.system = -1, .user = -1, .assistant = -1};
    const json_t *eos = json_object_get(root, "eos");
    const size_t most = sizeof s->eos / sizeof s->eos[0];
    if (!json_is_array(eos) || json_array_size(eos) > most) {
        return damaged(origin, "eos", err);
    }
    for (size_t i = 0; i < json_array_size(eos); i++) {
        if (!read_id(&s->eos[i], json_array_get(eos, i), tokenizer->size)) {
            return damaged(origin, "eos", err);
        }
        s->n_eos++;
    }
    if (!read_id(&s->mask, json_object_get(root, "mask"), tokenizer->size)) {
        return damaged(origin, "mask", err);
    }
    if (!read_id(&s->begin, json_object_get(root, "begin"), tokenizer->size) ||
        s->begin == s->mask) {
        return damaged(origin, "begin", err);
    }
    for (int32_t i = 0; i < s->n_eos; i++) {
        if (s->eos[i] == s->mask || s->eos[i] == s->begin) {
            return damaged(origin, "eos", err);
        }
    }
    return RF_OK;
}

static uint64_t hash_all(const rf_tokenizer *t)
{
    const rf_specials *s = &t->specials;
    const char *name = t->chat.source;
    const char *system = t->chat.system != NULL ? t->chat.system : "";
    char ids[16 * 16];
    int n = snprintf(ids, sizeof ids, "bpe %" PRId32 " %" PRId32, s->mask, s->begin);
    for (int32_t i = 0; i < s->n_eos; i++) {
        n += snprintf(ids + n, sizeof ids - (size_t)n, " %" PRId32, s->eos[i]);
    }
    uint64_t hash = rf_hash_bytes(RF_HASH_BEGIN, ids, (size_t)n + 1);
    hash = rf_hash_bytes(hash, name, strlen(name) + 1);
    hash = rf_hash_bytes(hash, system, strlen(system) + 1);
    return rf_bpe_hash(t->bpe, hash);
}

static int parse_bpe(rf_tokenizer *tokenizer, const json_t *root, const char *origin, rf_error *err)
{
    RF_TRY(read_chat(&tokenizer->chat, root, origin, err));
    RF_TRY(rf_bpe_new(&tokenizer->bpe, json_object_get(root, "tokenizer"), origin, err));
    tokenizer->chat.find = rf_bpe_find_special;
    tokenizer->chat.tokens = tokenizer->bpe;
    tokenizer->size = rf_bpe_size(tokenizer->bpe);
    RF_TRY(read_specials(tokenizer, root, origin, err));
    rf_bpe_hide(tokenizer->bpe, tokenizer->specials.mask);
    rf_bpe_hide(tokenizer->bpe, tokenizer->specials.begin);
    tokenizer->hash = hash_all(tokenizer);
    return RF_OK;
}

static int encode_bpe(const rf_tokenizer *tokenizer, rf_ids *out, const char *text, size_t bytes,
                      rf_error *err)
{
    return rf_bpe_encode(tokenizer->bpe, out, text, bytes, false, err);
}

/* As no text can hold the mask or the begin token, none is written for them. */
static const char *bytes_of_bpe(const rf_tokenizer *tokenizer, int32_t id, size_t *bytes)
{
    if (id == tokenizer->specials.mask || id == tokenizer->specials.begin) {
        *bytes = 0;
        return NULL;
    }
    return rf_bpe_bytes(tokenizer->bpe, id, bytes);
}

static const char *special_name_bpe(const rf_tokenizer *tokenizer, int32_t id)
{
    return rf_bpe_special_name(tokenizer->bpe, id);
}

const rf_tokenizer_kind rf_tokenizer_bpe = {"bpe", parse_bpe, encode_bpe, bytes_of_bpe,
                                            special_name_bpe};
