/* import.h: one record of a source file becomes tokenised samples.             all local
 *
 * A line of JSONL is one record of one of these forms; other fields are ignored:
 *   {"query": s, "response": s}                     one sample; query and response are not empty
 *   {"messages": [{"role": s, "content": s}, ...]}  one sample for each assistant turn, with all
 *                                                   messages before it as the prompt; beside it
 *                                                   "tools", "enable_thinking", "date_string"
 *   {"text": s}                                     one sample: begin token, the text
 * Every response ends with end-of-text. Messages of errors name neither file nor line: the caller
 * knows them.
 */
#ifndef RF_DATA_CORPUS_IMPORT_H
#define RF_DATA_CORPUS_IMPORT_H

#include "common/base/error.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Samples, or parts of one: tokens lie one behind the other in rf_imported.ids. */
typedef struct rf_imported_sample {
    int64_t n_tokens;
    int64_t n_prompt; /* 0: the sample goes on in the next element */
    int64_t n_chars;  /* code points of its text */
    bool held_out;
} rf_imported_sample;

typedef struct rf_imported {
    rf_ids ids;
    rf_imported_sample *sample; /* [n_samples], owned */
    int64_t n_samples, capacity;
} rf_imported;

void rf_imported_clear(rf_imported *out); /* keeps the memory */
void rf_imported_free(rf_imported *out);  /* zeroes the struct */

/* Appends the samples of a line of JSONL (not blank). On error `out` is as before. */
RF_MUST_CHECK int rf_import_json(rf_imported *out, const rf_tokenizer *tokenizer, const char *line,
                                 size_t bytes, bool held_out, rf_error *err);

/* A piece of a plain text, cut where the tokenizer allows it (before a line that begins with a
 * character that is no blank). begins, ends: the text's first and last piece. Invalid UTF-8: *bad
 * is its offset. On error `out` is as before. */
RF_MUST_CHECK int rf_import_text(rf_imported *out, const rf_tokenizer *tokenizer, const char *text,
                                 size_t bytes, bool begins, bool ends, bool held_out, size_t *bad,
                                 rf_error *err);

struct json_t;
/* Parses a line as one JSON object with strict rules (no repeated keys, valid UTF-8; "\u0000" is
 * allowed). json_decref it. */
RF_MUST_CHECK int rf_import_object(struct json_t **out, const char *line, size_t bytes,
                                   rf_error *err);

#endif
