/* objective_test.h: what the tests of objectives share. */
#ifndef RF_TESTS_DATA_OBJECTIVE_TEST_H
#define RF_TESTS_DATA_OBJECTIVE_TEST_H

#include "data/objective_private.h"
#include "tests/data/configured.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MASK = 999, END = 998, MAX_TOKENS = 600, MAX_PLACES = 8192 };

static inline rf_batch make_batch(int64_t places)
{
    rf_batch batch;
    rf_error err;
    cr_assert_eq(rf_batch_new(&batch, places, &err), RF_OK, "%s", err.message);
    return batch;
}

static inline void fill_tokens(int32_t *token, int64_t n, int64_t salt)
{
    for (int64_t i = 0; i < n; i++) {
        token[i] = (int32_t)((salt * 131 + i * 7) % 900);
    }
}

static inline rf_rng sample_rng(int64_t sample)
{
    return RF_RNG_STREAM(11, RF_RNG_TEST, (uint64_t)sample);
}

/* |mean - expected| in standard errors is at most 4.5: 7e-6 by chance, and the seed is fixed. */
static inline void check_mean(const char *what, double sum, double square, int64_t n, double wanted)
{
    double mean = sum / (double)n, variance = square / (double)n - mean * mean;
    double error = fabs(mean - wanted), bound = 4.5 * sqrt(variance / (double)n) + 1e-12;
    cr_assert(error <= bound, "%s: %g instead of %g, bound %g", what, mean, wanted, bound);
}

/* The objective of two settings, each NULL or "objective.key=value"; decode.gen_length is 40. */
static inline int from_config(rf_objective *out, const char *a, const char *b, int32_t mask,
                              rf_error *err)
{
    const rf_specials special = {.mask = mask, .eos = {END}, .n_eos = 1};
    rf_config *config;
    int rc = configured(&config, rf_objective_keys, a, b, err);
    rc = rc == RF_OK ? rf_objective_from_config(out, config, &special, 40, err) : rc;
    rf_config_free(config);
    return rc;
}

#endif
