#include "train/leaves.h"

#include "common/base/alloc.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/model/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t rf_leaves_loss_bytes(const rf_backend *backend, int64_t n_leaves, int64_t places)
{
    int64_t n = n_leaves * places;
    return rf_backend_bytes(backend, RF_STATISTIC, n) + (size_t)n * sizeof(double);
}

static void poll(void *user)
{
    rf_leaves *leaves = user;
    rf_reduce_poll(leaves->reduce);
    rf_gather_poll(leaves->gather);
}

int rf_leaves_new(rf_leaves *out, rf_dist *dist, rf_model *model, rf_reduce *reduce,
                  rf_gather *gather, int64_t places, rf_recompute recompute, rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    int64_t n_losses = reduce->n_leaves * places;
    *out = (rf_leaves){
        .dist = dist, .model = model, .reduce = reduce, .gather = gather, .places = places};
    out->sums = rf_alloc((size_t)reduce->n_leaves, RF_N_SUMS * sizeof *out->sums);
    out->host = calloc((size_t)n_losses, sizeof *out->host);
    if (out->host == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the losses: lower train.batch_rows");
    }
    RF_TRY(rf_backend_alloc(&out->loss, ctx, rf_backend_bytes(ctx->backend, RF_STATISTIC, n_losses),
                            err));
    if (reduce->shards->kind != RF_SHARD_NONE) {
        model->poll = poll;
        model->poll_user = out;
    }
    RF_TRY(rf_acts_new(&out->acts, model, places, places, true, recompute, err));
    return rf_backward_new(&out->backward, model, places, err);
}

void rf_leaves_free(rf_leaves *leaves)
{
    if (leaves->model != NULL) {
        leaves->model->poll = NULL;
        rf_backward_free(leaves->backward);
        rf_acts_free(leaves->acts);
        rf_backend_free(leaves->model->ctx, leaves->loss);
    }
    free(leaves->host);
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

/* Puts the losses of the pass just made aside, as those of leaf i. */
static void keep_losses(rf_leaves *l, int64_t i)
{
    rf_ctx *ctx = l->model->ctx;
    rf_backend_copy(ctx, rf_backend_at(ctx->backend, RF_STATISTIC, l->loss, i * l->places),
                    l->acts->loss, RF_STATISTIC, l->acts->n);
}

/* Collective, after the last leaf: fetches the losses, and adds them up. */
static int sum_all_losses(rf_leaves *l, const rf_loader_share *share, double *sum, rf_error *err)
{
    rf_backend_download(l->model->ctx, l->host, RF_F64, l->loss, RF_STATISTIC,
                        share->n_leaves * l->places);
    RF_TRY(rf_dist_agree(l->dist, rf_ctx_sync(l->model->ctx, err), err));
    for (int64_t i = 0; i < share->n_leaves; i++) {
        sum_losses(&l->sums[i * RF_N_SUMS], &share->leaf[i], &l->host[i * l->places]);
    }
    return rf_reduce_losses(l->reduce, sum, l->sums, err);
}

/* A test's stand-in for an overflow on one rank. */
static void overflow(rf_leaves *l)
{
    static const double nan_value = (double)NAN;
    rf_backend_upload(l->model->ctx, l->acts->x, RF_RESIDUAL, &nan_value, RF_F64, 1);
}

/* The i-th leaf of this rank: adds to the gradient. */
static int train_leaf(rf_leaves *l, const rf_loader_share *share, int64_t i, int64_t step,
                      rf_error *err)
{
    int64_t leaf =
        rf_loader_leaf(rf_dist_rank(l->dist), rf_dist_size(l->dist), l->reduce->round, i);
    rf_lora_drop(l->model, (uint64_t)step, (uint64_t)leaf);
    int rc;
    RF_TRY_OUT(rf_model_forward(l->model, l->acts, &share->leaf[i], NULL, err));
    if (rf_failpoint_visit("train.nan", NULL) != RF_OK) {
        overflow(l);
    }
    const rf_gradient gradient = rf_reduce_leaf(l->reduce);
    RF_TRY_OUT(rf_backward_run(l->backward, l->model, l->acts, &gradient, NULL, err));
    keep_losses(l, i);
    rf_reduce_leaf_done(l->reduce);
out:
    rf_lora_stop_dropping(l->model);
    return rc;
}

/* With shares ranks meet in the middle of passes. */
static void leave_alone(const rf_leaves *l, int rc, const rf_error *err)
{
    if (l->reduce->shards->kind != RF_SHARD_NONE) {
        rf_dist_leave_alone(l->dist, rc, err);
    }
}

/* Round after round. Each ends with a sum over ranks, before which they agree that all have come to
 * its end. */
int rf_leaves_train(rf_leaves *l, const rf_loader_share *share, int64_t step, double *sum,
                    double *seconds, rf_error *err)
{
    int64_t round = l->reduce->round;
    *seconds = 0.0;
    rf_reduce_begin(l->reduce);
    for (int64_t begin = 0; begin < share->n_leaves; begin += round) {
        double since = rf_log_seconds(), idle = rf_dist_exchange_cost(l->dist).waited;
        int rc = RF_OK;
        for (int64_t i = begin; rc == RF_OK && i < begin + round; i++) {
            rc = train_leaf(l, share, i, step, err);
        }
        *seconds += rf_log_seconds() - since - (rf_dist_exchange_cost(l->dist).waited - idle);
        leave_alone(l, rc, err);
        RF_TRY(rf_dist_agree(l->dist, rc, err));
        RF_TRY(rf_dist_agree(l->dist, rf_reduce_round(l->reduce, err), err));
    }
    return sum_all_losses(l, share, sum, err);
}

static int valid_leaves(rf_leaves *l, const rf_loader_share *share, rf_error *err)
{
    for (int64_t i = 0; i < share->n_leaves; i++) {
        RF_TRY(rf_model_forward(l->model, l->acts, &share->leaf[i], NULL, err));
        RF_TRY(rf_model_losses(l->model, l->acts, NULL, err));
        keep_losses(l, i);
    }
    return RF_OK;
}

int rf_leaves_valid(rf_leaves *l, const rf_loader_share *share, double *sum, rf_error *err)
{
    const int rc = valid_leaves(l, share, err);
    leave_alone(l, rc, err);
    RF_TRY(rf_dist_agree(l->dist, rc, err));
    return sum_all_losses(l, share, sum, err);
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
