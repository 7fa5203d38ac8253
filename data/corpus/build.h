/* build.h: from source files to one corpus, or two (training and held-out).    all local
 *
 * A thread reads lines and cuts them into portions, workers parse and tokenise portions, the
 * calling thread writes them in order: the output is the same, bit for bit, for any number of
 * workers. Memory does not grow with the sources. Nothing appears unless all of it succeeds.
 */
#ifndef RF_DATA_CORPUS_BUILD_H
#define RF_DATA_CORPUS_BUILD_H

#include "common/base/error.h"
#include "common/text/tokenizer.h"
#include "data/corpus/build_settings.h"

#include <stdint.h>

enum { RF_BUILD_N_LIMITS = 4 };
extern const int64_t rf_build_limits[RF_BUILD_N_LIMITS]; /* 512, 1024, 2048, 4096 */

/* Of one source on one side, or summed. */
typedef struct rf_build_counts {
    int64_t n_samples, n_tokens;
    int64_t n_prompt;                     /* tokens that are not learnt */
    int64_t n_turns;                      /* answers that are, and texts */
    int64_t longest;                      /* tokens */
    int64_t n_fitting[RF_BUILD_N_LIMITS]; /* samples of at most so many tokens */
    int64_t n_chars;                      /* code points */
    int64_t n_answers;                    /* samples that are answers to conversations */
    int64_t n_literal;                    /* special tokens in messages that were taken as text */
} rf_build_counts;

typedef struct rf_build_statistics {
    rf_build_counts *kept, *held_out; /* [n_sources], owned */
    int64_t n_bad;                    /* lines left out */
    int64_t text_bytes;               /* of the sources, uncompressed */
    double seconds;
} rf_build_statistics;

/* Builds. Errors name file and line; the first one in the order of the sources is reported,
 * whatever worker met it. Shows progress; warns about skipped lines. */
RF_MUST_CHECK int rf_build(rf_build_statistics *out, const rf_tokenizer *tokenizer,
                           const rf_build_settings *settings, rf_error *err);
void rf_build_statistics_free(rf_build_statistics *statistics); /* zeroes */
void rf_build_counts_sample(rf_build_counts *counts, int64_t n_tokens, int64_t n_prompt,
                            int64_t n_turns, int64_t n_chars);
void rf_build_counts_add(rf_build_counts *sum, const rf_build_counts *x);

#endif
