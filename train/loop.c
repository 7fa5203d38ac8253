#include "train/loop.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "train/rollback.h"
#include "train/run/signals.h"
#include "train/saves.h"
#include "train/step.h"
#include "train/trained.h"
#include "train/validate.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Times of steps, for tokens per second, the time left, and the slowest rank. */
typedef struct pace {
    double mean; /* of a step: moving average; 0: none yet */
    double sum;  /* of this rank's own work since the last report */
    int64_t n;
    double *ranks;     /* [ranks] their means */
    bool is_under_way; /* this process has made a step */
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

/* Seconds of training so far, those of earlier processes included. */
static double elapsed(const rf_trainer *t)
{
    return t->setup->progress.seconds + (rf_log_seconds() - t->setup->begin);
}

/* --- What is due after a step ----------------------------------------------------------------- */

static json_t *validation_json(const rf_objective_kind *kind, const rf_validation *v)
{
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

/* Sets save->is_best. */
static int validate(rf_trainer *t, rf_save_of *save, bool *stopped, rf_error *err)
{
    const rf_setup *s = t->setup;
    const rf_objective_kind *kind = s->objective.kind;
    const rf_objective objective = rf_objective_unclipped(&s->objective);
    const rf_valid_job job = {.sources = &s->sources,
                              .objective = &objective,
                              .loader = rf_setup_loader(s),
                              .most_rows = s->set.valid_rows};
    int64_t step = t->progress.step;
    rf_validation v;
    char parts[256];
    RF_TRY(rf_validate_run(&v, &job, &t->leaves, t->watchdog, step, err));
    *stopped = v.stopped;
    if (v.stopped) {
        say_stop(t, true);
        return RF_OK;
    }
    save->loss = v.loss;
    save->is_best = s->set.checkpoint_best && v.loss < t->progress.best_valid_loss;
    if (save->is_best) {
        t->progress.best_valid_loss = v.loss;
    }
    rf_metrics_event(s->run.metrics, "valid", step, validation_json(kind, &v));
    rf_metrics_parts(parts, sizeof parts, kind, v.part_loss);
    rf_log_info("step %" PRId64 "  validation loss %.4f (%s) over %" PRId64 " samples, %.1f s",
                step, v.loss, parts, v.counts.n_samples, v.seconds);
    return RF_OK;
}

/* Which of these were done before an interruption? Rank 0 knows, from metrics.jsonl. */
static int find_pending(rf_trainer *t, bool *valid, bool *samples, rf_error *err)
{
    const rf_metrics *metrics = t->setup->run.metrics;
    int64_t had[2] = {rf_metrics_had(metrics, "valid"), rf_metrics_had(metrics, "samples")};
    int rc = rf_dist_max_i64(t->setup->dist, had, 2, err);
    *valid = had[0] == 0;
    *samples = had[1] == 0;
    return rc;
}

/* Validation, samples and checkpoint of the step just done, as far as they are due. A request to
 * stop, which may also come during the validation, puts the checkpoint first: the rest is made up
 * for after the resume. */
static int after_step(rf_trainer *t, bool valid, bool samples, bool *stop, rf_error *err)
{
    rf_setup *s = t->setup;
    int64_t step = t->progress.step, n = s->set.steps;
    rf_save_of save = {.step = step};
    if (valid && !*stop && s->sources.settings.n_valid > 0 && is_due(step, s->set.valid_every, n)) {
        RF_TRY(validate(t, &save, stop, err));
    }
    if (samples && !*stop && s->samples.n > 0 && is_due(step, s->set.samples_every, n)) {
        rf_watchdog_enter(t->watchdog, "samples", step);
        /* ranks without a prompt make no pass, by which they would hand on their shares of the weights */
        RF_TRY(rf_gather_settle(&t->gather, err));
        RF_TRY(rf_samples_run(&s->samples, t->decoder, s->dist, s->shards.kind == RF_SHARD_WEIGHTS,
                              s->run.metrics, step, err));
    }
    save.is_last = *stop || step == n;
    if (save.is_last || save.is_best || is_due(step, s->set.checkpoint_every, n)) {
        t->progress.seconds = elapsed(t);
        return rf_saves_begin(t, &save, err);
    }
    return RF_OK;
}

/* --- Reports ---------------------------------------------------------------------------------- */

/* Every log.every steps: which rank was slowest in its own work? */
static int report_ranks(rf_trainer *t, pace *p, rf_error *err)
{
    rf_setup *s = t->setup;
    int n = rf_dist_size(s->dist), slowest = 0, fastest = 0;
    if (t->progress.step % s->set.log_every != 0 || n == 1) {
        return RF_OK;
    }
    double own = p->sum / (double)(p->n > 0 ? p->n : 1);
    RF_TRY(rf_dist_allgather_bytes(s->dist, p->ranks, &own, sizeof own, err));
    for (int r = 1; r < n; r++) {
        slowest = p->ranks[r] > p->ranks[slowest] ? r : slowest;
        fastest = p->ranks[r] < p->ranks[fastest] ? r : fastest;
    }
    rf_metrics_ranks(s->run.metrics, t->progress.step, slowest, p->ranks[fastest],
                     p->ranks[slowest]);
    p->sum = 0.0;
    p->n = 0;
    return RF_OK;
}

static void report_step(rf_trainer *t, rf_step_result *r, pace *p, double seconds)
{
    const rf_setup *s = t->setup;
    rf_step_metrics *line = &r->line;
    double places = (double)s->set.batch_rows * (double)s->sources.settings.rows.row_length;
    double tokens = (double)line->counts.n_places;
    p->mean = p->mean > 0.0 ? 0.95 * p->mean + 0.05 * seconds : seconds;
    line->step = t->progress.step;
    line->n_steps = s->set.steps;
    line->objective = s->objective.kind;
    line->tokens_per_second = seconds > 0.0 ? tokens / seconds : 0.0;
    line->fill = tokens / places;
    line->seconds = seconds;
    line->elapsed = elapsed(t);
    line->eta = p->mean * (double)(s->set.steps - t->progress.step);
    line->skipped = r->verdict != RF_STEP_TAKE;
    line->spike = r->verdict == RF_STEP_SPIKE;
    rf_metrics_step(s->run.metrics, line, s->set.log_every);
    if (line->skipped && rf_dist_rank(s->dist) == 0) { /* all skip: one says it */
        rf_log_warn("step %" PRId64 ": loss or gradient %s: skipped (%" PRId64 " in a row, %" PRId64
                    " in all)",
                    t->progress.step,
                    line->spike ? "stands out (train.spike_zscore)" : "is not finite",
                    s->spikes.in_a_row, line->spike ? s->spikes.n_skipped : t->progress.skipped);
    }
}

/* --- The loop --------------------------------------------------------------------------------- */

/* The first step of this process goes into a file where that is asked for. */
static int dump_step(rf_trainer *t, rf_step_result *result, rf_error *err)
{
    const rf_setup *s = t->setup;
    int64_t row = s->sources.settings.rows.row_length;
    const rf_dump_settings settings = {.path = s->set.dump,
                                       .row_length = row,
                                       .leaf_places = s->set.micro_rows * row,
                                       .n_leaves = s->reduce.n_leaves,
                                       .round = s->reduce.round};
    rf_dump *dump = NULL;
    RF_TRY(rf_dump_new(&dump, &settings, s->dist, t->model, err));
    int rc;
    RF_TRY_OUT(rf_step_run(t, result, dump, err));
    rc = rf_dump_write(dump, err);
out:
    rf_dump_free(dump);
    return rc;
}

/* collective. Too many steps in a row changed nothing. The advice is one that works here: what is being saved
 * can be gone back to. */
static int diverged(rf_trainer *t, rf_error *err)
{
    rf_error own = {0};
    const int saved = rf_saves_end(t, &own);
    if (saved == RF_ERR_RETRY) {
        return rf_error_pass(err, &own);
    }
    if (saved != RF_OK && rf_dist_rank(t->setup->dist) == 0) {
        rf_log_warn("%s", own.message);
    }
    const rf_run *run = &t->setup->run;
    char advice[RF_PATH_BYTES * 2 + 256] =
        "there is no checkpoint to go back to: begin again with a lower rate (optim.lr=...) or a "
        "longer warm-up (optim.warmup=...), in another folder (log.dir=...)";
    if (run->saved_step >= 0) {
        snprintf(advice, sizeof advice,
                 "go back to a checkpoint with a lower rate (--resume %s/step-... "
                 "--change optim.lr=... log.dir=...), or begin a new run from one: "
                 "model.init=%s/step-... log.dir=...",
                 run->folder, run->folder);
    }
    return rf_error_set(err, RF_ERR_DIVERGED,
                        "step %" PRId64 ": loss or gradient were not finite or stood out %" PRId64
                        " times in a row: %s",
                        t->progress.step, t->setup->spikes.in_a_row, advice);
}

/* One step with its report. */
static int do_step(rf_trainer *t, pace *p, rf_error *err)
{
    rf_step_result result;
    double begin = rf_log_seconds();
    rf_watchdog_enter(t->watchdog, "step", t->progress.step + 1);
    RF_TRY(p->is_under_way ? rf_step_run(t, &result, NULL, err) : dump_step(t, &result, err));
    p->is_under_way = true;
    p->sum += result.own_seconds;
    p->n++;
    report_step(t, &result, p, rf_log_seconds() - begin);
    RF_TRY(report_ranks(t, p, err));
    RF_TRY(rf_trained_write(t, &result, err));
    RF_TRY(rf_rollback_if_due(t, err));
    return t->setup->spikes.in_a_row >= t->setup->set.skip_limit ? diverged(t, err) : RF_OK;
}

/* Did a signal reach any rank, or is the time of any rank over? The last step ends the run anyway. And
 * a save moves on where no rank is at work on it any more. */
static int look_around(rf_trainer *t, bool *stop, rf_error *err)
{
    const rf_setup *s = t->setup;
    double limit = s->set.max_seconds;
    bool late = limit > 0.0 && rf_log_seconds() - s->begin >= limit;
    int64_t flags[3] = {rf_signals_stop(), late, rf_run_save_is_busy(&s->run)};
    RF_TRY(rf_dist_max_i64(s->dist, flags, 3, err));
    *stop = (flags[0] != 0 || flags[1] != 0) && t->progress.step < s->set.steps;
    if (*stop) {
        say_stop(t, flags[0] != 0);
    }
    return flags[2] == 0 ? rf_saves_advance(t, err) : RF_OK;
}

/* After a resume: what was due at the checkpoint's step and has not been done. */
static int catch_up(rf_trainer *t, bool *stop, rf_error *err)
{
    bool valid = false, samples = false;
    if (t->setup->run.resume[0] == '\0' || t->progress.step == 0) {
        return RF_OK;
    }
    RF_TRY(find_pending(t, &valid, &samples, err));
    return after_step(t, valid, samples, stop, err);
}

static int train(rf_trainer *t, pace *p, bool *stop, rf_error *err)
{
    RF_TRY(catch_up(t, stop, err));
    while (!*stop && t->progress.step < t->setup->set.steps) {
        const int64_t before = t->progress.step;
        RF_TRY(do_step(t, p, err));
        RF_TRY(look_around(t, stop, err));
        const bool is_new =
            t->progress.step > before; /* or it went back to one that is done with */
        RF_TRY(after_step(t, is_new, is_new, stop, err));
    }
    return RF_OK;
}

/* After an error too: a checkpoint that is as good as written is not thrown away, unless the ranks
 * cannot reach each other. */
static int end_saves(rf_trainer *t, int rc, rf_error *err)
{
    if (rc == RF_ERR_RETRY) {
        rf_run_save_abandon(&t->setup->run);
        return rc;
    }
    rf_error own = {0};
    const int saved = rf_saves_end(t, &own);
    return rc != RF_OK || saved == RF_OK ? rc : rf_error_pass(err, &own);
}

/* The most memory that this process has held. */
static double peak_mib(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (double)usage.ru_maxrss / 1024.0 : 0.0;
}

int rf_loop_run(rf_trainer *t, rf_error *err)
{
    rf_setup *s = t->setup;
    pace p = {.ranks = rf_alloc((size_t)rf_dist_size(s->dist), sizeof *p.ranks)};
    bool stop = false;
    int rc = end_saves(t, train(t, &p, &stop, err), err);
    free(p.ranks);
    rf_log_live_end();
    if (rc == RF_OK && stop) {
        rc = rf_error_set(err, RF_ERR_STOPPED,
                          "stopped on request after a checkpoint at step %" PRId64
                          ": --resume auto goes on",
                          t->progress.step);
    }
    if (rc == RF_OK || rc == RF_ERR_STOPPED) {
        rf_signals_set_saved(rf_error_exit_status(rc));
    }
    rf_metrics_event(s->run.metrics, "end", t->progress.step,
                     json_pack("{s:i,s:I,s:I,s:I,s:f}", "status", rf_error_exit_status(rc),
                               "skipped", (json_int_t)t->progress.skipped, "spikes",
                               (json_int_t)s->spikes.n_skipped, "rollbacks",
                               (json_int_t)s->spikes.n_rollbacks, "peak_mib", peak_mib()));
    rf_metrics_sync(s->run.metrics);
    return rc;
}
