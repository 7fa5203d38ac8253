/* bpe_train.h: making a byte-level BPE tokenizer from texts.                    all local
 *
 * Words are counted, by the pattern of Qwen's tokenizers; then the most frequent pair of
 * neighbouring tokens becomes a new one, until there are enough (arXiv:1508.07909). Of equally
 * frequent pairs the one with the lowest ids comes first, so the result depends on the texts only,
 * not on their order or on threads.
 */
#ifndef RF_TEXT_BPE_TRAIN_H
#define RF_TEXT_BPE_TRAIN_H

#include "common/text/bpe_count.h"

#include <stdint.h>

enum { RF_BPE_TRAIN_MIN = 256 + 1 }; /* the bytes, and end-of-text */

/* The text of a tokenizer.json of at most vocab_size tokens (0-terminated, caller frees; *size: how
 * many it has), the last of which is <|endoftext|>; <|beginoftext|> and <|mask|> are added when it
 * is loaded. Pairs seen less than min_count times are not merged, so it may have fewer tokens. */
RF_MUST_CHECK int rf_bpe_train(char **text, int64_t *size, const rf_bpe_counter *counter,
                               int64_t vocab_size, int64_t min_count, rf_error *err);

#endif
