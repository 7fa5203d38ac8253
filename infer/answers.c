#include "infer/answers.h"

#include "common/base/file.h"
#include "common/base/log.h"
#include "infer/prompts.h"
#include "infer/show.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One run of the program. */
typedef struct answerer {
    const rf_answers_options *options;
    rf_loaded *loaded;
    rf_engine *engine;
    rf_show show;
    uint64_t n_answered;
} answerer;

/* An answer with its text, which may hold any bytes. */
typedef struct result {
    rf_answer answer;
    char *text;
    size_t bytes;
} result;

/* The model is made for prompts of up to max_prompt tokens. */
static int prepare(answerer *a, int64_t max_prompt, rf_error *err)
{
    const rf_answers_options *o = a->options;
    rf_model_limits limits = rf_engine_limits(&o->decode, max_prompt, 1);
    int code = rf_loaded_model(a->loaded, &limits, o->n_threads, err);
    if (code == RF_OK) {
        code = rf_engine_new(&a->engine, a->loaded->model, a->loaded->info.tokenizer, &o->decode,
                             max_prompt, 1, err);
    }
    if (code == RF_OK) {
        char text[512];
        rf_backend_describe(a->loaded->model->ctx, text, sizeof(text));
        rf_log_info("%s", text);
    }
    rf_show_init(&a->show, stdout, a->loaded->info.tokenizer, o->pause_ms);
    return code;
}

static double tokens_per_forward(const rf_answer *answer)
{
    return answer->forwards > 0 ? (double)answer->n / (double)answer->forwards : 0;
}

static void free_result(result *r)
{
    free(r->text);
    rf_answer_free(&r->answer);
}

static int answer_prompt(answerer *a, result *out, const rf_prompt *prompt, rf_error *err)
{
    const rf_request request = {.prompt = prompt->ids.id,
                                .n_prompt = prompt->ids.n,
                                .index = a->n_answered++,
                                .observer = a->options->show ? rf_show_observe : NULL,
                                .user = &a->show};
    int code;

    *out = (result){0};
    rf_show_begin(&a->show);
    code = rf_engine_run(a->engine, &out->answer, &request, 1, NULL, NULL, err);
    if (code == RF_OK) {
        out->text = rf_tokenizer_decode(a->loaded->info.tokenizer, &out->bytes, out->answer.token,
                                        out->answer.n, true);
    }
    if (code != RF_OK) {
        free_result(out);
    }
    return code;
}

static int stdout_failed(rf_error *err)
{
    return rf_error_set(err, RF_ERR, "cannot write to standard output: %m");
}

/* To a person: the text (which a live picture shows already), and how it came about. */
static int print_answer(answerer *a, const rf_prompt *prompt, rf_error *err)
{
    bool live = a->options->show && a->show.live;
    result r;
    int code = answer_prompt(a, &r, prompt, err);

    if (code != RF_OK) {
        return code;
    }
    if (!live) {
        fwrite(r.text, 1, r.bytes, stdout);
        fputc('\n', stdout);
    }
    if (fflush(stdout) != 0) {
        code = stdout_failed(err);
    } else if (live || isatty(STDERR_FILENO)) {
        rf_log_info("%lld tokens in %lld forwards (%.2f tokens per forward), %.2f s%s",
                    (long long)r.answer.n, (long long)r.answer.forwards,
                    tokens_per_forward(&r.answer), r.answer.seconds,
                    r.answer.ended ? "" : "; stopped at decode.gen_length");
    }
    free_result(&r);
    return code;
}

static char *answer_json(const result *r)
{
    json_t *object, *ids = json_array();
    char *line;
    for (int64_t i = 0; i < r->answer.n; i++) {
        json_array_append_new(ids, json_integer(r->answer.token[i]));
    }
    object = json_pack("{s:s%, s:o, s:I, s:f, s:f, s:b}", "text", r->text, r->bytes, "ids", ids,
                       "forwards", (json_int_t)r->answer.forwards, "tokens_per_forward",
                       tokens_per_forward(&r->answer), "seconds", r->answer.seconds, "ended",
                       r->answer.ended);
    line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    return line;
}

/* To a program: one JSON line. */
static int write_answer(answerer *a, const rf_prompt *prompt, FILE *out, rf_error *err)
{
    result r;
    char *line;
    int code = answer_prompt(a, &r, prompt, err);

    if (code != RF_OK) {
        return code;
    }
    line = answer_json(&r);
    if (!line) {
        code = rf_error_set(err, RF_ERR, "out of memory for an answer");
    } else if (fprintf(out, "%s\n", line) < 0 || fflush(out) != 0) {
        code = rf_error_set(err, RF_ERR, "cannot write an answer: %m");
    }
    free(line);
    free_result(&r);
    return code;
}

/* --- Where prompts come from ------------------------------------------------------------------ */

static int write_all(answerer *a, const rf_prompt *prompts, int64_t n, FILE *out, rf_error *err)
{
    int code = RF_OK;
    for (int64_t i = 0; i < n && code == RF_OK; i++) {
        rf_log_progress("decoding", i, n, "prompts");
        code = write_answer(a, &prompts[i], out, err);
    }
    rf_log_live_end();
    return code;
}

/* The file appears when all answers are in it. */
static int write_file(answerer *a, const char *path, const rf_prompt *prompts, int64_t n,
                      rf_error *err)
{
    rf_atomic file = {0};
    FILE *out;
    int code = rf_atomic_begin(&file, path, err);

    if (code != RF_OK) {
        return code;
    }
    if (!(out = fopen(file.temporary, "w"))) {
        return rf_error_set(err, RF_ERR, "cannot write %s: %m", file.temporary);
    }
    code = write_all(a, prompts, n, out, err);
    if (fclose(out) != 0 && code == RF_OK) {
        code = rf_error_set(err, RF_ERR, "cannot write %s: %m", file.temporary);
    }
    if (code == RF_OK) {
        code = rf_atomic_commit(&file, err);
    }
    rf_atomic_abandon(&file);
    return code;
}

static int run_file(answerer *a, rf_error *err)
{
    const rf_answers_options *o = a->options;
    rf_prompt *prompts = NULL;
    int64_t n = 0;
    int code = rf_prompts_read(&prompts, &n, o->prompts, a->loaded->info.tokenizer, o->limit, err);

    if (code == RF_OK) {
        code = prepare(a, rf_prompts_longest(prompts, n), err);
    }
    if (code == RF_OK) {
        code =
            o->out ? write_file(a, o->out, prompts, n, err) : write_all(a, prompts, n, stdout, err);
    }
    rf_prompts_free(prompts, n);
    return code;
}

static int run_prompt(answerer *a, rf_error *err)
{
    const rf_answers_options *o = a->options;
    rf_prompt prompt;
    int code = rf_prompt_from_text(&prompt, a->loaded->info.tokenizer, o->prompt, o->raw, err);
    if (code != RF_OK) {
        return code;
    }
    if ((code = prepare(a, prompt.ids.n, err)) == RF_OK) {
        code = print_answer(a, &prompt, err);
    }
    rf_prompt_free(&prompt);
    return code;
}

static int run_line(answerer *a, const char *line, rf_error *err)
{
    rf_prompt prompt;
    int code = rf_prompt_from_text(&prompt, a->loaded->info.tokenizer, line, a->options->raw, err);
    if (code == RF_OK) {
        code = print_answer(a, &prompt, err);
        rf_prompt_free(&prompt);
    }
    return code;
}

static int64_t longest_line(const answerer *a)
{
    int64_t room = a->loaded->info.model.max_position_embeddings - a->options->decode.gen_length;
    int64_t fits = room < 1024 ? room : 1024;
    return a->options->max_prompt > 0 ? a->options->max_prompt : fits > 1 ? fits : 1;
}

static int run_lines(answerer *a, rf_error *err)
{
    bool terminal = isatty(STDIN_FILENO) != 0;
    char *line = NULL;
    size_t capacity = 0;
    int code = prepare(a, longest_line(a), err);

    if (code == RF_OK && terminal) {
        rf_log_info("type a prompt, or end with Ctrl-D");
    }
    while (code == RF_OK) {
        if (terminal) {
            fputs("> ", stderr);
        }
        if (getline(&line, &capacity, stdin) < 0) {
            if (terminal) {
                fputc('\n', stderr);
            }
            if (ferror(stdin)) {
                code = rf_error_set(err, RF_ERR, "cannot read standard input: %m");
            }
            break;
        }
        line[strcspn(line, "\r\n")] = 0;
        if (line[0] == 0) {
            continue;
        }
        code = run_line(a, line, err);
        if (code != RF_OK && terminal) {
            rf_log_error(err);
            code = RF_OK;
        }
    }
    free(line);
    return code;
}

int rf_answers_run(rf_loaded *loaded, const rf_answers_options *o, rf_error *err)
{
    answerer a = {.options = o, .loaded = loaded};
    int code = o->prompts  ? run_file(&a, err)
               : o->prompt ? run_prompt(&a, err)
                           : run_lines(&a, err);
    rf_engine_free(a.engine);
    if (code == RF_OK && fflush(stdout) != 0) {
        code = stdout_failed(err);
    }
    return code;
}
