#include "common/base/alloc.h"
#include "common/text/bpe_private.h"

#include <stdlib.h>
#include <string.h>

const char rf_bpe_pattern_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* For files that cut digits out and split what is left of them and right of them by GPT-2's pattern:
 * for that pattern the text ends in front of a digit, so that its \s+(?!\S) becomes the last but one
 * alternative here. */
#define BETWEEN_DIGITS(digits)                                                                     \
    digits "|'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?![^\\s\\p{N}])|\\s+"
const char rf_bpe_pattern_each_digit[] = BETWEEN_DIGITS("\\p{N}");
const char rf_bpe_pattern_digits[] = BETWEEN_DIGITS("\\p{N}+");
const char rf_bpe_pattern_qwen[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* PCRE2's \s under UCP has U+180E, which Unicode's White_Space has not. */
#define SPACES                                                                                     \
    "\\t-\\r\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}"   \
    "\\x{3000}"

/* --- Spelling out what PCRE2's tables lack ---------------------------------------------------- */

/* Writes the class escape at `from`, if it is one of those that differ, and returns its bytes; 0:
 * another. */
static size_t spell_escape(rf_text *out, const char *from, bool in_class)
{
    const char *content = NULL, *more = "";
    size_t n = 0;
    bool negated = false;
    if (strncmp(from, "\\p{L}", 5) == 0) {
        content = "\\p{L}";
        more = rf_unicode_new_letters();
        n = 5;
    } else if (strncmp(from, "\\p{N}", 5) == 0) {
        content = "\\p{N}";
        more = rf_unicode_new_numbers();
        n = 5;
    } else if (strncmp(from, "\\s", 2) == 0 || (strncmp(from, "\\S", 2) == 0 && !in_class)) {
        content = SPACES;
        negated = from[1] == 'S';
        n = 2;
    }
    if (n > 0) {
        rf_text_add_string(out, in_class ? "" : negated ? "[^" : "[");
        rf_text_add_string(out, content);
        rf_text_add_string(out, more);
        rf_text_add_string(out, in_class ? "" : "]");
    }
    return n;
}

static void spell_out(rf_text *out, const char *pattern)
{
    bool in_class = false;
    for (const char *p = pattern; *p != '\0';) {
        size_t n = *p == '\\' ? spell_escape(out, p, in_class) : 0;
        if (n == 0) {
            n = *p == '\\' && p[1] != '\0' ? 2 : 1;
            in_class = n == 1 && *p == '[' ? true : n == 1 && *p == ']' ? false : in_class;
            rf_text_add(out, p, n);
        }
        p += n;
    }
}

/* --- Compiling -------------------------------------------------------------------------------- */

static int compile(pcre2_code **out, bool *is_jit, const char *pattern, const char *origin,
                   rf_error *err)
{
    int number;
    size_t place;
    uint32_t may_be_empty = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C,
                         &number, &place, NULL);
    if (*out == NULL) {
        char why[160];
        pcre2_get_error_message(number, (PCRE2_UCHAR *)why, sizeof why);
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer: the pattern is not one of PCRE2 (%s at byte %zu): "
                            "use the pattern of Qwen, GPT-2 or Llama-3",
                            origin, why, place);
    }
    if (pcre2_pattern_info(*out, PCRE2_INFO_MATCHEMPTY, &may_be_empty) != 0 || may_be_empty != 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: pre_tokenizer: the pattern matches nothing at all: every "
                            "alternative must take a character",
                            origin);
    }
    /* A system without executable memory has no JIT: slower, the same words. */
    *is_jit = pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE) == 0;
    return RF_OK;
}

int rf_bpe_pattern_new(rf_bpe_pattern *out, const char *text, const char *origin, rf_error *err)
{
    *out = (rf_bpe_pattern){0};
    rf_text exact = {0};
    bool is_exact_jit;
    spell_out(&exact, text);
    out->text = rf_alloc_string(text);
    int rc;
    RF_TRY_OUT(compile(&out->code, &out->is_jit, text, origin, err));
    RF_TRY_OUT(compile(&out->exact_code, &is_exact_jit, exact.data != NULL ? exact.data : "",
                       origin, err));
    out->is_jit = out->is_jit && is_exact_jit;
out:
    rf_text_free(&exact);
    if (rc != RF_OK) {
        rf_bpe_pattern_free(out);
    }
    return rc;
}

void rf_bpe_pattern_free(rf_bpe_pattern *pattern)
{
    pcre2_code_free(pattern->code);
    pcre2_code_free(pattern->exact_code);
    free(pattern->text);
    *pattern = (rf_bpe_pattern){0};
}

/* --- Matching --------------------------------------------------------------------------------- */

enum { JIT_STACK_BYTES = 8 << 20 };

void rf_bpe_matcher_new(rf_bpe_matcher *out, const rf_bpe_pattern *pattern)
{
    out->data = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    out->context = pcre2_match_context_create(NULL);
    out->stack = pcre2_jit_stack_create((size_t)32 << 10, JIT_STACK_BYTES, NULL);
    if (out->data == NULL || out->context == NULL || out->stack == NULL) {
        rf_error_out_of_memory(1, JIT_STACK_BYTES);
    }
    pcre2_jit_stack_assign(out->context, NULL, out->stack);
}

void rf_bpe_matcher_free(rf_bpe_matcher *matcher)
{
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    *matcher = (rf_bpe_matcher){0};
}

int rf_bpe_next_word(size_t *end, const rf_bpe_pattern *pattern, const rf_bpe_matcher *matcher,
                     bool exact, const char *text, size_t begin, size_t bytes, rf_error *err)
{
    const pcre2_code *code = exact ? pattern->exact_code : pattern->code;
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int n = pattern->is_jit
                ? pcre2_jit_match(code, subject, bytes, begin, 0, matcher->data, matcher->context)
                : pcre2_match(code, subject, bytes, begin, PCRE2_NO_UTF_CHECK, matcher->data,
                              matcher->context);
    if (n == PCRE2_ERROR_NOMATCH) {
        *end = bytes;
        return RF_OK;
    }
    if (n < 0) {
        char why[160];
        pcre2_get_error_message(n, (PCRE2_UCHAR *)why, sizeof why);
        return rf_error_set(
            err, RF_ERR, "the text cannot be split into words (%s): cut it into shorter ones", why);
    }
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(matcher->data);
    *end = place[0] > begin ? place[0] : place[1];
    /* \K and look-behind could move a match to where no word may begin. */
    if (*end <= begin || *end > bytes) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer's pattern matches before the place it is asked for: use "
                            "the pattern of Qwen, GPT-2 or Llama-3");
    }
    return RF_OK;
}
