/* bpe_vocab.c: reads "model" of tokenizer.json, the vocabulary and its merges. What encoding relies on
 * is checked here, so that encoding checks nothing: every byte is a token, ids have no holes, and the
 * parts and the product of every merge are tokens.
 */
#include "common/base/alloc.h"
#include "common/base/utf8.h"
#include "common/text/bpe_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char *rf_bpe_shown(char out[80], const char *name)
{
    size_t n = 0;
    for (; name[n] != '\0' && n < 64; n++) {
        out[n] = (unsigned char)name[n] < 0x20 || name[n] == 0x7F ? '?' : name[n];
    }
    while (n > 0 && name[n] != '\0' && rf_utf8_continues(name[n])) {
        n--; /* not within a character */
    }
    out[n] = '\0';
    return out;
}

/* --- Vocabulary ------------------------------------------------------------------------------- */

static int check_fields(const rf_bpe_reader *r, const json_t *model)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!json_is_object(model) || (type != NULL && strcmp(type, "BPE") != 0)) {
        return rf_bpe_refuse(r, "model.type is \"%.40s\": only byte-level BPE is supported",
                             type != NULL ? type : "missing");
    }
    static const char *const strings[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(model, strings[i]);
        if (value != NULL && !json_is_null(value) &&
            (!json_is_string(value) || json_string_length(value) > 0)) {
            return rf_bpe_refuse(r, "model.%s is not empty: only byte-level BPE is supported",
                                 strings[i]);
        }
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout != NULL && !json_is_null(dropout) && json_number_value(dropout) != 0) {
        return rf_bpe_refuse(r, "model.dropout is set: ids would be random: set it to null");
    }
    if (json_is_true(json_object_get(model, "byte_fallback"))) {
        return rf_bpe_refuse(r, "model.byte_fallback is true: that is a SentencePiece tokenizer, "
                                "only byte-level BPE is supported");
    }
    if (!json_is_object(json_object_get(model, "vocab"))) {
        return rf_bpe_refuse(r, "model.vocab is missing or no object");
    }
    if (!json_is_array(json_object_get(model, "merges"))) {
        return rf_bpe_refuse(r, "model.merges is missing or no array: the file is incomplete");
    }
    return RF_OK;
}

/* The bytes of a token: through GPT-2's alphabet, or the name itself where it has other
 * characters (as Hugging Face's ByteLevel decoder does). */
static void add_text(rf_bpe *bpe, rf_bpe_token *token)
{
    char *text = bpe->memory + bpe->memory_used;
    size_t n = 0;
    for (size_t i = 0; i < token->name_bytes;) {
        int32_t c;
        i += rf_utf8_next(&c, token->name + i);
        int byte = rf_unicode_byte_of(c);
        if (byte < 0) {
            token->text = token->name;
            token->text_bytes = token->name_bytes;
            return;
        }
        text[n++] = (char)(unsigned char)byte;
    }
    bpe->memory_used += n;
    token->text = text;
    token->text_bytes = (uint32_t)n;
}

int rf_bpe_add_token(const rf_bpe_reader *r, const char *field, const char *name, size_t bytes,
                     json_int_t id)
{
    rf_bpe *bpe = r->bpe;
    char a[80], b[80];
    if (id < 0 || id >= bpe->size) {
        return rf_bpe_refuse(r,
                             "%s: token \"%s\" has id %" JSON_INTEGER_FORMAT
                             ", but there are at most %" PRId64
                             " tokens: ids must be 0, 1, 2, ... without holes",
                             field, rf_bpe_shown(a, name), id, bpe->size);
    }
    rf_bpe_token *token = &bpe->token[id];
    if (token->is_used) {
        return rf_bpe_refuse(r,
                             "%s: tokens \"%s\" and \"%s\" both have id %" JSON_INTEGER_FORMAT
                             ": give each its own",
                             field, rf_bpe_shown(a, token->name), rf_bpe_shown(b, name), id);
    }
    char *copy = bpe->memory + bpe->memory_used;
    memcpy(copy, name, bytes);
    copy[bytes] = '\0';
    bpe->memory_used += bytes + 1;
    *token = (rf_bpe_token){.name = copy, .name_bytes = (uint32_t)bytes, .is_used = true};
    add_text(bpe, token);
    bool is_new = rf_bpe_names_add(&bpe->names, copy, bytes, (int32_t)id);
    RF_ASSERT(is_new);
    return RF_OK;
}

static int read_vocab(rf_bpe_reader *r, json_t *vocab)
{
    const char *name;
    json_t *id;
    json_object_foreach(vocab, name, id)
    {
        if (!json_is_integer(id)) {
            char a[80];
            return rf_bpe_refuse(r, "model.vocab: the id of \"%s\" must be a whole number",
                                 rf_bpe_shown(a, name));
        }
        RF_TRY(rf_bpe_add_token(r, "model.vocab", name, strlen(name), json_integer_value(id)));
    }
    return RF_OK;
}

static int find_bytes(const rf_bpe_reader *r)
{
    for (int byte = 0; byte < 256; byte++) {
        char name[4];
        size_t n = rf_utf8_put(name, rf_unicode_of_byte(byte));
        int32_t id = rf_bpe_names_find(&r->bpe->names, name, n);
        if (id < 0) {
            return rf_bpe_refuse(
                r,
                "model.vocab has no token for the byte 0x%02X (\"%.*s\"): a byte-level vocabulary "
                "needs all 256 (train it with ByteLevel.alphabet())",
                (unsigned)byte, (int)n, name);
        }
        r->bpe->byte_id[byte] = id;
        r->is_made[id] = true;
    }
    return RF_OK;
}

/* --- Merges ----------------------------------------------------------------------------------- */

/* The two names of a merge: ["a", "b"], or "a b" as older files have it. */
static bool parts_of(const json_t *merge, const char *part[2], size_t bytes[2])
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *blank = strchr(text, ' ');
        if (blank == NULL || strchr(blank + 1, ' ') != NULL) {
            return false;
        }
        part[0] = text;
        bytes[0] = (size_t)(blank - text);
        part[1] = blank + 1;
        bytes[1] = strlen(blank + 1);
        return true;
    }
    if (!json_is_array(merge) || json_array_size(merge) != 2) {
        return false;
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *item = json_array_get(merge, i);
        if (!json_is_string(item)) {
            return false;
        }
        part[i] = json_string_value(item);
        bytes[i] = json_string_length(item);
    }
    return true;
}

static int no_token(const rf_bpe_reader *r, size_t i, const char *what, const char *name)
{
    char a[80];
    return rf_bpe_refuse(r,
                         "model.merges[%zu]: its %s \"%s\" is no token of the vocabulary: the "
                         "vocabulary and the merges do not belong together",
                         i, what, rf_bpe_shown(a, name));
}

static int read_merge(rf_bpe_reader *r, const json_t *merge, size_t i)
{
    rf_bpe *bpe = r->bpe;
    const char *part[2];
    size_t bytes[2];
    int32_t id[2];
    if (!parts_of(merge, part, bytes)) {
        return rf_bpe_refuse(r, "model.merges[%zu] must be [\"left\", \"right\"] or \"left right\"",
                             i);
    }
    r->product.bytes = 0;
    for (int k = 0; k < 2; k++) {
        if (bytes[k] == 0) {
            return rf_bpe_refuse(r,
                                 "model.merges[%zu] has an empty part: it would make one of its "
                                 "own parts, a cycle: remove it",
                                 i);
        }
        id[k] = rf_bpe_names_find(&bpe->names, part[k], bytes[k]);
        size_t begin = r->product.bytes;
        rf_text_add(&r->product, part[k], bytes[k]);
        if (id[k] < 0) {
            return no_token(r, i, k == 0 ? "left part" : "right part", r->product.data + begin);
        }
    }
    int32_t product = rf_bpe_names_find(&bpe->names, r->product.data, r->product.bytes);
    if (product < 0) {
        return no_token(r, i, "product", r->product.data);
    }
    if (!rf_bpe_merges_add(&bpe->merges, id[0], id[1], product)) {
        char a[80];
        return rf_bpe_refuse(r, "model.merges[%zu], which makes \"%s\", is there twice: remove one",
                             i, rf_bpe_shown(a, r->product.data));
    }
    r->is_made[product] = true;
    return RF_OK;
}

static bool is_added(const rf_bpe_reader *r, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(r->added, i, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        if (content != NULL && strcmp(content, name) == 0) {
            return true;
        }
    }
    return false;
}

/* A token that no merge makes would never be used: merges are missing. Files that take whole words
 * from the vocabulary (ignore_merges) need none. */
static int check_made(const rf_bpe_reader *r)
{
    for (int64_t id = 0; id < r->bpe->size && !r->bpe->ignore_merges; id++) {
        const rf_bpe_token *token = &r->bpe->token[id];
        if (!token->is_used || r->is_made[id]) {
            continue;
        }
        char name[80];
        if (!is_added(r, token->name)) {
            return rf_bpe_refuse(r,
                                 "model.merges: none makes token \"%s\" (id %" PRId64
                                 "): merges are missing, get the whole file",
                                 rf_bpe_shown(name, token->name), id);
        }
    }
    return RF_OK;
}

/* With ignore_merges a word that is itself a token is not merged: tokens by their bytes. (Where text
 * is name, the name has characters that stand for no byte, and no word can be equal to it.) */
static void index_words(rf_bpe *bpe)
{
    rf_bpe_names_new(&bpe->words, (size_t)bpe->size);
    for (int64_t id = 0; id < bpe->size; id++) {
        const rf_bpe_token *token = &bpe->token[id];
        if (token->is_used && token->text != token->name) {
            (void)rf_bpe_names_add(&bpe->words, token->text, token->text_bytes, (int32_t)id);
        }
    }
}

/* --- All of it -------------------------------------------------------------------------------- */

/* Room for all tokens, added ones included. */
static int reserve(rf_bpe_reader *r, json_t *vocab)
{
    rf_bpe *bpe = r->bpe;
    size_t n = json_object_size(vocab) + json_array_size(r->added), bytes = 1, i;
    const char *name;
    json_t *item;
    json_object_foreach(vocab, name, item)
    {
        bytes += 2 * strlen(name) + 1; /* the name, and its bytes, which are not more */
    }
    json_array_foreach(r->added, i, item)
    {
        /* The name, its bytes, and its normalised form, which may be three times as long. */
        bytes += 8 * json_string_length(json_object_get(item, "content")) + 1;
    }
    if (n > INT32_MAX / 2) {
        return rf_bpe_refuse(r, "%zu tokens are too many", n);
    }
    bpe->size = (int64_t)n;
    bpe->token = rf_alloc(n, sizeof *bpe->token);
    bpe->memory = rf_alloc(bytes, 1);
    r->is_made = rf_alloc(n, sizeof *r->is_made);
    rf_bpe_names_new(&bpe->names, n);
    return RF_OK;
}

int rf_bpe_read_model(rf_bpe_reader *r, const json_t *model)
{
    rf_bpe *bpe = r->bpe;
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    int rc;
    RF_TRY_OUT(check_fields(r, model));
    bpe->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    RF_TRY_OUT(reserve(r, vocab));
    RF_TRY_OUT(read_vocab(r, vocab));
    RF_TRY_OUT(find_bytes(r));
    rf_bpe_merges_new(&bpe->merges, json_array_size(merges));
    for (size_t i = 0; i < json_array_size(merges); i++) {
        RF_TRY_OUT(read_merge(r, json_array_get(merges, i), i));
    }
    RF_TRY_OUT(check_made(r));
    if (bpe->ignore_merges) {
        index_words(bpe);
    }
out:
    free(r->is_made);
    rf_text_free(&r->product);
    return rc;
}
