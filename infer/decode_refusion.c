/* Select and infill (arXiv:2512.13586). A round plans the masked slots of a stretch (the response
 * in pieces of decode.block_length, from left to right), verifies the selected drafts together, and
 * completes the slots side by side where verification committed nothing. `refusion-left-to-right`
 * is the same with one slot a round. */
#include "infer/decode_complete.h"
#include "infer/decoder.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    PLAN,    /* masks of all masked slots: first drafts */
    DRAFT,   /* the same pass: the other drafts of the selected slots */
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
    snprintf(text, bytes, "slots of %" PRId64 ", thresholds %g and %g, %s", o->slot_size,
             o->slot_threshold, o->token_threshold, sampling);
}

/* --- Step 1: plan ----------------------------------------------------------------------------- */

/* M: the masked slots of the first stretch that holds any. Returns false when there are none left.
 * An end of text removes the slots behind it, so that later stretches never start. From left to
 * right, only the leftmost slot matters: the plan is causal in position order, so the masks behind
 * it cannot change it. */
static bool list_masked(rf_sequence *s)
{
    int64_t per_stretch = s->options->block_length / s->slot_size;

    s->n_masked = 0;
    for (; s->stretch < s->n_slots; s->stretch += per_stretch) {
        for (int64_t e = s->stretch; e < s->stretch + per_stretch && e < s->n_slots; e++) {
            if (s->slot[e] == RF_SLOT_MASKED) {
                s->masked[s->n_masked++] = e;
                if (s->options->kind == &rf_decoder_left_to_right) {
                    return true;
                }
            }
        }
        if (s->n_masked > 0) {
            return true;
        }
    }
    return false;
}

/* The masks of all slots of M run as one causal sequence behind the cache, at first together with
 * the prompt. Scores need the first place of each slot only. */
static void ask_plan(rf_sequence *s, rf_batch *batch)
{
    int32_t mask = rf_tokenizer_specials(s->tokenizer)->mask;
    int64_t S = s->slot_size;

    s->rounds++;
    (void)list_masked(s);
    rf_sequence_add_prompt(s, batch);
    for (int64_t j = 0; j < s->n_masked; j++) {
        int64_t at = s->masked[j] * S;
        rf_sequence_ask(s, RF_QUERY_DRAFT, batch->n, at, -1);
        for (int64_t i = 0; i < rf_sequence_length(s, s->masked[j]); i++) {
            rf_sequence_add(s, batch, mask, at + i, s->committed + j * S + i, s->committed);
        }
    }
}

/* Every slot whose first draft is likely enough, or else the single best one. */
static void select_slots(rf_sequence *s)
{
    int64_t best = s->masked[0];

    s->n_selected = 0;
    for (int64_t j = 0; j < s->n_masked; j++) {
        int64_t e = s->masked[j];
        if (s->score[e] > s->options->slot_threshold) {
            s->selected[s->n_selected++] = e;
        }
        best = s->score[e] > s->score[best] ? e : best;
    }
    if (s->n_selected == 0) {
        s->selected[s->n_selected++] = best;
    }
    for (int64_t r = 0; r < s->n_selected; r++) {
        s->slot[s->selected[r]] = RF_SLOT_SELECTED;
    }
}

/* Takes the scores; then asks for the rest of the selected slots' drafts. */
static void tell_plan(rf_sequence *s)
{
    int64_t S = s->slot_size, begin = s->query[0].row;

    for (int64_t i = 0; i < s->n_tokens; i++) {
        s->draft[i] = -1;
    }
    for (int64_t j = 0; j < s->n_masked; j++) {
        s->draft[s->query[j].at] = s->query[j].token;
        s->score[s->masked[j]] = s->query[j].p;
    }
    select_slots(s);
    s->n_queries = 0;
    for (int64_t j = 0; j < s->n_masked; j++) {
        int64_t e = s->masked[j];
        for (int64_t i = 1; i < rf_sequence_length(s, e) && s->slot[e] == RF_SLOT_SELECTED; i++) {
            rf_sequence_ask(s, RF_QUERY_DRAFT, begin + j * S + i, e * S + i, -1);
        }
    }
}

static void tell_drafts(rf_sequence *s)
{
    for (int64_t j = 0; j < s->n_queries; j++) {
        s->draft[s->query[j].at] = s->query[j].token;
    }
    rf_sequence_notify(s, RF_EVENT_PLAN);
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
        s->pass[n++] = !s->options->verify_paper || s->score[s->selected[r]] > threshold;
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
    s->done = !list_masked(s);
}

static void ask(rf_sequence *s, rf_batch *batch)
{
    if (s->phase == PLAN) {
        ask_plan(s, batch);
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
        tell_plan(s);
        s->phase = DRAFT;
        return true;
    case DRAFT:
        tell_drafts(s);
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
const rf_decoder rf_decoder_left_to_right = {METHODS,
                                             .ignores = "slot_threshold " RF_FILL_SETTINGS};
