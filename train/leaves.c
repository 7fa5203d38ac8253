#include "train/leaves.h"

#include "common/base/alloc.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/model/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int rf_leaves_new(rf_leaves *out, rf_dist *dist, rf_model *model, rf_reduce *reduce, int64_t places,
                  rf_recompute recompute, rf_error *err)
{
    *out = (rf_leaves){.dist = dist, .model = model, .reduce = reduce};
    out->loss = rf_alloc((size_t)places, sizeof *out->loss);
    out->sums = rf_alloc((size_t)reduce->n_leaves, RF_N_SUMS * sizeof *out->sums);
    RF_TRY(rf_acts_new(&out->acts, model, places, places, true, recompute, err));
    return rf_backward_new(&out->backward, model, places, err);
}

void rf_leaves_free(rf_leaves *leaves)
{
    if (leaves->model != NULL) {
        rf_backward_free(leaves->backward, leaves->model);
        rf_acts_free(leaves->acts, leaves->model);
    }
    free(leaves->loss);
    free(leaves->sums);
    *leaves = (rf_leaves){0};
}

/* sum [RF_N_SUMS] sets; loss [batch->n] reads. */
static void sum_losses(double *sum, const rf_batch *batch, const double *loss)
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

/* One leaf: adds to the gradient, and sets its losses [RF_N_SUMS]. */
static int train_leaf(rf_leaves *l, const rf_batch *batch, int64_t step, int64_t leaf, double *sum,
                      rf_error *err)
{
    void *gradient = rf_reduce_leaf(l->reduce);
    rf_lora_drop(l->model, (uint64_t)step, (uint64_t)leaf);
    int rc = rf_model_forward(l->model, l->acts, batch, NULL, err);
    if (rc == RF_OK) {
        rc = rf_backward_run(l->backward, l->model, l->acts, gradient, l->loss, err);
    }
    rf_lora_keep(l->model);
    RF_TRY(rc);
    sum_losses(sum, batch, l->loss);
    if (rf_failpoint_visit("train.nan", NULL) != RF_OK) {
        const double nan_value = nan(""); /* a test's stand-in for an overflow on one rank */
        rf_backend_upload(l->model->ctx, gradient, RF_MASTER, &nan_value, RF_F64, 1);
        sum[RF_SUM_WEIGHTED] = nan_value;
    }
    rf_reduce_leaf_done(l->reduce);
    return RF_OK;
}

/* Round after round. Each ends with a sum over ranks, before which they agree that all have come to
 * its end. */
int rf_leaves_train(rf_leaves *l, const rf_loader_share *share, int64_t step, double *sum,
                    double *seconds, rf_error *err)
{
    int64_t rank = rf_dist_rank(l->dist), n_ranks = rf_dist_size(l->dist), round = l->reduce->round;
    *seconds = 0.0;
    rf_reduce_begin(l->reduce);
    for (int64_t begin = 0; begin < share->n_leaves; begin += round) {
        double since = rf_log_seconds();
        int rc = RF_OK;
        for (int64_t i = begin; rc == RF_OK && i < begin + round; i++) {
            rc = train_leaf(l, &share->leaf[i], step, rf_loader_leaf(rank, n_ranks, round, i),
                            &l->sums[i * RF_N_SUMS], err);
        }
        *seconds += rf_log_seconds() - since;
        RF_TRY(rf_dist_agree(l->dist, rc, err));
        RF_TRY(rf_dist_agree(l->dist, rf_reduce_round(l->reduce, err), err));
    }
    return rf_reduce_losses(l->reduce, sum, l->sums, err);
}

static int valid_leaves(rf_leaves *l, const rf_loader_share *share, rf_error *err)
{
    for (int64_t i = 0; i < share->n_leaves; i++) {
        RF_TRY(rf_model_forward(l->model, l->acts, &share->leaf[i], NULL, err));
        RF_TRY(rf_model_losses(l->model, l->acts, l->loss, err));
        sum_losses(&l->sums[i * RF_N_SUMS], &share->leaf[i], l->loss);
    }
    return RF_OK;
}

int rf_leaves_valid(rf_leaves *l, const rf_loader_share *share, double *sum, rf_error *err)
{
    RF_TRY(rf_dist_agree(l->dist, valid_leaves(l, share, err), err));
    return rf_reduce_losses(l->reduce, sum, l->sums, err);
}

void rf_leaves_part_losses(double *part_loss, const double *sum, const rf_counts *counts)
{
    for (int part = 0; part < RF_MAX_PARTS; part++) {
        int64_t n = counts->n_targets[part];
        part_loss[part] = n > 0 ? sum[RF_SUM_PLAIN + part] / (double)n : 0.0;
    }
}

int rf_leaves_sum_counts(rf_dist *dist, rf_counts *counts, rf_error *err)
{
    enum { N = sizeof *counts / sizeof(int64_t) }; /* of which all its members are */
    int64_t x[N];
    memcpy(x, counts, sizeof x);
    int rc = rf_dist_sum_i64(dist, x, N, err);
    memcpy(counts, x, sizeof x);
    return rc;
}
