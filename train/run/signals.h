/* signals.h: a request to stop.                                                all local */
#ifndef RF_TRAIN_RUN_SIGNALS_H
#define RF_TRAIN_RUN_SIGNALS_H

#include <stdbool.h>

/* SIGUSR1, SIGTERM, SIGINT and SIGHUP (unless it is ignored: nohup) set a flag, and a line says so at
 * once; another one of them more than a second later ends the process at once (status 128 + signal;
 * launchers deliver one request several times). SIGPIPE is ignored: a reader of the log that goes away
 * ends nothing. To be called before MPI_Init, which leaves handlers alone that it finds. */
void rf_signals_install(void);
/* No such lines from this process: another rank has them. */
void rf_signals_set_quiet(bool quiet);
/* All is saved, and the process is about to end with this status: from here on a request is not
 * acknowledged, and a later one, which would have ended the process without saving, ends it with this. */
void rf_signals_set_saved(int exit_status);
/* The flag. */
bool rf_signals_stop(void);
/* Name of the signal that set it ("SIGUSR1"), or "". */
const char *rf_signals_name(void);

#endif
