/* stream.h: the text of an answer, piece by piece, as it becomes certain.       all local
 *
 *     rf_stream stream = {.tokenizer = ..., .stops = ...};       as the request has them
 *     in the observer, at each event:  piece = rf_stream_take(&stream, &bytes, sequence);
 *     when the answer is there:        piece = rf_stream_end(&stream, &bytes, answer);
 *
 * All pieces together are rf_answer_text.
 */
#ifndef RF_INFER_STREAM_H
#define RF_INFER_STREAM_H

#include "infer/engine.h"

typedef struct rf_stream {
    const rf_tokenizer *tokenizer; /* not owned */
    const char *const *stops;      /* not owned; NULL: none */
    int64_t n_tokens;              /* from the first on, whose text was taken whole */
    size_t n_taken;                /* bytes taken of the text behind them */
    char *text;                    /* that text, at the last call. Owned */
} rf_stream;

/* Text [*bytes] of what has become fixed since the last call; whole characters, and nothing that stands
 * behind the beginning of what may be a stop string. It stays until the next call. */
const char *rf_stream_take(rf_stream *stream, size_t *bytes, const rf_sequence *s);
/* The rest. */
const char *rf_stream_end(rf_stream *stream, size_t *bytes, const rf_answer *answer);
void rf_stream_free(rf_stream *stream); /* zeroes; a zeroed struct is fine */

#endif
