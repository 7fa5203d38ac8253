/* Step 3 of a round: the selected slots are independent from here. Slot r owns the region of places
 * [C + rS, C + (r+1)S) behind the C committed places and sees the cache and itself alone, so all
 * run side by side in one forward pass, and committing them moves nothing. */
#include "infer/decode_private.h"

/* The slots of this round that are still wanted: r < d->n_selected. An end of text abandons the
 * slots behind it by lowering n_selected; they are removed when the slot that holds it commits. */

static int32_t *slot_tokens(rf_decoder *d, int64_t r)
{
    return d->draft + d->selected[r] * d->options.slot_size;
}

static int64_t region(const rf_decoder *d, int64_t r)
{
    return d->committed + r * d->options.slot_size;
}

/* Adds places [from, to) of slot r: its tokens, or masks from place `masked` on. */
static void add_slot(rf_decoder *d, int64_t r, int64_t from, int64_t to, int64_t masked)
{
    int64_t S = d->options.slot_size;
    int32_t mask = rf_tokenizer_specials(d->tokenizer)->mask;
    for (int64_t i = from; i < to; i++) {
        rf_decoder_add(d, i < masked ? slot_tokens(d, r)[i] : mask, d->selected[r] * S + i,
                       region(d, r) + i, region(d, r));
    }
}

/* `paper`: how far each slot passes on its own; `released`: as judged when all ran in sequence. */
static int first_runs(rf_decoder *d, rf_error *err)
{
    int64_t S = d->options.slot_size, n = 0;
    int code = RF_OK;

    if (d->options.verify_paper) {
        rf_batch_clear(&d->batch);
        for (int64_t r = 0; r < d->n_selected; r++) {
            add_slot(d, r, 0, S, S);
            for (int64_t i = 1; i < S; i++, n++) {
                d->place[n] = (int32_t)(r * S + i - 1);
                d->target[n] = slot_tokens(d, r)[i];
            }
        }
        if ((code = rf_decoder_forward(d, err)) != RF_OK ||
            (code = rf_decoder_probability(d, n, err)) != RF_OK) {
            return code;
        }
        for (int64_t r = 0; r < d->n_selected; r++) {
            for (int64_t i = 1; i < S; i++) {
                d->pass[r * S + i] = d->value[r * (S - 1) + i - 1] > d->options.token_threshold;
            }
        }
    }
    for (int64_t r = 0; r < d->n_selected; r++) {
        d->accepted[r] = 1;
        while (d->accepted[r] < S && d->pass[r * S + d->accepted[r]]) {
            d->accepted[r]++;
        }
    }
    return code;
}

/* Masks behind the accepted tokens, predicted by argmax (denoising, no shift). `fresh`: the
 * accepted tokens' keys and values are not in the regions yet and are made by the same pass. */
static int predict(rf_decoder *d, bool fresh, rf_error *err)
{
    int64_t S = d->options.slot_size, n = 0;
    int code;

    rf_batch_clear(&d->batch);
    for (int64_t r = 0; r < d->n_selected; r++) {
        int64_t a = d->accepted[r];
        if (a == S) {
            continue;
        }
        add_slot(d, r, fresh ? 0 : a, S, a);
        for (int64_t i = a; i < S; i++, n++) {
            d->place[n] = (int32_t)(d->batch.n - S + i);
            d->target[n] = (int32_t)(d->selected[r] * S + i);
        }
    }
    if ((code = rf_decoder_forward(d, err)) != RF_OK ||
        (code = rf_decoder_sample(d, n, false, err)) != RF_OK) {
        return code;
    }
    for (int64_t j = 0; j < n; j++) {
        d->draft[d->target[j]] = d->sampled[j];
    }
    return RF_OK;
}

/* The predictions run behind the accepted tokens: the first is accepted unconditionally, the others
 * while their autoregressive probability is high enough. A slot that was full from the start only
 * has its keys and values made. */
static int accept(rf_decoder *d, bool fresh, rf_error *err)
{
    int64_t S = d->options.slot_size, n = 0, j = 0;
    int code;

    rf_batch_clear(&d->batch);
    for (int64_t r = 0; r < d->n_selected; r++) {
        int64_t a = d->accepted[r];
        if (a == S) {
            if (fresh) {
                add_slot(d, r, 0, S, S);
            }
            continue;
        }
        add_slot(d, r, a, S, S);
        for (int64_t i = a + 1; i < S; i++, n++) {
            d->place[n] = (int32_t)(d->batch.n - S + i - 1);
            d->target[n] = slot_tokens(d, r)[i];
        }
    }
    if ((code = rf_decoder_forward(d, err)) != RF_OK ||
        (code = rf_decoder_probability(d, n, err)) != RF_OK) {
        return code;
    }
    for (int64_t r = 0; r < d->n_selected; r++) {
        int64_t a = d->accepted[r];
        if (a == S) {
            continue;
        }
        d->accepted[r] = a + 1;
        for (int64_t i = a + 1; i < S; i++, j++) {
            if (d->accepted[r] == i && d->value[j] > d->options.token_threshold) {
                d->accepted[r] = i + 1;
            }
        }
    }
    return RF_OK;
}

static bool all_full(const rf_decoder *d)
{
    for (int64_t r = 0; r < d->n_selected; r++) {
        if (d->accepted[r] < d->options.slot_size) {
            return false;
        }
    }
    return true;
}

/* The earliest slot with an accepted end of text counts as full; those behind it are abandoned.
 * Returns whether all that are left are full. */
static bool settle(rf_decoder *d)
{
    for (int64_t r = 0; r < d->n_selected; r++) {
        bool ended;
        (void)rf_decode_cut_at_eos(d, slot_tokens(d, r), d->accepted[r], &ended);
        if (ended) {
            d->n_selected = r + 1;
            d->accepted[r] = d->options.slot_size;
        }
    }
    return all_full(d);
}

static void show_accepted(rf_decoder *d, int64_t n_selected)
{
    int64_t S = d->options.slot_size;
    for (int64_t r = 0; r < n_selected; r++) {
        bool ended;
        int64_t n = r < d->n_selected ? d->accepted[r] : 0;
        n = rf_decode_cut_at_eos(d, slot_tokens(d, r), n, &ended);
        for (int64_t i = 0; i < S; i++) {
            d->token[d->selected[r] * S + i] = i < n ? slot_tokens(d, r)[i] : -1;
        }
    }
    rf_decoder_notify(d, RF_EVENT_ACCEPT);
}

/* In position order, up to and including an end of text (only the last slot can hold one). */
static int commit(rf_decoder *d, rf_error *err)
{
    int64_t S = d->options.slot_size;

    if (d->options.recompute_kv) {
        int code;
        rf_batch_clear(&d->batch);
        for (int64_t r = 0; r < d->n_selected; r++) {
            bool ended;
            int64_t n = rf_decode_cut_at_eos(d, slot_tokens(d, r), S, &ended);
            for (int64_t i = 0; i < n; i++) {
                rf_decoder_add(d, slot_tokens(d, r)[i], d->selected[r] * S + i, region(d, r) + i,
                               d->committed);
            }
        }
        if ((code = rf_decoder_forward(d, err)) != RF_OK) {
            return code;
        }
    }
    for (int64_t r = 0; r < d->n_selected; r++) {
        bool ended;
        int64_t n = rf_decode_cut_at_eos(d, slot_tokens(d, r), S, &ended);
        rf_decode_commit_slot(d, d->selected[r], slot_tokens(d, r), n);
    }
    return RF_OK;
}

int rf_decode_complete(rf_decoder *d, rf_error *err)
{
    int64_t n_selected = d->n_selected;
    bool fresh = !d->options.verify_paper; /* else first_runs left every slot alone in its region */
    bool full;
    int code = first_runs(d, err);

    if (code != RF_OK) {
        return code;
    }
    /* With `paper` all may be full without a cycle: place 0 failed together, each passes alone.
     * Then too an end of text abandons what stands behind it. */
    full = all_full(d) && settle(d);
    for (; !full; fresh = false) {
        if ((code = predict(d, fresh, err)) != RF_OK || (code = accept(d, fresh, err)) != RF_OK) {
            return code;
        }
        full = settle(d);
        show_accepted(d, n_selected);
    }
    return commit(d, err);
}
