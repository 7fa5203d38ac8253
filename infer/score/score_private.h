/* score_private.h: what score.c and score_masked.c share.                       all local */
#ifndef RF_INFER_SCORE_SCORE_PRIVATE_H
#define RF_INFER_SCORE_SCORE_PRIVATE_H

#include "infer/score/score.h"

struct rf_scorer {
    rf_model *model;
    rf_scoring how;
    int64_t max_places;
    rf_acts *acts;
    rf_batch batch;
    /* A question for each token that is predicted in a pass, at most one for each place. */
    int32_t *place, *target; /* [batch.capacity] */
    double *logprob;         /* [batch.capacity] answers */
    double *weight;          /* [batch.capacity] of the answers; only of bounds */
    double *loss;            /* [batch.capacity] */
    bool *masked;            /* [batch.capacity] tokens of one mask; only of bounds */
};

/* As rf_scorer_run, of `mdm` and `block`. */
RF_MUST_CHECK int rf_scorer_run_masked(rf_scorer *scorer, double *nats, const int32_t *token,
                                       int64_t n_prompt, int64_t n_response, rf_rng *rng,
                                       rf_error *err);

#endif
