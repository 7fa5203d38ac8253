#include "train/validate.h"

#include "common/base/log.h"
#include "train/run/signals.h"

/* The same rows whatever the run's seed and the weights of data.train. */
static rf_rows_settings rows_settings(rf_rows_settings settings)
{
    settings.seed = 0;
    settings.weight = NULL;
    settings.epochs = NULL;
    return settings;
}

int rf_validate_check(const rf_sources *sources, const rf_objective *objective, rf_error *err)
{
    rf_rows *rows = NULL;
    rf_rows_settings settings = rows_settings(sources->settings.rows);
    int rc =
        rf_rows_new(&rows, sources->valid, sources->settings.n_valid, objective, &settings, err);
    rf_rows_free(rows);
    return rc == RF_OK ? RF_OK : rf_error_prefix(err, "data.valid");
}

/* Adds the next rows to sums and counts; *done: there were none, or a request to stop came. The
 * weights stay relative: the denominators are known at the end only. */
static int run_share(rf_leaves *leaves, rf_loader *loader, double *sums, rf_validation *out,
                     bool *done, rf_error *err)
{
    rf_loader_share *share = NULL;
    double step_sums[RF_N_SUMS];
    int64_t stop = rf_signals_stop();
    RF_TRY(rf_dist_agree(leaves->dist, rf_loader_next(loader, &share, err), err));
    RF_TRY(rf_dist_max_i64(leaves->dist, &stop, 1, err));
    out->stopped = stop != 0;
    *done = out->stopped || share->n_leaves == 0;
    if (*done) {
        return RF_OK;
    }
    RF_TRY(rf_leaves_valid(leaves, share, step_sums, err));
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
    rf_leaves_part_losses(out->part_loss, sums, &out->counts);
}

static int open_loader(rf_loader **out, const rf_valid_job *job, rf_error *err)
{
    const rf_sources *s = job->sources;
    rf_loader_settings settings = job->loader;
    settings.rows = rows_settings(settings.rows);
    settings.once = true;
    int rc = rf_loader_new(out, s->valid, s->settings.n_valid, job->objective, &settings,
                           (rf_position){0}, err);
    return rc == RF_OK ? RF_OK : rf_error_prefix(err, "data.valid");
}

int rf_validate_run(rf_validation *out, const rf_valid_job *job, rf_leaves *leaves,
                    rf_watchdog *watchdog, int64_t step, rf_error *err)
{
    rf_loader *loader = NULL;
    double sums[RF_N_SUMS] = {0}, begin = rf_log_seconds();
    bool done = false;
    *out = (rf_validation){0};
    int rc = rf_dist_agree(leaves->dist, open_loader(&loader, job, err), err);
    for (int64_t n = 0; rc == RF_OK && !done && (job->most_rows == 0 || n < job->most_rows);
         n += job->loader.batch_rows) {
        rf_watchdog_enter(watchdog, "validation", step);
        rc = run_share(leaves, loader, sums, out, &done, err);
    }
    rf_loader_free(loader);
    RF_TRY(rc);
    RF_TRY(rf_leaves_sum_counts(leaves->dist, &out->counts, err));
    set_losses(out, job->objective, sums);
    out->seconds = rf_log_seconds() - begin;
    return RF_OK;
}
