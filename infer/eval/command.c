#include "infer/eval/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
static int take_weights(rf_command *o, const char *list, rf_error *err)
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

bool rf_command_only_pages(const rf_command *o)
{
    return o->models.n == 0 && o->pages.n > 0;
}

bool rf_command_is_sweep(const rf_command *o, const rf_grid *grid)
{
    return o->models.n > 1 || grid->n > 1 || o->subject.pick_on != NULL;
}

int rf_command_check_sweep(const rf_command *o, const rf_grid *grid, rf_error *err)
{
    const char *stray = o->answers != NULL                      ? "--answers"
                        : o->n_weights > 1                      ? "--weights with several types"
                        : o->models.n > 1 && o->adapter != NULL ? "--adapter"
                                                                : NULL;
    if (!rf_command_is_sweep(o, grid)) {
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

static int check(const rf_command *o, rf_error *err)
{
    const rf_eval_options *eval = &o->subject.eval;
    if (o->pages.n > 0 && o->html == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "--page is shown on a page: give --html FILE");
    }
    if (rf_command_only_pages(o)) {
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

/* Options that mean something else than their words. */
typedef struct words {
    const char *weights, *task, *within;
    bool no_likelihood, run_code, unsafe, help, version;
    int64_t seed, judge_seconds;
} words;

static int read_words(rf_command *o, words *w, int *first, int argc, char **argv, rf_error *err)
{
    rf_eval_options *eval = &o->subject.eval;
    rf_question_style *style = &o->subject.style;
    const rf_option table[] = {{"model", RF_OPTION_LIST, &o->models, 0, 0},
                               {"adapter", RF_OPTION_TEXT, &o->adapter, 0, 0},
                               {"weights", RF_OPTION_TEXT, &w->weights, 0, 0},
                               {"backend", RF_OPTION_TEXT, &o->subject.backend, 0, 0},
                               {"data", RF_OPTION_TEXT, &o->subject.data, 0, 0},
                               {"task", RF_OPTION_TEXT, &w->task, 0, 0},
                               {"control-tokens", RF_OPTION_FLAG, &o->subject.control_tokens, 0, 0},
                               {"no-likelihood", RF_OPTION_FLAG, &w->no_likelihood, 0, 0},
                               {"limit", RF_OPTION_INTEGER, &o->subject.limit, 1, INT64_MAX},
                               {"draws", RF_OPTION_INTEGER, &eval->n_draws, 1, 1 << 20},
                               {"masks", RF_OPTION_INTEGER, &eval->n_masks, 1, 1 << 20},
                               {"seed", RF_OPTION_INTEGER, &w->seed, 0, INT64_MAX},
                               {"instruction", RF_OPTION_TEXT, &style->instruction, 0, 0},
                               {"shots", RF_OPTION_INTEGER, &style->n_shots, 0, 1000},
                               {"shots-from", RF_OPTION_TEXT, &style->shots_from, 0, 0},
                               {"raw", RF_OPTION_FLAG, &style->raw, 0, 0},
                               {"samples", RF_OPTION_INTEGER, &eval->n_samples, 1, 1 << 16},
                               {"check", RF_OPTION_TEXT, &eval->judge.command, 0, 0},
                               {"run-code", RF_OPTION_FLAG, &w->run_code, 0, 0},
                               {"unsafe-run", RF_OPTION_FLAG, &w->unsafe, 0, 0},
                               {"judge-seconds", RF_OPTION_INTEGER, &w->judge_seconds, 1, 3600},
                               {"batch", RF_OPTION_INTEGER, &eval->batch, 1, 4096},
                               {"out", RF_OPTION_TEXT, &o->out, 0, 0},
                               {"html", RF_OPTION_TEXT, &o->html, 0, 0},
                               {"title", RF_OPTION_TEXT, &o->title, 0, 0},
                               {"page", RF_OPTION_LIST, &o->pages, 0, 0},
                               {"csv", RF_OPTION_TEXT, &o->csv, 0, 0},
                               {"pick-on", RF_OPTION_TEXT, &o->subject.pick_on, 0, 0},
                               {"within", RF_OPTION_TEXT, &w->within, 0, 0},
                               {"answers", RF_OPTION_TEXT, &o->answers, 0, 0},
                               {"threads", RF_OPTION_INTEGER, &eval->n_threads, 1, 4096},
                               {"help", RF_OPTION_STOP, &w->help, 0, 0},
                               {"version", RF_OPTION_STOP, &w->version, 0, 0},
                               {0}};
    return rf_options_parse(first, argc, argv, table, "see refusion-eval --help", err);
}

int rf_command_parse(rf_command *o, int *first, int argc, char **argv, bool *done, rf_error *err)
{
    words w = {.judge_seconds = 10};
    rf_eval_options *eval = &o->subject.eval;
    *o = (rf_command){
        .subject = {
            .eval = {.n_draws = 1, .n_masks = 128, .n_samples = 1, .batch = 1, .announce = true}}};
    RF_TRY(read_words(o, &w, first, argc, argv, err));
    eval->likelihood = !w.no_likelihood;
    eval->seed = (uint64_t)w.seed;
    *done = w.help || w.version;
    if (w.help) {
        print_usage();
    } else if (w.version) {
        printf("refusion-eval %s\n", RF_VERSION);
    }
    if (*done) {
        return RF_OK;
    }
    if (w.weights != NULL) {
        RF_TRY(take_weights(o, w.weights, err));
    }
    if (w.task != NULL && (eval->task = rf_task_find(w.task)) == NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--task %s is unknown: refusion-eval --help lists the tasks", w.task);
    }
    eval->judge.code = w.unsafe ? RF_CODE_UNSAFE : w.run_code ? RF_CODE_ISOLATED : RF_CODE_OFF;
    eval->judge.seconds = (double)w.judge_seconds;
    complete(&o->subject);
    if (w.within != NULL) {
        RF_TRY(rf_options_real(&o->within, w.within, "--within", 0, 100, err));
    }
    return check(o, err);
}

void rf_command_free(rf_command *o)
{
    free(o->models.item);
    free(o->pages.item);
}
