#include "serve/worker.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "serve/events.h"

#include <stdlib.h>
#include <string.h>

typedef struct worker {
    rf_desk *desk;
    rf_engine *engine;
    rf_choice **seated; /* [engine->capacity] by the number of their request; NULL: free */
    int64_t n_seated;
} worker;

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
        rf_events_piece(c, &out, piece, bytes);
    }
    if (out.bytes > 0) {
        rf_desk_send(c->desk, x, out.data, out.bytes);
    }
    rf_text_free(&out);
}

/* --- Asking ----------------------------------------------------------------------------------- */

static void fail_choice(worker *w, rf_choice *c, int status, const rf_error *err)
{
    rf_problem problem;
    (void)rf_problem_set(&problem, status, status == 500 ? "engine_failed" : "invalid_value", NULL,
                         "%s", err->message);
    rf_desk_fail(w->desk, c->order, &problem);
    rf_desk_done(w->desk, c);
}

static void take_seat(worker *w, rf_choice *c, const rf_request *request)
{
    rf_error err = {0};
    int64_t number = 0;
    while (w->seated[number] != NULL) {
        number++;
    }
    if (rf_engine_take(w->engine, request, number, &err) != RF_OK) {
        fail_choice(w, c, 400, &err);
        return;
    }
    w->seated[number] = c;
    w->n_seated++;
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

/* Echoed text is judged from its second token on; else the answer behind its prompt. */
static void lay_out_judged(rf_choice *c)
{
    const rf_ask *ask = &c->order->ask;
    const rf_ids *ids = &c->prompt->ids;
    const int64_t k = ask->n_likely > 0 ? ask->n_likely : 1;
    rf_given *g = &c->given;
    c->n_judged = ids->n + c->answer.n;
    c->judged = rf_alloc((size_t)c->n_judged, sizeof *c->judged);
    memcpy(c->judged, ids->id, (size_t)ids->n * sizeof *c->judged);
    if (c->answer.n > 0) {
        memcpy(c->judged + ids->n, c->answer.token, (size_t)c->answer.n * sizeof *c->judged);
    }
    const int64_t before = ask->echo && ids->n > 0 ? 1 : ids->n;
    *g = (rf_given){.token = c->judged + before, .n = c->n_judged - before, .n_likely = k};
    g->logprob = rf_alloc((size_t)g->n, sizeof *g->logprob);
    g->likely = rf_alloc((size_t)(g->n * k), sizeof *g->likely);
    g->likely_logprob = rf_alloc((size_t)(g->n * k), sizeof *g->likely_logprob);
}

static void ask_for_judgement(worker *w, rf_choice *c)
{
    bool masks;
    (void)rf_offer_judges(c->order->offer, &masks);
    const rf_decode_options options = {.kind = &rf_decoder_given,
                                       .gen_length = c->given.n,
                                       .slot_size = masks,
                                       .repetition_penalty = 1};
    const rf_request request = {.prompt = c->judged,
                                .n_prompt = c->n_judged - c->given.n,
                                .cancel = &c->order->cancel,
                                .options = &options,
                                .given = &c->given};
    c->is_judging = true;
    take_seat(w, c, &request);
}

/* An answer is there, or none was wanted: what is left to do? */
static void go_on(worker *w, rf_choice *c)
{
    const rf_ask *ask = &c->order->ask;
    if (ask->n_likely >= 0 && c->judged == NULL) {
        lay_out_judged(c);
        if (c->given.n > 0) {
            rf_desk_again(w->desk, c);
            return;
        }
    }
    rf_desk_done(w->desk, c);
}

static void begin_choice(worker *w, rf_choice *c)
{
    if (c->judged != NULL) {
        ask_for_judgement(w, c);
    } else if (c->order->ask.max_tokens > 0) {
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
    if (ask->stream) {
        rf_text out = {0};
        size_t bytes;
        const char *piece = rf_stream_end(&c->stream, &bytes, answer);
        const char *finish = c->finish;
        c->finish = NULL; /* told by the chunk behind the text */
        rf_events_piece(c, &out, piece, bytes);
        c->finish = finish;
        rf_desk_send(c->desk, c->order, out.data, out.bytes);
        rf_text_free(&out);
    }
}

/* An rf_engine_answered. */
static void answered(void *user, int64_t number, rf_answer *answer)
{
    worker *w = user;
    rf_choice *c = w->seated[number];
    w->seated[number] = NULL;
    w->n_seated--;
    if (c->is_judging) {
        c->finish = answer->cancelled ? NULL : c->finish;
        rf_answer_free(answer);
        rf_desk_done(w->desk, c);
    } else {
        take_answer(c, answer);
        go_on(w, c);
    }
}

static void run_pass(worker *w)
{
    rf_error err = {0};
    if (rf_engine_pass(w->engine, answered, w, &err) == RF_OK) {
        return;
    }
    rf_log_error(&err);
    for (int64_t i = 0; i < w->engine->capacity; i++) {
        rf_choice *c = w->seated[i];
        w->seated[i] = NULL;
        if (c != NULL) {
            fail_choice(w, c, 500, &err);
        }
    }
    w->n_seated = 0;
}

void rf_worker_run(rf_desk *desk, rf_engine *engine)
{
    worker w = {.desk = desk, .engine = engine};
    w.seated = rf_alloc((size_t)engine->capacity, sizeof *w.seated);
    for (;;) {
        rf_choice *c = NULL;
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
    free(w.seated);
}
