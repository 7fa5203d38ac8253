/* corpus_writer.h: a corpus, written sample by sample.                         all local
 *
 * Tokens and index go to unlinked temporary files beside the output, so memory does not grow with
 * the corpus, and a process that dies leaves nothing but space that the system reclaims. Commit
 * lays the HDF5 file out, copies them in (the disk holds the corpus twice for that moment), and
 * renames. The bytes of the file depend on nothing but what was written.
 */
#ifndef RF_DATA_CORPUS_CORPUS_WRITER_H
#define RF_DATA_CORPUS_CORPUS_WRITER_H

#include "common/base/error.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct rf_corpus_writer rf_corpus_writer;

/* The tokenizer outlives the writer. deflate: shuffle + deflate on everything, for archives. */
RF_MUST_CHECK int rf_corpus_writer_new(rf_corpus_writer **out, const char *path,
                                       const rf_tokenizer *tokenizer, bool deflate, rf_error *err);
/* Without a commit before, nothing is left behind. NULL is fine. */
void rf_corpus_writer_free(rf_corpus_writer *writer);

/* The samples that follow come from this file, until the next call. */
RF_MUST_CHECK int rf_corpus_writer_begin_source(rf_corpus_writer *writer, const char *name,
                                                double weight, rf_error *err);
/* Size on disk and checksum of the content, known when the source has been read. */
void rf_corpus_writer_end_source(rf_corpus_writer *writer, int64_t bytes, uint32_t crc32);
/* Appends tokens to the sample that is open (the first tokens open one). */
RF_MUST_CHECK int rf_corpus_writer_tokens(rf_corpus_writer *writer, const int32_t *id, int64_t n,
                                          rf_error *err);
/* Closes the sample. begin [n_turns]: where in it its turns begin, by turns read and learnt: 0 is the
 * first prompt's; increasing, an even number. A corpus whose samples have one answer each has the
 * older format. */
RF_MUST_CHECK int rf_corpus_writer_end_turns(rf_corpus_writer *writer, const int64_t *begin,
                                             int64_t n_turns, rf_error *err);

int64_t rf_corpus_writer_n_samples(const rf_corpus_writer *writer);

/* Writes the whole file under its temporary name, so that several outputs can appear together: what
 * can fail for want of space is done. At least one sample, none open. Only commit or free follow.
 */
RF_MUST_CHECK int rf_corpus_writer_finish(rf_corpus_writer *writer, rf_error *err);
/* Finishes if that is not done, and makes the file appear. After an error only free is allowed. */
RF_MUST_CHECK int rf_corpus_writer_commit(rf_corpus_writer *writer, rf_error *err);

#endif
