/* Masked diffusion with attention in both directions over the prompt and a response of known length
 * (LLaDA, arXiv:2502.09992): `mdm` computes every place in every pass. `fast-dllm`
 * (arXiv:2505.22618) keeps keys and values of a pass for the next steps of the same block, though
 * what they saw has changed since: it is approximate.
 *
 * The slab holds prompt and response, and every place sees them all. With decode.cfg a second copy,
 * whose prompt is masked, lies behind it. */
#include "infer/decode/decoder.h"
#include "infer/decode/fill.h"

enum { DEFAULT_BLOCK = 32 }; /* tokens, as in arXiv:2505.22618 */

/* --- Settings --------------------------------------------------------------------------------- */

static int resolve(rf_decode_options *o, rf_error *err)
{
    if (o->block_length > o->gen_length) {
        o->block_length = o->gen_length;
    }
    return rf_fill_resolve(o, o->gen_length < DEFAULT_BLOCK ? o->gen_length : DEFAULT_BLOCK, err);
}

static int resolve_mdm(rf_decode_options *o, rf_error *err)
{
    o->rule = RF_RULE_QUOTA;
    o->cache = RF_CANVAS_CACHE_NONE;
    return resolve(o, err);
}

static int resolve_fast(rf_decode_options *o, rf_error *err)
{
    if (o->cfg > 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.cfg=%g goes with decode.kind=mdm: fast-dllm has no guidance",
                            o->cfg);
    }
    return resolve(o, err);
}

static int64_t n_copies(const rf_decode_options *o)
{
    return o->cfg > 0 ? 2 : 1;
}

static int64_t slab(const rf_decode_options *o, int64_t n_prompt)
{
    return n_copies(o) * (n_prompt + o->gen_length);
}

/* with_prompt: of a pass that computes everything anew, as all do without a cache. */
static int64_t most_places(const rf_decode_options *o, int64_t n_prompt, bool with_prompt)
{
    if (with_prompt || o->cache == RF_CANVAS_CACHE_NONE) {
        return slab(o, n_prompt);
    }
    return o->cache == RF_CANVAS_CACHE_PREFIX ? o->gen_length : o->block_length;
}

/* --- Passes ----------------------------------------------------------------------------------- */

static void ask(rf_sequence *s, rf_batch *batch)
{
    const rf_decode_options *o = s->options;
    const int64_t whole = s->n_prompt + s->n_tokens, block = s->n_prompt + s->stretch;
    const int64_t begin = s->wants_prompt ? 0 : block, row = batch->n + block - begin;
    const bool to_the_end = s->wants_prompt || o->cache == RF_CANVAS_CACHE_PREFIX;
    s->rounds++;
    s->n_held = 0; /* keys and values of the prompt see the response */
    rf_fill_add(s, batch, begin, to_the_end ? whole : block + o->block_length, whole, false);
    rf_fill_ask(s, row);
    if (o->cfg > 0) {
        rf_fill_add(s, batch, 0, whole, whole, true);
        s->guided = row;
        s->n_guided = o->block_length;
        s->unguided = row + whole;
        s->forwards++;
    }
    s->wants_prompt = o->cache == RF_CANVAS_CACHE_NONE;
}

static bool tell(rf_sequence *s)
{
    if (rf_fill_tell(s)) {
        return true;
    }
    s->wants_prompt |= s->step == 0; /* a block begins with a pass of everything */
    return false;
}

#define METHODS                                                                                    \
    .objective = "mdm", .skill = "to fill masked places that see what stands behind them",         \
    .needs_mask = true, .most_places = most_places, .slab = slab, .describe = rf_fill_describe,    \
    .ask = ask, .tell = tell
const rf_decoder rf_decoder_mdm = {METHODS, .resolve = resolve_mdm,
                                   .ignores = RF_SLOT_SETTINGS " " RF_DRAW_SETTINGS
                                                               " cache rule threshold factor"};
const rf_decoder rf_decoder_fast_dllm = {METHODS, .resolve = resolve_fast,
                                         .ignores = RF_SLOT_SETTINGS " " RF_DRAW_SETTINGS " cfg"};
