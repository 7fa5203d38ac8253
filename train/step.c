#include "train/step.h"
#include "common/base/log.h"

static void set_losses(rf_step_metrics *out, const double *sum)
{
    out->loss = 0.0; /* the objective: sum of weight x cross-entropy */
    for (int part = 0; part < RF_MAX_PARTS; part++) {
        out->loss += sum[RF_SUM_WEIGHTED + part];
    }
    rf_leaves_part_losses(out->part_loss, sum, &out->counts);
}

/* AdamW on what this rank holds, of masters that nobody reads meanwhile, a save neither. */
static int change_weights(rf_trainer *t, const void *gradient, double scale, double lr,
                          rf_error *err)
{
    RF_TRY(rf_gather_settle(&t->gather, err));
    rf_run_save_settle(&t->setup->run);
    rf_optimizer_step(&t->optimizer, t->model, gradient, scale, lr, t->progress.updates);
    return rf_gather_renew(&t->gather, err);
}

/* Norm, clipping, AdamW. The same decisions on every rank: all have the same sums. */
static int update(rf_trainer *t, rf_step_result *out, const void *gradient, rf_dump *dump,
                  rf_error *err)
{
    const rf_optimizer_settings *s = &t->optimizer.settings;
    RF_TRY(rf_dump_gradient(dump, gradient, err));
    rf_step_metrics *line = &out->line;
    RF_TRY(rf_optimizer_norm(&line->grad_norm, &t->optimizer, t->setup->dist, t->model->ctx,
                             gradient, err));
    const rf_position begin = rf_setup_position(&t->progress);
    out->verdict = rf_spikes_judge(&t->setup->spikes, line->loss, line->grad_norm, begin);
    double scale = rf_optimizer_scale(s, line->grad_norm);
    t->progress.skipped += out->verdict == RF_STEP_NOT_FINITE;
    if (out->verdict == RF_STEP_TAKE) {
        t->progress.updates++;
        RF_TRY(change_weights(t, gradient, scale, line->lr, err));
    }
    const rf_dump_update done = {.loss = line->loss,
                                 .lr = line->lr,
                                 .scale = scale,
                                 .beta1 = s->beta1,
                                 .beta2 = s->beta2,
                                 .eps = s->eps,
                                 .weight_decay = s->weight_decay,
                                 .update = t->progress.updates};
    RF_TRY(dump != NULL ? rf_gather_settle(&t->gather, err) : RF_OK);
    return rf_dump_after(dump, &done, err);
}

static void move_on(rf_progress *progress, const rf_step_result *result, rf_position position)
{
    progress->step++;
    progress->tokens += result->line.counts.n_places;
    progress->epoch = position.epoch;
    progress->window = position.window;
    progress->row = position.row;
}

/* What has been added to the cost since then. */
static void set_exchange(rf_step_metrics *out, const rf_exchange_cost *then, const rf_dist *dist)
{
    const rf_exchange_cost now = rf_dist_exchange_cost(dist);
    out->exchange_seconds = now.seconds - then->seconds;
    out->hidden_seconds = out->exchange_seconds - (now.waited - then->waited);
    out->exchange_bytes = now.bytes - then->bytes;
}

int rf_step_run(rf_trainer *t, rf_step_result *out, rf_dump *dump, rf_error *err)
{
    rf_setup *s = t->setup;
    rf_loader_share *share = NULL;
    double sum[RF_N_SUMS];
    void *gradient = NULL;
    *out = (rf_step_result){.line.lr = rf_schedule_lr(&s->set.schedule, t->progress.step)};
    const rf_exchange_cost cost = rf_dist_exchange_cost(s->dist);
    const double since = rf_log_seconds();
    int rc = rf_loader_next(t->loader, &share, err);
    out->line.loader_seconds = rf_log_seconds() - since;
    RF_TRY(rf_dist_agree(s->dist, rc, err));
    out->share = share;
    out->line.counts = share->counts;
    RF_TRY(rf_leaves_sum_counts(s->dist, &out->line.counts, err));
    for (int64_t i = 0; i < share->n_leaves; i++) {
        rf_objective_finish(&s->objective, &share->leaf[i], &out->line.counts);
    }
    rf_dump_batch(dump, share);
    RF_TRY(rf_leaves_train(&t->leaves, share, t->progress.step, sum, &out->own_seconds, err));
    set_losses(&out->line, sum);
    RF_TRY(rf_dist_agree(s->dist, rf_reduce_gradient(&gradient, &s->reduce, err), err));
    RF_TRY(update(t, out, gradient, dump, err));
    set_exchange(&out->line, &cost, s->dist);
    move_on(&t->progress, out, share->position);
    return rf_dist_agree(s->dist, rf_ctx_sync(t->model->ctx, err), err);
}
