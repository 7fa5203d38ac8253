/* Texts: their characters, and values as Python prints them. */
#include "common/base/number.h"
#include "common/text/jinja/jinja_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* --- Characters --------------------------------------------------------------------------------- */

size_t rf_jinja_character(text s)
{
    size_t n = 1;
    while (n < s.n && n < 4 && rf_utf8_continues(s.at[n])) {
        n++;
    }
    return n;
}

size_t rf_jinja_length(job *j, text s)
{
    rf_jinja_step(j, s.n / 64);
    return rf_utf8_count(s.at, s.n);
}

static text skip(text s, size_t n)
{
    while (n-- > 0 && s.n > 0) {
        size_t bytes = rf_jinja_character(s);
        s = (text){s.at + bytes, s.n - bytes};
    }
    return s;
}

text rf_jinja_slice(text s, size_t first, size_t n)
{
    text begin = skip(s, first), rest = skip(begin, n);
    return (text){begin.at, begin.n - rest.n};
}

/* --- Printing ----------------------------------------------------------------------------------- */

/* Room for n bytes more, none of which is said. */
static void widen(job *j, buffer *b, size_t n)
{
    if (n > JINJA_MOST_TEXT - b->n) {
        rf_jinja_fail(j, "makes a text of more than %zu MiB", JINJA_MOST_TEXT >> 20);
    }
    rf_jinja_step(j, 1 + n / 64);
    if (b->capacity - b->n < n) {
        const buffer old = *b;
        b->capacity = (b->n + n) * 2;
        b->at = rf_jinja_take_text(j, b->capacity);
        b->said = rf_jinja_said(j, b->at);
        if (b->n > 0) {
            memcpy(b->at, old.at, b->n);
            memcpy(b->said, old.said, b->n);
        }
    }
}

void rf_jinja_add(job *j, buffer *b, text s)
{
    if (s.n == 0) {
        return;
    }
    const char *said = rf_jinja_said(j, s.at);
    widen(j, b, s.n);
    memcpy(b->at + b->n, s.at, s.n);
    if (said != NULL) {
        memcpy(b->said + b->n, said, s.n);
    }
    b->n += s.n;
}

void rf_jinja_add_for(job *j, buffer *b, text s, const char *like)
{
    const char *said = rf_jinja_said(j, like);
    const size_t before = b->n;
    rf_jinja_add(j, b, s);
    if (s.n > 0) {
        memset(b->said + before, said != NULL && *said, s.n);
    }
}

void rf_jinja_add_blanks(job *j, buffer *b, int64_t n)
{
    if (n > 0) {
        widen(j, b, (size_t)n);
        memset(b->at + b->n, ' ', (size_t)n);
        b->n += (size_t)n;
    }
}

text rf_jinja_copy(job *j, text s, bool said)
{
    char *copy = rf_jinja_take_text(j, s.n + 1); /* never the end of a chunk */
    memcpy(copy, s.at, s.n);
    memset(rf_jinja_said(j, copy), said, s.n);
    return (text){copy, s.n};
}

text rf_jinja_made(const buffer *b)
{
    return b->n > 0 ? (text){b->at, b->n} : TEXT("");
}

text rf_jinja_print(job *j, const char *format, ...)
{
    char small[512];
    va_list rest;
    va_start(rest, format);
    int n = vsnprintf(small, sizeof small, format, rest);
    va_end(rest);
    size_t bytes = n < 0 ? 0 : (size_t)n < sizeof small ? (size_t)n : sizeof small - 1;
    return (text){memcpy(rf_jinja_take(j, bytes + 1), small, bytes), bytes};
}

/* Python's repr of a float: the fewest digits that read back as the same number. */
static text print_real(job *j, double x)
{
    char digits[40];
    int precision;
    if (isnan(x) || isinf(x)) {
        return rf_jinja_print(j, "%s", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
    }
    precision = rf_number_digits(x) - 1;
    snprintf(digits, sizeof digits, "%.*e", precision, x);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 ||
        exponent >= 16) { /* both languages write two digits of exponent at least */
        return rf_jinja_print(j, "%s", digits);
    }
    int decimals = precision > exponent ? precision - exponent : 0;
    return rf_jinja_print(j, "%.*f%s", decimals, x, decimals == 0 ? ".0" : "");
}

/* str.isprintable of Python: controls, marks of format, surrogates, private and unassigned characters
 * are not, and of white space only the blank is. */
static bool is_printable(int32_t c)
{
    const utf8proc_category_t kind = utf8proc_category(c);
    return c == ' ' || (kind != UTF8PROC_CATEGORY_CN && kind < UTF8PROC_CATEGORY_ZS);
}

/* Python's repr of a string. */
static void add_repr(job *j, buffer *b, text s)
{
    const bool single = memchr(s.at, '\'', s.n) == NULL || memchr(s.at, '"', s.n) != NULL;
    const text quote = single ? TEXT("'") : TEXT("\"");
    rf_jinja_add(j, b, quote);
    for (size_t i = 0, bytes; i < s.n; i += bytes) {
        static const char escaped[] = "\n\r\t\\";
        int32_t c;
        bytes = rf_utf8_next(&c, s.at + i);
        const char *found = c > 0 && c < 128 ? strchr(escaped, c) : NULL;
        if (found != NULL) {
            rf_jinja_add_for(j, b, rf_jinja_print(j, "\\%c", "nrt\\"[found - escaped]), s.at + i);
        } else if (!is_printable(c)) {
            rf_jinja_add_for(j, b,
                             c < 0x100     ? rf_jinja_print(j, "\\x%02x", (unsigned)c)
                             : c < 0x10000 ? rf_jinja_print(j, "\\u%04x", (unsigned)c)
                                           : rf_jinja_print(j, "\\U%08x", (unsigned)c),
                             s.at + i);
        } else {
            rf_jinja_add_for(j, b, c == '\'' && single ? TEXT("\\'") : (text){s.at + i, bytes},
                             s.at + i);
        }
    }
    rf_jinja_add(j, b, quote);
}

static void add_value(job *j, buffer *b, value v, bool repr)
{
    switch (v.kind) {
    case UNDEFINED:
        rf_jinja_add(j, b, repr ? TEXT("Undefined") : TEXT(""));
        break;
    case NONE:
        rf_jinja_add(j, b, TEXT("None"));
        break;
    case BOOLEAN:
        rf_jinja_add(j, b, v.b ? TEXT("True") : TEXT("False"));
        break;
    case INTEGER:
        rf_jinja_add(j, b, rf_jinja_print(j, "%" PRId64, v.i));
        break;
    case REAL:
        rf_jinja_add(j, b, print_real(j, v.r));
        break;
    case STRING:
        if (repr) {
            add_repr(j, b, v.s);
        } else {
            rf_jinja_add(j, b, v.s);
        }
        break;
    case LIST:
        rf_jinja_enter(j);
        rf_jinja_add(j, b, v.list->is_tuple ? TEXT("(") : TEXT("["));
        for (size_t i = 0; i < v.list->n; i++) {
            rf_jinja_add(j, b, i > 0 ? TEXT(", ") : TEXT(""));
            add_value(j, b, v.list->item[i], true);
        }
        rf_jinja_add(j, b, !v.list->is_tuple ? TEXT("]") : v.list->n == 1 ? TEXT(",)") : TEXT(")"));
        j->depth--;
        break;
    case DICT:
        rf_jinja_enter(j);
        rf_jinja_add(j, b, TEXT("{"));
        for (size_t i = 0; i < v.dict->n; i++) {
            rf_jinja_add(j, b, i > 0 ? TEXT(", ") : TEXT(""));
            add_value(j, b, v.dict->pair[i].key, true);
            rf_jinja_add(j, b, TEXT(": "));
            add_value(j, b, v.dict->pair[i].value, true);
        }
        rf_jinja_add(j, b, TEXT("}"));
        j->depth--;
        break;
    default:
        rf_jinja_fail(j, "%s cannot be printed", rf_jinja_kind_name(v));
    }
}

text rf_jinja_text(job *j, value v)
{
    buffer b = {0};
    if (v.kind == STRING) {
        return v.s;
    }
    add_value(j, &b, v, false);
    return rf_jinja_made(&b);
}
