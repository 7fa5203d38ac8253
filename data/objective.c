#include "data/objective.h"

#include "data/objective_private.h"

#include <inttypes.h>
#include <string.h>

/* Their names are the choices of objective.kind. */
static const rf_objective_kind *const kinds[] = {&rf_objective_refusion, &rf_objective_ar,
                                                 &rf_objective_mdm, &rf_objective_block};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* --- Settings --------------------------------------------------------------------------------- */

#define AT(field) RF_CONFIG_FIELD(rf_objective, field)

const rf_config_key rf_objective_keys[] = {
    {"objective.kind", RF_KEY_CHOICE, "refusion", 0, 0, "refusion|ar|mdm|block", 0,
     RF_CONFIG_NO_FIELD,
     "training objective: slots in random order with denoising, next token, masked tokens (LLaDA), "
     "or masked tokens block by block (BD3-LM)"},
    {"objective.slot_sizes", RF_KEY_INTS, "4,8,16,32", 1, 1 << 20, NULL, 0, RF_CONFIG_NO_FIELD,
     "tokens of a slot; one of these is drawn for each sample (at most 16 numbers)"},
    {"objective.masking", RF_KEY_CHOICE, "bernoulli", 0, 0, "bernoulli|exact", 0, AT(exact_masking),
     "objective refusion: bernoulli: each slot is masked with probability p; exact: floor(t K) of "
     "the K slots"},
    {"objective.mdm_weight", RF_KEY_CHOICE, "inverse_p", 0, 0, "inverse_p|mean", 0, AT(mean_weight),
     "objective refusion: weight of a masked place: 1/(p R) per sample, or the mean over all "
     "masked places"},
    {"objective.lambda_ar", RF_KEY_REAL, "1", 0, 1e6, NULL, 0, AT(lambda_ar),
     "factor of the autoregressive term"},
    {"objective.lambda_mdm", RF_KEY_REAL, "1", 0, 1e6, NULL, 0, AT(lambda_mdm),
     "factor of the denoising term"},
    {"objective.epsilon", RF_KEY_REAL, "1e-3", 0, 1, NULL, 0, AT(epsilon),
     "smallest masking probability: p = (1-epsilon) t + epsilon, t uniform"},
    {"objective.ar_all", RF_KEY_BOOL, "false", 0, 0, NULL, 0, AT(ar_all),
     "objective ar: tokens of the prompt are targets too"},
    {"objective.pad", RF_KEY_CHOICE, "fixed", 0, 0, "fixed|block|none", 0, AT(pad),
     "objective mdm: end tokens put behind a response and trained like it: up to pad_length, to a "
     "multiple of pad_block, or none"},
    {"objective.pad_length", RF_KEY_INT, "0", 0, 1 << 20, NULL, 0, AT(pad_length),
     "objective mdm, pad=fixed: tokens of the padded response, longer ones stay; 0: "
     "decode.gen_length as it is when the run begins"},
    {"objective.pad_block", RF_KEY_INT, "1", 1, 1 << 20, NULL, 0, AT(pad_block),
     "objective mdm: padded responses are a multiple of so many tokens"},
    {"objective.mdm_norm", RF_KEY_CHOICE, "sample", 0, 0, "sample|token", 0, AT(token_norm),
     "objective mdm: mean over samples, each its own mean over tokens (LLaDA), or over all tokens"},
    {"objective.random_length", RF_KEY_REAL, "0.01", 0, 1, NULL, 0, AT(random_length),
     "objective mdm: share of the windows of plain text that are cut to a random length"},
    {"objective.block_size", RF_KEY_INT, "4", 1, 1 << 20, NULL, 0, AT(block_size),
     "objective block: tokens that are predicted side by side (S)"},
    {"objective.block_prompt", RF_KEY_CHOICE, "causal", 0, 0, "causal|bidirectional", 0,
     AT(sees_prompt),
     "objective block: a token of the prompt sees those before it, or the whole prompt"},
    {"objective.noise_low", RF_KEY_REAL, "1e-3", 1e-6, 1, NULL, 0, AT(noise_low),
     "objective block: smallest masking probability of a block; validation uses epsilon"},
    {"objective.noise_high", RF_KEY_REAL, "1", 1e-6, 1, NULL, 0, AT(noise_high),
     "objective block: largest masking probability of a block; validation uses 1"},
    {.name = NULL},
};

/* Reads the keys of `mdm`. */
static int check_padding(const rf_objective *out, const rf_config *config, rf_error *err)
{
    if (out->kind == &rf_objective_mdm && out->pad == RF_PAD_BLOCK && out->pad_block == 1) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "objective.pad = block (%s) with objective.pad_block = 1 (%s) pads "
                            "nothing: give the tokens of a block, as objective.pad_block=32, or "
                            "objective.pad=none where that is meant",
                            rf_config_origin(config, "objective.pad"),
                            rf_config_origin(config, "objective.pad_block"));
    }
    return RF_OK;
}

static int check_noise(const rf_objective *out, const rf_config *config, rf_error *err)
{
    if (out->noise_low > out->noise_high) {
        return rf_error_set(
            err, RF_ERR_USAGE,
            "objective.noise_low = %g (%s) is above objective.noise_high = %g (%s): "
            "exchange them",
            out->noise_low, rf_config_origin(config, "objective.noise_low"), out->noise_high,
            rf_config_origin(config, "objective.noise_high"));
    }
    return RF_OK;
}

static int read_slot_sizes(rf_objective *out, const rf_config *config, rf_error *err)
{
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
    return RF_OK;
}

int rf_objective_from_config(rf_objective *out, const rf_config *config, const rf_specials *special,
                             int64_t gen_length, rf_error *err)
{
    *out = (rf_objective){.mask = special->mask, .end = special->eos[0]};
    rf_config_fill(out, config, rf_objective_keys, false);
    out->pad_length = out->pad_length > 0 ? out->pad_length : gen_length;
    for (int i = 0; i < N_KINDS; i++) {
        out->kind = rf_config_is(config, "objective.kind", kinds[i]->name) ? kinds[i] : out->kind;
    }
    RF_TRY(check_padding(out, config, err));
    RF_TRY(check_noise(out, config, err));
    RF_TRY(read_slot_sizes(out, config, err));
    if (out->kind->needs_mask && special->mask < 0) {
        return rf_error_set(err, RF_ERR,
                            "objective.kind is %s (%s), but the tokenizer has no mask token: use a "
                            "tokenizer that has one, or objective.kind=ar",
                            out->kind->name, rf_config_origin(config, "objective.kind"));
    }
    return RF_OK;
}

rf_objective rf_objective_unclipped(const rf_objective *objective)
{
    rf_objective whole = *objective;
    whole.noise_low = objective->epsilon;
    whole.noise_high = 1;
    return whole;
}

/* --- Places ----------------------------------------------------------------------------------- */

int64_t rf_objective_places_once(const rf_objective *objective, int64_t n_prompt,
                                 int64_t n_response)
{
    (void)objective;
    return n_prompt + n_response;
}

int64_t rf_objective_round_up(int64_t n, int64_t multiple)
{
    return (n - 1) / multiple * multiple + multiple;
}

bool rf_objective_is_trained(const bool *trained, int64_t k)
{
    return trained == NULL || trained[k];
}

int64_t rf_objective_count_shown(const bool *trained, int64_t n_prompt, int64_t n)
{
    int64_t n_shown = 0;
    for (int64_t k = n_prompt; k < n; k++) {
        n_shown += !rf_objective_is_trained(trained, k);
    }
    return n_shown;
}

int64_t rf_objective_show(rf_batch *batch, int64_t begin, int32_t token, int64_t position)
{
    int64_t i = batch->n;
    return rf_batch_add(batch, token, (int32_t)position, i, begin, i + 1, 0, 0);
}

void rf_objective_target(rf_batch *batch, rf_counts *counts, int64_t i, int32_t target,
                         double weight, int part)
{
    batch->target[i] = target;
    batch->weight[i] = (float)weight;
    batch->part[i] = (uint8_t)part;
    counts->n_targets[part]++;
}

void rf_objective_pad(rf_batch *batch, int32_t token, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        rf_batch_add(batch, token, 0, batch->n, 0, 0, 0, 0);
    }
}

/* --- Any kind --------------------------------------------------------------------------------- */

void rf_counts_add(rf_counts *sum, const rf_counts *x)
{
    for (int part = 0; part < RF_MAX_PARTS; part++) {
        sum->n_targets[part] += x->n_targets[part];
    }
    sum->n_samples += x->n_samples;
    sum->n_tokens += x->n_tokens;
    sum->n_places += x->n_places;
}

int64_t rf_objective_places(const rf_objective *objective, int64_t n_prompt, int64_t n_response)
{
    return objective->kind->places(objective, n_prompt, n_response);
}

void rf_objective_append(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                         const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng)
{
    rf_objective_append_turns(objective, batch, counts, token, NULL, n_prompt, n_response, rng);
}

void rf_objective_append_turns(const rf_objective *objective, rf_batch *batch, rf_counts *counts,
                               const int32_t *token, const bool *trained, int64_t n_prompt,
                               int64_t n_response, rf_rng *rng)
{
    int64_t begin = batch->n, most = rf_objective_places(objective, n_prompt, n_response);
    RF_ASSERT(n_prompt >= 0 && n_response >= 1 && most <= batch->capacity - begin);
    RF_ASSERT(trained == NULL || objective->kind->takes_turns);
    objective->kind->append(objective, batch, counts, token, trained, n_prompt, n_response, rng);
    RF_ASSERT(batch->n - begin <= most);
    counts->n_samples++;
    counts->n_places += batch->n - begin;
}

void rf_objective_finish(const rf_objective *objective, rf_batch *batch, const rf_counts *global)
{
    double factor[RF_MAX_PARTS];
    objective->kind->factors(objective, factor, global);
    for (int64_t i = 0; i < batch->n; i++) {
        if (batch->part[i] != RF_PART_NONE) {
            batch->weight[i] = (float)((double)batch->weight[i] * factor[batch->part[i]]);
        }
    }
}
