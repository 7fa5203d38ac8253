#include "data/tasks/task_rules.h"

#include <inttypes.h>
#include <stdlib.h>

/* No list in a question of rf_task_text is longer; a checker may be asked about longer ones. */
enum { MAX_NUMBERS = 4096, MAX_GENERATED = 256 };

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int append_list(char *text, size_t size, const int64_t *x, int64_t n, int width,
                       rf_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(rf_task_append(text, size, err, "%s%0*" PRId64, i > 0 ? "," : "", width, x[i]));
    }
    return RF_OK;
}

static int generate(rf_task_text *out, rf_rng *rng, const rf_task_options *options, rf_error *err)
{
    int64_t x[MAX_GENERATED];
    const int64_t n = options->n_parts, max = options->max_value;
    int width = options->pad ? rf_task_digits(max) : 1;
    for (int64_t i = 0; i < n; i++) {
        x[i] = (int64_t)rf_rng_below(rng, (uint64_t)max + 1);
    }
    RF_TRY(append_list(out->query, sizeof out->query, x, n, width, err));
    qsort(x, (size_t)n, sizeof x[0], compare);
    return append_list(out->response, sizeof out->response, x, n, width, err);
}

static bool check(const char *query, const char *expected, const char *answer)
{
    (void)expected;
    int64_t x[MAX_NUMBERS], y[MAX_NUMBERS];
    int64_t n = rf_task_read_list(x, MAX_NUMBERS, query);
    if (n < 0 || rf_task_read_list(y, MAX_NUMBERS, answer) != n) {
        return false;
    }
    qsort(x, (size_t)n, sizeof x[0], compare);
    for (int64_t i = 0; i < n; i++) {
        if (x[i] != y[i]) {
            return false;
        }
    }
    return true;
}

const rf_task rf_task_sort = {
    .name = "sort",
    .help = "parts=6 numbers up to max=99 in ascending order; pad=true: leading zeros",
    .preset = {.n_parts = 6, .max_value = 99},
    .least = {.n_parts = 1, .max_value = 1},
    .most = {.n_parts = MAX_GENERATED, .max_value = 1000000000, .pad = true},
    .generate = generate,
    .check = check,
};
