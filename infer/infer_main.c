/* refusion-infer: answers of a trained model. Runs without MPI. */
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "common/base/manual/manual.h"
#include "common/base/utf8.h"
#include "common/store/journal.h"
#include "infer/answers.h"
#include "infer/decode/stop.h"
#include "infer/talk.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct options {
    rf_loaded_source source;
    rf_option_list stop;
    char *settings; /* resolved. Owned */
    rf_answers_options run;
} options;

static const rf_config_key *const key_tables[] = {rf_decode_keys, NULL};

static const rf_option option_table[] = {
    {"model", "FILE",
     "checkpoint to decode with, or the folder of a run: its best checkpoint on validation, else "
     "its latest",
     RF_OPTION_TEXT, .at = offsetof(options, source.model), .once = true},
    {"adapter", "FILE",
     "adapters that were trained beside that checkpoint (lora.*), or the folder of their run; as "
     "--model they find their base themselves",
     RF_OPTION_TEXT, .at = offsetof(options, source.adapter), .once = true},
    {"weights", "f32|bf16|int8",
     "f32 (default), bf16 (default of what was trained with train.compute=bf16, where this machine "
     "multiplies bf16) or int8 (default of a quantized checkpoint): smaller and faster",
     RF_OPTION_CHOICE, .at = offsetof(options, source.weights)},
    {"backend", "auto|cpu|cuda|ref32|ref64",
     "auto (default): cuda where the program has it and finds a GPU, else cpu; one that is named "
     "is never replaced",
     RF_OPTION_CHOICE, .at = offsetof(options, source.backend)},
    {"prompt", "TEXT", "one prompt: the answer goes to stdout", RF_OPTION_TEXT,
     .at = offsetof(options, run.prompt), .once = true},
    {"prompts", "FILE",
     "JSON lines {\"query\"} or {\"messages\"}, .gz too: an answer a line, {\"text\", \"ids\", "
     "\"forwards\", \"places\", \"tokens_per_forward\", \"seconds\", \"ended\", \"stop\", "
     "\"too_long\"} (too_long: it does not fit the model, and the others go on; where none fits, "
     "the exit status is 1)",
     RF_OPTION_TEXT, .at = offsetof(options, run.prompts), .once = true},
    {"out", "FILE",
     "answers of --prompts go here instead of stdout; until all are there they are in "
     "FILE.partial.0, from which the same command goes on after an interruption",
     RF_OPTION_TEXT, .at = offsetof(options, run.out), .once = true},
    {"limit", "N", "only the first N prompts of the file", RF_OPTION_INTEGER,
     .at = offsetof(options, run.limit), .min = 1, .max = INT64_MAX},
    {"batch", "N",
     "prompts of the file that are answered at once (default 8); answers do not depend on it",
     RF_OPTION_INTEGER, .at = offsetof(options, run.batch), .min = 1, .max = 4096},
    {"stop", "STRING",
     "an answer ends before this string, and nothing behind it is decoded; may be repeated",
     RF_OPTION_LIST, .at = offsetof(options, stop)},
    {"control-tokens", NULL, "special tokens written out in prompts are those tokens, not text",
     RF_OPTION_FLAG, .at = offsetof(options, source.control_tokens)},
    {"date", "today|DAY",
     "what chat templates take for the date (strftime_now): today, or a day as 2026-11-28, which "
     "answers of --prompts then tell; else 26 Jul 2024",
     RF_OPTION_TEXT, .at = offsetof(options, source.date)},
    {"raw", NULL, "the prompt is the beginning of a plain text, not a question", RF_OPTION_FLAG,
     .at = offsetof(options, run.raw)},
    {"show", NULL, "paint which slot is filled when", RF_OPTION_FLAG,
     .at = offsetof(options, run.show)},
    {"trace", "FILE", "JSON: what became of each place in every round of the answer to --prompt",
     RF_OPTION_TEXT, .at = offsetof(options, run.trace), .once = true},
    {"pause", "MS", "after each picture of --show on a terminal (default 120)", RF_OPTION_INTEGER,
     .at = offsetof(options, run.pause_ms), .min = 0, .max = 60000},
    {"max-prompt", "N",
     "longest prompt in tokens where prompts come one by one (default: what the model has room "
     "for, at most 1024), or longest conversation (4096)",
     RF_OPTION_INTEGER, .at = offsetof(options, run.max_prompt), .min = 1, .max = 1 << 20},
    {"threads", "N", "default: the cores this process may use", RF_OPTION_INTEGER,
     .at = offsetof(options, run.n_threads), .min = 1, .max = 4096},
    {0}};

static const rf_manual manual = {
    .name = "refusion-infer",
    .summary = "answers of a trained model",
    .synopsis =
        "refusion-infer --model CHECKPOINT.h5|RUN_FOLDER [options] [decode.key=value ...]\n",
    .text =
        "Answers one prompt, a file of prompts, or each line of standard input: by one line, in\n"
        "which line breaks are \\n and \\r and a backslash is \\\\ where standard output is no\n"
        "terminal. On a terminal without a prompt it is a conversation: /help there tells how\n"
        "to steer it.\n",
    .option = option_table,
    .key = key_tables,
    .key_title = "Settings (defaults: those of the run that trained the model)"};

/* Options that do not go together. */
static int check_uses(const rf_answers_options *run, rf_error *err)
{
    const bool one = run->prompt != NULL, file = run->prompts != NULL;
    const struct {
        bool is_wrong;
        const char *text;
    } rules[] = {
        {one && file, "--prompt and --prompts exclude each other: give one of them"},
        {one && run->prompt[0] == '\0' && !run->raw,
         "--prompt is empty: ask something, or let --raw begin a text with nothing"},
        {file && (run->show || run->raw),
         "--show and --raw go with single prompts: leave out --prompts"},
        {run->trace != NULL && !one, "--trace records one answer: give --prompt"},
        {run->trace != NULL && one && !rf_utf8_is_valid(run->prompt, strlen(run->prompt), NULL),
         "--prompt is no UTF-8, which --trace would have to hold: leave out --trace"},
        {!file && (run->out != NULL || run->limit > 0 || run->batch > 0),
         "--out, --limit and --batch go with --prompts: give a file"},
        {(one || file) && run->max_prompt > 0, "--max-prompt is for lines of standard input and "
                                               "conversations: leave it out, --prompt and "
                                               "--prompts have the room that they need"},
        {!run->show && run->pause_ms >= 0, "--pause is of the pictures of --show: give both"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].is_wrong) {
            return rf_error_set(err, RF_ERR_USAGE, "%s", rules[i].text);
        }
    }
    return RF_OK;
}

/* *first: index of the assignments. */
static int parse(options *o, int *first, int argc, char **argv, rf_error *err)
{
    rf_answers_options *run = &o->run;
    *o = (options){.run = {.pause_ms = -1}};
    RF_TRY(rf_manual_parse(first, o, argc, argv, &manual, err));
    if (o->source.model == NULL) {
        return rf_manual_missing(&manual, "--model", err);
    }
    RF_TRY(check_uses(run, err));
    run->batch = run->batch > 0 ? run->batch : 8;
    run->pause_ms = run->pause_ms >= 0 ? run->pause_ms : 120;
    run->stops = o->stop.item;
    return rf_stops_check(run->stops, err);
}

/* The run's own decode settings, then the assignments of the command line. */
static int read_settings(options *o, const rf_loaded *loaded, char **assignment, int n,
                         rf_error *err)
{
    rf_config *config = NULL;
    int rc;
    RF_TRY(rf_loaded_check_assignments(assignment, n, NULL, err));
    RF_TRY_OUT(rf_loaded_settings(&config, loaded, assignment, n, err));
    RF_TRY_OUT(rf_decode_options_from_config(&o->run.decode, config, err));
    o->run.settings = o->settings = rf_config_text(config, false);
    rc = rf_loaded_check_decoder(loaded, o->run.decode.kind, err);
out:
    rf_config_free(config);
    return rc;
}

static int check_outputs(const options *o, const rf_loaded *loaded, rf_error *err)
{
    char journal[RF_PATH_BYTES + 32];
    const char *const outputs[] = {o->run.out, o->run.trace, o->run.out != NULL ? journal : NULL};
    if (o->run.out != NULL) {
        rf_journal_name(journal, sizeof journal, o->run.out, 0);
    }
    RF_TRY(rf_loaded_check_outputs(loaded, outputs, 3, (const char *[]){o->run.prompts}, 1, err));
    for (int i = 0; i < 2; i++) { /* noticed before the work, not after it */
        RF_TRY(outputs[i] != NULL ? rf_atomic_try(outputs[i], err) : RF_OK);
    }
    return RF_OK;
}

static int run(options *o, rf_loaded *loaded, char **assignment, int n, rf_error *err)
{
    RF_TRY(rf_loaded_open(loaded, &o->source, err));
    RF_TRY(check_outputs(o, loaded, err));
    RF_TRY(read_settings(o, loaded, assignment, n, err));
    o->run.assignment = assignment;
    o->run.n_assignments = n;
    const bool asked = o->run.prompt != NULL || o->run.prompts != NULL;
    return !asked && isatty(STDIN_FILENO) && isatty(STDERR_FILENO)
               ? rf_talk_run(loaded, &o->run, err)
               : rf_answers_run(loaded, &o->run, err);
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_loaded loaded = {0};
    options o = {0};
    bool answered;
    int first = argc;
    rf_log_set_program("refusion-infer");
    int rc = rf_manual_answer(&answered, &manual, argc, argv, &err);
    if (!answered) {
        rc = parse(&o, &first, argc, argv, &err);
    }
    rf_output_clean_on_signals();
    if (rc == RF_OK && !answered) {
        rc = run(&o, &loaded, argv + first, argc - first, &err);
    }
    rf_loaded_close(&loaded);
    free(o.stop.item);
    free(o.settings);
    if (rc != RF_OK) {
        rf_log_error(&err);
    }
    return rf_error_exit_status(rc);
}
