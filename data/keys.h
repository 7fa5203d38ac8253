/* keys.h: the section `data` of a configuration.                           all local */
#ifndef RF_DATA_KEYS_H
#define RF_DATA_KEYS_H

#include "common/base/config/config.h"
#include "data/rows.h"

/* Keys data.* (train, valid, row_length, window, overlong). */
extern const rf_config_key rf_data_keys[];

typedef struct rf_data_settings {
    char **train; /* [n_train] paths of corpora */
    int64_t n_train;
    char **valid; /* [n_valid] */
    int64_t n_valid;
    rf_rows_settings rows; /* of training; weight and epochs [n_train] are owned here. For
                              validation: a copy with both NULL */
} rf_data_settings;

/* Reads the section. An entry of data.train is "path" or "path:weight" (weighted.h), the weight a
 * factor on those of the corpus's sources (0.5: half of the samples in an epoch, 3: each three times). Lists
 * may be empty. Copies everything; on failure *out is zeroed. */
RF_MUST_CHECK int rf_data_settings_from_config(rf_data_settings *out, const rf_config *config,
                                               uint64_t seed, rf_error *err);
void rf_data_settings_free(rf_data_settings *settings); /* zeroes the struct */

#endif
