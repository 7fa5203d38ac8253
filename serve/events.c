#include "serve/events.h"

#include "serve/reply.h"

#include <stdlib.h>
#include <string.h>

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

/* What is new of a choice: of a conversation `delta`, else `text`. Takes delta over. */
static json_t *news(const rf_choice *c, json_t *delta, const char *text, size_t bytes)
{
    if (c->order->ask.kind == RF_ASK_CHAT) {
        return json_pack("{s:I, s:o, s:n, s:s?}", "index", (json_int_t)c->number, "delta", delta,
                         "logprobs", "finish_reason", c->finish);
    }
    json_decref(delta);
    return json_pack("{s:I, s:s%, s:n, s:s?}", "index", (json_int_t)c->number, "text", text, bytes,
                     "logprobs", "finish_reason", c->finish);
}

void rf_events_begin(const rf_order *x, rf_text *out)
{
    for (int64_t i = 0; x->ask.kind == RF_ASK_CHAT && i < x->n_choices; i++) {
        json_t *delta = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
        add_event(out, NULL, chunk(x, news(&x->choice[i], delta, "", 0)));
    }
}

void rf_events_piece(const rf_choice *c, rf_text *out, const char *piece, size_t bytes)
{
    if (bytes > 0) {
        json_t *delta = json_pack("{s:s%}", "content", piece, bytes);
        add_event(out, NULL, chunk(c->order, news(c, delta, piece, bytes)));
    }
}

void rf_events_finish(const rf_choice *c, rf_text *out)
{
    if (c->finish != NULL) {
        add_event(out, NULL, chunk(c->order, news(c, json_object(), "", 0)));
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

/* A slot as a whole, from the states of its places in the trace. NULL: nothing stands there. */
static const char *state_of_slot(const rf_sequence *s, const json_t *changes, int64_t e)
{
    static const char *const order[] = {"rejected", "accepted", "draft"};
    if (s->slot[e] == RF_SLOT_COMMITTED) {
        return "committed";
    }
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        size_t i;
        json_t *change;
        json_array_foreach((json_t *)(uintptr_t)changes, i, change)
        {
            const int64_t at = json_integer_value(json_array_get(change, 0));
            if (at / s->slot_size == e &&
                strcmp(json_string_value(json_array_get(change, 1)), order[k]) == 0) {
                return order[k];
            }
        }
    }
    return NULL;
}

/* The texts of its places that are not empty. */
static json_t *tokens_of_slot(const rf_sequence *s, int64_t e)
{
    json_t *tokens = json_array();
    for (int64_t i = e * s->slot_size; i < e * s->slot_size + rf_sequence_length(s, e); i++) {
        const int32_t id = s->token[i] >= 0 ? s->token[i] : s->draft[i];
        size_t bytes = 0;
        char *text = id >= 0 ? rf_tokenizer_decode(s->tokenizer, &bytes, &id, 1, false) : NULL;
        json_array_append_new(tokens, json_stringn(text != NULL ? text : "", bytes));
        free(text);
    }
    return tokens;
}

/* The slots in which something changed. */
static json_t *changed_slots(const rf_sequence *s, const json_t *changes)
{
    json_t *slots = json_array();
    int64_t last = -1;
    size_t i;
    json_t *change;
    json_array_foreach((json_t *)(uintptr_t)changes, i, change)
    {
        const int64_t e = json_integer_value(json_array_get(change, 0)) / s->slot_size;
        const char *state = e != last ? state_of_slot(s, changes, e) : NULL;
        last = e;
        if (state != NULL) {
            json_array_append_new(slots, json_pack("{s:I, s:o, s:s, s:f}", "begin",
                                                   (json_int_t)(e * s->slot_size), "tokens",
                                                   tokens_of_slot(s, e), "state", state, "score",
                                                   s->score[e]));
        }
    }
    return slots;
}

void rf_events_slots(rf_choice *c, rf_text *out, rf_event_kind kind, const rf_sequence *s)
{
    const bool is_first = c->trace.n == 0;
    rf_trace_observe(&c->trace, kind, s);
    json_t *event = json_incref(json_array_get(c->trace.event, 0));
    json_array_clear(c->trace.event);
    json_t *slots = changed_slots(s, json_object_get(event, "changes"));
    json_object_update_new(event,
                           json_pack("{s:I, s:I, s:I, s:o}", "forwards", (json_int_t)s->forwards,
                                     "length", (json_int_t)s->n_tokens, "prompt_tokens",
                                     (json_int_t)s->n_prompt, "slots", slots));
    if (is_first) {
        json_object_update_new(event, json_pack("{s:I, s:I}", "places", (json_int_t)s->n_tokens,
                                                "slot_size", (json_int_t)s->slot_size));
    }
    add_event(out, "slots", event);
}
