#include "data/tasks/task_rules.h"

#include <inttypes.h>

enum { MAX_NUMBERS = 32, MAX_GENERATED = 6, MAX_TRIES = 100000 };

/* --- Generator -------------------------------------------------------------------------------- */

/* Steps that make a question: a > 0 and b > 0, larger first, results positive, nothing that leaves
 * a number as it is. *result of a op b; false: not such a step. */
static bool useful_step(int64_t *result, int64_t a, int64_t b, char op)
{
    switch (op) {
    case '+':
        *result = a + b;
        return true;
    case '-':
        *result = a - b;
        return a > b;
    case '*':
        *result = a * b;
        return b > 1 && *result <= 1000000;
    default:
        *result = a / b;
        return b > 1 && a % b == 0;
    }
}

/* One random step: two of the n numbers become their result. *fits: it was a useful one. */
static int random_step(rf_task_text *out, bool *fits, int64_t *x, int64_t n, rf_rng *rng,
                       rf_error *err)
{
    int64_t i = (int64_t)rf_rng_below(rng, (uint64_t)n);
    int64_t j = (int64_t)rf_rng_below(rng, (uint64_t)n - 1);
    j += j >= i;
    int64_t a = x[i] > x[j] ? x[i] : x[j], b = x[i] > x[j] ? x[j] : x[i], result;
    char op = "+-*/"[rf_rng_below(rng, 4)];
    *fits = useful_step(&result, a, b, op);
    if (!*fits) {
        return RF_OK;
    }
    x[i] = result;
    x[j] = x[n - 1];
    return rf_task_append(out->response, sizeof out->response, err,
                          "%s%" PRId64 "%c%" PRId64 "=%" PRId64,
                          out->response[0] != '\0' ? "," : "", a, op, b, result);
}

/* One attempt. *fits: it led to a target in range. */
static int try_question(rf_task_text *out, bool *fits, rf_rng *rng, const rf_task_options *options,
                        rf_error *err)
{
    const int64_t n = options->n_parts, max = options->max_value;
    int64_t x[MAX_GENERATED];
    *out = (rf_task_text){0};
    for (int64_t i = 0; i < n; i++) {
        x[i] = 1 + (int64_t)rf_rng_below(rng, (uint64_t)max);
        RF_TRY(rf_task_append(out->query, sizeof out->query, err, "%" PRId64 ",", x[i]));
    }
    *fits = true;
    for (int64_t left = n; left > 1 && *fits; left--) {
        RF_TRY(random_step(out, fits, x, left, rng, err));
    }
    *fits = *fits && x[0] <= max && x[0] >= 10;
    return *fits ? rf_task_append(out->query, sizeof out->query, err, "%" PRId64, x[0]) : RF_OK;
}

static int generate(rf_task_text *out, rf_rng *rng, const rf_task_options *options, rf_error *err)
{
    bool fits = false;
    for (int i = 0; i < MAX_TRIES && !fits; i++) {
        RF_TRY(try_question(out, &fits, rng, options, err));
    }
    return fits ? RF_OK
                : rf_error_set(err, RF_ERR,
                               "no question found: raise option max or lower option parts");
}

/* --- Checker ---------------------------------------------------------------------------------- */

/* Takes value out of x[0..*n); false: it is not there. */
static bool use_number(int64_t *x, int64_t *n, int64_t value)
{
    for (int64_t i = 0; i < *n; i++) {
        if (x[i] == value) {
            x[i] = x[--*n];
            return true;
        }
    }
    return false;
}

static bool compute(int64_t *result, int64_t a, int64_t b, char op)
{
    switch (op) {
    case '+':
        return !__builtin_add_overflow(a, b, result);
    case '-':
        return !__builtin_sub_overflow(a, b, result);
    case '*':
        return !__builtin_mul_overflow(a, b, result);
    default:
        /* INT64_MIN / -1 cannot be written in 18 digits. */
        if (b == 0 || a % b != 0) {
            return false;
        }
        *result = a / b;
        return true;
    }
}

/* "a op b=c" with a right c; its numbers are taken from x, and c is put there. */
static bool check_step(int64_t *x, int64_t *n, const char **text)
{
    static const char ops[] = "+-*/";
    int64_t a, b, given, result;
    if (!rf_task_read_number(&a, text)) {
        return false;
    }
    int op = 0;
    while (ops[op] != '\0' && !rf_task_read_char(text, ops[op])) {
        op++;
    }
    if (ops[op] == '\0' || !rf_task_read_number(&b, text) || !rf_task_read_char(text, '=') ||
        !rf_task_read_number(&given, text)) {
        return false;
    }
    if (!compute(&result, a, b, ops[op]) || result != given || !use_number(x, n, a) ||
        !use_number(x, n, b)) {
        return false;
    }
    x[(*n)++] = result;
    return true;
}

static bool check(const char *query, const char *expected, const char *answer)
{
    (void)expected;
    int64_t x[MAX_NUMBERS], n = rf_task_read_list(x, MAX_NUMBERS, query);
    if (n < 3) {
        return false;
    }
    int64_t target = x[--n];
    do {
        if (!check_step(x, &n, &answer)) {
            return false;
        }
    } while (rf_task_read_char(&answer, ','));
    return rf_task_at_end(answer) && n == 1 && x[0] == target;
}

const rf_task rf_task_countdown = {
    .name = "countdown",
    .help = "make the last number of parts=3 numbers up to max=100, with + - * /",
    .preset = {.n_parts = 3, .max_value = 100},
    .least = {.n_parts = 2, .max_value = 10},
    .most = {.n_parts = MAX_GENERATED, .max_value = 100000},
    .generate = generate,
    .check = check,
};
