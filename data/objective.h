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
#include "common/text/tokenizer.h"

enum { RF_MAX_PARTS = 4 };

typedef struct rf_objective_kind rf_objective_kind;

/* What is put behind a response in `mdm`: end tokens up to R' tokens in all. */
typedef enum rf_padding {
    RF_PAD_FIXED, /* R' = max(pad_length, R), rounded up to a multiple of pad_block */
    RF_PAD_BLOCK, /* R' = R, rounded up likewise */
    RF_PAD_NONE   /* R' = R */
} rf_padding;

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
    rf_padding pad; /* mdm; plain text has none */
    int64_t pad_length, pad_block;
    bool token_norm;      /* mdm_norm = token: 1/(p N_tokens); else sample: 1/(p R' N_samples) */
    double random_length; /* mdm: share of the windows of plain text that are cut */
    int64_t block_size;   /* block: S tokens */
    bool sees_prompt;     /* block_prompt = bidirectional; else causal */
    double noise_low, noise_high; /* block: a block's p is uniform in between */
    int32_t mask, end;            /* token ids; end of text is what pads */
} rf_objective;

/* What the denominators count; summed over leaves and ranks. All members are int64_t. */
typedef struct rf_counts {
    int64_t n_targets[RF_MAX_PARTS]; /* of each part of the objective */
    int64_t n_samples;               /* samples (pieces of long texts count each) */
    int64_t n_tokens;                /* mdm: that may be masked, padding included */
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
    const char *decoder;   /* decode.kind of a model trained with it, unless another is asked for */
    bool needs_mask;       /* the tokenizer must have a mask token */
    bool takes_turns;      /* samples may have several trained turns */
    const char *footprint; /* of what the places of a sample consist, for people */

    /* As rf_objective_places and rf_objective_append_turns; n_samples and n_places are counted there. */
    int64_t (*places)(const rf_objective *objective, int64_t n_prompt, int64_t n_response);
    void (*append)(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                   const int32_t *token, const bool *trained, int64_t n_prompt, int64_t n_response,
                   rf_rng *rng);
    /* By what rf_objective_finish multiplies the weights of each part: factor [n_parts] sets. 0 for
     * a part without targets. */
    void (*factors)(const rf_objective *objective, double *factor, const rf_counts *global);
};
extern const rf_objective_kind rf_objective_refusion, rf_objective_ar, rf_objective_mdm,
    rf_objective_block;

/* Keys objective.*. */
extern const rf_config_key rf_objective_keys[];
/* special: of the tokenizer. gen_length: stands for objective.pad_length where that is 0. */
RF_MUST_CHECK int rf_objective_from_config(rf_objective *out, const rf_config *config,
                                           const rf_specials *special, int64_t gen_length,
                                           rf_error *err);

/* The objective whose loss is comparable: `block` with its noise from epsilon to 1, for a loss over
 * a narrower range is no bound on the likelihood; any other as it is. */
rf_objective rf_objective_unclipped(const rf_objective *objective);

/* Places that a sample with n_prompt + n_response tokens takes in a row, at most: a window of random
 * length may take fewer. Never fewer than its tokens; grows with n_response. A sample whose prompt
 * is one token is plain text (rf_corpus_is_text). */
int64_t rf_objective_places(const rf_objective *objective, int64_t n_prompt, int64_t n_response);
/* Appends a sample (token [n_prompt+n_response], n_response >= 1) behind the batch's last place;
 * spans are in batch coordinates. All noise comes from `rng`, the sample's own stream. Adds to
 * counts. Weights are relative to the denominators: a masked place has 1/(p R) in `refusion` and
 * 1/(p R') in `mdm` and `block`, or 1 and 1/p where the mean is over tokens; an AR place 1. */
void rf_objective_append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                         const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng);
/* The same for a sample with several trained turns. trained [n_prompt+n_response]: which tokens are to
 * be learnt; the others of the response are always shown, are no targets, and do not count in R and
 * R'. NULL: the whole response is, which the kinds that take no turns demand. */
void rf_objective_append_turns(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                               const int32_t *token, const bool *trained, int64_t n_prompt,
                               int64_t n_response, rf_rng *rng);
/* `block`: appends the clean copy of a sample's first n tokens, n_prompt of them the prompt, without
 * targets. A token sees up to the end of its block of tokens, one of the prompt as block_prompt
 * says. */
void rf_objective_show_clean(const rf_objective *objective, rf_batch *batch, const int32_t *token,
                             int64_t n_prompt, int64_t n);
/* Appends n places of padding: no key, no target. */
void rf_objective_pad(rf_batch *batch, int32_t token, int64_t n);
/* Turns relative weights into final ones, with counts summed over the whole step. A part without
 * targets stays 0. */
void rf_objective_finish(const rf_objective *objective, rf_batch *batch, const rf_counts *global);

#endif
