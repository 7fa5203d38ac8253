/* records.h: what one line of JSON says: a conversation, or a text.            all local
 *
 * The one reader of records, for corpora (import.h), prompts and questions (infer/questions.h). A
 * line is a JSON object of one of these forms; other fields are ignored:
 *   {"query": s, "response": s}                     a conversation of two turns; response may be
 *                                                   missing
 *   {"messages": [{"role": s, "content": s}, ...]}  a conversation; beside it "tools",
 *                                                   "enable_thinking", "date_string"
 *   {"text": s}                                     a text
 * A question is never empty. Messages of errors name neither file nor line: the caller knows them.
 */
#ifndef RF_DATA_CORPUS_RECORDS_H
#define RF_DATA_CORPUS_RECORDS_H

#include "common/text/chat.h"

struct json_t;

typedef struct rf_record {
    struct json_t *root; /* the object, which holds all strings. Owned */
    const char *text;    /* of a text, [bytes], not empty; NULL: a conversation */
    size_t bytes;
    rf_turn *turn; /* [n_turns] of a conversation. Owned */
    int64_t n_turns;
    const char *answer_field;  /* which holds the answer of a pair; NULL: "messages" */
    rf_render_options options; /* asks for the generation prompt */
} rf_record;

/* Reads a line that is not blank. */
RF_MUST_CHECK int rf_record_read(rf_record *out, const char *line, size_t bytes, rf_error *err);
void rf_record_free(rf_record *record); /* zeroes; a zeroed struct is fine */

/* Parses a line as one JSON object with strict rules (no repeated keys, valid UTF-8; "\u0000" is
 * allowed). json_decref it. */
RF_MUST_CHECK int rf_record_parse(struct json_t **out, const char *line, size_t bytes,
                                  rf_error *err);

#endif
