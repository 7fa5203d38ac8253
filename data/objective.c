#include "data/objective.h"

#include <inttypes.h>
#include <string.h>

/* --- Settings --------------------------------------------------------------------------------- */

const rf_config_key rf_objective_keys[] = {
    {"objective.kind", RF_KEY_CHOICE, "refusion", 0, 0, "refusion|ar", 0,
     "training objective: slots in random order with denoising, or next token"},
    {"objective.slot_sizes", RF_KEY_INTS, "4,8,16,32", 1, 1 << 20, NULL, 0,
     "tokens of a slot; one of these is drawn for each sample (at most 16 numbers)"},
    {"objective.masking", RF_KEY_CHOICE, "bernoulli", 0, 0, "bernoulli|exact", 0,
     "bernoulli: each slot is masked with probability p; exact: floor(t K) of the K slots"},
    {"objective.mdm_weight", RF_KEY_CHOICE, "inverse_p", 0, 0, "inverse_p|mean", 0,
     "weight of a masked place: 1/(p R) per sample, or the mean over all masked places"},
    {"objective.lambda_ar", RF_KEY_REAL, "1", 0, 1e6, NULL, 0, "factor of the autoregressive term"},
    {"objective.lambda_mdm", RF_KEY_REAL, "1", 0, 1e6, NULL, 0, "factor of the denoising term"},
    {"objective.epsilon", RF_KEY_REAL, "1e-3", 0, 1, NULL, 0,
     "smallest masking probability: p = (1-epsilon) t + epsilon, t uniform"},
    {"objective.ar_all", RF_KEY_BOOL, "false", 0, 0, NULL, 0,
     "objective ar: tokens of the prompt are targets too"},
    {.name = NULL},
};

int rf_objective_from_config(rf_objective *out, const rf_config *config, int32_t mask,
                             rf_error *err)
{
    *out = (rf_objective){
        .kind =
            rf_config_is(config, "objective.kind", "ar") ? RF_OBJECTIVE_AR : RF_OBJECTIVE_REFUSION,
        .exact_masking = rf_config_is(config, "objective.masking", "exact"),
        .mean_weight = rf_config_is(config, "objective.mdm_weight", "mean"),
        .lambda_ar = rf_config_real(config, "objective.lambda_ar"),
        .lambda_mdm = rf_config_real(config, "objective.lambda_mdm"),
        .epsilon = rf_config_real(config, "objective.epsilon"),
        .ar_all = rf_config_bool(config, "objective.ar_all"),
        .mask = mask,
    };
    const int64_t n_fit = (int64_t)(sizeof out->slot_sizes / sizeof out->slot_sizes[0]);
    int64_t n = 0;
    const int64_t *size = rf_config_ints(config, "objective.slot_sizes", &n);
    if (n < 1 || n > n_fit) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "objective.slot_sizes has %" PRId64 " numbers (%s): give 1 to %" PRId64,
                            n, rf_config_origin(config, "objective.slot_sizes"), n_fit);
    }
    memcpy(out->slot_sizes, size, (size_t)n * sizeof *size);
    out->n_slot_sizes = n;
    if (out->kind == RF_OBJECTIVE_REFUSION && mask < 0) {
        return rf_error_set(err, RF_ERR,
                            "objective.kind is refusion (%s), but the tokenizer has no mask token: "
                            "use a tokenizer that has one, or objective.kind=ar",
                            rf_config_origin(config, "objective.kind"));
    }
    return RF_OK;
}

/* --- Places ----------------------------------------------------------------------------------- */

void rf_counts_add(rf_counts *sum, const rf_counts *x)
{
    sum->n_ar += x->n_ar;
    sum->n_masked += x->n_masked;
    sum->n_samples += x->n_samples;
    sum->n_places += x->n_places;
}

int64_t rf_objective_places(const rf_objective *objective, int64_t n_prompt, int64_t n_response)
{
    (void)objective; /* both kinds show every token once */
    return n_prompt + n_response;
}

/* The place behind the last one: shows `token`, which stands at `position` of the sample that
 * begins at place `begin`, causally and without a target. */
static int64_t show(rf_batch *batch, int64_t begin, int32_t token, int64_t position)
{
    int64_t i = batch->n;
    return rf_batch_add(batch, token, (int32_t)position, i, begin, i + 1, 0, 0);
}

static void set_target(rf_batch *batch, int64_t i, int32_t target, double weight, rf_part part)
{
    batch->target[i] = target;
    batch->weight[i] = (float)weight;
    batch->part[i] = (uint8_t)part;
}

void rf_objective_pad(rf_batch *batch, int32_t token, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        rf_batch_add(batch, token, 0, batch->n, 0, 0, 0, 0);
    }
}

/* --- ar --------------------------------------------------------------------------------------- */

static void append_ar(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                      const int32_t *token, int64_t n_prompt, int64_t n_response)
{
    int64_t begin = batch->n, n = n_prompt + n_response;
    int64_t first_target = objective->ar_all ? 1 : n_prompt;
    for (int64_t k = 0; k < n; k++) {
        int64_t i = show(batch, begin, token[k], k);
        if (k + 1 < n && k + 1 >= first_target) {
            set_target(batch, i, token[k + 1], 1, RF_PART_AR);
            counts->n_ar++;
        }
    }
}

/* --- refusion --------------------------------------------------------------------------------- */

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

/* Fisher-Yates over the clean slots. */
static void draw_order(rf_draw *draw, rf_rng *rng)
{
    for (int64_t i = draw->n_clean - 1; i > 0; i--) {
        int64_t j = (int64_t)rf_rng_below(rng, (uint64_t)i + 1);
        int32_t swap = draw->order[i];
        draw->order[i] = draw->order[j];
        draw->order[j] = swap;
    }
}

static void append_refusion(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                            const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng)
{
    int64_t begin = batch->n, n = n_prompt + n_response;
    rf_draw draw;
    draw.slot_size = objective->slot_sizes[rf_rng_below(rng, (uint64_t)objective->n_slot_sizes)];
    draw.n_slots = (n_response - 1) / draw.slot_size + 1;
    /* The order's memory is the end of the sample's own part of `place`. While slot k is written,
     * each of the n_slots - k - 1 slots after it still has a place of its own to come, so that
     * their entries are not overwritten before they are read. */
    draw.order = batch->place + begin + n - draw.n_slots;
    draw_masks(&draw, objective, rng);
    draw_order(&draw, rng);

    for (int64_t k = 0; k < n_prompt; k++) {
        show(batch, begin, token[k], k);
    }
    for (int64_t k = 0; k < draw.n_slots; k++) {
        bool clean = k < draw.n_clean;
        int64_t slot = draw.order[k];
        int64_t first = n_prompt + slot * draw.slot_size;
        int64_t end = n - first < draw.slot_size ? n : first + draw.slot_size;
        for (int64_t j = first; j < end; j++) {
            int64_t i = show(batch, begin, clean ? token[j] : objective->mask, j);
            if (!clean) {
                set_target(batch, i, token[j],
                           objective->mean_weight ? 1 : 1 / (draw.p * (double)n_response),
                           RF_PART_DENOISE);
                counts->n_masked++;
            } else if (j + 1 < end) {
                set_target(batch, i, token[j + 1], 1, RF_PART_AR);
                counts->n_ar++;
            }
        }
    }
}

/* --- Both ------------------------------------------------------------------------------------- */

void rf_objective_append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                         const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng)
{
    RF_ASSERT(n_prompt >= 0 && n_response >= 1);
    RF_ASSERT(n_prompt + n_response <= batch->capacity - batch->n);
    if (objective->kind == RF_OBJECTIVE_AR) {
        append_ar(objective, batch, counts, token, n_prompt, n_response);
    } else {
        append_refusion(objective, batch, counts, token, n_prompt, n_response, rng);
    }
    counts->n_samples++;
    counts->n_places += n_prompt + n_response;
}

void rf_objective_finish(const rf_objective *objective, rf_batch *batch, const rf_counts *global)
{
    int64_t n_denoise = objective->mean_weight ? global->n_masked : global->n_samples;
    double ar = global->n_ar > 0 ? objective->lambda_ar / (double)global->n_ar : 0;
    double denoise = n_denoise > 0 ? objective->lambda_mdm / (double)n_denoise : 0;
    for (int64_t i = 0; i < batch->n; i++) {
        if (batch->part[i] != RF_PART_NONE) {
            double factor = batch->part[i] == RF_PART_AR ? ar : denoise;
            batch->weight[i] = (float)((double)batch->weight[i] * factor);
        }
    }
}
