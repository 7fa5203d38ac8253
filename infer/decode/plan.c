/* Step 1 of a round: masks stand in all slots that may be chosen; each place drafts its own token.
 * A slot's score is made of the probabilities of its drafts; the slots with scores above
 * decode.slot_threshold are selected, or the best one alone. With decode.slot_score=first the head
 * is asked for the first drafts of all slots, then for the other drafts of those selected: that of
 * a large vocabulary costs more than a layer. The other scores need all drafts.
 *
 * With decode.slot_least a plan in which no slot is sure enough halves the slots of this round and
 * of those that follow, and judges again. The masks stand as they stood: that costs no pass. */
#include "infer/decode/plan.h"

#include <math.h>

/* --- Which slots may be chosen ---------------------------------------------------------------- */

/* Lists M in s->masked: the masked slots before slot `end`, of the first stretch that holds any: an
 * end of text removes the slots behind it, so that later stretches never start. From left to right,
 * only the leftmost slot matters: the plan is causal in position order, so the masks behind it
 * cannot change it. In any order a plan may do with the first ones, for the same reason. n_before: other
 * places of the pass. */
static void list_masked(rf_sequence *s, int64_t end, int64_t n_before)
{
    const int64_t per_stretch = s->options->block_length / s->slot_size;
    const bool leftmost = s->options->kind == &rf_decoder_left_to_right;
    s->n_masked = 0;
    for (int64_t e = 0; e < end; e++) {
        if (s->slot[e] != RF_SLOT_MASKED) {
            continue;
        }
        if (s->n_masked == 0) { /* no further than its stretch */
            int64_t rest = leftmost ? 1 : per_stretch - e % per_stretch;
            end = rest < end - e ? e + rest : end;
        }
        s->masked[s->n_masked++] = e;
    }
    s->n_open = s->n_masked;
    if (s->pace != NULL && !s->whole &&
        s->n_masked > 1) { /* it counts slots as they were at first */
        const int64_t parts = rf_sequence_parts(s), n = (s->n_masked + parts - 1) / parts;
        const bool splits = s->options->fuse && s->options->order_bias >= 1;
        const int64_t extent =
            rf_pace_extent(s->pace, s->rounds == 0, n, s->slot_size * parts, n_before, splits);
        s->n_masked = extent < n ? extent * parts : s->n_masked;
    }
}

/* --- The pass --------------------------------------------------------------------------------- */

static bool all_at_once(const rf_sequence *s)
{
    return s->options->slot_score != RF_SLOT_SCORE_FIRST || s->n_masked == 1;
}

/* What the score needs to know of each draft's place. */
static rf_measure measure_of(rf_slot_score kind)
{
    return kind == RF_SLOT_SCORE_MARGIN    ? RF_MEASURE_SECOND
           : kind == RF_SLOT_SCORE_ENTROPY ? RF_MEASURE_ENTROPY
                                           : RF_MEASURE_NONE;
}

/* Asks for the drafts of place `from` and those behind it of each slot of M that is in `state`. */
static void ask_drafts(rf_sequence *s, rf_slot_state state, int64_t from, int64_t to)
{
    s->n_queries = 0;
    for (int64_t j = 0; j < s->n_masked; j++) {
        const int64_t e = s->masked[j], n = rf_sequence_length(s, e);
        for (int64_t i = from; s->slot[e] == state && i < n && i < to; i++) {
            rf_sequence_ask(s, RF_QUERY_DRAFT, s->plan_row + j * s->slot_size + i,
                            e * s->slot_size + i, -1);
            s->query[s->n_queries - 1].measure = measure_of(s->options->slot_score);
        }
    }
}

/* Those that the scores are made of. */
static void ask_first_drafts(rf_sequence *s)
{
    ask_drafts(s, RF_SLOT_MASKED, 0, all_at_once(s) ? s->slot_size : 1);
}

/* Causal, behind what stands before place `to` of the slab. */
static void add_masks(rf_sequence *s, rf_batch *batch, int64_t to)
{
    const int32_t mask = rf_tokenizer_specials(s->tokenizer)->mask;
    const int64_t S = s->slot_size;
    s->plan_row = batch->n;
    s->plan_at = to;
    for (int64_t j = 0; j < s->n_masked; j++) {
        for (int64_t i = 0; i < rf_sequence_length(s, s->masked[j]); i++) {
            rf_sequence_add(s, batch, mask, s->masked[j] * S + i, to + j * S + i, s->committed);
        }
    }
}

/* Or the same round once more, with all slots. */
static void begin_round(rf_sequence *s)
{
    s->rounds += !s->whole;
    s->narrow = s->n_masked < s->n_open;
    s->step = 0;
    ask_first_drafts(s);
}

void rf_plan_ask(rf_sequence *s, rf_batch *batch)
{
    list_masked(s, s->n_slots, s->wants_prompt ? s->n_prompt : 0);
    rf_sequence_add_prompt(s, batch);
    add_masks(s, batch, s->committed);
    begin_round(s);
}

void rf_plan_ahead(rf_sequence *s, rf_batch *batch, int64_t n, int64_t end)
{
    list_masked(s, end, n);
    if (s->n_masked > 0) {
        add_masks(s, batch, s->committed + n);
    }
}

/* What was committed are the first places of those that the masks see: as many are the same. */
bool rf_plan_holds(rf_sequence *s)
{
    if (s->plan_at != s->committed) {
        return false;
    }
    begin_round(s);
    return true;
}

/* --- What it found ---------------------------------------------------------------------------- */

/* The score of a slot whose m drafts q tells of, in [0,1]. */
static double score_of(rf_slot_score kind, const rf_query *q, int64_t m)
{
    double product = 1, logs = 0, least = 1, margin = 1, entropy = 0, expected = 0;
    for (int64_t i = 0; i < m; i++) {
        product *= q[i].p;
        expected += product / (double)m;
        logs += log(q[i].p) / (double)m;
        least = fmin(least, q[i].p);
        margin = fmin(margin, q[i].p - q[i].measured);
        entropy += q[i].measured / (double)m;
    }
    switch (kind) {
    case RF_SLOT_SCORE_FIRST:
        return q[0].p;
    case RF_SLOT_SCORE_PRODUCT:
        return product;
    case RF_SLOT_SCORE_MEAN:
        return exp(logs);
    case RF_SLOT_SCORE_MIN:
        return least;
    case RF_SLOT_SCORE_MARGIN: /* a sampled draft may be less likely than its runner-up */
        return fmax(margin, 0);
    case RF_SLOT_SCORE_ENTROPY:
        return exp(-entropy);
    default: /* rounding may add a little */
        return fmin(expected, 1);
    }
}

/* Scores each slot of M. From the drafts behind an end of text nothing is to be learnt. */
static void score_slots(rf_sequence *s)
{
    const rf_decode_options *o = s->options;
    const rf_query *q = s->query;
    for (int64_t j = 0; j < s->n_masked; j++) {
        const int64_t e = s->masked[j], n = all_at_once(s) ? rf_sequence_length(s, e) : 1;
        bool ended;
        const int64_t m = rf_sequence_cut(s, s->draft + e * s->slot_size, n, &ended);
        s->score[e] = score_of(o->slot_score, q, m) * pow(o->order_bias, (double)j);
        q += n;
    }
}

/* Every slot whose score is above the threshold; *best: the best one. */
static void select_slots(rf_sequence *s, int64_t *best)
{
    *best = s->masked[0];
    s->n_selected = 0;
    for (int64_t j = 0; j < s->n_masked; j++) {
        int64_t e = s->masked[j];
        if (s->score[e] > s->options->slot_threshold) {
            s->selected[s->n_selected++] = e;
        }
        *best = s->score[e] > s->score[*best] ? e : *best;
    }
}

/* How many slots of M, from the left, are known to decide what is selected, for those behind them score
 * less, whatever they draft: decode.order_bias bounds them. n_slots: all, however many there are. */
static int64_t slots_that_decide(const rf_sequence *s, int64_t best)
{
    const rf_decode_options *o = s->options;
    const double least = fmin(s->score[best], o->slot_threshold);
    int64_t n = 1;
    while (n < s->n_slots && pow(o->order_bias, (double)n) > least) {
        n++;
    }
    return n;
}

/* M, once more: the halves of its slots, and the questions about them. */
static void halve_slots(rf_sequence *s)
{
    rf_sequence_halve(s);
    s->n_masked *= 2;
    for (int64_t j = s->n_masked - 1; j >= 0; j--) {
        s->masked[j] = 2 * s->masked[j / 2] + j % 2;
    }
    s->n_masked -= s->masked[s->n_masked - 1] == s->n_slots; /* of a short slot only one is left */
    s->n_open = s->n_masked;
    ask_first_drafts(s);
}

static void take_drafts(rf_sequence *s)
{
    for (int64_t j = 0; j < s->n_queries; j++) {
        s->draft[s->query[j].at] = s->query[j].token;
        s->draft_p[s->query[j].at] = s->query[j].p;
    }
}

bool rf_plan_tell(rf_sequence *s)
{
    if (s->step == 0) {
        for (int64_t i = 0; i < s->n_tokens; i++) {
            s->draft[i] = -1;
        }
        take_drafts(s);
        score_slots(s);
        int64_t best;
        select_slots(s, &best);
        const bool halves = s->n_selected == 0 && s->slot_size > s->options->slot_least;
        s->n_deciding = halves ? s->n_slots : slots_that_decide(s, best);
        s->narrow = s->narrow && s->n_deciding > s->n_masked;
        if (s->n_selected == 0 && s->narrow) { /* one that was left out may be */
            rf_plan_widen(s);
            return false;
        }
        if (halves) {
            halve_slots(s);
            return true;
        }
        if (s->n_selected == 0) {
            s->selected[s->n_selected++] = best;
        }
        for (int64_t r = 0; r < s->n_selected; r++) {
            s->slot[s->selected[r]] = RF_SLOT_SELECTED;
        }
        s->step = 1;
        if (!all_at_once(s)) {
            ask_drafts(s, RF_SLOT_SELECTED, 1, s->slot_size);
            return true;
        }
    } else {
        take_drafts(s);
    }
    rf_sequence_notify(s, RF_EVENT_PLAN);
    return false;
}

void rf_plan_widen(rf_sequence *s)
{
    s->whole = true;
    for (int64_t r = 0; r < s->n_selected; r++) {
        s->slot[s->selected[r]] = RF_SLOT_MASKED;
    }
}
