/* The rules of rf_draw: against Transformers' logits processors (tests/golden/
 * make_sampling_golden.py), against ref64 on larger vocabularies, and by their distribution.
 *
 * A kernel gives tokens, not what it kept. But the noise is known: the token is the largest of
 * log p + noise over the ids kept, so that a few hundred keys tell apart which those are. */
#include "tests/kernels/draws.h"

#include "common/base/rng.h"
#include "common/kernels/gumbel.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>

enum { MOST_KEYS = 20000 };
static uint64_t keys[MOST_KEYS];

static void make_keys(uint64_t stream)
{
    rf_rng rng = RF_RNG_STREAM(31, RF_RNG_TEST, stream);
    for (int i = 0; i < MOST_KEYS; i++) {
        keys[i] = rf_rng_u64(&rng);
    }
}

/* --- Transformers ----------------------------------------------------------------------------- */

enum { MOST_IDS = 64, N_KEYS = 300 };

typedef struct vector {
    double logits[MOST_IDS]; /* [n_ids], then a banned id and two that are not usable */
    int64_t n_ids;
    int32_t seen[MOST_IDS], kept[MOST_IDS];
    int64_t n_seen, n_kept;
    double p[MOST_IDS]; /* of those kept */
    rf_draw how;
} vector;

static int64_t read_ids(int32_t *out, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return (int64_t)json_array_size(list);
}

static double number(const json_t *item, const char *name)
{
    const json_t *value = json_object_get(item, name);
    cr_assert(json_is_number(value), "%s", name);
    return json_number_value(value);
}

static vector read_vector(const json_t *item)
{
    vector v = {0};
    int32_t logits[MOST_IDS];
    v.n_ids = read_ids(logits, json_object_get(item, "logits"));
    v.n_seen = read_ids(v.seen, json_object_get(item, "seen"));
    v.n_kept = read_ids(v.kept, json_object_get(item, "kept"));
    for (int64_t j = 0; j < v.n_ids; j++) {
        v.logits[j] = logits[j] / 64.0;
    }
    for (int64_t j = 0; j < 3; j++) {
        v.logits[v.n_ids + j] = 9;
    }
    for (int64_t j = 0; j < v.n_kept; j++) {
        v.p[j] = json_number_value(json_array_get(json_object_get(item, "p"), (size_t)j));
    }
    v.how = (rf_draw){.penalty = number(item, "penalty"),
                      .temperature = number(item, "temperature"),
                      .top_k = (int64_t)number(item, "top_k"),
                      .tail = 1 - number(item, "top_p"),
                      .min_p = number(item, "min_p")};
    return v;
}

/* The id that log p + noise makes the largest; *gap: how far it is ahead. */
static int32_t expected_token(double *gap, const vector *v, uint64_t key)
{
    double best = -HUGE_VAL, second = -HUGE_VAL;
    int32_t token = -1;
    for (int64_t j = 0; j < v->n_kept; j++) {
        double value = log(v->p[j]) + rf_gumbel(key, v->kept[j]);
        if (value > best) {
            second = best;
            best = value;
            token = v->kept[j];
        } else {
            second = fmax(second, value);
        }
    }
    *gap = best - second;
    return token;
}

static double whole_softmax(const double *logits, int64_t n, int32_t id)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        sum += exp(logits[j] - logits[id]);
    }
    return 1 / sum;
}

/* Notes in hit[] which of those kept were drawn. */
static void check_vector(const vector *v, const rf_backend *b, bool hit[MOST_IDS], size_t number)
{
    const int32_t banned = (int32_t)v->n_ids;
    const sampling rule = {.how = v->how,
                           .key = keys,
                           .banned = &banned,
                           .n_banned = 1,
                           .n_usable = v->n_ids + 1,
                           .seen = v->seen,
                           .n_seen = v->n_seen};
    draws d = draws_take(b, v->logits, v->n_ids + 3, &rule, N_KEYS);
    for (int i = 0; i < N_KEYS; i++) {
        double gap;
        int32_t token = expected_token(&gap, v, keys[i]);
        if (gap < 1e-4) {
            continue;
        }
        hit[token] = true;
        double p = whole_softmax(v->logits, v->n_ids + 3, token);
        if (!(d.token[i] == token && fabs(d.score[i] - p) <= 1e-6)) {
            cr_assert_fail("%s %s, case %zu, key %d: %d, score %g instead of %d, %g", b->name,
                           b->isa, number, i, (int)d.token[i], d.score[i], (int)token, p);
        }
    }
    draws_free(&d);
}

Test(draw, keeps_what_transformers_keeps)
{
    const rf_backend *list[MAX_BACKENDS];
    json_error_t why;
    json_t *cases = json_load_file("tests/golden/sampling_vectors.json", 0, &why), *item;
    cr_assert_not_null(cases, "%s", why.text);
    int64_t n_kept = 0, n_hit = 0;
    size_t i;
    make_keys(1);
    json_array_foreach(cases, i, item)
    {
        const vector v = read_vector(item);
        bool hit[MOST_IDS] = {0};
        for (int b = 0; b < draws_backends(list); b++) {
            check_vector(&v, list[b], hit, i);
        }
        n_kept += v.n_kept;
        for (int64_t j = 0; j < v.n_kept; j++) {
            n_hit += hit[v.kept[j]];
        }
    }
    cr_assert(i >= 400 && n_hit > n_kept * 3 / 4, "%ld of %ld ids were drawn", (long)n_hit,
              (long)n_kept);
    json_decref(cases);
}

/* --- Larger vocabularies ---------------------------------------------------------------------- */

enum { LARGE = 1337, N_SEEN = 40 };

/* Number i of the settings to try: few ids or many, alike or apart. */
static sampling make_rule(double logits[LARGE], int32_t seen[N_SEEN], uint64_t i)
{
    static const double widths[] = {0, 0.01, 1, 3, 12}, tails[] = {0, 0, 0.01, 0.1, 0.5, 0.9, 1};
    static const double min_ps[] = {0, 0, 0, 0.01, 0.3}, temperatures[] = {1, 0.05, 0.7, 30};
    static const int64_t ks[] = {0, 0, 1, 7, 100, 1000, LARGE, 5000};
    rf_rng rng = RF_RNG_STREAM(32, RF_RNG_TEST, i);
    double width = widths[rf_rng_below(&rng, 5)], centre = rf_rng_below(&rng, 2) ? 0 : -20;
    bool equals = rf_rng_below(&rng, 3) == 0;
    for (int j = 0; j < LARGE; j++) {
        double x = centre + width * rf_rng_normal(&rng);
        logits[j] = (double)(float)(equals ? round(4 * x) / 4 : x);
    }
    for (int s = 0; s < N_SEEN; s++) {
        seen[s] = (int32_t)rf_rng_below(&rng, LARGE);
    }
    return (sampling){.how = {.penalty = 0.5 + 1.5 * rf_rng_uniform(&rng),
                              .temperature = temperatures[rf_rng_below(&rng, 4)],
                              .top_k = ks[rf_rng_below(&rng, 8)],
                              .tail = tails[rf_rng_below(&rng, 7)],
                              .min_p = min_ps[rf_rng_below(&rng, 5)]},
                      .key = keys,
                      .n_usable = LARGE - 3,
                      .seen = seen,
                      .n_seen = rf_rng_below(&rng, 2) ? N_SEEN : 0};
}

Test(draw, large_vocabularies_equal_the_truth)
{
    enum { N_RULES = 150, N = 60 };
    const rf_backend *list[MAX_BACKENDS];
    int n = draws_backends(list);
    double logits[LARGE];
    int32_t seen[N_SEEN];
    make_keys(2);
    for (uint64_t i = 0; i < N_RULES; i++) {
        const sampling rule = make_rule(logits, seen, i);
        draws truth = draws_take(list[n - 1], logits, LARGE, &rule, N);
        for (int b = 0; b < n - 1; b++) {
            draws d = draws_take(list[b], logits, LARGE, &rule, N);
            for (int k = 0; k < N; k++) {
                if (d.token[k] != truth.token[k]) {
                    cr_assert_fail("%s %s, rule %lu, key %d: %d instead of %d", list[b]->name,
                                   list[b]->isa, (unsigned long)i, k, (int)d.token[k],
                                   (int)truth.token[k]);
                }
            }
            draws_free(&d);
        }
        draws_free(&truth);
    }
}

/* --- Edges ------------------------------------------------------------------------------------ */

/* Among equals at the edge of top-p the lowest ids stay; equals of the k-th all do. */
Test(draw, equals_at_the_edge)
{
    enum { V = 10, N = 400 };
    const double logits[V] = {0, 1, 0, 1, 1, 1, 0, 1, 0, -1};
    const struct {
        rf_draw how;
        int32_t first_dropped; /* of those with logit 1 */
    } cases[] = {
        {{.temperature = 1e-2, .tail = 0.55}, 5}, /* 1/5 and 1/5 of them: 3 stay */
        {{.temperature = 1e-2, .tail = 0.79}, 4}, /* 2 */
        {{.temperature = 1e-2, .tail = 0.9}, 3},  /* 1 */
        {{.temperature = 1e-2, .tail = 1}, 3},
        {{.temperature = 1e-2, .tail = 0.1}, V}, /* all */
        {{.temperature = 1e-2, .top_k = 2}, V},
        {{.temperature = 1e-2, .top_k = 2, .tail = 0.55}, 5},
        {{.temperature = 1, .min_p = 1}, V},
        {{.temperature = 1, .min_p = 1, .tail = 0.9}, 3},
    };
    const rf_backend *list[MAX_BACKENDS];
    int n = draws_backends(list);
    make_keys(3);
    for (size_t c = 0; c < (size_t)n * (sizeof cases / sizeof *cases); c++) {
        const rf_backend *b = list[c % (size_t)n];
        const int32_t end = cases[c / (size_t)n].first_dropped;
        const sampling rule = {.how = cases[c / (size_t)n].how, .key = keys, .n_usable = V};
        draws d = draws_take(b, logits, V, &rule, N);
        bool hit[V] = {0};
        for (int i = 0; i < N; i++) {
            hit[d.token[i]] = true;
        }
        for (int32_t j = 0; j < V; j++) {
            cr_assert(hit[j] == (logits[j] > 0.5 && j < end), "%s %s, case %zu: id %d", b->name,
                      b->isa, c / (size_t)n, (int)j);
        }
        draws_free(&d);
    }
}

/* The penalty alone can change a greedy choice; score is of the logits as they were. */
Test(draw, greedy_with_a_penalty)
{
    enum { V = 5 };
    const double logits[V] = {1, 2, 1.5, -1, -3};
    const int32_t seen[] = {1, 4, 1, 2};
    const struct {
        double penalty;
        int64_t n_seen;
        int32_t expected;
    } cases[] = {{1, 4, 1},   {1.2, 1, 1}, {1.2, 3, 1}, {1.4, 1, 2},
                 {1.4, 4, 1}, {3, 4, 0},   {3, 0, 1},   {0.1, 4, 1}};
    const rf_backend *list[MAX_BACKENDS];
    int n = draws_backends(list);
    for (int b = 0; b < n; b++) {
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            const sampling rule = {.how = {.penalty = cases[c].penalty, .top_k = 1, .tail = 1},
                                   .n_usable = V,
                                   .seen = seen,
                                   .n_seen = cases[c].n_seen};
            draws d = draws_take(list[b], logits, V, &rule, 1);
            double p = whole_softmax(logits, V, d.token[0]);
            cr_assert(d.token[0] == cases[c].expected && fabs(d.score[0] - p) <= 1e-6,
                      "%s %s, case %zu: %d", list[b]->name, list[b]->isa, c, (int)d.token[0]);
            draws_free(&d);
        }
    }
}

/* --- Distribution ----------------------------------------------------------------------------- */

/* Ids 0 to 9 have logits 0, 0.25, ...; 8 and 9 were seen, 1 is banned. What stays is worked out here,
 * not read off a kernel. */
Test(draw, distribution_is_what_the_rules_leave)
{
    enum { V = 10 };
    double logits[V], z[V], p[V] = {0}, sum = 0;
    const int32_t banned = 1, seen[] = {9, 8, 9};
    const rf_backend *list[MAX_BACKENDS];
    int n = draws_backends(list);
    for (int j = 0; j < V; j++) {
        logits[j] = 0.25 * j;
        z[j] = j >= 8 ? logits[j] / 1.6 : logits[j];
    }
    /* Top-k 7 drops 0 and 2. Of the rest 3 has a share of 0.04 and 4 of 0.07: top-p drops 3 alone. */
    const int kept[] = {4, 5, 6, 7, 8, 9};
    for (int s = 0; s < 6; s++) {
        p[kept[s]] = exp(z[kept[s]] / 0.5);
        sum += p[kept[s]];
    }
    sampling rule = {.how = {.penalty = 1.6, .temperature = 0.5, .top_k = 7, .tail = 0.07},
                     .key = keys,
                     .banned = &banned,
                     .n_banned = 1,
                     .n_usable = V,
                     .seen = seen,
                     .n_seen = 3};
    make_keys(4);
    for (int b = 0; b < 2 * n; b++) {
        rule.how.min_p = b < n ? 0 : 0.3; /* of exp(2 (1.75 - z)): drops 4, whose share is 0.22 */
        double left = b < n ? sum : sum - p[4], chi = 0;
        int64_t count[V] = {0};
        draws d = draws_take(list[b % n], logits, V, &rule, MOST_KEYS);
        for (int i = 0; i < MOST_KEYS; i++) {
            count[d.token[i]]++;
        }
        for (int j = 0; j < V; j++) {
            double expected = b >= n && j == 4 ? 0 : p[j] / left * MOST_KEYS;
            cr_assert((count[j] > 0) == (expected > 0), "id %d: %ld", j, (long)count[j]);
            chi += expected > 0 ? pow((double)count[j] - expected, 2) / expected : 0;
        }
        /* 5 degrees of freedom: above 25.7 once in 10^4. */
        cr_assert(chi <= 25.7, "%s %s: chi-square %g", list[b % n]->name, list[b % n]->isa, chi);
        draws_free(&d);
    }
}
