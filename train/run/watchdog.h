/* watchdog.h: ends a job that hangs.                                           all local
 *
 * A rank that died or a cut link is noticed by nobody else: the others wait in a collective call. A
 * thread watches how long the present section takes. When the program does not come to the next
 * section in time, the thread prints a line with rank, step and section and ends this process with
 * status 5. It calls no MPI: mpirun (or srun --kill-on-bad-exit) ends the other ranks. Time for which this
 * process is stopped (Ctrl-Z, SIGSTOP) does not count.
 */
#ifndef RF_TRAIN_RUN_WATCHDOG_H
#define RF_TRAIN_RUN_WATCHDOG_H

#include "common/base/error.h"

#include <stdint.h>

typedef struct rf_watchdog rf_watchdog;

/* Seconds that a section may take. */
typedef struct rf_watchdog_limits {
    double seconds;    /* 0: no thread, and all calls do nothing */
    double load, save; /* of the sections of these names; 0: as the others */
} rf_watchdog_limits;

/* With limits->seconds 0 *out is NULL. Caller frees. */
RF_MUST_CHECK int rf_watchdog_new(rf_watchdog **out, int rank, const rf_watchdog_limits *limits,
                                  rf_error *err);
void rf_watchdog_free(rf_watchdog *watchdog); /* NULL is fine */
/* From here the program is in this section ("step", "save", "load", ...; not copied) at this step,
 * and has the section's whole limit for it. */
void rf_watchdog_enter(rf_watchdog *watchdog, const char *section, int64_t step);

#endif
