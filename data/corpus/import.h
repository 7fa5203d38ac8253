/* import.h: one record of a source file becomes tokenised samples.             all local
 *
 * A line of JSONL is one record (records.h). A conversation becomes samples as rf_turns says; none
 * of its messages that are to be learnt may be empty. A text is one
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

/* What becomes of the assistant's messages that are to be learnt: the answers. */
typedef enum rf_turns {
    RF_TURNS_EACH, /* each is a sample, with all messages before it as its prompt */
    RF_TURNS_LAST, /* only the last one is */
    RF_TURNS_ALL /* one sample up to the last one, in which all are trained. Each must stand there as
                      it stands in a sample of its own: templates may print it otherwise */
} rf_turns;

/* Samples, or parts of one: tokens lie one behind the other in rf_imported.ids. */
typedef struct rf_imported_sample {
    int64_t n_tokens;
    int64_t n_prompt;  /* 0: the sample goes on in the next element */
    int64_t n_chars;   /* code points of its text */
    bool is_answer;    /* to a conversation; else a text */
    int64_t n_literal; /* special tokens in its messages that were taken as text */
    bool held_out;
    int64_t first_turn, n_turns; /* its turns are turn [first_turn, first_turn + n_turns) of
                                    rf_imported; 0: prompt and response */
} rf_imported_sample;

typedef struct rf_imported {
    rf_ids ids;
    rf_imported_sample *sample; /* [n_samples], owned */
    int64_t n_samples;
    size_t capacity;
    int64_t *turn; /* [n_turns], owned: their begins in their samples, by turns read and learnt */
    int64_t n_turns;
    size_t turn_capacity;
} rf_imported;

void rf_imported_clear(rf_imported *out); /* keeps the memory */
void rf_imported_free(rf_imported *out);  /* zeroes the struct */

/* Appends the samples of a line of JSONL (not blank); map may be NULL. On error `out` is as before. */
RF_MUST_CHECK int rf_import_json(rf_imported *out, const rf_tokenizer *tokenizer, const char *line,
                                 size_t bytes, const rf_record_map *map, rf_turns turns,
                                 bool held_out, rf_error *err);

/* A piece of a plain text, cut where the tokenizer allows it (before a line that begins with a
 * character that is no blank). begins, ends: the text's first and last piece. Invalid UTF-8: *bad
 * is its offset. On error `out` is as before. */
RF_MUST_CHECK int rf_import_text(rf_imported *out, const rf_tokenizer *tokenizer, const char *text,
                                 size_t bytes, bool begins, bool ends, bool held_out, size_t *bad,
                                 rf_error *err);

#endif
