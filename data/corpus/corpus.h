/* corpus.h: tokenised samples in one HDF5 file.                                all local
 *
 * /tokens (u32 [n_tokens]), /sample_begin (i64 [n+1]), /prompt_len (i32 [n]), /tokenizer (u8),
 * /source_begin (i64 [n_sources+1]: samples of each source file); attributes: format, version,
 * tokenizer hash, special ids, sources (JSON: name, bytes, CRC32, weight), counts, CRC32 of the
 * datasets, `complete`, and `date` (text) where templates were told a day. Little-endian, 1.10 file
 * format. corpus_writer.h writes them.
 * Sample i is tokens [sample_begin[i], sample_begin[i+1]): prompt_len[i] >= 1 prompt tokens, then
 * the response of at least one token, which ends with end-of-text. Plain text: the prompt is the
 * begin token alone; no other sample has a prompt of one token.
 *
 * A corpus whose samples have several trained turns (format version 2) also holds /turn_begin
 * (i64 [n_turns+1]) and /turn_trained (u8 [n_turns]): turn t is tokens [turn_begin[t],
 * turn_begin[t+1]), to be learnt where turn_trained[t] is 1, and only to be read where it is 0. The
 * turns of a sample are by turns read and learnt: first its prompt, at last an answer; each answer
 * ends with end-of-text, and the response is all from the first answer on. Version 1, without these
 * datasets: the prompt is read, the response learnt.
 */
#ifndef RF_DATA_CORPUS_CORPUS_H
#define RF_DATA_CORPUS_CORPUS_H

#include "common/base/files/hdf5.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

/* A file that a corpus was built from. */
typedef struct rf_corpus_source {
    char *name;     /* as given to the builder */
    int64_t bytes;  /* of the file as it lay on disk; 0: a pipe */
    uint32_t crc32; /* of its uncompressed content */
    double weight;
    int64_t first, n_samples; /* its samples are [first, first + n_samples) */
} rf_corpus_source;

/* An array of the index: pages of the file, or memory. */
typedef struct rf_corpus_array {
    const void *data;
    void *map;
    size_t map_bytes;
    void *memory;
} rf_corpus_array;

enum { RF_CORPUS_CRCS = 4, RF_CORPUS_CRCS_TURNS = 6 }; /* of the attribute crc32 */

/* For others to read: */
typedef struct rf_corpus {
    char *path;
    int64_t n_samples, n_tokens, n_sources;
    rf_corpus_source *source; /* [n_sources] */
    rf_tokenizer *tokenizer;
    uint64_t hash; /* of content, sources and tokenizer; compression does not change it */

    /* The reader's own. */
    int fd;
    int64_t file_bytes;
    rf_hdf5 file;          /* stays open only when the tokens are compressed */
    int64_t tokens_offset; /* in the file; -1: compressed */
    /* tokens, sample_begin, prompt_len, source_begin; turn_begin, turn_trained */
    uint32_t crc[RF_CORPUS_CRCS_TURNS];
    rf_corpus_array begins, prompts; /* i64 [n_samples+1], i32 [n_samples] */
    int64_t n_turns;                 /* 0: of the version without them */
    rf_corpus_array turns, trained;  /* i64 [n_turns+1], u8 [n_turns]; without data where 0 */
    char date[16];                   /* "": none is told */
} rf_corpus;

/* Is there an HDF5 file that holds the parameters of a model (a checkpoint) rather than a corpus?
 */
bool rf_corpus_is_checkpoint(const char *path);

/* Opens and checks a corpus: format, sizes and the index arrays, not the tokens. Tokens stay in the
 * file (read as asked for; the index is mapped, or held in memory when compressed). A file that is
 * missing, truncated, damaged, of another version or no corpus at all is refused with its name, the
 * cause and the remedy. Uses HDF5; reading tokens of an uncompressed corpus does not. */
RF_MUST_CHECK int rf_corpus_open(rf_corpus **out, const char *path, rf_error *err);
void rf_corpus_close(rf_corpus *corpus); /* NULL is fine */

/* The day that templates were told when it was built (rf_tokenizer_set_date); NULL: none was. */
const char *rf_corpus_date(const rf_corpus *corpus);
bool rf_corpus_is_compressed(const rf_corpus *corpus);

/* Tokens of sample i, and how many of them are prompt. */
int64_t rf_corpus_length(const rf_corpus *corpus, int64_t i);
int64_t rf_corpus_prompt_length(const rf_corpus *corpus, int64_t i);
/* Plain text (prompt is the begin token alone): may be cut into windows of a row. */
bool rf_corpus_is_text(const rf_corpus *corpus, int64_t i);
/* Answers in sample i that are to be learnt, at least 1. */
int64_t rf_corpus_n_answers(const rf_corpus *corpus, int64_t i);
/* Has any sample several? */
bool rf_corpus_has_turns(const rf_corpus *corpus);
/* Tokens of sample i's first answer, and of all its answers. */
int64_t rf_corpus_first_answer_length(const rf_corpus *corpus, int64_t i);
int64_t rf_corpus_n_trained(const rf_corpus *corpus, int64_t i);
/* Which of the first n tokens of sample i are to be learnt: out [n] sets. */
void rf_corpus_trained(const rf_corpus *corpus, bool *out, int64_t i, int64_t n);
/* Weight of sample i's source: the times it is seen in an epoch (0.5: by half of its samples). */
double rf_corpus_weight(const rf_corpus *corpus, int64_t i);
/* Tokens [first, first+n) of sample i into out. Safe from one thread at a time. An id that the
 * tokenizer does not have is an error: the file is damaged. */
RF_MUST_CHECK int rf_corpus_read(rf_corpus *corpus, int32_t *out, int64_t i, int64_t first,
                                 int64_t n, rf_error *err);
/* Reads all tokens (rf_corpus_open has checked the rest): their checksum, every id within the
 * tokenizer, every answer ending with end-of-text, prompts of one token being the begin token. */
RF_MUST_CHECK int rf_corpus_verify(rf_corpus *corpus, rf_error *err);

#endif
