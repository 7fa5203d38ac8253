/* configured.h: a configuration with a few settings, for tests of what is read from it. */
#ifndef TESTS_DATA_CONFIGURED_H
#define TESTS_DATA_CONFIGURED_H

#include "common/base/config/config.h"

/* The table's presets, and up to two settings "section.key=value" (NULL: none); the error of one that
 * is refused. Caller frees *out in any case. */
static inline int configured(rf_config **out, const rf_config_key *keys, const char *a,
                             const char *b, rf_error *err)
{
    const rf_config_key *const tables[] = {keys, NULL};
    const char *settings[] = {a, b};
    *out = rf_config_new(tables);
    for (int i = 0; i < 2; i++) {
        RF_TRY(settings[i] != NULL ? rf_config_set(*out, settings[i], err) : RF_OK);
    }
    return RF_OK;
}

#endif
