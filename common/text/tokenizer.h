/* tokenizer.h: text to token ids and back.                                     all local
 *
 * A tokenizer is stored inside corpora and checkpoints as one JSON text, so that neither needs a
 * second file. Two kinds: "byte", ids 0..255 are the bytes, followed by the special tokens; and
 * byte-level BPE (bpe.h), read from Hugging Face's files. A tokenizer may be used by many threads
 * at once.
 */
#ifndef RF_TEXT_TOKENIZER_H
#define RF_TEXT_TOKENIZER_H

#include "common/base/error.h"
#include "common/text/chat.h"
#include "common/text/ids.h"

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

/* "byte"; or the path of a tokenizer.json, or of a folder that holds one, or of a folder with
 * GPT-2's encoder.json and vocab.bpe (also vocab.json and merges.txt). Each may be compressed
 * (.gz). Beside tokenizer.json are read, where they are: tokenizer_config.json (eos_token,
 * mask_token, chat_template), added_tokens.json, chat_template.jinja; generation_config.json is
 * kept for export. End of text is the token with which the chat template ends an assistant's
 * message; without such a template eos_token, else the first added token with a usual name
 * (<|endoftext|>, ...). The tokens <|beginoftext|> and <|mask|> are added, in this order, behind the
 * last id; a mask token that is there already is used instead. What is neither a known name nor a
 * file is RF_ERR_USAGE; what is in the files but not supported is RF_ERR, with file and field. */
RF_MUST_CHECK int rf_tokenizer_load(rf_tokenizer **out, const char *name, rf_error *err);
/* rf_output_check of these outputs against the files that rf_tokenizer_load reads. NULL: none. */
RF_MUST_CHECK int rf_tokenizer_check_outputs(const char *name, const char *const *outputs,
                                             int n_outputs, rf_error *err);
/* From the stored text; `origin` stands for the file in messages. */
RF_MUST_CHECK int rf_tokenizer_parse(rf_tokenizer **out, const char *text, size_t bytes,
                                     const char *origin, rf_error *err);
void rf_tokenizer_free(rf_tokenizer *tokenizer); /* NULL is fine */
/* The stored text; owned by the tokenizer. */
const char *rf_tokenizer_text(const rf_tokenizer *tokenizer, size_t *bytes);
/* 64 bit, FNV-1a: of the stored text (byte), or of all that decides ids and chat form (BPE), so
 * that copies of a tokenizer whose files differ in spelling only have the same. */
uint64_t rf_tokenizer_hash(const rf_tokenizer *tokenizer);
/* Writes tokenizer.json, tokenizer_config.json and generation_config.json, as Hugging Face has
 * them, into a folder that exists: as they were when the tokenizer was loaded, with the mask and
 * begin token, and the end of text among eos_token_id. Loading them gives the same tokenizer, with
 * the same stored text. The byte tokenizer has no such form: an error. */
RF_MUST_CHECK int rf_tokenizer_export(const rf_tokenizer *tokenizer, const char *folder,
                                      rf_error *err);

size_t rf_tokenizer_memory(const rf_tokenizer *tokenizer); /* bytes of its text and tables */
int64_t rf_tokenizer_size(const rf_tokenizer *tokenizer);  /* ids are in [0,size) */
/* Ids from here on are of tokens that rf_tokenizer_load added to those that the files list; size or
 * more: it added none. */
int64_t rf_tokenizer_n_own(const rf_tokenizer *tokenizer);
const rf_specials *rf_tokenizer_specials(const rf_tokenizer *tokenizer);
bool rf_tokenizer_is_eos(const rf_tokenizer *tokenizer, int32_t id);
/* "<|mask|>" for special tokens, NULL for others. */
const char *rf_tokenizer_special_name(const rf_tokenizer *tokenizer, int32_t id);

/* Appends the ids of a text. Byte: any bytes; special tokens written out in the text stay text.
 * BPE: valid UTF-8, else an error; added tokens are recognised, as Hugging Face does, but for the
 * mask and the begin token, which no text can forge. On error `out` is as before. */
RF_MUST_CHECK int rf_tokenizer_encode(const rf_tokenizer *tokenizer, rf_ids *out, const char *text,
                                      size_t bytes, rf_error *err);
/* The same for what somebody says, where no template is around it: special tokens are text, unless
 * rf_tokenizer_read_control_tokens was called. */
RF_MUST_CHECK int rf_tokenizer_encode_said(const rf_tokenizer *tokenizer, rf_ids *out,
                                           const char *text, size_t bytes, rf_error *err);
/* The text of ids; 0-terminated, caller frees. Broken UTF-8 becomes U+FFFD (as WHATWG and Rust's
 * from_utf8_lossy do); unknown ids vanish; special tokens are written as their names, or dropped,
 * but those of BPE's mask and begin token always vanish: encoding knows no text for them. */
char *rf_tokenizer_decode(const rf_tokenizer *tokenizer, size_t *bytes, const int32_t *id,
                          int64_t n, bool skip_special);
/* What one id adds to that text before broken UTF-8 is replaced: a character may be the bytes of several
 * ids. Not 0-terminated, owned by the tokenizer; *bytes 0: nothing. */
const char *rf_tokenizer_bytes(const rf_tokenizer *tokenizer, size_t *bytes, int32_t id,
                               bool skip_special);

/* --- Chat form -------------------------------------------------------------------------------- */

/* Renders a conversation: *text is owned by the caller (0-terminated) and may be NULL for none;
 * the ids are appended to `ids`. The form is the template of tokenizer_config.json (chat.h);
 * without one it is plain: the begin token, then each message and a line end, where an assistant's
 * message ends with end-of-text. Byte tokenizer: mark, text for each message; an assistant's
 * message also ends with end-of-text. Unknown roles, and tools where the template has none, are
 * errors. */
RF_MUST_CHECK int rf_tokenizer_render(const rf_tokenizer *tokenizer, char **text, size_t *bytes,
                                      rf_ids *ids, const rf_turn *turn, int64_t n,
                                      const rf_render_options *options, rf_error *err);
/* What conversations become, in a few words for people: "the tokenizer's chat template", ... */
const char *rf_tokenizer_form(const rf_tokenizer *tokenizer);
/* From now on special tokens written out in messages are those tokens, as Transformers reads them; before,
 * they are text like any other. Before other threads use it; the byte tokenizer never reads them. */
void rf_tokenizer_read_control_tokens(rf_tokenizer *tokenizer);
/* What strftime_now gives to a template: "today" (local time) or a day as "2026-11-28"; before it is
 * 26 Jul 2024, so that nothing depends on the day. Before other threads use the tokenizer.
 * RF_ERR_USAGE. */
RF_MUST_CHECK int rf_tokenizer_set_date(rf_tokenizer *tokenizer, const char *date, rf_error *err);
/* The day that was set, as "2026-11-28"; NULL: none was. */
const char *rf_tokenizer_date(const rf_tokenizer *tokenizer);
/* Appends the prompt that ends where the assistant begins to speak: the conversation, then the
 * assistant mark. A sample's response is the text plus eos[0]. */
RF_MUST_CHECK int rf_tokenizer_render_prompt(const rf_tokenizer *tokenizer, rf_ids *out,
                                             const rf_turn *turn, int64_t n, rf_error *err);
/* Appends a sample: the prompt of turns [0, n - 1), of *n_prompt ids, then what the assistant says in turn
 * n - 1, reasoning and tool calls in the template's form, and eos[0]: what a model is trained to answer. */
RF_MUST_CHECK int rf_tokenizer_render_sample(const rf_tokenizer *tokenizer, rf_ids *out,
                                             int64_t *n_prompt, const rf_turn *turn, int64_t n,
                                             const rf_render_options *options, rf_error *err);

#endif
