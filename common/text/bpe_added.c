#include "common/base/alloc.h"
#include "common/base/utf8.h"
#include "common/text/bpe_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* "added_tokens" of tokenizer.json, such as <|im_end|>: reading them, and finding them in texts, which
 * happens before these are split into words. */

static int added_flag(bool *out, const rf_bpe_reader *r, const json_t *item, size_t i,
                      const char *key)
{
    const json_t *value = json_object_get(item, key);
    *out = json_is_true(value);
    if (value != NULL && !json_is_boolean(value)) {
        return rf_bpe_refuse(r, "added_tokens[%zu].%s must be true or false", i, key);
    }
    return RF_OK;
}

static void add_to_finder(rf_bpe *bpe, rf_bpe_added added)
{
    if (added.normalized && bpe->nfc) {
        rf_text normal = {0};
        rf_unicode_nfc(&normal, added.text, added.bytes);
        RF_ASSERT(normal.bytes <= 3 * added.bytes);
        added.text = memcpy(bpe->memory + bpe->memory_used, normal.data, normal.bytes);
        added.bytes = normal.bytes;
        bpe->memory_used += normal.bytes;
        rf_text_free(&normal);
    }
    rf_bpe_finder *finder = added.normalized ? &bpe->normalized : &bpe->raw;
    finder->added = rf_alloc_grow(finder->added, &finder->capacity, (size_t)finder->n + 1,
                                  sizeof *finder->added);
    finder->added[finder->n++] = added;
}

static int read_added_token(const rf_bpe_reader *r, const json_t *item, size_t i)
{
    rf_bpe *bpe = r->bpe;
    const json_t *content = json_object_get(item, "content"), *id = json_object_get(item, "id");
    if (!json_is_string(content) || json_string_length(content) == 0 || !json_is_integer(id)) {
        return rf_bpe_refuse(r,
                             "added_tokens[%zu] needs \"content\", a text that is not empty, and "
                             "\"id\", a whole number",
                             i);
    }
    rf_bpe_added added = {0};
    bool special, single_word;
    RF_TRY(added_flag(&special, r, item, i, "special"));
    RF_TRY(added_flag(&single_word, r, item, i, "single_word"));
    RF_TRY(added_flag(&added.lstrip, r, item, i, "lstrip"));
    RF_TRY(added_flag(&added.rstrip, r, item, i, "rstrip"));
    RF_TRY(added_flag(&added.normalized, r, item, i, "normalized"));
    const char *name = json_string_value(content);
    size_t bytes = json_string_length(content);
    char a[80];
    if (single_word) {
        return rf_bpe_refuse(
            r, "added_tokens[%zu] (\"%s\"): single_word is not supported: set it to false", i,
            rf_bpe_shown(a, name));
    }
    int32_t known = rf_bpe_names_find(&bpe->names, name, bytes);
    if (known < 0) {
        RF_TRY(rf_bpe_add_token(r, "added_tokens", name, bytes, json_integer_value(id)));
        known = (int32_t)json_integer_value(id);
    } else if (known != json_integer_value(id) || bpe->token[known].is_added) {
        return rf_bpe_refuse(r,
                             "added_tokens[%zu]: \"%s\" has id %" JSON_INTEGER_FORMAT
                             " here and %" PRId32 " before: give it once",
                             i, rf_bpe_shown(a, name), json_integer_value(id), known);
    }
    rf_bpe_token *token = &bpe->token[known];
    token->is_added = true;
    token->is_special = special;
    added.id = known;
    added.text = token->name;
    added.bytes = token->name_bytes;
    add_to_finder(bpe, added);
    return RF_OK;
}

/* Every id below the number of tokens must be taken. */
static int check_holes(const rf_bpe_reader *r)
{
    rf_bpe *bpe = r->bpe;
    int64_t n = 0, hole = -1;
    for (int64_t id = 0; id < bpe->size; id++) {
        n += bpe->token[id].is_used;
        hole = hole < 0 && !bpe->token[id].is_used ? id : hole;
    }
    if (hole >= 0 && hole < n) {
        return rf_bpe_refuse(r,
                             "no token has id %" PRId64 ", but there are %" PRId64
                             " tokens: ids must be 0, 1, 2, ... without holes",
                             hole, n);
    }
    bpe->size = n;
    return RF_OK;
}

/* By first byte, then from long to short: the first that fits is the longest. */
static int compare_added(const void *left, const void *right)
{
    const rf_bpe_added *a = left, *b = right;
    unsigned char x = (unsigned char)a->text[0], y = (unsigned char)b->text[0];
    if (x != y) {
        return x < y ? -1 : 1;
    }
    if (a->bytes != b->bytes) {
        return a->bytes > b->bytes ? -1 : 1;
    }
    return a->id < b->id ? -1 : a->id > b->id;
}

static void sort_finder(rf_bpe_finder *finder)
{
    if (finder->n > 0) {
        qsort(finder->added, (size_t)finder->n, sizeof *finder->added, compare_added);
    }
    int64_t i = 0;
    for (int byte = 0; byte <= 256; byte++) {
        while (i < finder->n && (unsigned char)finder->added[i].text[0] < byte) {
            i++;
        }
        finder->first[byte] = i;
    }
}

int rf_bpe_read_added(const rf_bpe_reader *r)
{
    for (size_t i = 0; i < json_array_size(r->added); i++) {
        RF_TRY(read_added_token(r, json_array_get(r->added, i), i));
    }
    RF_TRY(check_holes(r));
    sort_finder(&r->bpe->raw);
    sort_finder(&r->bpe->normalized);
    return RF_OK;
}

/* --- Finding them in a text ------------------------------------------------------------------- */

static const rf_bpe_added *added_at(const rf_bpe_finder *finder, const char *text, size_t bytes)
{
    const unsigned char byte = (unsigned char)text[0];
    for (int64_t i = finder->first[byte]; i < finder->first[byte + 1]; i++) {
        const rf_bpe_added *added = &finder->added[i];
        if (added->bytes <= bytes && !added->is_hidden &&
            memcmp(added->text, text, added->bytes) == 0) {
            return added;
        }
    }
    return NULL;
}

static size_t skip_spaces(const char *text, size_t begin, size_t bytes)
{
    int32_t c;
    size_t n;
    while (begin < bytes && (n = rf_utf8_next(&c, text + begin), rf_unicode_is_space(c))) {
        begin += n;
    }
    return begin;
}

/* Where the blanks begin that end at `end`. */
static size_t skip_spaces_back(const char *text, size_t from, size_t end)
{
    while (end > from) {
        size_t begin = end - 1;
        while (begin > from && rf_utf8_continues(text[begin])) {
            begin--;
        }
        int32_t c;
        rf_utf8_next(&c, text + begin);
        if (!rf_unicode_is_space(c)) {
            break;
        }
        end = begin;
    }
    return end;
}

bool rf_bpe_find_added(const rf_bpe_finder *finder, const char *text, size_t from, size_t bytes,
                       const rf_bpe_added **found, size_t *begin, size_t *end)
{
    for (size_t i = from; finder->n > 0 && i < bytes; i++) {
        const unsigned char byte = (unsigned char)text[i];
        if (finder->first[byte] == finder->first[byte + 1]) {
            continue;
        }
        const rf_bpe_added *added = added_at(finder, text + i, bytes - i);
        if (added != NULL) {
            *found = added;
            *begin = added->lstrip ? skip_spaces_back(text, from, i) : i;
            *end = i + added->bytes;
            *end = added->rstrip ? skip_spaces(text, *end, bytes) : *end;
            return true;
        }
    }
    return false;
}
