#include "serve/events.h"

#include "serve/reply.h"

#include <jansson.h>
#include <stdlib.h>

/* Takes the JSON over. name: of the event; NULL: the usual one. */
static void add_event(rf_text *out, const char *name, json_t *data)
{
    char *json = json_dumps(data, JSON_COMPACT);
    if (name != NULL) {
        rf_text_print(out, "event: %s\n", name);
    }
    rf_text_print(out, "data: %s\n\n", json);
    free(json);
    json_decref(data);
}

/* A chunk with this choice, which it takes over; NULL: with none. */
static json_t *chunk(const rf_order *x, json_t *choice)
{
    json_t *choices = json_array();
    if (choice != NULL) {
        json_array_append_new(choices, choice);
    }
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", x->id, "object",
                  x->ask.kind == RF_ASK_CHAT ? "chat.completion.chunk" : "text_completion",
                  "created", (json_int_t)x->created, "model", x->offer->name, "choices", choices);
    if (x->ask.includes_usage) {
        json_object_set_new(object, "usage", json_null());
    }
    return object;
}

static bool is_chat(const rf_choice *c)
{
    return c->order->ask.kind == RF_ASK_CHAT;
}

/* What is new of a choice: of a conversation the delta, else text. Takes over this and logprobs; these
 * and finish: NULL, none. */
static void add_news(rf_text *out, const rf_choice *c, json_t *what, json_t *logprobs,
                     const char *finish)
{
    add_event(out, NULL,
              chunk(c->order, json_pack("{s:I, s:o, s:o?, s:s?}", "index", (json_int_t)c->number,
                                        is_chat(c) ? "delta" : "text", what, "logprobs", logprobs,
                                        "finish_reason", finish)));
}

void rf_events_begin(const rf_order *x, rf_text *out)
{
    for (int64_t i = 0; x->ask.kind == RF_ASK_CHAT && i < x->n_choices; i++) {
        add_news(out, &x->choice[i], json_pack("{s:s, s:s}", "role", "assistant", "content", ""),
                 NULL, NULL);
    }
}

void rf_events_piece(const rf_choice *c, rf_text *out, const char *piece, size_t bytes,
                     json_t *logprobs)
{
    if (bytes > 0 || logprobs != NULL) {
        json_t *text = json_stringn(piece, bytes);
        add_news(out, c, is_chat(c) ? json_pack("{s:o}", "content", text) : text, logprobs, NULL);
    }
}

void rf_events_finish(const rf_choice *c, rf_text *out)
{
    if (c->finish != NULL) {
        add_news(out, c, is_chat(c) ? json_object() : json_string(""), NULL, c->finish);
    }
}

void rf_events_end(const rf_order *x, rf_text *out)
{
    if (x->problem.status != 0) {
        add_event(out, NULL, rf_problem_json(&x->problem));
    } else if (x->ask.includes_usage) {
        json_t *last = chunk(x, NULL);
        json_object_set_new(last, "usage", rf_reply_usage(x));
        add_event(out, NULL, last);
    }
    rf_text_add_string(out, "data: [DONE]\n\n");
}

/* --- Slots ------------------------------------------------------------------------------------ */

void rf_events_slots(rf_choice *c, rf_text *out, rf_event_kind kind, const rf_sequence *s)
{
    const bool is_first = c->trace.n == 0;
    c->trace.scores = true;
    rf_trace_observe(&c->trace, kind, s);
    json_t *event = json_incref(json_array_get(c->trace.event, 0));
    json_array_clear(c->trace.event);
    json_object_set_new(event, "index", json_integer(c->number));
    if (is_first) {
        json_object_update_new(event, json_pack("{s:I, s:I}", "places", (json_int_t)s->n_tokens,
                                                "slot_size", (json_int_t)s->slot_size));
    }
    add_event(out, "slots", event);
}
