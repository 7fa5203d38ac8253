/* What head_query promises of tokens: its distribution, ties, ids it never produces, and its score. */
#include "tests/kernels/draws.h"

#include "common/base/rng.h"
#include "common/kernels/gumbel.h"

#include <criterion/criterion.h>
#include <math.h>

enum { V = 10 };

static void softmax(double p[V], const double logits[V], double temperature, const bool allowed[V])
{
    double sum = 0;
    for (int j = 0; j < V; j++) {
        p[j] = allowed[j] ? exp(logits[j] / temperature) : 0;
        sum += p[j];
    }
    for (int j = 0; j < V; j++) {
        p[j] /= sum;
    }
}

static const double some_logits[V] = {1.0, -0.5, 0.25, 2.0, 0.0, 1.5, -1.0, 0.75, 3.0, 5.0};

/* Chi-square over the usable ids, for keys that are random and for keys that merely count. */
Test(sample, distribution_is_the_tempered_softmax)
{
    enum { N = 20000 };
    const bool all[V] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const bool allowed[V] = {1, 0, 1, 0, 1, 1, 1, 1, 0, 0};
    const int32_t banned[] = {1, 3};
    const double temperatures[] = {0.5, 1.0, 2.5};
    uint64_t *key = calloc(N, sizeof(*key));
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = draws_backends(list);
    cr_assert(key != NULL);
    for (int c = 0; c < n_backends * 3 * 2; c++) {
        const rf_backend *b = list[c / 6];
        rf_rng rng = RF_RNG_STREAM(23, RF_RNG_TEST, 0);
        for (int i = 0; i < N; i++) {
            key[i] = c % 2 == 0 ? rf_rng_u64(&rng) : (uint64_t)i;
        }
        const double temperature = temperatures[c / 2 % 3];
        const sampling rule = {.how.temperature = temperature,
                               .key = key,
                               .banned = banned,
                               .n_banned = 2,
                               .n_usable = 8};
        draws d = draws_take(b, some_logits, V, &rule, N);
        double p[V], untempered[V], chi = 0;
        int64_t count[V] = {0};
        softmax(p, some_logits, temperature, allowed);
        softmax(untempered, some_logits, 1, all);
        for (int i = 0; i < N; i++) {
            int32_t t = d.token[i];
            if (!(t >= 0 && t < V && allowed[t] && fabs(d.score[i] - untempered[t]) <= 1e-6)) {
                cr_assert_fail("%s %s: token %d, score %g", b->name, b->isa, (int)t, d.score[i]);
            }
            count[t]++;
        }
        for (int j = 0; j < V; j++) {
            double expected = p[j] * N;
            chi += allowed[j] ? pow((double)count[j] - expected, 2) / expected : 0;
        }
        /* 5 degrees of freedom: above 25.7 once in 10^4. */
        cr_assert(chi <= 25.7, "%s %s, temperature %g: chi-square %g", b->name, b->isa, temperature,
                  chi);
        draws_free(&d);
    }
    free(key);
}

Test(sample, argmax_takes_the_lowest_of_equals)
{
    const double tied[V] = {0, 1, 2, 2, 1, 2, 2, -1, 2, 2};
    const int32_t banned[] = {2, 5};
    const rf_backend *list[MAX_BACKENDS];
    int n = draws_backends(list);
    for (int b = 0; b < n; b++) {
        const struct {
            int64_t n_banned, n_usable;
            int32_t expected;
        } cases[] = {{0, V, 2}, {1, V, 3}, {2, 3, 1}, {0, 2, 1}, {2, 1, 0}, {2, V, 3}};
        for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
            const sampling rule = {
                .banned = banned, .n_banned = cases[c].n_banned, .n_usable = cases[c].n_usable};
            draws d = draws_take(list[b], tied, V, &rule, 3);
            for (int i = 0; i < 3; i++) {
                cr_assert_eq(d.token[i], cases[c].expected, "%s %s, case %zu: %d", list[b]->name,
                             list[b]->isa, c, (int)d.token[i]);
            }
            draws_free(&d);
        }
    }
}

/* One usable id is produced whatever the noise, and the greatest logits do no harm. */
Test(sample, extreme_logits)
{
    const double extreme[V] = {-80, -3e4, 3e4, -60, 0, 3e4, 0, 0, 0, 0};
    const int32_t banned[] = {1, 2, 5};
    uint64_t key[50];
    for (uint64_t i = 0; i < 50; i++) {
        key[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    }
    const rf_backend *list[MAX_BACKENDS];
    int n = draws_backends(list);
    for (int b = 0; b < n; b++) {
        const sampling rule = {
            .how.temperature = 1e-3, .key = key, .banned = banned, .n_banned = 3, .n_usable = 4};
        draws d = draws_take(list[b], extreme, V, &rule, 50);
        for (int i = 0; i < 50; i++) {
            cr_assert_eq(d.token[i], 3);
            cr_assert(d.score[i] >= 0 && d.score[i] <= 1e-30);
        }
        draws_free(&d);
    }
}

Test(sample, noise_is_a_fixed_function)
{
    double sum = 0, squares = 0;
    for (int64_t id = 0; id < 100000; id++) {
        double u = rf_gumbel_uniform(7, id);
        if (!(u > 0 && u < 1 && isfinite(rf_gumbel(7, id)))) {
            cr_assert_fail("id %ld: %g", (long)id, u);
        }
        sum += u;
        squares += u * u;
    }
    cr_assert(fabs(sum / 1e5 - 0.5) <= 0.004 && fabs(squares / 1e5 - 1.0 / 3) <= 0.004);
    cr_assert(rf_gumbel(1, 2) == rf_gumbel(1, 2) && rf_gumbel(1, 2) != rf_gumbel(2, 1));
}
