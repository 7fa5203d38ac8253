#include "train/run/signals.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stop_signal = 0;
static volatile sig_atomic_t stop_second = 0; /* when it came; the monotonic clock's seconds */

static volatile sig_atomic_t is_quiet = 0;

static volatile sig_atomic_t saved_status = -1; /* to end with; -1: something is left to save */

/* In a handler: write alone is safe. */
static void say(const char *text)
{
    if (is_quiet == 0) {
        ssize_t n = write(STDERR_FILENO, text, strlen(text));
        (void)n;
    }
}

static void handle(int signal_number)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (stop_signal == 0) {
        stop_second = (sig_atomic_t)now.tv_sec;
        stop_signal = signal_number;
        if (saved_status < 0) {
            say("\nstopping after this step, then saving; again to quit without saving\n");
        }
    } else if ((sig_atomic_t)now.tv_sec > stop_second + 1) {
        if (saved_status >= 0) {
            say("\nquitting; everything is saved\n");
            _exit(saved_status);
        }
        say("\nquitting without saving\n");
        _exit(128 + signal_number);
    }
}

/* Those that ask. */
static const int requests[] = {SIGUSR1, SIGTERM, SIGINT, SIGHUP};
enum { N_REQUESTS = sizeof requests / sizeof requests[0] };

void rf_signals_install(void)
{
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = handle;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < N_REQUESTS; i++) {
        const bool ignored =
            sigaction(requests[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN;
        if (requests[i] != SIGHUP || !ignored) { /* nohup is obeyed */
            sigaction(requests[i], &action, NULL);
        }
    }
    signal(SIGPIPE, SIG_IGN);
}

void rf_signals_set_quiet(bool quiet)
{
    is_quiet = quiet;
}

void rf_signals_set_saved(int exit_status)
{
    saved_status = exit_status;
}

bool rf_signals_stop(void)
{
    return stop_signal != 0;
}

const char *rf_signals_name(void)
{
    switch (stop_signal) {
    case SIGUSR1:
        return "SIGUSR1";
    case SIGTERM:
        return "SIGTERM";
    case SIGINT:
        return "SIGINT";
    case SIGHUP:
        return "SIGHUP";
    default:
        return "";
    }
}
