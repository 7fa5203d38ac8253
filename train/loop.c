#include "train/loop.h"

#include "common/base/log.h"
#include "train/run/signals.h"
#include "train/run_folder.h"
#include "train/samples.h"
#include "train/step.h"
#include "train/validate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Times of steps, for tokens per second, the time left, and the slowest rank. */
typedef struct pace {
    double mean; /* of a step: moving average; 0: none yet */
    double sum;  /* of this rank's own work since the last report */
    int64_t n;
} pace;

static bool is_due(int64_t step, int64_t every, int64_t n_steps)
{
    return every > 0 && (step % every == 0 || step == n_steps);
}

static void say_stop(const rf_trainer *t, bool by_signal)
{
    const char *name = rf_signals_name();
    const char *signal = name[0] != '\0' ? name : "a signal to another rank";
    rf_log_info("step %" PRId64 ": asked to stop (%s)", t->progress.step,
                by_signal ? signal : "train.max_seconds");
}

/* --- What is due after a step ----------------------------------------------------------------- */

static json_t *validation_json(const rf_trainer *t, const rf_validation *v)
{
    const rf_objective_kind *kind = t->objective.kind;
    json_t *fields = json_pack("{s:o}", "loss", rf_metrics_real(v->loss));
    char name[64];
    for (int part = 0; part < kind->n_parts; part++) {
        snprintf(name, sizeof name, "loss_%s", kind->part[part].name);
        json_object_set_new(fields, name, rf_metrics_real(v->part_loss[part]));
    }
    for (int part = 0; part < kind->n_parts; part++) {
        snprintf(name, sizeof name, "n_%s", kind->part[part].name);
        json_object_set_new(fields, name, json_integer(v->counts.n_targets[part]));
    }
    json_object_set_new(fields, "n_samples", json_integer(v->counts.n_samples));
    json_object_set_new(fields, "tokens", json_integer(v->counts.n_places));
    json_object_set_new(fields, "seconds", json_real(v->seconds));
    return fields;
}

static int validate(rf_trainer *t, bool *is_best, bool *stopped, rf_error *err)
{
    rf_validation v;
    char parts[256];
    int rc = rf_validate_run(t, &v, err);
    *stopped = rc == RF_OK && v.stopped;
    if (*stopped) {
        say_stop(t, true);
    }
    if (rc != RF_OK || *stopped) {
        return rc;
    }
    bool improved = v.loss < t->progress.best_valid_loss;
    if (improved) {
        t->progress.best_valid_loss = v.loss;
    }
    *is_best = improved && t->set.checkpoint_best;
    rf_metrics_event(t->metrics, "valid", t->progress.step, validation_json(t, &v));
    rf_metrics_parts(parts, sizeof parts, t->objective.kind, v.part_loss);
    rf_log_info("step %" PRId64 "  validation loss %.4f (%s) over %" PRId64 " samples, %.1f s",
                t->progress.step, v.loss, parts, v.counts.n_samples, v.seconds);
    return RF_OK;
}

static int make_samples(rf_trainer *t, rf_error *err)
{
    rf_watchdog_enter(t->watchdog, "samples", t->progress.step);
    int rc = rf_samples_run(t, err);
    if (rc == RF_OK) {
        rf_metrics_event(t->metrics, "samples", t->progress.step,
                         json_pack("{s:I}", "n", (json_int_t)t->prompts.n));
    }
    return rc;
}

/* Which of these were done before an interruption? Rank 0 knows, from metrics.jsonl. */
static int find_pending(rf_trainer *t, bool *valid, bool *samples, rf_error *err)
{
    int64_t had[2] = {rf_metrics_had(t->metrics, "valid"), rf_metrics_had(t->metrics, "samples")};
    int rc = rf_dist_max_i64(t->dist, had, 2, err);
    *valid = had[0] == 0;
    *samples = had[1] == 0;
    return rc;
}

/* Validation, samples and checkpoint of the step just done, as far as they are due. A request to
 * stop, which may also come during the validation, puts the checkpoint first: the rest is made up
 * for after the resume. */
static int after_step(rf_trainer *t, bool valid, bool samples, bool *stop, rf_error *err)
{
    int64_t step = t->progress.step, n = t->set.steps;
    bool is_best = false;
    int rc = RF_OK;
    if (valid && !*stop && t->sources.settings.n_valid > 0 && is_due(step, t->set.valid_every, n)) {
        rc = validate(t, &is_best, stop, err);
    }
    if (rc == RF_OK && samples && !*stop && t->prompts.n > 0 &&
        is_due(step, t->set.samples_every, n)) {
        rc = make_samples(t, err);
    }
    bool save = *stop || is_best || step == n || is_due(step, t->set.checkpoint_every, n);
    if (rc == RF_OK && save) {
        rc = rf_run_folder_save(t, is_best, err);
    }
    return rc;
}

/* --- Reports ---------------------------------------------------------------------------------- */

/* Every log.every steps: which rank was slowest in its own work? */
static int report_ranks(rf_trainer *t, pace *p, rf_error *err)
{
    if (t->progress.step % t->set.log_every != 0 || rf_dist_size(t->dist) == 1) {
        return RF_OK;
    }
    double own = p->sum / (double)(p->n > 0 ? p->n : 1);
    int rc = rf_dist_allgather_f64(t->dist, t->rank_seconds, &own, 1, err);
    int n = rf_dist_size(t->dist), slowest = 0, fastest = 0;
    for (int r = 1; rc == RF_OK && r < n; r++) {
        slowest = t->rank_seconds[r] > t->rank_seconds[slowest] ? r : slowest;
        fastest = t->rank_seconds[r] < t->rank_seconds[fastest] ? r : fastest;
    }
    if (rc == RF_OK && t->metrics != NULL) {
        rf_metrics_ranks(t->metrics, t->progress.step, slowest, t->rank_seconds[fastest],
                         t->rank_seconds[slowest]);
    }
    p->sum = 0.0;
    p->n = 0;
    return rc;
}

static void report_step(rf_trainer *t, const rf_step_result *r, pace *p, double seconds)
{
    double places = (double)t->set.batch_rows * (double)t->sources.settings.rows.row_length;
    double tokens = (double)r->counts.n_places;
    p->mean = p->mean > 0.0 ? 0.95 * p->mean + 0.05 * seconds : seconds;
    rf_step_metrics line = {
        .step = t->progress.step,
        .n_steps = t->set.steps,
        .objective = t->objective.kind,
        .loss = r->loss,
        .grad_norm = r->grad_norm,
        .lr = r->lr,
        .counts = r->counts,
        .tokens_per_second = seconds > 0.0 ? tokens / seconds : 0.0,
        .fill = tokens / places,
        .seconds = seconds,
        .elapsed = t->seconds_before + (rf_log_seconds() - t->begin),
        .eta = p->mean * (double)(t->set.steps - t->progress.step),
        .skipped = r->skipped,
    };
    memcpy(line.part_loss, r->part_loss, sizeof line.part_loss);
    rf_metrics_step(t->metrics, &line, t->set.log_every);
    if (r->skipped && rf_dist_rank(t->dist) == 0) { /* all ranks skip: one says it */
        rf_log_warn("step %" PRId64 ": loss or gradient is not finite: skipped (%" PRId64
                    " in a row, %" PRId64 " in all)",
                    t->progress.step, t->skipped_now, t->progress.skipped);
    }
}

/* --- The loop --------------------------------------------------------------------------------- */

/* One step with its report. */
static int do_step(rf_trainer *t, pace *p, rf_error *err)
{
    rf_step_result result;
    rf_dump *dump = NULL;
    double begin = rf_log_seconds();
    rf_watchdog_enter(t->watchdog, "step", t->progress.step + 1);
    int rc = t->progress.step == t->first_step ? rf_dump_new(&dump, t, err) : RF_OK;
    if (rc == RF_OK) {
        rc = rf_step_run(t, &result, dump, err);
    }
    if (rc == RF_OK) {
        rc = rf_dump_write(dump, t, err);
    }
    rf_dump_free(dump);
    if (rc != RF_OK) {
        return rc;
    }
    p->sum += result.own_seconds;
    p->n++;
    report_step(t, &result, p, rf_log_seconds() - begin);
    rc = report_ranks(t, p, err);
    if (rc == RF_OK && t->skipped_now >= t->set.skip_limit) {
        rc = rf_error_set(err, RF_ERR_DIVERGED,
                          "step %" PRId64 ": loss or gradient were not finite %" PRId64
                          " times in a row: lower optim.lr, or go on from an earlier checkpoint",
                          t->progress.step, t->skipped_now);
    }
    return rc;
}

/* Did a signal reach any rank, or is the time of any rank over? The last step ends the run anyway.
 */
static int should_stop(rf_trainer *t, bool *stop, rf_error *err)
{
    bool late = t->set.max_seconds > 0.0 && rf_log_seconds() - t->begin >= t->set.max_seconds;
    int64_t flags[2] = {rf_signals_stop(), late};
    int rc = rf_dist_max_i64(t->dist, flags, 2, err);
    *stop = (flags[0] != 0 || flags[1] != 0) && t->progress.step < t->set.steps;
    if (rc == RF_OK && *stop) {
        say_stop(t, flags[0] != 0);
    }
    return rc;
}

/* After a resume: what was due at the checkpoint's step and has not been done. */
static int catch_up(rf_trainer *t, bool *stop, rf_error *err)
{
    bool valid = false, samples = false;
    if (t->resume[0] == '\0' || t->progress.step == 0) {
        return RF_OK;
    }
    int rc = find_pending(t, &valid, &samples, err);
    return rc != RF_OK ? rc : after_step(t, valid, samples, stop, err);
}

int rf_loop_run(rf_trainer *t, rf_error *err)
{
    pace p = {0};
    bool stop = false;
    int rc = catch_up(t, &stop, err);
    while (rc == RF_OK && !stop && t->progress.step < t->set.steps) {
        rc = do_step(t, &p, err);
        if (rc == RF_OK) {
            rc = should_stop(t, &stop, err);
        }
        if (rc == RF_OK) {
            rc = after_step(t, true, true, &stop, err);
        }
    }
    rf_log_live_end();
    if (rc == RF_OK && stop) {
        rc = rf_error_set(err, RF_ERR_STOPPED,
                          "stopped on request after a checkpoint at step %" PRId64
                          ": --resume auto goes on",
                          t->progress.step);
    }
    rf_metrics_event(t->metrics, "end", t->progress.step,
                     json_pack("{s:i,s:I}", "status", rf_error_exit_status(rc), "skipped",
                               (json_int_t)t->progress.skipped));
    rf_metrics_sync(t->metrics);
    return rc;
}
