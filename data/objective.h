/* objective.h: from a sample to places of a batch (ALGORITHM: training objectives).   all local
 *
 * An objective appends a sample to a batch as (token, position, target, weight, spans). Weights are
 * first relative; rf_objective_finish multiplies in the global denominators, so that neither
 * gradient accumulation nor the number of ranks changes the loss.
 */
#ifndef RF_DATA_OBJECTIVE_H
#define RF_DATA_OBJECTIVE_H

#include "common/base/config.h"
#include "common/base/rng.h"
#include "common/model/batch.h"

typedef enum rf_objective_kind { RF_OBJECTIVE_REFUSION, RF_OBJECTIVE_AR } rf_objective_kind;

typedef struct rf_objective {
    rf_objective_kind kind;
    int64_t slot_sizes[16]; /* drawn from uniformly, per sample */
    int64_t n_slot_sizes;
    bool exact_masking; /* masking = exact (paper): floor(tK) of K slots; else each with p */
    bool mean_weight;   /* mdm_weight = mean (paper); else inverse_p (released code) */
    double lambda_ar, lambda_mdm;
    double epsilon; /* p = (1-epsilon) t + epsilon */
    bool ar_all;    /* ar: also the prompt's tokens are targets */
    int32_t mask;   /* token id */
} rf_objective;

/* Keys objective.* (kind, slot_sizes, masking, mdm_weight, lambda_ar, lambda_mdm, epsilon, ar_all).
 */
extern const rf_config_key rf_objective_keys[];
RF_MUST_CHECK int rf_objective_from_config(rf_objective *out, const rf_config *config, int32_t mask,
                                           rf_error *err);

/* What the denominators count; summed over leaves and ranks. */
typedef struct rf_counts {
    int64_t n_ar;      /* AR targets */
    int64_t n_masked;  /* denoising targets */
    int64_t n_samples; /* samples (pieces of long texts count each) */
    int64_t n_places;  /* places with content */
} rf_counts;
void rf_counts_add(rf_counts *sum, const rf_counts *x);

/* Places that a sample with n_prompt + n_response tokens takes in a row. */
int64_t rf_objective_places(const rf_objective *objective, int64_t n_prompt, int64_t n_response);

/* Appends a sample (token [n_prompt+n_response], n_response >= 1) behind the batch's last place;
 * spans are in batch coordinates. All noise comes from `rng`, the sample's own stream. Adds to
 * counts. Masked places carry the relative weight 1/(p R) or 1, AR places 1. */
void rf_objective_append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                         const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng);
/* Appends n places of padding: no key, no target. */
void rf_objective_pad(rf_batch *batch, int32_t token, int64_t n);
/* Turns relative weights into final ones, with counts summed over the whole step. A term without
 * targets stays 0. */
void rf_objective_finish(const rf_objective *objective, rf_batch *batch, const rf_counts *global);

#endif
