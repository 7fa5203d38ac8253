/* Select and infill (ALGORITHM: decoding with a `refusion` model). A round plans the masked slots
 * of a block, verifies the selected drafts together, and completes the slots side by side where
 * verification committed nothing. */
#include "infer/decode_private.h"

/* M: the masked slots of the block [first, end). From left to right, only the leftmost matters: the
 * plan is causal in position order, so the masks behind it cannot change it. */
static void list_masked(rf_decoder *d, int64_t first, int64_t end)
{
    d->n_masked = 0;
    for (int64_t e = first; e < end; e++) {
        if (d->slot[e] == RF_SLOT_MASKED) {
            d->masked[d->n_masked++] = e;
            if (d->options.kind == RF_DECODE_LEFT_TO_RIGHT) {
                return;
            }
        }
    }
}

/* Every slot whose first draft is likely enough, or else the single best one. */
static void select_slots(rf_decoder *d)
{
    int64_t best = 0;
    d->n_selected = 0;
    for (int64_t j = 0; j < d->n_masked; j++) {
        int64_t e = d->masked[j];
        if (d->score[e] > d->options.slot_threshold) {
            d->selected[d->n_selected++] = e;
        }
        if (d->score[e] > d->score[d->masked[best]]) {
            best = j;
        }
    }
    if (d->n_selected == 0) {
        d->selected[d->n_selected++] = d->masked[best];
    }
    for (int64_t r = 0; r < d->n_selected; r++) {
        d->slot[d->selected[r]] = RF_SLOT_SELECTED;
    }
}

/* Drafts of places [from, to) of slot number j of the plan, whose masks begin at batch place
 * `base`. */
static int64_t ask_drafts(rf_decoder *d, int64_t n, int64_t base, int64_t j, int64_t from,
                          int64_t to)
{
    int64_t S = d->options.slot_size;
    for (int64_t i = from; i < to; i++, n++) {
        d->place[n] = (int32_t)(base + j * S + i);
        d->target[n] = (int32_t)(d->masked[j] * S + i);
    }
    return n;
}

static int take_drafts(rf_decoder *d, int64_t n, rf_error *err)
{
    int code = rf_decoder_sample(d, n, true, err);
    for (int64_t r = 0; r < n && code == RF_OK; r++) {
        d->draft[d->target[r]] = d->sampled[r];
        if (d->target[r] % d->options.slot_size == 0) {
            d->score[d->target[r] / d->options.slot_size] = d->value[r];
        }
    }
    return code;
}

/* Step 1. The masks of all slots of M run as one causal sequence behind the cache, at first
 * together with the prompt. Scores need the first place of each slot only; the other drafts are
 * asked for the selected slots alone. */
static int plan(rf_decoder *d, rf_error *err)
{
    int64_t S = d->options.slot_size;
    int32_t mask = rf_tokenizer_specials(d->tokenizer)->mask;
    int64_t base, n = 0;
    int code;

    rf_batch_clear(&d->batch);
    rf_decoder_add_prompt(d);
    base = d->batch.n;
    for (int64_t j = 0; j < d->n_masked; j++) {
        for (int64_t i = 0; i < S; i++) {
            rf_decoder_add(d, mask, d->masked[j] * S + i, d->committed + j * S + i, d->committed);
        }
    }
    if ((code = rf_decoder_forward(d, err)) != RF_OK) {
        return code;
    }
    for (int64_t i = 0; i < d->options.gen_length; i++) {
        d->draft[i] = -1;
    }
    for (int64_t j = 0; j < d->n_masked; j++) {
        n = ask_drafts(d, n, base, j, 0, 1);
    }
    if ((code = take_drafts(d, n, err)) != RF_OK) {
        return code;
    }
    select_slots(d);
    n = 0;
    for (int64_t j = 0; j < d->n_masked; j++) {
        if (d->slot[d->masked[j]] == RF_SLOT_SELECTED) {
            n = ask_drafts(d, n, base, j, 1, S);
        }
    }
    return take_drafts(d, n, err);
}

/* Step 2. The drafts of the selected slots run as one causal sequence behind the cache; the
 * verdicts go to d->pass, the length of the passing run from the start is returned in *run. */
static int verify(rf_decoder *d, int64_t *run, rf_error *err)
{
    int64_t S = d->options.slot_size, n = 0;
    int code;

    rf_batch_clear(&d->batch);
    for (int64_t r = 0; r < d->n_selected; r++) {
        for (int64_t i = 0; i < S; i++) {
            int64_t at = d->selected[r] * S + i;
            rf_decoder_add(d, d->draft[at], at, d->committed + r * S + i, d->committed);
            if (i > 0) {
                d->place[n] = (int32_t)(r * S + i - 1);
                d->target[n++] = d->draft[at];
            }
        }
    }
    if ((code = rf_decoder_forward(d, err)) != RF_OK ||
        (code = rf_decoder_probability(d, n, err)) != RF_OK) {
        return code;
    }
    for (int64_t r = 0; r < d->n_selected; r++) {
        d->pass[r * S] =
            !d->options.verify_paper || d->score[d->selected[r]] > d->options.token_threshold;
        for (int64_t i = 1; i < S; i++) {
            d->pass[r * S + i] = d->value[r * (S - 1) + i - 1] > d->options.token_threshold;
        }
    }
    *run = 0;
    while (*run < d->n_selected * S && d->pass[*run]) {
        ++*run;
    }
    return RF_OK;
}

void rf_decode_commit_slot(rf_decoder *d, int64_t e, const int32_t *token, int64_t n)
{
    int64_t S = d->options.slot_size;
    bool ended;

    (void)rf_decode_cut_at_eos(d, token, n, &ended);
    for (int64_t i = 0; i < S; i++) {
        d->token[e * S + i] = i < n ? token[i] : -1;
    }
    d->slot[e] = RF_SLOT_COMMITTED;
    d->round[e] = d->rounds;
    d->committed += n;
    for (int64_t later = e + 1; ended && later < d->n_slots; later++) {
        if (d->slot[later] != RF_SLOT_COMMITTED) {
            d->slot[later] = RF_SLOT_REMOVED;
            for (int64_t i = 0; i < S; i++) {
                d->token[later * S + i] = -1;
            }
        }
    }
}

/* Commits the start of the verified sequence, whose keys and values are in the cache: whole slots,
 * or all up to an end of text. False when the run holds neither. */
static bool commit_run(rf_decoder *d, int64_t run)
{
    int64_t S = d->options.slot_size;
    bool any = false;

    for (int64_t r = 0; r * S < run; r++) {
        int64_t e = d->selected[r];
        int64_t n = run - r * S < S ? run - r * S : S;
        bool ended;
        n = rf_decode_cut_at_eos(d, d->draft + e * S, n, &ended);
        if (n < S && !ended) {
            break;
        }
        rf_decode_commit_slot(d, e, d->draft + e * S, n);
        any = true;
        if (ended) {
            break;
        }
    }
    return any;
}

static int decode_round(rf_decoder *d, rf_error *err)
{
    int64_t run = 0;
    int code;

    d->rounds++;
    if ((code = plan(d, err)) != RF_OK) {
        return code;
    }
    rf_decoder_notify(d, RF_EVENT_PLAN);
    if ((code = verify(d, &run, err)) != RF_OK) {
        return code;
    }
    if (!commit_run(d, run) && (code = rf_decode_complete(d, err)) != RF_OK) {
        return code;
    }
    for (int64_t r = 0; r < d->n_selected; r++) {
        if (d->slot[d->selected[r]] == RF_SLOT_SELECTED) {
            d->slot[d->selected[r]] = RF_SLOT_MASKED;
        }
    }
    rf_decoder_notify(d, RF_EVENT_COMMIT);
    return RF_OK;
}

/* Blocks go from left to right. An end of text removes the slots behind it, so that later blocks
 * hold no masked slot and never start. */
int rf_decode_refusion(rf_decoder *d, rf_error *err)
{
    int64_t slots = d->options.block_length / d->options.slot_size;

    for (int64_t first = 0; first < d->n_slots; first += slots) {
        int64_t end = first + slots < d->n_slots ? first + slots : d->n_slots;
        for (list_masked(d, first, end); d->n_masked > 0; list_masked(d, first, end)) {
            int code = decode_round(d, err);
            if (code != RF_OK) {
                return code;
            }
        }
    }
    return RF_OK;
}
