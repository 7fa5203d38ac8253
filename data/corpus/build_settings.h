/* build_settings.h: what a build reads, how, and where it goes. */
#ifndef RF_DATA_CORPUS_BUILD_SETTINGS_H
#define RF_DATA_CORPUS_BUILD_SETTINGS_H

#include "data/corpus/import.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum rf_format {
    RF_FORMAT_AUTO, /* by name: .jsonl .ndjson .json are JSONL, .txt is text (before .gz); else
                       by the first character that is no blank: '{' is JSONL. An array of records
                       instead of lines is recognised where JSONL is, and elsewhere by "[{" */
    RF_FORMAT_JSONL,
    RF_FORMAT_TEXT, /* the file is one text, without blank lines at its start and the last line's
                      end; or a text for each paragraph */
    RF_FORMAT_ARRAY /* one JSON array of records */
} rf_format;

typedef struct rf_build_source {
    const char *path; /* "-" is stdin */
    double weight;
    bool held_out; /* all of it goes to the held-out corpus */
} rf_build_source;

typedef struct rf_build_settings {
    const rf_build_source *source; /* [n_sources] */
    int64_t n_sources;
    const char *out_path, *held_out_path; /* the latter may be NULL */
    double held_out_fraction; /* of each source's records, drawn by (seed, source, record); turns of
                                 one conversation stay together. 0: held_out sources only */
    uint64_t seed;
    rf_format format;
    rf_record_map map;     /* of the records of JSONL */
    rf_turns turns;        /* of their conversations */
    bool split_paragraphs; /* of texts, at blank lines */
    bool skip_bad;         /* a bad line is warned about (the first few), counted, left out */
    bool deflate;
    int64_t n_jobs; /* workers, at least 1 */
} rf_build_settings;

#endif
