#include "infer/decode/fill.h"

#include "common/base/rng.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* --- Settings --------------------------------------------------------------------------------- */

static int64_t total_steps(const rf_decode_options *o)
{
    return o->steps > 0 ? o->steps : o->gen_length;
}

static bool has_quota(const rf_decode_options *o)
{
    return o->rule == RF_RULE_QUOTA || o->rule == RF_RULE_SDAR;
}

int rf_fill_resolve(rf_decode_options *o, int64_t default_block, rf_error *err)
{
    int64_t B = o->block_length > 0 ? o->block_length : default_block;
    o->block_length = B;
    o->bans_ends = o->eos_rule == RF_EOS_LOGITS;
    o->gen_length = (o->gen_length + B - 1) / B * B;
    if (has_quota(o) && total_steps(o) * B % o->gen_length != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.steps %" PRId64 " are not a whole number of steps for each of "
                            "%" PRId64 " blocks (decode.gen_length %" PRId64
                            ", decode.block_length %" PRId64 "): give a multiple of %" PRId64,
                            o->steps, o->gen_length / B, o->gen_length, B, o->gen_length / B);
    }
    if (o->remasking != RF_REMASK_LOW_CONFIDENCE && o->rule != RF_RULE_QUOTA) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.remasking=%s needs decode.rule=quota: %s looks at confidences",
                            rf_remasking_names[o->remasking], rf_rule_names[o->rule]);
    }
    return RF_OK;
}

void rf_fill_describe(char *text, size_t bytes, const rf_decode_options *o)
{
    int n = snprintf(text, bytes, "blocks of %" PRId64 ", ", o->block_length);
    char *end = text + n;
    size_t room = bytes - (size_t)n;
    switch (o->rule) {
    case RF_RULE_THRESHOLD:
        snprintf(end, room, "threshold %g", o->threshold);
        break;
    case RF_RULE_FACTOR:
        snprintf(end, room, "factor %g", o->factor);
        break;
    case RF_RULE_SDAR:
        snprintf(end, room, "%" PRId64 " steps or threshold %g", total_steps(o), o->threshold);
        break;
    default:
        snprintf(end, room, "%" PRId64 " steps", total_steps(o));
    }
}

/* --- Asking ----------------------------------------------------------------------------------- */

void rf_fill_add(const rf_sequence *s, rf_batch *batch, int64_t begin, int64_t end, int64_t seen,
                 bool unguided)
{
    const int32_t mask = rf_tokenizer_specials(s->tokenizer)->mask;
    const int64_t P = s->n_prompt, copy = s->slab + (unguided ? P + s->n_tokens : 0);
    for (int64_t i = begin; i < end; i++) {
        const int32_t token = i >= P ? s->token[i - P] : unguided ? mask : s->prompt[i];
        rf_batch_add(batch, token < 0 ? mask : token, (int32_t)i, copy + i, copy, copy + seen, 0,
                     0);
    }
}

void rf_fill_ask(rf_sequence *s, int64_t row)
{
    s->n_masked = 0;
    s->phase = 0;
    for (int64_t at = s->stretch; at < s->stretch + s->options->block_length; at++) {
        if (s->token[at] < 0) {
            s->masked[s->n_masked++] = at;
            rf_sequence_ask(s, RF_QUERY_DRAFT, row + at - s->stretch, at, -1);
        }
    }
}

/* --- Confidences ------------------------------------------------------------------------------ */

static void take_drafts(rf_sequence *s)
{
    for (int64_t at = 0; at < s->n_tokens; at++) {
        s->draft[at] = -1;
    }
    for (int64_t j = 0; j < s->n_queries; j++) {
        const rf_query *q = &s->query[j];
        s->draft[q->at] = q->token;
        s->score[q->at] = q->p;
        s->p_end[q->at] = 0;
    }
}

/* Where ends of text are left out of the softmax, s->p_end collects their probabilities, one id
 * after the other; phase: ids asked for. True: the queries are about the next one. */
static bool ask_ends(rf_sequence *s)
{
    const rf_specials *special = rf_tokenizer_specials(s->tokenizer);
    for (int64_t j = 0; j < s->n_queries && s->phase > 0; j++) {
        s->p_end[s->query[j].at] += s->query[j].p;
    }
    if (s->options->eos_rule == RF_EOS_NONE || s->options->remasking != RF_REMASK_LOW_CONFIDENCE ||
        s->phase == special->n_eos) {
        return false;
    }
    for (int64_t j = 0; j < s->n_queries; j++) {
        s->query[j].kind = RF_QUERY_PROBABILITY;
        s->query[j].token = special->eos[s->phase];
    }
    s->phase++;
    return true;
}

/* Of the draft at this place. The second number of its randomness: the first draws the draft. */
static double confidence(const rf_sequence *s, int64_t at)
{
    if (s->options->remasking != RF_REMASK_LOW_CONFIDENCE) {
        rf_rng rng = rf_sequence_rng(s, at);
        (void)rf_rng_u64(&rng);
        return rf_rng_uniform(&rng);
    }
    if (s->options->eos_rule == RF_EOS_NONE) {
        return s->score[at];
    }
    const double rest = 1 - s->p_end[at];
    return rf_tokenizer_is_eos(s->tokenizer, s->draft[at]) || !(rest > 0) ? 0 : s->score[at] / rest;
}

/* --- Filling ---------------------------------------------------------------------------------- */

/* Most confident first; among equals the lowest place. */
static int compare(const void *x, const void *y, void *scores)
{
    const int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
    const double *score = scores;
    return score[a] > score[b] ? -1 : score[a] < score[b] ? 1 : (a > b) - (a < b);
}

/* How many of the n masked places, in the order of s->selected, have a confidence of at least (or,
 * strictly, above) the threshold. */
static int64_t count_sure(const rf_sequence *s, bool strictly)
{
    const double threshold = s->options->threshold;
    int64_t n = 0;
    while (n < s->n_masked && (s->score[s->selected[n]] > threshold ||
                               (!strictly && s->score[s->selected[n]] >= threshold))) {
        n++;
    }
    return n;
}

/* This step's share of the block where it is filled in n steps: the first ones take what is left
 * over. */
static int64_t quota(const rf_sequence *s)
{
    const rf_decode_options *o = s->options;
    const int64_t B = o->block_length, n = total_steps(o) * B / o->gen_length;
    return B / n + (s->step < B % n);
}

/* The largest k with c_i >= 1 - factor/(i+1) for i = 2..k, where c_1 >= c_2 >= ... (arXiv
 * 2505.22618). */
static int64_t count_by_factor(const rf_sequence *s)
{
    int64_t k = 1;
    while (k < s->n_masked &&
           s->score[s->selected[k]] >= 1 - s->options->factor / (double)(k + 2)) {
        k++;
    }
    return k;
}

/* How many of the masked places this step fills: at least one, at most all. */
static int64_t count_filled(const rf_sequence *s)
{
    int64_t n;
    switch (s->options->rule) {
    case RF_RULE_THRESHOLD:
        n = count_sure(s, false);
        break;
    case RF_RULE_FACTOR:
        n = count_by_factor(s);
        break;
    case RF_RULE_SDAR:
        n = count_sure(s, true);
        n = n < quota(s) ? quota(s) : n;
        break;
    default:
        n = s->options->remasking == RF_REMASK_FIRST_HITTING ? 1 : quota(s);
    }
    n = n < s->n_masked ? n : s->n_masked;
    return n > 1 ? n : 1;
}

static void select_places(rf_sequence *s)
{
    for (int64_t j = 0; j < s->n_masked; j++) {
        s->selected[j] = s->masked[j];
        s->score[s->masked[j]] = confidence(s, s->masked[j]);
    }
    qsort_r(s->selected, (size_t)s->n_masked, sizeof *s->selected, compare, s->score);
    s->n_selected = count_filled(s);
    for (int64_t j = 0; j < s->n_selected; j++) {
        s->slot[s->selected[j]] = RF_SLOT_SELECTED;
    }
    rf_sequence_notify(s, RF_EVENT_PLAN);
}

static void fill(rf_sequence *s)
{
    for (int64_t j = 0; j < s->n_selected; j++) {
        const int64_t at = s->selected[j];
        s->token[at] = s->draft[at];
        s->slot[at] = RF_SLOT_COMMITTED;
        s->round[at] = s->rounds;
    }
}

/* Stands an end of text in the current block, with no mask before it? Earlier blocks are full. */
static bool has_ended(const rf_sequence *s)
{
    const int64_t end = s->stretch + s->options->block_length;
    int64_t at = s->stretch;
    while (at < end && s->token[at] >= 0 && !rf_tokenizer_is_eos(s->tokenizer, s->token[at])) {
        at++;
    }
    return at < end && s->token[at] >= 0;
}

/* Is the answer there? What is still masked then stands behind its end. */
static bool is_done(const rf_sequence *s, bool full)
{
    const bool last = full && s->stretch + s->options->block_length == s->n_tokens;
    switch (s->options->stop) {
    case RF_STOP_NEVER:
        return last;
    case RF_STOP_BLOCK:
        return last || (full && has_ended(s));
    default:
        return last || has_ended(s);
    }
}

bool rf_fill_tell(rf_sequence *s)
{
    if (s->phase == 0) {
        take_drafts(s);
    }
    if (ask_ends(s)) {
        return true;
    }
    select_places(s);
    fill(s);
    const bool full = s->n_selected == s->n_masked;
    s->done = is_done(s, full);
    for (int64_t at = s->stretch; s->done && at < s->n_tokens; at++) {
        s->slot[at] = s->token[at] < 0 ? RF_SLOT_REMOVED : s->slot[at];
    }
    rf_sequence_notify(s, RF_EVENT_COMMIT);
    s->step = full ? 0 : s->step + 1;
    s->stretch += full ? s->options->block_length : 0;
    return false;
}
