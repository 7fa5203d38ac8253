#include "infer/decode/sequence.h"

#include "common/base/alloc.h"

static void cut_into_slots(rf_sequence *s, int64_t size)
{
    s->slot_size = size;
    s->n_slots = (s->n_tokens + size - 1) / size;
}

void rf_sequence_new(rf_sequence *s, const rf_decode_options *options,
                     const rf_tokenizer *tokenizer, int64_t slab)
{
    *s = (rf_sequence){.options = options, .tokenizer = tokenizer, .slab = slab};
    s->n_tokens = options->gen_length;
    cut_into_slots(s, rf_decoder_slot_size(options));
    const bool halves = options->slot_least > 0 && options->slot_least < s->slot_size;
    const int64_t parts = halves ? s->slot_size / options->slot_least : 1;
    size_t n_tokens = (size_t)s->n_tokens, n_slots = (size_t)(s->n_slots * parts); /* at most */
    s->token = rf_alloc(n_tokens, sizeof *s->token);
    s->draft = rf_alloc(n_tokens, sizeof *s->draft);
    s->draft_p = rf_alloc(n_tokens, sizeof *s->draft_p);
    s->pass = rf_alloc((size_t)(s->n_slots * s->slot_size), sizeof *s->pass);
    s->score = rf_alloc(n_slots, sizeof *s->score);
    s->p_end = rf_alloc(n_slots, sizeof *s->p_end);
    s->slot = rf_alloc(n_slots, sizeof *s->slot);
    s->round = rf_alloc(n_slots, sizeof *s->round);
    s->masked = rf_alloc(n_slots, sizeof *s->masked);
    s->selected = rf_alloc(n_slots, sizeof *s->selected);
    s->accepted = rf_alloc(n_slots, sizeof *s->accepted);
    s->query = rf_alloc((size_t)options->kind->most_places(options, 0, false), sizeof *s->query);
}

void rf_sequence_free(rf_sequence *s)
{
    RF_FREE(s->token, s->draft, s->draft_p, s->pass, s->score, s->p_end, s->slot, s->round,
            s->masked, s->selected, s->accepted, s->query);
    *s = (rf_sequence){0};
}

void rf_sequence_begin(rf_sequence *s, const int32_t *prompt, int64_t n_prompt, uint64_t index)
{
    s->prompt = prompt;
    s->n_prompt = n_prompt;
    s->index = index;
    s->observer = NULL;
    s->given = NULL;
    cut_into_slots(s, rf_decoder_slot_size(s->options));
    s->phase = s->step = 0;
    s->cycle = 0;
    s->done = s->whole = false;
    s->wants_prompt = true;
    s->n_held = 0;
    s->committed = s->forwards = s->places = s->rounds = s->stretch = s->n_queries = 0;
    for (int64_t i = 0; i < s->n_tokens; i++) {
        s->token[i] = s->draft[i] = -1;
    }
    for (int64_t e = 0; e < s->n_slots; e++) {
        s->slot[e] = RF_SLOT_MASKED;
        s->round[e] = 0;
    }
}

/* --- Steps of the decoders -------------------------------------------------------------------- */

void rf_sequence_halve(rf_sequence *s)
{
    cut_into_slots(s, s->slot_size / 2);
    for (int64_t e = s->n_slots - 1; e > 0; e--) {
        s->slot[e] = s->slot[e / 2];
        s->round[e] = s->round[e / 2];
        s->score[e] = s->score[e / 2];
    }
}

int64_t rf_sequence_parts(const rf_sequence *s)
{
    return rf_decoder_slot_size(s->options) / s->slot_size;
}

int64_t rf_sequence_length(const rf_sequence *s, int64_t e)
{
    int64_t rest = s->n_tokens - e * s->slot_size;
    return rest < s->slot_size ? rest : s->slot_size;
}

void rf_sequence_add_piece(rf_sequence *s, rf_batch *batch, int64_t n)
{
    for (int64_t end = s->n_held + n; s->n_held < end; s->n_held++) {
        int64_t to = s->slab + s->n_held;
        rf_batch_add(batch, s->prompt[s->n_held], (int32_t)s->n_held, to, s->slab, to + 1, 0, 0);
    }
}

void rf_sequence_add_prompt(rf_sequence *s, rf_batch *batch)
{
    if (!s->wants_prompt) {
        return;
    }
    rf_sequence_add_piece(s, batch, s->n_prompt - s->n_held);
    s->committed = s->n_prompt;
    s->wants_prompt = false;
}

void rf_sequence_add(const rf_sequence *s, rf_batch *batch, int32_t token, int64_t at, int64_t to,
                     int64_t region)
{
    int32_t position = (int32_t)(s->n_prompt + at);
    int64_t place = s->slab + to;
    if (region == s->committed) { /* one span: the split of a causal sequence would change bits */
        rf_batch_add(batch, token, position, place, s->slab, place + 1, 0, 0);
    } else {
        rf_batch_add(batch, token, position, place, s->slab, s->slab + s->committed,
                     s->slab + region, place + 1);
    }
}

rf_rng rf_sequence_rng(const rf_sequence *s, int64_t at)
{
    return RF_RNG_STREAM(s->options->seed, RF_RNG_DECODE, s->index, (uint64_t)s->rounds,
                         (uint64_t)at);
}

void rf_sequence_ask(rf_sequence *s, rf_query_kind kind, int64_t row, int64_t at, int32_t token)
{
    s->query[s->n_queries++] =
        (rf_query){.kind = kind, .row = (int32_t)row, .at = (int32_t)at, .token = token};
}

int64_t rf_sequence_cut(const rf_sequence *s, const int32_t *token, int64_t n, bool *found)
{
    *found = false;
    for (int64_t i = 0; i < n; i++) {
        if (rf_tokenizer_is_eos(s->tokenizer, token[i])) {
            *found = true;
            return i + 1;
        }
    }
    return n;
}

/* Accepted tokens of a slot that is being completed may be given up only where an earlier slot ends the
 * text: that one would stand before them. */
int64_t rf_sequence_fixed(const rf_sequence *s)
{
    int64_t n = 0;
    bool ended = false;
    while (n < s->n_tokens && s->token[n] >= 0 && !ended) {
        ended = rf_tokenizer_is_eos(s->tokenizer, s->token[n++]);
    }
    return n;
}

void rf_sequence_commit(rf_sequence *s, int64_t e, const int32_t *token, int64_t n)
{
    int64_t S = s->slot_size;
    bool ended;
    (void)rf_sequence_cut(s, token, n, &ended);
    for (int64_t i = 0; i < rf_sequence_length(s, e); i++) {
        s->token[e * S + i] = i < n ? token[i] : -1;
    }
    s->slot[e] = RF_SLOT_COMMITTED;
    s->round[e] = s->rounds;
    s->committed += n;
    for (int64_t later = e + 1; ended && later < s->n_slots; later++) {
        if (s->slot[later] != RF_SLOT_COMMITTED) {
            s->slot[later] = RF_SLOT_REMOVED;
            for (int64_t i = 0; i < rf_sequence_length(s, later); i++) {
                s->token[later * S + i] = -1;
            }
        }
    }
}

void rf_sequence_notify(const rf_sequence *s, rf_event_kind kind)
{
    if (s->observer != NULL) {
        s->observer(s->user, kind, s);
    }
}
