/* decode_options.h: how prompts are answered (keys decode.*).                  all local */
#ifndef RF_INFER_DECODE_OPTIONS_H
#define RF_INFER_DECODE_OPTIONS_H

#include "common/base/config/config.h"

typedef struct rf_decoder rf_decoder; /* decoder.h */

/* Each decoder reads the settings that concern it. */
typedef struct rf_decode_options {
    const rf_decoder *kind;
    int64_t gen_length;   /* response tokens at most */
    int64_t slot_size;    /* refusion: S; the last slot may be shorter */
    int64_t block_length; /* refusion: a multiple of slot_size; 0: gen_length */
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
/* Checks the ranges and puts the settings that are used for those that were given. Resolving twice
 * changes nothing. RF_ERR_USAGE. */
RF_MUST_CHECK int rf_decode_options_resolve(rf_decode_options *options, rf_error *err);

#endif
