/* Block diffusion (BD3-LM, arXiv:2503.09573): blocks of tokens from left to right, each filled by
 * masked diffusion; a block sees itself and what stands before it, never what comes behind. So the
 * keys and values of a block that is full are final once a pass has computed it without masks. That
 * pass is not one of its own: it goes along with the first step of the next block. */
#include "infer/decode/decoder.h"
#include "infer/decode/fill.h"

static int resolve(rf_decode_options *o, rf_error *err)
{
    if (o->block_length == 0 && o->trained_block == 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.block_length is missing: give the objective.block_size that "
                            "the model was trained with");
    }
    if (o->cfg > 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.cfg=%g goes with decode.kind=mdm: block has no guidance",
                            o->cfg);
    }
    return rf_fill_resolve(o, o->trained_block, err);
}

static int64_t most_places(const rf_decode_options *o, int64_t n_prompt, bool with_prompt)
{
    return o->block_length + (with_prompt ? n_prompt : o->block_length);
}

static void ask(rf_sequence *s, rf_batch *batch)
{
    const int64_t P = s->n_prompt, B = s->options->block_length, C = P + s->stretch;
    s->rounds++;
    if (s->wants_prompt && s->options->sees_prompt) {
        rf_fill_add(s, batch, 0, P, P, false);
        s->n_held = 0; /* keys and values of each place see the whole prompt */
        s->wants_prompt = false;
    } else if (s->wants_prompt) {
        rf_sequence_add_prompt(s, batch);
    } else if (s->step == 0) {
        rf_fill_add(s, batch, C - B, C, C, false);
    }
    rf_fill_ask(s, batch->n);
    rf_fill_add(s, batch, C, C + B, C + B, false);
}

const rf_decoder rf_decoder_block = {
    .objective = "block",
    .skill = "to fill a block of tokens behind the tokens of earlier ones",
    .needs_mask = true,
    .ignores = RF_SLOT_SETTINGS " " RF_DRAW_SETTINGS " cfg cache",
    .resolve = resolve,
    .most_places = most_places,
    .describe = rf_fill_describe,
    .ask = ask,
    .tell = rf_fill_tell,
};
