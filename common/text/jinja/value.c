#include "common/base/number.h"
#include "common/text/jinja/jinja_private.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- The job ------------------------------------------------------------------------------------ */

typedef struct pool_chunk {
    struct pool_chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
} pool_chunk;

_Noreturn void rf_jinja_fail(job *j, const char *format, ...)
{
    char what[1024];
    va_list rest;
    va_start(rest, format);
    vsnprintf(what, sizeof what, format, rest);
    va_end(rest);
    rf_error_set(j->err, RF_ERR, "%s, line %d: %s", j->origin, j->line, what);
    longjmp(j->failed, 1);
}

void *rf_jinja_take(job *j, size_t bytes)
{
    pool_chunk *c = j->chunk;
    const size_t n = (bytes + 15) & ~(size_t)15;
    if (c == NULL || c->size - c->used < n) {
        const size_t size = n > (size_t)1 << 16 ? n : (size_t)1 << 16;
        const bool fits = n >= bytes && size <= j->most && j->bytes <= j->most - size;
        if (!fits || (c = malloc(sizeof *c + size)) == NULL) {
            rf_jinja_fail(j, "needs more than %zu MiB of memory", j->bytes >> 20);
        }
        j->bytes += size;
        *c = (pool_chunk){.next = j->chunk, .size = size};
        j->chunk = c;
    }
    void *memory = memset(c->data + c->used, 0, n);
    c->used += n;
    return memory;
}

void rf_jinja_end(job *j)
{
    while (j->chunk != NULL) {
        pool_chunk *next = j->chunk->next;
        free(j->chunk);
        j->chunk = next;
    }
}

void rf_jinja_step(job *j, size_t n)
{
    j->steps += (int64_t)n;
    if (j->steps > JINJA_MOST_STEPS) {
        rf_jinja_fail(j, "does not end within %lld steps", (long long)JINJA_MOST_STEPS);
    }
}

void rf_jinja_enter(job *j)
{
    if (++j->depth > JINJA_MOST_DEPTH) {
        rf_jinja_fail(j, "nested more than %d deep", JINJA_MOST_DEPTH);
    }
}

/* --- Making values ------------------------------------------------------------------------------ */

bool rf_jinja_is(text t, const char *word)
{
    return t.n == strlen(word) && memcmp(t.at, word, t.n) == 0;
}

value rf_jinja_string(text s)
{
    return (value){.kind = STRING, .s = s};
}

value rf_jinja_integer(int64_t i)
{
    return (value){.kind = INTEGER, .i = i};
}

value rf_jinja_boolean(bool b)
{
    return (value){.kind = BOOLEAN, .b = b};
}

value rf_jinja_callable(job *j, builtin *run, value self)
{
    callable *c = rf_jinja_take(j, sizeof *c);
    *c = (callable){.run = run, .self = self};
    return (value){.kind = CALLABLE, .call = c};
}

/* Twice the room of an array whose n elements fill it. */
static void *grow(job *j, void *old, size_t n, size_t *capacity, size_t bytes)
{
    if (n < *capacity) {
        return old;
    }
    *capacity = n < 4 ? 8 : 2 * n;
    void *wider = rf_jinja_take(j, *capacity * bytes);
    return n > 0 ? memcpy(wider, old, n * bytes) : wider;
}

value rf_jinja_new_list(job *j, size_t capacity)
{
    list *l = rf_jinja_take(j, sizeof *l);
    *l = (list){.item = rf_jinja_take(j, capacity * sizeof *l->item), .capacity = capacity};
    return (value){.kind = LIST, .list = l};
}

value rf_jinja_new_dict(job *j, value_kind kind)
{
    return (value){.kind = kind, .dict = rf_jinja_take(j, sizeof(dict))};
}

void rf_jinja_push(job *j, list *l, value v)
{
    rf_jinja_step(j, 1);
    l->item = grow(j, l->item, l->n, &l->capacity, sizeof *l->item);
    l->item[l->n++] = v;
}

const value *rf_jinja_find(job *j, const dict *d, value key)
{
    rf_jinja_step(j, d->n / 8);
    for (size_t i = 0; i < d->n; i++) {
        const value *k = &d->pair[i].key;
        if (k->kind == STRING && key.kind == STRING
                ? k->s.n == key.s.n && memcmp(k->s.at, key.s.at, key.s.n) == 0
                : rf_jinja_equal(j, *k, key)) {
            return &d->pair[i].value;
        }
    }
    return NULL;
}

void rf_jinja_put(job *j, dict *d, value key, value v)
{
    value *there = (value *)rf_jinja_find(j, d, key);
    if (there != NULL) {
        *there = v;
        return;
    }
    if (key.kind >= LIST) {
        rf_jinja_fail(j, "%s cannot be the key of a dict", rf_jinja_kind_name(key));
    }
    d->pair = grow(j, d->pair, d->n, &d->capacity, sizeof *d->pair);
    d->pair[d->n++] = (struct pair){key, v};
}

value rf_jinja_from_json(job *j, const json_t *json)
{
    const char *key;
    json_t *item;
    size_t i;
    j->most += JINJA_BYTES_OF_A_VALUE + JINJA_BYTES_OF_A_BYTE * json_string_length(json);
    switch (json_typeof(json)) {
    case JSON_OBJECT: {
        value d = rf_jinja_new_dict(j, DICT);
        rf_jinja_enter(j);
        json_object_foreach((json_t *)json, key, item)
        {
            rf_jinja_put(j, d.dict, rf_jinja_string((text){key, strlen(key)}),
                         rf_jinja_from_json(j, item));
        }
        j->depth--;
        return d;
    }
    case JSON_ARRAY: {
        value l = rf_jinja_new_list(j, json_array_size(json));
        rf_jinja_enter(j);
        json_array_foreach(json, i, item)
        {
            rf_jinja_push(j, l.list, rf_jinja_from_json(j, item));
        }
        j->depth--;
        return l;
    }
    case JSON_STRING:
        return rf_jinja_string((text){json_string_value(json), json_string_length(json)});
    case JSON_INTEGER:
        return rf_jinja_integer(json_integer_value(json));
    case JSON_REAL:
        return (value){.kind = REAL, .r = json_real_value(json)};
    case JSON_NULL:
        return (value){.kind = NONE};
    default:
        return rf_jinja_boolean(json_is_true(json));
    }
}

/* --- What Python thinks of them ----------------------------------------------------------------- */

const char *rf_jinja_kind_name(value v)
{
    static const char *const names[] = {[UNDEFINED] = "an undefined value",
                                        [NONE] = "none",
                                        [BOOLEAN] = "a boolean",
                                        [INTEGER] = "a whole number",
                                        [REAL] = "a number",
                                        [STRING] = "a string",
                                        [LIST] = "a list",
                                        [DICT] = "a dict",
                                        [NAMESPACE] = "a namespace",
                                        [CALLABLE] = "a function"};
    return names[v.kind];
}

bool rf_jinja_truth(value v)
{
    switch (v.kind) {
    case UNDEFINED:
    case NONE:
        return false;
    case BOOLEAN:
        return v.b;
    case INTEGER:
        return v.i != 0;
    case REAL:
        return v.r != 0;
    case STRING:
        return v.s.n > 0;
    case LIST:
        return v.list->n > 0;
    case DICT:
        return v.dict->n > 0;
    default:
        return true;
    }
}

bool rf_jinja_real(double *out, value v)
{
    *out = v.kind == REAL ? v.r : v.kind == INTEGER ? (double)v.i : v.kind == BOOLEAN ? v.b : 0;
    return v.kind == REAL || v.kind == INTEGER || v.kind == BOOLEAN;
}

bool rf_jinja_equal(job *j, value a, value b)
{
    double x, y;
    rf_jinja_step(j, 1);
    if (rf_jinja_real(&x, a) && rf_jinja_real(&y, b)) {
        return a.kind == INTEGER && b.kind == INTEGER ? a.i == b.i : x == y;
    }
    if (a.kind != b.kind) {
        return false;
    }
    switch (a.kind) {
    case STRING:
        rf_jinja_step(j, a.s.n / 256);
        return a.s.n == b.s.n && memcmp(a.s.at, b.s.at, a.s.n) == 0;
    case LIST:
        if (a.list->n != b.list->n) {
            return false;
        }
        for (size_t i = 0; i < a.list->n; i++) {
            if (!rf_jinja_equal(j, a.list->item[i], b.list->item[i])) {
                return false;
            }
        }
        return true;
    case DICT:
        if (a.dict->n != b.dict->n) {
            return false;
        }
        for (size_t i = 0; i < a.dict->n; i++) {
            const value *other = rf_jinja_find(j, b.dict, a.dict->pair[i].key);
            if (other == NULL || !rf_jinja_equal(j, a.dict->pair[i].value, *other)) {
                return false;
            }
        }
        return true;
    case NAMESPACE:
        return a.dict == b.dict;
    case CALLABLE:
        return a.call == b.call;
    default:
        return true; /* none and none, undefined and undefined */
    }
}

int rf_jinja_order(job *j, value a, value b)
{
    double x, y;
    if (a.kind == INTEGER && b.kind == INTEGER) {
        return (a.i > b.i) - (a.i < b.i);
    }
    if (rf_jinja_real(&x, a) && rf_jinja_real(&y, b)) {
        return (x > y) - (x < y);
    }
    if (a.kind == STRING && b.kind == STRING) { /* of UTF-8, bytes are ordered as characters are */
        int order = memcmp(a.s.at, b.s.at, a.s.n < b.s.n ? a.s.n : b.s.n);
        return order != 0 ? order : (a.s.n > b.s.n) - (a.s.n < b.s.n);
    }
    if (a.kind == LIST && b.kind == LIST) {
        for (size_t i = 0; i < a.list->n && i < b.list->n; i++) {
            if (!rf_jinja_equal(j, a.list->item[i], b.list->item[i])) {
                return rf_jinja_order(j, a.list->item[i], b.list->item[i]);
            }
        }
        return (a.list->n > b.list->n) - (a.list->n < b.list->n);
    }
    rf_jinja_fail(j, "%s and %s have no order", rf_jinja_kind_name(a), rf_jinja_kind_name(b));
}

bool rf_jinja_contains(job *j, value all, value one)
{
    if (all.kind == STRING) {
        if (one.kind != STRING) {
            rf_jinja_fail(j, "%s is never in a string", rf_jinja_kind_name(one));
        }
        rf_jinja_step(j, all.s.n / 256);
        return one.s.n == 0 || memmem(all.s.at, all.s.n, one.s.at, one.s.n) != NULL;
    }
    if (all.kind == DICT || all.kind == NAMESPACE) {
        return rf_jinja_find(j, all.dict, one) != NULL;
    }
    const list *l = rf_jinja_items(j, all);
    for (size_t i = 0; i < l->n; i++) {
        if (rf_jinja_equal(j, l->item[i], one)) {
            return true;
        }
    }
    return false;
}

list *rf_jinja_items(job *j, value v)
{
    value l;
    switch (v.kind) {
    case LIST:
        return v.list;
    case UNDEFINED:
        return rf_jinja_new_list(j, 0).list;
    case STRING:
        l = rf_jinja_new_list(j, v.s.n);
        for (text s = v.s; s.n > 0;) {
            size_t n = rf_jinja_character(s);
            rf_jinja_push(j, l.list, rf_jinja_string((text){s.at, n}));
            s = (text){s.at + n, s.n - n};
        }
        return l.list;
    case DICT:
        l = rf_jinja_new_list(j, v.dict->n);
        for (size_t i = 0; i < v.dict->n; i++) {
            rf_jinja_push(j, l.list, v.dict->pair[i].key);
        }
        return l.list;
    default:
        rf_jinja_fail(j, "%s has no elements to go through", rf_jinja_kind_name(v));
    }
}

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
    size_t n = 0;
    rf_jinja_step(j, s.n / 64);
    for (size_t i = 0; i < s.n; i++) {
        n += !rf_utf8_continues(s.at[i]);
    }
    return n;
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

void rf_jinja_add(job *j, buffer *b, text s)
{
    if (s.n == 0) {
        return;
    }
    if (b->capacity - b->n < s.n) {
        const size_t wanted = (b->n + s.n) * 2;
        char *wider = rf_jinja_take(j, wanted);
        if (b->n > 0) {
            memcpy(wider, b->at, b->n);
        }
        *b = (buffer){wider, b->n, wanted};
    }
    memcpy(b->at + b->n, s.at, s.n);
    b->n += s.n;
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

/* Python's repr of a string. */
static void add_repr(job *j, buffer *b, text s)
{
    const bool single = memchr(s.at, '\'', s.n) == NULL || memchr(s.at, '"', s.n) != NULL;
    const text quote = single ? TEXT("'") : TEXT("\"");
    rf_jinja_add(j, b, quote);
    for (size_t i = 0; i < s.n; i++) {
        const unsigned char c = (unsigned char)s.at[i];
        static const char escaped[] = "\n\r\t\\";
        const char *found = c != '\0' ? strchr(escaped, c) : NULL;
        if (found != NULL) {
            rf_jinja_add(j, b, rf_jinja_print(j, "\\%c", "nrt\\"[found - escaped]));
        } else if (c < 0x20 || c == 0x7F) {
            rf_jinja_add(j, b, rf_jinja_print(j, "\\x%02x", c));
        } else {
            rf_jinja_add(j, b, c == '\'' && single ? TEXT("\\'") : (text){s.at + i, 1});
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
        rf_jinja_add(j, b, rf_jinja_print(j, "%lld", (long long)v.i));
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
