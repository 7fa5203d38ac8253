#include "train/run/signals.h"

#include <criterion/criterion.h>

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

Test(signals, first_sets_the_flag)
{
    rf_signals_install();
    rf_signals_release();
    cr_assert(!rf_signals_stop() && strcmp(rf_signals_name(), "") == 0);
    raise(SIGTERM);
    cr_assert(rf_signals_stop() && strcmp(rf_signals_name(), "SIGTERM") == 0);
    raise(SIGUSR1); /* at once: the same request again */
    cr_assert(rf_signals_stop() && strcmp(rf_signals_name(), "SIGTERM") == 0);
}

/* The program may start itself again in between; what waits survives that (POSIX exec). */
Test(signals, wait_until_they_are_released)
{
    rf_signals_install();
    raise(SIGUSR1);
    cr_assert(!rf_signals_stop());
    rf_signals_release();
    cr_assert(rf_signals_stop() && strcmp(rf_signals_name(), "SIGUSR1") == 0);
}

Test(signals, later_one_ends)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        rf_signals_install();
        rf_signals_release();
        raise(SIGUSR1);
        sleep(3); /* cut short by nothing: the signal is our own */
        raise(SIGTERM);
        _exit(0);
    }
    cr_assert(waitpid(child, &status, 0) == child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGTERM);
}
