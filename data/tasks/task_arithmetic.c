#include "data/tasks/task_rules.h"

#include <inttypes.h>

/* The checker knows one grammar: expressions of + and -, parted by commas, each evaluated from left
 * to right; the answer is the result after every operator, in order. */

static int64_t draw(rf_rng *rng, int64_t max)
{
    return (int64_t)rf_rng_below(rng, (uint64_t)max + 1);
}

static int generate_sums(rf_task_text *out, rf_rng *rng, const rf_task_options *o, rf_error *err)
{
    int width = o->pad ? rf_task_digits(o->max_value) : 1;
    int result_width = o->pad ? rf_task_digits(2 * o->max_value) : 1;
    for (int64_t i = 0; i < o->n_parts; i++) {
        const char *comma = i > 0 ? "," : "";
        int64_t a = draw(rng, o->max_value), b = draw(rng, o->max_value);
        RF_TRY(rf_task_append(out->query, sizeof out->query, err, "%s%0*" PRId64 "+%0*" PRId64,
                              comma, width, a, width, b));
        RF_TRY(rf_task_append(out->response, sizeof out->response, err, "%s%0*" PRId64, comma,
                              result_width, a + b));
    }
    return RF_OK;
}

/* Every result stays in [0, max]. */
static int generate_chain(rf_task_text *out, rf_rng *rng, const rf_task_options *o, rf_error *err)
{
    int width = o->pad ? rf_task_digits(o->max_value) : 1;
    int64_t value = draw(rng, o->max_value);
    RF_TRY(rf_task_append(out->query, sizeof out->query, err, "%0*" PRId64, width, value));
    for (int64_t i = 0; i < o->n_parts; i++) {
        bool minus = rf_rng_below(rng, 2) == 1;
        int64_t b = draw(rng, minus ? value : o->max_value - value);
        value = minus ? value - b : value + b;
        RF_TRY(rf_task_append(out->query, sizeof out->query, err, "%c%0*" PRId64, minus ? '-' : '+',
                              width, b));
        RF_TRY(rf_task_append(out->response, sizeof out->response, err, "%s%0*" PRId64,
                              i > 0 ? "," : "", width, value));
    }
    return RF_OK;
}

static int generate(rf_task_text *out, rf_rng *rng, const rf_task_options *options, rf_error *err)
{
    return options->chain ? generate_chain(out, rng, options, err)
                          : generate_sums(out, rng, options, err);
}

static bool check(const char *query, const char *expected, const char *answer)
{
    (void)expected;
    int64_t value, operand, given;
    for (int64_t n_results = 0;;) {
        if (!rf_task_read_number(&value, &query)) {
            return false;
        }
        bool plus, has_step = false;
        while ((plus = rf_task_read_char(&query, '+')) || rf_task_read_char(&query, '-')) {
            if (!rf_task_read_number(&operand, &query) ||
                (plus ? __builtin_add_overflow(value, operand, &value)
                      : __builtin_sub_overflow(value, operand, &value))) {
                return false;
            }
            if ((n_results > 0 && !rf_task_read_char(&answer, ',')) ||
                !rf_task_read_number(&given, &answer) || given != value) {
                return false;
            }
            n_results++;
            has_step = true;
        }
        if (!has_step) {
            return false;
        }
        if (!rf_task_read_char(&query, ',')) {
            return rf_task_at_end(query) && rf_task_at_end(answer);
        }
    }
}

const rf_task rf_task_arithmetic = {
    .name = "arithmetic",
    .help = "sums (parts=4 of them, numbers up to max=99), or with chain=true one sum of so many "
            "steps; pad=true: leading zeros",
    .preset = {.n_parts = 4, .max_value = 99},
    .least = {.n_parts = 1, .max_value = 1},
    .most = {.n_parts = 256, .max_value = 1000000000, .chain = true, .pad = true},
    .generate = generate,
    .check = check,
};
