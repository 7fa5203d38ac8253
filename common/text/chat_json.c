#include "common/text/chat.h"

#include "common/base/number.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void rf_chat_json_string(rf_text *out, const char *text, size_t bytes)
{
    rf_text_add(out, "\"", 1);
    for (size_t i = 0; i < bytes; i++) {
        static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
        const char c = text[i], *found = c != '\0' ? strchr(plain, c) : NULL;
        char code[8];
        if (found != NULL) {
            code[0] = '\\';
            code[1] = escaped[found - plain];
            rf_text_add(out, code, 2);
        } else if ((unsigned char)c < 0x20) {
            snprintf(code, sizeof code, "\\u%04x", (unsigned)(unsigned char)c);
            rf_text_add(out, code, 6);
        } else {
            rf_text_add(out, &c, 1);
        }
    }
    rf_text_add(out, "\"", 1);
}

/* Python's repr of a float: the fewest digits that read back as the same number. */
static void add_real(rf_text *out, double value)
{
    char digits[40], text[64];
    const int precision = rf_number_digits(value) - 1;
    snprintf(digits, sizeof digits, "%.*e", precision, value);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision > exponent ? precision - exponent : 0;
        snprintf(text, sizeof text, "%.*f%s", decimals, value, decimals == 0 ? ".0" : "");
        rf_text_add_string(out, text);
        return;
    }
    /* C and Python both write at least two digits of exponent. */
    rf_text_add_string(out, digits);
}

/* Indented: a line for every item, `indent` blanks a level, as json.dumps(indent=...) has it. */
static void add_value(rf_text *out, const json_t *value, int indent, int level);

static void add_break(rf_text *out, int indent, int level)
{
    rf_text_add(out, "\n", 1);
    for (int i = 0; i < indent * level; i++) {
        rf_text_add(out, " ", 1);
    }
}

static void add_comma(rf_text *out, bool is_first, int indent, int level)
{
    if (indent > 0) {
        rf_text_add_string(out, is_first ? "" : ",");
        add_break(out, indent, level);
    } else {
        rf_text_add_string(out, is_first ? "" : ", ");
    }
}

static void add_object(rf_text *out, const json_t *value, int indent, int level)
{
    const char *key;
    json_t *item;
    bool is_first = true;
    rf_text_add(out, "{", 1);
    json_object_foreach((json_t *)value, key, item)
    {
        add_comma(out, is_first, indent, level + 1);
        rf_chat_json_string(out, key, strlen(key));
        rf_text_add(out, ": ", 2);
        add_value(out, item, indent, level + 1);
        is_first = false;
    }
    if (indent > 0 && !is_first) {
        add_break(out, indent, level);
    }
    rf_text_add(out, "}", 1);
}

static void add_array(rf_text *out, const json_t *value, int indent, int level)
{
    const size_t n = json_array_size(value);
    rf_text_add(out, "[", 1);
    for (size_t i = 0; i < n; i++) {
        add_comma(out, i == 0, indent, level + 1);
        add_value(out, json_array_get(value, i), indent, level + 1);
    }
    if (indent > 0 && n > 0) {
        add_break(out, indent, level);
    }
    rf_text_add(out, "]", 1);
}

static void add_value(rf_text *out, const json_t *value, int indent, int level)
{
    char number[32];
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        add_object(out, value, indent, level);
        break;
    case JSON_ARRAY:
        add_array(out, value, indent, level);
        break;
    case JSON_STRING:
        rf_chat_json_string(out, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        rf_text_add_string(out, number);
        break;
    case JSON_REAL:
        add_real(out, json_real_value(value));
        break;
    default:
        rf_text_add_string(out, json_is_true(value)    ? "true"
                                : json_is_false(value) ? "false"
                                                       : "null");
    }
}

void rf_chat_json(rf_text *out, const json_t *value, int indent)
{
    add_value(out, value, indent, 0);
}
