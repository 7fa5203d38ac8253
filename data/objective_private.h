/* objective_private.h: what the kinds of objectives share.                     all local */
#ifndef RF_DATA_OBJECTIVE_PRIVATE_H
#define RF_DATA_OBJECTIVE_PRIVATE_H

#include "data/objective.h"

/* The parts of `refusion`; `ar` has the first of them. */
enum { RF_PART_AR, RF_PART_DENOISE };

/* Every token of the sample is shown once. */
int64_t rf_objective_places_once(const rf_objective *objective, int64_t n_prompt,
                                 int64_t n_response);
/* The smallest multiple of `multiple` that is not below n; both >= 1. */
int64_t rf_objective_round_up(int64_t n, int64_t multiple);
/* Is token k of a response to be learnt? trained: as rf_objective_append_turns has it. */
bool rf_objective_is_trained(const bool *trained, int64_t k);
/* Tokens [n_prompt, n) that are not. */
int64_t rf_objective_count_shown(const bool *trained, int64_t n_prompt, int64_t n);
/* The place behind the last one: shows `token`, which stands at `position` of the sample that
 * begins at place `begin`, causally and without a target. Returns its index. */
int64_t rf_objective_show(rf_batch *batch, int64_t begin, int32_t token, int64_t position);
/* Makes `target` what place i is to predict, as a target of `part`, and counts it. */
void rf_objective_target(rf_batch *batch, rf_counts *counts, int64_t i, int32_t target,
                         double weight, int part);

#endif
