#include "infer/answers.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/store/journal.h"
#include "infer/questions.h"
#include "infer/show.h"
#include "infer/trace.h"
#include "infer/unit.h"

#include <inttypes.h>
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
    rf_trace trace; /* of the present prompt */
    bool by_line;   /* an answer is one line, for who reads standard output */
} answerer;

static int64_t positions(const answerer *a)
{
    return a->loaded->info.model.max_position_embeddings;
}

/* Tokens of a prompt at most. */
static int64_t room(const answerer *a)
{
    return positions(a) - a->options->decode.gen_length;
}

/* What no shorter prompt would help, and what --max-prompt asks too much. */
static int check_room(const answerer *a, rf_error *err)
{
    const rf_answers_options *o = a->options;
    const int64_t most = positions(a), length = o->decode.gen_length;
    if (room(a) < 1) {
        return rf_error_set(err, RF_ERR,
                            "decode.gen_length=%" PRId64 " leaves no room for a prompt: %s has "
                            "%" PRId64 " positions (max_position_embeddings): lower it",
                            length, a->loaded->path, most);
    }
    if (o->max_prompt > room(a)) {
        return rf_error_set(err, RF_ERR,
                            "--max-prompt %" PRId64 " and decode.gen_length=%" PRId64
                            " need %" PRId64 " positions and %s has %" PRId64
                            " (max_position_embeddings): lower one of them",
                            o->max_prompt, length, o->max_prompt + length, a->loaded->path, most);
    }
    return RF_OK;
}

/* The model is made for this many prompts of up to max_prompt tokens at once. */
static int prepare(answerer *a, int64_t max_prompt, int64_t capacity, rf_error *err)
{
    const rf_answers_options *o = a->options;
    const rf_tokenizer *tokenizer = a->loaded->info.tokenizer;
    rf_model_limits limits = rf_engine_limits(&o->decode, max_prompt, capacity);
    char text[512];
    RF_TRY(check_room(a, err));
    rf_show_init(&a->show, stdout, tokenizer, (int)o->pause_ms);
    RF_TRY(rf_loaded_model(a->loaded, &limits, (int)o->n_threads, err));
    RF_TRY(rf_engine_new(&a->engine, a->loaded->model, tokenizer, &o->decode, max_prompt, capacity,
                         err));
    rf_backend_describe(a->loaded->model->ctx, text, sizeof text);
    rf_log_info("%s", text);
    return RF_OK;
}

static double tokens_per_forward(const rf_answer *answer)
{
    return answer->forwards > 0 ? (double)answer->n / (double)answer->forwards : 0;
}

/* --- To a person: one prompt, or one after the other -------------------------------------------------- */

void rf_answers_log(const rf_answer *answer)
{
    rf_log_info("%" PRId64 " tokens in %" PRId64 " forwards (%.2f tokens per forward), %.2f s%s",
                answer->n, answer->forwards, tokens_per_forward(answer), answer->seconds,
                answer->cancelled      ? "; stopped by Ctrl-C"
                : answer->stop != NULL ? "; ended by --stop"
                : answer->ended        ? ""
                                       : "; stopped at decode.gen_length");
}

/* The text (which a live picture shows already), and how it came about. */
static int print_answer(const answerer *a, const rf_answer *answer, rf_error *err)
{
    bool live = a->options->show && a->show.live;
    size_t bytes;
    char *text = rf_answer_text(answer, &bytes, a->loaded->info.tokenizer);
    if (!live) {
        rf_unit_print(text, bytes);
        rf_unit_print("\n", 1);
    }
    free(text);
    RF_TRY(rf_error_of_stdout(err));
    if (bytes == 0 && !live) {
        rf_log_info("the answer is empty");
    }
    if (live || isatty(STDERR_FILENO)) {
        rf_answers_log(answer);
    }
    return RF_OK;
}

/* The text as one line, from which it can be had back: \n and \r for its line breaks, \\ for a
 * backslash. */
static int print_line(const answerer *a, const rf_answer *answer, int64_t number, rf_error *err)
{
    size_t bytes;
    char *text = rf_answer_text(answer, &bytes, a->loaded->info.tokenizer);
    for (size_t i = 0; i < bytes; i++) {
        const char c = text[i];
        if (c == '\n' || c == '\r' || c == '\\') {
            fputc('\\', stdout);
        }
        fputc(c == '\n' ? 'n' : c == '\r' ? 'r' : c, stdout);
    }
    fputc('\n', stdout);
    free(text);
    RF_TRY(rf_error_of_stdout(err));
    if (bytes == 0) {
        rf_log_info("standard input:%" PRId64 ": the answer is empty", number);
    }
    if (isatty(STDERR_FILENO)) {
        rf_answers_log(answer);
    }
    return RF_OK;
}

/* An rf_observer. */
static void observe(void *user, rf_event_kind kind, const rf_sequence *s)
{
    answerer *a = user;
    if (a->options->show) {
        rf_show_observe(&a->show, kind, s);
    }
    if (a->options->trace != NULL) {
        rf_trace_observe(&a->trace, kind, s);
    }
}

static int write_trace(answerer *a, const rf_question *prompt, const rf_answer *answer,
                       rf_error *err)
{
    size_t bytes;
    char *text = rf_answer_text(answer, &bytes, a->loaded->info.tokenizer);
    const bool told =
        json_object_update_new(a->trace.json, json_pack("{s:s, s:s%}", "query", prompt->item.query,
                                                        "text", text, bytes)) == 0;
    char *json = told ? json_dumps(a->trace.json, JSON_COMPACT) : NULL;
    int rc = json != NULL
                 ? rf_file_write(a->options->trace, json, strlen(json), err)
                 : rf_error_set(err, RF_ERR, "%s: prompt or answer is no UTF-8", a->options->trace);
    free(json);
    free(text);
    return rc;
}

/* number: of the prompt, from 1 on. */
static int answer_prompt(answerer *a, const rf_question *prompt, int64_t number, rf_error *err)
{
    const rf_request request = {.prompt = prompt->ids.id,
                                .n_prompt = prompt->ids.n,
                                .index = (uint64_t)number - 1,
                                .observer = observe,
                                .user = a,
                                .stops = a->options->stops};
    rf_answer answer;
    rf_show_begin(&a->show);
    a->trace.scores = true;
    RF_TRY(rf_engine_run(a->engine, &answer, &request, 1, NULL, NULL, err));
    int rc = a->by_line ? print_line(a, &answer, number, err) : print_answer(a, &answer, err);
    rc = rc == RF_OK && a->options->trace != NULL ? write_trace(a, prompt, &answer, err) : rc;
    rf_trace_free(&a->trace);
    rf_answer_free(&answer);
    return rc;
}

/* Makes the model for this very prompt. */
static int run_text(answerer *a, const char *text, rf_error *err)
{
    rf_question prompt;
    RF_TRY(rf_question_from_text(&prompt, a->loaded->info.tokenizer, text, a->options->raw, err));
    int rc;
    RF_TRY_OUT(prepare(a, prompt.ids.n, 1, err));
    rc = answer_prompt(a, &prompt, 1, err);
out:
    rf_question_free(&prompt);
    return rc;
}

/* --- To a pipe: a line for each line ---------------------------------------------------------- */

static bool fits(const answerer *a, const rf_question *prompt)
{
    return prompt->ids.n <= a->engine->max_prompt;
}

static int64_t longest_line(const answerer *a)
{
    int64_t usual = room(a) < 1024 ? room(a) : 1024;
    return a->options->max_prompt > 0 ? a->options->max_prompt : usual > 1 ? usual : 1;
}

/* The line as a prompt. An error is the line's own: others may be answered. */
static int read_line(rf_question *out, const answerer *a, const char *line, size_t bytes,
                     rf_error *err)
{
    *out = (rf_question){0};
    if (memchr(line, '\0', bytes) != NULL) {
        return rf_error_set(err, RF_ERR, "it holds a zero byte: remove it");
    }
    RF_TRY(rf_question_from_text(out, a->loaded->info.tokenizer, line, a->options->raw, err));
    if (fits(a, out)) {
        return RF_OK;
    }
    return rf_error_set(
        err, RF_ERR, "it has %" PRId64 " tokens, more than the %" PRId64 " that fit%s", out->ids.n,
        a->engine->max_prompt, a->engine->max_prompt < room(a) ? " (--max-prompt)" : "");
}

/* Answers the line, an empty one by an empty one. *n_bad counts those that cannot be answered: they get an
 * empty line too, so that the others keep their places. */
static int run_line(answerer *a, const char *line, size_t bytes, int64_t number, int64_t *n_bad,
                    rf_error *err)
{
    rf_question prompt = {0};
    rf_error problem = {0};
    int rc;
    if (bytes > 0 && read_line(&prompt, a, line, bytes, &problem) == RF_OK) {
        rc = answer_prompt(a, &prompt, number, err);
    } else {
        fputc('\n', stdout);
        rc = rf_error_of_stdout(err);
    }
    if (problem.code != RF_OK) {
        rf_log_warn("standard input:%" PRId64 ": not answered: %s", number, problem.message);
        ++*n_bad;
    }
    rf_question_free(&prompt);
    return rc;
}

static int run_lines(answerer *a, rf_error *err)
{
    char *line = NULL;
    size_t capacity = 0;
    int64_t number = 0, n_bad = 0;
    a->by_line = !a->options->show && !isatty(STDOUT_FILENO);
    int rc = prepare(a, longest_line(a), 1, err);
    for (ssize_t n; rc == RF_OK && (n = getline(&line, &capacity, stdin)) >= 0;) {
        n -= n > 0 && line[n - 1] == '\n';
        n -= n > 0 && line[n - 1] == '\r'; /* line ends of Windows */
        line[n] = '\0';
        rc = run_line(a, line, (size_t)n, ++number, &n_bad, err);
    }
    free(line);
    if (rc == RF_OK && ferror(stdin)) {
        return rf_error_set(err, RF_ERR, "cannot read standard input: %m");
    }
    return rc == RF_OK && n_bad > 0
               ? rf_error_set(err, RF_ERR,
                              "%" PRId64 " of %" PRId64 " lines of standard input were not "
                              "answered: see the warnings",
                              n_bad, number)
               : rc;
}

/* --- To a program: a file of prompts, a JSON line for each ------------------------------------ */

/* Records that are there wait until those before them are written. */
typedef struct writer {
    const answerer *a;
    const rf_question *prompt; /* [n] */
    char **record;             /* [n] a line of JSON; NULL: not there yet. Owned */
    rf_request *request;       /* [n_requests] those prompts that are to be answered */
    rf_answer *answer;         /* [n_requests] */
    int64_t n, n_requests, n_done;
    int64_t n_written; /* records */
    rf_journal *journal;
    FILE *out;
    const char *name; /* of out, for messages */
} writer;

static char *record_of(const answerer *a, const rf_answer *answer, bool too_long)
{
    size_t bytes;
    char *text = rf_answer_text(answer, &bytes, a->loaded->info.tokenizer);
    json_t *line = json_pack(
        "{s:s%, s:o, s:I, s:I, s:f, s:f, s:b, s:s?, s:b}", "text", text, bytes, "ids",
        rf_ids_json(answer->token, answer->n), "forwards", (json_int_t)answer->forwards, "places",
        (json_int_t)answer->places, "tokens_per_forward", tokens_per_forward(answer), "seconds",
        answer->seconds, "ended", answer->ended, "stop", answer->stop, "too_long", too_long);
    const char *date = rf_tokenizer_date(a->loaded->info.tokenizer);
    if (date != NULL) {
        json_object_set_new(line, "date", json_string(date));
    }
    char *record = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(line);
    free(text);
    return record;
}

/* The records up to the first prompt whose answer is not there yet. */
static int write_ready(writer *w, rf_error *err)
{
    for (; w->n_written < w->n && w->record[w->n_written] != NULL; w->n_written++) {
        char *record = w->record[w->n_written];
        if (fputs(record, w->out) == EOF || fputc('\n', w->out) == EOF || fflush(w->out) != 0) {
            return rf_error_set(err, RF_ERR, "%s: cannot write: %m", w->name);
        }
    }
    return RF_OK;
}

static rf_journal_place place_of(const writer *w, int64_t i)
{
    const rf_ids *ids = &w->prompt[i].ids;
    return (rf_journal_place){
        .kind = RF_JOURNAL_ANSWER,
        .index = i,
        .question = rf_hash_bytes(RF_HASH_BEGIN, ids->id, (size_t)ids->n * sizeof *ids->id)};
}

/* An rf_engine_done. */
static int take_answer(void *user, int64_t request, rf_error *err)
{
    writer *w = user;
    const int64_t i = (int64_t)w->request[request].index;
    const rf_journal_place place = place_of(w, i);
    w->record[i] = record_of(w->a, &w->answer[request], false);
    if (w->journal != NULL) {
        RF_TRY(rf_journal_add(w->journal, &place, NULL, 0, w->record[i], err));
    }
    rf_log_progress("decoding", ++w->n_done, w->n_requests, "prompts");
    return write_ready(w, err);
}

/* Prompts that are too long and those that an earlier run has answered have their records now; the
 * others become requests. */
static void sort_prompts(writer *w)
{
    static const rf_answer none = {0};
    const answerer *a = w->a;
    int64_t n_too_long = 0, n_known = 0;
    for (int64_t i = 0; i < w->n; i++) {
        const rf_question *prompt = &w->prompt[i];
        const rf_journal_place place = place_of(w, i);
        if (!fits(a, prompt)) {
            w->record[i] = record_of(a, &none, true);
            n_too_long++;
        } else if (w->journal != NULL &&
                   rf_journal_take(w->journal, NULL, &w->record[i], &place, 0)) {
            n_known++;
        } else {
            w->request[w->n_requests++] = (rf_request){.prompt = prompt->ids.id,
                                                       .n_prompt = prompt->ids.n,
                                                       .index = (uint64_t)i,
                                                       .stops = a->options->stops};
        }
    }
    if (n_too_long > 0) {
        rf_log_warn(
            "%s: %" PRId64 " of %" PRId64 " prompts are too long, for the model has %" PRId64
            " positions and answers take decode.gen_length=%" PRId64
            " of them: their records say too_long",
            a->options->prompts, n_too_long, w->n, positions(a), a->options->decode.gen_length);
    }
    if (n_known > 0) {
        rf_log_info("%s.partial.*: going on from what an interrupted run has left (%" PRId64
                    " of %" PRId64 " answers)",
                    a->options->out, n_known, w->n);
    }
}

static int write_all(const answerer *a, const rf_question *prompts, int64_t n, rf_journal *journal,
                     FILE *out, rf_error *err)
{
    writer w = {.a = a, .prompt = prompts, .n = n, .journal = journal, .out = out};
    w.name = a->options->out != NULL ? a->options->out : "standard output";
    int rc;
    w.record = rf_alloc((size_t)n, sizeof *w.record);
    w.answer = rf_alloc((size_t)n, sizeof *w.answer);
    w.request = rf_alloc((size_t)n, sizeof *w.request);
    sort_prompts(&w);
    RF_TRY_OUT(write_ready(&w, err));
    rc = rf_engine_run(a->engine, w.answer, w.request, w.n_requests, take_answer, &w, err);
out:
    rf_log_live_end();
    for (int64_t i = 0; i < w.n_requests; i++) {
        rf_answer_free(&w.answer[i]);
    }
    rf_free_strings(w.record, n);
    free(w.answer);
    free(w.request);
    return rc;
}

static int hash_settings(uint64_t *out, const answerer *a, rf_error *err)
{
    const rf_answers_options *o = a->options;
    const char *date = rf_tokenizer_date(a->loaded->info.tokenizer);
    rf_text text = {0};
    int rc = rf_loaded_describe(&text, a->loaded, err);
    rf_text_print(&text, "answers of refusion-infer, date %s, weights %s\n%s",
                  date != NULL ? date : "none", rf_layout_name(a->loaded->weights), o->settings);
    for (int i = 0; o->stops != NULL && o->stops[i] != NULL; i++) {
        rf_text_print(&text, "stop %zu %s\n", strlen(o->stops[i]), o->stops[i]);
    }
    *out = rf_hash_bytes(RF_HASH_BEGIN, text.data, text.bytes);
    rf_text_free(&text);
    return rc;
}

/* The file appears when all answers are in it; until then they are in the journal too. */
static int write_file(const answerer *a, const char *path, const rf_question *prompts, int64_t n,
                      rf_error *err)
{
    rf_atomic file = {0};
    rf_journal *journal = NULL;
    uint64_t settings;
    RF_TRY(hash_settings(&settings, a, err));
    RF_TRY(rf_atomic_begin(&file, path, err));
    RF_TRY(rf_journal_open(&journal, path, 0, settings, err));
    FILE *out = fopen(file.temporary, "w");
    int rc = out != NULL ? write_all(a, prompts, n, journal, out, err) : RF_OK;
    if ((out == NULL || fclose(out) != 0) && rc == RF_OK) {
        rc = rf_error_set(err, RF_ERR, "cannot write %s: %m", file.temporary);
    }
    if (rc == RF_OK) {
        rc = rf_atomic_commit(&file, err);
    }
    if (rc == RF_OK && journal != NULL) {
        rf_journal_finish(journal, path, a->options->limit);
    }
    rf_journal_close(journal);
    rf_atomic_abandon(&file);
    return rc;
}

/* They all have their records, but no answer. */
static int check_any_fits(const answerer *a, const rf_question *prompts, int64_t n, rf_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        if (fits(a, &prompts[i])) {
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR, "%s: no prompt was answered: all are too long",
                        a->options->prompts);
}

static int run_file(answerer *a, rf_error *err)
{
    const rf_answers_options *o = a->options;
    rf_question *prompts = NULL;
    int64_t n = 0;
    int rc;
    RF_TRY(rf_questions_read(&prompts, &n, o->prompts, a->loaded->info.tokenizer, o->limit, err));
    int64_t longest = rf_questions_longest(prompts, n);
    /* where there is no room prepare says so */
    longest = room(a) >= 1 && longest > room(a) ? room(a) : longest;
    RF_TRY_OUT(prepare(a, longest, o->batch < n ? o->batch : n, err));
    rc = o->out != NULL ? write_file(a, o->out, prompts, n, err)
                        : write_all(a, prompts, n, NULL, stdout, err);
    rc = rc == RF_OK ? check_any_fits(a, prompts, n, err) : rc;
out:
    rf_questions_free(prompts, n);
    return rc;
}

int rf_answers_run(rf_loaded *loaded, const rf_answers_options *o, rf_error *err)
{
    answerer a = {.options = o, .loaded = loaded};
    int rc = o->prompts != NULL  ? run_file(&a, err)
             : o->prompt != NULL ? run_text(&a, o->prompt, err)
                                 : run_lines(&a, err);
    rf_engine_free(a.engine);
    return rc == RF_OK ? rf_error_of_stdout(err) : rc;
}
