#include "train/rollback.h"

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "train/saves.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>

/* Weights, moments, progress and what spikes are judged by, as the checkpoint has them. Time goes on, and
 * so do the counts and the ranges that are left out. */
static int load(rf_trainer *t, const char *path, rf_error *err)
{
    rf_checkpoint_info info = {0};
    int rc;
    RF_TRY_OUT(rf_failpoint_visit("rollback", err));
    RF_TRY_OUT(rf_checkpoint_info_read(&info, path, err));
    RF_TRY_OUT(rf_checkpoint_load(path, t->model, t->optimizer.m, t->optimizer.v, err));
    const rf_position position = rf_setup_position(&info.progress);
    RF_TRY_OUT(rf_spikes_go_back(&t->setup->spikes, info.state, position, err));
    const double seconds = t->progress.seconds;
    t->progress = info.progress;
    t->progress.seconds = seconds;
    t->progress.best_valid_loss = rf_setup_best_loss(t->setup, &info);
    t->saved_best_loss = t->progress.best_valid_loss;
out:
    rf_checkpoint_info_free(&info);
    return rc;
}

static int restart_loader(rf_trainer *t, rf_error *err)
{
    rf_loader_free(t->loader);
    t->loader = NULL;
    RF_TRY(rf_failpoint_visit("rollback", err));
    return rf_setup_new_loader(&t->loader, t->setup, &t->progress, err);
}

static void report(const rf_trainer *t, int64_t from)
{
    const rf_setup *s = t->setup;
    const rf_rows_range *last = &s->spikes.left_out[s->spikes.n_left_out - 1];
    rf_log_info("back from step %" PRId64 " to %" PRId64
                ": rows from (epoch, window, row) = (%" PRId64 ", %" PRId64 ", %" PRId64
                ") to (%" PRId64 ", %" PRId64 ", %" PRId64 ") are left out from now on",
                from, t->progress.step, last->begin.epoch, last->begin.window, last->begin.row,
                last->end.epoch, last->end.window, last->end.row);
    rf_metrics_event(s->run.metrics, "rollback", t->progress.step,
                     json_pack("{s:I,s:[I,I,I],s:[I,I,I]}", "from_step", (json_int_t)from, "begin",
                               (json_int_t)last->begin.epoch, (json_int_t)last->begin.window,
                               (json_int_t)last->begin.row, "end", (json_int_t)last->end.epoch,
                               (json_int_t)last->end.window, (json_int_t)last->end.row));
}

/* The order is that of what a kill may leave: with the old checkpoint all of this happens again, with the
 * new one nothing of it is needed. */
static int go_back(rf_trainer *t, const char *path, rf_error *err)
{
    rf_setup *s = t->setup;
    const int64_t from = t->progress.step;
    const rf_position end = rf_setup_position(&t->progress);
    RF_TRY(rf_saves_end(t, err));
    RF_TRY(rf_spikes_leave_out(&s->spikes, end, err));
    RF_TRY(rf_gather_settle(&t->gather, err));
    RF_TRY(rf_dist_agree(s->dist, load(t, path, err), err));
    RF_TRY(rf_gather_renew(&t->gather, err));
    RF_TRY(rf_dist_agree(s->dist, restart_loader(t, err), err));
    RF_TRY(rf_run_go_back(&s->run, t->progress.step, err));
    report(t, from);
    return rf_saves_begin(t, &(rf_save_of){.step = t->progress.step, .is_last = true}, err);
}

int rf_rollback_if_due(rf_trainer *t, rf_error *err)
{
    rf_setup *s = t->setup;
    const int64_t step = rf_saves_rollback_step(t);
    char path[RF_PATH_BYTES];
    if (s->set.spikes.rollback == 0 || s->spikes.in_a_row != s->set.spikes.rollback) {
        return RF_OK;
    }
    rf_watchdog_enter(t->watchdog, "load", t->progress.step);
    rf_checkpoint_path(path, sizeof path, s->run.folder, step);
    RF_TRY(rf_saves_end(t, err)); /* it may be this one */
    int64_t is_missing = step == 0 || !rf_path_exists(path);
    RF_TRY(rf_dist_max_i64(s->dist, &is_missing, 1, err));
    if (is_missing == 0) {
        return go_back(t, path, err);
    }
    if (rf_dist_rank(s->dist) == 0) {
        rf_log_warn("step %" PRId64 ": there is no checkpoint of step %" PRId64 " to go back to",
                    t->progress.step, step);
    }
    return RF_OK;
}
