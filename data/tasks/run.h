/* run.h: runs a program with an input, and gives back what it wrote.           all local
 *
 * Programs that a model wrote run isolated: in namespaces of their own (user, mount, process, network,
 * IPC, host name, cgroup) under a read-only view of the file system, without network, sockets and
 * devices, with an empty /tmp that vanishes. When the first process ends, or its time is over, all
 * that it started ends too. Linux 5.12 or newer.
 */
#ifndef RF_DATA_TASKS_RUN_H
#define RF_DATA_TASKS_RUN_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct rf_run_request {
    const char *const *argv; /* NULL ends it; argv[0] is looked up in PATH */
    const char *input;       /* [input_bytes] its standard input */
    size_t input_bytes;
    bool isolated; /* else only time, output and the limits below bound it, and what leaves its
                      process group survives it */
    bool
        limited; /* memory, processes, size of files, processor time (jail.h); an environment of its
                      own */
    const char *folder; /* to run in, where it is not isolated; NULL: this one */
    double seconds;     /* of wall time */
} rf_run_request;

enum { RF_RUN_OUTPUT_BYTES = 1 << 20 };

typedef enum rf_run_end {
    RF_RUN_EXITED,
    RF_RUN_KILLED,  /* by a signal: a crash, or a limit */
    RF_RUN_TIMEOUT, /* wall time was over */
    RF_RUN_FLOODED  /* wrote more than RF_RUN_OUTPUT_BYTES to one of its outputs */
} rf_run_end;

typedef struct rf_run_result {
    rf_run_end end;
    int status;              /* of the exit, or the signal */
    char *output, *messages; /* standard output and error, 0-terminated. Owned */
    size_t n_output, n_messages;
} rf_run_result;
void rf_run_result_free(rf_run_result *result); /* zeroes; a zeroed struct is fine */

/* Runs a program to its end. How it ends is no error; that it cannot be started is (RF_ERR), as
 * where the system denies namespaces: the message says what was denied. Caller frees *out, also
 * after an error. */
RF_MUST_CHECK int rf_run(rf_run_result *out, const rf_run_request *request, rf_error *err);

#endif
