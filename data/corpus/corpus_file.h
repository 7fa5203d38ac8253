/* corpus_file.h: what reader and writer of corpora share about the file.       all local
 *
 * Only corpus*.c include this; the contracts are in corpus.h and corpus_writer.h.
 */
#ifndef RF_DATA_CORPUS_CORPUS_FILE_H
#define RF_DATA_CORPUS_CORPUS_FILE_H

#include "common/base/files/hdf5.h"
#include "data/corpus/corpus.h"

#include <stddef.h>
#include <stdint.h>

#define RF_CORPUS_FORMAT  "refusion-corpus"
#define RF_CORPUS_VERSION 1
/* Of files with samples of several trained turns: programs that do not know these must not take all
 * behind the prompt for the response. */
#define RF_CORPUS_VERSION_TURNS 2

enum { RF_CORPUS_CRCS = 4, RF_CORPUS_CRCS_TURNS = 6 }; /* of the attribute crc32 */

/* Token data is written and mapped as it lies in memory. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "corpora need a little-endian machine");

/* --- A corpus being read ---------------------------------------------------------------------- */

/* An array of the index: pages of the file, or memory. Freed by rf_corpus_file_free_array. */
typedef struct rf_corpus_array {
    const void *data;
    void *map;
    size_t map_bytes;
    void *memory;
} rf_corpus_array;

struct rf_corpus {
    char *path;
    int fd;
    int64_t file_bytes;
    rf_hdf5 file;          /* stays open only when the tokens are compressed */
    int64_t tokens_offset; /* in the file; -1: compressed */
    int64_t n_samples, n_tokens;
    /* tokens, sample_begin, prompt_len, source_begin; turn_begin, turn_trained */
    uint32_t crc[RF_CORPUS_CRCS_TURNS];
    rf_corpus_array begins, prompts; /* i64 [n_samples+1], i32 [n_samples] */
    int64_t n_turns;                 /* 0: of the version without them */
    rf_corpus_array turns, trained;  /* i64 [n_turns+1], u8 [n_turns]; without data where 0 */
    rf_tokenizer *tokenizer;
    char date[16]; /* "": none is told */
    rf_corpus_source *source;
    int64_t n_sources;
    uint64_t hash;
};

/* Opens c->path and fills c, with fd -1 before; checks all but the tokens. What it
 * acquired is freed by rf_corpus_close, also after an error. */
RF_MUST_CHECK int rf_corpus_file_load(rf_corpus *c, rf_error *err);
void rf_corpus_file_free_array(rf_corpus_array *array); /* zeroes */
/* "<path>: what: the file is damaged, build it again ..." */
int rf_corpus_file_damaged(const rf_corpus *c, const char *what, rf_error *err);

#endif
