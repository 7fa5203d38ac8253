#include "train/run/signals.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stop_signal = 0;
static volatile sig_atomic_t stop_second = 0; /* when it came; the monotonic clock's seconds */

static void handle(int signal_number)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (stop_signal == 0) {
        stop_second = (sig_atomic_t)now.tv_sec;
        stop_signal = signal_number;
    } else if ((sig_atomic_t)now.tv_sec > stop_second + 1) {
        _exit(128 + signal_number);
    }
}

void rf_signals_install(void)
{
    static const int signals[] = {SIGUSR1, SIGTERM, SIGINT};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handle;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        sigaction(signals[i], &action, NULL);
    }
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
    default:
        return "";
    }
}
