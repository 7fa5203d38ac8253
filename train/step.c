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

/* One leaf: adds to the gradient, and sets its losses [RF_N_SUMS]. */
static int run_leaf(rf_trainer *t, const rf_batch *batch, int64_t leaf, double *sums, rf_error *err)
{
    void *gradient = rf_reduce_leaf(&t->reduce);
    rf_lora_drop(t->model, (uint64_t)t->progress.step, (uint64_t)leaf);
    int rc = rf_model_forward(t->model, t->acts, batch, NULL, err);
    if (rc == RF_OK) {
        rc = rf_backward_run(t->backward, t->model, t->acts, gradient, t->loss, err);
    }
    rf_lora_keep(t->model);
    RF_TRY(rc);
    rf_step_losses(sums, batch, t->loss);
    if (rf_failpoint_visit("train.nan", NULL) != RF_OK) {
        const double nan_value = nan(""); /* a test's stand-in for an overflow on one rank */
        rf_backend_upload(t->model->ctx, gradient, RF_MASTER, &nan_value, RF_F64, 1);
        sums[RF_SUM_WEIGHTED] = nan_value;
    }
    rf_reduce_leaf_done(&t->reduce);
    return RF_OK;
}

/* This rank's leaves, round after round. Each round ends with a sum over ranks, on which they must
 * agree before; *seconds: what this rank spent on its own. */
static int run_leaves(rf_trainer *t, const rf_share *share, double *seconds, rf_error *err)
{
    int64_t rank = rf_dist_rank(t->dist), n_ranks = rf_dist_size(t->dist), round = t->reduce.round;
    *seconds = 0.0;
    rf_reduce_begin(&t->reduce);
    for (int64_t begin = 0; begin < share->n_leaves; begin += round) {
        double since = rf_log_seconds();
        int rc = RF_OK;
        for (int64_t i = begin; rc == RF_OK && i < begin + round; i++) {
            rc = run_leaf(t, &share->leaf[i], rf_loader_leaf(rank, n_ranks, round, i),
                          &t->leaf_sums[i * RF_N_SUMS], err);
        }
        *seconds += rf_log_seconds() - since;
        RF_TRY(rf_dist_agree(t->dist, rc, err));
        RF_TRY(rf_dist_agree(t->dist, rf_reduce_round(&t->reduce, err), err));
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
    out->grad_norm = rf_optimizer_norm(&t->optimizer, t->model, gradient);
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
    *out = (rf_step_result){.lr = rf_schedule_lr(&t->set.schedule, t->progress.step)};
    RF_TRY(rf_dist_agree(t->dist, rf_loader_next(t->loader, &share, err), err));
    out->counts = share->counts;
    RF_TRY(rf_step_sum_counts(t, &out->counts, err));
    for (int64_t i = 0; i < share->n_leaves; i++) {
        rf_objective_finish(&t->objective, &share->leaf[i], &out->counts);
    }
    rf_dump_batch(dump, t, share);
    RF_TRY(run_leaves(t, share, &out->own_seconds, err));
    RF_TRY(rf_reduce_losses(&t->reduce, sums, t->leaf_sums, err));
    set_losses(out, sums);
    update(t, out, rf_reduce_gradient(&t->reduce), dump);
    rf_dump_after(dump, t);
    t->progress.step++;
    t->progress.tokens += out->counts.n_places;
    t->progress.epoch = share->position.epoch;
    t->progress.window = share->position.window;
    t->progress.row = share->position.row;
    return rf_dist_agree(t->dist, rf_ctx_sync(t->model->ctx, err), err);
}
