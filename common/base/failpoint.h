/* failpoint.h: places where a test makes a program fail on purpose.            all local
 *
 * A test aid. Code whose failures are hard to cause from outside (between two phases of a commit)
 * names such places; the environment variable
 *     RF_FAILPOINT=name[:action[:hit]]
 * makes one of them act:
 *     kill   (the default) raises SIGKILL, as a crash or a power failure would
 *     error  returns an error, as a full disk would
 *     sleep  takes a second, as a slow disk or a slow rank would
 *     usr1, term   sends this process the signal, as a scheduler would
 * hit: which visit acts, from 1 (the default); 0: every one.
 * While the variable is unset a place costs one getenv; none lies in a loop.
 */
#ifndef RF_BASE_FAILPOINT_H
#define RF_BASE_FAILPOINT_H

#include "common/base/error.h"

/* 0, or RF_ERR where the variable asks for an error here; an action or hit that it does not know is
 * RF_ERR_USAGE at the named place. Visits are counted by the process, anew for each setting of the
 * variable; a place is visited by one thread at a time. */
RF_MUST_CHECK int rf_failpoint_visit(const char *name, rf_error *err);

#endif
