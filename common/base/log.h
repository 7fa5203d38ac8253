/* log.h: what a person sees while a program runs.                              all local
 *
 * Everything here goes to stderr; results go to stdout or to files, never mixed. In an MPI program
 * only rank 0 speaks (rf_log_set_rank), except for rf_log_warn.
 */
#ifndef RF_BASE_LOG_H
#define RF_BASE_LOG_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* Prefix of warnings and errors; not copied. From now on a reader of stderr that goes away does not end
 * the process (SIGPIPE, unless it was ignored or handled before); one of stdout does. */
void rf_log_set_program(const char *name);
/* With several ranks: warnings name theirs, and only rank 0 has the rest. */
void rf_log_set_rank(int rank, int n_ranks);

void rf_log_info(const char *format, ...) RF_PRINTF(1, 2);
void rf_log_warn(const char *format, ...) RF_PRINTF(1, 2);

/* "program: message" on one line, for main; nothing where err->code is RF_OK. Line breaks in the
 * message are replaced. */
void rf_log_error(const rf_error *err);

/* A live line on a terminal (rewritten in place, at most 10 times a second); nothing otherwise.
 * RF_TERMINAL=1 says that stderr ends on a terminal although it is a pipe, as under mpirun
 * (COLUMNS: its width); train/launch.sh sets them. The next info or warning clears it first.
 * rf_log_live_end keeps the last state. */
bool rf_log_is_terminal(void);
void rf_log_live(const char *format, ...) RF_PRINTF(1, 2);
void rf_log_live_end(void);

/* Progress bar with percentage, rate and ETA on the live line; off a terminal a line a minute.
 * `what` is a verb ("reading"). done and total in `unit`s; total 0: unknown. */
void rf_log_progress(const char *what, int64_t done, int64_t total, const char *unit);

double rf_log_seconds(void); /* monotonic clock, seconds */

#endif
