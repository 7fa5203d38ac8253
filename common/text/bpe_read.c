#include "common/base/alloc.h"
#include "common/text/bpe_private.h"

#include <string.h>

/* tokenizer.json but for the model and the added tokens: what is not understood is refused. */

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type != NULL ? type : "missing";
}

static bool is_absent(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

static int unknown(const char *origin, const char *field, const char *type, const char *known,
                   rf_error *err)
{
    return rf_error_set(err, RF_ERR, "%s: %s of type \"%.40s\" is not supported: known are %s",
                        origin, field, type, known);
}

/* --- Normalizer ------------------------------------------------------------------------------- */

static int read_normalizer(rf_bpe *bpe, const json_t *value, const char *origin, rf_error *err)
{
    static const char known[] = "null and NFC";
    if (is_absent(value)) {
        return RF_OK;
    }
    if (strcmp(type_of(value), "NFC") == 0) {
        bpe->nfc = true;
        return RF_OK;
    }
    const json_t *list = json_object_get(value, "normalizers");
    if (strcmp(type_of(value), "Sequence") != 0 || !json_is_array(list)) {
        return unknown(origin, "normalizer", type_of(value), known, err);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        if (strcmp(type_of(item), "NFC") != 0) {
            return unknown(origin, "normalizer", type_of(item), known, err);
        }
        bpe->nfc = true;
    }
    return RF_OK;
}

/* --- Pre-tokenizer ---------------------------------------------------------------------------- */

typedef struct splitting {
    const char *pattern; /* NULL: none yet */
    bool byte_level;
    enum { DIGITS_LIKE_OTHERS, DIGITS_EACH, DIGITS_TOGETHER } digits; /* cut out first */
} splitting;

static int read_split(splitting *s, const json_t *item, const char *origin, rf_error *err)
{
    const json_t *regex = json_object_get(json_object_get(item, "pattern"), "Regex");
    const char *behavior = json_string_value(json_object_get(item, "behavior"));
    if (!json_is_string(regex)) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer: a Split needs \"pattern\": {\"Regex\": ...}: other "
                            "patterns are not supported",
                            origin);
    }
    if (behavior == NULL || strcmp(behavior, "Isolated") != 0 ||
        json_is_true(json_object_get(item, "invert"))) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer: a Split must have \"behavior\": \"Isolated\" and "
                            "\"invert\": false: others are not supported",
                            origin);
    }
    if (s->pattern != NULL || s->byte_level || s->digits != DIGITS_LIKE_OTHERS) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer: only one Split or Digits, in front of ByteLevel, "
                            "is supported",
                            origin);
    }
    s->pattern = json_string_value(regex);
    return RF_OK;
}

/* SmolLM's: digits are words of their own before ByteLevel's pattern splits the rest. */
static int read_digits(splitting *s, const json_t *item, const char *origin, rf_error *err)
{
    if (s->pattern != NULL || s->byte_level || s->digits != DIGITS_LIKE_OTHERS) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer: Digits must come first, in front of ByteLevel",
                            origin);
    }
    const bool each = json_is_true(json_object_get(item, "individual_digits"));
    s->digits = each ? DIGITS_EACH : DIGITS_TOGETHER;
    return RF_OK;
}

static int read_byte_level(splitting *s, const json_t *item, const char *origin, rf_error *err)
{
    const json_t *use_regex = json_object_get(item, "use_regex");
    if (json_is_true(json_object_get(item, "add_prefix_space"))) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer: ByteLevel with add_prefix_space is not supported",
                            origin);
    }
    bool regex = use_regex == NULL || json_is_true(use_regex);
    if (s->byte_level || (regex && s->pattern != NULL)) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer splits twice: only one Split or ByteLevel's own "
                            "pattern (use_regex) is supported",
                            origin);
    }
    s->byte_level = true;
    if (regex) {
        s->pattern = s->digits == DIGITS_EACH       ? rf_bpe_pattern_each_digit
                     : s->digits == DIGITS_TOGETHER ? rf_bpe_pattern_digits
                                                    : rf_bpe_pattern_gpt2;
    }
    return RF_OK;
}

static int read_splitter(splitting *s, const json_t *item, const char *origin, rf_error *err)
{
    if (strcmp(type_of(item), "Split") == 0) {
        return read_split(s, item, origin, err);
    }
    if (strcmp(type_of(item), "ByteLevel") == 0) {
        return read_byte_level(s, item, origin, err);
    }
    if (strcmp(type_of(item), "Digits") == 0) {
        return read_digits(s, item, origin, err);
    }
    return unknown(origin, "pre_tokenizer", type_of(item), "Split, Digits and ByteLevel", err);
}

static int read_pre_tokenizer(rf_bpe *bpe, const json_t *value, const char *origin, rf_error *err)
{
    splitting s = {0};
    const json_t *list = json_object_get(value, "pretokenizers");
    if (is_absent(value)) {
        return unknown(origin, "pre_tokenizer", "null", "Split, Digits and ByteLevel", err);
    }
    if (strcmp(type_of(value), "Sequence") == 0 && json_is_array(list)) {
        for (size_t i = 0; i < json_array_size(list); i++) {
            RF_TRY(read_splitter(&s, json_array_get(list, i), origin, err));
        }
    } else {
        RF_TRY(read_splitter(&s, value, origin, err));
    }
    if (!s.byte_level) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer has no ByteLevel: only byte-level BPE is supported",
                            origin);
    }
    if (s.pattern == NULL) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer does not split texts into words: a Split or "
                            "use_regex is needed",
                            origin);
    }
    return rf_bpe_pattern_new(&bpe->pattern, s.pattern, origin, err);
}

/* --- The rest --------------------------------------------------------------------------------- */

static int check_rest(const json_t *root, const char *origin, rf_error *err)
{
    const json_t *decoder = json_object_get(root, "decoder");
    if (is_absent(decoder) || strcmp(type_of(decoder), "ByteLevel") != 0) {
        return unknown(origin, "decoder", is_absent(decoder) ? "null" : type_of(decoder),
                       "ByteLevel", err);
    }
    const json_t *added = json_object_get(root, "added_tokens");
    if (!is_absent(added) && !json_is_array(added)) {
        return rf_error_set(err, RF_ERR, "%s: added_tokens must be an array", origin);
    }
    if (!json_is_object(json_object_get(root, "model"))) {
        return rf_error_set(err, RF_ERR,
                            "%s: model is missing: this is no tokenizer.json of Hugging Face's",
                            origin);
    }
    return RF_OK;
}

int rf_bpe_new(rf_bpe **out, const json_t *root, const char *origin, rf_error *err)
{
    *out = NULL;
    if (!json_is_object(root)) {
        return rf_error_set(err, RF_ERR, "%s: a JSON object is needed", origin);
    }
    rf_bpe *bpe = rf_alloc(1, sizeof *bpe);
    const json_t *added = json_object_get(root, "added_tokens");
    int rc;
    pthread_mutex_init(&bpe->mutex, NULL);
    RF_TRY_OUT(check_rest(root, origin, err));
    RF_TRY_OUT(read_normalizer(bpe, json_object_get(root, "normalizer"), origin, err));
    RF_TRY_OUT(read_pre_tokenizer(bpe, json_object_get(root, "pre_tokenizer"), origin, err));
    RF_TRY_OUT(rf_bpe_read_model(bpe, json_object_get(root, "model"), added, origin, err));
    RF_TRY_OUT(rf_bpe_read_added(bpe, added, origin, err));
out:
    if (rc != RF_OK) {
        rf_bpe_free(bpe);
        return rc;
    }
    *out = bpe;
    return RF_OK;
}
