#include "train/run/watchdog.h"

#include "common/base/alloc.h"
#include "common/base/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct rf_watchdog {
    int rank;
    rf_watchdog_limits limits;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* on the monotonic clock */
    bool ends;
    const char *section;
    int64_t step;
    double since, seconds; /* its begin, and its limit */
};

/* This thread may not call MPI (dist.h: threads), and the main thread hangs, perhaps in it. So this
 * process ends alone, and whoever started the ranks ends the others. */
static _Noreturn void end_process(const rf_watchdog *w)
{
    rf_log_warn("rank %d hangs in section %s of step %" PRId64
                " for more than %g seconds (train.watchdog*): a rank or the network failed: start "
                "again with --resume auto",
                w->rank, w->section, w->step, w->seconds);
    /* Open MPI 5's mpirun drops what it has not yet read of the ranks' output: the reason. */
    usleep(300000);
    _exit(rf_error_exit_status(RF_ERR_RETRY));
}

/* A process that is stopped (Ctrl-Z, SIGSTOP) does not hang, but the clock runs on. So the time by which
 * this thread wakes late does not count, and it wakes several times in a section that is long. */
static void *watch(void *argument)
{
    rf_watchdog *w = argument;
    pthread_mutex_lock(&w->lock);
    double next = w->since; /* when this thread should wake, on the monotonic clock */
    while (!w->ends) {
        const double now = rf_log_seconds(), late = now > next ? now - next : 0.0;
        w->since = w->since + late < now ? w->since + late : now;
        const double end = w->since + w->seconds;
        if (now >= end) {
            end_process(w);
        }
        next = now + w->seconds / 8 < end ? now + w->seconds / 8 : end;
        const struct timespec at = {.tv_sec = (time_t)next,
                                    .tv_nsec = (long)((next - (double)(time_t)next) * 1e9)};
        pthread_cond_timedwait(&w->wake, &w->lock, &at);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int rf_watchdog_new(rf_watchdog **out, int rank, const rf_watchdog_limits *limits, rf_error *err)
{
    pthread_condattr_t clock;
    *out = NULL;
    if (!(limits->seconds > 0.0)) {
        return RF_OK;
    }
    rf_watchdog *w = rf_alloc(1, sizeof *w);
    *w = (rf_watchdog){.rank = rank,
                       .limits = *limits,
                       .section = "begin",
                       .since = rf_log_seconds(),
                       .seconds = limits->seconds};
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &clock);
    pthread_condattr_destroy(&clock);
    if (pthread_create(&w->thread, NULL, watch, w) != 0) {
        pthread_cond_destroy(&w->wake);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return rf_error_set(err, RF_ERR,
                            "cannot start the watchdog's thread: set train.watchdog=0");
    }
    *out = w;
    return RF_OK;
}

void rf_watchdog_free(rf_watchdog *w)
{
    if (w == NULL) {
        return;
    }
    pthread_mutex_lock(&w->lock);
    w->ends = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void rf_watchdog_enter(rf_watchdog *w, const char *section, int64_t step)
{
    if (w == NULL) {
        return;
    }
    const rf_watchdog_limits *limits = &w->limits;
    const double own = strcmp(section, "load") == 0   ? limits->load
                       : strcmp(section, "save") == 0 ? limits->save
                                                      : 0.0;
    pthread_mutex_lock(&w->lock);
    w->section = section;
    w->step = step;
    w->since = rf_log_seconds();
    w->seconds = own > 0.0 ? own : limits->seconds;
    pthread_cond_signal(&w->wake); /* the limit may be nearer than the last one */
    pthread_mutex_unlock(&w->lock);
}
