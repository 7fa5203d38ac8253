/* What head_query promises of tokens: its distribution, ties, ids it never produces, and its score. */
#include "tests/kernels/backends.h"

#include "common/base/rng.h"
#include "common/kernels/gumbel.h"
#include "common/kernels/kernels.h"

#include <criterion/criterion.h>
#include <math.h>

enum { V = 10 };

typedef struct draws {
    int64_t n;
    int32_t *token;
    double *score;
} draws;

/* How all tokens of a test are drawn. */
typedef struct sampling {
    double temperature;
    const int32_t *banned;
    int64_t n_banned, n_usable;
    const uint64_t *key; /* one for each draw; NULL: 0 */
} sampling;

static rf_draw *draws_of(const sampling *rule, int64_t n)
{
    rf_draw *draw = calloc((size_t)n, sizeof(*draw));
    cr_assert(draw != NULL);
    for (int64_t i = 0; i < n; i++) {
        draw[i].key = rule->key != NULL ? rule->key[i] : 0;
        draw[i].temperature = rule->temperature;
    }
    return draw;
}

/* One draw for each key, all from the same logits (a head of width 1). */
static draws draw(const rf_backend *b, const double logits[V], const sampling *rule, int64_t n)
{
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    void *token = NULL, *score = NULL, *x = NULL, *w = NULL, *place = NULL;
    void *how = NULL, *banned = NULL;
    rf_limits limits = {.places = 1, .width = 1, .vocab = V};
    cr_assert(rf_ctx_new(&ctx, b, 1, &limits, &err) == RF_OK, "%s", err.message);
    cr_assert(rf_backend_alloc(&token, ctx, (size_t)n * 4, &err) == RF_OK);
    cr_assert(rf_backend_alloc(&place, ctx, (size_t)n * 4, &err) == RF_OK); /* all 0 */
    cr_assert(rf_backend_alloc(&score, ctx, (size_t)n * 8, &err) == RF_OK);
    cr_assert(rf_backend_alloc(&x, ctx, 8, &err) == RF_OK);
    cr_assert(rf_backend_alloc(&w, ctx, V * 8, &err) == RF_OK);
    cr_assert(rf_backend_alloc(&how, ctx, (size_t)n * sizeof(rf_draw), &err) == RF_OK);
    cr_assert(rf_backend_alloc(&banned, ctx, V * 4, &err) == RF_OK);
    rf_draw *each = draws_of(rule, n);
    rf_backend_upload(ctx, how, RF_INDEX, each, RF_I32, n * RF_DRAW_WORDS);
    rf_backend_upload(ctx, banned, RF_INDEX, rule->banned, RF_I32, rule->n_banned);
    rf_backend_upload(ctx, x, RF_ACTIVATION, &(double){1}, RF_F64, 1);
    rf_backend_upload(ctx, w, RF_WEIGHT, logits, RF_F64, V);
    const rf_head_query query = {.place = place,
                                 .draw = how,
                                 .banned = banned,
                                 .n_banned = rule->n_banned,
                                 .n_usable = rule->n_usable};
    b->kernels->head_query(ctx, &(rf_head_answer){.token = token, .score = score}, x,
                           rf_matrix_rows(w), &query, n, 1, V);
    draws result = {.n = n};
    result.token = calloc((size_t)n, sizeof(*result.token));
    result.score = calloc((size_t)n, sizeof(*result.score));
    cr_assert(result.token != NULL && result.score != NULL);
    rf_backend_download(ctx, result.token, RF_I32, token, RF_INDEX, n);
    rf_backend_download(ctx, result.score, RF_F64, score, RF_STATISTIC, n);
    rf_backend_free(ctx, token);
    rf_backend_free(ctx, score);
    rf_backend_free(ctx, x);
    rf_backend_free(ctx, w);
    rf_backend_free(ctx, place);
    rf_backend_free(ctx, how);
    rf_backend_free(ctx, banned);
    free(each);
    rf_ctx_free(ctx);
    return result;
}

static void release(draws *d)
{
    free(d->token);
    free(d->score);
}

static int list_all(const rf_backend *list[MAX_BACKENDS])
{
    int n = backends_available(list);
    list[n++] = backend_named("ref64", "");
    return n;
}

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
    int n_backends = list_all(list);
    cr_assert(key != NULL);
    for (int c = 0; c < n_backends * 3 * 2; c++) {
        const rf_backend *b = list[c / 6];
        rf_rng rng = RF_RNG_STREAM(23, RF_RNG_TEST, 0);
        for (int i = 0; i < N; i++) {
            key[i] = c % 2 == 0 ? rf_rng_u64(&rng) : (uint64_t)i;
        }
        sampling rule = {temperatures[c / 2 % 3], banned, 2, 8, key};
        draws d = draw(b, some_logits, &rule, N);
        double p[V], untempered[V], chi = 0;
        int64_t count[V] = {0};
        softmax(p, some_logits, rule.temperature, allowed);
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
        cr_assert(chi <= 25.7, "%s %s, temperature %g: chi-square %g", b->name, b->isa,
                  rule.temperature, chi);
        release(&d);
    }
    free(key);
}

Test(sample, argmax_takes_the_lowest_of_equals)
{
    const double tied[V] = {0, 1, 2, 2, 1, 2, 2, -1, 2, 2};
    const int32_t banned[] = {2, 5};
    const rf_backend *list[MAX_BACKENDS];
    int n = list_all(list);
    for (int b = 0; b < n; b++) {
        const struct {
            sampling rule;
            int32_t expected;
        } cases[] = {
            {{0, NULL, 0, V, NULL}, 2}, {{0, banned, 1, V, NULL}, 3}, {{0, banned, 2, 3, NULL}, 1},
            {{0, NULL, 0, 2, NULL}, 1}, {{0, banned, 2, 1, NULL}, 0}, {{0, banned, 2, V, NULL}, 3},
        };
        for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
            draws d = draw(list[b], tied, &cases[c].rule, 3);
            for (int i = 0; i < 3; i++) {
                cr_assert_eq(d.token[i], cases[c].expected, "%s %s, case %zu: %d", list[b]->name,
                             list[b]->isa, c, (int)d.token[i]);
            }
            release(&d);
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
    int n = list_all(list);
    for (int b = 0; b < n; b++) {
        draws d = draw(list[b], extreme, &(sampling){1e-3, banned, 3, 4, key}, 50);
        for (int i = 0; i < 50; i++) {
            cr_assert_eq(d.token[i], 3);
            cr_assert(d.score[i] >= 0 && d.score[i] <= 1e-30);
        }
        release(&d);
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
