/* What templates may call beside what strings.c, collections.c and json.c have: filters of numbers,
 * tests, functions; and how all of it is found by name. */
#include "common/text/jinja/builtins.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const value undefined = {.kind = UNDEFINED};

value rf_jinja_argument(const arguments *a, size_t i, const char *name)
{
    if (i < a->n) {
        return a->v[i];
    }
    for (size_t k = 0; k < a->named.n; k++) {
        if (rf_jinja_is(a->named.pair[k].key.s, name)) {
            return a->named.pair[k].value;
        }
    }
    return undefined;
}

bool rf_jinja_is_given(value v)
{
    return v.kind != UNDEFINED && v.kind != NONE;
}

int64_t rf_jinja_whole(job *j, value v, int64_t otherwise)
{
    if (!rf_jinja_is_given(v)) {
        return otherwise;
    }
    if (v.kind != INTEGER && v.kind != BOOLEAN) {
        rf_jinja_fail(j, "%s where a whole number should be", rf_jinja_kind_name(v));
    }
    return v.kind == INTEGER ? v.i : v.b;
}

text rf_jinja_get_string(job *j, value v)
{
    if (v.kind != STRING) {
        rf_jinja_fail(j, "%s where a string should be", rf_jinja_kind_name(v));
    }
    return v.s;
}

static value do_default(job *j, value self, const arguments *a)
{
    const value otherwise = rf_jinja_argument(a, 0, "default_value");
    const bool also_false = rf_jinja_truth(rf_jinja_argument(a, 1, "boolean"));
    (void)j;
    if (self.kind == UNDEFINED || (also_false && !rf_jinja_truth(self))) {
        return otherwise.kind == UNDEFINED ? rf_jinja_string(TEXT("")) : otherwise;
    }
    return self;
}

/* --- Numbers ------------------------------------------------------------------------------------ */

#define BLANKS " \t\n\r\f\v"

/* A number that is written in s, blanks around it aside: in this base as a whole one, or in decimal as
 * a real one. */
static bool read_integer(int64_t *out, job *j, text s, int base)
{
    char *digits = memcpy(rf_jinja_take(j, s.n + 1), s.at, s.n), *end;
    errno = 0;
    *out = strtoll(digits, &end, base);
    return end > digits && errno == 0 && end[strspn(end, BLANKS)] == '\0';
}

static bool read_real(double *out, job *j, text s)
{
    char *digits = memcpy(rf_jinja_take(j, s.n + 1), s.at, s.n), *end;
    if (strspn(digits, BLANKS "0123456789+-.eE") < s.n) { /* strtod also reads 0x10, nan, inf */
        return false;
    }
    *out = strtod(digits, &end);
    return end > digits && end[strspn(end, BLANKS)] == '\0';
}

static value do_int(job *j, value self, const arguments *a)
{
    double x;
    int64_t i;
    const value otherwise = rf_jinja_argument(a, 0, "default");
    const int64_t base = rf_jinja_whole(j, rf_jinja_argument(a, 1, "base"), 10);
    if (base < 2 || base > 36) {
        rf_jinja_fail(j, "int with a base that is not from 2 to 36");
    }
    if (self.kind == STRING && read_integer(&i, j, self.s, (int)base)) {
        return rf_jinja_integer(i);
    }
    if (self.kind == STRING) {
        self = read_real(&x, j, self.s) ? (value){.kind = REAL, .r = x} : undefined;
    }
    if (self.kind == INTEGER) {
        return self;
    }
    if (rf_jinja_real(&x, self) && fabs(x) < 9e18) {
        return rf_jinja_integer((int64_t)x);
    }
    return rf_jinja_is_given(otherwise) ? otherwise : rf_jinja_integer(0);
}

static value do_float(job *j, value self, const arguments *a)
{
    double x;
    const value otherwise = rf_jinja_argument(a, 0, "default");
    const bool is = self.kind == STRING ? read_real(&x, j, self.s) : rf_jinja_real(&x, self);
    return is                             ? (value){.kind = REAL, .r = x}
           : rf_jinja_is_given(otherwise) ? otherwise
                                          : (value){.kind = REAL, .r = 0};
}

/* "common" as Python does it: the decimal number nearest to the value itself, not to its product with a
 * power of ten; whole numbers stay whole. */
static value do_round(job *j, value self, const arguments *a)
{
    double x;
    const int64_t digits = rf_jinja_whole(j, rf_jinja_argument(a, 0, "precision"), 0);
    const value given = rf_jinja_argument(a, 1, "method");
    const text method = rf_jinja_is_given(given) ? rf_jinja_get_string(j, given) : TEXT("common");
    if (!rf_jinja_real(&x, self) || digits < -300 || digits > 300) {
        rf_jinja_fail(j, "%s cannot be rounded to %" PRId64 " digits", rf_jinja_kind_name(self),
                      digits);
    }
    const double scale = pow(10, (double)digits);
    if (!rf_jinja_is(method, "common")) {
        const bool up = rf_jinja_is(method, "ceil");
        if (!up && !rf_jinja_is(method, "floor")) {
            rf_jinja_fail(j, "round knows the methods common, ceil and floor");
        }
        return (value){.kind = REAL, .r = (up ? ceil(x * scale) : floor(x * scale)) / scale};
    }
    if (digits >= 0 && self.kind == REAL) {
        char printed[700];
        snprintf(printed, sizeof printed, "%.*f", (int)digits, x);
        return (value){.kind = REAL, .r = strtod(printed, NULL)};
    }
    const double rounded = digits >= 0 ? x : rint(x * scale) / scale;
    return self.kind == REAL || fabs(rounded) >= 9e15 ? (value){.kind = REAL, .r = rounded}
                                                      : rf_jinja_integer((int64_t)rint(rounded));
}

static value do_abs(job *j, value self, const arguments *a)
{
    (void)a;
    if (self.kind == REAL) {
        return (value){.kind = REAL, .r = fabs(self.r)};
    }
    const int64_t i = rf_jinja_whole(j, self, 0);
    return rf_jinja_integer(i < 0 && i != INT64_MIN ? -i : i);
}

/* --- Functions ---------------------------------------------------------------------------------- */

static value do_range(job *j, value self, const arguments *a)
{
    const int64_t first = rf_jinja_whole(j, rf_jinja_argument(a, 0, "start"), 0);
    const int64_t begin = a->n > 1 ? first : 0,
                  end = a->n > 1 ? rf_jinja_whole(j, a->v[1], 0) : first;
    const int64_t by = rf_jinja_whole(j, rf_jinja_argument(a, 2, "step"), 1);
    value l = rf_jinja_new_list(j, 8);
    (void)self;
    if (by == 0) {
        rf_jinja_fail(j, "range with a step of 0");
    }
    for (int64_t i = begin; by > 0 ? i < end : i > end;) {
        rf_jinja_push(j, l.list, rf_jinja_integer(i));
        if (__builtin_add_overflow(i, by, &i)) {
            break;
        }
    }
    return l;
}

static value fill(job *j, const arguments *a, value_kind kind)
{
    value d = rf_jinja_new_dict(j, kind);
    if (a->n > 0 && a->v[0].kind == DICT) {
        for (size_t i = 0; i < a->v[0].dict->n; i++) {
            rf_jinja_put(j, d.dict, a->v[0].dict->pair[i].key, a->v[0].dict->pair[i].value);
        }
    }
    for (size_t i = 0; i < a->named.n; i++) {
        rf_jinja_put(j, d.dict, a->named.pair[i].key, a->named.pair[i].value);
    }
    return d;
}

BUILTIN(do_dict, fill(j, a, DICT))
BUILTIN(do_namespace, fill(j, a, NAMESPACE))

static value do_raise(job *j, value self, const arguments *a)
{
    const text s = rf_jinja_text(j, rf_jinja_argument(a, 0, "message"));
    (void)self;
    rf_jinja_fail(j, "the template refuses this conversation: %.*s", (int)(s.n < 800 ? s.n : 800),
                  s.at);
}

static value do_strftime_now(job *j, value self, const arguments *a)
{
    static const struct tm fixed = {
        .tm_mday = 26, .tm_mon = 6, .tm_year = 124, .tm_wday = 5, .tm_yday = 207};
    const text f = rf_jinja_get_string(j, rf_jinja_argument(a, 0, "format"));
    const char *date = rf_jinja_date(j);
    const struct tm *day = rf_jinja_day(j) != NULL ? rf_jinja_day(j) : &fixed;
    char format[128] = "", printed[256];
    (void)self;
    if (date != NULL) {
        return rf_jinja_string(rf_jinja_copy(j, (text){date, strlen(date)}, true));
    }
    if (f.n >= sizeof format) {
        rf_jinja_fail(j, "strftime_now with a format of %zu bytes", f.n);
    }
    memcpy(format, f.at, f.n);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    const size_t n = strftime(printed, sizeof printed, format, day);
#pragma GCC diagnostic pop
    return rf_jinja_string(rf_jinja_print(j, "%.*s", (int)n, printed));
}

/* --- Tests -------------------------------------------------------------------------------------- */

static value other_of(const arguments *a)
{
    return rf_jinja_argument(a, 0, "other");
}

#define TEST(name, condition) BUILTIN(is_##name, rf_jinja_boolean(condition))
TEST(defined, self.kind != UNDEFINED)
TEST(undefined, self.kind == UNDEFINED)
TEST(none, self.kind == NONE)
TEST(boolean, self.kind == BOOLEAN)
TEST(true, self.kind == BOOLEAN && self.b)
TEST(false, self.kind == BOOLEAN && !self.b)
TEST(integer, self.kind == INTEGER)
TEST(float, self.kind == REAL)
TEST(number, self.kind == INTEGER || self.kind == REAL || self.kind == BOOLEAN)
TEST(string, self.kind == STRING)
TEST(mapping, self.kind == DICT)
TEST(sequence,
     self.kind == STRING || self.kind == LIST || self.kind == DICT || self.kind == UNDEFINED)
TEST(callable, self.kind == CALLABLE)
TEST(equal, rf_jinja_compare(j, '=', self, other_of(a)))
TEST(unequal, rf_jinja_compare(j, '!', self, other_of(a)))
TEST(less, rf_jinja_compare(j, '<', self, other_of(a)))
TEST(greater, rf_jinja_compare(j, '>', self, other_of(a)))
TEST(at_most, rf_jinja_compare(j, 'l', self, other_of(a)))
TEST(at_least, rf_jinja_compare(j, 'g', self, other_of(a)))
TEST(in, rf_jinja_compare(j, 'i', self, other_of(a)))
TEST(odd, rf_jinja_whole(j, self, 0) % 2 != 0)
TEST(even, rf_jinja_whole(j, self, 0) % 2 == 0)
TEST(divisible, rf_jinja_whole(j, other_of(a), 0) != 0 &&
                    rf_jinja_whole(j, self, 0) % rf_jinja_whole(j, other_of(a), 1) == 0)
TEST(same, self.kind == other_of(a).kind && rf_jinja_equal(j, self, other_of(a)))
TEST(lower, rf_jinja_is_all(j, rf_jinja_text(j, self), LOWER))
TEST(upper, rf_jinja_is_all(j, rf_jinja_text(j, self), UPPER))
#undef TEST

/* --- Names -------------------------------------------------------------------------------------- */

static builtin *look_up(const builtin_name *table, text name)
{
    for (; table->name != NULL; table++) {
        if (rf_jinja_is(name, table->name)) {
            return table->run;
        }
    }
    return NULL;
}

builtin *rf_jinja_filter(text name)
{
    static const builtin_name others[] = {
        {"abs", do_abs}, {"d", do_default},   {"default", do_default},     {"float", do_float},
        {"int", do_int}, {"round", do_round}, {"tojson", rf_jinja_tojson}, {NULL, NULL},
    };
    builtin *found = look_up(rf_jinja_string_filters, name);
    found = found != NULL ? found : look_up(rf_jinja_character_filters, name);
    found = found != NULL ? found : look_up(rf_jinja_collection_filters, name);
    return found != NULL ? found : look_up(others, name);
}

builtin *rf_jinja_test(text name)
{
    static const builtin_name tests[] = {
        {"!=", is_unequal},
        {"<", is_less},
        {"<=", is_at_most},
        {"==", is_equal},
        {">", is_greater},
        {">=", is_at_least},
        {"boolean", is_boolean},
        {"callable", is_callable},
        {"defined", is_defined},
        {"divisibleby", is_divisible},
        {"eq", is_equal},
        {"equalto", is_equal},
        {"even", is_even},
        {"false", is_false},
        {"float", is_float},
        {"ge", is_at_least},
        {"greaterthan", is_greater},
        {"gt", is_greater},
        {"in", is_in},
        {"integer", is_integer},
        {"iterable", is_sequence},
        {"le", is_at_most},
        {"lessthan", is_less},
        {"lower", is_lower},
        {"lt", is_less},
        {"mapping", is_mapping},
        {"ne", is_unequal},
        {"none", is_none},
        {"number", is_number},
        {"odd", is_odd},
        {"sameas", is_same},
        {"sequence", is_sequence},
        {"string", is_string},
        {"true", is_true},
        {"undefined", is_undefined},
        {"upper", is_upper},
        {NULL, NULL},
    };
    return look_up(tests, name);
}

builtin *rf_jinja_named(job *j, const node *n)
{
    const bool is_filter = n->syntax == E_FILTER;
    builtin *found = (is_filter ? rf_jinja_filter : rf_jinja_test)(n->s);
    if (found == NULL) {
        rf_jinja_fail(j, "the %s \"%.*s\" is not known", is_filter ? "filter" : "test",
                      QUOTE(n->s));
    }
    return found;
}

builtin *rf_jinja_function(text name)
{
    static const builtin_name functions[] = {
        {"dict", do_dict},   {"namespace", do_namespace},       {"raise_exception", do_raise},
        {"range", do_range}, {"strftime_now", do_strftime_now}, {NULL, NULL}};
    return look_up(functions, name);
}

static builtin *method_of(value_kind kind, text name)
{
    builtin *of_string = kind == STRING ? look_up(rf_jinja_string_methods, name) : NULL;
    return of_string != NULL ? of_string
           : kind == STRING  ? look_up(rf_jinja_character_methods, name)
           : kind == DICT    ? look_up(rf_jinja_dict_methods, name)
           : kind == LIST    ? look_up(rf_jinja_list_methods, name)
                             : NULL;
}

/* --- Attributes and elements -------------------------------------------------------------------- */

static value missing(job *j, value v, text name)
{
    if (v.kind == UNDEFINED) {
        const text of = v.s.n > 0 ? v.s : TEXT("");
        rf_jinja_fail(j, "\"%.*s\" of a value that is not defined (\"%.*s\")", QUOTE(name),
                      QUOTE(of));
    }
    return (value){.kind = UNDEFINED, .s = name};
}

value rf_jinja_attribute(job *j, value v, text name)
{
    builtin *method = method_of(v.kind, name);
    if (method != NULL) {
        return rf_jinja_callable(j, method, v);
    }
    const value *found = v.kind == DICT || v.kind == NAMESPACE
                             ? rf_jinja_find(j, v.dict, rf_jinja_string(name))
                             : NULL;
    return found != NULL ? *found : missing(j, v, name);
}

value rf_jinja_element(job *j, value v, value key)
{
    if ((v.kind == LIST || v.kind == STRING) && key.kind == INTEGER) {
        const int64_t n = v.kind == LIST ? (int64_t)v.list->n : (int64_t)rf_jinja_length(j, v.s);
        const int64_t i = key.i < 0 ? key.i + n : key.i;
        if (key.i < -n || i >= n) {
            return undefined;
        }
        return v.kind == LIST ? v.list->item[i]
                              : rf_jinja_string(rf_jinja_slice(v.s, (size_t)i, 1));
    }
    const value *found =
        v.kind == DICT || v.kind == NAMESPACE ? rf_jinja_find(j, v.dict, key) : NULL;
    if (found != NULL) {
        return *found;
    }
    return key.kind == STRING ? rf_jinja_attribute(j, v, key.s) : missing(j, v, TEXT("an element"));
}

value rf_jinja_attribute_of(job *j, value v, value attribute, value otherwise)
{
    if (attribute.kind != STRING) {
        v = rf_jinja_element(j, v, attribute);
        return v.kind == UNDEFINED && rf_jinja_is_given(otherwise) ? otherwise : v;
    }
    for (text rest = attribute.s, part; rest.at != NULL;) {
        const char *dot = memchr(rest.at, '.', rest.n);
        part = (text){rest.at, dot != NULL ? (size_t)(dot - rest.at) : rest.n};
        rest = dot != NULL ? (text){dot + 1, rest.n - part.n - 1} : (text){NULL, 0};
        int64_t i;
        const bool counts = part.n > 0 && part.n < 18 && strspn(part.at, "0123456789") >= part.n &&
                            read_integer(&i, j, part, 10);
        v = rf_jinja_element(j, v, counts ? rf_jinja_integer(i) : rf_jinja_string(part));
        v = v.kind == UNDEFINED && rf_jinja_is_given(otherwise) ? otherwise : v;
    }
    return v;
}
