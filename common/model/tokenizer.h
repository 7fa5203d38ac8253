/* tokenizer.h: text to token ids and back.                                     all local
 *
 * A tokenizer is stored inside corpora and checkpoints as one JSON text, so that neither needs a
 * second file. Built in: "byte", ids 0..255 are the bytes, followed by the special tokens.
 */
#ifndef RF_MODEL_TOKENIZER_H
#define RF_MODEL_TOKENIZER_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rf_tokenizer rf_tokenizer;

/* Special tokens; -1 where the tokenizer has none. */
typedef struct rf_specials {
    int32_t eos[8]; /* end-of-text tokens; the first is the one training appends */
    int32_t n_eos;
    int32_t mask;                    /* never produced */
    int32_t begin;                   /* prompt of plain text; never produced */
    int32_t system, user, assistant; /* marks of the byte tokenizer's chat form */
} rf_specials;

/* A growing array of ids. */
typedef struct rf_ids {
    int32_t *id; /* owned */
    int64_t n, capacity;
} rf_ids;

RF_MUST_CHECK int rf_ids_push(rf_ids *ids, int32_t id, rf_error *err);
void rf_ids_free(rf_ids *ids); /* zeroes the struct */

/* "byte". (Files and folders of Hugging Face tokenizers come with import.) Unknown names are errors
 * that list the known ones. */
RF_MUST_CHECK int rf_tokenizer_load(rf_tokenizer **out, const char *name, rf_error *err);
/* From the stored text; `origin` stands for the file in messages. */
RF_MUST_CHECK int rf_tokenizer_parse(rf_tokenizer **out, const char *text, size_t bytes,
                                     const char *origin, rf_error *err);
void rf_tokenizer_free(rf_tokenizer *tokenizer); /* NULL is fine */
/* The stored text, and its hash (64 bit, FNV-1a); owned by the tokenizer. */
const char *rf_tokenizer_text(const rf_tokenizer *tokenizer, size_t *bytes);
uint64_t rf_tokenizer_hash(const rf_tokenizer *tokenizer);

int64_t rf_tokenizer_size(const rf_tokenizer *tokenizer); /* ids are in [0,size) */
const rf_specials *rf_tokenizer_specials(const rf_tokenizer *tokenizer);
bool rf_tokenizer_is_eos(const rf_tokenizer *tokenizer, int32_t id);
/* "<|mask|>" for special tokens, NULL for others. */
const char *rf_tokenizer_special_name(const rf_tokenizer *tokenizer, int32_t id);

/* Appends the ids of plain text (special tokens written out in the text stay text). Any bytes. */
RF_MUST_CHECK int rf_tokenizer_encode(const rf_tokenizer *tokenizer, rf_ids *out, const char *text,
                                      size_t bytes, rf_error *err);
/* The text of ids; 0-terminated, caller frees. Broken UTF-8 becomes U+FFFD (as WHATWG and Rust's
 * from_utf8_lossy do); unknown ids vanish; special tokens are written as their names, or dropped.
 */
RF_MUST_CHECK int rf_tokenizer_decode(const rf_tokenizer *tokenizer, char **text, size_t *bytes,
                                      const int32_t *id, int64_t n, bool skip_special,
                                      rf_error *err);

/* --- Chat form -------------------------------------------------------------------------------- */

typedef struct rf_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
    size_t bytes;
} rf_message;

/* Appends the prompt that ends where the assistant begins to speak: all messages, then the
 * assistant mark. Byte tokenizer: mark, text for each message; an assistant's message also ends
 * with end-of-text. Unknown roles are errors. A sample's response is the text plus eos[0]. */
RF_MUST_CHECK int rf_tokenizer_render_prompt(const rf_tokenizer *tokenizer, rf_ids *out,
                                             const rf_message *message, int64_t n, rf_error *err);

#endif
