/* objective_refusion.c: slots in random order, some of them masked (ALGORITHM: refusion). */
#include "data/objective_private.h"

/* What is drawn for a sample (ALGORITHM: refusion, 1 to 3). */
typedef struct rf_draw {
    int64_t slot_size, n_slots, n_clean;
    double p;       /* masking probability, as the weights know it */
    int32_t *order; /* [n_slots] clean slots in their random order, then masked ones ascending */
} rf_draw;

static void reverse(int32_t *x, int64_t n)
{
    for (int64_t i = 0; i < n / 2; i++) {
        int32_t swap = x[i];
        x[i] = x[n - 1 - i];
        x[n - 1 - i] = swap;
    }
}

/* Each slot with probability p, or exactly n_left of them: slot j is then masked with probability
 * (masks left) / (slots left), which makes all subsets of that size equally likely (Knuth,
 * algorithm S). */
static void draw_masks(rf_draw *draw, const rf_objective *objective, rf_rng *rng)
{
    int64_t n = draw->n_slots, n_clean = 0, n_masked = 0;
    double t = rf_rng_uniform(rng);
    int64_t n_wanted = (int64_t)(t * (double)n); /* floor: t >= 0 */
    draw->p = objective->exact_masking ? (double)n_wanted / (double)n
                                       : (1 - objective->epsilon) * t + objective->epsilon;
    for (int64_t j = 0; j < n; j++) {
        bool masked = objective->exact_masking
                          ? rf_rng_below(rng, (uint64_t)(n - j)) < (uint64_t)(n_wanted - n_masked)
                          : rf_rng_uniform(rng) < draw->p;
        if (masked) {
            draw->order[n - ++n_masked] = (int32_t)j;
        } else {
            draw->order[n_clean++] = (int32_t)j;
        }
    }
    draw->n_clean = n_clean;
    reverse(draw->order + n_clean, n_masked);
}

static void append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                   const int32_t *token, const bool *trained, int64_t n_prompt, int64_t n_response,
                   rf_rng *rng)
{
    int64_t begin = batch->n, n = n_prompt + n_response;
    (void)trained; /* the whole response: it takes no turns */
    rf_draw draw;
    draw.slot_size = objective->slot_sizes[rf_rng_below(rng, (uint64_t)objective->n_slot_sizes)];
    draw.n_slots = (n_response - 1) / draw.slot_size + 1;
    /* The order's memory is the end of the sample's own part of `place`. While slot k is written,
     * each of the n_slots - k - 1 slots after it still has a place of its own to come, so that
     * their entries are not overwritten before they are read. */
    draw.order = batch->place + begin + n - draw.n_slots;
    draw_masks(&draw, objective, rng);
    rf_rng_shuffle(rng, draw.order, draw.n_clean, sizeof *draw.order);
    for (int64_t k = 0; k < n_prompt; k++) {
        rf_objective_show(batch, begin, token[k], k);
    }
    for (int64_t k = 0; k < draw.n_slots; k++) {
        bool clean = k < draw.n_clean;
        int64_t slot = draw.order[k];
        int64_t first = n_prompt + slot * draw.slot_size;
        int64_t end = n - first < draw.slot_size ? n : first + draw.slot_size;
        for (int64_t j = first; j < end; j++) {
            int64_t i = rf_objective_show(batch, begin, clean ? token[j] : objective->mask, j);
            if (!clean) {
                double weight = objective->mean_weight ? 1 : 1 / (draw.p * (double)n_response);
                rf_objective_target(batch, counts, i, token[j], weight, RF_PART_DENOISE);
            } else if (j + 1 < end) {
                rf_objective_target(batch, counts, i, token[j + 1], 1, RF_PART_AR);
            }
        }
    }
}

static void factors(const rf_objective *objective, double *factor, const rf_counts *global)
{
    int64_t n_ar = global->n_targets[RF_PART_AR];
    int64_t n_denoise =
        objective->mean_weight ? global->n_targets[RF_PART_DENOISE] : global->n_samples;
    factor[RF_PART_AR] = n_ar > 0 ? objective->lambda_ar / (double)n_ar : 0;
    factor[RF_PART_DENOISE] = n_denoise > 0 ? objective->lambda_mdm / (double)n_denoise : 0;
}

const rf_objective_kind rf_objective_refusion = {
    .name = "refusion",
    .part = {[RF_PART_AR] = {"ar", "AR loss"}, [RF_PART_DENOISE] = {"denoise", "denoising loss"}},
    .n_parts = 2,
    .decoder = "refusion",
    .needs_mask = true,
    .footprint = "prompt and response",
    .places = rf_objective_places_once,
    .append = append,
    .factors = factors,
};
