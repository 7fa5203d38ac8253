/* import.h: one record of a source file becomes tokenised samples.             all local
 *
 * A line of JSONL is one record (records.h). A conversation is one sample for each message of the
 * assistant, with all messages before it as its prompt; none of these may be empty. A text is one
 * sample: the begin token, then the text. Every response ends with end-of-text. Messages of errors
 * name neither file nor line: the caller knows them.
 */
#ifndef RF_DATA_CORPUS_IMPORT_H
#define RF_DATA_CORPUS_IMPORT_H

#include "common/base/error.h"
#include "common/text/ids.h"
#include "common/text/tokenizer.h"
#include "data/corpus/records.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Samples, or parts of one: tokens lie one behind the other in rf_imported.ids. */
typedef struct rf_imported_sample {
    int64_t n_tokens;
    int64_t n_prompt;  /* 0: the sample goes on in the next element */
    int64_t n_chars;   /* code points of its text */
    bool is_answer;    /* to a conversation; else a text */
    int64_t n_literal; /* special tokens in its messages that were taken as text */
    bool held_out;
} rf_imported_sample;

typedef struct rf_imported {
    rf_ids ids;
    rf_imported_sample *sample; /* [n_samples], owned */
    int64_t n_samples;
    size_t capacity;
} rf_imported;

void rf_imported_clear(rf_imported *out); /* keeps the memory */
void rf_imported_free(rf_imported *out);  /* zeroes the struct */

/* Appends the samples of a line of JSONL (not blank); map may be NULL. On error `out` is as before. */
RF_MUST_CHECK int rf_import_json(rf_imported *out, const rf_tokenizer *tokenizer, const char *line,
                                 size_t bytes, const rf_record_map *map, bool held_out,
                                 rf_error *err);

/* A piece of a plain text, cut where the tokenizer allows it (before a line that begins with a
 * character that is no blank). begins, ends: the text's first and last piece. Invalid UTF-8: *bad
 * is its offset. On error `out` is as before. */
RF_MUST_CHECK int rf_import_text(rf_imported *out, const rf_tokenizer *tokenizer, const char *text,
                                 size_t bytes, bool begins, bool ends, bool held_out, size_t *bad,
                                 rf_error *err);

#endif
