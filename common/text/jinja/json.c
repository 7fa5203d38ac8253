/* tojson: what json.dumps of Python writes. */
#include "common/text/jinja/builtins.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct style {
    text item, key; /* separators */
    int64_t indent; /* -1: all on one line */
    bool ascii, sorted;
} style;

static void add_json_string(job *j, buffer *b, text s, bool ascii)
{
    static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
    rf_jinja_add(j, b, TEXT("\""));
    for (size_t i = 0; i < s.n;) {
        int32_t c;
        const size_t n = rf_utf8_next(&c, s.at + i);
        const char *found = c > 0 && c < 128 ? strchr(plain, c) : NULL;
        if (found != NULL) {
            rf_jinja_add_for(j, b, rf_jinja_print(j, "\\%c", escaped[found - plain]), s.at + i);
        } else if (c < 0x20 || (ascii && c > 0x7E && c < 0x10000)) {
            rf_jinja_add_for(j, b, rf_jinja_print(j, "\\u%04x", (unsigned)c), s.at + i);
        } else if (ascii && c >= 0x10000) {
            rf_jinja_add_for(j, b,
                             rf_jinja_print(j, "\\u%04x\\u%04x", 0xD7C0 + ((unsigned)c >> 10),
                                            0xDC00 + ((unsigned)c & 0x3FFU)),
                             s.at + i);
        } else {
            rf_jinja_add(j, b, (text){s.at + i, n});
        }
        i += n;
    }
    rf_jinja_add(j, b, TEXT("\""));
}

static void add_break(job *j, buffer *b, const style *s, int64_t level)
{
    if (s->indent >= 0) {
        rf_jinja_add(j, b, TEXT("\n"));
        rf_jinja_add_blanks(j, b, s->indent * level);
    }
}

/* Both keys are strings, or both are numbers. */
static int by_key(const void *x, const void *y)
{
    const value a = ((const struct pair *)x)->key, b = ((const struct pair *)y)->key;
    double p, q;
    if (a.kind == STRING) {
        const int order = memcmp(a.s.at, b.s.at, a.s.n < b.s.n ? a.s.n : b.s.n);
        return order != 0 ? order : (a.s.n > b.s.n) - (a.s.n < b.s.n);
    }
    if (a.kind == INTEGER && b.kind == INTEGER) {
        return (a.i > b.i) - (a.i < b.i);
    }
    rf_jinja_real(&p, a);
    rf_jinja_real(&q, b);
    return (p > q) - (p < q);
}

/* The pairs in the order of their keys; as in Python, keys of kinds that have none are refused. */
static struct pair *sorted_pairs(job *j, const dict *d)
{
    const size_t bytes = d->n * sizeof *d->pair;
    struct pair *pair = memcpy(rf_jinja_take(j, bytes), d->pair, bytes);
    for (size_t i = 1; i < d->n; i++) {
        (void)rf_jinja_order(j, pair[0].key, pair[i].key);
    }
    qsort(pair, d->n, sizeof *pair, by_key);
    return pair;
}

static text key_of(job *j, value key)
{
    return key.kind == NONE      ? TEXT("null")
           : key.kind != BOOLEAN ? rf_jinja_text(j, key)
           : key.b               ? TEXT("true")
                                 : TEXT("false");
}

static void add_json(job *j, buffer *b, value v, const style *s, int64_t level)
{
    rf_jinja_enter(j);
    rf_jinja_step(j, 1);
    if (v.kind == STRING) {
        add_json_string(j, b, v.s, s->ascii);
    } else if (v.kind == NONE || v.kind == BOOLEAN) {
        rf_jinja_add(j, b, v.kind == NONE ? TEXT("null") : v.b ? TEXT("true") : TEXT("false"));
    } else if (v.kind == INTEGER || (v.kind == REAL && isfinite(v.r))) {
        rf_jinja_add(j, b, rf_jinja_text(j, v));
    } else if (v.kind == REAL) {
        rf_jinja_add(j, b,
                     isnan(v.r) ? TEXT("NaN")
                     : v.r > 0  ? TEXT("Infinity")
                                : TEXT("-Infinity"));
    } else if (v.kind == LIST) {
        rf_jinja_add(j, b, TEXT("["));
        for (size_t i = 0; i < v.list->n; i++) {
            rf_jinja_add(j, b, i > 0 ? s->item : TEXT(""));
            add_break(j, b, s, level + 1);
            add_json(j, b, v.list->item[i], s, level + 1);
        }
        if (v.list->n > 0) {
            add_break(j, b, s, level);
        }
        rf_jinja_add(j, b, TEXT("]"));
    } else if (v.kind == DICT) {
        const struct pair *pair =
            s->sorted && v.dict->n > 0 ? sorted_pairs(j, v.dict) : v.dict->pair;
        rf_jinja_add(j, b, TEXT("{"));
        for (size_t i = 0; i < v.dict->n; i++) {
            rf_jinja_add(j, b, i > 0 ? s->item : TEXT(""));
            add_break(j, b, s, level + 1);
            add_json_string(j, b, key_of(j, pair[i].key), s->ascii);
            rf_jinja_add(j, b, s->key);
            add_json(j, b, pair[i].value, s, level + 1);
        }
        if (v.dict->n > 0) {
            add_break(j, b, s, level);
        }
        rf_jinja_add(j, b, TEXT("}"));
    } else {
        rf_jinja_fail(j, "%s has no JSON form", rf_jinja_kind_name(v));
    }
    j->depth--;
}

value rf_jinja_tojson(job *j, value self, const arguments *a)
{
    const value indent = rf_jinja_argument(a, 1, "indent");
    const value separators = rf_jinja_argument(a, 2, "separators");
    style s = {.item = TEXT(", "), .key = TEXT(": "), .indent = rf_jinja_whole(j, indent, -1)};
    const int64_t most_indent = JINJA_MOST_TEXT; /* more of it is as much too long */
    buffer b = {0};
    s.ascii = rf_jinja_truth(rf_jinja_argument(a, 0, "ensure_ascii"));
    s.sorted = rf_jinja_truth(rf_jinja_argument(a, 3, "sort_keys"));
    if (s.indent >= 0) {
        s.item = TEXT(",");
    }
    s.indent = s.indent < most_indent ? s.indent : most_indent;
    if (separators.kind == LIST && separators.list->n == 2) {
        s.item = rf_jinja_get_string(j, separators.list->item[0]);
        s.key = rf_jinja_get_string(j, separators.list->item[1]);
    }
    add_json(j, &b, self, &s, 0);
    return rf_jinja_string(rf_jinja_made(&b));
}
