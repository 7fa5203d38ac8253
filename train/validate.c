#include "train/validate.h"

#include "common/base/log.h"
#include "train/run/signals.h"
#include "train/step.h"

/* What the objective's denominators make of a place of this part with relative weight 1. */
static int find_factor(double *factor, const rf_objective *objective, const rf_counts *counts,
                       rf_part part, rf_error *err)
{
    rf_batch one = {0};
    int rc = rf_batch_new(&one, 1, err);
    if (rc != RF_OK) {
        return rc;
    }
    (void)rf_batch_add(&one, 0, 0, 0, 0, 1, 0, 0);
    one.target[0] = 0;
    one.weight[0] = 1.0F;
    one.part[0] = (uint8_t)part;
    rf_objective_finish(objective, &one, counts);
    *factor = (double)one.weight[0];
    rf_batch_free(&one);
    return RF_OK;
}

static int run_leaves(rf_trainer *t, const rf_share *share, rf_error *err)
{
    double sums[RF_N_SUMS];
    for (int64_t i = 0; i < share->n_leaves; i++) {
        int rc = rf_model_forward(t->model, t->acts, &share->leaf[i], NULL, err);
        if (rc == RF_OK) {
            rc = rf_model_losses(t->model, t->acts, t->loss, err);
        }
        if (rc != RF_OK) {
            return rc;
        }
        rf_step_losses(sums, &share->leaf[i], t->loss);
        rf_reduce_leaf_done(&t->reduce, sums);
    }
    return RF_OK;
}

/* Adds the next rows to sums and counts; *done: there were none, or a request to stop came. The
 * weights stay relative: the denominators are known at the end only. */
static int run_share(rf_trainer *t, rf_loader *loader, double *sums, rf_validation *out, bool *done,
                     rf_error *err)
{
    rf_share *share = NULL;
    void *no_gradient = NULL;
    double step_sums[RF_N_SUMS];
    int64_t stop = rf_signals_stop();
    rf_watchdog_enter(t->watchdog, "validation", t->progress.step);
    int rc = rf_dist_agree(t->dist, rf_loader_next(loader, &share, err), err);
    if (rc == RF_OK) {
        rc = rf_dist_max_i64(t->dist, &stop, 1, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    out->stopped = stop != 0;
    *done = out->stopped || share->n_leaves == 0;
    if (*done) {
        return RF_OK;
    }
    rf_reduce_begin(&t->reduce, false);
    rc = rf_dist_agree(t->dist, run_leaves(t, share, err), err);
    if (rc == RF_OK) {
        rc = rf_reduce_finish(&t->reduce, &no_gradient, step_sums, err);
    }
    for (int k = 0; rc == RF_OK && k < RF_N_SUMS; k++) {
        sums[k] += step_sums[k];
    }
    rf_counts_add(&out->counts, &share->counts);
    return rc;
}

static int set_losses(rf_trainer *t, rf_validation *out, const double *sums, rf_error *err)
{
    const rf_counts *n = &out->counts;
    double factor_ar = 0.0, factor_denoise = 0.0;
    int rc = find_factor(&factor_ar, &t->objective, n, RF_PART_AR, err);
    if (rc == RF_OK) {
        rc = find_factor(&factor_denoise, &t->objective, n, RF_PART_DENOISE, err);
    }
    out->loss =
        factor_ar * sums[RF_SUM_WEIGHTED_AR] + factor_denoise * sums[RF_SUM_WEIGHTED_DENOISE];
    out->loss_ar = n->n_ar > 0 ? sums[RF_SUM_PLAIN_AR] / (double)n->n_ar : 0.0;
    out->loss_denoise = n->n_masked > 0 ? sums[RF_SUM_PLAIN_DENOISE] / (double)n->n_masked : 0.0;
    return rc;
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
        rc = rf_dist_agree(t->dist, set_losses(t, out, sums, err), err);
    }
    out->seconds = rf_log_seconds() - begin;
    return rc;
}
