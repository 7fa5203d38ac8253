/* objective_mdm.c: masked diffusion (LLaDA, arXiv 2502.09992; BASELINES: objective mdm). */
#include "data/objective_private.h"

enum { PART_DENOISE };

/* The begin token is the prompt of plain text, and a window of it the response. */
static bool is_text(int64_t n_prompt)
{
    return n_prompt == 1;
}

/* R': what the response takes with its padding. The sample alone decides it, so that neither its
 * neighbours nor the number of ranks change what is learnt. */
static int64_t padded_length(const rf_objective *objective, int64_t n_prompt, int64_t n_response)
{
    if (is_text(n_prompt) || objective->pad == RF_PAD_NONE) {
        return n_response;
    }
    bool extends = objective->pad == RF_PAD_FIXED && n_response < objective->pad_length;
    return rf_objective_round_up(extends ? objective->pad_length : n_response,
                                 objective->pad_block);
}

static int64_t places(const rf_objective *objective, int64_t n_prompt, int64_t n_response)
{
    return n_prompt + padded_length(objective, n_prompt, n_response);
}

/* Each token of the padded response that is to be learnt is masked with probability p, others never;
 * every place sees the whole sample. Masked places predict their own token. */
static void append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                   const int32_t *token, const bool *trained, int64_t n_prompt, int64_t n_response,
                   rf_rng *rng)
{
    if (is_text(n_prompt) && rf_rng_uniform(rng) < objective->random_length) {
        n_response = 1 + (int64_t)rf_rng_below(rng, (uint64_t)n_response);
    }
    int64_t n_padded = padded_length(objective, n_prompt, n_response);
    int64_t n = n_prompt + n_response, n_shown = n_prompt + n_padded;
    int64_t n_trained = n_padded - rf_objective_count_shown(trained, n_prompt, n);
    double p = (1 - objective->epsilon) * rf_rng_uniform(rng) + objective->epsilon;
    double weight = 1 / (objective->token_norm ? p : p * (double)n_trained);
    int64_t begin = batch->n, end = begin + n_shown;
    for (int64_t k = 0; k < n_shown; k++) {
        int32_t own = k < n ? token[k] : objective->end;
        bool masked = k >= n_prompt && rf_rng_uniform(rng) < p &&
                      (k >= n || rf_objective_is_trained(trained, k));
        int64_t i = rf_batch_add(batch, masked ? objective->mask : own, (int32_t)k, begin + k,
                                 begin, end, 0, 0);
        if (masked) {
            rf_objective_target(batch, counts, i, own, weight, PART_DENOISE);
        }
    }
    counts->n_tokens += n_trained;
}

static void factors(const rf_objective *objective, double *factor, const rf_counts *global)
{
    int64_t n = objective->token_norm ? global->n_tokens : global->n_samples;
    factor[PART_DENOISE] = n > 0 ? objective->lambda_mdm / (double)n : 0;
}

const rf_objective_kind rf_objective_mdm = {
    .name = "mdm",
    .part = {[PART_DENOISE] = {"denoise", "denoising loss"}},
    .n_parts = 1,
    .takes_turns = true,
    .decoder = "mdm",
    .needs_mask = true,
    .footprint = "prompt and padded response (objective.pad, objective.pad_length)",
    .places = places,
    .append = append,
    .factors = factors,
};
