/* refusion-infer: answers of a trained model. Runs without MPI. */
#include "common/base/log.h"
#include "common/base/options.h"
#include "infer/answers.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct options {
    const char *model, *adapter, *weights;
    rf_answers_options run;
} options;

static const rf_config_key *const key_tables[] = {rf_decode_keys, NULL};

static const char usage[] =
    "usage: refusion-infer --model CHECKPOINT.h5 [options] [decode.key=value ...]\n"
    "\n"
    "Answers one prompt, a file of prompts, each line of standard input, or (on a terminal,\n"
    "without a prompt) what you type.\n"
    "\n"
    "  --model FILE       checkpoint to decode with\n"
    "  --adapter FILE     adapters that were trained beside that checkpoint (lora.*)\n"
    "  --weights TYPE     f32 (the bits of training; default), bf16, int8 (smaller and\n"
    "                     faster; the default of a quantized checkpoint)\n"
    "  --prompt TEXT      one prompt: the answer goes to stdout\n"
    "  --prompts FILE     JSON lines {\"query\"} or {\"messages\"}, .gz too: an answer a line,\n"
    "                     {\"text\",\"ids\",\"forwards\",\"tokens_per_forward\",\"seconds\","
    "\"ended\"}\n"
    "  --out FILE         answers of --prompts go here instead of stdout\n"
    "  --limit N          only the first N prompts of the file\n"
    "  --raw              the prompt is the beginning of a plain text, not a question\n"
    "  --show             paint which slot is filled when\n"
    "  --pause MS         after each picture of --show on a terminal (default 120)\n"
    "  --max-prompt N     longest prompt in tokens where prompts come one by one (default: what\n"
    "                     the model has room for, at most 1024)\n"
    "  --threads N        default: the cores this process may use\n"
    "  --help, --version\n"
    "\n"
    "Settings (defaults: those of the run that trained the model):\n";

static void print_usage(void)
{
    rf_config *config = rf_config_new(key_tables);
    fputs(usage, stdout);
    rf_config_help(config, stdout);
    rf_config_free(config);
}

enum {
    OPTION_MODEL = 256,
    OPTION_ADAPTER,
    OPTION_WEIGHTS,
    OPTION_PROMPT,
    OPTION_PROMPTS,
    OPTION_OUT,
    OPTION_LIMIT,
    OPTION_RAW,
    OPTION_SHOW,
    OPTION_PAUSE,
    OPTION_MAX_PROMPT,
    OPTION_THREADS,
    OPTION_HELP,
    OPTION_VERSION
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, OPTION_MODEL},
    {"adapter", required_argument, NULL, OPTION_ADAPTER},
    {"weights", required_argument, NULL, OPTION_WEIGHTS},
    {"prompt", required_argument, NULL, OPTION_PROMPT},
    {"prompts", required_argument, NULL, OPTION_PROMPTS},
    {"out", required_argument, NULL, OPTION_OUT},
    {"limit", required_argument, NULL, OPTION_LIMIT},
    {"raw", no_argument, NULL, OPTION_RAW},
    {"show", no_argument, NULL, OPTION_SHOW},
    {"pause", required_argument, NULL, OPTION_PAUSE},
    {"max-prompt", required_argument, NULL, OPTION_MAX_PROMPT},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {NULL, 0, NULL, 0}};

static int take_option(options *o, int option, bool *done, rf_error *err)
{
    rf_answers_options *run = &o->run;
    int64_t value = 0;
    int code = RF_OK;
    switch (option) {
    case OPTION_MODEL:
        o->model = optarg;
        break;
    case OPTION_ADAPTER:
        o->adapter = optarg;
        break;
    case OPTION_WEIGHTS:
        o->weights = optarg;
        break;
    case OPTION_PROMPT:
        run->prompt = optarg;
        break;
    case OPTION_PROMPTS:
        run->prompts = optarg;
        break;
    case OPTION_OUT:
        run->out = optarg;
        break;
    case OPTION_RAW:
        run->raw = true;
        break;
    case OPTION_SHOW:
        run->show = true;
        break;
    case OPTION_LIMIT:
        return rf_options_integer(&run->limit, optarg, "--limit", 1, INT64_MAX, err);
    case OPTION_MAX_PROMPT:
        return rf_options_integer(&run->max_prompt, optarg, "--max-prompt", 1, 1 << 20, err);
    case OPTION_PAUSE:
        code = rf_options_integer(&value, optarg, "--pause", 0, 60000, err);
        run->pause_ms = (int)value;
        break;
    case OPTION_THREADS:
        code = rf_options_integer(&value, optarg, "--threads", 1, 4096, err);
        run->n_threads = (int)value;
        break;
    case OPTION_HELP:
        print_usage();
        *done = true;
        break;
    case OPTION_VERSION:
        printf("refusion-infer %s\n", RF_VERSION);
        *done = true;
        break;
    default:
        code = err->code; /* rf_options_next has said what is wrong */
    }
    return code;
}

static int parse(options *o, int argc, char **argv, bool *done, rf_error *err)
{
    const rf_answers_options *run = &o->run;
    int option, code = RF_OK;

    *o = (options){.run = {.pause_ms = 120}};
    *done = false;
    while (code == RF_OK && !*done &&
           (option = rf_options_next(argc, argv, long_options, "see refusion-infer --help", err)) !=
               -1) {
        code = take_option(o, option, done, err);
    }
    if (code != RF_OK || *done) {
        return code;
    }
    if (!o->model) {
        return rf_error_set(err, RF_ERR_USAGE, "--model is missing: see refusion-infer --help");
    }
    if (run->prompt && run->prompts) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--prompt and --prompts exclude each other: give one of them");
    }
    if (run->prompts && (run->show || run->raw)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--show and --raw go with single prompts: leave out --prompts");
    }
    if (!run->prompts && (run->out || run->limit)) {
        return rf_error_set(err, RF_ERR_USAGE, "--out and --limit go with --prompts: give a file");
    }
    return RF_OK;
}

/* The run's own decode settings, then the assignments of the command line. */
static int read_settings(options *o, const rf_loaded *loaded, char **assignment, int n,
                         rf_error *err)
{
    static const char *const sections[] = {"decode"};
    rf_config *config = rf_config_new(key_tables);
    int code = rf_loaded_settings(loaded, config, sections, 1, err);

    for (int i = 0; i < n && code == RF_OK; i++) {
        code = rf_config_set(config, assignment[i], err);
    }
    if (code == RF_OK) {
        code = rf_decode_options_from_config(&o->run.decode, config, err);
    }
    rf_config_free(config);
    return code;
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_loaded loaded = {0};
    options o;
    bool done;
    int code;

    rf_log_set_program("refusion-infer");
    code = parse(&o, argc, argv, &done, &err);
    if (code == RF_OK && !done &&
        (code = rf_loaded_open_adapted(&loaded, o.model, o.adapter, &err)) == RF_OK &&
        (!o.weights || (code = rf_loaded_weights(&loaded.weights, o.weights, &err)) == RF_OK) &&
        (code = read_settings(&o, &loaded, argv + optind, argc - optind, &err)) == RF_OK) {
        code = rf_answers_run(&loaded, &o.run, &err);
    }
    rf_loaded_close(&loaded);
    if (code != RF_OK) {
        rf_log_error(&err);
    }
    return rf_error_exit_status(code);
}
