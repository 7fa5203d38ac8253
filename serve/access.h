/* access.h: who may use a server.                                               all local */
#ifndef RF_SERVE_ACCESS_H
#define RF_SERVE_ACCESS_H

#include "common/base/error.h"

#include <stdbool.h>

typedef struct rf_access {
    char **key; /* [n_keys] owned, as each is; none: everybody may who reaches the server */
    int n_keys;
} rf_access;

/* Reads keys from a file: each line is one, whole; empty lines and those that begin with # are skipped. A
 * key with blanks is an error, as is a file without a key and one that others may read. */
RF_MUST_CHECK int rf_access_read(rf_access *out, const char *path, rf_error *err);
void rf_access_free(rf_access *access); /* a zeroed struct is fine */

/* The number of the key in "Bearer KEY" (NULL: not said); 0 where there are no keys; -1: none of them.
 * Takes as long for any key. */
int rf_access_find(const rf_access *access, const char *authorization);
/* A browser may be led to a server that only listens to its own machine, by a page from elsewhere. So
 * where there are no keys, Host (NULL: not said) must name this machine as one would type it, and Origin
 * be a page of this server. */
bool rf_access_is_own_page(const char *host, const char *origin);

#endif
