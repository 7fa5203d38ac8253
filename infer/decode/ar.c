/* One token a forward pass; each token is a slot of its own and committed at once. The key and the
 * value of the last one are made by the pass behind it. */
#include "infer/decode/sequence.h"

static int64_t most_places(const rf_decode_options *o, int64_t n_prompt, bool with_prompt)
{
    (void)o;
    return with_prompt ? n_prompt : 1;
}

static void ask(rf_sequence *s, rf_batch *batch)
{
    int64_t at = s->rounds++;
    rf_sequence_add_prompt(s, batch);
    if (at > 0) {
        rf_sequence_add(s, batch, s->token[at - 1], at - 1, s->committed - 1, s->committed);
    }
    rf_sequence_ask(s, RF_QUERY_DRAFT, batch->n - 1, at, -1);
}

static bool tell(rf_sequence *s)
{
    const rf_query *q = &s->query[0];
    rf_sequence_commit(s, q->at, &q->token, 1);
    s->done = q->at + 1 == s->n_slots || rf_tokenizer_is_eos(s->tokenizer, q->token);
    rf_sequence_notify(s, RF_EVENT_COMMIT);
    return false;
}

const rf_decoder rf_decoder_ar = {
    .objective = "ar",
    .skill = "to predict every token from those before it",
    .in_pieces = true,
    .ignores = RF_SLOT_SETTINGS " block_length " RF_FILL_SETTINGS,
    .most_places = most_places,
    .describe = rf_decode_sampling_text,
    .ask = ask,
    .tell = tell,
};
