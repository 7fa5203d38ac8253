/* corpus_file.h: what reader and writer of corpora share about the file.       all local
 *
 * Only corpus*.c include this; the contracts are in corpus.h and corpus_writer.h.
 */
#ifndef RF_DATA_CORPUS_CORPUS_FILE_H
#define RF_DATA_CORPUS_CORPUS_FILE_H

#include "data/corpus/corpus.h"

#define RF_CORPUS_FORMAT  "refusion-corpus"
#define RF_CORPUS_VERSION 1
/* Of files with samples of several trained turns: programs that do not know these must not take all
 * behind the prompt for the response. */
#define RF_CORPUS_VERSION_TURNS 2

/* Token data is written and mapped as it lies in memory. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "corpora need a little-endian machine");

/* --- A corpus being read ---------------------------------------------------------------------- */

/* Opens c->path and fills c, with fd -1 before; checks all but the tokens. What it
 * acquired is freed by rf_corpus_close, also after an error. */
RF_MUST_CHECK int rf_corpus_file_load(rf_corpus *c, rf_error *err);
void rf_corpus_file_free_array(rf_corpus_array *array); /* zeroes */
/* "<path>: what: the file is damaged, build it again ..." */
int rf_corpus_file_damaged(const rf_corpus *c, const char *what, rf_error *err);

#endif
