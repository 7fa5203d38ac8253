/* config_private.h: what the files of the configuration share.                 all local
 *
 * Each uses only those before it: config_value.c, config.c, config_read.c and config_print.c.
 */
#ifndef RF_BASE_CONFIG_CONFIG_PRIVATE_H
#define RF_BASE_CONFIG_CONFIG_PRIVATE_H

#include "common/base/config/config.h"

#include <stddef.h>

/* The member that the key's type names is in use; n counts the elements of lists. */
typedef struct rf_config_value {
    bool boolean;
    int64_t integer;
    double real;
    char *string; /* owned; also choices */
    int64_t *ints;
    char **strings; /* owned, each of them too */
    int64_t n;
} rf_config_value;

typedef struct rf_config_entry {
    const rf_config_key *key;
    rf_config_value value;
    char *origin; /* owned; NULL: the preset */
} rf_config_entry;

struct rf_config {
    rf_config_entry *entries;
    int n_entries;
};

/* --- config_value.c --------------------------------------------------------------------------- */

bool rf_config_is_list(rf_key_type type);

/* Sets the value, or adds one element to a list, from text. On failure the message is the reason
 * alone ("'x' is not an integer"), the caller puts the place before it, and the value is as it was.
 */
RF_MUST_CHECK int rf_config_value_add(rf_config_value *value, const rf_config_key *key,
                                      const char *text, rf_error *err);
/* The same for a whole value; lists are split at commas. The value is zeroed before; it must be
 * released after a failure too. */
RF_MUST_CHECK int rf_config_value_parse(rf_config_value *value, const rf_config_key *key,
                                        const char *text, rf_error *err);
void rf_config_value_free(rf_config_value *value);
bool rf_config_value_equal(const rf_config_value *a, const rf_config_value *b, rf_key_type type);

/* "integer from 1 to 8", "one of none, block", ...: the end of messages. */
void rf_config_describe_type(char *out, size_t size, const rf_config_key *key);

/* --- config.c --------------------------------------------------------------------------------- */

/* Gives an entry its value, which it takes over and leaves zeroed, and a copy of its origin. */
void rf_config_assign(rf_config_entry *entry, rf_config_value *value, const char *origin);
/* The entry of a name of `bytes` bytes, or NULL. */
rf_config_entry *rf_config_find(const rf_config *config, const char *name, size_t bytes);
/* Sets err to "unknown key 'x': did you mean 'y'?". */
int rf_config_unknown(const rf_config *config, const char *name, rf_error *err);
/* The same for a section; lists the sections when none is near. */
int rf_config_unknown_section(const rf_config *config, const char *section, rf_error *err);
bool rf_config_has_section(const rf_config *config, const char *section, size_t bytes);

#endif
