#include "data/tasks/task_rules.h"

/* The checker knows one grammar: expressions of + and -, parted by commas, each evaluated from left
 * to right; the answer is the result after every operator, in order. */

static int64_t draw(rf_rng *rng, int64_t max)
{
    return (int64_t)rf_rng_below(rng, (uint64_t)max + 1);
}

static int generate_sums(rf_task_text *out, rf_rng *rng, int64_t n, int64_t max, bool pad,
                         rf_error *err)
{
    int width = pad ? rf_task_digits(max) : 1;
    int result_width = pad ? rf_task_digits(2 * max) : 1;
    for (int64_t i = 0; i < n; i++) {
        const char *comma = i > 0 ? "," : "";
        int64_t a = draw(rng, max), b = draw(rng, max);
        int rc = rf_task_append(out->query, sizeof out->query, err, "%s%0*lld+%0*lld", comma, width,
                                (long long)a, width, (long long)b);
        if (rc == RF_OK) {
            rc = rf_task_append(out->response, sizeof out->response, err, "%s%0*lld", comma,
                                result_width, (long long)(a + b));
        }
        if (rc != RF_OK) {
            return rc;
        }
    }
    return RF_OK;
}

/* Every result stays in [0, max]. */
static int generate_chain(rf_task_text *out, rf_rng *rng, int64_t n, int64_t max, bool pad,
                          rf_error *err)
{
    int width = pad ? rf_task_digits(max) : 1;
    int64_t value = draw(rng, max);
    int rc = rf_task_append(out->query, sizeof out->query, err, "%0*lld", width, (long long)value);
    for (int64_t i = 0; i < n && rc == RF_OK; i++) {
        bool minus = rf_rng_below(rng, 2) == 1;
        int64_t b = draw(rng, minus ? value : max - value);
        value = minus ? value - b : value + b;
        rc = rf_task_append(out->query, sizeof out->query, err, "%c%0*lld", minus ? '-' : '+',
                            width, (long long)b);
        if (rc == RF_OK) {
            rc = rf_task_append(out->response, sizeof out->response, err, "%s%0*lld",
                                i > 0 ? "," : "", width, (long long)value);
        }
    }
    return rc;
}

int rf_task_arithmetic_generate(rf_task_text *out, rf_rng *rng, const rf_task_options *options,
                                rf_error *err)
{
    *out = (rf_task_text){0};
    int rc = rf_task_range("parts", options->n_parts, 1, 256, err);
    if (rc == RF_OK) {
        rc = rf_task_range("max", options->max_value, 1, 1000000000, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    return options->chain
               ? generate_chain(out, rng, options->n_parts, options->max_value, options->pad, err)
               : generate_sums(out, rng, options->n_parts, options->max_value, options->pad, err);
}

bool rf_task_arithmetic_check(const char *query, const char *expected, const char *answer)
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
