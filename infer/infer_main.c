/* refusion-infer: answers of a trained model. Runs without MPI. */
#include "common/base/file.h"
#include "common/base/log.h"
#include "infer/loaded.h"
#include "infer/prompts.h"
#include "infer/show.h"

#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct options {
    const char *model, *prompt, *prompts, *out;
    int64_t limit, max_prompt;
    int n_threads, pause_ms;
    bool raw, show;
    rf_decode_options decode;
} options;

/* One program run: the model is made for prompts of up to max_prompt tokens. */
typedef struct session {
    const options *options;
    rf_loaded loaded;
    rf_decoder *decoder;
    rf_show show;
    uint64_t n_answered;
} session;

static const rf_config_key *const key_tables[] = {rf_decode_keys, NULL};

static void print_usage(FILE *out)
{
    rf_config *config = rf_config_new(key_tables);
    fprintf(
        out,
        "usage: refusion-infer --model CHECKPOINT.h5 [options] [decode.key=value ...]\n"
        "\n"
        "Answers one prompt, a file of prompts, each line of standard input, or (on a terminal,\n"
        "without a prompt) what you type.\n"
        "\n"
        "  --model FILE       checkpoint to decode with\n"
        "  --prompt TEXT      one prompt: the answer goes to stdout\n"
        "  --prompts FILE     JSON lines {\"query\"} or {\"messages\"}, .gz too: an answer a "
        "line,\n"
        "                     "
        "{\"text\",\"ids\",\"forwards\",\"tokens_per_forward\",\"seconds\",\"ended\"}\n"
        "  --out FILE         answers of --prompts go here instead of stdout\n"
        "  --limit N          only the first N prompts of the file\n"
        "  --raw              the prompt is the beginning of a plain text, not a question\n"
        "  --show             paint which slot is filled when\n"
        "  --pause MS         after each picture of --show on a terminal (default 120)\n"
        "  --max-prompt N     longest prompt in tokens where prompts come one by one (default "
        "1024)\n"
        "  --threads N        default: the cores this process may use\n"
        "  --help, --version\n"
        "\n"
        "Settings:\n");
    rf_config_help(config, out);
    rf_config_free(config);
}

/* --- Answers ---------------------------------------------------------------------------------- */

static int open_session(session *s, const options *o, int64_t max_prompt, rf_error *err)
{
    rf_model_limits limits = rf_decoder_limits(&o->decode, max_prompt);
    int code = rf_loaded_model(&s->loaded, &limits, o->n_threads, err);
    if (code == RF_OK) {
        code = rf_decoder_new(&s->decoder, s->loaded.model, s->loaded.info.tokenizer, &o->decode,
                              max_prompt, err);
    }
    rf_show_init(&s->show, stdout, s->loaded.info.tokenizer, o->pause_ms);
    return code;
}

static void close_session(session *s)
{
    rf_decoder_free(s->decoder);
    rf_loaded_close(&s->loaded);
}

static double tokens_per_forward(const rf_answer *answer)
{
    return answer->forwards > 0 ? (double)answer->n / (double)answer->forwards : 0;
}

/* Answer and its text (caller frees both). */
static int answer_prompt(session *s, const rf_prompt *prompt, rf_answer *answer, char **text,
                         rf_error *err)
{
    bool show = s->options->show;
    size_t bytes;
    int code;

    *text = NULL;
    rf_show_begin(&s->show);
    code = rf_decoder_run(s->decoder, answer, prompt->ids.id, prompt->ids.n, s->n_answered++,
                          show ? rf_show_observe : NULL, &s->show, err);
    if (code == RF_OK &&
        (code = rf_tokenizer_decode(s->loaded.info.tokenizer, text, &bytes, answer->token,
                                    answer->n, true, err)) != RF_OK) {
        rf_answer_free(answer);
    }
    return code;
}

/* To a person: the text, and how it came about. */
static int print_answer(session *s, const rf_prompt *prompt, rf_error *err)
{
    rf_answer answer;
    char *text;
    int code = answer_prompt(s, prompt, &answer, &text, err);

    if (code != RF_OK) {
        return code;
    }
    if (!s->options->show || !s->show.live) {
        printf("%s\n", text);
    }
    fflush(stdout);
    if (s->options->show || isatty(STDERR_FILENO)) {
        rf_log_info("%lld tokens in %lld forwards (%.2f tokens per forward), %.2f s%s",
                    (long long)answer.n, (long long)answer.forwards, tokens_per_forward(&answer),
                    answer.seconds, answer.ended ? "" : "; stopped at decode.gen_length");
    }
    free(text);
    rf_answer_free(&answer);
    return RF_OK;
}

/* To a program: one JSON line. */
static int write_answer(session *s, const rf_prompt *prompt, FILE *out, rf_error *err)
{
    rf_answer answer;
    char *text, *line;
    json_t *object, *ids;
    int code = answer_prompt(s, prompt, &answer, &text, err);

    if (code != RF_OK) {
        return code;
    }
    ids = json_array();
    for (int64_t i = 0; i < answer.n; i++) {
        json_array_append_new(ids, json_integer(answer.token[i]));
    }
    object =
        json_pack("{s:s, s:o, s:I, s:f, s:f, s:b}", "text", text, "ids", ids, "forwards",
                  (json_int_t)answer.forwards, "tokens_per_forward", tokens_per_forward(&answer),
                  "seconds", answer.seconds, "ended", answer.ended);
    line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (!line || fprintf(out, "%s\n", line) < 0 || fflush(out) != 0) {
        code = rf_error_set(err, RF_ERR, "cannot write an answer: %m");
    }
    free(line);
    json_decref(object);
    free(text);
    rf_answer_free(&answer);
    return code;
}

/* --- Where prompts come from ------------------------------------------------------------------ */

static int run_file(session *s, const options *o, rf_error *err)
{
    rf_prompt *prompts = NULL;
    rf_atomic file = {0};
    FILE *out = stdout;
    int64_t n = 0;
    int code = rf_prompts_read(&prompts, &n, o->prompts, s->loaded.info.tokenizer, o->limit, err);

    if (code != RF_OK ||
        (code = open_session(s, o, rf_prompts_longest(prompts, n), err)) != RF_OK) {
        goto out;
    }
    if (o->out) {
        if ((code = rf_atomic_begin(&file, o->out, err)) != RF_OK) {
            goto out;
        }
        if (!(out = fopen(file.temporary, "w"))) {
            code = rf_error_set(err, RF_ERR, "cannot write %s: %m", file.temporary);
            goto out;
        }
    }
    for (int64_t i = 0; i < n && code == RF_OK; i++) {
        rf_log_progress("decoding", i, n, "prompts");
        code = write_answer(s, &prompts[i], out, err);
    }
    rf_log_live_end();
    if (o->out && fclose(out) != 0 && code == RF_OK) {
        code = rf_error_set(err, RF_ERR, "cannot write %s: %m", file.temporary);
    }
    if (o->out && code == RF_OK) {
        code = rf_atomic_commit(&file, err);
    }
out:
    rf_atomic_abandon(&file);
    rf_prompts_free(prompts, n);
    return code;
}

static int run_prompt(session *s, const options *o, rf_error *err)
{
    rf_prompt prompt;
    int code = rf_prompt_from_text(&prompt, s->loaded.info.tokenizer, o->prompt, o->raw, err);
    if (code != RF_OK) {
        return code;
    }
    if ((code = open_session(s, o, prompt.ids.n, err)) == RF_OK) {
        code = print_answer(s, &prompt, err);
    }
    rf_prompt_free(&prompt);
    return code;
}

/* A prompt a line. On a terminal a bad prompt is reported and the next one awaited. */
static int run_lines(session *s, const options *o, rf_error *err)
{
    bool terminal = isatty(STDIN_FILENO) != 0;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    int code = open_session(s, o, o->max_prompt, err);

    if (code == RF_OK && terminal) {
        rf_log_info("type a prompt, or end with Ctrl-D");
    }
    while (code == RF_OK) {
        rf_prompt prompt;
        if (terminal) {
            fputs("> ", stderr);
        }
        if ((n = getline(&line, &capacity, stdin)) < 0) {
            break;
        }
        line[strcspn(line, "\r\n")] = 0;
        if (line[0] == 0) {
            continue;
        }
        code = rf_prompt_from_text(&prompt, s->loaded.info.tokenizer, line, o->raw, err);
        if (code == RF_OK) {
            code = print_answer(s, &prompt, err);
            rf_prompt_free(&prompt);
        }
        if (code != RF_OK && terminal) {
            rf_log_error(err);
            code = RF_OK;
        }
    }
    free(line);
    return code;
}

/* --- Command line ----------------------------------------------------------------------------- */

static int number(int64_t *out, const char *text, const char *option, int64_t min, int64_t max,
                  rf_error *err)
{
    char *end;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || value < min || value > max) {
        return rf_error_set(err, RF_ERR_USAGE, "%s %s is not a whole number from %lld to %lld",
                            option, text, (long long)min, (long long)max);
    }
    *out = value;
    return RF_OK;
}

enum {
    OPTION_MODEL = 256,
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
    int64_t value = 0;
    int code = RF_OK;
    switch (option) {
    case OPTION_MODEL:
        o->model = optarg;
        break;
    case OPTION_PROMPT:
        o->prompt = optarg;
        break;
    case OPTION_PROMPTS:
        o->prompts = optarg;
        break;
    case OPTION_OUT:
        o->out = optarg;
        break;
    case OPTION_RAW:
        o->raw = true;
        break;
    case OPTION_SHOW:
        o->show = true;
        break;
    case OPTION_LIMIT:
        return number(&o->limit, optarg, "--limit", 1, INT64_MAX, err);
    case OPTION_MAX_PROMPT:
        return number(&o->max_prompt, optarg, "--max-prompt", 1, 1 << 20, err);
    case OPTION_PAUSE:
        code = number(&value, optarg, "--pause", 0, 60000, err);
        o->pause_ms = (int)value;
        break;
    case OPTION_THREADS:
        code = number(&value, optarg, "--threads", 1, 4096, err);
        o->n_threads = (int)value;
        break;
    case OPTION_HELP:
        print_usage(stdout);
        *done = true;
        break;
    case OPTION_VERSION:
        printf("refusion-infer %s\n", RF_VERSION);
        *done = true;
        break;
    default:
        code = rf_error_set(err, RF_ERR_USAGE, "see refusion-infer --help");
    }
    return code;
}

static int parse(options *o, int argc, char **argv, bool *done, rf_error *err)
{
    int option, code = RF_OK;

    *o = (options){.pause_ms = 120, .max_prompt = 1024};
    *done = false;
    while (code == RF_OK && !*done &&
           (option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        code = take_option(o, option, done, err);
    }
    if (code != RF_OK || *done) {
        return code;
    }
    if (!o->model) {
        return rf_error_set(err, RF_ERR_USAGE, "--model is missing: see refusion-infer --help");
    }
    if (o->prompt && o->prompts) {
        return rf_error_set(err, RF_ERR_USAGE, "--prompt and --prompts exclude each other");
    }
    if (o->prompts && (o->show || o->raw)) {
        return rf_error_set(err, RF_ERR_USAGE, "--show and --raw go with single prompts");
    }
    if (!o->prompts && (o->out || o->limit)) {
        return rf_error_set(err, RF_ERR_USAGE, "--out and --limit go with --prompts");
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
        code = rf_decode_options_from_config(&o->decode, config, err);
    }
    rf_config_free(config);
    return code;
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    options o;
    session s = {.options = &o};
    bool done;
    int code;

    rf_log_set_program("refusion-infer");
    code = parse(&o, argc, argv, &done, &err);
    if (code != RF_OK || done) {
        goto out;
    }
    if ((code = rf_loaded_open(&s.loaded, o.model, &err)) == RF_OK &&
        (code = read_settings(&o, &s.loaded, argv + optind, argc - optind, &err)) == RF_OK) {
        code = o.prompts  ? run_file(&s, &o, &err)
               : o.prompt ? run_prompt(&s, &o, &err)
                          : run_lines(&s, &o, &err);
    }
    close_session(&s);
    if (code == RF_OK && fflush(stdout) != 0) {
        code = rf_error_set(&err, RF_ERR, "cannot write to standard output: %m");
    }
out:
    if (code != RF_OK) {
        rf_log_error(&err);
    }
    return rf_error_exit_status(code);
}
