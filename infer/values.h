/* values.h: settings as JSON.                                                  all local */
#ifndef RF_INFER_VALUES_H
#define RF_INFER_VALUES_H

#include "common/base/config/config.h"

struct json_t;

/* The value of a key, which is one of the configuration's; the caller releases it. */
struct json_t *rf_value_json(const rf_config *config, const rf_config_key *key);

#endif
