/* options.h: how prompts are answered (keys decode.*).                  all local */
#ifndef RF_INFER_DECODE_OPTIONS_H
#define RF_INFER_DECODE_OPTIONS_H

#include "common/base/config/config.h"
#include "infer/decode/decoder.h"

/* Settings of the decoders of masked diffusion (`mdm`, `fast-dllm`, `block`), and their values as
 * the keys have them. What they mean is said where the keys are declared. */
typedef enum rf_remasking {
    RF_REMASK_LOW_CONFIDENCE,
    RF_REMASK_RANDOM,
    RF_REMASK_FIRST_HITTING
} rf_remasking;
typedef enum rf_eos_rule { RF_EOS_NONE, RF_EOS_LOGITS, RF_EOS_LATE } rf_eos_rule;
typedef enum rf_stop { RF_STOP_EAGER, RF_STOP_BLOCK, RF_STOP_NEVER } rf_stop;
typedef enum rf_canvas_cache {
    RF_CANVAS_CACHE_NONE,
    RF_CANVAS_CACHE_PREFIX,
    RF_CANVAS_CACHE_DUAL
} rf_canvas_cache;
typedef enum rf_rule { RF_RULE_QUOTA, RF_RULE_THRESHOLD, RF_RULE_FACTOR, RF_RULE_SDAR } rf_rule;
extern const char *const rf_remasking_names[],
    *const rf_eos_rule_names[], *const rf_stop_names[], *const rf_canvas_cache_names[],
                                                            *const rf_rule_names[];
/* How a plan scores a slot (decode.slot_score), from the probabilities q of its first m drafts: all,
 * or up to the first drafted end of text. */
typedef enum rf_slot_score {
    RF_SLOT_SCORE_FIRST,   /* q_0 */
    RF_SLOT_SCORE_PRODUCT, /* of all q */
    RF_SLOT_SCORE_MEAN,    /* geometric */
    RF_SLOT_SCORE_MIN,
    RF_SLOT_SCORE_MARGIN,  /* the least lead of a q over its place's runner-up */
    RF_SLOT_SCORE_ENTROPY, /* exp of minus the mean entropy of the places */
    RF_SLOT_SCORE_EXPECTED /* share of the m drafts before the first that fails, each q a chance */
} rf_slot_score;
extern const char *const rf_slot_score_names[];

/* Each decoder reads the settings that concern it. */
struct rf_decode_options {
    const rf_decoder *kind;
    int64_t gen_length;   /* response tokens at most */
    int64_t slot_size;    /* refusion: S; the last slot may be shorter */
    int64_t slot_least;   /* refusion: halves of slots are no shorter; 0: slots are not halved. Once
                             resolved: the least size that slots may come to */
    int64_t block_length; /* refusion: a multiple of slot_size; 0: gen_length */
    double slot_threshold, token_threshold;
    rf_slot_score slot_score;
    double order_bias; /* a slot's score counts times this for each masked slot to its left; 0: 1 */
    bool verify_paper; /* place 0 of a slot must pass too; else `released` */
    bool fuse;         /* the plan of a round goes into the last pass of the one before */
    bool plan_measured; /* plans hold as many slots as pays (pace.h), else all that may be chosen */
    bool recompute_kv;  /* compute the keys and values of slots completed side by side again */
    double temperature;
    /* What a draw at a temperature chooses from (rf_draw, kernels.h). 0: from everything. */
    int64_t top_k;
    double tail, min_p;        /* tail: 1 - decode.top_p */
    double repetition_penalty; /* also of greedy drafts; 0 and 1: none */
    bool
        sample_all; /* refusion: completions are chosen as drafts are; else they are the likeliest */
    uint64_t seed;

    /* mdm, fast-dllm, block: the response is filled in blocks of block_length tokens. gen_length is
     * a multiple of it, once resolved */
    int64_t steps; /* for the whole response; 0: one for each token */
    rf_remasking remasking;
    double cfg;
    rf_eos_rule eos_rule;
    rf_stop stop;
    rf_canvas_cache cache;
    rf_rule rule;
    double threshold, factor;
    bool bans_ends; /* no end of text is ever produced (eos_rule = logits, once resolved) */
    /* As the model was trained: block */
    int64_t trained_block; /* objective.block_size; 0: not known */
    bool sees_prompt;      /* objective.block_prompt = bidirectional */
};

/* Keys that only some decoders read (rf_decoder.ignores): those of slots, those of drawing, which the
 * others refuse, and those of the decoders of masked diffusion. */
#define RF_SLOT_SETTINGS                                                                           \
    "slot_size slot_least slot_threshold slot_score order_bias token_threshold fuse plan verify "  \
    "kv sample"
#define RF_DRAW_SETTINGS "top_k top_p min_p repetition_penalty"
#define RF_FILL_SETTINGS "steps remasking cfg eos_rule stop cache rule threshold factor"

/* Keys decode.* */
extern const rf_config_key rf_decode_keys[];
/* The settings, resolved. config also has the keys objective.* of the run that trained the model.
 * RF_ERR_USAGE where two of them do not go together. */
RF_MUST_CHECK int rf_decode_options_from_config(rf_decode_options *out, const rf_config *config,
                                                rf_error *err);
/* The settings of drawing that are on, for people: "temperature 0.7, top-p 0.9". */
void rf_decode_sampling_text(char *text, size_t bytes, const rf_decode_options *options);
/* Checks the ranges and puts the settings that are used for those that were given. Resolving twice
 * changes nothing. RF_ERR_USAGE. */
RF_MUST_CHECK int rf_decode_options_resolve(rf_decode_options *options, rf_error *err);
/* Resolves with a gen_length of at most `room` tokens, the largest that goes with the other
 * settings. False: there is none; the options stay as they are. */
bool rf_decode_options_shorten(rf_decode_options *options, int64_t room);

#endif
