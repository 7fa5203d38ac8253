#include "infer/eval/command.h"

#include "common/base/manual/manual.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Defaults that the help tells: what differs from them was given. */
enum { USUAL_MASKS = 128, USUAL_SECONDS = 10 };

static const rf_config_key *const key_tables[] = {rf_decode_keys, rf_objective_keys, NULL};

/* The command, and words that mean something else. */
typedef struct line {
    rf_command command;
    const char *weights, *task, *within;
    bool no_likelihood, run_code, unsafe_run;
    int64_t seed, judge_seconds;
} line;

static const char *task_word(int i, const char **help)
{
    *help = rf_tasks[i] != NULL ? rf_tasks[i]->help : NULL;
    return rf_tasks[i] != NULL ? rf_tasks[i]->name : NULL;
}

static const rf_option option_table[] = {
    {"model", "FILE",
     "checkpoint, or the folder of a run: its best checkpoint on validation, else its latest; may "
     "be given several times",
     RF_OPTION_LIST, .at = offsetof(line, command.models)},
    {"adapter", "FILE",
     "adapters that were trained beside that checkpoint (lora.*), or the folder of their run; as "
     "--model they find their base themselves",
     RF_OPTION_TEXT, .at = offsetof(line, command.subject.source.adapter), .once = true},
    {"weights", "f32|bf16|int8[,...]",
     "f32 (default), bf16 (default of what was trained with train.compute=bf16, where this machine "
     "multiplies bf16) or int8 (default of a quantized checkpoint); or several, as f32,bf16,int8: "
     "losses and likelihood of each, side by side",
     RF_OPTION_TEXT, .at = offsetof(line, weights)},
    {"backend", "auto|cpu|cuda|ref32|ref64",
     "auto (default): cuda where the program has it and finds a GPU, else cpu; one that is named "
     "is never replaced",
     RF_OPTION_CHOICE, .at = offsetof(line, command.subject.source.backend)},
    {"data", "FILE",
     "JSON lines {\"query\",\"response\"} or {\"messages\"}, or the official file of the task; .gz "
     "too; or a folder of .json files",
     RF_OPTION_TEXT, .at = offsetof(line, command.subject.data), .once = true},
    {"task", "TASK", "decode an answer to each question and judge it:", RF_OPTION_CHOICE,
     .at = offsetof(line, task), .word = task_word},
    {"instruction", "TEXT", "said below each question", RF_OPTION_TEXT,
     .at = offsetof(line, command.subject.style.instruction), .once = true},
    {"shots", "N",
     "questions with their answers before each question: the same for all, drawn by --seed, never "
     "the question itself",
     RF_OPTION_INTEGER, .at = offsetof(line, command.subject.style.n_shots), .min = 0, .max = 1000},
    {"shots-from", "FILE",
     "where those come from (default: --data); without --shots as many as are usual (gsm8k 5, math "
     "4, mmlu-pro 5, mbpp 3)",
     RF_OPTION_TEXT, .at = offsetof(line, command.subject.style.shots_from), .once = true},
    {"raw", NULL,
     "questions and shots as plain text in the words of lm-evaluation-harness, not as a "
     "conversation: for models that were not taught any",
     RF_OPTION_FLAG, .at = offsetof(line, command.subject.style.raw)},
    {"pick-on", "FILE",
     "questions on which the settings of a sweep are tried; then the best one of each model and "
     "decoder is judged on --data",
     RF_OPTION_TEXT, .at = offsetof(line, command.subject.pick_on), .once = true},
    {"within", "POINTS",
     "best is the fastest setting of at most so many points (percent) less accuracy than the most "
     "accurate (default 0)",
     RF_OPTION_TEXT, .at = offsetof(line, within)},
    {"control-tokens", NULL, "special tokens written out in questions are those tokens, not text",
     RF_OPTION_FLAG, .at = offsetof(line, command.subject.source.control_tokens)},
    {"date", "today|DAY",
     "what chat templates take for the date (strftime_now): today, or a day as 2026-11-28, which "
     "the report then tells; else 26 Jul 2024",
     RF_OPTION_TEXT, .at = offsetof(line, command.subject.source.date)},
    {"no-likelihood", NULL, "leave out likelihood and losses", RF_OPTION_FLAG,
     .at = offsetof(line, no_likelihood)},
    {"limit", "N", "only the first N questions", RF_OPTION_INTEGER,
     .at = offsetof(line, command.subject.limit), .min = 1, .max = INT64_MAX},
    {"draws", "N", "noise draws a sample for the losses (default 1)", RF_OPTION_INTEGER,
     .at = offsetof(line, command.subject.eval.n_draws), .min = 1, .max = 1 << 20},
    {"masks", "N",
     "masks drawn for the bound on a likelihood of mdm and block (default 128); of 8 tokens or "
     "fewer all masks are taken",
     RF_OPTION_INTEGER, .at = offsetof(line, command.subject.eval.n_masks), .min = 1,
     .max = 1 << 20},
    {"seed", "N", "of that noise, and of the shots (default 0)", RF_OPTION_INTEGER,
     .at = offsetof(line, seed), .min = 0, .max = INT64_MAX},
    {"samples", "N",
     "answers to each question (default 1): pass@k, and what most of them say; needs "
     "decode.temperature above 0",
     RF_OPTION_INTEGER, .at = offsetof(line, command.subject.eval.n_samples), .min = 1,
     .max = 1 << 16},
    {"check", "COMMAND",
     "judges answers instead of a task: gets {\"query\", \"expected\", \"answer\", \"index\", "
     "\"sample\"} on standard input, says true or false (or ends with 0 or 1)",
     RF_OPTION_TEXT, .at = offsetof(line, command.subject.eval.judge.command), .once = true},
    {"run-code", NULL,
     "run the programs that the model writes for humaneval and mbpp by python3, in namespaces of "
     "their own: no network, read-only files, limits",
     RF_OPTION_FLAG, .at = offsetof(line, run_code)},
    {"unsafe-run", NULL, "run them without namespaces, with your rights", RF_OPTION_FLAG,
     .at = offsetof(line, unsafe_run)},
    {"judge-seconds", "N", "for each program or command (default 10)", RF_OPTION_INTEGER,
     .at = offsetof(line, judge_seconds), .min = 1, .max = 3600},
    {"batch", "N",
     "questions that a rank decodes at once (default 1: latencies are those of one user); answers "
     "do not depend on it",
     RF_OPTION_INTEGER, .at = offsetof(line, command.subject.eval.batch), .min = 1, .max = 4096},
    {"out", "FILE", "report.json", RF_OPTION_TEXT, .at = offsetof(line, command.out), .once = true},
    {"html", "FILE",
     "report.html: one page with table, curves, order of the slots and answers that play; opens "
     "from disk",
     RF_OPTION_TEXT, .at = offsetof(line, command.html), .once = true},
    {"title", "TEXT", "of that page", RF_OPTION_TEXT, .at = offsetof(line, command.title)},
    {"page", "FILE",
     "report.json, or metrics.jsonl or the folder of a run, to be shown on that page too; may be "
     "given several times; without --model: these alone",
     RF_OPTION_LIST, .at = offsetof(line, command.pages)},
    {"csv", "FILE", "the rows of a sweep as comma-separated values", RF_OPTION_TEXT,
     .at = offsetof(line, command.csv), .once = true},
    {"answers", "FILE",
     "JSON lines {\"query\", \"expected\", \"text\", \"correct\", ...}; while it runs "
     "FILE.partial.*, from which the same command goes on",
     RF_OPTION_TEXT, .at = offsetof(line, command.answers), .once = true},
    {"threads", "N", "of a rank; default: the host's cores shared among its ranks",
     RF_OPTION_INTEGER, .at = offsetof(line, command.subject.eval.n_threads), .min = 1,
     .max = 4096},
    {0}};

static const rf_manual manual = {
    .name = "refusion-eval",
    .summary = "losses, likelihood and accuracy of a model",
    .synopsis = "refusion-eval --model CHECKPOINT.h5|RUN_FOLDER --data FILE.jsonl [options]\n"
                "              [key=value ...]\n"
                "mpirun -n N refusion-eval ...        shares the questions among ranks\n"
                "refusion-eval --html FILE --page REPORT.json|RUN_FOLDER ...\n",
    .text =
        "Losses of the training objective (AR and denoising apart), likelihood of the reference\n"
        "responses per token and per byte, and, with --task, answers decoded and judged.\n"
        "\n"
        "Several models, or settings of decode.* as lists and ranges, are a sweep: every\n"
        "combination has a row, and what --out holds is not computed again.\n"
        "\n"
        "  refusion-eval --model runs/a --model runs/b --data test.jsonl --task sudoku4\n"
        "      --out r.json decode.kind=refusion,ar decode.slot_threshold=0.5:0.9:0.1\n",
    .option = option_table,
    .key = key_tables,
    .key_title = "Settings (defaults: those of the run that trained the model)"};

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
    const char *stray = o->answers != NULL ? "--answers"
                        : o->n_weights > 1 ? "--weights with several types"
                        : o->models.n > 1 && o->subject.source.adapter != NULL ? "--adapter"
                                                                               : NULL;
    if (!rf_command_is_sweep(o, grid)) {
        const char *of_rows = o->csv != NULL  ? "--csv holds the rows"
                              : o->within > 0 ? "--within chooses among the rows"
                                              : NULL;
        return of_rows == NULL ? RF_OK
                               : rf_error_set(err, RF_ERR_USAGE,
                                              "%s of a sweep: give several models, or lists of "
                                              "settings",
                                              of_rows);
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

int rf_command_check_masks(const rf_command *o, const rf_subject *subject, rf_error *err)
{
    bool is_drawn = o->subject.eval.n_masks == USUAL_MASKS;
    for (int i = 0; i < o->models.n; i++) {
        const rf_eval_options *eval = &subject[i].setting[0].eval;
        const rf_scoring how = rf_eval_scoring(eval);
        is_drawn = is_drawn || (rf_eval_scores(eval) && rf_scoring_is_bound(&how));
    }
    return is_drawn ? RF_OK
                    : rf_error_set(err, RF_ERR_USAGE,
                                   "--masks goes with a bound on a likelihood (models of mdm and "
                                   "block): here is none");
}

/* What would evaluate something, where only pages are shown. */
static int check_only_pages(const rf_command *o, rf_error *err)
{
    const rf_eval_options *eval = &o->subject.eval;
    const char *stray = o->subject.data != NULL                ? "--data"
                        : eval->judge.command != NULL          ? "--check"
                        : eval->task != NULL                   ? "--task"
                        : o->out != NULL                       ? "--out"
                        : o->answers != NULL                   ? "--answers"
                        : o->csv != NULL                       ? "--csv"
                        : o->subject.pick_on != NULL           ? "--pick-on"
                        : o->within > 0                        ? "--within"
                        : o->subject.limit > 0                 ? "--limit"
                        : eval->n_samples > 1                  ? "--samples"
                        : eval->batch > 1                      ? "--batch"
                        : eval->n_draws > 1                    ? "--draws"
                        : eval->n_masks != USUAL_MASKS         ? "--masks"
                        : eval->judge.code == RF_CODE_ISOLATED ? "--run-code"
                        : eval->judge.code == RF_CODE_UNSAFE   ? "--unsafe-run"
                        : eval->judge.seconds != USUAL_SECONDS ? "--judge-seconds"
                        : o->subject.style.shots_from != NULL  ? "--shots-from"
                        : o->subject.source.adapter != NULL    ? "--adapter"
                                                               : NULL;
    return stray == NULL ? RF_OK
                         : rf_error_set(err, RF_ERR_USAGE,
                                        "%s goes with --model: without one only what --page names "
                                        "is shown",
                                        stray);
}

/* What says how answers are made and judged, where there is none, or not so. */
static int check_judging(const rf_command *o, rf_error *err)
{
    const rf_eval_options *eval = &o->subject.eval;
    const rf_task *task = eval->task;
    const bool runs = task != NULL && task->program != NULL && eval->judge.command == NULL;
    const char *of_decoding = eval->n_samples > 1 ? "--samples"
                              : eval->batch > 1   ? "--batch"
                                                  : NULL;
    const char *of_answers = o->answers != NULL ? "--answers" : of_decoding;
    if (task == NULL && of_answers != NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "%s goes with --task", of_answers);
    }
    if (of_decoding != NULL && !rf_eval_decodes(eval)) {
        return rf_error_set(err, RF_ERR_USAGE, "%s goes with decoding: --task %s scores",
                            of_decoding, task->name);
    }
    if (eval->judge.command != NULL && task->by_likelihood) {
        return rf_error_set(err, RF_ERR_USAGE, "--check judges decoded answers: --task %s has none",
                            task->name);
    }
    if (eval->judge.code != RF_CODE_OFF && !runs) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%s goes with a task whose answers are programs (humaneval, mbpp), and "
                            "without --check",
                            eval->judge.code == RF_CODE_UNSAFE ? "--unsafe-run" : "--run-code");
    }
    if (eval->judge.seconds != USUAL_SECONDS && !runs && eval->judge.command == NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--judge-seconds goes with --check, or with a task whose answers are "
                            "programs (humaneval, mbpp)");
    }
    return RF_OK;
}

static int check(const rf_command *o, rf_error *err)
{
    const rf_eval_options *eval = &o->subject.eval;
    if ((o->pages.n > 0 || o->title != NULL) && o->html == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "%s a page: give --html FILE",
                            o->pages.n > 0 ? "--page is shown on" : "--title is that of");
    }
    if (rf_command_only_pages(o)) {
        return check_only_pages(o, err);
    }
    if (o->models.n == 0 || o->subject.data == NULL) {
        return rf_manual_missing(&manual, o->models.n > 0 ? "--data" : "--model", err);
    }
    if (o->n_weights > 1 && (!eval->likelihood || eval->task != NULL)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--weights with several types compares likelihoods: leave out %s",
                            eval->task != NULL ? "--task" : "--no-likelihood");
    }
    RF_TRY(check_judging(o, err));
    if (o->subject.style.shots_from != NULL && o->subject.style.n_shots == 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--shots-from: no number is usual for %s: give --shots N",
                            eval->task != NULL ? eval->task->name : "questions without a task");
    }
    if (!eval->likelihood && eval->task == NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--no-likelihood without --task leaves nothing to do");
    }
    if (!eval->likelihood && eval->n_draws > 1) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--draws is of the losses, which --no-likelihood leaves out");
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

/* What the words of a line mean. */
static int understand(line *l, rf_error *err)
{
    rf_command *o = &l->command;
    rf_eval_options *eval = &o->subject.eval;
    eval->likelihood = !l->no_likelihood;
    eval->seed = (uint64_t)l->seed;
    if (l->weights != NULL) {
        RF_TRY(take_weights(o, l->weights, err));
    }
    eval->task = l->task != NULL ? rf_task_find(l->task) : NULL;
    eval->judge.code = l->unsafe_run ? RF_CODE_UNSAFE
                       : l->run_code ? RF_CODE_ISOLATED
                                     : RF_CODE_OFF;
    eval->judge.seconds = (double)l->judge_seconds;
    complete(&o->subject);
    if (l->within != NULL) {
        RF_TRY(rf_options_real(&o->within, l->within, "--within", 0, 100, err));
    }
    return check(o, err);
}

int rf_command_parse(rf_command *o, int *first, int argc, char **argv, bool *done, rf_error *err)
{
    line l = {
        .judge_seconds = USUAL_SECONDS,
        .command.subject.eval = {
            .n_draws = 1, .n_masks = USUAL_MASKS, .n_samples = 1, .batch = 1, .announce = true}};
    *o = (rf_command){0};
    int rc = rf_manual_answer(done, &manual, argc, argv, err);
    if (*done) {
        return rc;
    }
    rc = rf_manual_parse(first, &l, argc, argv, &manual, err);
    if (rc == RF_OK) {
        rc = understand(&l, err);
    }
    *o = l.command;
    return rc;
}

void rf_command_free(rf_command *o)
{
    free(o->models.item);
    free(o->pages.item);
}
