/* score_masked.c: bounds on likelihoods of `mdm` and `block` (BASELINES: likelihood).
 *
 * A model of masks has a likelihood for each order in which the tokens may be revealed. The mean of
 * its logarithm over all orders is a lower bound on log p, and splits into masks: l uniform in 1..R,
 * l of the R tokens masked, R/l times the sum of their log-probabilities. `block` has such a bound
 * for each block of tokens behind the clean tokens before it, and their sum is its bound.
 */
#include "infer/score/score_private.h"

/* Of so few tokens all 2^n - 1 masks are taken, and nothing is random. */
enum { ALL_MASKS = 8 };

/* The masks of a response, on their way through the model: as many as fit share a pass. */
typedef struct passes {
    rf_scorer *s;
    const int32_t *token;
    int64_t n_prompt;
    int64_t n_clean; /* block: tokens of the clean copy with which each pass begins; mdm: 0 */
    int64_t n_asked; /* questions of the present pass */
    double nats;
} passes;

static void begin_pass(passes *p)
{
    rf_batch_clear(&p->s->batch);
    rf_objective_show_clean(p->s->how.objective, &p->s->batch, p->token, p->n_prompt, p->n_clean);
    p->n_asked = 0;
}

static int end_pass(passes *p, rf_error *err)
{
    rf_scorer *s = p->s;
    const rf_model_question question = {
        .n = p->n_asked, .place = s->place, .target = s->target, .logprob = s->logprob};
    RF_TRY(rf_model_forward(s->model, s->acts, &s->batch, NULL, err));
    RF_TRY(rf_model_query(s->model, s->acts, &question, err));
    for (int64_t i = 0; i < p->n_asked; i++) {
        p->nats -= s->weight[i] * s->logprob[i];
    }
    return RF_OK;
}

/* One mask, s->masked, of the tokens [first, first + n); weight: of the log-probabilities. In `mdm`
 * the whole sample is shown and sees itself; in `block` the n tokens, which see the clean ones
 * before them and themselves. */
static int add_mask(passes *p, int64_t first, int64_t n, double weight, rf_error *err)
{
    rf_scorer *s = p->s;
    const rf_objective *objective = s->how.objective;
    int64_t from = objective->kind == &rf_objective_block ? first : 0, n_shown = first + n - from;
    if (s->batch.n + n_shown > s->batch.capacity) {
        RF_TRY(end_pass(p, err));
        begin_pass(p);
    }
    int64_t begin = s->batch.n;
    for (int64_t k = from; k < first + n; k++) {
        bool hides = k >= first && s->masked[k - first];
        int64_t i = rf_batch_add(&s->batch, hides ? objective->mask : p->token[k], (int32_t)k,
                                 s->batch.n, 0, from, begin, begin + n_shown);
        if (hides) {
            s->place[p->n_asked] = (int32_t)i;
            s->target[p->n_asked] = p->token[k];
            s->weight[p->n_asked++] = weight;
        }
    }
    return RF_OK;
}

/* n over k. */
static double binomial(int64_t n, int64_t k)
{
    double x = 1;
    for (int64_t i = 0; i < k; i++) {
        x = x * (double)(n - i) / (double)(i + 1);
    }
    return x;
}

/* A mask of l of the n tokens is drawn with probability 1/(n C(n,l)), and its sum counts n/l times. */
static int add_all_masks(passes *p, int64_t first, int64_t n, rf_error *err)
{
    for (int64_t mask = 1; mask < (int64_t)1 << n; mask++) {
        int64_t n_masked = 0;
        for (int64_t i = 0; i < n; i++) {
            p->s->masked[i] = mask >> i & 1;
            n_masked += p->s->masked[i];
        }
        double weight = 1 / ((double)n_masked * binomial(n, n_masked));
        RF_TRY(add_mask(p, first, n, weight, err));
    }
    return RF_OK;
}

/* All subsets of a size are equally likely (Knuth, algorithm S). */
static int add_drawn_masks(passes *p, int64_t first, int64_t n, rf_rng *rng, rf_error *err)
{
    for (int64_t draw = 0; draw < p->s->how.n_masks; draw++) {
        int64_t n_masked = 1 + (int64_t)rf_rng_below(rng, (uint64_t)n), n_left = n_masked;
        for (int64_t i = 0; i < n; i++) {
            p->s->masked[i] = rf_rng_below(rng, (uint64_t)(n - i)) < (uint64_t)n_left;
            n_left -= p->s->masked[i];
        }
        double weight = (double)n / ((double)n_masked * (double)p->s->how.n_masks);
        RF_TRY(add_mask(p, first, n, weight, err));
    }
    return RF_OK;
}

int rf_scorer_run_masked(rf_scorer *s, double *nats, const int32_t *token, int64_t n_prompt,
                         int64_t n_response, rf_rng *rng, rf_error *err)
{
    const rf_objective *objective = s->how.objective;
    int64_t end = n_prompt + n_response, size = n_response;
    passes p = {.s = s, .token = token, .n_prompt = n_prompt};
    if (objective->kind == &rf_objective_block) {
        size = objective->block_size;
        p.n_clean = n_prompt + (n_response - 1) / size * size;
    }
    begin_pass(&p);
    for (int64_t first = n_prompt; first < end; first += size) {
        int64_t n = end - first < size ? end - first : size;
        RF_TRY(n <= ALL_MASKS ? add_all_masks(&p, first, n, err)
                              : add_drawn_masks(&p, first, n, rng, err));
    }
    RF_TRY(end_pass(&p, err));
    *nats = p.nats;
    return RF_OK;
}

/* --- Which likelihood it is ------------------------------------------------------------------- */

/* The most tokens that are masked at once. */
static int64_t most_masked(const rf_objective *objective)
{
    return objective->kind == &rf_objective_mdm     ? INT64_MAX
           : objective->kind == &rf_objective_block ? objective->block_size
                                                    : 1;
}

bool rf_scoring_is_bound(const rf_scoring *how)
{
    return most_masked(how->objective) > 1;
}

int64_t rf_scoring_masks(const rf_scoring *how)
{
    return most_masked(how->objective) > ALL_MASKS ? how->n_masks : 0;
}
