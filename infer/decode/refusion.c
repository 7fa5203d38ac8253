/* Select and infill (arXiv:2512.13586). A round plans the masked slots of a stretch (the response
 * in pieces of decode.block_length, from left to right; plan.c), verifies the selected drafts
 * together, and completes the slots side by side where verification committed nothing.
 * `refusion-left-to-right` is the same with one slot a round. */
#include "infer/decode/complete.h"
#include "infer/decode/decoder.h"
#include "infer/decode/plan.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    PLAN,    /* plan.c */
    VERIFY,  /* the drafts of the selected slots, in sequence */
    COMPLETE /* complete.c */
};

/* --- Settings --------------------------------------------------------------------------------- */

static int resolve(rf_decode_options *o, rf_error *err)
{
    if (o->slot_size < 1 || o->slot_size > 4096) {
        return rf_error_set(err, RF_ERR_USAGE, "decode.slot_size %" PRId64 " is out of range",
                            o->slot_size);
    }
    if (o->block_length % o->slot_size != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.block_length %" PRId64
                            " is not a multiple of decode.slot_size %" PRId64
                            ": change one of them",
                            o->block_length, o->slot_size);
    }
    int64_t whole = (o->gen_length + o->slot_size - 1) / o->slot_size * o->slot_size;
    if (o->block_length == 0 || o->block_length > whole) {
        o->block_length = whole;
    }
    o->order_bias = o->order_bias > 0 ? o->order_bias : 1;
    const int64_t asked = o->kind == &rf_decoder_left_to_right ? 0 : o->slot_least;
    o->slot_least = o->slot_size;
    while (asked > 0 && o->slot_least % 2 == 0 && o->slot_least / 2 >= asked) {
        o->slot_least /= 2;
    }
    return RF_OK;
}

static int64_t most_places(const rf_decode_options *o, int64_t n_prompt, bool with_prompt)
{
    int64_t plan = o->kind == &rf_decoder_left_to_right ? o->slot_size : o->block_length;
    int64_t all = o->fuse ? 2 * plan : plan; /* fused: the drafts of one, the masks of the next */
    int64_t masks = all < o->gen_length ? all : o->gen_length;
    return masks + (with_prompt ? n_prompt : 0);
}

static void describe(char *text, size_t bytes, const rf_decode_options *o)
{
    char sampling[160], least[40] = "";
    rf_decode_sampling_text(sampling, sizeof sampling, o);
    if (o->slot_least < o->slot_size) {
        snprintf(least, sizeof least, " to %" PRId64, o->slot_least);
    }
    snprintf(text, bytes, "slots of %" PRId64 "%s, thresholds %g (%s) and %g, %s", o->slot_size,
             least, o->slot_threshold, rf_slot_score_names[o->slot_score], o->token_threshold,
             sampling);
}

/* --- Step 2: verify together ------------------------------------------------------------------ */

/* With decode.fuse drafts behind the first end of text are left out: they could not be committed.
 * The masks of the plan that follows stand behind the others. */
static void ask_verify(rf_sequence *s, rf_batch *batch)
{
    const int64_t S = s->slot_size;
    const bool fuse = s->options->fuse && !s->all_drafts;
    int64_t end = s->n_slots;
    s->n_verified = 0;
    for (int64_t r = 0; r < s->n_selected && end == s->n_slots; r++) {
        const int64_t e = s->selected[r], whole = rf_sequence_length(s, e);
        for (int64_t i = 0; i < whole && end == s->n_slots; i++) {
            const int32_t token = s->draft[e * S + i];
            if (i > 0) {
                rf_sequence_ask(s, RF_QUERY_PROBABILITY, batch->n - 1, e * S + i, token);
            }
            rf_sequence_add(s, batch, token, e * S + i, s->committed + s->n_verified++,
                            s->committed);
            end = fuse && rf_tokenizer_is_eos(s->tokenizer, token) ? e : end;
        }
    }
    if (fuse && !(s->narrow && end == s->n_slots)) { /* else more may be committed */
        rf_plan_ahead(s, batch, s->n_verified, end);
    }
}

/* Notes which places pass, and returns how many do from the start of the sequence on. */
static int64_t passing_run(rf_sequence *s)
{
    const int64_t S = s->slot_size;
    const double threshold = s->options->token_threshold;
    const rf_query *q = s->query;
    int64_t run = 0;
    for (int64_t n = 0; n < s->n_verified; n++) {
        const int64_t first = s->selected[n / S] * S; /* only the last slot may be short */
        s->pass[n] = n % S > 0 ? q++->p > threshold
                               : !s->options->verify_paper || s->draft_p[first] > threshold;
    }
    while (run < s->n_verified && s->pass[run]) {
        run++;
    }
    return run;
}

/* Commits the start of the verified sequence, whose keys and values are in the cache: whole slots,
 * or all up to an end of text. False when the run holds neither. */
static bool commit_run(rf_sequence *s, int64_t run)
{
    int64_t S = s->slot_size;
    bool any = false, ended = false;
    for (int64_t r = 0; r * S < run && !ended; r++) {
        int64_t e = s->selected[r];
        int64_t whole = rf_sequence_length(s, e), n = run - r * S < whole ? run - r * S : whole;
        n = rf_sequence_cut(s, s->draft + e * S, n, &ended);
        if (n < whole && !ended) {
            break;
        }
        rf_sequence_commit(s, e, s->draft + e * S, n);
        any = true;
    }
    return any;
}

/* The last draft verified is an end of text, and its own slot passes up to it: whatever becomes of
 * slots before it, those behind it are abandoned. (`verify=paper` judges it again.) */
static bool passes_to_end(const rf_sequence *s)
{
    const int64_t S = s->slot_size, last = s->n_verified - 1, r = last / S;
    bool passes = !s->options->verify_paper;
    for (int64_t n = r * S + 1; n <= last; n++) {
        passes = passes && s->pass[n];
    }
    return passes && rf_tokenizer_is_eos(s->tokenizer, s->draft[s->selected[r] * S + last % S]);
}

/* Completion begins where each slot's drafts pass: those behind an end of text, which were left out,
 * are missing. */
static bool lacks_drafts(const rf_sequence *s)
{
    const int64_t S = s->slot_size, last = s->selected[s->n_selected - 1];
    const int64_t n_drafts = (s->n_selected - 1) * S + rf_sequence_length(s, last);
    return s->n_verified < n_drafts && !s->options->verify_paper && !passes_to_end(s);
}

/* --- How much of a plan matters --------------------------------------------------------------- */

/* Number of the slots from the first masked one to slot e that were not decided before. */
static int64_t count_open(const rf_sequence *s, int64_t e)
{
    int64_t n = 0;
    for (int64_t i = 0; i <= e; i++) {
        n += s->slot[i] == RF_SLOT_MASKED || s->slot[i] == RF_SLOT_SELECTED;
    }
    return n;
}

/* How many of the slots that the plan chose from settle what this round does: what was selected
 * behind them is not committed, whatever it is. 0: nothing is settled by less than all. */
static int64_t settled_by(const rf_sequence *s, int64_t run)
{
    const int64_t S = s->slot_size;
    for (int64_t n = 0; n < run; n++) {
        const int64_t e = s->selected[n / S];
        if (rf_tokenizer_is_eos(s->tokenizer, s->draft[e * S + n % S])) {
            return count_open(s, e);
        }
    }
    if (run == s->n_verified || !(s->score[s->selected[0]] > s->options->slot_threshold)) {
        return 0;
    }
    return run >= S           ? count_open(s, s->selected[run / S])
           : passes_to_end(s) ? count_open(s, s->selected[(s->n_verified - 1) / S])
                              : 0;
}

/* --- Rounds ----------------------------------------------------------------------------------- */

/* Slots that were selected and not committed are ordinary masked slots again. True: the next round
 * has begun in this pass. */
static bool end_round(rf_sequence *s)
{
    for (int64_t e = 0; e < s->n_slots; e++) {
        if (s->slot[e] == RF_SLOT_SELECTED) {
            s->slot[e] = RF_SLOT_MASKED;
        }
    }
    rf_sequence_notify(s, RF_EVENT_COMMIT);
    s->phase = PLAN;
    s->cycle = 0;
    s->whole = false;
    s->done = count_open(s, s->n_slots - 1) == 0;
    return !s->done && rf_plan_holds(s);
}

/* Behind a verification. True: the next round has begun in this pass. */
static bool judge(rf_sequence *s)
{
    const int64_t run = passing_run(s), settled = settled_by(s, run);
    if (s->narrow && settled == 0) {
        rf_plan_widen(s);
        s->phase = PLAN;
        return false;
    }
    if (s->pace != NULL) { /* it counts slots as they were at first */
        const int64_t parts = rf_sequence_parts(s);
        const int64_t need = settled > 0 && settled < s->n_deciding ? settled : s->n_deciding;
        rf_pace_take_need(s->pace, s->rounds == 1, (need + parts - 1) / parts);
    }
    if (commit_run(s, run)) {
        return end_round(s);
    }
    s->all_drafts = lacks_drafts(s);
    if (!s->all_drafts) {
        rf_complete_begin(s);
        s->phase = COMPLETE;
    }
    return false;
}

static void ask(rf_sequence *s, rf_batch *batch)
{
    s->plan_at = -1; /* none in this pass */
    if (s->phase == PLAN) {
        rf_plan_ask(s, batch);
    } else if (s->phase == VERIFY) {
        ask_verify(s, batch);
    } else {
        rf_complete_ask(s, batch);
    }
}

static bool tell(rf_sequence *s)
{
    switch (s->phase) {
    case PLAN:
        if (rf_plan_tell(s)) {
            return true;
        }
        s->phase = s->n_selected > 0 ? VERIFY : PLAN; /* once more, with all slots */
        s->all_drafts = false;
        return false;
    case VERIFY:
        return judge(s);
    default:
        return rf_complete_tell(s) && end_round(s);
    }
}

#define METHODS                                                                                    \
    .objective = "refusion", .skill = "to fill a masked slot and go on inside it",                 \
    .in_pieces = true, .needs_mask = true, .resolve = resolve, .in_slots = true,                   \
    .most_places = most_places, .describe = describe, .ask = ask, .tell = tell
const rf_decoder rf_decoder_refusion = {METHODS, .ignores = RF_FILL_SETTINGS};
const rf_decoder rf_decoder_left_to_right = {
    METHODS, .ignores = "slot_least slot_threshold slot_score order_bias " RF_FILL_SETTINGS};
