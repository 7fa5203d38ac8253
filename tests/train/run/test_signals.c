#include "train/run/signals.h"

#include <criterion/criterion.h>

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

Test(signals, first_sets_the_flag)
{
    rf_signals_install();
    cr_assert(!rf_signals_stop() && strcmp(rf_signals_name(), "") == 0);
    raise(SIGTERM);
    cr_assert(rf_signals_stop() && strcmp(rf_signals_name(), "SIGTERM") == 0);
    raise(SIGUSR1); /* at once: the same request again */
    cr_assert(rf_signals_stop() && strcmp(rf_signals_name(), "SIGTERM") == 0);
}

/* A second request, three seconds later, of a process that has saved all (with status 3) or has not: the
 * status that it ends with, and what it says meanwhile. */
static int ask_twice(char *said, size_t bytes, bool is_saved)
{
    int status = 0, said_there[2];
    cr_assert(pipe(said_there) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(said_there[1], STDERR_FILENO);
        rf_signals_install();
        raise(SIGUSR1);
        if (is_saved) {
            rf_signals_set_saved(3);
        }
        sleep(3); /* cut short by nothing: the signal is our own */
        raise(SIGTERM);
        _exit(0);
    }
    cr_assert(waitpid(child, &status, 0) == child && WIFEXITED(status));
    const ssize_t n = read(said_there[0], said, bytes - 1);
    said[n > 0 ? n : 0] = '\0';
    return WEXITSTATUS(status);
}

Test(signals, later_one_ends)
{
    char said[256];
    cr_expect(ask_twice(said, sizeof said, false) == 128 + SIGTERM);
    cr_expect(strstr(said, "quitting without saving") != NULL, "%s", said);
}

Test(signals, later_one_loses_nothing_that_is_saved)
{
    char said[256];
    cr_expect(ask_twice(said, sizeof said, true) == 3);
    cr_expect(strstr(said, "again to quit") != NULL, "%s", said);
    cr_expect(strstr(said, "quitting; everything is saved") != NULL, "%s", said);
    cr_expect(strstr(said, "quitting without") == NULL, "%s", said);
}

/* Nothing is stopped or saved any more. */
Test(signals, first_one_at_the_end_says_nothing)
{
    int there[2];
    char c;
    cr_assert(pipe(there) == 0);
    dup2(there[1], STDERR_FILENO);
    close(there[1]);
    rf_signals_install();
    rf_signals_set_saved(0);
    raise(SIGTERM);
    close(STDERR_FILENO);
    cr_expect(rf_signals_stop() && read(there[0], &c, 1) == 0);
}
