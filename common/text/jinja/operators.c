/* Operators: arithmetic as Python does it, comparisons. */
#include "common/text/jinja/jinja_private.h"

#include <math.h>
#include <string.h>

_Noreturn static void no_operation(job *j, const char *sign, value a, value b)
{
    rf_jinja_fail(j, "%s %s %s is not possible%s%.*s", rf_jinja_kind_name(a), sign,
                  rf_jinja_kind_name(b), a.kind == UNDEFINED ? ": undefined is " : "",
                  a.kind == UNDEFINED ? (int)a.s.n : 0, a.kind == UNDEFINED ? a.s.at : "");
}

static value join_texts(job *j, text a, text b)
{
    buffer all = {0};
    rf_jinja_add(j, &all, a);
    rf_jinja_add(j, &all, b);
    return rf_jinja_string(rf_jinja_made(&all));
}

static value add(job *j, value a, value b)
{
    if (a.kind == STRING && b.kind == STRING) {
        return join_texts(j, a.s, b.s);
    }
    if (a.kind != LIST || b.kind != LIST) {
        no_operation(j, "+", a, b);
    }
    value sum = rf_jinja_new_list(j, a.list->n + b.list->n);
    for (size_t i = 0; i < a.list->n + b.list->n; i++) {
        rf_jinja_push(j, sum.list, i < a.list->n ? a.list->item[i] : b.list->item[i - a.list->n]);
    }
    return sum;
}

static value repeat(job *j, value what, int64_t times)
{
    value all = rf_jinja_new_list(j, 0);
    buffer b = {0};
    for (int64_t i = 0; i < times; i++) {
        rf_jinja_step(j, 1);
        if (what.kind == STRING) {
            rf_jinja_add(j, &b, what.s);
        }
        for (size_t k = 0; what.kind == LIST && k < what.list->n; k++) {
            rf_jinja_push(j, all.list, what.list->item[k]);
        }
    }
    return what.kind == STRING ? rf_jinja_string(rf_jinja_made(&b)) : all;
}

/* Python's division goes down, also for negative numbers. */
static value calculate_integers(job *j, int op, int64_t a, int64_t b)
{
    int64_t c = 0;
    bool fits = true;
    if ((op == 'F' || op == '%') && b != 0 && !(a == INT64_MIN && b == -1)) {
        const int64_t down = a % b != 0 && (a % b < 0) != (b < 0);
        return rf_jinja_integer(op == 'F' ? a / b - down : a % b + down * b);
    }
    if (op == '+') {
        fits = !__builtin_add_overflow(a, b, &c);
    } else if (op == '-') {
        fits = !__builtin_sub_overflow(a, b, &c);
    } else if (op == '*') {
        fits = !__builtin_mul_overflow(a, b, &c);
    } else if (op == 'P' && b >= 0) {
        c = 1;
        for (int64_t i = 0; i < b && fits && b < 64; i++) {
            fits = !__builtin_mul_overflow(c, a, &c);
        }
        fits = fits && b < 64;
    } else {
        fits = false;
    }
    if (!fits) {
        rf_jinja_fail(j, "a number that is too large, or a division by zero");
    }
    return rf_jinja_integer(c);
}

static value calculate_reals(job *j, int op, double a, double b)
{
    double c = op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : 0;
    if (op == 'P') {
        c = pow(a, b);
    } else if (strchr("/F%", op) != NULL) {
        if (b == 0) {
            rf_jinja_fail(j, "a division by zero");
        }
        c = op == '/' ? a / b : op == 'F' ? floor(a / b) : a - floor(a / b) * b;
    }
    return (value){.kind = REAL, .r = c};
}

value rf_jinja_calculate(job *j, int op, value a, value b)
{
    double x, y;
    const char sign[] = {op == 'F' ? '/' : op == 'P' ? '*' : (char)op, '\0'};
    if (op == '~') {
        return join_texts(j, rf_jinja_text(j, a), rf_jinja_text(j, b));
    }
    if (rf_jinja_real(&x, a) && rf_jinja_real(&y, b)) {
        const bool whole = a.kind != REAL && b.kind != REAL && op != '/' && !(op == 'P' && y < 0);
        return whole ? calculate_integers(j, op, a.kind == INTEGER ? a.i : a.b,
                                          b.kind == INTEGER ? b.i : b.b)
                     : calculate_reals(j, op, x, y);
    }
    if (op == '*' && (a.kind == STRING || a.kind == LIST) && b.kind == INTEGER) {
        return repeat(j, a, b.i);
    }
    if (op == '*' && a.kind == INTEGER && (b.kind == STRING || b.kind == LIST)) {
        return repeat(j, b, a.i);
    }
    if (op != '+') {
        no_operation(j, sign, a, b);
    }
    return add(j, a, b);
}

bool rf_jinja_compare(job *j, int op, value a, value b)
{
    switch (op) {
    case '=':
        return rf_jinja_equal(j, a, b);
    case '!':
        return !rf_jinja_equal(j, a, b);
    case '<':
        return rf_jinja_order(j, a, b) < 0;
    case '>':
        return rf_jinja_order(j, a, b) > 0;
    case 'l':
        return rf_jinja_order(j, a, b) <= 0;
    case 'g':
        return rf_jinja_order(j, a, b) >= 0;
    case 'i':
        return rf_jinja_contains(j, b, a);
    default:
        return !rf_jinja_contains(j, b, a);
    }
}

value rf_jinja_negate(job *j, value v)
{
    if (v.kind == REAL) {
        return (value){.kind = REAL, .r = -v.r};
    }
    return rf_jinja_calculate(j, '-', rf_jinja_integer(0), v);
}
