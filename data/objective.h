/* objective.h: from a sample to places of a batch (ALGORITHM: training objectives).   all local
 *
 * An objective appends a sample to a batch as (token, position, target, weight, spans). Each target
 * belongs to one of the objective's parts, the terms of its loss (such as `ar` and `denoise`);
 * losses and counts are arrays over parts. Weights are first relative; rf_objective_finish
 * multiplies in the denominators, which count the targets of the whole step, so that neither
 * gradient accumulation nor the number of ranks changes the loss.
 *
 * A kind of objective is a table of methods (rf_objective_kind) in a file of its own,
 * objective_<name>.c, and a line in the list of objective.c.
 */
#ifndef RF_DATA_OBJECTIVE_H
#define RF_DATA_OBJECTIVE_H

#include "common/base/config/config.h"
#include "common/base/rng.h"
#include "common/model/batch.h"

enum { RF_MAX_PARTS = 4 };

typedef struct rf_objective_kind rf_objective_kind;

/* An objective as configured. Each kind reads the settings that concern it. */
typedef struct rf_objective {
    const rf_objective_kind *kind;
    int64_t slot_sizes[16]; /* drawn from uniformly, per sample */
    int64_t n_slot_sizes;
    bool exact_masking; /* masking = exact (paper): floor(tK) of K slots; else each with p */
    bool mean_weight;   /* mdm_weight = mean (paper); else inverse_p (released code) */
    double lambda_ar, lambda_mdm;
    double epsilon; /* p = (1-epsilon) t + epsilon */
    bool ar_all;    /* ar: also the prompt's tokens are targets */
    int32_t mask;   /* token id */
} rf_objective;

/* What the denominators count; summed over leaves and ranks. All members are int64_t. */
typedef struct rf_counts {
    int64_t n_targets[RF_MAX_PARTS]; /* of each part of the objective */
    int64_t n_samples;               /* samples (pieces of long texts count each) */
    int64_t n_places;                /* places with content */
} rf_counts;
void rf_counts_add(rf_counts *sum, const rf_counts *x);

struct rf_objective_kind {
    const char *name; /* of objective.kind */
    struct {
        const char *name;  /* of fields: loss_<name>, n_<name> */
        const char *title; /* for people */
    } part[RF_MAX_PARTS];
    int n_parts;
    const char *decoder; /* decode.kind of a model trained with it, unless another is asked for */
    bool needs_mask;     /* the tokenizer must have a mask token */

    /* Places that a sample takes in a row. */
    int64_t (*places)(const rf_objective *objective, int64_t n_prompt, int64_t n_response);
    /* As rf_objective_append; n_samples and n_places are counted there. */
    void (*append)(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                   const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng);
    /* By what rf_objective_finish multiplies the weights of each part: factor [n_parts] sets. 0 for
     * a part without targets. */
    void (*factors)(const rf_objective *objective, double *factor, const rf_counts *global);
};
extern const rf_objective_kind rf_objective_refusion, rf_objective_ar;

/* Keys objective.*. */
extern const rf_config_key rf_objective_keys[];
/* mask: token id, -1: the tokenizer has none. */
RF_MUST_CHECK int rf_objective_from_config(rf_objective *out, const rf_config *config, int32_t mask,
                                           rf_error *err);

/* Places that a sample with n_prompt + n_response tokens takes in a row. */
int64_t rf_objective_places(const rf_objective *objective, int64_t n_prompt, int64_t n_response);
/* Appends a sample (token [n_prompt+n_response], n_response >= 1) behind the batch's last place;
 * spans are in batch coordinates. All noise comes from `rng`, the sample's own stream. Adds to
 * counts. Weights are relative to the denominators: in `refusion` a masked place has 1/(p R) or 1,
 * an AR place 1. */
void rf_objective_append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                         const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng);
/* Appends n places of padding: no key, no target. */
void rf_objective_pad(rf_batch *batch, int32_t token, int64_t n);
/* Turns relative weights into final ones, with counts summed over the whole step. A part without
 * targets stays 0. */
void rf_objective_finish(const rf_objective *objective, rf_batch *batch, const rf_counts *global);

#endif
