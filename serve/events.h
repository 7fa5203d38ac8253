/* events.h: a stream of server-sent events, as OpenAI's clients read it.        all local
 *
 * Each appends to `out`. Pieces of text come in order, as soon as nothing can change them any more; with
 * stream_options.slots also what was drafted, rejected, accepted and committed where (README.md).
 */
#ifndef RF_SERVE_EVENTS_H
#define RF_SERVE_EVENTS_H

#include "serve/desk.h"

/* Before anything of an order. */
void rf_events_begin(const rf_order *x, rf_text *out);
/* Text of a choice, and the log-probabilities of its tokens, which it takes over (NULL: none); nothing
 * where both are missing. */
void rf_events_piece(const rf_choice *c, rf_text *out, const char *piece, size_t bytes,
                     struct json_t *logprobs);
/* What an observer of the choice's sequence sees. */
void rf_events_slots(rf_choice *c, rf_text *out, rf_event_kind kind, const rf_sequence *s);
/* A choice is there; nothing where it failed. */
void rf_events_finish(const rf_choice *c, rf_text *out);
/* The order is done: what went wrong, or the usage where it is wanted; then the end. */
void rf_events_end(const rf_order *x, rf_text *out);

#endif
