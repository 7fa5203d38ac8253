/* bpe_count.h: the counted words, as bpe_train.c takes them. Only bpe_count.c and bpe_train.c
 * include this. */
#ifndef RF_TEXT_BPE_COUNT_H
#define RF_TEXT_BPE_COUNT_H

#include "common/text/bpe_train.h"

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
