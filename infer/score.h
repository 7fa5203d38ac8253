/* score.h: likelihood of a given response, and losses of the training objective. all local
 *
 * `ar`: the chain rule in natural order. `refusion`: the likelihood of the left-to-right slot
 * sampler (ALGORITHM: likelihood of a given response): the first token of a slot from one mask at
 * its place, each other token of the slot from the one before; all in one forward pass. Normalised,
 * and it depends on the slot size.
 */
#ifndef RF_INFER_SCORE_H
#define RF_INFER_SCORE_H

#include "common/model/model.h"
#include "data/objective.h"

typedef struct rf_scorer rf_scorer;

/* For samples of up to max_tokens (prompt and response). slot_size 0: `ar`. mask: the mask token
 * (not read for `ar`). The model outlives the scorer and must have been made for rf_scorer_limits.
 */
RF_MUST_CHECK int rf_scorer_new(rf_scorer **out, rf_model *model, int32_t mask, int64_t slot_size,
                                int64_t max_tokens, rf_error *err);
void rf_scorer_free(rf_scorer *scorer); /* NULL is fine */
rf_model_limits rf_scorer_limits(int64_t slot_size, int64_t max_tokens);

/* logprob [n_response] sets (may be NULL): log-probability of each response token; *nats: minus
 * their sum. token [n_prompt + n_response], n_prompt and n_response >= 1. */
RF_MUST_CHECK int rf_scorer_run(rf_scorer *scorer, double *nats, double *logprob,
                                const int32_t *token, int64_t n_prompt, int64_t n_response,
                                rf_error *err);

/* losses [parts of the objective] adds: the cross-entropies of one drawing of its targets, with the
 * noise of rng; counts adds how many. */
RF_MUST_CHECK int rf_scorer_losses(rf_scorer *scorer, double *losses, rf_counts *counts,
                                   const rf_objective *objective, const int32_t *token,
                                   int64_t n_prompt, int64_t n_response, rf_rng *rng,
                                   rf_error *err);

#endif
