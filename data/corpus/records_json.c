/* records_json.c: JSON as data sets have it. */
#include "data/corpus/records.h"

#include "common/base/alloc.h"
#include "common/base/utf8.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- Lines ------------------------------------------------------------------------------------ */

/* The number of \uXXXX at p; 0: there is none. */
static unsigned escape_at(const char *p)
{
    unsigned value = 0;
    if (p[0] != '\\' || p[1] != 'u') {
        return 0;
    }
    for (int k = 2; k < 6; k++) {
        static const char digits[] = "0123456789abcdef0123456789ABCDEF";
        const char *digit = p[k] != '\0' ? strchr(digits, p[k]) : NULL;
        if (digit == NULL) {
            return 0;
        }
        value = 16 * value + (unsigned)(digit - digits) % 16;
    }
    return value;
}

/* Copies what begins with a backslash in a string; half a pair of surrogates becomes U+FFFD. */
static size_t repair_escape(rf_text *out, const char *p)
{
    unsigned first = escape_at(p);
    bool is_high = first >= 0xD800 && first < 0xDC00, is_low = first >= 0xDC00 && first < 0xE000;
    unsigned second = is_high ? escape_at(p + 6) : 0;
    size_t bytes = first == 0 ? 2 : 6;
    if (is_low || (is_high && (second < 0xDC00 || second >= 0xE000))) {
        rf_text_add_string(out, "\\uFFFD");
        return bytes;
    }
    bytes = is_high ? 12 : p[1] != '\0' ? bytes : 1;
    rf_text_add(out, p, bytes);
    return bytes;
}

/* Copies a number or a word outside of strings; what is no number of JSON becomes null. */
static size_t repair_value(rf_text *out, const char *p)
{
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    size_t bytes = strcspn(p, " \t\r\n,:[]{}\"");
    bytes = bytes > 0 ? bytes : 1;
    char *end = NULL;
    bool is_number = strspn(p, "-+.eE0123456789") == bytes;
    bool is_odd = is_number && !isfinite(strtod(p, &end)) && end == p + bytes;
    for (int k = 0; k < 3; k++) {
        is_odd = is_odd || (strlen(words[k]) == bytes && memcmp(p, words[k], bytes) == 0);
    }
    rf_text_add(out, is_odd ? "null" : p, is_odd ? 4 : bytes);
    return bytes;
}

/* The line (0-terminated) as JSON would have it. */
static void repair(rf_text *out, const char *line, size_t bytes)
{
    bool in_string = false;
    for (const char *p = line; p < line + bytes;) {
        if (*p == '"' || (in_string && *p != '\\')) {
            in_string = in_string != (*p == '"');
            rf_text_add(out, p++, 1);
        } else {
            p += in_string ? repair_escape(out, p) : repair_value(out, p);
        }
    }
}

static json_t *load(const char *line, size_t bytes, json_error_t *why)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_t *root = json_loadb(line, bytes, flags, why);
    if (root == NULL && json_error_code(why) == json_error_numeric_overflow) {
        /* Integers as reals: a huge number in a field that nobody reads is no reason to refuse. */
        root = json_loadb(line, bytes, flags | JSON_DECODE_INT_AS_REAL, why);
    }
    return root;
}

/* A line at whose end an object or a list has just begun is part of a file that is written over several
 * lines, perhaps with its records in a list under a key. */
static const char *advice(const char *line, size_t bytes)
{
    while (bytes > 0 && rf_lines_is_blank(&line[bytes - 1], 1)) {
        bytes--;
    }
    return bytes > 0 && (line[bytes - 1] == '{' || line[bytes - 1] == '[')
               ? "it goes on in the next line: write one object a line; records in a list under a "
                 "key, {\"data\": [...]}, are taken out by: jq -c '.data[]'"
               : "one object a line is needed";
}

int rf_record_parse(json_t **out, const char *line, size_t bytes, bool *repaired, rf_error *err)
{
    size_t bad;
    json_error_t why, again;
    *out = NULL;
    if (!rf_utf8_is_valid(line, bytes, &bad)) {
        return rf_error_set(err, RF_ERR, "invalid UTF-8 at byte %zu of the line: convert the file",
                            bad + 1);
    }
    json_t *root = load(line, bytes, &why);
    if (repaired != NULL) {
        *repaired = root == NULL;
        rf_text text = {0};
        if (root == NULL && memchr(line, '\0', bytes) == NULL) {
            char *whole = rf_alloc_copy(line, bytes);
            repair(&text, whole, bytes);
            root = load(text.data != NULL ? text.data : "", text.bytes, &again);
            free(whole);
        }
        rf_text_free(&text);
    }
    if (root == NULL) {
        return rf_error_set(err, RF_ERR, "malformed JSON at column %d (%s): %s", why.column,
                            why.text, advice(line, bytes));
    }
    if (!json_is_object(root)) {
        rf_error_set(err, RF_ERR,
                     "a JSON object is needed, but this is %s: write one record a line",
                     rf_chat_json_kind(root));
        json_decref(root);
        return RF_ERR;
    }
    *out = root;
    return RF_OK;
}

/* --- Arrays ----------------------------------------------------------------------------------- */

/* Between records: is there one at this character? */
static bool begins_record(rf_record_array *a, char c)
{
    if (c == '[' && !a->is_open) {
        a->is_open = true;
    } else if (c == ']' && a->is_open) {
        a->is_over = true;
    } else if (!rf_lines_is_blank(&c, 1) && !(c == ',' && a->is_open)) {
        a->is_bad = a->is_bad || c != '{' || !a->is_open || a->is_over;
        return !a->is_bad;
    }
    return false;
}

/* In a record: does it end with this character? */
static bool ends_record(rf_record_array *a, char c)
{
    if (a->in_string) {
        a->in_string = c != '"' || a->is_escaped;
        a->is_escaped = c == '\\' && !a->is_escaped;
        return false;
    }
    a->in_string = c == '"';
    a->depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    return a->depth == 0;
}

bool rf_record_array_next(rf_record_array *a, const char *line, size_t bytes, size_t *at,
                          size_t *begin, bool *begins, bool *ends)
{
    *begins = a->depth == 0;
    while (a->depth == 0 && *at < bytes && !begins_record(a, line[*at])) {
        ++*at;
    }
    *begin = *at;
    *ends = false;
    while (*at < bytes && !*ends && !a->is_bad) {
        *ends = ends_record(a, line[(*at)++]);
    }
    return *at > *begin;
}

int rf_record_array_check(const rf_record_array *a, const rf_lines *lines, bool is_end,
                          rf_error *err)
{
    if (a->is_bad) {
        return rf_error_set(err, RF_ERR,
                            "%s:%" PRId64
                            ": the array holds something else than objects: write one "
                            "record a line",
                            lines->path, lines->number);
    }
    return is_end && !a->is_over
               ? rf_error_set(err, RF_ERR, "%s: the array ends too early: get the whole file",
                              lines->path)
               : RF_OK;
}
