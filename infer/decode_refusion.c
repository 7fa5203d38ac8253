/* Select and infill (arXiv:2512.13586). A round plans the masked slots of a stretch (the response
 * in pieces of decode.block_length, from left to right; decode_plan.c), verifies the selected drafts
 * together, and completes the slots side by side where verification committed nothing.
 * `refusion-left-to-right` is the same with one slot a round. */
#include "infer/decode_complete.h"
#include "infer/decode_plan.h"
#include "infer/decoder.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    PLAN,    /* decode_plan.c */
    VERIFY,  /* the drafts of the selected slots, in sequence */
    COMPLETE /* decode_complete.c */
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
    return RF_OK;
}

static int64_t slot_size(const rf_decode_options *o)
{
    return o->slot_size;
}

static int64_t most_places(const rf_decode_options *o, int64_t n_prompt, bool with_prompt)
{
    int64_t masks = o->block_length < o->gen_length ? o->block_length : o->gen_length;
    return masks + (with_prompt ? n_prompt : 0);
}

static void describe(char *text, size_t bytes, const rf_decode_options *o)
{
    char sampling[160];
    rf_decode_sampling_text(sampling, sizeof sampling, o);
    snprintf(text, bytes, "slots of %" PRId64 ", thresholds %g (%s) and %g, %s", o->slot_size,
             o->slot_threshold, rf_slot_score_names[o->slot_score], o->token_threshold, sampling);
}

/* --- Step 2: verify together ------------------------------------------------------------------ */

static void ask_verify(rf_sequence *s, rf_batch *batch)
{
    int64_t S = s->slot_size;

    for (int64_t r = 0; r < s->n_selected; r++) {
        for (int64_t i = 0; i < rf_sequence_length(s, s->selected[r]); i++) {
            int64_t at = s->selected[r] * S + i;
            if (i > 0) {
                rf_sequence_ask(s, RF_QUERY_PROBABILITY, batch->n - 1, at, s->draft[at]);
            }
            rf_sequence_add(s, batch, s->draft[at], at, s->committed + r * S + i, s->committed);
        }
    }
}

/* Notes which places pass, and returns how many do from the start of the sequence on. */
static int64_t passing_run(rf_sequence *s)
{
    int64_t S = s->slot_size, n = 0, run = 0; /* of n places */
    double threshold = s->options->token_threshold;

    for (int64_t r = 0, j = 0; r < s->n_selected; r++) {
        s->pass[n++] = !s->options->verify_paper || s->draft_p[s->selected[r] * S] > threshold;
        for (; n < r * S + rf_sequence_length(s, s->selected[r]); j++) {
            s->pass[n++] = s->query[j].p > threshold;
        }
    }
    while (run < n && s->pass[run]) {
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

/* --- Rounds ----------------------------------------------------------------------------------- */

/* Slots that were selected and not committed are ordinary masked slots again. */
static void end_round(rf_sequence *s)
{
    for (int64_t e = 0; e < s->n_slots; e++) {
        if (s->slot[e] == RF_SLOT_SELECTED) {
            s->slot[e] = RF_SLOT_MASKED;
        }
    }
    rf_sequence_notify(s, RF_EVENT_COMMIT);
    s->phase = PLAN;
    s->cycle = 0;
    s->done = !rf_plan_list(s);
}

static void ask(rf_sequence *s, rf_batch *batch)
{
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
        s->phase = VERIFY;
        return false;
    case VERIFY:
        if (commit_run(s, passing_run(s))) {
            end_round(s);
        } else {
            rf_complete_begin(s);
            s->phase = COMPLETE;
        }
        return false;
    default:
        if (rf_complete_tell(s)) {
            end_round(s);
        }
        return false;
    }
}

#define METHODS                                                                                    \
    .objective = "refusion", .skill = "to fill a masked slot and go on inside it",                 \
    .needs_mask = true, .resolve = resolve, .slot_size = slot_size, .most_places = most_places,    \
    .describe = describe, .ask = ask, .tell = tell
const rf_decoder rf_decoder_refusion = {METHODS, .ignores = RF_FILL_SETTINGS};
const rf_decoder rf_decoder_left_to_right = {
    METHODS, .ignores = "slot_threshold slot_score order_bias " RF_FILL_SETTINGS};
