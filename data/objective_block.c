/* objective_block.c: block diffusion (BD3-LM, arXiv 2503.09573; BASELINES: objective block).
 *
 * Blocks of S response tokens: bidirectional inside, causal across. A sample is shown twice in one
 * row, so that one pass trains all blocks: a clean copy, and a noisy copy of the response whose
 * block j sees the clean blocks before it and itself.
 */
#include "data/objective_private.h"

enum { PART_DENOISE };

/* R': the response is filled up with end tokens to whole blocks. */
static int64_t padded_length(const rf_objective *objective, int64_t n_response)
{
    return rf_objective_round_up(n_response, objective->block_size);
}

/* The last clean block is left out: nobody sees it, and it predicts nothing. */
static int64_t places(const rf_objective *objective, int64_t n_prompt, int64_t n_response)
{
    return n_prompt + 2 * padded_length(objective, n_response) - objective->block_size;
}

void rf_objective_show_clean(const rf_objective *objective, rf_batch *batch, const int32_t *token,
                             int64_t n_prompt, int64_t n)
{
    int64_t begin = batch->n;
    for (int64_t k = 0; k < n; k++) {
        int64_t end = k + 1;
        if (k >= n_prompt) {
            end = n_prompt + rf_objective_round_up(k + 1 - n_prompt, objective->block_size);
        } else if (objective->sees_prompt) {
            end = n_prompt;
        }
        rf_batch_add(batch, token[k], (int32_t)k, begin + k, begin, begin + end, 0, 0);
    }
}

static void append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                   const int32_t *token, const bool *trained, int64_t n_prompt, int64_t n_response,
                   rf_rng *rng)
{
    int64_t size = objective->block_size, n_padded = padded_length(objective, n_response);
    int64_t begin = batch->n, n = n_prompt + n_response;
    int64_t n_trained = n_padded - rf_objective_count_shown(trained, n_prompt, n);
    rf_objective_show_clean(objective, batch, token, n_prompt, n_prompt + n_padded - size);
    for (int64_t first = n_prompt; first < n_prompt + n_padded; first += size) {
        double p = objective->noise_low +
                   (objective->noise_high - objective->noise_low) * rf_rng_uniform(rng);
        int64_t block = batch->n;
        for (int64_t k = first; k < first + size; k++) {
            int32_t own = k < n ? token[k] : objective->end;
            bool masked =
                rf_rng_uniform(rng) < p && (k >= n || rf_objective_is_trained(trained, k));
            int64_t i = rf_batch_add(batch, masked ? objective->mask : own, (int32_t)k, batch->n,
                                     begin, begin + first, block, block + size);
            if (masked) {
                rf_objective_target(batch, counts, i, own, 1 / (p * (double)n_trained),
                                    PART_DENOISE);
            }
        }
    }
}

static void factors(const rf_objective *objective, double *factor, const rf_counts *global)
{
    factor[PART_DENOISE] =
        global->n_samples > 0 ? objective->lambda_mdm / (double)global->n_samples : 0;
}

const rf_objective_kind rf_objective_block = {
    .name = "block",
    .part = {[PART_DENOISE] = {"denoise", "denoising loss"}},
    .n_parts = 1,
    .takes_turns = true,
    .decoder = "block",
    .needs_mask = true,
    .footprint = "prompt, and twice the response in blocks of objective.block_size",
    .places = places,
    .append = append,
    .factors = factors,
};
