/* Values, and what Python thinks of them. */
#include "common/text/jinja/jinja_private.h"

#include <jansson.h>
#include <string.h>

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

/* A key that is not there yet. */
static void add_pair(job *j, dict *d, value key, value v)
{
    rf_jinja_step(j, 1);
    d->pair = grow(j, d->pair, d->n, &d->capacity, sizeof *d->pair);
    d->pair[d->n++] = (struct pair){key, v};
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
    add_pair(j, d, key, v);
}

/* A message's role, which templates print as a part of a token (<|user|>). */
static bool is_role(const char *key, const json_t *json)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    for (int i = 0; strcmp(key, "role") == 0 && json_is_string(json) && i < 4; i++) {
        if (strcmp(json_string_value(json), roles[i]) == 0) {
            return true;
        }
    }
    return false;
}

value rf_jinja_from_json(job *j, const json_t *json, bool said)
{
    const char *key;
    json_t *item;
    size_t i;
    switch (json_typeof(json)) {
    case JSON_OBJECT: {
        value d = rf_jinja_new_dict(j, DICT);
        rf_jinja_enter(j);
        json_object_foreach((json_t *)json, key, item)
        {
            add_pair(j, d.dict, rf_jinja_string(rf_jinja_copy(j, (text){key, strlen(key)}, said)),
                     rf_jinja_from_json(j, item, said && !is_role(key, item)));
        }
        j->depth--;
        return d;
    }
    case JSON_ARRAY: {
        value l = rf_jinja_new_list(j, json_array_size(json));
        rf_jinja_enter(j);
        json_array_foreach(json, i, item)
        {
            rf_jinja_push(j, l.list, rf_jinja_from_json(j, item, said));
        }
        j->depth--;
        return l;
    }
    case JSON_STRING:
        return rf_jinja_string(
            rf_jinja_copy(j, (text){json_string_value(json), json_string_length(json)}, said));
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
