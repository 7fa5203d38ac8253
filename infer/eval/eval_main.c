/* refusion-eval: likelihood, losses and task accuracy of a model, on one process or on ranks. */
#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/base/output.h"
#include "infer/eval/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *model, *adapter, *data, *out, *answers;
    char model_path[RF_PATH_BYTES], adapter_path[RF_PATH_BYTES]; /* chosen in run folders */
    rf_layout weights[RF_N_LAYOUTS]; /* to be compared; the first is the report's */
    int n_weights;                   /* 0: the default of the checkpoint */
    int64_t limit;
    bool control_tokens;
    char *settings; /* resolved YAML. Owned */
    rf_eval_options eval;
} options;

static const rf_config_key *const key_tables[] = {rf_decode_keys, rf_objective_keys, NULL};

static const char usage[] =
    "usage: refusion-eval --model CHECKPOINT.h5|RUN_FOLDER --data FILE.jsonl [options] [key=value "
    "...]\n"
    "       mpirun -n N refusion-eval ...        shares the questions among ranks\n"
    "\n"
    "Losses of the training objective (AR and denoising apart), likelihood of the reference\n"
    "responses per token and per byte, and, with --task, answers decoded and judged.\n"
    "\n"
    "  --model FILE       checkpoint, or the folder of a run: its best checkpoint on validation,\n"
    "                     else its latest\n"
    "  --adapter FILE     adapters that were trained beside that checkpoint (lora.*), or\n"
    "                     the folder of their run\n"
    "  --weights TYPE     f32 (default), bf16 (default of what was trained with\n"
    "                     train.compute=bf16, where this machine multiplies bf16) or int8\n"
    "                     (default of a quantized checkpoint); or several, as f32,bf16,int8:\n"
    "                     losses and likelihood of each, side by side\n"
    "  --data FILE        JSON lines {\"query\",\"response\"} or {\"messages\"}, .gz too\n"
    "  --control-tokens   special tokens written out in questions are those tokens, not text\n"
    "  --no-likelihood    leave out likelihood and losses\n"
    "  --limit N          only the first N questions\n"
    "  --draws N          noise draws a sample for the losses (default 1)\n"
    "  --seed N           of that noise (default 0)\n"
    "  --batch N          questions that a rank decodes at once (default 1: latencies are those\n"
    "                     of one user); answers do not depend on it\n"
    "  --out FILE         report.json\n"
    "  --answers FILE     JSON lines {\"query\",\"expected\",\"text\",\"correct\",...}\n"
    "  --threads N        of a rank; default: the host's cores shared among its ranks\n"
    "  --help, --version\n"
    "  --task TASK        decode an answer to each question and judge it:\n";

static void print_usage(void)
{
    rf_config *config = rf_config_new(key_tables);
    fputs(usage, stdout);
    for (const rf_task *const *task = rf_tasks; *task != NULL; task++) {
        printf("                       %-12s %s\n", (*task)->name, (*task)->help);
    }
    printf("\nSettings (defaults: those of the run that trained the model):\n");
    rf_config_help(config, stdout);
    rf_config_free(config);
}

/* --- Command line ----------------------------------------------------------------------------- */

/* "int8" or "f32,bf16,int8". */
static int take_weights(options *o, const char *list, rf_error *err)
{
    for (const char *at = list;; at++) {
        char name[16];
        rf_layout layout;
        size_t n = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)n, at);
        RF_TRY(rf_loaded_weights(&layout, n < sizeof name ? name : list, err));
        for (int i = 0; i < o->n_weights; i++) {
            if (o->weights[i] == layout) {
                return rf_error_set(err, RF_ERR_USAGE, "--weights %s: %s twice", list, name);
            }
        }
        o->weights[o->n_weights++] = layout;
        at += n;
        if (*at == '\0') {
            return RF_OK;
        }
    }
}

static int check(const options *o, rf_error *err)
{
    if (o->model == NULL || o->data == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "%s is missing: see refusion-eval --help",
                            o->model != NULL ? "--data" : "--model");
    }
    if (o->n_weights > 1 && (!o->eval.likelihood || o->eval.task != NULL)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--weights with several types compares likelihoods: leave out %s",
                            o->eval.task != NULL ? "--task" : "--no-likelihood");
    }
    if (o->answers != NULL && o->eval.task == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "--answers goes with --task");
    }
    if (!o->eval.likelihood && o->eval.task == NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--no-likelihood without --task leaves nothing to do");
    }
    return RF_OK;
}

/* *done: help or the version was asked for. *first: index of the assignments. */
static int parse(options *o, int *first, int argc, char **argv, bool *done, rf_error *err)
{
    const char *weights = NULL, *task = NULL;
    bool no_likelihood = false, help = false, version = false;
    int64_t seed = 0;
    const rf_option table[] = {{"model", RF_OPTION_TEXT, &o->model, 0, 0},
                               {"adapter", RF_OPTION_TEXT, &o->adapter, 0, 0},
                               {"weights", RF_OPTION_TEXT, &weights, 0, 0},
                               {"data", RF_OPTION_TEXT, &o->data, 0, 0},
                               {"task", RF_OPTION_TEXT, &task, 0, 0},
                               {"control-tokens", RF_OPTION_FLAG, &o->control_tokens, 0, 0},
                               {"no-likelihood", RF_OPTION_FLAG, &no_likelihood, 0, 0},
                               {"limit", RF_OPTION_INTEGER, &o->limit, 1, INT64_MAX},
                               {"draws", RF_OPTION_INTEGER, &o->eval.n_draws, 1, 1 << 20},
                               {"seed", RF_OPTION_INTEGER, &seed, 0, INT64_MAX},
                               {"batch", RF_OPTION_INTEGER, &o->eval.batch, 1, 4096},
                               {"out", RF_OPTION_TEXT, &o->out, 0, 0},
                               {"answers", RF_OPTION_TEXT, &o->answers, 0, 0},
                               {"threads", RF_OPTION_INTEGER, &o->eval.n_threads, 1, 4096},
                               {"help", RF_OPTION_STOP, &help, 0, 0},
                               {"version", RF_OPTION_STOP, &version, 0, 0},
                               {0}};

    *o = (options){.eval = {.n_draws = 1, .batch = 1}};
    RF_TRY(rf_options_parse(first, argc, argv, table, "see refusion-eval --help", err));
    o->eval.likelihood = !no_likelihood;
    o->eval.seed = (uint64_t)seed;
    *done = help || version;
    if (help) {
        print_usage();
    } else if (version) {
        printf("refusion-eval %s\n", RF_VERSION);
    }
    if (*done) {
        return RF_OK;
    }
    if (weights != NULL) {
        RF_TRY(take_weights(o, weights, err));
    }
    if (task != NULL && (o->eval.task = rf_task_find(task)) == NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--task %s is unknown: refusion-eval --help lists the tasks", task);
    }
    return check(o, err);
}

/* The run's own settings, then the assignments of the command line. A model trained with `ar` is
 * decoded and scored that way unless told otherwise. */
static int read_settings(options *o, const rf_loaded *loaded, char **assignment, int n,
                         rf_error *err)
{
    static const char *const sections[] = {"decode", "objective"};
    int32_t mask = rf_tokenizer_specials(loaded->info.tokenizer)->mask;
    rf_config *config = rf_config_new(key_tables);
    int rc;

    RF_TRY_OUT(rf_loaded_settings(loaded, config, sections, 2, assignment, n, err));
    RF_TRY_OUT(rf_decode_options_from_config(&o->eval.decode, config, err));
    RF_TRY_OUT(rf_objective_from_config(&o->eval.objective, config, mask, err));
    o->eval.slot_size = o->eval.objective.kind == &rf_objective_ar ? 0 : o->eval.decode.slot_size;
    o->settings = rf_config_text(config, false);
out:
    rf_config_free(config);
    return rc;
}

/* --- Program ---------------------------------------------------------------------------------- */

/* Rank 0 writes what all know. */
static int report(const options *o, const rf_eval_result *result, const rf_question *questions,
                  const rf_loaded *loaded, const rf_dist *dist, rf_error *err)
{
    rf_report_context context = {.model = o->model,
                                 .data = o->data,
                                 .loaded = loaded,
                                 .weights = o->weights,
                                 .n_results = o->n_weights,
                                 .n_ranks = rf_dist_size(dist),
                                 .n_threads = loaded->model->ctx->n_threads};
    if (rf_dist_rank(dist) != 0) {
        return RF_OK;
    }
    rf_report_print(stdout, result, &o->eval, &context);
    if (o->eval.likelihood && !(result->sum.scored > 0)) {
        rf_log_warn("nothing was scored: %.0f of %" PRId64 " questions are too long for the "
                    "model's %" PRId64 " positions",
                    result->sum.too_long, result->n, loaded->info.model.max_position_embeddings);
    }
    if (o->eval.task != NULL && !(result->sum.decoded > 0)) {
        rf_log_warn("nothing was decoded: no question fits the model's %" PRId64
                    " positions beside decode.gen_length=%" PRId64,
                    loaded->info.model.max_position_embeddings, o->eval.decode.gen_length);
    }
    if (fflush(stdout) != 0) {
        return rf_error_set(err, RF_ERR, "cannot write to standard output: %m");
    }
    if (o->out != NULL) {
        RF_TRY(rf_report_write(o->out, result, &o->eval, &context, err));
    }
    return o->answers != NULL ? rf_report_answers(o->answers, result, questions, err) : RF_OK;
}

/* A folder that does not exist is noticed before the work, not after it. */
static int check_output(const char *path, const rf_dist *dist, rf_error *err)
{
    rf_atomic file = {0};
    int rc = path != NULL && rf_dist_rank(dist) == 0 ? rf_atomic_begin(&file, path, err) : RF_OK;
    rf_atomic_abandon(&file);
    return rc;
}

static int prepare(options *o, rf_loaded *loaded, rf_question **questions, int64_t *n,
                   char **assignment, int n_assignments, const rf_dist *dist, rf_error *err)
{
    RF_TRY(rf_loaded_choose(&o->model, o->model_path, err));
    RF_TRY(rf_loaded_choose(&o->adapter, o->adapter_path, err));
    RF_TRY(rf_output_check((const char *[]){o->out, o->answers}, 2,
                           (const char *[]){o->model, o->adapter, o->data}, 3, err));
    RF_TRY(rf_loaded_open(loaded, o->model, o->adapter, err));
    if (o->control_tokens) {
        rf_tokenizer_read_control_tokens(loaded->info.tokenizer);
    }
    if (o->n_weights == 0) {
        o->weights[o->n_weights++] = loaded->weights;
    }
    RF_TRY(check_output(o->out, dist, err));
    RF_TRY(check_output(o->answers, dist, err));
    RF_TRY(read_settings(o, loaded, assignment, n_assignments, err));
    RF_TRY(rf_dist_rank(dist) == 0 ? rf_loaded_check_decoder(loaded, o->eval.decode.kind, err)
                                   : RF_OK);
    return rf_questions_read(questions, n, o->data, loaded->info.tokenizer, o->limit, err);
}

/* A hash of all checksums of a checkpoint. */
static int describe_file(FILE *out, const char *what, const char *path, rf_error *err)
{
    rf_checkpoint_reader *reader = NULL;
    if (path == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_checkpoint_reader_open(&reader, path, err));
    fprintf(out, "%s with hash %016" PRIx64 "\n", what, rf_checkpoint_reader_hash(reader));
    rf_checkpoint_reader_close(reader);
    return RF_OK;
}

/* What must be the same on all ranks, a line for each thing. */
static int describe(FILE *out, const options *o, const rf_question *questions, int64_t n,
                    rf_error *err)
{
    const rf_backend *backend = NULL;
    uint64_t hash = RF_HASH_BEGIN;
    RF_TRY(rf_backend_choose(&backend, NULL, err));
    fprintf(out, "version %s\nbackend %s %s\n", RF_VERSION, backend->name, backend->isa);
    RF_TRY(describe_file(out, "--model", o->model, err));
    RF_TRY(describe_file(out, "--adapter", o->adapter, err));
    for (int64_t i = 0; i < n; i++) {
        const char *expected = questions[i].expected != NULL ? questions[i].expected : "";
        hash = rf_hash_bytes(hash, questions[i].ids.id,
                             (size_t)questions[i].ids.n * sizeof *questions[i].ids.id);
        hash = rf_hash_bytes(hash, expected, strlen(expected) + 1);
    }
    fprintf(out, "%" PRId64 " questions with hash %016" PRIx64 "\n%s", n, hash, o->settings);
    return RF_OK;
}

/* collective */
static int agree(const options *o, const rf_question *questions, int64_t n, rf_dist *dist,
                 rf_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    RF_ASSERT(out != NULL);
    int rc = describe(out, o, questions, n, err);
    fclose(out);
    rc = rf_dist_agree(dist, rc, err);
    rc = rc == RF_OK ? rf_dist_same_text(dist, text, err) : rc;
    free(text);
    return rc;
}

static int run(options *o, char **assignment, int n_assignments, rf_dist *dist, rf_error *err)
{
    rf_loaded loaded = {0};
    rf_question *questions = NULL;
    rf_eval_result result[RF_N_LAYOUTS] = {0};
    int64_t n = 0;
    int rc = prepare(o, &loaded, &questions, &n, assignment, n_assignments, dist, err);

    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    RF_TRY_OUT(agree(o, questions, n, dist, err));
    for (int i = 0; i < o->n_weights; i++) {
        rf_loaded_drop_model(&loaded);
        loaded.weights = o->weights[i];
        RF_TRY_OUT(rf_eval_run(&result[i], &loaded, questions, n, &o->eval, dist, err));
    }
    rc = rf_dist_agree(dist, report(o, result, questions, &loaded, dist, err), err);
out:
    for (int i = 0; i < o->n_weights; i++) {
        rf_eval_result_free(&result[i]);
    }
    rf_questions_free(questions, n);
    rf_loaded_close(&loaded);
    free(o->settings);
    return rc;
}

int main(int argc, char **argv)
{
    rf_error err = {0}, open_error = {0};
    rf_dist *dist = NULL;
    options o;
    bool done = false;
    int first;

    rf_log_set_program("refusion-eval");
    rf_output_clean_on_signals();
    int rc = parse(&o, &first, argc, argv, &done, &err);
    if (done) {
        return rf_error_exit_status(rc);
    }
    /* All ranks have the same command line: they refuse it alike, and rank 0 speaks for them. */
    int opened = rf_dist_open(&dist, &argc, &argv, &open_error);
    if (opened != RF_OK) {
        rf_log_error(rc != RF_OK ? &err : &open_error);
        return rf_error_exit_status(rc != RF_OK ? rc : opened);
    }
    if (rc == RF_OK) {
        rc = run(&o, argv + first, argc - first, dist, &err);
    }
    if (rc != RF_OK && rf_dist_rank(dist) == 0) {
        rf_log_set_rank(0, 1); /* the message names the rank that failed */
        rf_log_error(&err);
    }
    if (rc == RF_ERR_RETRY) {
        /* Other ranks may wait in a call that this one will never make. */
        rf_dist_abort(dist, rf_error_exit_status(rc));
    }
    rf_dist_close(dist);
    return rf_error_exit_status(rc);
}
