#include "train/setup.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/dist/threads.h"
#include "train/outputs.h"
#include "train/validate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- What configuration and tokenizer decide -------------------------------------------------- */

/* Samples are decoded as the objective trains for: `mdm` with a canvas of a length that it knows. */
static int default_decoder(rf_config *config, const rf_objective *objective, rf_error *err)
{
    const char *decoder = objective->kind->decoder;
    char assignment[64];
    if (!rf_config_is_set(config, "decode.kind") && !rf_config_is(config, "decode.kind", decoder)) {
        snprintf(assignment, sizeof assignment, "decode.kind=%s", decoder);
        RF_TRY(rf_config_derive(config, assignment, "from objective.kind", err));
    }
    if (objective->kind != &rf_objective_mdm || objective->pad != RF_PAD_FIXED ||
        rf_config_is_set(config, "decode.gen_length")) {
        return RF_OK;
    }
    snprintf(assignment, sizeof assignment, "decode.gen_length=%" PRId64, objective->pad_length);
    return rf_config_derive(config, assignment, "from objective.pad_length", err);
}

/* The base is asked for before the corpora: they are built with its tokenizer. */
static int check_base(const rf_config *config, rf_error *err)
{
    const char *path = rf_config_string(config, "model.init");
    return path[0] == '\0' || rf_path_exists(path)
               ? RF_OK
               : rf_error_set(
                     err, RF_ERR,
                     "%s: model.init: there is no %s: download a model, as Qwen/Qwen3-0.6B "
                     "from Hugging Face, and make a checkpoint of its folder with "
                     "refusion-convert import",
                     rf_config_origin(config, "model.init"), path);
}

/* A checkpoint to go on from has the weights of model.init and the adapters of lora.init in it, and needs
 * neither file: but adapters need their base. */
static bool reads_base(const rf_setup *s)
{
    return s->run.resume[0] == '\0' || s->set.adaptation.rank > 0;
}

static int open_settings(rf_setup *s, rf_resume resume, rf_error *err)
{
    RF_TRY(rf_train_settings_from_config(&s->set, s->config, err));
    /* where there may be a checkpoint to go on from, agree_on_weights asks when it is found */
    RF_TRY(resume == RF_RESUME_NO || s->set.adaptation.rank > 0 ? check_base(s->config, err)
                                                                : RF_OK);
    rf_spikes_new(&s->spikes, &s->set.spikes);
    RF_TRY(rf_backend_choose(&s->backend, s->set.backend, err));
    RF_TRY(rf_sources_open(&s->sources, s->config, s->set.seed, err));
    /* rounded up to batches, as a validation takes them */
    s->sources.held_out.rows =
        (s->set.valid_rows + s->set.batch_rows - 1) / s->set.batch_rows * s->set.batch_rows;
    const rf_specials *special = rf_tokenizer_specials(s->sources.tokenizer);
    RF_TRY(rf_objective_from_config(&s->objective, s->config, special,
                                    rf_config_int(s->config, "decode.gen_length"), err));
    s->run.folder = s->set.folder;
    s->run.keep = s->set.checkpoint_keep;
    s->run.keeps_best = s->set.checkpoint_best;
    s->run.tensorboard = s->set.tensorboard;
    s->run.trained = s->set.log_samples;
    return default_decoder(s->config, &s->objective, err);
}

/* What must be the same on all ranks, a line for each thing, in memory that the caller frees. */
static char *describe(const rf_setup *s)
{
    char *config = rf_config_text(s->config, false), *line = config, *rest = NULL;
    rf_text text = {0};
    rf_text_print(&text, "version %s\nbackend %s %s\n", RF_VERSION, s->backend->name,
                  s->backend->isa);
    rf_sources_describe(&s->sources, &text);
    const char *section = "";
    for (; (line = strtok_r(line, "\n", &rest)) != NULL; line = NULL) {
        if (line[0] != ' ') {
            section = line;
        } else if (strncmp(line, "  threads:", 10) != 0) { /* a rank's own affair */
            rf_text_print(&text, "%.*s.%s\n", (int)strcspn(section, ":"), section, line + 2);
        }
    }
    free(config);
    return text.data;
}

static int agree(const rf_setup *s, rf_error *err)
{
    char *text = describe(s);
    int rc = rf_dist_same_text(s->dist, text, err);
    free(text);
    return rc;
}

/* The weights to begin with, by a hash of all their checksums. */
static int agree_on_weights(const rf_setup *s, rf_error *err)
{
    static const char *const what[] = {"--resume", "model.init", "lora.init"};
    const bool reads[] = {true, reads_base(s), s->run.resume[0] == '\0'};
    char text[128] = "";
    RF_TRY(rf_dist_agree(s->dist, reads_base(s) ? check_base(s->config, err) : RF_OK, err));
    for (int i = 0; i < 3; i++) {
        const char *path = !reads[i] ? ""
                           : i == 0  ? s->run.resume
                                     : rf_config_string(s->config, what[i]);
        rf_checkpoint_reader *reader = NULL;
        int rc = path[0] != '\0' ? rf_checkpoint_reader_open(&reader, path, err) : RF_OK;
        RF_TRY(rf_dist_agree(s->dist, rc == RF_OK ? rc : rf_error_prefix(err, "%s", what[i]), err));
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s with hash %016" PRIx64 "\n", what[i],
                 reader != NULL ? rf_checkpoint_reader_hash(reader) : 0);
        rf_checkpoint_reader_close(reader);
    }
    return rf_dist_same_text(s->dist, text, err);
}

/* --- Is this run that of the checkpoint? ------------------------------------------------------ */

/* objective.pad_length = 0 is the decode.gen_length of the run's begin. It is written down as the
 * number that it became: a resume may ask for longer answers, but trains as before. */
static int fix_pad_length(rf_setup *s, int64_t length, rf_error *err)
{
    char text[64];
    bool open = s->objective.kind == &rf_objective_mdm && s->objective.pad == RF_PAD_FIXED &&
                rf_config_int(s->config, "objective.pad_length") == 0;
    if (!open) {
        return RF_OK;
    }
    s->objective.pad_length = length;
    snprintf(text, sizeof text, "objective.pad_length=%" PRId64, length);
    return rf_config_derive(s->config, text, "decode.gen_length when the run began", err);
}

/* The schedule of the learning rate is laid over the steps of the run, which may be others now. */
static int check_length(const rf_setup *s, const rf_config *then, rf_error *err)
{
    const double steps = (double)rf_config_int(then, "train.steps");
    const double epochs = rf_config_real(then, "train.epochs");
    const bool by_epochs = s->set.epochs > 0, was_by_epochs = epochs > 0;
    const double now = by_epochs ? s->set.epochs : (double)s->set.steps;
    const double was = was_by_epochs ? epochs : steps;
    if (by_epochs && rf_config_int(then, "train.batch_rows") != s->set.batch_rows) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--change train.batch_rows where train.epochs gives the length of the "
                            "run: its steps so far had other batches; give the number of all steps "
                            "(train.epochs=0 train.steps=N)");
    }
    if ((by_epochs != was_by_epochs || now < was || now > was) &&
        s->set.schedule.kind != RF_SCHEDULE_CONSTANT) {
        rf_log_info("%s is %.12g and %s%.12g: the learning rate goes on by the schedule "
                    "(optim.schedule) of the new number, and may jump",
                    by_epochs ? "train.epochs" : "train.steps", now,
                    by_epochs == was_by_epochs ? "was "
                    : was_by_epochs            ? "train.epochs was "
                                               : "train.steps was ",
                    was);
    }
    return RF_OK;
}

/* What is not read stays what it was, here and in the checkpoints to come; who names another file hears it. */
static int keep_base(rf_setup *s, const rf_config *then, rf_error *err)
{
    static const char *const names[] = {"model.init", "lora.init"};
    for (int i = reads_base(s) ? 1 : 0; i < 2; i++) {
        const char *now = rf_config_string(s->config, names[i]);
        const char *was = rf_config_string(then, names[i]);
        if (now[0] != '\0' && strcmp(now, was) != 0) {
            rf_log_info("%s=%s is not read: the run, which began with %s, goes on with the weights "
                        "of %s",
                        names[i], now, was[0] != '\0' ? was : "fresh weights", s->run.resume);
        }
        char *assignment = rf_alloc_format("%s=%s", names[i], was);
        const int rc = rf_config_derive(s->config, assignment, "when the run began", err);
        free(assignment);
        RF_TRY(rc);
    }
    return RF_OK;
}

static int check_config(rf_setup *s, const char *text, rf_error *err)
{
    const char *checkpoint = s->run.resume;
    rf_config *then = rf_config_new(rf_train_tables);
    int rc = rf_config_load_text(then, text, checkpoint, err);
    if (rc != RF_OK) {
        rf_error_prefix(err, "the configuration in the checkpoint");
        goto out;
    }
    RF_TRY_OUT(fix_pad_length(s, rf_config_int(then, "objective.pad_length"), err));
    const char *key = rf_config_conflict(then, s->config, s->change, s->n_changes);
    if (key != NULL) {
        rc = rf_error_set(err, RF_ERR_USAGE,
                          "%s: %s is not what the checkpoint %s was trained with: set it back (the "
                          "run's config.yaml has it), or begin a new run with model.init%s",
                          rf_config_origin(s->config, key), key, checkpoint,
                          (rf_config_flags(s->config, key) & RF_KEY_ON_REQUEST) != 0
                              ? ", or give it by --change"
                              : "");
        goto out;
    }
    for (int i = 0; i < s->n_changes; i++) {
        rf_log_info("--change: %s from here on", s->change[i]);
    }
    RF_TRY_OUT(keep_base(s, then, err));
    rc = check_length(s, then, err);
out:
    rf_config_free(then);
    return rc;
}

static int check_resumed(rf_setup *s, const rf_checkpoint_info *info, rf_error *err)
{
    const char *checkpoint = s->run.resume;
    if (!info->has_optimizer) {
        return rf_error_set(err, RF_ERR,
                            "%s holds a model without the optimizer's state: begin a new run with "
                            "model.init=%s",
                            checkpoint, checkpoint);
    }
    RF_TRY(check_config(s, info->run_config, err));
    RF_TRY(rf_sources_match(&s->sources, info->corpora, checkpoint, err));
    if (strcmp(info->isa, s->backend->isa) != 0) {
        rf_log_info("%s was written with %s kernels and this machine uses %s: the last bits will "
                    "differ from those of an uninterrupted run",
                    checkpoint, info->isa, s->backend->isa);
    }
    return RF_OK;
}

/* A loss of other rows says nothing of those to come: any of these would be the best, or none. */
double rf_setup_best_loss(const rf_setup *s, const rf_checkpoint_info *of)
{
    const bool counts =
        s->set.checkpoint_best && rf_sources_validate_alike(&s->sources, of->corpora);
    return counts ? of->progress.best_valid_loss : (double)INFINITY;
}

/* Without data.valid there are no losses to come, and what the best one is of stays what it was. */
static void begin_best(rf_setup *s, const rf_checkpoint_info *from)
{
    const double was = from->progress.best_valid_loss, best = rf_setup_best_loss(s, from);
    if (s->sources.held_out.hash == 0) {
        s->sources.held_out = rf_sources_held_out(from->corpora);
    } else if (s->set.checkpoint_best && isfinite(was) && !isfinite(best)) {
        rf_log_info("data.valid or log.valid_rows is not what the best validation loss of %s, "
                    "%.4f, is of: the next one is the best so far",
                    s->run.resume, was);
    }
    s->progress.best_valid_loss = best;
}

/* Configuration (but for keys that may change), corpora and seed are the checkpoint's. */
static int open_progress(rf_setup *s, rf_error *err)
{
    rf_checkpoint_info info = {0};
    s->progress = (rf_progress){.seed = (int64_t)s->set.seed, .best_valid_loss = (double)INFINITY};
    if (s->run.resume[0] == '\0') {
        return fix_pad_length(s, s->objective.pad_length, err);
    }
    RF_TRY(rf_checkpoint_info_read(&info, s->run.resume, err));
    int rc;
    RF_TRY_OUT(check_resumed(s, &info, err));
    s->progress = info.progress;
    begin_best(s, &info);
    rc = rf_spikes_parse(&s->spikes, info.state, err);
out:
    rf_checkpoint_info_free(&info);
    return rc;
}

/* --- The model and its rows ------------------------------------------------------------------- */

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void set_limits(rf_setup *s)
{
    int64_t row = s->sources.settings.rows.row_length, places = s->set.micro_rows * row;
    s->limits = (rf_model_limits){.places = places,
                                  .keys = places,
                                  .positions = row,
                                  .backward = true,
                                  .compute = s->set.compute,
                                  .adaptation = &s->set.adaptation};
    if (s->samples.n > 0) {
        rf_model_limits decoder = rf_engine_limits(&s->samples.options, s->samples.max_prompt, 1);
        s->limits.places = most(places, decoder.places);
        s->limits.keys = most(s->limits.places, decoder.keys);
        s->limits.positions = most(row, decoder.positions);
    }
}

/* Rows of the first epoch, and samples that are too long for one: rank 0 says it, rank 0 counts.
 * Damaged tokens, and held-out data without a row, are met here and not after hours of training. */
static int measure(rf_setup *s, rf_error *err)
{
    rf_rows *rows = NULL;
    RF_TRY(rf_sources_verify(&s->sources, err));
    if (s->sources.settings.n_valid > 0 && s->set.valid_every > 0) {
        RF_TRY(rf_validate_check(&s->sources, &s->objective, err));
    }
    RF_TRY(rf_rows_new(&rows, s->sources.train, s->sources.settings.n_train, &s->objective,
                       &s->sources.settings.rows, err));
    int rc = rf_rows_measure(rows, 0, &s->epoch, err);
    rf_rows_free(rows);
    return rc;
}

/* What ranks exchange at once has less than 2^31 elements (dist.h). */
static int check_parts(const rf_setup *s, rf_error *err)
{
    const int64_t n_ranks = rf_dist_size(s->dist);
    for (int64_t i = 0; n_ranks > 1 && i < s->shards.n_parts; i++) {
        const int64_t n = rf_range_length(s->shards.part[i]);
        if (rf_slice_slot(n, n_ranks) * n_ranks > INT32_MAX) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "a layer of the model has %" PRId64 " elements, and ranks exchange "
                                "less than %" PRId64 " at once: make model.vocab_size, "
                                "model.hidden_size or model.intermediate_size smaller",
                                n, (int64_t)INT32_MAX);
        }
    }
    return RF_OK;
}

static int describe_reduction(rf_setup *s, rf_error *err)
{
    rf_table table = {0};
    int rc = RF_OK;
    RF_TRY_OUT(rf_table_build_adapted(&table, &s->shape, &s->set.adaptation, err));
    s->n_elements = table.n_elements;
    s->n_parameters = table.n_parameters;
    s->n_trainable = table.n_trainable;
    const size_t element_bytes = rf_type_bytes(s->backend->type[RF_MASTER]);
    rf_shards_new(&s->shards, &table, element_bytes, s->set.shard, rf_dist_rank(s->dist),
                  rf_dist_size(s->dist));
    s->limits.shards = &s->shards;
    RF_TRY_OUT(check_parts(s, err));
    RF_TRY_OUT(rf_reduce_new(&s->reduce, s->dist, &s->shards, element_bytes,
                             s->set.batch_rows / s->set.micro_rows, s->set.exact, s->set.narrow,
                             err));
out:
    rf_table_free(&table);
    return rc;
}

/* Settings that go together, but hardly as they were meant. */
static void warn_of_settings(const rf_setup *s)
{
    const rf_data_settings *from = &s->sources.settings;
    const rf_objective *o = &s->objective;
    const bool has_ar = o->kind == &rf_objective_ar || o->kind == &rf_objective_refusion;
    const bool has_denoise = o->kind != &rf_objective_ar;
    if (s->set.schedule.warmup > (double)s->set.steps) {
        rf_log_warn("optim.warmup=%g is above the %" PRId64 " steps of the run: the learning "
                    "rate never reaches optim.lr",
                    s->set.schedule.warmup, s->set.steps);
    }
    for (int64_t i = 0; i < from->n_train * from->n_valid; i++) {
        const char *valid = from->valid[i / from->n_train];
        if (rf_path_is_same(from->train[i % from->n_train], valid)) {
            rf_log_warn(
                "%s is trained on (data.train) and measured with (data.valid): its loss says "
                "nothing of texts that were not learnt",
                valid);
        }
    }
    if (!(s->set.schedule.lr > 0)) {
        rf_log_warn("optim.lr is 0: nothing is learnt");
    }
    if ((!has_ar || !(o->lambda_ar > 0)) && (!has_denoise || !(o->lambda_mdm > 0))) {
        rf_log_warn(
            "objective.lambda_ar=%g, objective.lambda_mdm=%g: the loss of objective.kind=%s "
            "is 0 and nothing is learnt",
            o->lambda_ar, o->lambda_mdm, o->kind->name);
    }
}

/* Is anything left to do? Fewer steps than the checkpoint has are an error only where they are a change
 * that was asked for: a job that is started again with them is simply over. */
static int check_steps(const rf_setup *s, bool is_root, rf_error *err)
{
    const int64_t reached = s->progress.step, steps = s->set.steps;
    for (int i = 0; i < s->n_changes && reached > steps; i++) {
        if (strncmp(s->change[i], "train.steps=", 12) == 0 ||
            strncmp(s->change[i], "train.epochs=", 13) == 0) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "--change %s: the run would have %" PRId64
                                " steps, but %s is of step %" PRId64
                                ": go on from an earlier one (--resume PATH, in another log.dir)",
                                s->change[i], steps, s->run.resume, reached);
        }
    }
    if (is_root && s->run.resume[0] != '\0' && reached > steps) {
        rf_log_warn("%s is of step %" PRId64 " and the run has %" PRId64
                    " steps: nothing is left to do; train.steps=N goes on",
                    s->run.resume, reached, steps);
    } else if (is_root && s->run.resume[0] != '\0' && reached == steps) {
        rf_log_info("all %" PRId64 " steps are done: nothing is left to do; train.steps=N goes on",
                    steps);
    }
    return RF_OK;
}

/* What depends on the checkpoint that the run goes on from. */
static int open_model(rf_setup *s, rf_error *err)
{
    bool is_root = rf_dist_rank(s->dist) == 0;
    RF_TRY(rf_outputs_check(s, err));
    RF_TRY(rf_sources_model(&s->shape, s->config, &s->sources, s->run.resume, err));
    RF_TRY(open_progress(s, err));
    RF_TRY(rf_samples_choose(&s->samples, &s->sources, s->config,
                             s->set.samples_every > 0 ? s->set.n_samples : 0,
                             s->shape.max_position_embeddings, is_root, err));
    set_limits(s);
    if (is_root) {
        RF_TRY(measure(s, err));
    }
    if (s->set.steps == 0) {
        RF_TRY(rf_sources_steps(&s->set.steps, &s->sources, &s->objective, s->set.epochs,
                                s->set.batch_rows, err));
        s->set.schedule.steps = s->set.steps;
    }
    RF_TRY(check_steps(s, is_root, err));
    if (is_root) {
        warn_of_settings(s);
    }
    return describe_reduction(s, err);
}

/* --- All of it -------------------------------------------------------------------------------- */

int rf_setup_open(rf_setup *s, rf_dist *dist, rf_config *config, const char *config_path,
                  rf_resume resume, const char *path, const char *const *change, int n_changes,
                  rf_error *err)
{
    *s = (rf_setup){.dist = dist,
                    .config = config,
                    .config_path = config_path,
                    .change = change,
                    .n_changes = n_changes,
                    .begin = rf_log_seconds(),
                    .run = {.dist = dist, .lock = -1}};
    RF_TRY(rf_dist_agree(dist, open_settings(s, resume, err), err));
    RF_TRY(agree(s, err));
    RF_TRY(rf_dist_check_devices(dist, s->backend, err));
    RF_TRY(rf_run_find(&s->run, resume, path, err));
    RF_TRY(agree_on_weights(s, err));
    RF_TRY(rf_dist_agree(dist, open_model(s, err), err));
    return rf_threads_choose(&s->n_threads, dist, s->set.threads, err);
}

void rf_setup_close(rf_setup *s)
{
    rf_run_close(&s->run);
    rf_spikes_free(&s->spikes);
    rf_reduce_free(&s->reduce);
    rf_shards_free(&s->shards);
    rf_samples_free(&s->samples);
    rf_sources_close(&s->sources);
}

rf_loader_settings rf_setup_loader(const rf_setup *s)
{
    return (rf_loader_settings){.rows = s->sources.settings.rows,
                                .batch_rows = s->set.batch_rows,
                                .micro_rows = s->set.micro_rows,
                                .rank = rf_dist_rank(s->dist),
                                .n_ranks = rf_dist_size(s->dist),
                                .round = s->reduce.round};
}

rf_position rf_setup_position(const rf_progress *progress)
{
    return (rf_position){progress->epoch, progress->window, progress->row};
}

int rf_setup_new_loader(rf_loader **out, const rf_setup *s, const rf_progress *progress,
                        rf_error *err)
{
    rf_loader_settings settings = rf_setup_loader(s);
    settings.left_out = s->spikes.left_out;
    settings.n_left_out = s->spikes.n_left_out;
    settings.lists = s->set.log_samples;
    return rf_loader_new(out, s->sources.train, s->sources.settings.n_train, &s->objective,
                         &settings, rf_setup_position(progress), err);
}

int rf_setup_plan_loader(size_t *bytes, const rf_setup *s, rf_error *err)
{
    rf_loader_settings settings = rf_setup_loader(s);
    return rf_loader_plan(bytes, s->sources.train, s->sources.settings.n_train, &s->objective,
                          &settings, rf_setup_position(&s->progress), err);
}
