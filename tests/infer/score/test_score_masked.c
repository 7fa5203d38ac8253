/* Bounds on likelihoods of `mdm` and `block`, against sums over all orders in which tokens may be
 * revealed, each context forwarded alone. */
#include "infer/score/score.h"
#include "tests/infer/infer_test.h"

enum { MASK = 5, PLACES = 1024, MAX_TOKENS = 16 };

/* Six tokens, of which the last is the mask: all responses of a length can be listed. */
static rf_model *six_tokens(void)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    config.vocab_size = 6;
    return tiny_model(backend_named("ref64", ""), 1, &config, PLACES, PLACES, false);
}

static rf_objective make_objective(const rf_objective_kind *kind, int64_t block_size)
{
    return (rf_objective){.kind = kind,
                          .lambda_mdm = 1,
                          .epsilon = 1e-6,
                          .pad = RF_PAD_NONE,
                          .pad_block = 1,
                          .block_size = block_size,
                          .noise_low = 1,
                          .noise_high = 1,
                          .mask = MASK,
                          .end = 4};
}

/* One score. */
static double nats_of(rf_model *model, const rf_objective *objective, int64_t n_masks,
                      const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng)
{
    const rf_scoring how = {.objective = objective, .n_masks = n_masks};
    rf_scorer *scorer = NULL;
    double nats = 0;
    TINY_MUST(rf_scorer_new(&scorer, model, &how, 2 * MAX_TOKENS, tiny_error()));
    TINY_MUST(rf_scorer_run(scorer, &nats, NULL, token, n_prompt, n_response, rng, tiny_error()));
    rf_scorer_free(scorer);
    return nats;
}

/* --- Plain loops ------------------------------------------------------------------------------ */

/* What a plain loop needs of a sample. */
typedef struct plain {
    rf_model *model;
    rf_acts *acts;
    const int32_t *token;
    int64_t n_prompt, n; /* tokens: of the prompt, and shown in all */
    int64_t first;       /* the first that may be masked; all before are clean */
    int64_t block_size;  /* 0: mdm, everyone sees everyone */
} plain;

/* log p(token at k), those of [first, n) that are not revealed being masks. A bit of `revealed` for
 * each. */
static double log_probability(const plain *p, unsigned revealed, int64_t k)
{
    rf_batch batch = tiny_batch(MAX_TOKENS);
    for (int64_t i = 0; i < p->n; i++) {
        bool hidden = i >= p->first && !(revealed >> (i - p->first) & 1);
        int64_t end = p->n; /* of what it sees */
        if (p->block_size > 0 && i < p->n_prompt) {
            end = i + 1;
        } else if (p->block_size > 0 && i < p->first) {
            end = p->n_prompt + ((i - p->n_prompt) / p->block_size + 1) * p->block_size;
        }
        rf_batch_add(&batch, hidden ? MASK : p->token[i], (int32_t)i, i, 0, end, 0, 0);
    }
    double logits[6], sum = 0;
    const int32_t place = (int32_t)k;
    TINY_MUST(rf_model_forward(p->model, p->acts, &batch, NULL, tiny_error()));
    TINY_MUST(rf_model_logits(p->model, p->acts, logits, &place, 1, tiny_error()));
    for (int i = 0; i < 6; i++) {
        sum += exp(logits[i]);
    }
    rf_batch_free(&batch);
    return logits[p->token[k]] - log(sum);
}

/* Sum over all orders of the tokens still hidden of log p of the whole order; *n_orders counts. */
static double over_orders(const plain *p, unsigned revealed, int64_t *n_orders)
{
    double sum = 0;
    *n_orders = 0;
    for (int64_t k = p->first; k < p->n; k++) {
        unsigned bit = 1U << (k - p->first);
        if (!(revealed & bit)) {
            int64_t n = 0;
            double rest = over_orders(p, revealed | bit, &n);
            sum += rest + (double)n * log_probability(p, revealed, k);
            *n_orders += n;
        }
    }
    *n_orders += *n_orders == 0; /* nothing is left: one way */
    return sum;
}

/* The mean over all orders of -log p, block by block. */
static double plain_bound(rf_model *model, const int32_t *token, int64_t n_prompt,
                          int64_t n_response, int64_t block_size)
{
    plain p = {.model = model, .token = token, .n_prompt = n_prompt, .block_size = block_size};
    int64_t size = block_size > 0 ? block_size : n_response, end = n_prompt + n_response;
    double nats = 0;
    TINY_MUST(rf_acts_new(&p.acts, model, MAX_TOKENS, MAX_TOKENS, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    for (p.first = n_prompt; p.first < end; p.first += size) {
        int64_t n_orders = 0;
        p.n = p.first + size < end ? p.first + size : end;
        double sum = over_orders(&p, 0, &n_orders);
        nats -= sum / (double)n_orders;
    }
    rf_acts_free(p.acts);
    return nats;
}

static void fill(int32_t *token, int64_t n, uint64_t salt)
{
    rf_rng rng = RF_RNG_STREAM(31, RF_RNG_TEST, salt);
    for (int64_t i = 0; i < n; i++) {
        token[i] = (int32_t)rf_rng_below(&rng, 5);
    }
}

/* --- All masks -------------------------------------------------------------------------------- */

Test(score_masked, is_the_mean_over_all_orders)
{
    rf_model *model = six_tokens();
    int32_t token[MAX_TOKENS];
    for (int64_t R = 1; R <= 5; R++) {
        const rf_objective mdm = make_objective(&rf_objective_mdm, 0);
        fill(token, MAX_TOKENS, (uint64_t)R);
        double ours = nats_of(model, &mdm, 1, token, 3, R, NULL);
        double expected = plain_bound(model, token, 3, R, 0);
        cr_assert(!!(fabs(ours - expected) <= 1e-10 * expected), "mdm, %ld: %.15g and %.15g",
                  (long)R, ours, expected);
    }
    for (int64_t S = 1; S <= 4; S++) {
        for (int64_t R = 1; R <= 9; R += 2) { /* the last block may be short */
            const rf_objective block = make_objective(&rf_objective_block, S);
            fill(token, MAX_TOKENS, (uint64_t)(100 * S + R));
            double ours = nats_of(model, &block, 1, token, 3, R, NULL);
            double expected = plain_bound(model, token, 3, R, S);
            cr_assert(!!(fabs(ours - expected) <= 1e-10 * expected),
                      "blocks of %ld, %ld: %.15g, %.15g", (long)S, (long)R, ours, expected);
        }
    }
    rf_model_free(model);
}

/* Sum of exp(-nats) over all responses of n tokens. */
static double total(rf_model *model, const rf_objective *objective, int64_t n_response)
{
    int32_t token[8] = {3, 1};
    int64_t n = 1;
    double sum = 0;
    for (int64_t i = 0; i < n_response; i++) {
        n *= 6;
    }
    for (int64_t k = 0; k < n; k++) {
        int64_t digits = k;
        for (int64_t i = 0; i < n_response; i++, digits /= 6) {
            token[2 + i] = (int32_t)(digits % 6);
        }
        sum += exp(-nats_of(model, objective, 1, token, 2, n_response, NULL));
    }
    return sum;
}

/* A bound is not above the likelihood, so that its exponentials sum to 1 at most; it is the
 * likelihood where tokens come one by one. */
Test(score_masked, bounds_a_likelihood)
{
    rf_model *model = six_tokens();
    const rf_objective mdm = make_objective(&rf_objective_mdm, 0),
                       ones = make_objective(&rf_objective_block, 1),
                       twos = make_objective(&rf_objective_block, 2);
    cr_assert(!!(fabs(total(model, &mdm, 1) - 1) < 1e-12));
    cr_assert(!!(fabs(total(model, &ones, 3) - 1) < 1e-12));
    double of_mdm = total(model, &mdm, 3), of_twos = total(model, &twos, 3);
    cr_assert(of_mdm < 1 - 1e-6 && of_mdm > 0.1, "%g", of_mdm);
    cr_assert(of_twos < 1 - 1e-6 && of_twos > of_mdm, "%g and %g", of_twos, of_mdm);
    rf_model_free(model);
}

Test(score_masked, says_what_it_is)
{
    const rf_objective ar = make_objective(&rf_objective_ar, 0),
                       mdm = make_objective(&rf_objective_mdm, 0),
                       ones = make_objective(&rf_objective_block, 1),
                       fours = make_objective(&rf_objective_block, 4),
                       large = make_objective(&rf_objective_block, 16);
    const rf_scoring hows[] = {{.objective = &ar, .n_masks = 7},
                               {.objective = &ones, .n_masks = 7},
                               {.objective = &fours, .n_masks = 7},
                               {.objective = &large, .n_masks = 7},
                               {.objective = &mdm, .n_masks = 7}};
    static const bool bounds[] = {false, false, true, true, true};
    static const int64_t masks[] = {0, 0, 0, 7, 7};
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(rf_scoring_is_bound(&hows[i]), bounds[i], "%d", i);
        cr_assert_eq(rf_scoring_masks(&hows[i]), masks[i], "%d", i);
    }
}

/* --- Some masks ------------------------------------------------------------------------------- */

/* Of 9 tokens, masks drawn at random have the bound of all masks as their mean: |difference| is at
 * most 4.5 standard errors. */
static void check_unbiased(const rf_objective *objective)
{
    enum { P = 2, R = 9, N = 60 };
    rf_model *model = six_tokens();
    rf_acts *acts = NULL;
    int32_t token[MAX_TOKENS];
    double sum = 0, square = 0, all = 0;
    fill(token, MAX_TOKENS, 7);
    TINY_MUST(
        rf_acts_new(&acts, model, MAX_TOKENS, MAX_TOKENS, false, RF_RECOMPUTE_NONE, tiny_error()));
    const plain p = {.model = model,
                     .acts = acts,
                     .token = token,
                     .n_prompt = P,
                     .n = P + R,
                     .first = P,
                     .block_size = objective->block_size};
    for (unsigned masked = 1; masked < 1U << R; masked++) {
        double ways = 1;
        int l = __builtin_popcount(masked);
        for (int i = 0; i < l; i++) {
            ways = ways * (R - i) / (i + 1);
        }
        for (int64_t k = 0; k < R; k++) {
            if (masked >> k & 1) {
                all -= log_probability(&p, ~masked, P + k) / (l * ways);
            }
        }
    }
    for (uint64_t i = 0; i < N; i++) {
        rf_rng rng = RF_RNG_STREAM(32, RF_RNG_TEST, i);
        double nats = nats_of(model, objective, 16, token, P, R, &rng);
        sum += nats;
        square += nats * nats;
    }
    double mean = sum / N, error = sqrt((square / N - mean * mean) / N);
    cr_assert(fabs(mean - all) <= 4.5 * error && error > 0, "%g instead of %g, error %g", mean, all,
              error);
    rf_acts_free(acts);
    rf_model_free(model);
}

Test(score_masked, random_masks_are_unbiased)
{
    const rf_objective mdm = make_objective(&rf_objective_mdm, 0),
                       block = make_objective(&rf_objective_block, 9);
    check_unbiased(&mdm);
    check_unbiased(&block);
}

Test(score_masked, the_same_draws_give_the_same_bits)
{
    rf_model *model = six_tokens();
    const rf_objective mdm = make_objective(&rf_objective_mdm, 0);
    int32_t token[MAX_TOKENS];
    double nats[2];
    fill(token, MAX_TOKENS, 9);
    for (int i = 0; i < 2; i++) {
        rf_rng rng = RF_RNG_STREAM(33, RF_RNG_TEST);
        nats[i] = nats_of(model, &mdm, 128, token, 3, 12, &rng); /* 15 places: two passes */
    }
    cr_assert(memcmp(&nats[0], &nats[1], sizeof nats[0]) == 0);
    rf_model_free(model);
}

/* --- What training minimises ------------------------------------------------------------------ */

/* R' times the expected loss of `mdm` is the bound, up to epsilon. */
Test(score_masked, is_the_expected_loss_of_training)
{
    enum { P = 2, R = 4, N = 4000 };
    rf_model *model = six_tokens();
    rf_acts *acts = NULL;
    const rf_objective mdm = make_objective(&rf_objective_mdm, 0);
    int32_t token[MAX_TOKENS];
    double sum = 0, square = 0;
    fill(token, MAX_TOKENS, 11);
    TINY_MUST(
        rf_acts_new(&acts, model, MAX_TOKENS, MAX_TOKENS, false, RF_RECOMPUTE_NONE, tiny_error()));
    for (uint64_t i = 0; i < N; i++) {
        rf_batch batch = tiny_batch(MAX_TOKENS);
        rf_counts counts = {0};
        rf_rng rng = RF_RNG_STREAM(34, RF_RNG_TEST, i);
        double loss[MAX_TOKENS], x = 0;
        rf_objective_append(&mdm, &batch, &counts, token, P, R, &rng);
        TINY_MUST(rf_model_forward(model, acts, &batch, NULL, tiny_error()));
        TINY_MUST(rf_model_losses(model, acts, loss, tiny_error()));
        for (int64_t k = 0; k < batch.n; k++) {
            x += R * (double)batch.weight[k] * loss[k];
        }
        sum += x;
        square += x * x;
        rf_batch_free(&batch);
    }
    double mean = sum / N, error = sqrt((square / N - mean * mean) / N);
    double bound = nats_of(model, &mdm, 1, token, P, R, NULL);
    cr_assert(fabs(mean - bound) <= 4.5 * error, "%g instead of %g, error %g", mean, bound, error);
    rf_acts_free(acts);
    rf_model_free(model);
}

/* Blocks of one token, all masked (beta = omega = 1): the loss of training is the likelihood, each
 * token from a mask behind the clean ones before it. */
Test(score_masked, blocks_of_one_token_train_a_likelihood)
{
    rf_model *model = six_tokens();
    const rf_objective ones = make_objective(&rf_objective_block, 1);
    const rf_scoring how = {.objective = &ones, .n_masks = 1};
    rf_scorer *scorer = NULL;
    rf_counts counts = {0};
    rf_rng rng = RF_RNG_STREAM(35, RF_RNG_TEST);
    int32_t token[MAX_TOKENS];
    double losses[RF_MAX_PARTS] = {0}, nats = 0;
    fill(token, MAX_TOKENS, 12);
    TINY_MUST(rf_scorer_new(&scorer, model, &how, 2 * MAX_TOKENS, tiny_error()));
    TINY_MUST(rf_scorer_losses(scorer, losses, &counts, &ones, token, 3, 8, &rng, tiny_error()));
    TINY_MUST(rf_scorer_run(scorer, &nats, NULL, token, 3, 8, NULL, tiny_error()));
    cr_assert_eq(counts.n_targets[0], 8);
    cr_assert(!!(fabs(losses[0] - nats) <= 1e-6 * nats), "%.15g and %.15g", losses[0], nats);
    double expected = plain_bound(model, token, 3, 8, 1);
    cr_assert(!!(fabs(nats - expected) <= 1e-12 * expected), "%.15g and %.15g", nats, expected);
    rf_scorer_free(scorer);
    rf_model_free(model);
}
