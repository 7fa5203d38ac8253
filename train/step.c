#include "train/step.h"

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/model/lora.h"

#include <math.h>
#include <string.h>

void rf_step_losses(double *sum, const rf_batch *batch, const double *loss)
{
    memset(sum, 0, RF_N_SUMS * sizeof *sum);
    for (int64_t i = 0; i < batch->n; i++) {
        int part = batch->part[i];
        if (part != RF_PART_NONE) {
            sum[RF_SUM_WEIGHTED + part] += (double)batch->weight[i] * loss[i];
            sum[RF_SUM_PLAIN + part] += loss[i];
        }
    }
}

void rf_step_part_losses(double *part_loss, const double *sum, const rf_counts *counts)
{
    for (int part = 0; part < RF_MAX_PARTS; part++) {
        int64_t n = counts->n_targets[part];
        part_loss[part] = n > 0 ? sum[RF_SUM_PLAIN + part] / (double)n : 0.0;
    }
}

int rf_step_sum_counts(rf_trainer *t, rf_counts *counts, rf_error *err)
{
    enum { N = sizeof *counts / sizeof(int64_t) }; /* of which all its members are */
    int64_t x[N];
    memcpy(x, counts, sizeof x);
    int rc = rf_dist_sum_i64(t->dist, x, N, err);
    memcpy(counts, x, sizeof x);
    return rc;
}

static int run_leaves(rf_trainer *t, const rf_share *share, rf_error *err)
{
    double sums[RF_N_SUMS];
    rf_reduce_begin(&t->reduce, true);
    for (int64_t i = 0; i < share->n_leaves; i++) {
        const rf_batch *batch = &share->leaf[i];
        void *gradient = rf_reduce_leaf(&t->reduce);
        int64_t leaf = rf_dist_rank(t->dist) * share->n_leaves + i; /* over all ranks (loader.h) */
        rf_lora_drop(t->model, (uint64_t)t->progress.step, (uint64_t)leaf);
        int rc = rf_model_forward(t->model, t->acts, batch, NULL, err);
        if (rc == RF_OK) {
            rc = rf_backward_run(t->backward, t->model, t->acts, gradient, t->loss, err);
        }
        rf_lora_keep(t->model);
        if (rc != RF_OK) {
            return rc;
        }
        rf_step_losses(sums, batch, t->loss);
        if (rf_failpoint_visit("train.nan", NULL) != RF_OK) {
            const double nan_value = nan(""); /* a test's stand-in for an overflow on one rank */
            rf_backend_upload(t->model->ctx, gradient, RF_MASTER, &nan_value, RF_F64, 1);
            sums[RF_SUM_WEIGHTED] = nan_value;
        }
        rf_reduce_leaf_done(&t->reduce, sums);
    }
    return RF_OK;
}

static void set_losses(rf_step_result *out, const double *sum)
{
    out->loss = 0.0;
    for (int part = 0; part < RF_MAX_PARTS; part++) {
        out->loss += sum[RF_SUM_WEIGHTED + part];
    }
    rf_step_part_losses(out->part_loss, sum, &out->counts);
}

/* Norm, clipping, AdamW. The same bits on every rank: all have the same sums. */
static void update(rf_trainer *t, rf_step_result *out, void *gradient, rf_dump *dump)
{
    out->grad_norm = rf_optimizer_norm(t->model, gradient);
    out->skipped = !isfinite(out->loss) || !isfinite(out->grad_norm);
    double scale = rf_optimizer_scale(&t->optimizer.settings, out->grad_norm);
    rf_dump_gradient(dump, t, gradient, out->loss, out->lr, scale);
    if (out->skipped) {
        t->progress.skipped++;
        t->skipped_now++;
        return;
    }
    t->skipped_now = 0;
    t->progress.updates++;
    rf_optimizer_step(&t->optimizer, t->model, gradient, scale, out->lr, t->progress.updates);
}

int rf_step_run(rf_trainer *t, rf_step_result *out, rf_dump *dump, rf_error *err)
{
    rf_share *share = NULL;
    double sums[RF_N_SUMS];
    void *gradient = NULL;
    *out = (rf_step_result){.lr = rf_schedule_lr(&t->set.schedule, t->progress.step)};
    int rc = rf_dist_agree(t->dist, rf_loader_next(t->loader, &share, err), err);
    if (rc != RF_OK) {
        return rc;
    }
    out->counts = share->counts;
    rc = rf_step_sum_counts(t, &out->counts, err);
    if (rc != RF_OK) {
        return rc;
    }
    for (int64_t i = 0; i < share->n_leaves; i++) {
        rf_objective_finish(&t->objective, &share->leaf[i], &out->counts);
    }
    rf_dump_batch(dump, t, share);
    double begin = rf_log_seconds();
    rc = run_leaves(t, share, err);
    out->own_seconds = rf_log_seconds() - begin;
    rc = rf_dist_agree(t->dist, rc, err);
    if (rc != RF_OK) {
        return rc;
    }
    rc = rf_dist_agree(t->dist, rf_reduce_finish(&t->reduce, &gradient, sums, err), err);
    if (rc != RF_OK) {
        return rc;
    }
    set_losses(out, sums);
    update(t, out, gradient, dump);
    rf_dump_after(dump, t);
    t->progress.step++;
    t->progress.tokens += out->counts.n_places;
    t->progress.epoch = share->position.epoch;
    t->progress.window = share->position.window;
    t->progress.row = share->position.row;
    return rf_dist_agree(t->dist, rf_ctx_sync(t->model->ctx, err), err);
}
