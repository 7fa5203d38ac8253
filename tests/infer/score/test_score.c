/* Likelihoods against plain loops: each context is forwarded alone, nothing is packed. */
#include "infer/score/score.h"
#include "tests/infer/infer_test.h"

enum { MASK = 257, MAX_TOKENS = 40 };

/* Scores slots of S tokens (0: `ar`), up to `places` tokens. */
static int new_scorer(rf_scorer **out, rf_model *model, int32_t mask, int64_t S, int64_t places,
                      rf_error *err)
{
    static rf_objective objective;
    objective =
        (rf_objective){.kind = S > 0 ? &rf_objective_refusion : &rf_objective_ar, .mask = mask};
    const rf_scoring how = {.objective = &objective, .slot_size = S};
    return rf_scorer_new(out, model, &how, places, err);
}

/* -log p(token | context), the context being `n` tokens and, where `masked`, a mask at place n. */
static double plain_nats(rf_model *model, rf_acts *acts, const int32_t *context, int64_t n,
                         int32_t mask, bool masked, int32_t token)
{
    int64_t V = model->config.vocab_size;
    rf_batch batch = tiny_batch(MAX_TOKENS + 1);
    double *logits = calloc((size_t)V, sizeof(*logits)), sum = 0, nats;
    int32_t place;
    cr_assert_not_null(logits);
    for (int64_t i = 0; i < n; i++) {
        rf_batch_add(&batch, context[i], (int32_t)i, i, 0, i + 1, 0, 0);
    }
    if (masked) {
        rf_batch_add(&batch, mask, (int32_t)n, n, 0, n + 1, 0, 0);
    }
    place = (int32_t)(batch.n - 1);
    TINY_MUST(rf_model_forward(model, acts, &batch, NULL, tiny_error()));
    TINY_MUST(rf_model_logits(model, acts, logits, &place, 1, tiny_error()));
    for (int64_t i = 0; i < V; i++) {
        sum += exp(logits[i]);
    }
    nats = log(sum) - logits[token];
    free(logits);
    rf_batch_free(&batch);
    return nats;
}

/* Slots of S tokens (0: ar) by the chain rule. */
static double plain_score(double *logprob, rf_model *model, const int32_t *token, int64_t n_prompt,
                          int64_t n_response, int64_t S, int32_t mask)
{
    rf_acts *acts = NULL;
    double nats = 0;
    TINY_MUST(rf_acts_new(&acts, model, MAX_TOKENS + 1, MAX_TOKENS + 1, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    for (int64_t i = 0; i < n_response; i++) {
        bool masked = S > 0 && i % S == 0;
        logprob[i] =
            -plain_nats(model, acts, token, n_prompt + i, mask, masked, token[n_prompt + i]);
        nats -= logprob[i];
    }
    rf_acts_free(acts);
    return nats;
}

static const int64_t slot_sizes[] = {0, 1, 2, 3, 4, 8, 16, 64};

static void compare_with_loop(const rf_backend *backend, double tolerance)
{
    rf_model *model = sharp_model(backend, 1, 11, 1.4);
    for (uint64_t s = 0; s < sizeof slot_sizes / sizeof *slot_sizes; s++) {
        rf_scorer *scorer = NULL;
        TINY_MUST(new_scorer(&scorer, model, MASK, slot_sizes[s], MAX_TOKENS, tiny_error()));
        for (uint64_t i = 0; i < 6; i++) { /* the last one fills all tokens */
            rf_rng rng = RF_RNG_STREAM(12, RF_RNG_TEST, s, i);
            int64_t n_prompt = i == 5 ? 1 : 1 + (int64_t)rf_rng_below(&rng, 12);
            int64_t n_response = i == 5 ? MAX_TOKENS - 1 : 1 + (int64_t)rf_rng_below(&rng, 20);
            int32_t token[MAX_TOKENS];
            double nats, expected, logprob[MAX_TOKENS], expected_logprob[MAX_TOKENS];
            random_prompt(token, n_prompt + n_response, &rng);
            for (int64_t j = n_prompt; j < n_prompt + n_response; j++) {
                token[j] = j % 3 ? 'a' + token[j] % 5 : token[j];
            }
            token[n_prompt + n_response - 1] = 256;
            expected = plain_score(expected_logprob, model, token, n_prompt, n_response,
                                   slot_sizes[s], MASK);
            TINY_MUST(rf_scorer_run(scorer, &nats, logprob, token, n_prompt, n_response, NULL,
                                    tiny_error()));
            cr_assert(!!(fabs(nats - expected) <= tolerance * expected), "%g and %g nats", nats,
                      expected);
            cr_assert(!!(tiny_gap(logprob, expected_logprob, n_response) <= tolerance));
            TINY_MUST(rf_scorer_run(scorer, &expected, NULL, token, n_prompt, n_response, NULL,
                                    tiny_error()));
            cr_assert(memcmp(&nats, &expected, sizeof nats) == 0, "not the same bits again");
        }
        rf_scorer_free(scorer);
    }
    rf_model_free(model);
}

Test(score, equals_a_plain_loop_in_f64)
{
    compare_with_loop(backend_named("ref64", ""), 1e-10);
}

Test(score, equals_a_plain_loop_on_every_backend)
{
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    for (int b = 0; b < n; b++) {
        compare_with_loop(list[b], 1e-5);
    }
}

/* --- Chain rule ------------------------------------------------------------------------------- */

/* Six tokens, of which the last is the mask: all responses of a length can be listed. */
static rf_model *six_tokens(void)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    config.vocab_size = 6;
    return tiny_model(backend_named("ref64", ""), 1, &config, 16, 16, false);
}

static double total_probability(rf_model *model, int64_t S, int64_t n_response)
{
    rf_scorer *scorer = NULL;
    int32_t token[8] = {3, 1, 0, 0, 0, 0, 0, 0};
    int64_t n = 1;
    double total = 0;
    TINY_MUST(new_scorer(&scorer, model, 5, S, 2 + n_response, tiny_error()));
    for (int64_t i = 0; i < n_response; i++) {
        n *= 6;
    }
    for (int64_t k = 0; k < n; k++) {
        double nats;
        int64_t digits = k;
        for (int64_t i = 0; i < n_response; i++, digits /= 6) {
            token[2 + i] = (int32_t)(digits % 6);
        }
        TINY_MUST(rf_scorer_run(scorer, &nats, NULL, token, 2, n_response, NULL, tiny_error()));
        total += exp(-nats);
    }
    rf_scorer_free(scorer);
    return total;
}

Test(score, is_normalised)
{
    rf_model *model = six_tokens();
    for (int64_t S = 0; S <= 4; S++) {
        for (int64_t n = 1; n <= 3; n++) {
            double total = total_probability(model, S, n);
            cr_assert(!!(fabs(total - 1) < 1e-12), "slots of %lld, %lld tokens: %.15g",
                      (long long)S, (long long)n, total);
        }
    }
    rf_model_free(model);
}

/* Which tokens of a response another slot size can change. */
Test(score, depends_on_the_slot_size_at_the_first_tokens_of_slots_alone)
{
    rf_model *model = sharp_model(backend_named("ref64", ""), 1, 13, 1.4);
    int32_t token[20];
    double of_ar[16], nats, total_of_ar;
    rf_scorer *scorer = NULL;
    rf_rng rng = RF_RNG_STREAM(13, RF_RNG_TEST);
    random_prompt(token, 20, &rng);
    TINY_MUST(new_scorer(&scorer, model, -1, 0, 20, tiny_error()));
    TINY_MUST(rf_scorer_run(scorer, &total_of_ar, of_ar, token, 4, 16, NULL, tiny_error()));
    rf_scorer_free(scorer);
    for (int64_t S = 1; S <= 16; S *= 2) {
        double of_slots[16];
        TINY_MUST(new_scorer(&scorer, model, MASK, S, 20, tiny_error()));
        TINY_MUST(rf_scorer_run(scorer, &nats, of_slots, token, 4, 16, NULL, tiny_error()));
        rf_scorer_free(scorer);
        cr_assert(fabs(nats - total_of_ar) > 1e-6, "slots of %lld score like ar", (long long)S);
        for (int64_t i = 0; i < 16; i++) {
            double gap = fabs(of_slots[i] - of_ar[i]);
            cr_assert(i % S == 0 ? !!(gap > 1e-9) : !!(gap <= 1e-12),
                      "slots of %lld, token %lld: %g", (long long)S, (long long)i, gap);
        }
    }
    rf_model_free(model);
}

Test(score, refuses_what_does_not_fit)
{
    rf_model *model = sharp_model(backend_default(), 1, 14, 1);
    rf_scorer *scorer = NULL;
    rf_error err = {0};
    int32_t token[12] = {0};
    double nats;
    cr_assert(new_scorer(&scorer, model, MASK, 1, 70, &err) != RF_OK && scorer == NULL &&
              strstr(err.message, "140"));
    cr_assert(new_scorer(&scorer, model, MASK, 8, 97, &err) != RF_OK && scorer == NULL);
    TINY_MUST(new_scorer(&scorer, model, MASK, 4, 10, tiny_error()));
    cr_assert(rf_scorer_run(scorer, &nats, NULL, token, 0, 5, NULL, &err) == RF_ERR);
    cr_assert(rf_scorer_run(scorer, &nats, NULL, token, 5, 0, NULL, &err) == RF_ERR);
    cr_assert(rf_scorer_run(scorer, &nats, NULL, token, 6, 5, NULL, &err) == RF_ERR &&
              strstr(err.message, "10 together at most"));
    token[1] = SHARP_VOCABULARY;
    cr_assert(rf_scorer_run(scorer, &nats, NULL, token, 5, 5, NULL, &err) != RF_OK);
    token[1] = 0;
    cr_assert(rf_scorer_run(scorer, &nats, NULL, token, 5, 5, NULL, &err) == RF_OK);
    rf_scorer_free(scorer);
    rf_model_free(model);
}
