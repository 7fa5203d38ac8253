#include "infer/decode/options.h"

#include <inttypes.h>
#include <stdio.h>

#define NAME(id, name) name
#define AT(field)      RF_CONFIG_FIELD(rf_decode_options, field)

const rf_config_key rf_decode_keys[] = {
    {"decode.kind", RF_KEY_CHOICE, "refusion", 0, 0, RF_DECODERS(NAME, "|"), RF_KEY_MAY_CHANGE,
     RF_CONFIG_NO_FIELD,
     "decoder: token by token; slots in any order, or from left to right; masked diffusion: all "
     "places in each pass, with an approximate cache, or in blocks behind an exact cache"},
    {"decode.gen_length", RF_KEY_INT, "256", 1, 1 << 20, NULL, RF_KEY_MAY_CHANGE, AT(gen_length),
     "response tokens at most; mdm, fast-dllm, block: rounded up to whole blocks (block_length)"},
    {"decode.slot_size", RF_KEY_INT, "8", 1, 4096, NULL, RF_KEY_MAY_CHANGE, AT(slot_size),
     "tokens of a slot (S)"},
    {"decode.slot_least", RF_KEY_INT, "0", 0, 4096, NULL, RF_KEY_MAY_CHANGE, AT(slot_least),
     "above 0: where no slot scores above slot_threshold, slots are halved, while their halves "
     "have as many tokens as this"},
    {"decode.block_length", RF_KEY_INT, "0", 0, 1 << 20, NULL, RF_KEY_MAY_CHANGE, AT(block_length),
     "tokens decoded before those behind them begin; refusion: a multiple of slot_size, 0: "
     "gen_length; mdm, fast-dllm: 0: 32; block: 0: objective.block_size"},
    {"decode.slot_threshold", RF_KEY_REAL, "0.9", 0, 1, NULL, RF_KEY_MAY_CHANGE, AT(slot_threshold),
     "a slot is filled this round when its score is above"},
    {"decode.slot_score", RF_KEY_CHOICE, "first", 0, 0,
     "first|product|mean|min|margin|entropy|expected", RF_KEY_MAY_CHANGE, AT(slot_score),
     "score of a slot, from the probabilities of its first draft or of all (infer/README.md)"},
    {"decode.order_bias", RF_KEY_REAL, "1", 1e-3, 1, NULL, RF_KEY_MAY_CHANGE, AT(order_bias),
     "below 1 earlier slots come first: a score counts times this for each masked slot before it"},
    {"decode.token_threshold", RF_KEY_REAL, "0.4", 0, 1, NULL, RF_KEY_MAY_CHANGE,
     AT(token_threshold), "a draft token passes when its autoregressive probability is above"},
    {"decode.fuse", RF_KEY_BOOL, "true", 0, 0, NULL, RF_KEY_MAY_CHANGE, AT(fuse),
     "plan the next round in the last pass of a round: the same answers in fewer passes"},
    {"decode.plan", RF_KEY_CHOICE, "measured", 0, 0, "measured|whole", RF_KEY_MAY_CHANGE,
     RF_CONFIG_NO_FIELD,
     "slots that a plan holds: as many as passes were seen to pay for, or all; the same answers"},
    {"decode.verify", RF_KEY_CHOICE, "released", 0, 0, "released|paper", RF_KEY_MAY_CHANGE,
     AT(verify_paper),
     "first token of a slot: always passes (released code), or by token_threshold (paper)"},
    {"decode.kv", RF_KEY_CHOICE, "reuse", 0, 0, "reuse|recompute", RF_KEY_MAY_CHANGE,
     AT(recompute_kv),
     "keys and values of slots completed side by side: kept, or computed again in sequence"},
    {"decode.temperature", RF_KEY_REAL, "0", 0, 100, NULL, RF_KEY_MAY_CHANGE, AT(temperature),
     "0: the likeliest tokens; else samples"},
    {"decode.top_k", RF_KEY_INT, "0", 0, 1 << 30, NULL, RF_KEY_MAY_CHANGE, AT(top_k),
     "sample from the k likeliest tokens; 0: from all"},
    {"decode.top_p", RF_KEY_REAL, "1", 0, 1, NULL, RF_KEY_MAY_CHANGE, RF_CONFIG_NO_FIELD,
     "sample from the likeliest tokens that have this probability together"},
    {"decode.min_p", RF_KEY_REAL, "0", 0, 1, NULL, RF_KEY_MAY_CHANGE, AT(min_p),
     "sample from tokens of at least this share of the likeliest one's probability"},
    {"decode.repetition_penalty", RF_KEY_REAL, "1", 0.01, 100, NULL, RF_KEY_MAY_CHANGE,
     AT(repetition_penalty),
     "above 1: tokens of prompt and answer become less likely, at temperature 0 too"},
    {"decode.sample", RF_KEY_CHOICE, "drafts", 0, 0, "drafts|all", RF_KEY_MAY_CHANGE,
     AT(sample_all),
     "what refusion samples: the drafts of its plans (the paper), or completions too"},
    {"decode.seed", RF_KEY_INT, "0", 0, 9e15, NULL, RF_KEY_MAY_CHANGE, AT(seed), "of the sampling"},
    {"decode.steps", RF_KEY_INT, "0", 0, 1 << 20, NULL, RF_KEY_MAY_CHANGE, AT(steps),
     "mdm, or rule=quota or sdar: steps that fill the response; 0: one for each token"},
    {"decode.remasking", RF_KEY_CHOICE, "low_confidence", 0, 0,
     "low_confidence|random|first_hitting", RF_KEY_MAY_CHANGE, AT(remasking),
     "mdm, fast-dllm, block: which masked places a step fills: the most confident, random ones, or "
     "a single random one"},
    {"decode.cfg", RF_KEY_REAL, "0", 0, 100, NULL, RF_KEY_MAY_CHANGE, AT(cfg),
     "mdm: guidance away from predictions that do not see the prompt; above 0 a pass costs two"},
    {"decode.eos_rule", RF_KEY_CHOICE, "none", 0, 0, "none|logits|late", RF_KEY_MAY_CHANGE,
     AT(eos_rule),
     "mdm, fast-dllm, block: ends of text as any token, never, or filled after all other tokens"},
    {"decode.stop", RF_KEY_CHOICE, "eager", 0, 0, "eager|block|never", RF_KEY_MAY_CHANGE, AT(stop),
     "mdm, fast-dllm, block: done when all before an end of text is filled, when its block is, or "
     "when all is"},
    {"decode.cache", RF_KEY_CHOICE, "dual", 0, 0, "none|prefix|dual", RF_KEY_MAY_CHANGE, AT(cache),
     "fast-dllm: what the steps of a block do not compute again: nothing, what stands before the "
     "block, or what stands behind it too"},
    {"decode.rule", RF_KEY_CHOICE, "threshold", 0, 0, "quota|threshold|factor|sdar",
     RF_KEY_MAY_CHANGE, AT(rule),
     "fast-dllm, block: places that a step fills: equal shares, those of enough confidence, as "
     "many as their confidences allow together, or the larger of the first two"},
    {"decode.threshold", RF_KEY_REAL, "0.9", 0, 1, NULL, RF_KEY_MAY_CHANGE, AT(threshold),
     "rule=threshold: least confidence (the best place is always filled); sdar: what is above"},
    {"decode.factor", RF_KEY_REAL, "1", 0, 1e6, NULL, RF_KEY_MAY_CHANGE, AT(factor),
     "rule=factor: the i-th place is filled where its confidence is at least 1 - factor/(i+1)"},
    {0}};

/* In the order of the enumerations. */
const char *const rf_slot_score_names[] = {"first",  "product", "mean",     "min",
                                           "margin", "entropy", "expected", NULL};
const char *const rf_remasking_names[] = {"low_confidence", "random", "first_hitting", NULL};
const char *const rf_eos_rule_names[] = {"none", "logits", "late", NULL};
const char *const rf_stop_names[] = {"eager", "block", "never", NULL};
const char *const rf_canvas_cache_names[] = {"none", "prefix", "dual", NULL};
const char *const rf_rule_names[] = {"quota", "threshold", "factor", "sdar", NULL};

void rf_decode_sampling_text(char *text, size_t bytes, const rf_decode_options *o)
{
    const struct {
        const char *name;
        double value;
        bool is_on;
    } settings[] = {{", top-k", (double)o->top_k, o->temperature > 0 && o->top_k > 0},
                    {", top-p", 1 - o->tail, o->temperature > 0 && o->tail > 0},
                    {", min-p", o->min_p, o->temperature > 0 && o->min_p > 0},
                    {", repetition penalty", o->repetition_penalty, o->repetition_penalty != 1}};
    int n = snprintf(text, bytes, "temperature %g", o->temperature);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (settings[i].is_on && n >= 0 && (size_t)n < bytes) {
            n +=
                snprintf(text + n, bytes - (size_t)n, "%s %g", settings[i].name, settings[i].value);
        }
    }
}

static int resolve_sampling(rf_decode_options *o, rf_error *err)
{
    if (o->repetition_penalty == 0) {
        o->repetition_penalty = 1;
    }
    if (!(o->temperature >= 0 && o->top_k >= 0 && o->tail >= 0 && o->tail <= 1 && o->min_p >= 0 &&
          o->min_p <= 1 && o->repetition_penalty > 0)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.temperature %g, decode.top_k %" PRId64
                            ", decode.top_p %g, decode.min_p %g or decode.repetition_penalty %g is "
                            "out of range",
                            o->temperature, o->top_k, 1 - o->tail, o->min_p, o->repetition_penalty);
    }
    const struct {
        const char *name, *off;
        bool is_on;
    } rules[] = {{"top_k", "0", o->top_k > 0},
                 {"top_p", "1", o->tail > 0},
                 {"min_p", "0", o->min_p > 0},
                 {"repetition_penalty", "1", o->repetition_penalty != 1}};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].is_on && !rf_decoder_reads(o->kind, rules[i].name)) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "decode.%s is not for decode.kind %s: set it to %s, or choose ar, "
                                "refusion or refusion-left-to-right",
                                rules[i].name, rf_decoder_name(o->kind), rules[i].off);
        }
    }
    return RF_OK;
}

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
    RF_TRY(resolve_sampling(o, err));
    return o->kind->resolve != NULL ? o->kind->resolve(o, err) : RF_OK;
}

bool rf_decode_options_shorten(rf_decode_options *o, int64_t room)
{
    for (int64_t length = o->gen_length < room ? o->gen_length : room; length > 0; length--) {
        rf_decode_options shorter = *o;
        shorter.gen_length = length;
        if (rf_decode_options_resolve(&shorter, NULL) == RF_OK && shorter.gen_length <= room) {
            *o = shorter;
            return true;
        }
    }
    return false;
}

int rf_decode_options_from_config(rf_decode_options *out, const rf_config *config, rf_error *err)
{
    *out = (rf_decode_options){
        .kind = rf_decoder_find(rf_config_string(config, "decode.kind")),
        .plan_measured = rf_config_is(config, "decode.plan", "measured"),
        .tail = 1 - rf_config_real(config, "decode.top_p"),
        .trained_block = rf_config_int(config, "objective.block_size"),
        .sees_prompt = rf_config_is(config, "objective.block_prompt", "bidirectional"),
    };
    rf_config_fill(out, config, rf_decode_keys, false);
    return rf_decode_options_resolve(out, err);
}
