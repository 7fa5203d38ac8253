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

/* U, the sum of a sample's weights, has mean 1 and this variance; a token of the response, which is
 * `padded` long, is masked with probability `share`. */
static inline void check_weights(const rf_objective *o, int64_t n_prompt, int64_t n_response,
                                 int64_t padded, double variance, double share)
{
    enum { N = 200000 };
    rf_batch batch = make_batch(n_prompt + 2 * padded);
    int32_t token[MAX_TOKENS];
    fill_tokens(token, n_prompt + n_response, 1);
    double sum = 0, square = 0, fourth = 0, masked = 0, masked2 = 0;
    for (int64_t s = 0; s < N; s++) {
        rf_counts counts = {0};
        rf_rng rng = sample_rng(s);
        double u = 0;
        rf_batch_clear(&batch);
        rf_objective_append(o, &batch, &counts, token, n_prompt, n_response, &rng);
        for (int64_t i = 0; i < batch.n; i++) {
            u += (double)batch.weight[i];
        }
        double off = (u - 1) * (u - 1), x = (double)counts.n_targets[0] / (double)padded;
        sum += u;
        square += u * u;
        fourth += off * off;
        masked += x;
        masked2 += x * x;
    }
    check_mean("U", sum, square, N, 1);
    /* About the known mean 1. */
    check_mean("variance of U", square - 2 * sum + N, fourth, N, variance);
    check_mean("masked share", masked, masked2, N, share);
    rf_batch_free(&batch);
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
