#include "train/validate.h"

#include "common/base/log.h"
#include "train/run/signals.h"
#include "train/step.h"

static int run_leaves(rf_trainer *t, const rf_share *share, rf_error *err)
{
    for (int64_t i = 0; i < share->n_leaves; i++) {
        RF_TRY(rf_model_forward(t->model, t->acts, &share->leaf[i], NULL, err));
        RF_TRY(rf_model_losses(t->model, t->acts, t->loss, err));
        rf_step_losses(&t->leaf_sums[i * RF_N_SUMS], &share->leaf[i], t->loss);
    }
    return RF_OK;
}

/* Adds the next rows to sums and counts; *done: there were none, or a request to stop came. The
 * weights stay relative: the denominators are known at the end only. */
static int run_share(rf_trainer *t, rf_loader *loader, double *sums, rf_validation *out, bool *done,
                     rf_error *err)
{
    rf_share *share = NULL;
    double step_sums[RF_N_SUMS];
    int64_t stop = rf_signals_stop();
    rf_watchdog_enter(t->watchdog, "validation", t->progress.step);
    RF_TRY(rf_dist_agree(t->dist, rf_loader_next(loader, &share, err), err));
    RF_TRY(rf_dist_max_i64(t->dist, &stop, 1, err));
    out->stopped = stop != 0;
    *done = out->stopped || share->n_leaves == 0;
    if (*done) {
        return RF_OK;
    }
    RF_TRY(rf_dist_agree(t->dist, run_leaves(t, share, err), err));
    RF_TRY(rf_reduce_losses(&t->reduce, step_sums, t->leaf_sums, err));
    for (int k = 0; k < RF_N_SUMS; k++) {
        sums[k] += step_sums[k];
    }
    rf_counts_add(&out->counts, &share->counts);
    return RF_OK;
}

/* A factor is rounded as it is when a place of relative weight 1 is multiplied by it. */
static void set_losses(rf_validation *out, const rf_objective *objective, const double *sums)
{
    double factor[RF_MAX_PARTS];
    objective->kind->factors(objective, factor, &out->counts);
    out->loss = 0.0;
    for (int part = 0; part < objective->kind->n_parts; part++) {
        out->loss += (double)(float)factor[part] * sums[RF_SUM_WEIGHTED + part];
    }
    rf_step_part_losses(out->part_loss, sums, &out->counts);
}

/* The same rows whatever the run's seed and the weights of data.train. */
static rf_rows_settings rows_settings(const rf_trainer *t)
{
    rf_rows_settings settings = t->sources.settings.rows;
    settings.seed = 0;
    settings.weight = NULL;
    settings.epochs = NULL;
    return settings;
}

int rf_validate_check(const rf_trainer *t, rf_error *err)
{
    rf_rows *rows = NULL;
    rf_rows_settings settings = rows_settings(t);
    if (t->sources.settings.n_valid == 0 || t->set.valid_every == 0) {
        return RF_OK;
    }
    int rc = rf_rows_new(&rows, t->sources.valid, t->sources.settings.n_valid, &t->objective,
                         &settings, err);
    rf_rows_free(rows);
    return rc == RF_OK ? RF_OK : rf_error_prefix(err, "data.valid");
}

int rf_validate_run(rf_trainer *t, rf_validation *out, rf_error *err)
{
    rf_loader *loader = NULL;
    double sums[RF_N_SUMS] = {0}, begin = rf_log_seconds();
    rf_loader_settings settings = {.rows = rows_settings(t),
                                   .batch_rows = t->set.batch_rows,
                                   .micro_rows = t->set.micro_rows,
                                   .rank = rf_dist_rank(t->dist),
                                   .n_ranks = rf_dist_size(t->dist),
                                   .round = t->reduce.round,
                                   .once = true};
    *out = (rf_validation){0};
    int rc = rf_loader_new(&loader, t->sources.valid, t->sources.settings.n_valid, &t->objective,
                           &settings, (rf_position){0}, err);
    if (rc != RF_OK) {
        rf_error_prefix(err, "data.valid");
    }
    rc = rf_dist_agree(t->dist, rc, err);
    bool done = false;
    int64_t most = t->set.valid_rows, n_rows = 0;
    while (rc == RF_OK && !done && (most == 0 || n_rows < most)) {
        rc = run_share(t, loader, sums, out, &done, err);
        n_rows += t->set.batch_rows;
    }
    rf_loader_free(loader);
    if (rc == RF_OK) {
        rc = rf_step_sum_counts(t, &out->counts, err);
    }
    if (rc == RF_OK) {
        set_losses(out, &t->objective, sums);
    }
    out->seconds = rf_log_seconds() - begin;
    return rc;
}
