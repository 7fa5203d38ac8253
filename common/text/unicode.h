/* unicode.h: what tokenizers need to know about characters.                    all local
 *
 * Texts are UTF-8. Normal form C is utf8proc's; the rest is small enough to live here.
 */
#ifndef RF_TEXT_UNICODE_H
#define RF_TEXT_UNICODE_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A growing text. After a failure to grow, `failed` stays set and nothing more is added: many
 * additions are checked once, by rf_text_check. */
typedef struct rf_text {
    char *data; /* owned; 0-terminated unless NULL */
    size_t bytes, capacity;
    bool failed;
} rf_text;

void rf_text_add(rf_text *text, const char *data, size_t bytes);
void rf_text_add_string(rf_text *text, const char *string);
RF_MUST_CHECK int rf_text_check(const rf_text *text, rf_error *err);
void rf_text_free(rf_text *text); /* zeroes the struct */

/* The character at text, which must be valid UTF-8 and not at its end; returns its bytes. */
size_t rf_unicode_next(int32_t *character, const char *text);
/* Writes a character (not a surrogate) as 1 to 4 bytes. */
size_t rf_unicode_put(char text[4], int32_t character);

/* The alphabet in which GPT-2's tokenizer files write bytes: printable ones as themselves, the
 * others as U+0100 and up. -1: the character stands for no byte. */
int rf_unicode_byte_of(int32_t character);
int32_t rf_unicode_of_byte(int byte);

bool rf_unicode_is_space(int32_t character);        /* property White_Space */
bool rf_unicode_is_python_space(int32_t character); /* what Python's str.strip() removes */

/* Characters that are letters or numbers in Unicode 16 but not in 14, as ranges of a character
 * class of PCRE2 ("\x{1c89}-\x{1c8a}..."). */
const char *rf_unicode_new_letters(void);
const char *rf_unicode_new_numbers(void);

typedef struct rf_unicode_traits {
    bool may_change; /* may not be in normal form C */
    bool is_new;     /* holds characters that PCRE2's tables classify otherwise than Unicode 16 */
} rf_unicode_traits;

/* Checks that the text is valid UTF-8 and says what it holds. False: *bad is the offset of the
 * first bad byte. */
bool rf_unicode_scan(rf_unicode_traits *out, size_t *bad, const char *text, size_t bytes);

/* Normal form C (Unicode Standard Annex 15). Appends to out. Valid UTF-8 only. */
RF_MUST_CHECK int rf_unicode_nfc(rf_text *out, const char *text, size_t bytes, rf_error *err);

/* A copy (0-terminated, caller frees) in which broken UTF-8 is replaced by U+FFFD, one for each
 * maximal subpart, as WHATWG and Rust's from_utf8_lossy do. NULL: no memory. */
char *rf_unicode_replace_broken(const char *raw, size_t bytes, size_t *out_bytes);

#endif
