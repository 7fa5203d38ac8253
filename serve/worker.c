#include "serve/worker.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "serve/events.h"
#include "serve/reply.h"

#include <stdlib.h>
#include <string.h>

/* Who has a seat of the engine, and what for. */
typedef struct place {
    rf_choice *choice; /* NULL: free */
    bool judges;       /* the log-probabilities of tokens that are there; else for the answer */
} place;

typedef struct worker {
    rf_desk *desk;
    rf_engine *engine;
    place *seat; /* [engine->capacity] by the number of their request */
    int64_t n_seated;
} worker;

/* A stream whose pieces wait for their log-probabilities? */
static bool holds_pieces(const rf_choice *c)
{
    return c->order->ask.stream && c->order->ask.n_likely >= 0;
}

/* Takes the events over. */
static void send(rf_choice *c, rf_text *out)
{
    if (out->bytes > 0) {
        rf_desk_send(c->desk, c->order, out->data, out->bytes);
    }
    rf_text_free(out);
}

/* Response tokens [0, n) are what is to be judged, from now on. */
static void add_certain(rf_choice *c, const int32_t *token, int64_t n)
{
    if (n > c->n_certain) {
        memcpy(c->judged + c->prompt->ids.n + c->n_certain, token + c->n_certain,
               (size_t)(n - c->n_certain) * sizeof *token);
        c->n_certain = n;
    }
}

/* Text that is certain now, of response tokens [0, n): it is sent, or held. */
static void add_piece(rf_choice *c, rf_text *out, const char *piece, size_t bytes,
                      const int32_t *token, int64_t n)
{
    if (holds_pieces(c)) {
        rf_text_add(&c->held, piece, bytes);
        add_certain(c, token, n);
    } else {
        rf_events_piece(c, out, piece, bytes, NULL);
    }
}

/* Shows what becomes of a choice whose client wants to see it. An rf_observer. */
static void observe(void *user, rf_event_kind kind, const rf_sequence *s)
{
    rf_choice *c = user;
    rf_order *x = c->order;
    rf_text out = {0};
    if (x->ask.shows_slots) {
        rf_events_slots(c, &out, kind, s);
    }
    /* What stands behind max_tokens will be cut off. */
    if (kind != RF_EVENT_END && rf_sequence_fixed(s) <= x->ask.max_tokens) {
        size_t bytes;
        const char *piece = rf_stream_take(&c->stream, &bytes, s);
        add_piece(c, &out, piece, bytes, s->token, c->stream.n_tokens);
    }
    send(c, &out);
}

/* --- Asking ----------------------------------------------------------------------------------- */

static void fail_choice(worker *w, rf_choice *c, int status, const rf_error *err)
{
    rf_problem problem;
    (void)rf_problem_set(&problem, status, status == 500 ? "engine_failed" : "invalid_value", NULL,
                         "%s", err->message);
    c->finish = NULL;
    rf_desk_fail(w->desk, c->order, &problem);
    if (c->n_seats == 0) {
        rf_desk_done(w->desk, c);
    }
}

static void take_seat(worker *w, rf_choice *c, const rf_request *request)
{
    rf_error err = {0};
    int64_t number = 0;
    while (w->seat[number].choice != NULL) {
        number++;
    }
    if (rf_engine_take(w->engine, request, number, &err) != RF_OK) {
        fail_choice(w, c, 400, &err);
        return;
    }
    w->seat[number] = (place){.choice = c, .judges = request->given != NULL};
    w->n_seated++;
    c->n_seats++;
}

static rf_choice *leave_seat(worker *w, int64_t number)
{
    rf_choice *c = w->seat[number].choice;
    w->seat[number] = (place){0};
    w->n_seated--;
    c->n_seats--;
    return c;
}

/* Equal prompts get different samples where they are choices of one request, and else the same. */
static void ask_for_answer(worker *w, rf_choice *c)
{
    const rf_ask *ask = &c->order->ask;
    const rf_request request = {.prompt = c->prompt->ids.id,
                                .n_prompt = c->prompt->ids.n,
                                .index = (uint64_t)(c->number % ask->n),
                                .observer = ask->stream ? observe : NULL,
                                .user = c,
                                .stops = (const char *const *)ask->stops,
                                .cancel = &c->order->cancel,
                                .options = &ask->options};
    take_seat(w, c, &request);
}

/* Room for the judgement of all that may come: of echoed text from its second token on, else of the
 * answer. Where nothing is told about it yet. */
static void lay_out_judged(rf_choice *c)
{
    const rf_ask *ask = &c->order->ask;
    const rf_ids *ids = &c->prompt->ids;
    const int64_t before = ask->echo && ids->n > 0 ? 1 : ids->n;
    const int64_t k = ask->n_likely > 0 ? ask->n_likely : 1;
    const size_t most = (size_t)(ids->n + ask->max_tokens);
    rf_given *g = &c->given;
    c->n_judged = ids->n;
    c->n_told = rf_reply_first(c);
    c->judged = rf_alloc(most, sizeof *c->judged);
    memcpy(c->judged, ids->id, (size_t)ids->n * sizeof *c->judged);
    *g = (rf_given){.token = c->judged + before, .n = 0, .n_likely = k};
    g->logprob = rf_alloc(most, sizeof *g->logprob);
    g->likely = rf_alloc(most * (size_t)k, sizeof *g->likely);
    g->likely_logprob = rf_alloc(most * (size_t)k, sizeof *g->likely_logprob);
}

/* Of all tokens that stand in c->judged; those that were told already cost nothing. */
static void ask_for_judgement(worker *w, rf_choice *c, int64_t n_response)
{
    bool masks;
    (void)rf_offer_judges(c->order->offer, &masks);
    c->n_judged = c->prompt->ids.n + n_response;
    c->n_ripe = c->held.bytes;
    c->given.n = c->n_judged - (c->given.token - c->judged);
    const rf_decode_options options = {.kind = &rf_decoder_given,
                                       .gen_length = c->given.n,
                                       .slot_size = masks,
                                       .repetition_penalty = 1};
    const rf_request request = {.prompt = c->judged,
                                .n_prompt = c->n_judged - c->given.n,
                                .cancel = &c->order->cancel,
                                .options = &options,
                                .given = &c->given};
    take_seat(w, c, &request);
}

/* Tokens that are certain, or the text before them, but not judged? */
static bool wants_judgement(const rf_choice *c)
{
    const int64_t n = c->prompt->ids.n + c->n_certain;
    return c->judged != NULL && n > (c->given.n > 0 ? c->n_judged : c->given.token - c->judged);
}

/* What is judged of a stream is sent with its text. */
static void tell_judged(rf_choice *c)
{
    if (holds_pieces(c)) {
        rf_text out = {0};
        rf_events_piece(c, &out, c->n_ripe > 0 ? c->held.data : "", c->n_ripe,
                        rf_reply_logprobs(c, c->n_told, c->n_judged, &c->offset));
        send(c, &out);
        c->n_told = c->n_judged;
        c->held.bytes -= c->n_ripe;
        memmove(c->held.data, c->held.data + c->n_ripe, c->held.bytes);
    }
}

/* A seat of the choice was given back, or it never had one: what is left to do? */
static void go_on(worker *w, rf_choice *c)
{
    if (c->n_seats > 0) {
        return;
    }
    if (c->finish != NULL && wants_judgement(c)) {
        ask_for_judgement(w, c, c->n_certain);
    } else {
        rf_desk_done(w->desk, c);
    }
}

/* Streams are judged while they go on, where a seat is free. */
static void judge_streams(worker *w)
{
    for (int64_t i = 0; i < w->engine->capacity && w->n_seated < w->engine->capacity; i++) {
        rf_choice *c = w->seat[i].choice;
        if (c != NULL && c->n_seats == 1 && !w->seat[i].judges && wants_judgement(c)) {
            ask_for_judgement(w, c, c->n_certain);
        }
    }
}

/* A stream with its prompt begins with that. */
static void stream_echo(rf_choice *c)
{
    rf_text out = {0};
    size_t bytes;
    char *echo = rf_reply_echo(c, &bytes);
    add_piece(c, &out, echo, bytes, NULL, 0);
    send(c, &out);
    free(echo);
}

static void begin_choice(worker *w, rf_choice *c)
{
    if (c->order->ask.n_likely >= 0) {
        lay_out_judged(c);
    }
    if (c->order->ask.stream && c->order->ask.echo) {
        stream_echo(c);
    }
    if (c->order->ask.max_tokens > 0) {
        ask_for_answer(w, c);
    } else {
        c->finish = "length";
        go_on(w, c);
    }
}

/* --- Answering -------------------------------------------------------------------------------- */

/* An answer of whole blocks, or over a canvas, may be longer than what was asked for. */
static void cut_answer(rf_answer *answer, int64_t max_tokens)
{
    if (answer->n > max_tokens) {
        answer->n = max_tokens;
        answer->ended = false;
        answer->stop = NULL;
    }
}

static void take_answer(rf_choice *c, rf_answer *answer)
{
    const rf_ask *ask = &c->order->ask;
    cut_answer(answer, ask->max_tokens);
    c->answer = *answer;
    if (answer->cancelled) {
        return;
    }
    c->finish = answer->ended || answer->stop != NULL ? "stop" : "length";
    rf_text out = {0};
    if (ask->stream) {
        size_t bytes;
        const char *piece = rf_stream_end(&c->stream, &bytes, answer);
        add_piece(c, &out, piece, bytes, answer->token, answer->n);
    } else if (ask->n_likely >= 0) {
        add_certain(c, answer->token, answer->n);
    }
    send(c, &out);
}

/* An rf_engine_answered. */
static void answered(void *user, int64_t number, rf_answer *answer)
{
    worker *w = user;
    const bool judges = w->seat[number].judges;
    rf_choice *c = leave_seat(w, number);
    if (!judges) {
        take_answer(c, answer);
    } else if (answer->cancelled) {
        c->finish = NULL;
    } else {
        tell_judged(c);
    }
    if (judges) {
        rf_answer_free(answer);
    }
    go_on(w, c);
}

static void run_pass(worker *w)
{
    rf_error err = {0};
    if (rf_engine_pass(w->engine, answered, w, &err) == RF_OK) {
        return;
    }
    rf_log_error(&err);
    for (int64_t i = 0; i < w->engine->capacity; i++) {
        if (w->seat[i].choice != NULL) {
            fail_choice(w, leave_seat(w, i), 500, &err);
        }
    }
}

void rf_worker_run(rf_desk *desk, rf_engine *engine)
{
    worker w = {.desk = desk, .engine = engine};
    w.seat = rf_alloc((size_t)engine->capacity, sizeof *w.seat);
    for (;;) {
        rf_choice *c = NULL;
        judge_streams(&w);
        while (w.n_seated < engine->capacity && (c = rf_desk_next(desk, w.n_seated == 0)) != NULL) {
            begin_choice(&w, c);
        }
        if (w.n_seated == 0) { /* closed, and nothing waits */
            break;
        }
        rf_desk_look(desk);
        run_pass(&w);
        rf_desk_tell(desk, engine);
    }
    free(w.seat);
}
