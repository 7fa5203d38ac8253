#include "train/run/watchdog.h"

#include "common/base/log.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { GRACE = 10 }; /* seconds that the library gets to end the other ranks */

struct rf_watchdog {
    rf_dist *dist;
    double seconds;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* on the monotonic clock */
    bool ends;
    const char *section;
    int64_t step;
    double since;
};

static _Noreturn void end_job(rf_watchdog *w)
{
    rf_log_warn(
        "rank %d hangs in section %s of step %lld for more than %g seconds (train.watchdog):"
        " a rank or the network failed: start again with --resume auto",
        rf_dist_rank(w->dist), w->section, (long long)w->step, w->seconds);
    /* The library may itself hang on a broken network; then this rank at least ends, and mpirun
     * ends the others. */
    alarm(GRACE);
    rf_dist_abort(w->dist, rf_error_exit_status(RF_ERR_RETRY));
}

static struct timespec after(double seconds)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    double whole = (double)(int64_t)seconds;
    at.tv_sec += (time_t)whole;
    at.tv_nsec += (long)((seconds - whole) * 1e9);
    if (at.tv_nsec >= 1000000000L) {
        at.tv_nsec -= 1000000000L;
        at.tv_sec++;
    }
    return at;
}

static void *watch(void *argument)
{
    rf_watchdog *w = argument;
    pthread_mutex_lock(&w->lock);
    while (!w->ends) {
        double left = w->since + w->seconds - rf_log_seconds();
        if (left <= 0.0) {
            end_job(w);
        }
        struct timespec at = after(left);
        pthread_cond_timedwait(&w->wake, &w->lock, &at);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int rf_watchdog_new(rf_watchdog **out, rf_dist *dist, double seconds, rf_error *err)
{
    pthread_condattr_t clock;
    *out = NULL;
    if (!(seconds > 0.0)) {
        return RF_OK;
    }
    rf_watchdog *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the watchdog");
    }
    *w = (rf_watchdog){
        .dist = dist, .seconds = seconds, .section = "begin", .since = rf_log_seconds()};
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
    pthread_mutex_lock(&w->lock);
    w->section = section;
    w->step = step;
    w->since = rf_log_seconds();
    pthread_mutex_unlock(&w->lock);
}
