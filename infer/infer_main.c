/* refusion-infer: answers of a trained model. Runs without MPI. */
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/base/output.h"
#include "infer/answers.h"
#include "infer/decode/stop.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct options {
    const char *model, *adapter, *weights, *backend;
    char model_path[RF_PATH_BYTES], adapter_path[RF_PATH_BYTES]; /* chosen in run folders */
    bool control_tokens;
    rf_option_list stop;
    rf_answers_options run;
} options;

static const rf_config_key *const key_tables[] = {rf_decode_keys, NULL};

static const char usage[] =
    "usage: refusion-infer --model CHECKPOINT.h5|RUN_FOLDER [options] [decode.key=value ...]\n"
    "\n"
    "Answers one prompt, a file of prompts, or each line of standard input. On a terminal without "
    "a\n"
    "prompt it is a conversation: /help there tells how to steer it.\n"
    "\n"
    "  --model FILE       checkpoint to decode with, or the folder of a run: its best checkpoint\n"
    "                     on validation, else its latest\n"
    "  --adapter FILE     adapters that were trained beside that checkpoint (lora.*), or\n"
    "                     the folder of their run; as --model they find their base themselves\n"
    "  --weights TYPE     f32 (default), bf16 (default of what was trained with\n"
    "                     train.compute=bf16, where this machine multiplies bf16) or int8\n"
    "                     (default of a quantized checkpoint): smaller and faster\n"
    "  --backend NAME     auto (default: cuda where the program has it and finds a GPU), cpu, "
    "cuda,\n"
    "                     ref32 or ref64; one that is named is never replaced\n"
    "  --prompt TEXT      one prompt: the answer goes to stdout\n"
    "  --prompts FILE     JSON lines {\"query\"} or {\"messages\"}, .gz too: an answer a line,\n"
    "                     "
    "{\"text\",\"ids\",\"forwards\",\"places\",\"tokens_per_forward\",\"seconds\","
    "\"ended\",\"stop\",\"too_long\"}\n"
    "                     (too_long: it does not fit the model, and the others go on)\n"
    "  --out FILE         answers of --prompts go here instead of stdout\n"
    "  --limit N          only the first N prompts of the file\n"
    "  --batch N          prompts of the file that are answered at once (default 8); answers do\n"
    "                     not depend on it\n"
    "  --stop STRING      an answer ends before this string, and nothing behind it is decoded; "
    "may\n"
    "                     be repeated\n"
    "  --control-tokens   special tokens written out in prompts are those tokens, not text\n"
    "  --raw              the prompt is the beginning of a plain text, not a question\n"
    "  --show             paint which slot is filled when\n"
    "  --trace FILE       JSON: what became of each place in every round of the answer to "
    "--prompt\n"
    "  --pause MS         after each picture of --show on a terminal (default 120)\n"
    "  --max-prompt N     longest prompt in tokens where prompts come one by one (default: what\n"
    "                     the model has room for, at most 1024), or longest conversation (4096)\n"
    "  --threads N        default: the cores this process may use\n"
    "  -h, --help, --version\n"
    "\n"
    "Settings (defaults: those of the run that trained the model):\n";

static void print_usage(void)
{
    rf_config *config = rf_config_new(key_tables);
    fputs(usage, stdout);
    rf_config_help(config, stdout);
    rf_config_free(config);
}

/* *done: help or the version was asked for. *first: index of the assignments. */
static int parse(options *o, int *first, int argc, char **argv, bool *done, rf_error *err)
{
    static const char see[] = "see refusion-infer --help";
    rf_answers_options *run = &o->run;
    bool help = false, version = false;
    const rf_option table[] = {{"model", RF_OPTION_TEXT, &o->model, 0, 0},
                               {"adapter", RF_OPTION_TEXT, &o->adapter, 0, 0},
                               {"weights", RF_OPTION_TEXT, &o->weights, 0, 0},
                               {"backend", RF_OPTION_TEXT, &o->backend, 0, 0},
                               {"prompt", RF_OPTION_TEXT, &run->prompt, 0, 0},
                               {"prompts", RF_OPTION_TEXT, &run->prompts, 0, 0},
                               {"out", RF_OPTION_TEXT, &run->out, 0, 0},
                               {"limit", RF_OPTION_INTEGER, &run->limit, 1, INT64_MAX},
                               {"batch", RF_OPTION_INTEGER, &run->batch, 1, 4096},
                               {"stop", RF_OPTION_LIST, &o->stop, 0, 0},
                               {"control-tokens", RF_OPTION_FLAG, &o->control_tokens, 0, 0},
                               {"raw", RF_OPTION_FLAG, &run->raw, 0, 0},
                               {"show", RF_OPTION_FLAG, &run->show, 0, 0},
                               {"trace", RF_OPTION_TEXT, &run->trace, 0, 0},
                               {"pause", RF_OPTION_INTEGER, &run->pause_ms, 0, 60000},
                               {"max-prompt", RF_OPTION_INTEGER, &run->max_prompt, 1, 1 << 20},
                               {"threads", RF_OPTION_INTEGER, &run->n_threads, 1, 4096},
                               {"help", RF_OPTION_STOP, &help, 0, 0},
                               {"version", RF_OPTION_STOP, &version, 0, 0},
                               {0}};

    *o = (options){.run = {.batch = 8, .pause_ms = 120}};
    RF_TRY(rf_options_parse(first, argc, argv, table, see, err));
    *done = help || version;
    if (help) {
        print_usage();
    } else if (version) {
        printf("refusion-infer %s\n", RF_VERSION);
    }
    if (*done) {
        return RF_OK;
    }
    if (o->model == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "--model is missing: %s", see);
    }
    if (run->prompt != NULL && run->prompts != NULL) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--prompt and --prompts exclude each other: give one of them");
    }
    if (run->prompts != NULL && (run->show || run->raw)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--show and --raw go with single prompts: leave out --prompts");
    }
    if (run->trace != NULL && run->prompt == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "--trace records one answer: give --prompt");
    }
    if (run->prompts == NULL && (run->out != NULL || run->limit > 0)) {
        return rf_error_set(err, RF_ERR_USAGE, "--out and --limit go with --prompts: give a file");
    }
    run->stops = o->stop.item;
    return rf_stops_check(run->stops, err);
}

/* The run's own decode settings, then the assignments of the command line. */
static int read_settings(options *o, const rf_loaded *loaded, char **assignment, int n,
                         rf_error *err)
{
    rf_config *config = NULL;
    int rc = rf_loaded_settings(&config, loaded, assignment, n, err);
    if (rc == RF_OK) {
        rc = rf_decode_options_from_config(&o->run.decode, config, err);
    }
    if (rc == RF_OK) {
        rc = rf_loaded_check_decoder(loaded, o->run.decode.kind, err);
    }
    rf_config_free(config);
    return rc;
}

static int run(options *o, rf_loaded *loaded, char **assignment, int n, rf_error *err)
{
    RF_TRY(rf_loaded_choose(&o->model, o->model_path, err));
    RF_TRY(rf_loaded_choose(&o->adapter, o->adapter_path, err));
    RF_TRY(rf_loaded_open(loaded, o->model, o->adapter, o->backend, err));
    RF_TRY(rf_output_check((const char *[]){o->run.out, o->run.trace}, 2,
                           (const char *[]){loaded->path, loaded->adapter, o->run.prompts}, 3,
                           err));
    if (o->control_tokens) {
        rf_tokenizer_read_control_tokens(loaded->info.tokenizer);
    }
    if (o->weights != NULL) {
        RF_TRY(rf_loaded_weights(&loaded->weights, o->weights, err));
    }
    RF_TRY(read_settings(o, loaded, assignment, n, err));
    o->run.assignment = assignment;
    o->run.n_assignments = n;
    return rf_answers_run(loaded, &o->run, err);
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_loaded loaded = {0};
    options o;
    bool done = false;
    int first;

    rf_log_set_program("refusion-infer");
    rf_output_clean_on_signals();
    int rc = parse(&o, &first, argc, argv, &done, &err);
    if (rc == RF_OK && !done) {
        rc = run(&o, &loaded, argv + first, argc - first, &err);
    }
    rf_loaded_close(&loaded);
    free(o.stop.item);
    if (rc != RF_OK) {
        rf_log_error(&err);
    }
    return rf_error_exit_status(rc);
}
