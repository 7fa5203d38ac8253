#include "common/base/alloc.h"
#include "common/text/bpe_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* tokenizer.json but for the model and the added tokens: what is not understood is refused. */

int rf_bpe_refuse(const rf_bpe_reader *r, const char *format, ...)
{
    char what[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return rf_error_set(r->err, RF_ERR, "%s: %s", r->origin, what);
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type != NULL ? type : "missing";
}

static bool is_absent(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

static int unknown(const rf_bpe_reader *r, const char *field, const char *type, const char *known)
{
    return rf_bpe_refuse(r, "%s of type \"%.40s\" is not supported: known are %s", field, type,
                         known);
}

/* --- Normalizer ------------------------------------------------------------------------------- */

static int read_normalizer(const rf_bpe_reader *r, const json_t *value)
{
    static const char known[] = "null and NFC";
    if (is_absent(value)) {
        return RF_OK;
    }
    if (strcmp(type_of(value), "NFC") == 0) {
        r->bpe->nfc = true;
        return RF_OK;
    }
    const json_t *list = json_object_get(value, "normalizers");
    if (strcmp(type_of(value), "Sequence") != 0 || !json_is_array(list)) {
        return unknown(r, "normalizer", type_of(value), known);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        if (strcmp(type_of(item), "NFC") != 0) {
            return unknown(r, "normalizer", type_of(item), known);
        }
        r->bpe->nfc = true;
    }
    return RF_OK;
}

/* --- Pre-tokenizer ---------------------------------------------------------------------------- */

typedef struct splitting {
    const char *pattern; /* NULL: none yet */
    bool byte_level;
    enum { DIGITS_LIKE_OTHERS, DIGITS_EACH, DIGITS_TOGETHER } digits; /* cut out first */
} splitting;

static int read_split(splitting *s, const rf_bpe_reader *r, const json_t *item)
{
    const json_t *regex = json_object_get(json_object_get(item, "pattern"), "Regex");
    const char *behavior = json_string_value(json_object_get(item, "behavior"));
    if (!json_is_string(regex)) {
        return rf_bpe_refuse(r, "pre_tokenizer: a Split needs \"pattern\": {\"Regex\": ...}: other "
                                "patterns are not supported");
    }
    if (behavior == NULL || strcmp(behavior, "Isolated") != 0 ||
        json_is_true(json_object_get(item, "invert"))) {
        return rf_bpe_refuse(r, "pre_tokenizer: a Split must have \"behavior\": \"Isolated\" and "
                                "\"invert\": false: others are not supported");
    }
    if (s->pattern != NULL || s->byte_level || s->digits != DIGITS_LIKE_OTHERS) {
        return rf_bpe_refuse(
            r, "pre_tokenizer: only one Split or Digits, in front of ByteLevel, is supported");
    }
    s->pattern = json_string_value(regex);
    return RF_OK;
}

/* SmolLM's: digits are words of their own before ByteLevel's pattern splits the rest. */
static int read_digits(splitting *s, const rf_bpe_reader *r, const json_t *item)
{
    if (s->pattern != NULL || s->byte_level || s->digits != DIGITS_LIKE_OTHERS) {
        return rf_bpe_refuse(r, "pre_tokenizer: Digits must come first, in front of ByteLevel");
    }
    const bool each = json_is_true(json_object_get(item, "individual_digits"));
    s->digits = each ? DIGITS_EACH : DIGITS_TOGETHER;
    return RF_OK;
}

static int read_byte_level(splitting *s, const rf_bpe_reader *r, const json_t *item)
{
    const json_t *use_regex = json_object_get(item, "use_regex");
    if (json_is_true(json_object_get(item, "add_prefix_space"))) {
        return rf_bpe_refuse(r, "pre_tokenizer: ByteLevel with add_prefix_space is not supported");
    }
    bool regex = use_regex == NULL || json_is_true(use_regex);
    if (s->byte_level || (regex && s->pattern != NULL)) {
        return rf_bpe_refuse(r, "pre_tokenizer splits twice: only one Split or ByteLevel's own "
                                "pattern (use_regex) is supported");
    }
    s->byte_level = true;
    if (regex) {
        s->pattern = s->digits == DIGITS_EACH       ? rf_bpe_pattern_each_digit
                     : s->digits == DIGITS_TOGETHER ? rf_bpe_pattern_digits
                                                    : rf_bpe_pattern_gpt2;
    }
    return RF_OK;
}

static int read_splitter(splitting *s, const rf_bpe_reader *r, const json_t *item)
{
    if (strcmp(type_of(item), "Split") == 0) {
        return read_split(s, r, item);
    }
    if (strcmp(type_of(item), "ByteLevel") == 0) {
        return read_byte_level(s, r, item);
    }
    if (strcmp(type_of(item), "Digits") == 0) {
        return read_digits(s, r, item);
    }
    return unknown(r, "pre_tokenizer", type_of(item), "Split, Digits and ByteLevel");
}

static int read_pre_tokenizer(const rf_bpe_reader *r, const json_t *value)
{
    splitting s = {0};
    const json_t *list = json_object_get(value, "pretokenizers");
    if (is_absent(value)) {
        return unknown(r, "pre_tokenizer", "null", "Split, Digits and ByteLevel");
    }
    if (strcmp(type_of(value), "Sequence") == 0 && json_is_array(list)) {
        for (size_t i = 0; i < json_array_size(list); i++) {
            RF_TRY(read_splitter(&s, r, json_array_get(list, i)));
        }
    } else {
        RF_TRY(read_splitter(&s, r, value));
    }
    if (!s.byte_level) {
        return rf_bpe_refuse(r, "pre_tokenizer has no ByteLevel: only byte-level BPE is supported");
    }
    if (s.pattern == NULL) {
        return rf_bpe_refuse(
            r, "pre_tokenizer does not split texts into words: a Split or use_regex is needed");
    }
    return rf_bpe_pattern_new(&r->bpe->pattern, s.pattern, r->origin, r->err);
}

/* --- The rest --------------------------------------------------------------------------------- */

static int check_rest(const rf_bpe_reader *r, const json_t *root)
{
    const json_t *decoder = json_object_get(root, "decoder");
    if (!json_is_object(root)) {
        return rf_bpe_refuse(r, "a JSON object is needed");
    }
    if (is_absent(decoder) || strcmp(type_of(decoder), "ByteLevel") != 0) {
        return unknown(r, "decoder", is_absent(decoder) ? "null" : type_of(decoder), "ByteLevel");
    }
    if (!is_absent(r->added) && !json_is_array(r->added)) {
        return rf_bpe_refuse(r, "added_tokens must be an array");
    }
    if (!json_is_object(json_object_get(root, "model"))) {
        return rf_bpe_refuse(r, "model is missing: this is no tokenizer.json of Hugging Face's");
    }
    return RF_OK;
}

int rf_bpe_new(rf_bpe **out, const json_t *root, const char *origin, rf_error *err)
{
    rf_bpe *bpe = rf_alloc(1, sizeof *bpe);
    rf_bpe_reader r = {bpe, origin, json_object_get(root, "added_tokens"), err, NULL, {0}};
    int rc;
    *out = NULL;
    pthread_mutex_init(&bpe->mutex, NULL);
    RF_TRY_OUT(check_rest(&r, root));
    RF_TRY_OUT(read_normalizer(&r, json_object_get(root, "normalizer")));
    RF_TRY_OUT(read_pre_tokenizer(&r, json_object_get(root, "pre_tokenizer")));
    RF_TRY_OUT(rf_bpe_read_model(&r, json_object_get(root, "model")));
    RF_TRY_OUT(rf_bpe_read_added(&r));
    *out = bpe;
    return RF_OK;
out:
    rf_bpe_free(bpe);
    return rc;
}
