/* records.h: what one line of JSON says: a conversation, or a text.            all local
 *
 * The one reader of records, for corpora (import.h), prompts and questions (infer/questions.h). A
 * record is a JSON object of one of these forms; a field that is null counts as missing:
 *   {"messages": [{"role": s, "content": s}, ...]}       a conversation, as OpenAI has it
 *   {"conversations": [{"from": s, "value": s}, ...]}    the same, as ShareGPT has it
 *   {"query": s, "response": s}                          a conversation of a question and an answer;
 *                                                        the answer may be missing
 *   {"prompt": [message, ...], "completion": [...] or s}  a conversation, as TRL has it: what is in
 *                                                        the prompt is not to be learnt
 *   {"text": s}                                          a text
 * Other names of a question: prompt, question, instruction (with "input" or "context", a text, on a
 * line below: that which is not empty; different texts in both are an error); of an answer:
 * completion, answer, output. Beside a conversation: "system" (or "system_prompt"), which is said first;
 * beside a pair "history": [[question, answer], ...], which was said before; and what
 * rf_chat_read_options reads. Beside "instruction" and "output" a "text" or "prompt" that holds both is
 * their rendering, as in tatsu-lab/alpaca, and passed over. Fields that change what a record says but are
 * not read in its form are refused (records_unread.c); others are ignored, whatever they hold.
 * Content may be a list of parts {"type": "text", "text": s}; the role `developer` is `system`. What
 * `function_call` (or `tool_call`) says is a text of JSON and becomes the assistant's "tool_calls";
 * `observation` (or `tool_response`) is `tool`; "tools" may be a text of JSON. A
 * message of the assistant with "weight": 0, "train": false, "loss": false or "stopped": true (it was cut
 * off) is not to be learnt.
 * A question is never empty. Messages of errors name neither file nor line: the caller knows them.
 */
#ifndef RF_DATA_CORPUS_RECORDS_H
#define RF_DATA_CORPUS_RECORDS_H

#include "common/base/files/lines.h"
#include "common/text/chat.h"

#include <stdatomic.h>

typedef struct rf_record {
    struct json_t *root; /* the object, which holds all strings. Owned */
    const char *text;    /* of a text, [bytes], not empty; NULL: a conversation */
    size_t bytes;
    rf_turn *turn; /* [n_turns] of a conversation. Owned */
    int64_t n_turns;
    const char *answer_field;  /* which holds the answer of a pair; NULL: no pair */
    rf_render_options options; /* asks for the generation prompt */
} rf_record;

/* Which fields a record has, of records of another form: [n] of "query=some.path", the place in the
 * object, where a number counts in an array. */
typedef struct rf_record_map {
    const char *const *entry; /* borrowed */
    int n;                    /* 0: the record has its own fields */
    atomic_bool *found; /* [n], set once an entry leads to something; NULL: not asked. Borrowed */
} rf_record_map;
/* RF_ERR_USAGE: an entry is not FIELD=PATH, or records have no such field. */
RF_MUST_CHECK int rf_record_check_map(const rf_record_map *map, rf_error *err);

/* Reads a line that is not blank. map may be NULL. */
RF_MUST_CHECK int rf_record_read(rf_record *out, const char *line, size_t bytes,
                                 const rf_record_map *map, rf_error *err);
void rf_record_free(rf_record *record); /* zeroes; a zeroed struct is fine */
/* Is the answer of turn i, a message of the assistant, to be learnt? */
bool rf_record_is_trained(const rf_record *record, int64_t i);

/* A file that is one JSON array of records, on its way through the lines. */
typedef struct rf_record_array {
    bool is_open, is_over, is_bad; /* behind '[', behind ']', something else than objects was met */
    bool in_string, is_escaped;    /* of the record that is open */
    int depth;                     /* of brackets; 0: between records */
} rf_record_array;

/* The next piece of a record in a line: line[*begin, *at), from *at on. begins, ends: of its record;
 * pieces of one record belong together with line ends between them. False: the line has no more. */
bool rf_record_array_next(rf_record_array *array, const char *line, size_t bytes, size_t *at,
                          size_t *begin, bool *begins, bool *ends);
/* Behind a line of the file, or (is_end) behind the last one: does it hold nothing but records, and
 * end as an array does? */
RF_MUST_CHECK int rf_record_array_check(const rf_record_array *array, const rf_lines *lines,
                                        bool is_end, rf_error *err);

/* Parses a line as one JSON object with strict rules (no repeated keys, valid UTF-8; "\u0000" is
 * allowed). What Python writes and JSON does not have is repaired where `repaired` is not NULL: NaN,
 * Infinity and numbers that are too large become null, halves of surrogate pairs U+FFFD; *repaired
 * says whether anything was. json_decref it. */
RF_MUST_CHECK int rf_record_parse(struct json_t **out, const char *line, size_t bytes,
                                  bool *repaired, rf_error *err);

#endif
