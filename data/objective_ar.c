/* objective_ar.c: next token, in natural order (ALGORITHM: baselines). */
#include "data/objective_private.h"

static void append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                   const int32_t *token, const bool *trained, int64_t n_prompt, int64_t n_response,
                   rf_rng *rng)
{
    (void)rng; /* nothing is drawn */
    int64_t begin = batch->n, n = n_prompt + n_response;
    int64_t first_target = objective->ar_all ? 1 : n_prompt;
    for (int64_t k = 0; k < n; k++) {
        int64_t i = rf_objective_show(batch, begin, token[k], k);
        if (k + 1 < n && k + 1 >= first_target &&
            (objective->ar_all || rf_objective_is_trained(trained, k + 1))) {
            rf_objective_target(batch, counts, i, token[k + 1], 1, RF_PART_AR);
        }
    }
}

static void factors(const rf_objective *objective, double *factor, const rf_counts *global)
{
    int64_t n = global->n_targets[RF_PART_AR];
    factor[RF_PART_AR] = n > 0 ? objective->lambda_ar / (double)n : 0;
}

const rf_objective_kind rf_objective_ar = {
    .name = "ar",
    .part = {[RF_PART_AR] = {"ar", "AR loss"}},
    .n_parts = 1,
    .takes_turns = true,
    .decoder = "ar",
    .footprint = "prompt and response",
    .places = rf_objective_places_once,
    .append = append,
    .factors = factors,
};
