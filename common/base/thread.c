#include "common/base/thread.h"

#include <signal.h>
#include <string.h>

int rf_thread_start(pthread_t *thread, void *(*run)(void *), void *argument, const char *what,
                    rf_error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        sigdelset(&all, faults[i]);
    }
    int failure = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (failure == 0) {
        failure = pthread_create(thread, NULL, run, argument);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    return failure == 0
               ? RF_OK
               : rf_error_set(err, rf_error_code_of_errno(failure),
                              "%s does not start: %s: allow this user more threads (ulimit -u)",
                              what, strerror(failure));
}
