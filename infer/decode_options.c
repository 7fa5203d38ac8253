#include "infer/decode_options.h"

#include "infer/decoder.h"

#include <inttypes.h>

#define NAME(id, name) name

const rf_config_key rf_decode_keys[] = {
    {"decode.kind", RF_KEY_CHOICE, "refusion", 0, 0, RF_DECODERS(NAME, "|"), RF_KEY_MAY_CHANGE,
     "decoder: token by token, slots in any order, slots from left to right"},
    {"decode.gen_length", RF_KEY_INT, "256", 1, 1 << 20, NULL, RF_KEY_MAY_CHANGE,
     "response tokens at most"},
    {"decode.slot_size", RF_KEY_INT, "8", 1, 4096, NULL, RF_KEY_MAY_CHANGE, "tokens of a slot (S)"},
    {"decode.block_length", RF_KEY_INT, "0", 0, 1 << 20, NULL, RF_KEY_MAY_CHANGE,
     "tokens decoded before those behind them begin, a multiple of slot_size; 0: gen_length"},
    {"decode.slot_threshold", RF_KEY_REAL, "0.9", 0, 1, NULL, RF_KEY_MAY_CHANGE,
     "a slot is filled this round when the probability of its first draft is above"},
    {"decode.token_threshold", RF_KEY_REAL, "0.4", 0, 1, NULL, RF_KEY_MAY_CHANGE,
     "a draft token passes when its autoregressive probability is above"},
    {"decode.verify", RF_KEY_CHOICE, "released", 0, 0, "released|paper", RF_KEY_MAY_CHANGE,
     "first token of a slot: always passes (released code), or by token_threshold (paper)"},
    {"decode.kv", RF_KEY_CHOICE, "reuse", 0, 0, "reuse|recompute", RF_KEY_MAY_CHANGE,
     "keys and values of slots completed side by side: kept, or computed again in sequence"},
    {"decode.temperature", RF_KEY_REAL, "0", 0, 100, NULL, RF_KEY_MAY_CHANGE,
     "0: greedy; else drafts are sampled"},
    {"decode.seed", RF_KEY_INT, "0", 0, 9e15, NULL, RF_KEY_MAY_CHANGE, "of the sampling"},
    {0}};

int rf_decode_options_resolve(rf_decode_options *o, rf_error *err)
{
    enum { MOST = 1 << 20 }; /* as the keys have it */
    if (o->gen_length < 1 || o->gen_length > MOST || o->block_length < 0 ||
        o->block_length > 2 * MOST) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.gen_length %" PRId64 " or decode.block_length %" PRId64
                            " is out of range",
                            o->gen_length, o->block_length);
    }
    return o->kind->resolve != NULL ? o->kind->resolve(o, err) : RF_OK;
}

int rf_decode_options_from_config(rf_decode_options *out, const rf_config *config, rf_error *err)
{
    *out = (rf_decode_options){
        .kind = rf_decoder_find(rf_config_string(config, "decode.kind")),
        .gen_length = rf_config_int(config, "decode.gen_length"),
        .slot_size = rf_config_int(config, "decode.slot_size"),
        .block_length = rf_config_int(config, "decode.block_length"),
        .slot_threshold = rf_config_real(config, "decode.slot_threshold"),
        .token_threshold = rf_config_real(config, "decode.token_threshold"),
        .verify_paper = rf_config_is(config, "decode.verify", "paper"),
        .recompute_kv = rf_config_is(config, "decode.kv", "recompute"),
        .temperature = rf_config_real(config, "decode.temperature"),
        .seed = (uint64_t)rf_config_int(config, "decode.seed"),
    };
    return rf_decode_options_resolve(out, err);
}
