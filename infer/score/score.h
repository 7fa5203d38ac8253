/* score.h: likelihood of a given response, and losses of the training objective. all local
 *
 * What is measured depends on the objective that trained the model:
 *   `ar`        the chain rule in natural order: exact.
 *   `refusion`  the likelihood of the left-to-right slot sampler (ALGORITHM: likelihood of a given
 *               response): the first token of a slot from one mask at its place, each other token
 *               of the slot from the one before. Normalised, and it depends on the slot size.
 *   `mdm`       a lower bound on log p: the mean over all orders of the tokens (BASELINES:
 *               likelihood; LLaDA, arXiv 2502.09992), from masks that are drawn at random, or from
 *               all masks where the response has 8 tokens or fewer.
 *   `block`     the sum of such bounds over blocks of tokens, each behind the clean ones before it;
 *               with blocks of one token it is exact.
 * Nothing is padded: the last block of tokens may be short. The first two take one forward pass.
 */
#ifndef RF_INFER_SCORE_SCORE_H
#define RF_INFER_SCORE_SCORE_H

#include "common/model/model.h"
#include "data/objective.h"

typedef struct rf_scorer rf_scorer;

/* How responses are scored. */
typedef struct rf_scoring {
    const rf_objective *objective; /* outlives the scorer */
    int64_t slot_size;             /* refusion: S, 1 or more */
    int64_t n_masks; /* mdm, block: masks drawn of more than 8 tokens together, 1 or more */
} rf_scoring;
/* Is it a bound on the likelihood, not the likelihood itself? */
bool rf_scoring_is_bound(const rf_scoring *how);
/* Masks that are drawn of each response (mdm) or block of tokens (block); 0: nothing is random. */
int64_t rf_scoring_masks(const rf_scoring *how);

/* For samples that take up to max_places under the objective (rf_objective_places). The model
 * outlives the scorer and must have been made for rf_scorer_limits. */
RF_MUST_CHECK int rf_scorer_new(rf_scorer **out, rf_model *model, const rf_scoring *how,
                                int64_t max_places, rf_error *err);
void rf_scorer_free(rf_scorer *scorer); /* NULL is fine */
rf_model_limits rf_scorer_limits(const rf_scoring *how, int64_t max_places);

/* *nats sets: minus the log-likelihood, or an upper bound on that, in which what is random comes
 * from rng (else not read). logprob [n_response] sets: log-probability of each response token; NULL
 * for bounds, and wherever it is not wanted. token [n_prompt + n_response], both >= 1. */
RF_MUST_CHECK int rf_scorer_run(rf_scorer *scorer, double *nats, double *logprob,
                                const int32_t *token, int64_t n_prompt, int64_t n_response,
                                rf_rng *rng, rf_error *err);

/* losses [parts of the objective] adds: the cross-entropies of one drawing of its targets, with the
 * noise of rng; counts adds how many. */
RF_MUST_CHECK int rf_scorer_losses(rf_scorer *scorer, double *losses, rf_counts *counts,
                                   const rf_objective *objective, const int32_t *token,
                                   int64_t n_prompt, int64_t n_response, rf_rng *rng,
                                   rf_error *err);

#endif
