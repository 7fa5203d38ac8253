#include "train/trainer.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/dist/threads.h"
#include "common/model/lora.h"
#include "train/run_folder.h"
#include "train/samples.h"
#include "train/step.h"
#include "train/validate.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* --- Opening: everything that can be wrong, found before anything large is allocated ---------- */

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Objective, decoder and backend: what configuration and tokenizer decide. */
static int open_settings(rf_trainer *t, rf_error *err)
{
    int rc = rf_train_settings_from_config(&t->set, t->config, err);
    if (rc == RF_OK) {
        rc = rf_backend_choose(&t->backend, t->set.backend, err);
    }
    if (rc == RF_OK) {
        rc = rf_sources_open(&t->sources, t->config, t->set.seed, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    const rf_specials *special = rf_tokenizer_specials(t->sources.tokenizer);
    rc = rf_objective_from_config(&t->objective, t->config, special->mask, err);
    if (rc != RF_OK) {
        return rc;
    }
    const char *decoder = t->objective.kind->decoder;
    if (!rf_config_is_set(t->config, "decode.kind") &&
        !rf_config_is(t->config, "decode.kind", decoder)) {
        char assignment[64];
        snprintf(assignment, sizeof assignment, "decode.kind=%s", decoder);
        rc = rf_config_set(t->config, assignment, err);
    }
    return rc;
}

/* Rows of the first epoch, and samples that are too long for one: rank 0 says it, rank 0 counts.
 * Damaged tokens, and held-out data without a row, are met here and not after hours of training. */
static int measure(rf_trainer *t, rf_error *err)
{
    rf_rows *rows = NULL;
    if (rf_dist_rank(t->dist) != 0) {
        return RF_OK;
    }
    int rc = rf_sources_verify(&t->sources, err);
    if (rc == RF_OK) {
        rc = rf_validate_check(t, err);
    }
    if (rc == RF_OK) {
        rc = rf_rows_new(&rows, t->sources.train, t->sources.settings.n_train, &t->objective,
                         &t->sources.settings.rows, err);
    }
    if (rc == RF_OK) {
        rc = rf_rows_measure(rows, 0, &t->epoch, err);
    }
    rf_rows_free(rows);
    return rc;
}

/* What depends on the checkpoint that the run goes on from. */
static int open_model(rf_trainer *t, rf_error *err)
{
    int rc = rf_sources_model(&t->shape, t->config, &t->sources, t->resume, err);
    if (rc == RF_OK) {
        rc = rf_run_folder_check(t, err);
    }
    if (rc == RF_OK) {
        rc = rf_samples_choose(&t->prompts, t, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    int64_t row = t->sources.settings.rows.row_length, places = t->set.micro_rows * row;
    t->limits = (rf_model_limits){.places = places,
                                  .keys = places,
                                  .positions = row,
                                  .backward = true,
                                  .compute = t->set.compute,
                                  .adaptation = &t->set.adaptation};
    if (t->prompts.n > 0) {
        rf_model_limits decoder = rf_engine_limits(&t->prompts.options, t->prompts.max_prompt, 1);
        t->limits.places = most(places, decoder.places);
        t->limits.keys = most(t->limits.places, decoder.keys);
        t->limits.positions = most(row, decoder.positions);
    }
    rc = measure(t, err);
    if (rc == RF_OK && t->set.steps == 0) {
        rc = rf_sources_steps(&t->set.steps, &t->sources, &t->objective, t->set.epochs,
                              t->set.batch_rows, err);
        t->set.schedule.steps = t->set.steps;
    }
    return rc;
}

static int describe_reduction(rf_trainer *t, rf_error *err)
{
    rf_table table = {0};
    int rc = rf_table_build_adapted(&table, &t->shape, &t->set.adaptation, err);
    if (rc == RF_OK) {
        rc = rf_reduce_new(&t->reduce, t->dist, table.n_elements,
                           t->set.batch_rows / t->set.micro_rows, t->set.exact, err);
    }
    t->n_elements = table.n_elements;
    t->n_parameters = table.n_parameters;
    t->n_trainable = table.n_trainable;
    rf_table_free(&table);
    return rc;
}

int rf_trainer_open(rf_trainer *out, rf_dist *dist, rf_config *config, rf_resume resume,
                    const char *path, rf_error *err)
{
    rf_trainer *t = out;
    *t = (rf_trainer){.dist = dist, .config = config, .begin = rf_log_seconds(), .folder_lock = -1};
    int rc = rf_dist_agree(dist, open_settings(t, err), err);
    if (rc == RF_OK) {
        rc = rf_run_folder_find(t, resume, path, err);
    }
    if (rc == RF_OK) {
        rc = rf_dist_agree(dist, open_model(t, err), err);
    }
    if (rc == RF_OK) {
        rc = rf_threads_choose(&t->n_threads, dist, t->set.threads, err);
    }
    if (rc == RF_OK) {
        rc = rf_dist_agree(dist, describe_reduction(t, err), err);
    }
    t->first_step = t->progress.step;
    t->seconds_before = t->progress.seconds;
    return rc;
}

/* --- Starting --------------------------------------------------------------------------------- */

void rf_trainer_layout(rf_trainer *t, rf_arena *optimizer, rf_arena *step)
{
    rf_optimizer_layout(&t->optimizer, optimizer, t->backend, t->n_elements);
    rf_reduce_layout(&t->reduce, step, t->backend);
}

static int allocate_arenas(rf_trainer *t, rf_error *err)
{
    rf_arena optimizer = {0}, step = {0};
    rf_trainer_layout(t, &optimizer, &step);
    int rc = rf_backend_alloc(&t->optimizer_memory, t->model->ctx, optimizer.peak, err);
    if (rc == RF_OK) {
        rc = rf_backend_alloc(&t->step_memory, t->model->ctx, step.peak, err);
    }
    if (rc != RF_OK) {
        return rf_error_prefix(err, "moments and gradients (--dry-run shows what a run needs)");
    }
    optimizer = (rf_arena){.base = t->optimizer_memory, .size = optimizer.peak};
    step = (rf_arena){.base = t->step_memory, .size = step.peak};
    rf_trainer_layout(t, &optimizer, &step);
    t->optimizer.settings = t->set.optimizer;
    t->reduce.ctx = t->model->ctx;
    return RF_OK;
}

static int allocate(rf_trainer *t, rf_error *err)
{
    int64_t places = t->set.micro_rows * t->sources.settings.rows.row_length;
    int rc = rf_model_new(&t->model, &t->shape, t->backend, t->n_threads, &t->limits, err);
    if (rc == RF_OK) {
        rc = rf_acts_new(&t->acts, t->model, places, places, true, t->set.recompute, err);
    }
    if (rc == RF_OK) {
        rc = rf_backward_new(&t->backward, t->model, places, err);
    }
    if (rc == RF_OK) {
        rc = allocate_arenas(t, err);
    }
    if (rc == RF_OK && t->prompts.n > 0) {
        rc = rf_engine_new(&t->decoder, t->model, t->sources.tokenizer, &t->prompts.options,
                           t->prompts.max_prompt, 1, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    t->loss = rf_alloc((size_t)places, sizeof *t->loss);
    t->leaf_sums = rf_alloc((size_t)t->reduce.n_leaves, RF_N_SUMS * sizeof *t->leaf_sums);
    t->rank_seconds = rf_alloc((size_t)rf_dist_size(t->dist), sizeof *t->rank_seconds);
    t->corpora = rf_sources_json(&t->sources);
    return t->corpora != NULL ? RF_OK
                              : rf_error_set(err, RF_ERR, "no memory for the list of corpora");
}

/* Adapters of another run, on which this one begins. */
static int load_adapters(rf_trainer *t, const char *path, rf_error *err)
{
    rf_checkpoint_info info;
    int rc = rf_checkpoint_info_read(&info, path, err);
    if (rc == RF_OK && info.adaptation.rank == 0) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: is a whole model, no adapter file: give it as model.init", path);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_load(path, t->model, NULL, NULL, err);
    }
    rf_checkpoint_info_free(&info);
    return rc == RF_OK ? rc : rf_error_prefix(err, "lora.init");
}

/* Weights from the checkpoint to go on from, from the one to fine-tune, or fresh. With adapters
 * always from the one to fine-tune; the adapters are fresh, of lora.init, or gone on with. */
static int load_weights(rf_trainer *t, rf_error *err)
{
    const char *init = rf_config_string(t->config, "model.init");
    if (t->set.adaptation.rank > 0) {
        int rc = rf_checkpoint_load(init, t->model, NULL, NULL, err);
        if (rc != RF_OK) {
            return rf_error_prefix(err, "model.init");
        }
        rf_lora_init(t->model);
    }
    if (t->resume[0] != '\0') {
        return rf_checkpoint_load(t->resume, t->model, t->optimizer.m, t->optimizer.v, err);
    }
    if (t->set.adaptation.rank > 0) {
        const char *adapters = rf_config_string(t->config, "lora.init");
        return adapters[0] != '\0' ? load_adapters(t, adapters, err) : RF_OK;
    }
    if (init[0] != '\0') {
        return rf_checkpoint_load(init, t->model, NULL, NULL, err);
    }
    rf_model_init(t->model, t->set.seed);
    return RF_OK;
}

static int start_loader(rf_trainer *t, rf_error *err)
{
    rf_loader_settings settings = {.rows = t->sources.settings.rows,
                                   .batch_rows = t->set.batch_rows,
                                   .micro_rows = t->set.micro_rows,
                                   .rank = rf_dist_rank(t->dist),
                                   .n_ranks = rf_dist_size(t->dist),
                                   .round = t->reduce.round};
    rf_position start = {t->progress.epoch, t->progress.window, t->progress.row};
    return rf_loader_new(&t->loader, t->sources.train, t->sources.settings.n_train, &t->objective,
                         &settings, start, err);
}

static void announce(rf_trainer *t)
{
    char backend[512], overlong[96] = "";
    if (rf_dist_rank(t->dist) != 0) {
        return;
    }
    rf_backend_describe(t->model->ctx, backend, sizeof backend);
    bool resumes = t->resume[0] != '\0';
    rf_log_info("%s, %d rank%s, MPI: %s", backend, rf_dist_size(t->dist),
                rf_dist_size(t->dist) == 1 ? "" : "s", rf_dist_library());
    char trained[64] = "";
    if (t->n_trainable < t->n_parameters) {
        snprintf(trained, sizeof trained, ", %" PRId64 " of them trained", t->n_trainable);
    }
    rf_log_info("%" PRId64 " parameters%s, %" PRId64 " steps of %" PRId64 " rows of %" PRId64
                " places, run folder %s",
                t->n_parameters, trained, t->set.steps, t->set.batch_rows,
                t->sources.settings.rows.row_length, t->set.folder);
    const rf_rows_statistics *e = &t->epoch;
    double fill =
        (double)e->n_places / ((double)e->n_rows * (double)t->sources.settings.rows.row_length);
    if (e->n_overlong > 0) {
        snprintf(overlong, sizeof overlong, "; %" PRId64 " samples are longer than a row (%s)",
                 e->n_overlong,
                 t->sources.settings.rows.overlong == RF_OVERLONG_CUT ? "cut" : "left out");
    }
    rf_log_info("an epoch has %" PRId64 " samples in %" PRId64 " rows, fill %.0f%%%s", e->n_pieces,
                e->n_rows, 100.0 * fill, overlong);
    if (resumes) {
        rf_log_info("going on from %s (step %" PRId64 ")", t->resume, t->progress.step);
    }
    rf_metrics_event(t->metrics, resumes ? "resume" : "begin", t->progress.step,
                     json_pack("{s:s,s:i,s:i,s:s,s:s,s:s,s:I,s:I,s:I,s:s,s:I,s:f,s:I}", "version",
                               RF_VERSION, "ranks", rf_dist_size(t->dist), "threads", t->n_threads,
                               "backend", t->backend->name, "isa", t->backend->isa, "compute",
                               t->set.compute == RF_COMPUTE_BF16 ? "bf16" : "f32", "parameters",
                               (json_int_t)t->n_parameters, "trainable", (json_int_t)t->n_trainable,
                               "steps", (json_int_t)t->set.steps, "from", resumes ? t->resume : "",
                               "epoch_rows", (json_int_t)e->n_rows, "epoch_fill", fill,
                               "epoch_overlong", (json_int_t)e->n_overlong));
}

int rf_trainer_start(rf_trainer *t, rf_error *err)
{
    int rc = rf_watchdog_new(&t->watchdog, rf_dist_rank(t->dist), t->set.watchdog, err);
    rc = rf_dist_agree(t->dist, rc, err);
    if (rc == RF_OK) {
        rf_watchdog_enter(t->watchdog, "load", t->progress.step);
        rc = rf_dist_agree(t->dist, allocate(t, err), err);
    }
    if (rc == RF_OK) {
        rc = rf_dist_agree(t->dist, load_weights(t, err), err);
    }
    if (rc == RF_OK) {
        rc = rf_dist_agree(t->dist, start_loader(t, err), err);
    }
    if (rc == RF_OK) {
        rc = rf_run_folder_begin(t, err);
    }
    if (rc == RF_OK) {
        announce(t);
    }
    return rc;
}

void rf_trainer_free(rf_trainer *t)
{
    rf_watchdog_free(t->watchdog);
    rf_metrics_close(t->metrics);
    if (t->folder_lock >= 0) {
        close(t->folder_lock);
    }
    rf_loader_free(t->loader);
    rf_engine_free(t->decoder);
    if (t->model != NULL) {
        rf_backward_free(t->backward, t->model);
        rf_acts_free(t->acts, t->model);
        rf_backend_free(t->model->ctx, t->optimizer_memory);
        rf_backend_free(t->model->ctx, t->step_memory);
    }
    rf_model_free(t->model);
    rf_reduce_free(&t->reduce);
    free(t->loss);
    free(t->leaf_sums);
    free(t->rank_seconds);
    free(t->corpora);
    rf_samples_free(&t->prompts);
    rf_sources_close(&t->sources);
    *t = (rf_trainer){.folder_lock = -1};
}
