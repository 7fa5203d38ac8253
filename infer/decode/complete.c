/* Step 3 of a round: the selected slots are completed, each for itself.
 *
 * Slot r owns the region of places [C + rS, C + (r+1)S) behind the C committed places of the slab,
 * and sees these C places and its own region alone. So all slots run side by side in one forward
 * pass, and committing them moves no key and no value.
 *
 * The first `accepted` tokens of a slot are final. A cycle of two passes accepts one more, or
 * several:
 *     PREDICT    masks stand behind the accepted tokens; each place predicts its own token
 *     ACCEPT     the predictions stand there; the first is accepted, and each next one while the
 *                place before it finds it probable enough
 * A slot whose tokens are all accepted is full and waits for the others. An end of text makes its
 * slot full, and the slots behind it are no longer wanted: they leave s->selected, and are removed
 * when the slot that ends the text is committed. When all wanted slots are full, they are
 * committed. */
#include "infer/decode/complete.h"

#include "infer/decode/plan.h"

enum {
    ALONE,    /* `verify=paper` only: the drafts again, each slot for itself */
    PREDICT,  /* first half of a cycle */
    ACCEPT,   /* second half */
    RECOMPUTE /* `kv=recompute` only: keys and values of the full slots, in sequence */
};

static int64_t length(const rf_sequence *s, int64_t r)
{
    return rf_sequence_length(s, s->selected[r]);
}

static int32_t *slot_tokens(const rf_sequence *s, int64_t r)
{
    return s->draft + s->selected[r] * s->slot_size;
}

/* Adds slot r from place `from` on: its own tokens, but masks from place `masked` on. */
static void add_slot(const rf_sequence *s, rf_batch *batch, int64_t r, int64_t from, int64_t masked)
{
    int32_t mask = rf_tokenizer_specials(s->tokenizer)->mask;
    int64_t S = s->slot_size, region = s->committed + r * S;
    for (int64_t i = from; i < length(s, r); i++) {
        rf_sequence_add(s, batch, i < masked ? slot_tokens(s, r)[i] : mask, s->selected[r] * S + i,
                        region + i, region);
    }
}

/* Places of the selected slots, up to and including an end of text (only the last can hold one),
 * where *ended. */
static int64_t count_tokens(const rf_sequence *s, bool *ended)
{
    int64_t n = 0;
    *ended = false;
    for (int64_t r = 0; r < s->n_selected && !*ended; r++) {
        n += rf_sequence_cut(s, slot_tokens(s, r), length(s, r), ended);
    }
    return n;
}

/* --- What a pass holds ------------------------------------------------------------------------ */

/* In the first cycle (`fresh`) the accepted tokens go along: verification had left their keys and
 * values where they saw the other slots too. */
static void ask_predictions(rf_sequence *s, rf_batch *batch)
{
    rf_query_kind kind = s->options->sample_all ? RF_QUERY_DRAFT : RF_QUERY_LIKELIEST;
    int64_t S = s->slot_size;
    s->cycle++;
    for (int64_t r = 0; r < s->n_selected; r++) {
        int64_t a = s->accepted[r], from = s->fresh ? 0 : a;
        if (a == length(s, r)) {
            continue;
        }
        for (int64_t i = a; i < length(s, r); i++) {
            rf_sequence_ask(s, kind, batch->n + i - from, s->selected[r] * S + i, -1);
        }
        add_slot(s, batch, r, from, a);
    }
}

/* ALONE, no place of a slot is accepted yet. A slot that was full from the start goes along once,
 * for its keys and values. */
static void ask_acceptance(rf_sequence *s, rf_batch *batch)
{
    int64_t S = s->slot_size;
    for (int64_t r = 0; r < s->n_selected; r++) {
        int64_t a = s->accepted[r], whole = length(s, r);
        for (int64_t i = a + 1; i < whole; i++) {
            rf_sequence_ask(s, RF_QUERY_PROBABILITY, batch->n + i - 1 - a, s->selected[r] * S + i,
                            slot_tokens(s, r)[i]);
        }
        add_slot(s, batch, r, a == whole && s->fresh ? 0 : a, S);
    }
}

/* The last cycle may be this one; an end of text would stand before places of its own slot. */
static void ask_last_acceptance(rf_sequence *s, rf_batch *batch)
{
    bool ended;
    const int64_t n = count_tokens(s, &ended);
    ask_acceptance(s, batch);
    if (s->options->fuse && !ended && !s->options->recompute_kv) {
        rf_plan_ahead(s, batch, n, s->n_slots);
    }
}

static void ask_recompute(rf_sequence *s, rf_batch *batch)
{
    int64_t S = s->slot_size;
    bool ended = false;
    for (int64_t r = 0; r < s->n_selected; r++) {
        int64_t n = rf_sequence_cut(s, slot_tokens(s, r), length(s, r), &ended);
        for (int64_t i = 0; i < n; i++) {
            rf_sequence_add(s, batch, slot_tokens(s, r)[i], s->selected[r] * S + i,
                            s->committed + r * S + i, s->committed);
        }
    }
    if (s->options->fuse) { /* what will be committed is known */
        rf_plan_ahead(s, batch, count_tokens(s, &ended),
                      ended ? s->selected[s->n_selected - 1] : s->n_slots);
    }
}

void rf_complete_ask(rf_sequence *s, rf_batch *batch)
{
    static void (*const ask[])(rf_sequence *, rf_batch *) = {
        [ALONE] = ask_acceptance,
        [PREDICT] = ask_predictions,
        [ACCEPT] = ask_last_acceptance,
        [RECOMPUTE] = ask_recompute,
    };
    ask[s->step](s, batch);
}

/* --- What it found ---------------------------------------------------------------------------- */

static void tell_predictions(rf_sequence *s)
{
    for (int64_t j = 0; j < s->n_queries; j++) {
        s->draft[s->query[j].at] = s->query[j].token;
    }
}

static void tell_acceptance(rf_sequence *s)
{
    for (int64_t r = 0, j = 0; r < s->n_selected; r++) {
        int64_t a = s->accepted[r];
        if (a == length(s, r)) {
            continue;
        }
        s->accepted[r] = a + 1;
        for (int64_t i = a + 1; i < length(s, r); i++, j++) {
            if (s->accepted[r] == i && s->query[j].p > s->options->token_threshold) {
                s->accepted[r] = i + 1;
            }
        }
    }
    s->fresh = false;
}

static bool all_full(const rf_sequence *s)
{
    for (int64_t r = 0; r < s->n_selected; r++) {
        if (s->accepted[r] < length(s, r)) {
            return false;
        }
    }
    return true;
}

/* The earliest slot with an accepted end of text counts as full; those behind it are abandoned: in
 * the beginning too, where they would be after the first cycle anyway. */
static void settle(rf_sequence *s)
{
    int64_t S = s->slot_size;
    for (int64_t r = 0; r < s->n_selected; r++) {
        bool ended;
        (void)rf_sequence_cut(s, slot_tokens(s, r), s->accepted[r], &ended);
        if (!ended) {
            continue;
        }
        for (int64_t later = r + 1; later < s->n_selected; later++) {
            for (int64_t i = 0; i < length(s, later); i++) {
                s->token[s->selected[later] * S + i] = -1;
            }
        }
        s->n_selected = r + 1;
        s->accepted[r] = length(s, r);
    }
}

static void show_accepted(rf_sequence *s)
{
    int64_t S = s->slot_size;
    for (int64_t r = 0; r < s->n_selected; r++) {
        bool ended;
        int64_t n = rf_sequence_cut(s, slot_tokens(s, r), s->accepted[r], &ended);
        for (int64_t i = 0; i < n; i++) {
            s->token[s->selected[r] * S + i] = slot_tokens(s, r)[i];
        }
    }
    rf_sequence_notify(s, RF_EVENT_ACCEPT);
}

/* In position order, up to and including an end of text (only the last slot can hold one). */
static void commit_all(rf_sequence *s)
{
    for (int64_t r = 0; r < s->n_selected; r++) {
        bool ended;
        int64_t n = rf_sequence_cut(s, slot_tokens(s, r), length(s, r), &ended);
        rf_sequence_commit(s, s->selected[r], slot_tokens(s, r), n);
    }
}

/* Each slot begins with its own run of passing places behind place 0: as judged together, also
 * where an earlier slot failed, or, with `verify=paper`, as it will be judged alone. */
void rf_complete_begin(rf_sequence *s)
{
    bool alone = s->options->verify_paper;
    for (int64_t r = 0; r < s->n_selected; r++) {
        const int64_t first = r * s->slot_size;
        int64_t n = 1;
        while (n < length(s, r) && first + n < s->n_verified && s->pass[first + n]) {
            n++;
        }
        s->accepted[r] = alone ? 0 : n;
    }
    settle(s);
    s->fresh = !alone; /* ALONE leaves every slot in its own region */
    s->step = alone ? ALONE : PREDICT;
}

bool rf_complete_tell(rf_sequence *s)
{
    switch (s->step) {
    case ALONE:
        tell_acceptance(s);
        s->step = PREDICT;
        if (!all_full(s)) {
            return false;
        }
        /* No cycle is needed: place 0 failed together, each passes alone. */
        settle(s);
        break;
    case PREDICT:
        tell_predictions(s);
        s->step = ACCEPT;
        return false;
    case ACCEPT:
        tell_acceptance(s);
        settle(s);
        show_accepted(s);
        s->step = PREDICT;
        if (!all_full(s)) {
            return false;
        }
        break;
    default:
        commit_all(s);
        return true;
    }
    if (s->options->recompute_kv) {
        s->step = RECOMPUTE;
        return false;
    }
    commit_all(s);
    return true;
}
