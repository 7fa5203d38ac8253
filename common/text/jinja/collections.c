/* What templates may do with lists and dicts. */
#include "common/text/jinja/builtins.h"

static const value undefined = {.kind = UNDEFINED};

static value attribute_of(job *j, value v, value attribute)
{
    return rf_jinja_attribute_of(j, v, attribute, undefined);
}

/* An element, or its attribute where one is given. */
static value part_of(job *j, value v, value attribute)
{
    return rf_jinja_is_given(attribute) ? attribute_of(j, v, attribute) : v;
}

/* What an element is compared by: strings without case unless asked for. */
static value key_of(job *j, value v, value attribute, bool with_case)
{
    v = part_of(j, v, attribute);
    return v.kind == STRING && !with_case ? rf_jinja_recase(j, v.s, LOWER) : v;
}

value rf_jinja_join(job *j, const list *l, text between, value attribute)
{
    buffer b = {0};
    for (size_t i = 0; i < l->n; i++) {
        rf_jinja_add(j, &b, i > 0 ? between : TEXT(""));
        rf_jinja_add(j, &b, rf_jinja_text(j, part_of(j, l->item[i], attribute)));
    }
    return rf_jinja_string(rf_jinja_made(&b));
}

BUILTIN(do_join,
        rf_jinja_join(j, rf_jinja_items(j, self), rf_jinja_text(j, rf_jinja_argument(a, 0, "d")),
                      rf_jinja_argument(a, 1, "attribute")))
BUILTIN(do_length, rf_jinja_integer((int64_t)(self.kind == STRING ? rf_jinja_length(j, self.s)
                                                                  : rf_jinja_items(j, self)->n)))

static value end_of(const list *l, bool last)
{
    return l->n > 0 ? l->item[last ? l->n - 1 : 0] : undefined;
}

BUILTIN(do_first, end_of(rf_jinja_items(j, self), false))
BUILTIN(do_last, end_of(rf_jinja_items(j, self), true))

static value copy_of(job *j, const list *l)
{
    value copy = rf_jinja_new_list(j, l->n);
    for (size_t i = 0; i < l->n; i++) {
        rf_jinja_push(j, copy.list, l->item[i]);
    }
    return copy;
}

BUILTIN(do_list, copy_of(j, rf_jinja_items(j, self)))

static value do_reverse(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    value reversed = rf_jinja_new_list(j, l->n);
    (void)a;
    for (size_t i = l->n; i-- > 0;) {
        rf_jinja_push(j, reversed.list, l->item[i]);
    }
    return self.kind == STRING ? rf_jinja_join(j, reversed.list, TEXT(""), undefined) : reversed;
}

static value do_unique(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    const bool with_case = rf_jinja_truth(rf_jinja_argument(a, 0, "case_sensitive"));
    const value attribute = rf_jinja_argument(a, 1, "attribute");
    value different = rf_jinja_new_list(j, 8), seen = rf_jinja_new_list(j, 8);
    for (size_t i = 0; i < l->n; i++) {
        const value k = key_of(j, l->item[i], attribute, with_case);
        if (!rf_jinja_contains(j, seen, k)) {
            rf_jinja_push(j, seen.list, k);
            rf_jinja_push(j, different.list, l->item[i]);
        }
    }
    return different;
}

/* Sorted by insertion: stable, and lists of templates are short (each step is counted). */
static value sorted(job *j, const list *l, value attribute, bool with_case, bool reversed)
{
    value all = copy_of(j, l), keys = rf_jinja_new_list(j, l->n);
    for (size_t i = 0; i < l->n; i++) {
        const value k = key_of(j, l->item[i], attribute, with_case);
        rf_jinja_push(j, keys.list, k);
        size_t at = i;
        for (; at > 0; at--) {
            const int order = rf_jinja_order(j, keys.list->item[at - 1], k);
            if (reversed ? order >= 0 : order <= 0) {
                break;
            }
            rf_jinja_step(j, 1);
            keys.list->item[at] = keys.list->item[at - 1];
            all.list->item[at] = all.list->item[at - 1];
        }
        keys.list->item[at] = k;
        all.list->item[at] = l->item[i];
    }
    return all;
}

BUILTIN(do_sort, sorted(j, rf_jinja_items(j, self), rf_jinja_argument(a, 2, "attribute"),
                        rf_jinja_truth(rf_jinja_argument(a, 1, "case_sensitive")),
                        rf_jinja_truth(rf_jinja_argument(a, 0, "reverse"))))

/* The least (sign -1) or greatest of some values. */
static value extreme(job *j, value self, const arguments *a, int sign)
{
    const list *l = rf_jinja_items(j, self);
    const bool with_case = rf_jinja_truth(rf_jinja_argument(a, 0, "case_sensitive"));
    const value attribute = rf_jinja_argument(a, 1, "attribute");
    value best = l->n > 0 ? l->item[0] : undefined, key = undefined;
    for (size_t i = 0; i < l->n; i++) {
        const value k = key_of(j, l->item[i], attribute, with_case);
        if (i == 0 || rf_jinja_order(j, k, key) * sign > 0) {
            key = k;
            best = l->item[i];
        }
    }
    return best;
}

BUILTIN(do_min, extreme(j, self, a, -1))
BUILTIN(do_max, extreme(j, self, a, 1))

static value do_sum(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    const value attribute = rf_jinja_argument(a, 0, "attribute");
    const value start = rf_jinja_argument(a, 1, "start");
    value total = rf_jinja_is_given(start) ? start : rf_jinja_integer(0);
    for (size_t i = 0; i < l->n; i++) {
        total = rf_jinja_calculate(j, '+', total, part_of(j, l->item[i], attribute));
    }
    return total;
}

/* The arguments behind the first `skip`. */
static arguments rest_of(const arguments *a, size_t skip)
{
    return (arguments){.v = a->v + (skip < a->n ? skip : a->n),
                       .n = a->n > skip ? a->n - skip : 0,
                       .named = a->named};
}

static value do_map(job *j, value self, const arguments *a)
{
    const value attribute = rf_jinja_argument(a, SIZE_MAX, "attribute");
    const value otherwise = rf_jinja_argument(a, SIZE_MAX, "default");
    const arguments rest = rest_of(a, 1);
    const list *l = rf_jinja_items(j, self);
    value mapped = rf_jinja_new_list(j, l->n);
    builtin *filter = NULL;
    if (l->n > 0 && !rf_jinja_is_given(attribute) &&
        (filter = rf_jinja_filter(rf_jinja_get_string(j, rf_jinja_argument(a, 0, "filter")))) ==
            NULL) {
        rf_jinja_fail(j, "map: the filter \"%.*s\" is not known", QUOTE(a->v[0].s));
    }
    for (size_t i = 0; i < l->n; i++) {
        value v = filter != NULL ? filter(j, l->item[i], &rest)
                                 : rf_jinja_attribute_of(j, l->item[i], attribute, otherwise);
        rf_jinja_push(j, mapped.list, v);
    }
    return mapped;
}

/* select, reject, selectattr, rejectattr: (attribute,) test, arguments of the test. */
static value choose(job *j, value self, const arguments *a, bool by_attribute, bool wanted)
{
    const value attribute = by_attribute ? rf_jinja_argument(a, 0, "attribute") : undefined;
    const value name = rf_jinja_argument(a, by_attribute, "test");
    const arguments rest = rest_of(a, 1 + (size_t)by_attribute);
    const list *l = rf_jinja_items(j, self);
    value chosen = rf_jinja_new_list(j, 8);
    builtin *test = rf_jinja_is_given(name) ? rf_jinja_test(rf_jinja_get_string(j, name)) : NULL;
    if (l->n > 0 && rf_jinja_is_given(name) && test == NULL) {
        rf_jinja_fail(j, "the test \"%.*s\" is not known", QUOTE(name.s));
    }
    for (size_t i = 0; i < l->n; i++) {
        value v = by_attribute ? attribute_of(j, l->item[i], attribute) : l->item[i];
        v = test != NULL ? test(j, v, &rest) : v;
        if (rf_jinja_truth(v) == wanted) {
            rf_jinja_push(j, chosen.list, l->item[i]);
        }
    }
    return chosen;
}

BUILTIN(do_select, choose(j, self, a, false, true))
BUILTIN(do_reject, choose(j, self, a, false, false))
BUILTIN(do_selectattr, choose(j, self, a, true, true))
BUILTIN(do_rejectattr, choose(j, self, a, true, false))

static value pair_of(job *j, value key, value v)
{
    value pair = rf_jinja_new_list(j, 2);
    rf_jinja_push(j, pair.list, key);
    rf_jinja_push(j, pair.list, v);
    pair.list->is_tuple = true;
    return pair;
}

static value do_items(job *j, value self, const arguments *a)
{
    value l = rf_jinja_new_list(j, 8);
    (void)a;
    if (self.kind != DICT && self.kind != UNDEFINED) {
        rf_jinja_fail(j, "%s has no items", rf_jinja_kind_name(self));
    }
    for (size_t i = 0; self.kind == DICT && i < self.dict->n; i++) {
        rf_jinja_push(j, l.list, pair_of(j, self.dict->pair[i].key, self.dict->pair[i].value));
    }
    return l;
}

static value do_values(job *j, value self, const arguments *a)
{
    value l = rf_jinja_new_list(j, 8);
    (void)a;
    for (size_t i = 0; i < self.dict->n; i++) {
        rf_jinja_push(j, l.list, self.dict->pair[i].value);
    }
    return l;
}

static value do_get(job *j, value self, const arguments *a)
{
    const value *found = rf_jinja_find(j, self.dict, rf_jinja_argument(a, 0, "key"));
    const value otherwise = rf_jinja_argument(a, 1, "default");
    return found != NULL ? *found : otherwise.kind == UNDEFINED ? (value){.kind = NONE} : otherwise;
}

static value do_dictsort(job *j, value self, const arguments *a)
{
    const bool by_value = rf_jinja_is(rf_jinja_text(j, rf_jinja_argument(a, 1, "by")), "value");
    return sorted(j, do_items(j, self, a).list, rf_jinja_integer(by_value),
                  rf_jinja_truth(rf_jinja_argument(a, 0, "case_sensitive")),
                  rf_jinja_truth(rf_jinja_argument(a, 2, "reverse")));
}

static value do_index(job *j, value self, const arguments *a)
{
    const value wanted = rf_jinja_argument(a, 0, "value");
    for (size_t i = 0; i < self.list->n; i++) {
        if (rf_jinja_equal(j, self.list->item[i], wanted)) {
            return rf_jinja_integer((int64_t)i);
        }
    }
    rf_jinja_fail(j, "a value that is not in the list");
}

static value do_count_of(job *j, value self, const arguments *a)
{
    const value wanted = rf_jinja_argument(a, 0, "value");
    int64_t n = 0;
    for (size_t i = 0; i < self.list->n; i++) {
        n += rf_jinja_equal(j, self.list->item[i], wanted);
    }
    return rf_jinja_integer(n);
}

static value do_copy_dict(job *j, value self, const arguments *a)
{
    value copy = rf_jinja_new_dict(j, DICT);
    (void)a;
    for (size_t i = 0; i < self.dict->n; i++) {
        rf_jinja_put(j, copy.dict, self.dict->pair[i].key, self.dict->pair[i].value);
    }
    return copy;
}

/* Lists of so many elements, the last one filled up where there is something to fill it with. */
static value do_batch(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    const int64_t size = rf_jinja_whole(j, rf_jinja_argument(a, 0, "linecount"), 0);
    const value fill = rf_jinja_argument(a, 1, "fill_with");
    value all = rf_jinja_new_list(j, 8), part = undefined;
    if (size < 1) {
        rf_jinja_fail(j, "batch with less than 1 element a list");
    }
    for (size_t i = 0; i < l->n; i++) {
        if (i % (size_t)size == 0) {
            part = rf_jinja_new_list(j, 8);
            rf_jinja_push(j, all.list, part);
        }
        rf_jinja_push(j, part.list, l->item[i]);
    }
    while (l->n > 0 && rf_jinja_is_given(fill) && part.list->n < (size_t)size) {
        rf_jinja_push(j, part.list, fill);
    }
    return all;
}

/* --- Their names -------------------------------------------------------------------------------- */

const builtin_name rf_jinja_collection_filters[] = {
    {"batch", do_batch},
    {"count", do_length},
    {"dictsort", do_dictsort},
    {"first", do_first},
    {"items", do_items},
    {"join", do_join},
    {"last", do_last},
    {"length", do_length},
    {"list", do_list},
    {"map", do_map},
    {"max", do_max},
    {"min", do_min},
    {"reject", do_reject},
    {"rejectattr", do_rejectattr},
    {"reverse", do_reverse},
    {"select", do_select},
    {"selectattr", do_selectattr},
    {"sort", do_sort},
    {"sum", do_sum},
    {"unique", do_unique},
    {NULL, NULL},
};

const builtin_name rf_jinja_dict_methods[] = {
    {"copy", do_copy_dict}, {"get", do_get},       {"items", do_items},
    {"keys", do_list},      {"values", do_values}, {NULL, NULL},
};

const builtin_name rf_jinja_list_methods[] = {
    {"copy", do_list}, {"count", do_count_of}, {"index", do_index}, {NULL, NULL}};
