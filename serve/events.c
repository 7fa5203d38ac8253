#include "serve/events.h"

#include "serve/reply.h"

#include <stdlib.h>

/* Takes the JSON over. name: of the event; NULL: the usual one. */
static void add_event(rf_text *out, const char *name, json_t *data)
{
    char *json = json_dumps(data, JSON_COMPACT);
    if (name != NULL) {
        rf_text_add_string(out, "event: ");
        rf_text_add_string(out, name);
        rf_text_add_string(out, "\n");
    }
    rf_text_add_string(out, "data: ");
    rf_text_add_string(out, json);
    rf_text_add_string(out, "\n\n");
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

/* What is new of a choice: of a conversation `delta`, which it takes over, else `text` (delta NULL).
 * logprobs: taken over; NULL: none. */
static json_t *news(const rf_choice *c, json_t *delta, const char *text, size_t bytes,
                    json_t *logprobs, const char *finish)
{
    const json_int_t index = c->number;
    return delta != NULL ? json_pack("{s:I, s:o, s:o?, s:s?}", "index", index, "delta", delta,
                                     "logprobs", logprobs, "finish_reason", finish)
                         : json_pack("{s:I, s:s%, s:o?, s:s?}", "index", index, "text", text, bytes,
                                     "logprobs", logprobs, "finish_reason", finish);
}

static bool is_chat(const rf_choice *c)
{
    return c->order->ask.kind == RF_ASK_CHAT;
}

void rf_events_begin(const rf_order *x, rf_text *out)
{
    for (int64_t i = 0; x->ask.kind == RF_ASK_CHAT && i < x->n_choices; i++) {
        json_t *delta = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
        add_event(out, NULL, chunk(x, news(&x->choice[i], delta, "", 0, NULL, NULL)));
    }
}

void rf_events_piece(const rf_choice *c, rf_text *out, const char *piece, size_t bytes,
                     json_t *logprobs)
{
    if (bytes > 0 || logprobs != NULL) {
        json_t *delta = is_chat(c) ? json_pack("{s:s%}", "content", piece, bytes) : NULL;
        add_event(out, NULL, chunk(c->order, news(c, delta, piece, bytes, logprobs, NULL)));
    }
}

void rf_events_finish(const rf_choice *c, rf_text *out)
{
    if (c->finish != NULL) {
        json_t *delta = is_chat(c) ? json_object() : NULL;
        add_event(out, NULL, chunk(c->order, news(c, delta, "", 0, NULL, c->finish)));
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
