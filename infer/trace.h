/* trace.h: records how an answer came about, place by place.                   all local
 *
 * As JSON (schema: README.md): the events of a decoding, each with the places that it changed. From
 * the beginning, where all places are masked, these give every picture in between.
 */
#ifndef RF_INFER_TRACE_H
#define RF_INFER_TRACE_H

#include "infer/decode/sequence.h"

struct json_t;

typedef struct rf_trace {
    bool scores;          /* of slots too, where the caller says so */
    struct json_t *json;  /* the record. Owned */
    struct json_t *event; /* its array of events */
    int64_t n;            /* places of the response; 0: nothing was seen yet */
    char (*text)[256];    /* [n] of each place: what it showed at the last event. Owned */
    int *state;           /* [n] owned */
} rf_trace;

/* An rf_observer of one answer; user is the rf_trace, zeroed in the beginning. */
void rf_trace_observe(void *user, rf_event_kind kind, const rf_sequence *s);
void rf_trace_free(rf_trace *trace); /* zeroes; a zeroed struct is fine */

#endif
