/* What hangs, and what was only stopped for a while. */
#include "train/run/watchdog.h"

#include <criterion/criterion.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Ctrl-Z and fg: the clock runs on meanwhile, for longer than a section may take. */
Test(watchdog, a_process_that_was_stopped_does_not_hang)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        rf_watchdog *watchdog = NULL;
        const rf_watchdog_limits limits = {.seconds = 3};
        const int rc = rf_watchdog_new(&watchdog, 0, &limits, NULL);
        rf_watchdog_enter(watchdog, "step", 1);
        raise(SIGSTOP);
        usleep(100000); /* its thread wakes first */
        rf_watchdog_free(watchdog);
        _exit(rc);
    }
    cr_assert(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    usleep(4000000);
    kill(child, SIGCONT);
    cr_assert(waitpid(child, &status, 0) == child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d", WEXITSTATUS(status));
}

Test(watchdog, a_section_that_takes_too_long_ends_the_process)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        rf_watchdog *watchdog = NULL;
        const rf_watchdog_limits limits = {.seconds = 60, .save = 0.1};
        const int rc = rf_watchdog_new(&watchdog, 0, &limits, NULL);
        rf_watchdog_enter(watchdog, "save", 1);
        pause();
        _exit(rc);
    }
    cr_assert(waitpid(child, &status, 0) == child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 5);
}
