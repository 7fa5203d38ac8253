#include "infer/stream.h"

#include "infer/decode/stop.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of the text that nothing to come can change: a last character that is broken may be one whose
 * other bytes are still missing. */
static size_t certain(const char *text, size_t bytes, const char *const *stops)
{
    static const char broken[] = "\xEF\xBF\xBD";
    const size_t n = sizeof broken - 1;
    size_t begin;
    if (rf_stops_find(&begin, text, bytes, stops) >= 0) {
        return begin;
    }
    bytes -= bytes >= n && memcmp(text + bytes - n, broken, n) == 0 ? n : 0;
    return bytes - rf_stops_begun(text, bytes, stops);
}

/* The text of response token[0, n) up to what is certain, or, where `whole`, up to a stop string. */
static const char *take(rf_stream *stream, size_t *bytes, const int32_t *token, int64_t n,
                        bool whole)
{
    size_t length, end;
    free(stream->text);
    stream->text = rf_tokenizer_decode(stream->tokenizer, &length, token + stream->n_tokens,
                                       n - stream->n_tokens, true);
    if (whole) {
        (void)rf_stops_find(&end, stream->text, length, stream->stops);
    } else {
        end = certain(stream->text, length, stream->stops);
    }
    const char *piece = stream->text + stream->n_taken;
    *bytes = end - stream->n_taken;
    stream->n_taken = end;
    if (end == length) {
        stream->n_tokens = n;
        stream->n_taken = 0;
    }
    return piece;
}

const char *rf_stream_take(rf_stream *stream, size_t *bytes, const rf_sequence *s)
{
    return take(stream, bytes, s->token, rf_sequence_fixed(s), false);
}

const char *rf_stream_end(rf_stream *stream, size_t *bytes, const rf_answer *answer)
{
    return take(stream, bytes, answer->token, answer->n, true);
}

void rf_stream_free(rf_stream *stream)
{
    free(stream->text);
    *stream = (rf_stream){0};
}
