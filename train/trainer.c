#include "train/trainer.h"

#include "common/base/log.h"
#include "common/model/lora.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

/* --- Memory ----------------------------------------------------------------------------------- */

/* Moments; gradients, what travels, and windows of weights (arena.h: run twice). */
static void lay_out(rf_trainer *t, rf_arena *optimizer, rf_arena *step)
{
    rf_setup *s = t->setup;
    rf_optimizer_layout(&t->optimizer, optimizer, s->backend);
    rf_reduce_layout(&s->reduce, step, s->backend);
    rf_gather_layout(&t->gather, step, s->backend, s->set.compute);
}

static int allocate_arenas(rf_trainer *t, rf_error *err)
{
    rf_arena optimizer = {0}, step = {0};
    rf_optimizer_new(&t->optimizer, &t->setup->set.optimizer, &t->setup->shards);
    rf_gather_new(&t->gather, t->setup->dist, &t->setup->shards);
    lay_out(t, &optimizer, &step);
    if (rf_backend_alloc(&t->optimizer_memory, t->model->ctx, optimizer.peak, err) != RF_OK ||
        rf_backend_alloc(&t->step_memory, t->model->ctx, step.peak, err) != RF_OK) {
        return rf_error_prefix(err, "moments and gradients (--dry-run shows what a run needs)");
    }
    optimizer = (rf_arena){.base = t->optimizer_memory, .size = optimizer.peak};
    step = (rf_arena){.base = t->step_memory, .size = step.peak};
    lay_out(t, &optimizer, &step);
    t->setup->reduce.ctx = t->setup->reduce.scatter.ctx = t->model->ctx;
    rf_gather_attach(&t->gather, t->model);
    return RF_OK;
}

static int allocate(rf_trainer *t, rf_error *err)
{
    rf_setup *s = t->setup;
    int64_t places = s->set.micro_rows * s->sources.settings.rows.row_length;
    RF_TRY(rf_model_new(&t->model, &s->shape, s->backend, s->n_threads, &s->limits, err));
    RF_TRY(rf_leaves_new(&t->leaves, s->dist, t->model, &s->reduce, &t->gather, places,
                         s->set.recompute, err));
    RF_TRY(allocate_arenas(t, err));
    return s->samples.n == 0 ? RF_OK
                             : rf_engine_new(&t->decoder, t->model, s->sources.tokenizer,
                                             &s->samples.options, s->samples.max_prompt, 1, err);
}

/* --- Weights ---------------------------------------------------------------------------------- */

/* Into the model; where there is none, a dry run only asks whether that would be possible. */
static int load(rf_trainer *t, rf_checkpoint_fit *fit, const char *path, bool moments,
                rf_error *err)
{
    return t->model != NULL ? rf_checkpoint_load(path, t->model, moments ? t->optimizer.m : NULL,
                                                 moments ? t->optimizer.v : NULL, err)
                            : rf_checkpoint_check(path, fit, moments, err);
}

/* Adapters of another run, on which this one begins. */
static int load_adapters(rf_trainer *t, rf_checkpoint_fit *fit, const char *path, rf_error *err)
{
    rf_checkpoint_info info = {0};
    int rc;
    RF_TRY_OUT(rf_checkpoint_info_read(&info, path, err));
    rc = info.adaptation.rank > 0
             ? load(t, fit, path, false, err)
             : rf_error_set(err, RF_ERR,
                            "%s: is a whole model, no adapter file: give it as model.init", path);
out:
    rf_checkpoint_info_free(&info);
    return rc == RF_OK ? rc : rf_error_prefix(err, "lora.init");
}

/* Weights from the checkpoint to go on from, from the one to fine-tune, or fresh. With adapters
 * always from the one to fine-tune; the adapters are fresh, of lora.init, or gone on with. */
static int load_weights(rf_trainer *t, rf_error *err)
{
    const rf_config *config = t->setup->config;
    const char *init = rf_config_string(config, "model.init"), *resume = t->setup->run.resume;
    const char *adapters = rf_config_string(config, "lora.init");
    const bool adapts = t->setup->set.adaptation.rank > 0;
    rf_checkpoint_fit fit = {
        .config = &t->setup->shape, .adaptation = &t->setup->set.adaptation, .trains = true};
    if (adapts) {
        if (load(t, &fit, init, false, err) != RF_OK) {
            return rf_error_prefix(err, "model.init");
        }
        if (t->model != NULL) {
            rf_lora_init(t->model);
        }
    }
    if (resume[0] != '\0') {
        return load(t, &fit, resume, true, err);
    }
    if (adapts) {
        return adapters[0] != '\0' ? load_adapters(t, &fit, adapters, err) : RF_OK;
    }
    if (init[0] != '\0') {
        return load(t, &fit, init, false, err);
    }
    if (t->model != NULL) {
        rf_model_init(t->model, t->setup->set.seed);
    }
    return RF_OK;
}

int rf_trainer_check(rf_setup *setup, rf_error *err)
{
    rf_trainer none = {.setup = setup}; /* without a model */
    return load_weights(&none, err);
}

/* --- The first lines -------------------------------------------------------------------------- */

static void say_what_begins(const rf_trainer *t)
{
    const rf_setup *s = t->setup;
    const rf_rows_settings *rows = &s->sources.settings.rows;
    const rf_rows_statistics *e = &s->epoch;
    char backend[512], overlong[96] = "", trained[64] = "";
    rf_backend_describe(t->model->ctx, backend, sizeof backend);
    const char *carrier = rf_dist_carrier(s->dist);
    rf_log_info("%s, %d rank%s, MPI: %s%s%s", backend, rf_dist_size(s->dist),
                rf_dist_size(s->dist) == 1 ? "" : "s", rf_dist_library(),
                carrier[0] != '\0' ? "; GPU to GPU: " : "", carrier);
    if (s->n_trainable < s->n_parameters) {
        snprintf(trained, sizeof trained, ", %" PRId64 " of them trained", s->n_trainable);
    }
    rf_log_info("%" PRId64 " parameters%s, %" PRId64 " steps of %" PRId64 " rows of %" PRId64
                " places, run folder %s",
                s->n_parameters, trained, s->set.steps, s->set.batch_rows, rows->row_length,
                s->set.folder);
    if (e->n_overlong > 0) {
        snprintf(overlong, sizeof overlong, "; %" PRId64 " samples take more than a row (%s)",
                 e->n_overlong, rows->overlong == RF_OVERLONG_CUT ? "cut" : "left out");
    }
    rf_log_info("an epoch has %" PRId64 " samples in %" PRId64 " rows, fill %.0f%%%s", e->n_pieces,
                e->n_rows,
                100.0 * (double)e->n_places / ((double)e->n_rows * (double)rows->row_length),
                overlong);
    if (s->run.resume[0] != '\0') {
        rf_log_info("going on from %s (step %" PRId64 ")", s->run.resume, s->progress.step);
    }
}

static void write_what_begins(const rf_trainer *t)
{
    const rf_setup *s = t->setup;
    const rf_rows_statistics *e = &s->epoch;
    const char *resume = s->run.resume;
    double places = (double)e->n_rows * (double)s->sources.settings.rows.row_length;
    rf_metrics_event(s->run.metrics, resume[0] != '\0' ? "resume" : "begin", s->progress.step,
                     json_pack("{s:s,s:i,s:i,s:s,s:s,s:s,s:I,s:I,s:I,s:s,s:I,s:f,s:I}", "version",
                               RF_VERSION, "ranks", rf_dist_size(s->dist), "threads", s->n_threads,
                               "backend", s->backend->name, "isa", s->backend->isa, "compute",
                               s->set.compute == RF_COMPUTE_BF16 ? "bf16" : "f32", "parameters",
                               (json_int_t)s->n_parameters, "trainable", (json_int_t)s->n_trainable,
                               "steps", (json_int_t)s->set.steps, "from", resume, "epoch_rows",
                               (json_int_t)e->n_rows, "epoch_fill", (double)e->n_places / places,
                               "epoch_overlong", (json_int_t)e->n_overlong));
}

/* --- All of it -------------------------------------------------------------------------------- */

int rf_trainer_start(rf_trainer *t, rf_setup *setup, rf_error *err)
{
    rf_dist *dist = setup->dist;
    *t = (rf_trainer){.setup = setup,
                      .progress = setup->progress,
                      .saved_best_loss = setup->progress.best_valid_loss};
    RF_TRY(rf_dist_agree(
        dist, rf_watchdog_new(&t->watchdog, rf_dist_rank(dist), &setup->set.watchdog, err), err));
    rf_watchdog_enter(t->watchdog, "load", t->progress.step);
    RF_TRY(rf_dist_agree(dist, allocate(t, err), err));
    RF_TRY(rf_dist_connect(dist, t->model->ctx, err));
    RF_TRY(rf_dist_agree(dist, load_weights(t, err), err));
    RF_TRY(rf_dist_agree(dist, rf_setup_new_loader(&t->loader, setup, &t->progress, err), err));
    RF_TRY(rf_run_begin(&setup->run, setup->config, &t->progress, err));
    if (rf_dist_rank(dist) == 0) {
        say_what_begins(t);
        write_what_begins(t);
    }
    return RF_OK;
}

void rf_trainer_free(rf_trainer *t)
{
    rf_watchdog_free(t->watchdog);
    rf_loader_free(t->loader);
    rf_engine_free(t->decoder);
    rf_gather_free(&t->gather);
    rf_leaves_free(&t->leaves);
    rf_optimizer_free(&t->optimizer);
    if (t->model != NULL) {
        rf_backend_free(t->model->ctx, t->optimizer_memory);
        rf_backend_free(t->model->ctx, t->step_memory);
    }
    rf_model_free(t->model);
    *t = (rf_trainer){0};
}
