#include "data/tasks/task.h"

#include "common/base/alloc.h"
#include "data/tasks/task_rules.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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
    for (; isdigit((unsigned char)*p) && n < 18; p++, n++) {
        number = number * 10 + (*p - '0');
    }
    *text = p;
    *value = negative ? -number : number;
    return n >= 1 && !isdigit((unsigned char)*p);
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

int64_t rf_task_read_list(int64_t *x, int64_t most, const char *text)
{
    int64_t n = 0;
    do {
        if (n == most || !rf_task_read_number(&x[n], &text)) {
            return -1;
        }
        n++;
    } while (rf_task_read_char(&text, ','));
    return rf_task_at_end(text) ? n : -1;
}

/* --- Published tasks -------------------------------------------------------------------------- */

void rf_task_item_free(rf_task_item *item)
{
    free(item->query);
    free(item->expected);
    rf_free_strings(item->choice, item->n_choices);
    free(item->prefix);
    free(item->tests);
    *item = (rf_task_item){0};
}

int rf_task_field(const char **out, const json_t *record, const char *field, rf_error *err)
{
    const json_t *value = json_object_get(record, field);
    *out = json_string_value(value);
    return *out != NULL && strlen(*out) != json_string_length(value)
               ? rf_error_set(err, RF_ERR, "\"%s\" holds a zero character: remove it", field)
               : RF_OK;
}

bool rf_task_same(char *a, char *b)
{
    bool same = a != NULL && b != NULL && strcmp(a, b) == 0;
    free(a);
    free(b);
    return same;
}

int64_t rf_task_cut(const rf_task *task, const char *answer)
{
    const char *end = answer + strlen(answer);
    for (const char *const *stop = task->stops; stop != NULL && *stop != NULL; stop++) {
        const char *at = strstr(answer, *stop);
        end = at != NULL && at < end ? at : end;
    }
    return end - answer;
}

/* --- exact ------------------------------------------------------------------------------------ */

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

static const rf_task exact = {
    .name = "exact", .help = "equal text, but for blanks at both ends", .check = exact_check};

/* --- The table -------------------------------------------------------------------------------- */

const rf_task *const rf_tasks[] = {&rf_task_arithmetic,
                                   &rf_task_sort,
                                   &rf_task_sudoku4,
                                   &rf_task_sudoku9,
                                   &rf_task_countdown,
                                   &rf_task_gsm8k,
                                   &rf_task_math,
                                   &rf_task_arc,
                                   &rf_task_arc_likelihood,
                                   &rf_task_mmlu_pro,
                                   &rf_task_mmlu_pro_likelihood,
                                   &rf_task_humaneval,
                                   &rf_task_mbpp,
                                   &exact,
                                   NULL};

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
