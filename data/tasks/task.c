#include "data/tasks/task.h"

#include "data/tasks/task_rules.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* --- Shared by the tasks ---------------------------------------------------------------------- */

int rf_task_append(char *text, size_t size, rf_error *err, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= size - used) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "the question or its answer is longer than %zu characters: lower "
                            "option parts or max",
                            size - 1);
    }
    return RF_OK;
}

int rf_task_digits(int64_t value)
{
    int n = 1;
    for (; value >= 10; value /= 10) {
        n++;
    }
    return n;
}

/* isspace without the locale, and safe for any byte. */
static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *skip_blanks(const char *text)
{
    while (is_blank(*text)) {
        text++;
    }
    return text;
}

bool rf_task_read_number(int64_t *value, const char **text)
{
    const char *p = skip_blanks(*text);
    bool negative = *p == '-';
    p += negative;
    int64_t number = 0;
    int n = 0;
    for (; is_digit(*p) && n < 18; p++, n++) {
        number = number * 10 + (*p - '0');
    }
    *text = p;
    *value = negative ? -number : number;
    return n >= 1 && !is_digit(*p);
}

bool rf_task_read_char(const char **text, char c)
{
    *text = skip_blanks(*text);
    if (**text != c || c == '\0') {
        return false;
    }
    (*text)++;
    return true;
}

bool rf_task_at_end(const char *text)
{
    return *skip_blanks(text) == '\0';
}

/* --- gsm8k and exact -------------------------------------------------------------------------- */

/* A decimal number without sign, separators, leading and trailing zeros. */
typedef struct decimal {
    bool negative;
    char digit[64]; /* integer part, a point if there is a fraction, the fraction */
} decimal;

static void trim_fraction(char *digit)
{
    if (strchr(digit, '.') == NULL) {
        return;
    }
    size_t n = strlen(digit);
    while (digit[n - 1] == '0') {
        digit[--n] = '\0';
    }
    if (digit[n - 1] == '.') {
        digit[n - 1] = '\0';
    }
}

/* The number behind the last "####": "#### $1,234.50 a day" is 1234.5. */
static bool read_final(decimal *out, const char *text)
{
    const char *p = NULL;
    for (const char *mark = text; (mark = strstr(mark, "####")) != NULL; mark++) {
        p = mark + 4;
    }
    if (p == NULL) {
        return false;
    }
    *out = (decimal){0};
    for (; is_blank(*p) || *p == '$' || *p == '-' || *p == '+'; p++) {
        out->negative = out->negative || *p == '-';
    }
    size_t n = 0;
    bool has_digit = false, has_point = false;
    for (; n + 1 < sizeof out->digit; p++) {
        if (is_digit(*p)) {
            has_digit = true;
            if (n > 0 || *p != '0' || has_point) {
                out->digit[n++] = *p;
            }
        } else if (*p == '.' && !has_point && is_digit(p[1])) {
            has_point = true;
            out->digit[n++] = '.';
        } else if (*p != ',' || !is_digit(p[1])) {
            break;
        }
    }
    trim_fraction(out->digit);
    out->negative = out->negative && out->digit[0] != '\0';
    return has_digit && n + 1 < sizeof out->digit;
}

static bool gsm8k_check(const char *query, const char *expected, const char *answer)
{
    (void)query;
    decimal a, b;
    return read_final(&a, expected) && read_final(&b, answer) && a.negative == b.negative &&
           strcmp(a.digit, b.digit) == 0;
}

static size_t trimmed_length(const char *text)
{
    size_t n = strlen(text);
    while (n > 0 && is_blank(text[n - 1])) {
        n--;
    }
    return n;
}

static bool exact_check(const char *query, const char *expected, const char *answer)
{
    (void)query;
    expected = skip_blanks(expected);
    answer = skip_blanks(answer);
    size_t n = trimmed_length(expected);
    return trimmed_length(answer) == n && memcmp(expected, answer, n) == 0;
}

static const rf_task gsm8k = {
    .name = "gsm8k", .help = "only checked: the number behind the last ####", .check = gsm8k_check};
static const rf_task exact = {.name = "exact",
                              .help = "only checked: equal text, but for blanks at both ends",
                              .check = exact_check};

/* --- The table -------------------------------------------------------------------------------- */

const rf_task *const rf_tasks[] = {
    &rf_task_arithmetic, &rf_task_sort, &rf_task_sudoku, &rf_task_countdown, &gsm8k, &exact, NULL};

const rf_task *rf_task_find(const char *name)
{
    for (const rf_task *const *task = rf_tasks; *task != NULL; task++) {
        if (strcmp((*task)->name, name) == 0) {
            return *task;
        }
    }
    return NULL;
}

static int check_range(const char *name, int64_t value, int64_t least, int64_t most, rf_error *err)
{
    return value >= least && value <= most
               ? RF_OK
               : rf_error_set(err, RF_ERR_USAGE,
                              "option %s=%" PRId64 ": must be from %" PRId64 " to %" PRId64, name,
                              value, least, most);
}

int rf_task_generate(const rf_task *task, rf_task_text *out, rf_rng *rng, const rf_task_options *o,
                     rf_error *err)
{
    const char *refused = task->most.max_value == 0 && o->max_value != 0 ? "max"
                          : o->chain && !task->most.chain                ? "chain"
                          : o->pad && !task->most.pad                    ? "pad"
                                                                         : NULL;
    if (refused != NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "option %s: this task does not have it", refused);
    }
    RF_TRY(check_range("parts", o->n_parts, task->least.n_parts, task->most.n_parts, err));
    RF_TRY(check_range("max", o->max_value, task->least.max_value, task->most.max_value, err));
    *out = (rf_task_text){0};
    return task->generate(out, rng, o, err);
}
