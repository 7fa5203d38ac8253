/* A response that is there already: log-probability of each token, and the likeliest beside it. Not one
 * of decode.kind: a server asks it for the texts of its clients (echo, logprobs).
 *
 * With decode.slot_size 0 by the chain rule of `ar`: a token from the one before it. With 1 as
 * `refusion` has it with slots of one token (ALGORITHM: likelihood of a given response): from a mask at
 * its place that sees what stands before it. The mask's key and value lie behind those of the tokens.
 * Either way places see what they see in rf_scorer_run (score.h), with the same bits. */
#include "infer/decode/sequence.h"

enum { CHUNK = 128 }; /* tokens of a pass */

static int64_t tokens_of_pass(const rf_decode_options *o)
{
    return o->gen_length < CHUNK ? o->gen_length : CHUNK;
}

static int64_t most_places(const rf_decode_options *o, int64_t n_prompt, bool with_prompt)
{
    const int64_t n = tokens_of_pass(o); /* the prompt's last place is asked, too */
    return n + o->slot_size * n + (with_prompt ? n_prompt : 1);
}

static int64_t slab(const rf_decode_options *o, int64_t n_prompt)
{
    return n_prompt + o->gen_length + o->slot_size * tokens_of_pass(o);
}

static void ask_given(rf_sequence *s, int64_t row, int64_t at)
{
    rf_sequence_ask(s, RF_QUERY_GIVEN, row, at, s->given->token[at]);
}

/* step: tokens of the response that are in the slab. Masks, which nothing but themselves sees, stand
 * behind the tokens of their pass. */
static void ask(rf_sequence *s, rf_batch *batch)
{
    const int64_t rest = s->n_tokens - s->step, n = rest < CHUNK ? rest : CHUNK;
    const bool masks = s->options->slot_size > 0, begins = s->wants_prompt;
    rf_sequence_add_prompt(s, batch);
    if (!masks && begins) {
        ask_given(s, batch->n - 1, 0);
    }
    for (int64_t at = s->step; at < s->step + n; at++) {
        rf_sequence_add(s, batch, s->given->token[at], at, s->n_prompt + at, s->committed);
        if (!masks && at + 1 < s->n_tokens) {
            ask_given(s, batch->n - 1, at + 1);
        }
    }
    for (int64_t at = s->step; masks && at < s->step + n; at++) {
        const int64_t before = s->slab + s->n_prompt + at, own = before + n;
        ask_given(s, batch->n, at);
        rf_batch_add(batch, rf_tokenizer_specials(s->tokenizer)->mask, (int32_t)(s->n_prompt + at),
                     own, s->slab, before, own, own + 1);
    }
    s->committed += n;
    s->n_held = s->committed;
    s->step += (int)n;
}

static bool tell(rf_sequence *s)
{
    for (int64_t j = 0; j < s->n_queries; j++) {
        const rf_query *q = &s->query[j];
        s->token[q->at] = q->token;
        s->slot[q->at] = RF_SLOT_COMMITTED;
    }
    s->done = s->step == s->n_tokens;
    return false;
}

const rf_decoder rf_decoder_given = {
    .objective = "ar",
    .skill = "to predict every token from those before it",
    .in_pieces = true,
    .most_places = most_places,
    .slab = slab,
    .ask = ask,
    .tell = tell,
};
