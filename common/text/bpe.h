/* bpe.h: byte-level byte-pair encoding, as Hugging Face's tokenizer.json describes it.  all local
 *
 * Text -> added tokens are cut out -> normal form C, where asked for -> words by a regular
 * expression (PCRE2) -> bytes -> merges, lowest rank first. Ids are those of Hugging Face's
 * `tokenizers` with add_special_tokens=false. Source of the merges: arXiv:1508.07909; of the bytes:
 * Radford et al. 2019 (GPT-2).
 */
#ifndef RF_TEXT_BPE_H
#define RF_TEXT_BPE_H

#include "common/base/error.h"
#include "common/text/ids.h"

#include <stdbool.h>
#include <stdint.h>

struct json_t;
struct rf_chat_found;

typedef struct rf_bpe rf_bpe;

/* Words of GPT-2's and Qwen's (2, 2.5, 3) tokenizers; GPT-2's with every digit, or every
 * run of digits, as a word of its own (SmolLM). */
extern const char rf_bpe_pattern_gpt2[], rf_bpe_pattern_qwen[], rf_bpe_pattern_each_digit[],
    rf_bpe_pattern_digits[];

/* From a parsed tokenizer.json, which is not kept; `origin` is the file in messages. What is not
 * supported is an error that names file and field: other models than BPE, normalizers but NFC,
 * pre-tokenizers but Split, Digits and ByteLevel, decoders but ByteLevel, single_word, prefixes and
 * suffixes, dropout. So are ids that repeat or leave a hole, bytes without a token, merges whose
 * parts or product are no token, tokens that no merge makes. Not read: post_processor, which only
 * adds tokens that are never asked for here; truncation and padding, which Transformers switches off
 * as well. */
RF_MUST_CHECK int rf_bpe_new(rf_bpe **out, const struct json_t *tokenizer, const char *origin,
                             rf_error *err);
void rf_bpe_free(rf_bpe *bpe); /* NULL is fine */

/* Written out in a text this added token stays text: no document may forge it. Before encoding. */
void rf_bpe_hide(rf_bpe *bpe, int32_t id);

/* The next special token that encoding would recognise, if only in the text's normal form.
 * tokens: an rf_bpe (chat.h: rf_chat_finder). */
bool rf_bpe_find_special(const void *tokens, const char *text, size_t bytes,
                         struct rf_chat_found *found);

/* Appends the ids of a text; may be called from many threads at once. Invalid UTF-8 is an error.
 * literal: added tokens that are written out in it are text. */
RF_MUST_CHECK int rf_bpe_encode(rf_bpe *bpe, rf_ids *out, const char *text, size_t bytes,
                                bool literal, rf_error *err);

size_t rf_bpe_memory(const rf_bpe *bpe); /* bytes of its tables */
int64_t rf_bpe_size(const rf_bpe *bpe);  /* ids are in [0,size), all in use */
/* The bytes that id stands for; NULL: no such id. */
const char *rf_bpe_bytes(const rf_bpe *bpe, int32_t id, size_t *bytes);
/* The name of a token that is marked special, NULL for others. */
const char *rf_bpe_special_name(const rf_bpe *bpe, int32_t id);
/* Continues an FNV-1a hash over all that decides ids and texts. */
uint64_t rf_bpe_hash(const rf_bpe *bpe, uint64_t hash);

#endif
