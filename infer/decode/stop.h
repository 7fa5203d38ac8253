/* stop.h: strings that end an answer.                                          all local
 *
 * A list of strings is an array that NULL ends; NULL is the empty list. An answer ends with the first
 * of them that is complete, and its text is what stands before that one: so the answer is the same
 * whether one looks after every token or at the end.
 */
#ifndef RF_INFER_DECODE_STOP_H
#define RF_INFER_DECODE_STOP_H

#include "common/text/tokenizer.h"

/* Strings without characters, of no UTF-8, or with U+FFFD, which stands for broken text, are
 * RF_ERR_USAGE. */
RF_MUST_CHECK int rf_stops_check(const char *const *stops, rf_error *err);
/* The string of text[0, bytes) that is complete first; of those that end together, the longest. Returns
 * its number in the list and sets *begin to where it begins; -1 where there is none: *begin = bytes. */
int rf_stops_find(size_t *begin, const char *text, size_t bytes, const char *const *stops);
/* Bytes at the end of a text that may be the beginning of a string. */
size_t rf_stops_begun(const char *text, size_t bytes, const char *const *stops);
/* Whether token[n - 1] completes a string in the text of token[0, n), written without special tokens.
 * Looks at as many tokens as the longest string has bytes. */
bool rf_stops_reached(const rf_tokenizer *tokenizer, const int32_t *token, int64_t n,
                      const char *const *stops);

#endif
