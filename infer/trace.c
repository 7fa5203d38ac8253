#include "infer/trace.h"

#include "common/base/alloc.h"
#include "infer/unit.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* What a place is in the picture after an event. */
enum { MASKED, DRAFT, REJECTED, ACCEPTED, COMMITTED, REMOVED };
static const char *const state_names[] = {"masked",   "draft",     "rejected",
                                          "accepted", "committed", "removed"};
static const char *const event_names[] = {[RF_EVENT_PLAN] = "plan",
                                          [RF_EVENT_ACCEPT] = "accept",
                                          [RF_EVENT_COMMIT] = "commit",
                                          [RF_EVENT_END] = "end"};

static void begin(rf_trace *t, const rf_sequence *s)
{
    t->n = s->n_tokens;
    t->text = rf_alloc((size_t)t->n, sizeof *t->text);
    t->state = rf_alloc((size_t)t->n, sizeof *t->state);
    t->event = json_array();
    t->json = json_pack("{s:I, s:I, s:o}", "places", (json_int_t)s->n_tokens, "slot_size",
                        (json_int_t)s->slot_size, "events", t->event);
}

/* A draft that the verification before this event did not accept was rejected: of a slot that is
 * being completed, or of one that is masked again, which the picture shows once. */
static int state_of(const rf_sequence *s, rf_event_kind kind, int64_t i, int before)
{
    switch (s->slot[i / s->slot_size]) {
    case RF_SLOT_COMMITTED:
        return s->token[i] >= 0 ? COMMITTED : REMOVED;
    case RF_SLOT_REMOVED:
        return REMOVED;
    default:
        break;
    }
    return s->token[i] >= 0           ? ACCEPTED
           : rf_unit_token(s, i) >= 0 ? kind == RF_EVENT_ACCEPT ? REJECTED : DRAFT
           : before == DRAFT          ? REJECTED
                                      : MASKED;
}

/* What places i to *end - 1 show together: the text goes to the first of them. */
static void read_unit(char text[256], int64_t *end, const rf_trace *t, const rf_sequence *s,
                      int64_t i)
{
    int32_t token[4];
    rf_unit u;
    *end = i + 1;
    text[0] = '\0';
    for (int64_t k = 0; k < 4; k++) {
        token[k] = i + k < t->n ? rf_unit_token(s, i + k) : -1;
    }
    if (token[0] >= 0) {
        rf_unit_next(&u, s->tokenizer, token, 4);
        memcpy(text, u.text, sizeof u.text);
        *end = i + u.n_tokens;
    }
}

/* The places that look otherwise than at the last event: [place, state, text]. */
static json_t *changes(rf_trace *t, rf_event_kind kind, const rf_sequence *s)
{
    json_t *list = json_array();
    int64_t end = 0;
    for (int64_t i = 0; i < t->n; i++) {
        char text[256] = "";
        int state = state_of(s, kind, i, t->state[i]);
        if (state == REJECTED && rf_unit_token(s, i) < 0) {
            memcpy(text, t->text[i], sizeof text);
        } else if (i >= end && state != MASKED && state != REMOVED) {
            read_unit(text, &end, t, s, i);
        }
        if (state != t->state[i] || strcmp(text, t->text[i]) != 0) {
            json_array_append_new(list,
                                  json_pack("[I, s, s]", (json_int_t)i, state_names[state], text));
            t->state[i] = state;
            memcpy(t->text[i], text, sizeof text);
        }
    }
    return list;
}

/* [slot, score] of those that the plan chose from. */
static json_t *scores(const rf_sequence *s)
{
    json_t *list = json_array();
    for (int64_t j = 0; j < s->n_masked; j++) {
        const int64_t e = s->masked[j];
        json_array_append_new(list, json_pack("[I, f]", (json_int_t)e, s->score[e]));
    }
    return list;
}

void rf_trace_observe(void *user, rf_event_kind kind, const rf_sequence *s)
{
    rf_trace *t = user;
    if (t->n == 0) {
        begin(t, s);
    }
    json_t *event = json_pack("{s:s, s:I, s:I, s:o}", "event", event_names[kind], "round",
                              (json_int_t)s->rounds, "forward", (json_int_t)s->forwards, "changes",
                              changes(t, kind, s));
    if (t->scores && kind == RF_EVENT_PLAN) {
        json_object_set_new(event, "scores", scores(s));
        if (rf_sequence_parts(s) > 1) {
            json_object_set_new(event, "slot_size", json_integer((json_int_t)s->slot_size));
        }
    }
    json_array_append_new(t->event, event);
}

void rf_trace_free(rf_trace *t)
{
    json_decref(t->json);
    free(t->text);
    free(t->state);
    *t = (rf_trace){0};
}
