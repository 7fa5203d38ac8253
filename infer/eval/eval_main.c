/* refusion-eval: likelihood, losses and task accuracy of a model, on one process or on ranks. */
#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/base/output.h"
#include "infer/eval/page.h"
#include "infer/eval/report.h"
#include "infer/eval/sweep.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    rf_option_list models, pages;
    const char *adapter, *out, *answers, *csv, *html, *title;
    rf_layout weights[RF_N_LAYOUTS]; /* to be compared; the first is the report's */
    int n_weights;                   /* 0: the default of the checkpoint */
    double within;
    rf_subject_options subject;
} options;

static const rf_config_key *const key_tables[] = {rf_decode_keys, rf_objective_keys, NULL};

static const char usage[] =
    "usage: refusion-eval --model CHECKPOINT.h5|RUN_FOLDER --data FILE.jsonl [options] [key=value "
    "...]\n"
    "       mpirun -n N refusion-eval ...        shares the questions among ranks\n"
    "       refusion-eval --html FILE --page REPORT.json|RUN_FOLDER ...\n"
    "\n"
    "Losses of the training objective (AR and denoising apart), likelihood of the reference\n"
    "responses per token and per byte, and, with --task, answers decoded and judged.\n"
    "\n"
    "Several models, or settings of decode.* as lists and ranges, are a sweep: every combination\n"
    "has a row, and what --out holds is not computed again.\n"
    "  refusion-eval --model runs/a --model runs/b --data test.jsonl --task sudoku4 --out r.json\n"
    "      decode.kind=refusion,ar decode.slot_threshold=0.5:0.9:0.1\n"
    "\n"
    "  --model FILE       checkpoint, or the folder of a run: its best checkpoint on validation,\n"
    "                     else its latest; may be given several times\n"
    "  --adapter FILE     adapters that were trained beside that checkpoint (lora.*), or\n"
    "                     the folder of their run; as --model they find their base themselves\n"
    "  --weights TYPE     f32 (default), bf16 (default of what was trained with\n"
    "                     train.compute=bf16, where this machine multiplies bf16) or int8\n"
    "                     (default of a quantized checkpoint); or several, as f32,bf16,int8:\n"
    "                     losses and likelihood of each, side by side\n"
    "  --backend NAME     auto (default: cuda where the program has it and finds a GPU), cpu, "
    "cuda,\n"
    "                     ref32 or ref64; one that is named is never replaced\n"
    "  --data FILE        JSON lines {\"query\",\"response\"} or {\"messages\"}, or the official "
    "file\n"
    "                     of the task; .gz too; or a folder of .json files\n"
    "  --instruction TEXT said below each question\n"
    "  --shots N          questions with their answers before each question: the same for all, "
    "drawn\n"
    "                     by --seed, never the question itself\n"
    "  --shots-from FILE  where those come from (default: --data); without --shots as many as are\n"
    "                     usual (gsm8k 5, math 4, mmlu-pro 5, mbpp 3)\n"
    "  --raw              questions and shots as plain text in the words of "
    "lm-evaluation-harness,\n"
    "                     not as a conversation: for models that were not taught any\n"
    "  --pick-on FILE     questions on which the settings of a sweep are tried; then the best one\n"
    "                     of each model and decoder is judged on --data\n"
    "  --within POINTS    best is the fastest setting of at most so many points (percent) less\n"
    "                     accuracy than the most accurate (default 0)\n"
    "  --control-tokens   special tokens written out in questions are those tokens, not text\n"
    "  --no-likelihood    leave out likelihood and losses\n"
    "  --limit N          only the first N questions\n"
    "  --draws N          noise draws a sample for the losses (default 1)\n"
    "  --masks N          masks drawn for the bound on a likelihood of mdm and block (default\n"
    "                     128); of 8 tokens or fewer all masks are taken\n"
    "  --seed N           of that noise, and of the shots (default 0)\n"
    "  --samples N        answers to each question (default 1): pass@k, and what most of them "
    "say;\n"
    "                     needs decode.temperature above 0\n"
    "  --check COMMAND    judges answers instead of a task: gets {\"query\",\"expected\","
    "\"answer\",\n"
    "                     \"index\",\"sample\"} on standard input, says true or false (or ends "
    "with "
    "0 or 1)\n"
    "  --run-code         run the programs that the model writes for humaneval and mbpp by "
    "python3,\n"
    "                     in namespaces of their own: no network, read-only files, limits\n"
    "  --unsafe-run       run them without namespaces, with your rights\n"
    "  --judge-seconds N  for each program or command (default 10)\n"
    "  --batch N          questions that a rank decodes at once (default 1: latencies are those\n"
    "                     of one user); answers do not depend on it\n"
    "  --out FILE         report.json\n"
    "  --html FILE        report.html: one page with table, curves, order of the slots and "
    "answers\n"
    "                     that play; opens from disk\n"
    "  --title TEXT       of that page\n"
    "  --page FILE        report.json, or metrics.jsonl or the folder of a run, to be shown on "
    "that\n"
    "                     page too; may be given several times; without --model: these alone\n"
    "  --csv FILE         the rows of a sweep as comma-separated values\n"
    "  --answers FILE     JSON lines {\"query\",\"expected\",\"text\",\"correct\",...}; while it "
    "runs\n"
    "                     FILE.partial.*, from which the same command goes on\n"
    "  --threads N        of a rank; default: the host's cores shared among its ranks\n"
    "  -h, --help, --version\n"
    "  --task TASK        decode an answer to each question and judge it:\n";

static void print_usage(void)
{
    rf_config *config = rf_config_new(key_tables);
    fputs(usage, stdout);
    for (const rf_task *const *task = rf_tasks; *task != NULL; task++) {
        printf("                       %-19s %s\n", (*task)->name, (*task)->help);
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

/* Nothing is evaluated. */
static bool only_page(const options *o)
{
    return o->models.n == 0 && o->pages.n > 0;
}

static bool is_sweep(const options *o, const rf_grid *grid)
{
    return o->models.n > 1 || grid->n > 1 || o->subject.pick_on != NULL;
}

/* What does not go together. */
static int check_sweep(const options *o, const rf_grid *grid, rf_error *err)
{
    const char *stray = o->answers != NULL                      ? "--answers"
                        : o->n_weights > 1                      ? "--weights with several types"
                        : o->models.n > 1 && o->adapter != NULL ? "--adapter"
                                                                : NULL;
    if (!is_sweep(o, grid)) {
        return o->csv == NULL ? RF_OK
                              : rf_error_set(err, RF_ERR_USAGE,
                                             "--csv holds the rows of a sweep: give several "
                                             "models, or lists of settings");
    }
    if (stray != NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%s goes with one model and one setting, this is a sweep", stray);
    }
    if (o->subject.eval.task == NULL && (grid->n > 1 || o->subject.pick_on != NULL)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "settings of decode.* are tried by decoding: give a --task");
    }
    return RF_OK;
}

static int check(const options *o, rf_error *err)
{
    const rf_eval_options *eval = &o->subject.eval;
    if (o->pages.n > 0 && o->html == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "--page is shown on a page: give --html FILE");
    }
    if (only_page(o)) {
        return RF_OK;
    }
    if (o->models.n == 0 || o->subject.data == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "%s is missing: see refusion-eval --help",
                            o->models.n > 0 ? "--data" : "--model");
    }
    if (o->n_weights > 1 && (!eval->likelihood || eval->task != NULL)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--weights with several types compares likelihoods: leave out %s",
                            eval->task != NULL ? "--task" : "--no-likelihood");
    }
    if (eval->task == NULL && (o->answers != NULL || eval->n_samples > 1)) {
        return rf_error_set(err, RF_ERR_USAGE, "%s goes with --task",
                            o->answers != NULL ? "--answers" : "--samples");
    }
    if (eval->judge.command != NULL && eval->task->by_likelihood) {
        return rf_error_set(err, RF_ERR_USAGE, "--check judges decoded answers: --task %s has none",
                            eval->task->name);
    }
    if (o->subject.style.shots_from != NULL && o->subject.style.n_shots == 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--shots-from: no number is usual for %s: give --shots N",
                            eval->task != NULL ? eval->task->name : "questions without a task");
    }
    if (!eval->likelihood && eval->task == NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--no-likelihood without --task leaves nothing to do");
    }
    return RF_OK;
}

/* What follows from other options. */
static void complete(rf_subject_options *o)
{
    rf_eval_options *eval = &o->eval;
    if (eval->judge.command != NULL && eval->task == NULL) {
        eval->task = &rf_task_check;
    }
    eval->judge.task = o->style.task = eval->task;
    eval->raw = o->style.raw;
    o->style.seed = eval->seed;
    if (o->style.shots_from != NULL && o->style.n_shots == 0 && eval->task != NULL) {
        o->style.n_shots = eval->task->shots;
    }
}

/* *done: help or the version was asked for. *first: index of the assignments. */
static int parse(options *o, int *first, int argc, char **argv, bool *done, rf_error *err)
{
    const char *weights = NULL, *task = NULL, *within = NULL;
    rf_eval_options *eval = &o->subject.eval;
    rf_question_style *style = &o->subject.style;
    bool no_likelihood = false, run_code = false, unsafe = false, help = false, version = false;
    int64_t seed = 0, judge_seconds = 10;
    const rf_option table[] = {{"model", RF_OPTION_LIST, &o->models, 0, 0},
                               {"adapter", RF_OPTION_TEXT, &o->adapter, 0, 0},
                               {"weights", RF_OPTION_TEXT, &weights, 0, 0},
                               {"backend", RF_OPTION_TEXT, &o->subject.backend, 0, 0},
                               {"data", RF_OPTION_TEXT, &o->subject.data, 0, 0},
                               {"task", RF_OPTION_TEXT, &task, 0, 0},
                               {"control-tokens", RF_OPTION_FLAG, &o->subject.control_tokens, 0, 0},
                               {"no-likelihood", RF_OPTION_FLAG, &no_likelihood, 0, 0},
                               {"limit", RF_OPTION_INTEGER, &o->subject.limit, 1, INT64_MAX},
                               {"draws", RF_OPTION_INTEGER, &eval->n_draws, 1, 1 << 20},
                               {"masks", RF_OPTION_INTEGER, &eval->n_masks, 1, 1 << 20},
                               {"seed", RF_OPTION_INTEGER, &seed, 0, INT64_MAX},
                               {"instruction", RF_OPTION_TEXT, &style->instruction, 0, 0},
                               {"shots", RF_OPTION_INTEGER, &style->n_shots, 0, 1000},
                               {"shots-from", RF_OPTION_TEXT, &style->shots_from, 0, 0},
                               {"raw", RF_OPTION_FLAG, &style->raw, 0, 0},
                               {"samples", RF_OPTION_INTEGER, &eval->n_samples, 1, 1 << 16},
                               {"check", RF_OPTION_TEXT, &eval->judge.command, 0, 0},
                               {"run-code", RF_OPTION_FLAG, &run_code, 0, 0},
                               {"unsafe-run", RF_OPTION_FLAG, &unsafe, 0, 0},
                               {"judge-seconds", RF_OPTION_INTEGER, &judge_seconds, 1, 3600},
                               {"batch", RF_OPTION_INTEGER, &eval->batch, 1, 4096},
                               {"out", RF_OPTION_TEXT, &o->out, 0, 0},
                               {"html", RF_OPTION_TEXT, &o->html, 0, 0},
                               {"title", RF_OPTION_TEXT, &o->title, 0, 0},
                               {"page", RF_OPTION_LIST, &o->pages, 0, 0},
                               {"csv", RF_OPTION_TEXT, &o->csv, 0, 0},
                               {"pick-on", RF_OPTION_TEXT, &o->subject.pick_on, 0, 0},
                               {"within", RF_OPTION_TEXT, &within, 0, 0},
                               {"answers", RF_OPTION_TEXT, &o->answers, 0, 0},
                               {"threads", RF_OPTION_INTEGER, &eval->n_threads, 1, 4096},
                               {"help", RF_OPTION_STOP, &help, 0, 0},
                               {"version", RF_OPTION_STOP, &version, 0, 0},
                               {0}};

    *o = (options){
        .subject = {
            .eval = {.n_draws = 1, .n_masks = 128, .n_samples = 1, .batch = 1, .announce = true}}};
    RF_TRY(rf_options_parse(first, argc, argv, table, "see refusion-eval --help", err));
    eval->likelihood = !no_likelihood;
    eval->seed = (uint64_t)seed;
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
    if (task != NULL && (eval->task = rf_task_find(task)) == NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--task %s is unknown: refusion-eval --help lists the tasks", task);
    }
    eval->judge.code = unsafe ? RF_CODE_UNSAFE : run_code ? RF_CODE_ISOLATED : RF_CODE_OFF;
    eval->judge.seconds = (double)judge_seconds;
    complete(&o->subject);
    if (within != NULL) {
        RF_TRY(rf_options_real(&o->within, within, "--within", 0, 100, err));
    }
    return check(o, err);
}

/* --- Program ---------------------------------------------------------------------------------- */

/* What a person is told beside the report. */
static void warn_of_nothing(const rf_eval_options *eval, const rf_eval_result *result,
                            int64_t positions)
{
    if (eval->likelihood && !(result->sum.scored > 0)) {
        rf_log_warn("nothing was scored: %.0f of %" PRId64 " questions are too long for the "
                    "model's %" PRId64 " positions",
                    result->sum.too_long, result->n, positions);
    }
    if (rf_eval_decodes(eval) && !(result->sum.decoded > 0)) {
        rf_log_warn("nothing was decoded: no question fits the model's %" PRId64
                    " positions beside decode.gen_length=%" PRId64,
                    positions, eval->decode.gen_length);
    }
}

/* One page with the report, the runs whose folders are the models, and what --page names. */
static int write_page(const options *o, const json_t *report, rf_error *err)
{
    char *title = o->title != NULL          ? rf_alloc_string(o->title)
                  : o->subject.data == NULL ? rf_alloc_string("refusion report")
                                            : rf_alloc_format("Evaluation on %s", o->subject.data);
    json_t *page = rf_page_new(title);
    int rc = RF_OK;
    if (report != NULL) {
        rf_page_add_report(page, report);
    }
    for (int i = 0; i < o->models.n && rc == RF_OK; i++) {
        char file[RF_PATH_BYTES];
        if (rf_file_join(file, sizeof file, o->models.item[i], "metrics.jsonl", NULL) == RF_OK &&
            rf_file_exists(file)) {
            rc = rf_page_add_file(page, file, err);
        }
    }
    for (int i = 0; i < o->pages.n && rc == RF_OK; i++) {
        rc = rf_page_add_file(page, o->pages.item[i], err);
    }
    rc = rc == RF_OK ? rf_page_save(o->html, page, err) : rc;
    json_decref(page);
    free(title);
    return rc;
}

/* Rank 0 writes what all know. */
static int report_one(const options *o, const rf_eval_result *result, const rf_subject *s,
                      const rf_dist *dist, rf_error *err)
{
    const rf_setting *setting = &s->setting[0];
    rf_report_context context = {.model = s->loaded.path,
                                 .data = o->subject.data,
                                 .loaded = &s->loaded,
                                 .weights = o->n_weights > 0 ? o->weights : &s->loaded.weights,
                                 .n_results = o->n_weights > 0 ? o->n_weights : 1,
                                 .n_ranks = rf_dist_size(dist),
                                 .n_threads = s->loaded.model->ctx->n_threads,
                                 .decode = setting->json,
                                 .question = s->question};
    if (rf_dist_rank(dist) != 0) {
        return RF_OK;
    }
    rf_report_print(stdout, result, &setting->eval, &context);
    warn_of_nothing(&setting->eval, result, s->loaded.info.model.max_position_embeddings);
    if (fflush(stdout) != 0) {
        return rf_error_set(err, RF_ERR, "cannot write to standard output: %m");
    }
    json_t *report = rf_report_json(result, &setting->eval, &context);
    int rc = o->out != NULL ? rf_report_save(o->out, report, err) : RF_OK;
    rc = rc == RF_OK && o->html != NULL ? write_page(o, report, err) : rc;
    json_decref(report);
    return rc == RF_OK && o->answers != NULL
               ? rf_report_answers(o->answers, result, s->question, err)
               : rc;
}

/* A folder that does not exist is noticed before the work, not after it. */
static int check_output(const char *path, const rf_dist *dist, rf_error *err)
{
    rf_atomic file = {0};
    int rc = path != NULL && rf_dist_rank(dist) == 0 ? rf_atomic_begin(&file, path, err) : RF_OK;
    rf_atomic_abandon(&file);
    return rc;
}

static int check_outputs(const options *o, const rf_subject *s, const rf_dist *dist, rf_error *err)
{
    const char *const outputs[] = {o->out, o->answers, o->csv, o->html};
    const char *const inputs[] = {s->loaded.path, s->loaded.adapter, o->subject.data,
                                  o->subject.pick_on};
    RF_TRY(rf_output_check(outputs, 4, inputs, 4, err));
    for (int i = 0; i < 4; i++) {
        RF_TRY(check_output(outputs[i], dist, err));
    }
    return RF_OK;
}

static int check_samples(const rf_eval_options *eval, rf_error *err)
{
    if (eval->n_samples > 1 && eval->task->by_likelihood) {
        return rf_error_set(err, RF_ERR_USAGE, "--samples goes with decoding: --task %s scores",
                            eval->task->name);
    }
    if (eval->n_samples > 1 && !(eval->decode.temperature > 0)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--samples %" PRId64 " with decode.temperature=0 gives one answer many "
                            "times: raise decode.temperature",
                            eval->n_samples);
    }
    return RF_OK;
}

/* Opens the subjects [o->models.n]. */
static int prepare(const options *o, rf_subject *subject, const rf_grid *grid, const rf_dist *dist,
                   rf_error *err)
{
    const rf_eval_options *eval = &o->subject.eval;
    RF_TRY(eval->task != NULL ? rf_judge_check(&eval->judge, err) : RF_OK);
    for (int i = 0; i < o->models.n; i++) {
        rf_subject *s = &subject[i];
        RF_TRY(rf_subject_open(s, o->models.item[i], o->adapter, grid, &o->subject, err));
        RF_TRY(check_outputs(o, s, dist, err));
        s->loaded.weights = o->n_weights > 0 ? o->weights[0] : s->loaded.weights;
        for (int64_t k = 0; k < s->n_settings && rf_dist_rank(dist) == 0; k++) {
            const rf_decoder *kind = s->setting[k].eval.decode.kind;
            RF_TRY(check_samples(&s->setting[k].eval, err));
            if (k == 0 || kind != s->setting[k - 1].eval.decode.kind) {
                RF_TRY(rf_loaded_check_decoder(&s->loaded, kind, err));
            }
        }
    }
    return RF_OK;
}

/* *out: NULL where answers go nowhere, or into a device. */
static int open_journal(rf_journal **out, const options *o, const rf_subject *s,
                        const rf_dist *dist, rf_error *err)
{
    char resolved[RF_PATH_BYTES];
    bool in_place = false;
    uint64_t settings;
    *out = NULL;
    if (o->answers == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_output_resolve(resolved, &in_place, o->answers, err));
    if (in_place) {
        return RF_OK;
    }
    RF_TRY(rf_subject_hash(&settings, s, err));
    RF_TRY(rf_journal_open(out, o->answers, rf_dist_rank(dist), settings, err));
    if (rf_dist_rank(dist) == 0 && rf_journal_known(*out) > 0) {
        rf_log_info("%s.partial.*: going on from what an interrupted run has left (%" PRId64
                    " answers and scores)",
                    o->answers, rf_journal_known(*out));
    }
    return RF_OK;
}

static int run_one(const options *o, rf_subject *s, rf_dist *dist, rf_error *err)
{
    rf_eval_result result[RF_N_LAYOUTS] = {0};
    rf_eval_options *eval = &s->setting[0].eval;
    int rc, n = o->n_weights > 0 ? o->n_weights : 1;
    rc = open_journal(&eval->journal, o, s, dist, err);
    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    for (int i = 0; i < n; i++) {
        rf_loaded_drop_model(&s->loaded);
        s->loaded.weights = o->n_weights > 0 ? o->weights[i] : s->loaded.weights;
        RF_TRY_OUT(rf_eval_run(&result[i], &s->loaded, s->question, s->n, eval, dist, err));
    }
    RF_TRY_OUT(rf_dist_agree(dist, report_one(o, result, s, dist, err), err));
    if (eval->journal != NULL && rf_dist_rank(dist) == 0) {
        rf_journal_remove(o->answers);
    }
out:
    for (int i = 0; i < n; i++) {
        rf_eval_result_free(&result[i]);
    }
    rf_journal_close(eval->journal);
    eval->journal = NULL;
    return rc;
}

static int run_sweep(const options *o, rf_subject *subject, const char *inputs, rf_dist *dist,
                     rf_error *err)
{
    const rf_sweep_options sweep = {.data = o->subject.data,
                                    .pick_on = o->subject.pick_on,
                                    .out = o->out,
                                    .csv = o->csv,
                                    .within = o->within,
                                    .seed = o->subject.eval.seed};
    json_t *report = NULL;
    RF_TRY(rf_sweep_run(&report, subject, o->models.n, inputs, &sweep, dist, err));
    int rc = o->html != NULL && rf_dist_rank(dist) == 0 ? write_page(o, report, err) : RF_OK;
    json_decref(report);
    return rf_dist_agree(dist, rc, err);
}

static int run(const options *o, char **assignment, int n_assignments, rf_dist *dist, rf_error *err)
{
    rf_subject *subject = rf_alloc((size_t)o->models.n, sizeof *subject);
    rf_grid grid = {0};
    char *inputs = NULL;
    int rc;

    if (only_page(o)) {
        rc = rf_dist_rank(dist) == 0 ? write_page(o, NULL, err) : RF_OK;
        goto out;
    }
    RF_TRY_OUT(rf_grid_new(&grid, assignment, n_assignments, err));
    RF_TRY_OUT(check_sweep(o, &grid, err));
    rc = prepare(o, subject, &grid, dist, err);
    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    rc = rf_subjects_describe(&inputs, subject, o->models.n, err);
    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    RF_TRY_OUT(rf_dist_same_text(dist, inputs, err));
    rc = is_sweep(o, &grid) ? run_sweep(o, subject, inputs, dist, err)
                            : run_one(o, &subject[0], dist, err);
out:
    for (int i = 0; i < o->models.n; i++) {
        rf_subject_close(&subject[i]);
    }
    free(subject);
    free(inputs);
    rf_grid_free(&grid);
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
    free(o.models.item);
    free(o.pages.item);
    return rf_error_exit_status(rc);
}
