/* portion.h: what a build reads, cut into pieces that workers take.            all local
 *
 * Only build.c and portion*.c include this. A portion holds consecutive records or pieces of texts
 * of one source, and later the samples made of them.
 */
#ifndef RF_DATA_CORPUS_PORTION_H
#define RF_DATA_CORPUS_PORTION_H

#include "common/base/files/lines.h"
#include "data/corpus/build_settings.h"

/* A line of JSONL, or a piece of a text: whole lines with the ends between them. */
typedef struct rf_entry {
    size_t begin, bytes; /* in rf_portion.text */
    int64_t line;        /* its first line, from 1 */
    int64_t record;      /* of the source, from 0 */
    bool is_text, begins, ends;
} rf_entry;

enum { RF_PORTION_WARNINGS = 8 };

typedef struct rf_portion {
    /* From the reader. */
    int64_t source; /* index; n_sources: the end of all */
    rf_text text;
    rf_entry *entry;
    int64_t n_entries;
    size_t entry_capacity;
    bool ends_source;
    int64_t source_bytes; /* of the file, at its end */
    uint32_t source_crc;
    int64_t bytes_read;    /* of all files so far, as they lie on disk */
    rf_error read_failure; /* met behind the entries */
    /* From the worker. */
    rf_imported samples;
    rf_error failure;
    int64_t n_bad;
    char *warning[RF_PORTION_WARNINGS]; /* about the first bad lines; owned */
    int64_t n_warnings;
} rf_portion;

void rf_portion_free(rf_portion *portion); /* zeroes */

typedef struct rf_portion_reader rf_portion_reader;

rf_portion_reader *rf_portion_reader_new(const rf_build_settings *settings);
void rf_portion_reader_free(rf_portion_reader *reader); /* NULL is fine */
/* Fills the portion (its memory is used again); failures are in its read_failure. After the last
 * source: a portion with source n_sources. */
void rf_portion_read(rf_portion_reader *reader, rf_portion *portion);

/* What a worker does: fills samples, failure, n_bad and warnings. */
void rf_portion_import(rf_portion *portion, const rf_tokenizer *tokenizer,
                       const rf_build_settings *settings);

#endif
