/* bpe_count.h: how often each word stands in texts, for bpe_train.h.           all local */
#ifndef RF_TEXT_BPE_COUNT_H
#define RF_TEXT_BPE_COUNT_H

#include "common/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct rf_bpe_counter rf_bpe_counter;

/* *out is to be freed also after an error. */
RF_MUST_CHECK int rf_bpe_counter_new(rf_bpe_counter **out, rf_error *err);
void rf_bpe_counter_free(rf_bpe_counter *counter); /* NULL is fine */
/* Counts the words of a text; invalid UTF-8 is an error. Not for several threads at once. */
RF_MUST_CHECK int rf_bpe_counter_add(rf_bpe_counter *counter, const char *text, size_t bytes,
                                     rf_error *err);
/* Adds the counts of another one. */
void rf_bpe_counter_merge(rf_bpe_counter *counter, const rf_bpe_counter *other);
int64_t rf_bpe_counter_words(const rf_bpe_counter *counter); /* different ones */

typedef struct rf_bpe_word {
    uint64_t hash;
    size_t begin; /* in the counter's memory */
    uint32_t bytes;
    int64_t count;
} rf_bpe_word;

/* All words, by their bytes: an order that does not depend on how they were met. The caller frees
 * them; *memory belongs to the counter. */
rf_bpe_word *rf_bpe_counter_sorted(const char **memory, const rf_bpe_counter *counter);

#endif
