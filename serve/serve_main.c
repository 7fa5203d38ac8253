/* refusion-serve: a model for clients of OpenAI's interface, and for people with a browser. */
#include "common/base/files/file.h"
#include "common/base/log.h"
#include "common/base/manual/manual.h"
#include "common/base/utf8.h"
#include "data/objective.h"
#include "serve/http.h"
#include "serve/worker.h"

#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct options {
    rf_loaded_source source;
    const char *key_file, *name;
    int64_t port, n_seats, context, most_waiting, time_limit, n_threads;
    rf_http_options http;
} options;

static const double MIB = 1 << 20;
static const rf_config_key *const key_tables[] = {rf_decode_keys, NULL};

static const rf_option option_table[] = {
    {"model", "FILE",
     "checkpoint, or the folder of a run: its best checkpoint on validation, else its latest",
     RF_OPTION_TEXT, .at = offsetof(options, source.model), .once = true},
    {"adapter", "FILE",
     "adapters that were trained beside that checkpoint (lora.*), or the folder of their run",
     RF_OPTION_TEXT, .at = offsetof(options, source.adapter), .once = true},
    {"weights", "f32|bf16|int8", "as in refusion-infer", RF_OPTION_CHOICE,
     .at = offsetof(options, source.weights)},
    {"backend", "auto|cpu|cuda|ref32|ref64", "as in refusion-infer", RF_OPTION_CHOICE,
     .at = offsetof(options, source.backend)},
    {"name", "NAME", "what clients call the model (default: as the file or folder is called)",
     RF_OPTION_TEXT, .at = offsetof(options, name), .once = true},
    {"host", "ADDRESS",
     "to listen at (default 127.0.0.1); any other than this machine's own needs --api-key-file, or "
     "--no-key",
     RF_OPTION_TEXT, .at = offsetof(options, http.host)},
    {"port", "N", "default 8080; 0: a free one", RF_OPTION_INTEGER, .at = offsetof(options, port),
     .min = 0, .max = 65535},
    {"api-key-file", "FILE",
     "a key a line, which is the whole line, without blanks; one that begins with # is a comment: "
     "clients send a key, as Authorization: Bearer KEY. Nobody else may read the file",
     RF_OPTION_TEXT, .at = offsetof(options, key_file), .once = true},
    {"no-key", NULL, "everybody may use the server who reaches it", RF_OPTION_FLAG,
     .at = offsetof(options, http.no_key)},
    {"batch", "N", "answers that are made at once (default 8); they do not depend on it",
     RF_OPTION_INTEGER, .at = offsetof(options, n_seats), .min = 1, .max = 4096},
    {"context", "N",
     "most tokens of a prompt and its answer together (default: what the model has, at most 2048); "
     "memory grows with --batch times it",
     RF_OPTION_INTEGER, .at = offsetof(options, context), .min = 2, .max = 1 << 20},
    {"queue", "N",
     "answers that wait for their turn at most (default 256); then requests are refused with "
     "status 429",
     RF_OPTION_INTEGER, .at = offsetof(options, most_waiting), .min = 1, .max = 1 << 20},
    {"time-limit", "S", "seconds from a request to its whole answer (default 600)",
     RF_OPTION_INTEGER, .at = offsetof(options, time_limit), .min = 1, .max = 1 << 20},
    {"max-body", "BYTES", "of a request (default 4194304)", RF_OPTION_INTEGER,
     .at = offsetof(options, http.max_body), .min = 1024, .max = 1 << 30},
    {"connections", "N", "of clients at once (default 4096)", RF_OPTION_INTEGER,
     .at = offsetof(options, http.max_connections), .min = 1, .max = 1 << 16},
    {"control-tokens", NULL, "special tokens written out in messages are those tokens, not text",
     RF_OPTION_FLAG, .at = offsetof(options, source.control_tokens)},
    {"date", "today|DAY",
     "what chat templates take for the date (strftime_now): today, the day on which the server "
     "starts, or a day as 2026-11-28; else 26 Jul 2024",
     RF_OPTION_TEXT, .at = offsetof(options, source.date)},
    {"threads", "N", "default: the cores this process may use", RF_OPTION_INTEGER,
     .at = offsetof(options, n_threads), .min = 1, .max = 4096},
    {0}};

static const rf_manual manual = {
    .name = "refusion-serve",
    .summary = "a trained model for clients of OpenAI's interface, and for people",
    .synopsis =
        "refusion-serve --model CHECKPOINT.h5|RUN_FOLDER [options] [decode.key=value ...]\n",
    .text = "Answers /v1/completions, /v1/chat/completions and /v1/models, and shows a page at /\n"
            "where one can watch the model answer. SIGTERM or Ctrl-C: it answers what it has\n"
            "taken, and ends; once more, or before it listens: it ends at once.\n"
            "objective.kind=ar or =refusion tells what a model of refusion-convert was trained\n"
            "for, by which logprobs of given texts are counted (else refusion).\n",
    .option = option_table,
    .key = key_tables,
    .key_title = "Settings of requests that do not say otherwise (defaults: those of the run that "
                 "trained the model)"};

/* *first: index of the assignments. */
static int parse(options *o, int *first, int argc, char **argv, rf_error *err)
{
    *o = (options){.port = 8080,
                   .n_seats = 8,
                   .most_waiting = 256,
                   .time_limit = 600,
                   .http = {.host = "127.0.0.1",
                            .max_body = 4 << 20,
                            .max_connections = 4096,
                            .upload_seconds = 60,
                            .idle_seconds = 30}};
    RF_TRY(rf_manual_parse(first, o, argc, argv, &manual, err));
    o->http.port = (int)o->port;
    return o->source.model != NULL ? RF_OK : rf_manual_missing(&manual, "--model", err);
}

/* --- Signals ---------------------------------------------------------------------------------- */

/* Signals are blocked in all threads, those of the kernels too: one thread awaits them, from before the
 * model is read until the engine has ended. */
typedef struct stopper {
    sigset_t signals;
    pthread_t thread;
    rf_desk *desk;
    rf_http *http;
    atomic_bool serves; /* desk and http are there */
    atomic_bool done;   /* nobody waits for signals any more */
} stopper;

/* Until a signal comes the thread has time for what else is to be done now and then. False: it is not
 * from outside. */
static bool await_signal(const stopper *s)
{
    const struct timespec second = {1, 0};
    while (sigtimedwait(&s->signals, NULL, &second) < 0) {
        if (s->serves) {
            rf_http_sweep(s->http);
        }
    }
    return !s->done;
}

/* The first signal: nothing new is taken. The second one: nothing is finished any more. Before it serves
 * there is nothing to finish. */
static void *await_signals(void *user)
{
    stopper *s = user;
    if (!await_signal(s)) {
        return NULL;
    }
    if (!s->serves) {
        rf_log_info("ending before it listens");
        _exit(rf_error_exit_status(RF_OK));
    }
    rf_log_info("answering what was taken, then ending; once more: ending at once");
    rf_http_quiesce(s->http);
    rf_desk_close(s->desk);
    if (await_signal(s)) {
        rf_desk_abandon(s->desk);
    }
    return NULL;
}

static void begin_awaiting(stopper *s)
{
    sigemptyset(&s->signals);
    sigaddset(&s->signals, SIGTERM);
    sigaddset(&s->signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &s->signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    RF_ASSERT(pthread_create(&s->thread, NULL, await_signals, s) == 0);
}

/* Once more does nothing. */
static void end_awaiting(stopper *s)
{
    if (!s->done) {
        s->done = true;
        pthread_kill(s->thread, SIGTERM);
        pthread_join(s->thread, NULL);
    }
}

/* --- Running ---------------------------------------------------------------------------------- */

/* The defaults of requests, which must go together. */
static int read_settings(rf_decode_options *out, const char **objective, const rf_loaded *loaded,
                         char *const *assignment, int n, rf_error *err)
{
    rf_config *config = NULL;
    rf_objective trained;
    int rc;
    RF_TRY(rf_loaded_check_assignments(assignment, n, "objective.kind", err));
    RF_TRY_OUT(rf_loaded_settings(&config, loaded, assignment, n, err));
    RF_TRY_OUT(rf_decode_options_from_config(out, config, err));
    RF_TRY_OUT(rf_objective_from_config(
        &trained, config, rf_tokenizer_specials(loaded->info.tokenizer), out->gen_length, err));
    *objective = trained.kind->name;
    RF_TRY_OUT(rf_loaded_check_decoder(loaded, out->kind, err));
out:
    rf_config_free(config);
    return rc;
}

/* "runs/my/step-000000400.h5" becomes "step-000000400", a folder "runs/my" becomes "my". */
static void name_model(char *out, size_t bytes, const char *given)
{
    snprintf(out, bytes, "%s", given);
    rf_path_trim(out);
    const char *name = rf_path_name(out);
    memmove(out, name, strlen(name) + 1);
    const size_t n = strlen(out);
    if (n > 3 && strcmp(out + n - 3, ".h5") == 0) {
        out[n - 3] = '\0';
    }
}

static int check_name(const char *name, rf_error *err)
{
    const size_t n = strlen(name);
    size_t bad;
    return n > 0 && rf_utf8_is_valid(name, n, &bad)
               ? RF_OK
               : rf_error_set(err, RF_ERR_USAGE,
                              "the model's name '%s' is %s: say with --name what clients call it",
                              name, n > 0 ? "no UTF-8" : "empty");
}

static int choose_context(int64_t *out, const options *o, const rf_loaded *loaded, rf_error *err)
{
    const int64_t most = loaded->info.model.max_position_embeddings, usual = 2048;
    *out = o->context > 0 ? o->context : most < usual ? most : usual;
    return *out <= most ? RF_OK
                        : rf_error_set(err, RF_ERR_USAGE,
                                       "--context %" PRId64 ": %s has %" PRId64
                                       " positions (max_position_embeddings): give at most those",
                                       *out, loaded->path, most);
}

/* Serves until a signal ends it. */
static int serve(const options *o, rf_http *http, const rf_offer *offer, rf_engine *engine,
                 stopper *stop, rf_error *err)
{
    rf_desk desk;
    int rc;

    rf_desk_init(&desk, o->most_waiting, (double)o->time_limit, engine->capacity);
    RF_TRY_OUT(rf_http_start(http, &desk, offer, err));
    stop->desk = &desk;
    stop->http = http;
    stop->serves = true;
    rf_log_info("refusion-serve: %s answers for %s", rf_http_address(http), offer->name);
    rf_worker_run(&desk, engine);
out:
    end_awaiting(stop);
    rf_http_close(http);
    rf_desk_free(&desk);
    return rc;
}

/* What it will take; beside it the program itself, and some KiB for each connection and answer. */
static void log_memory(const rf_engine *e, const rf_offer *offer)
{
    const rf_model *model = e->model;
    bool masks;
    const size_t ranked =
        rf_offer_judges(offer, &masks)
            ? RF_ENGINE_RANKED * (size_t)model->config.vocab_size * sizeof *e->logits
            : 0;
    rf_log_info("memory: weights %.1f MiB, cache %.1f (%" PRId64 " answers of up to %" PRId64
                " tokens), activations %.1f, kernels %.1f, tokenizer %.1f, log-probabilities %.1f "
                "(once asked for)",
                (double)model->bytes / MIB, (double)e->cache->bytes / MIB, e->capacity,
                offer->size.positions, (double)e->acts->bytes / MIB,
                (double)model->ctx->scratch_bytes / MIB,
                (double)rf_tokenizer_memory(e->tokenizer) / MIB, (double)ranked / MIB);
}

/* The model, and an engine for any request. */
static int make_engine(rf_engine **out, const options *o, rf_offer *offer, rf_loaded *loaded,
                       rf_error *err)
{
    rf_decode_options decode;
    char text[512];
    int64_t context;
    RF_TRY(read_settings(&decode, &offer->objective, loaded, offer->assignment,
                         offer->n_assignments, err));
    RF_TRY(choose_context(&context, o, loaded, err));
    offer->size = rf_engine_size_of_any(context, o->n_seats);
    const rf_model_limits limits = rf_engine_size_limits(&offer->size);
    malloc_trim(0); /* JSON of a tokenizer, read and dropped, left as much again, */
    RF_TRY(rf_loaded_model(loaded, &limits, (int)o->n_threads, err));
    malloc_trim(0); /* and what a checkpoint was read by some MiB, before the cache comes */
    RF_TRY(rf_engine_new_sized(out, loaded->model, loaded->info.tokenizer, &decode, &offer->size,
                               err));
    rf_engine *e = *out;
    e->reuses = true;
    e->piece = 128;
    rf_backend_describe(loaded->model->ctx, text, sizeof text);
    rf_log_info("%s", text);
    log_memory(e, offer);
    return RF_OK;
}

static int run(options *o, rf_loaded *loaded, char **assignment, int n, stopper *stop,
               rf_error *err)
{
    rf_engine *engine = NULL;
    rf_http *http = NULL;
    rf_access access = {0};
    char name[256];
    rf_offer offer = {.name = o->name,
                      .loaded = loaded,
                      .assignment = assignment,
                      .n_assignments = n,
                      .created = (int64_t)time(NULL)};
    int rc;

    if (o->name == NULL) {
        name_model(name, sizeof name, o->source.model);
        offer.name = name;
    }
    RF_TRY_OUT(check_name(offer.name, err));
    if (o->key_file != NULL) {
        RF_TRY_OUT(rf_access_read(&access, o->key_file, err));
    }
    o->http.access = &access;
    RF_TRY_OUT(rf_http_open(&http, &o->http, err));
    RF_TRY_OUT(rf_loaded_open(loaded, &o->source, err));
    RF_TRY_OUT(make_engine(&engine, o, &offer, loaded, err));
    rc = serve(o, http, &offer, engine, stop, err);
    http = NULL;
out:
    rf_http_close(http);
    rf_engine_free(engine);
    rf_access_free(&access);
    return rc;
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_loaded loaded = {0};
    options o;
    stopper stop = {0};
    bool answered;
    int first = argc;

    rf_log_set_program("refusion-serve");
    int rc = rf_manual_answer(&answered, &manual, argc, argv, &err);
    if (!answered) {
        rc = parse(&o, &first, argc, argv, &err);
    }
    if (rc == RF_OK && !answered) {
        begin_awaiting(&stop);
        rc = run(&o, &loaded, argv + first, argc - first, &stop, &err);
        end_awaiting(&stop);
    }
    rf_loaded_close(&loaded);
    if (rc != RF_OK) {
        rf_log_error(&err);
    }
    return rf_error_exit_status(rc);
}
