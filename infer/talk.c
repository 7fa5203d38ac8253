#include "infer/talk.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "common/base/nearest.h"
#include "infer/line.h"
#include "infer/show.h"
#include "infer/stream.h"
#include "infer/unit.h"

#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_PROMPT = 4096 }; /* tokens of a conversation: their activations take memory */

typedef struct message {
    const char *role;
    char *content; /* [bytes] owned */
    size_t bytes;
    bool stopped; /* an answer that was cut off, by Ctrl-C or at decode.gen_length */
} message;

typedef struct talk {
    const rf_answers_options *options;
    rf_loaded *loaded;
    char **assignment; /* [n_assignments] settings: of the command line, then of /set. Owned */
    int n_assignments;
    rf_decode_options decode; /* that follow from them */
    rf_engine *engine;
    char *system;     /* what /system said; NULL: nothing. Owned */
    message *message; /* [n] of the user and the assistant, by turns. Owned */
    size_t n, capacity;
    uint64_t n_answered; /* names the answer for the randomness */
    rf_line *line;
    rf_show show;
    rf_stream stream; /* of the answer that comes about */
    bool is_over;
} talk;

/* Ctrl-C while an answer comes about. */
static atomic_bool interrupted;

/* For rf_output_on_signal. */
static bool take_signal(int number)
{
    if (number == SIGINT) {
        atomic_store(&interrupted, true);
    } else {
        rf_line_restore();
    }
    return number == SIGINT;
}

/* --- Model and settings ----------------------------------------------------------------------- */

/* Room for a conversation of so many tokens with its answer, by whatever settings. */
static int make_engine(talk *t, rf_error *err)
{
    rf_loaded *loaded = t->loaded;
    const int64_t positions = loaded->info.model.max_position_embeddings;
    const int64_t most = t->options->max_prompt > 0 ? t->options->max_prompt : DEFAULT_PROMPT;
    const int64_t context = most + t->decode.gen_length;
    const rf_engine_size size = rf_engine_size_of_any(context < positions ? context : positions, 1);
    const rf_model_limits limits = rf_engine_size_limits(&size);
    RF_TRY(rf_loaded_model(loaded, &limits, (int)t->options->n_threads, err));
    RF_TRY(rf_engine_new_sized(&t->engine, loaded->model, loaded->info.tokenizer, &t->decode, &size,
                               err));
    t->engine->reuses = true; /* what an answer's conversation has in common with the last one's */
    return rf_engine_size_fits(&size, &t->decode, 1, err);
}

static void add_assignment(talk *t, const char *text)
{
    t->assignment = rf_realloc(t->assignment, (size_t)t->n_assignments + 1, sizeof *t->assignment);
    t->assignment[t->n_assignments++] = rf_alloc_string(text);
}

/* What the assignments give. */
static int read_settings(rf_decode_options *out, const talk *t, rf_error *err)
{
    rf_config *config = NULL;
    int rc = rf_loaded_settings(&config, t->loaded, t->assignment, t->n_assignments, err);
    rc = rc == RF_OK ? rf_decode_options_from_config(out, config, err) : rc;
    rf_config_free(config);
    return rc == RF_OK ? rf_loaded_check_decoder(t->loaded, out->kind, err) : rc;
}

/* The settings decode.*, as YAML. */
static int show_settings(const talk *t, rf_error *err)
{
    rf_config *config = NULL;
    int rc = rf_loaded_settings(&config, t->loaded, t->assignment, t->n_assignments, err);
    char *text = rc == RF_OK ? rf_config_text(config, false) : rf_alloc_string("");
    for (const char *at = strstr(text, "decode:\n"); at != NULL && *at != '\0';) {
        const size_t bytes = strcspn(at, "\n");
        fprintf(stderr, "%.*s\n", (int)bytes, at);
        at += bytes + (at[bytes] == '\n');
        at = *at == ' ' ? at : NULL; /* the next section */
    }
    free(text);
    rf_config_free(config);
    return rc;
}

static int set(talk *t, const char *argument, rf_error *err)
{
    rf_decode_options decode;
    if (argument[0] == '\0') {
        return show_settings(t, err);
    }
    const bool has_section = memchr(argument, '.', strcspn(argument, "=")) != NULL;
    char *text = rf_alloc_format("%s%s", has_section ? "" : "decode.", argument);
    add_assignment(t, text);
    free(text);
    int rc = rf_loaded_check_assignments(t->assignment, t->n_assignments, NULL, err);
    rc = rc == RF_OK ? read_settings(&decode, t, err) : rc;
    rc = rc == RF_OK ? rf_engine_size_fits(&t->engine->size, &decode, 1, err) : rc;
    if (rc == RF_OK) {
        t->decode = decode;
    } else {
        free(t->assignment[--t->n_assignments]);
    }
    return rc;
}

/* --- The conversation ------------------------------------------------------------------------- */

static void add_message(talk *t, const char *role, char *content, size_t bytes, bool stopped)
{
    t->message = rf_alloc_grow(t->message, &t->capacity, t->n + 1, sizeof *t->message);
    t->message[t->n++] =
        (message){.role = role, .content = content, .bytes = bytes, .stopped = stopped};
}

static void drop_message(talk *t)
{
    free(t->message[--t->n].content);
}

static int reset(talk *t, const char *argument, rf_error *err)
{
    (void)argument;
    (void)err;
    while (t->n > 0) {
        drop_message(t);
    }
    rf_log_info("a new conversation%s", t->system != NULL ? "; the system's message stays" : "");
    return RF_OK;
}

static int set_system(talk *t, const char *argument, rf_error *err)
{
    if (t->options->raw) {
        return rf_error_set(err, RF_ERR_USAGE, "with --raw there is no conversation");
    }
    free(t->system);
    t->system = argument[0] != '\0' ? rf_alloc_string(argument) : NULL;
    rf_log_info("the system says %s, from the next answer on",
                t->system != NULL ? "this" : "nothing");
    return RF_OK;
}

/* Is it an answer from which a model could learn how answers are and end? */
static bool is_whole(const message *m)
{
    return strcmp(m->role, "assistant") == 0 && !m->stopped && m->bytes > 0;
}

static int save(talk *t, const char *argument, rf_error *err)
{
    bool can_be_learnt = false;
    if (argument[0] == '\0') {
        return rf_error_set(err, RF_ERR_USAGE, "/save needs the name of a file: /save talk.jsonl");
    }
    if (t->n == 0) {
        return rf_error_set(err, RF_ERR_USAGE, "nothing was said yet that could be saved");
    }
    if (rf_path_exists(argument)) {
        return rf_error_set(err, RF_ERR_USAGE, "%s is there already: give another name", argument);
    }
    json_t *messages = json_array();
    if (t->system != NULL) {
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", t->system));
    }
    for (size_t i = 0; i < t->n; i++) {
        const message *m = &t->message[i];
        json_t *one = json_pack("{s:s, s:s%}", "role", m->role, "content", m->content, m->bytes);
        if (m->stopped) {
            json_object_set_new(one, "stopped", json_true());
        } else if (m->bytes == 0) {
            json_object_set_new(one, "train", json_false());
        }
        can_be_learnt |= is_whole(m);
        json_array_append_new(messages, one);
    }
    json_t *record = json_pack("{s:o}", "messages", messages);
    char *json = record != NULL ? json_dumps(record, JSON_COMPACT) : NULL;
    char *text = json != NULL ? rf_alloc_format("%s\n", json) : NULL;
    int rc = text != NULL ? rf_file_write(argument, text, strlen(text), err)
                          : rf_error_set(err, RF_ERR, "the conversation is no UTF-8");
    if (rc == RF_OK) {
        rf_log_info("saved in %s%s", argument,
                    can_be_learnt ? ""
                                  : ": no answer in it is whole, so that refusion-data build finds "
                                    "nothing to learn");
    }
    json_decref(record);
    free(json);
    free(text);
    return rc;
}

/* The prompt of the conversation as it is now; with --raw of its last message alone. */
static int render(const talk *t, rf_ids *ids, rf_error *err)
{
    const rf_tokenizer *tokenizer = t->loaded->info.tokenizer;
    const bool has_system = t->system != NULL;
    if (t->options->raw) {
        const message *last = &t->message[t->n - 1];
        rf_ids_push(ids, rf_tokenizer_specials(tokenizer)->begin);
        return rf_tokenizer_encode(tokenizer, ids, last->content, last->bytes, err);
    }
    rf_turn *turn = rf_alloc(t->n + 1, sizeof *turn);
    if (has_system) {
        turn[0] = (rf_turn){.role = "system", .content = t->system, .bytes = strlen(t->system)};
    }
    for (size_t i = 0; i < t->n; i++) {
        const message *m = &t->message[i];
        turn[i + has_system] = (rf_turn){.role = m->role, .content = m->content, .bytes = m->bytes};
    }
    int rc = rf_tokenizer_render_prompt(tokenizer, ids, turn, (int64_t)t->n + has_system, err);
    free(turn);
    return rc;
}

/* --- An answer -------------------------------------------------------------------------------- */

/* An rf_observer. */
static void observe(void *user, rf_event_kind kind, const rf_sequence *s)
{
    talk *t = user;
    if (t->options->show) {
        rf_show_observe(&t->show, kind, s);
    } else {
        size_t bytes;
        const char *piece = rf_stream_take(&t->stream, &bytes, s);
        rf_unit_print(piece, bytes);
    }
}

static void print_rest(talk *t, const rf_answer *answer)
{
    if (!(t->options->show && t->show.live)) {
        size_t bytes;
        const char *piece = rf_stream_end(&t->stream, &bytes, answer);
        rf_unit_print(piece, bytes);
        rf_unit_print("\n", 1);
    }
    rf_answers_log(answer);
}

static int decode(talk *t, rf_answer *answer, const rf_ids *prompt, rf_error *err)
{
    const rf_request request = {.prompt = prompt->id,
                                .n_prompt = prompt->n,
                                .index = t->n_answered++,
                                .observer = observe,
                                .user = t,
                                .stops = t->options->stops,
                                .cancel = &interrupted,
                                .options = &t->decode};
    if (rf_engine_size_fits(&t->engine->size, &t->decode, prompt->n, NULL) != RF_OK) {
        return rf_error_set(err, RF_ERR,
                            "the conversation has %" PRId64 " tokens, which with an answer of "
                            "decode.gen_length=%" PRId64 " are more than the %" PRId64
                            " that fit: /reset begins a new one%s",
                            prompt->n, t->decode.gen_length, t->engine->size.positions,
                            t->engine->size.positions <
                                    t->loaded->info.model.max_position_embeddings
                                ? "; started with --max-prompt N, more fit"
                                : "");
    }
    t->stream = (rf_stream){.tokenizer = t->loaded->info.tokenizer, .stops = t->options->stops};
    rf_show_begin(&t->show);
    atomic_store(&interrupted, false);
    int rc = rf_engine_run(t->engine, answer, &request, 1, NULL, NULL, err);
    if (rc == RF_OK) {
        print_rest(t, answer);
    }
    rf_stream_free(&t->stream);
    return rc;
}

/* The message and its answer become part of the conversation, or neither does. */
static int answer(talk *t, const char *text, rf_error *err)
{
    rf_answer answer = {0};
    rf_ids ids = {0};
    add_message(t, "user", rf_alloc_string(text), strlen(text), false);
    int rc = render(t, &ids, err);
    rc = rc == RF_OK ? decode(t, &answer, &ids, err) : rc;
    if (rc == RF_OK && !t->options->raw) {
        size_t bytes;
        char *said = rf_answer_text(&answer, &bytes, t->loaded->info.tokenizer);
        add_message(t, "assistant", said, bytes, !answer.ended && answer.stop == NULL);
    } else {
        drop_message(t);
    }
    rf_ids_free(&ids);
    rf_answer_free(&answer);
    return rc;
}

/* --- Commands --------------------------------------------------------------------------------- */

static int quit(talk *t, const char *argument, rf_error *err)
{
    (void)argument;
    (void)err;
    t->is_over = true;
    return RF_OK;
}

static int help(talk *t, const char *argument, rf_error *err);

static const struct command {
    const char *name, *argument, *help;
    int (*run)(talk *t, const char *argument, rf_error *err);
} commands[] = {
    {"help", "", "this list", help},
    {"reset", "", "a new conversation", reset},
    {"system", "TEXT", "what the model is told before the conversation; without TEXT: nothing",
     set_system},
    {"set", "KEY=VALUE", "a setting of decode.*, as on the command line; alone: shows them all",
     set},
    {"save", "FILE", "the conversation into a new file, as {\"messages\": [...]}", save},
    {"quit", "", "ends, as Ctrl-D does", quit}};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int help(talk *t, const char *argument, rf_error *err)
{
    (void)t;
    (void)argument;
    (void)err;
    for (int i = 0; i < N_COMMANDS; i++) {
        fprintf(stderr, "  /%-6s %-10s %s\n", commands[i].name, commands[i].argument,
                commands[i].help);
    }
    fputs(
        "\nA message of several lines: \\ at the end of a line goes on in the next, or a line of\n"
        "\"\"\" before and another behind them, which is the way to paste. // at the beginning is "
        "a /\n"
        "that begins a message. Ctrl-C stops an answer, whose beginning stays, or drops what is\n"
        "typed. Arrow keys edit the line and find earlier ones.\n",
        stderr);
    return RF_OK;
}

/* text: behind the slash. */
static int run_command(talk *t, const char *text, rf_error *err)
{
    const size_t bytes = strcspn(text, " \t\n");
    const char *argument = text + bytes + strspn(text + bytes, " \t\n");
    rf_nearest nearest = rf_nearest_to(text, bytes);
    char hint[RF_NEAREST_HINT];
    for (int i = 0; i < N_COMMANDS; i++) {
        const size_t length = strlen(commands[i].name);
        if (length == bytes && memcmp(commands[i].name, text, bytes) == 0) {
            return commands[i].run(t, argument, err);
        }
        rf_nearest_try(&nearest, commands[i].name, length);
    }
    return rf_error_set(err, RF_ERR_USAGE, "/%.*s: unknown command: %s/help lists them", (int)bytes,
                        text, rf_nearest_hint(hint, &nearest, "/"));
}

/* --- Messages --------------------------------------------------------------------------------- */

/* One message, or command: / and a name. What begins with // is a message that begins with /. */
static int take_message(talk *t, rf_error *err)
{
    rf_text typed = {0};
    bool quoted;
    int rc = RF_OK;
    const rf_line_end end = rf_line_read(t->line, &typed, &quoted);
    if (end == RF_LINE_OVER) {
        fputc('\n', stderr);
        t->is_over = true;
    } else if (end == RF_LINE_ENTER && typed.bytes > 0) {
        const bool has_slash = !quoted && typed.data[0] == '/';
        rf_line_remember(t->line, typed.data);
        rc = has_slash && typed.data[1] != '/' ? run_command(t, typed.data + 1, err)
                                               : answer(t, typed.data + has_slash, err);
    }
    rf_text_free(&typed);
    return rc;
}

static void greet(const talk *t)
{
    char text[512];
    rf_backend_describe(t->loaded->model->ctx, text, sizeof text);
    rf_log_info("%s", text);
    if (t->options->raw) {
        rf_log_info("each message is the beginning of a plain text (--raw)");
    } else {
        rf_log_info("form of the conversation: %s", rf_tokenizer_form(t->loaded->info.tokenizer));
    }
    rf_log_info("type a message; /help tells more, Ctrl-D ends");
}

int rf_talk_run(rf_loaded *loaded, const rf_answers_options *options, rf_error *err)
{
    talk t = {.options = options, .loaded = loaded, .decode = options->decode};
    int rc;
    for (int i = 0; i < options->n_assignments; i++) {
        add_assignment(&t, options->assignment[i]);
    }
    rf_show_init(&t.show, stdout, loaded->info.tokenizer, (int)options->pause_ms);
    RF_TRY_OUT(make_engine(&t, err));
    greet(&t);
    t.line = rf_line_open();
    rf_output_on_signal(take_signal);
    while (!t.is_over) {
        rf_error problem = {0};
        if (take_message(&t, &problem) != RF_OK) {
            rf_log_error(&problem);
        }
    }
    rf_output_on_signal(NULL);
out:
    rf_line_close(t.line);
    rf_engine_free(t.engine);
    while (t.n > 0) {
        drop_message(&t);
    }
    rf_free_strings(t.assignment, t.n_assignments);
    free(t.message);
    free(t.system);
    return rc;
}
