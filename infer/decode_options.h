/* decode_options.h: how prompts are answered (keys decode.*).                  all local */
#ifndef RF_INFER_DECODE_OPTIONS_H
#define RF_INFER_DECODE_OPTIONS_H

#include "common/base/config/config.h"

typedef enum rf_decode_kind {
    RF_DECODE_AR,           /* one token after the other */
    RF_DECODE_REFUSION,     /* slots in any order */
    RF_DECODE_LEFT_TO_RIGHT /* one slot a round, always the leftmost */
} rf_decode_kind;

typedef struct rf_decode_options {
    rf_decode_kind kind;
    int64_t gen_length;   /* response tokens at most */
    int64_t slot_size;    /* S; the last slot may be shorter. `ar` does not read it */
    int64_t block_length; /* a multiple of slot_size; 0: gen_length. `ar` does not read it */
    double slot_threshold, token_threshold;
    bool verify_paper; /* place 0 of a slot must pass too; else `released` */
    bool recompute_kv; /* compute the keys and values of slots completed side by side again */
    double temperature;
    uint64_t seed;
} rf_decode_options;

/* Keys decode.* */
extern const rf_config_key rf_decode_keys[];
/* The settings, resolved. RF_ERR_USAGE where two of them do not go together. */
RF_MUST_CHECK int rf_decode_options_from_config(rf_decode_options *out, const rf_config *config,
                                                rf_error *err);
/* Checks the ranges and puts the block_length that is used for the one that was given. Resolving
 * twice changes nothing. RF_ERR_USAGE. */
RF_MUST_CHECK int rf_decode_options_resolve(rf_decode_options *options, rf_error *err);

/* As decode.kind has it. */
const char *rf_decode_kind_name(rf_decode_kind kind);
/* Tokens that are decided together: S, or 1 with `ar`. */
int64_t rf_decode_slot_size(const rf_decode_options *options);
/* The most response places of a forward pass, of resolved options. */
int64_t rf_decode_most_places(const rf_decode_options *options);

#endif
