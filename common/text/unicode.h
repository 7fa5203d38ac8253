/* unicode.h: what tokenizers need to know about characters.                    all local
 *
 * Texts are UTF-8 (base/utf8.h). Normal form C is utf8proc's; the rest is small enough to live here.
 */
#ifndef RF_TEXT_UNICODE_H
#define RF_TEXT_UNICODE_H

#include "common/base/error.h"
#include "common/text/ids.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* Says what the text holds. An error where it is not valid UTF-8, or has 2 GiB. */
RF_MUST_CHECK int rf_unicode_scan(rf_unicode_traits *out, const char *text, size_t bytes,
                                  rf_error *err);

/* Normal form C (Unicode Standard Annex 15). Appends to out. Valid UTF-8 only. Linear in time. */
void rf_unicode_nfc(rf_text *out, const char *text, size_t bytes);
/* The same for the stretch that begins at `from`, which composes with nothing behind it: a character and
 * the marks on it. Returns where it ends. What is not UTF-8 stays as it is. */
size_t rf_unicode_nfc_stretch(rf_text *out, const char *text, size_t from, size_t bytes);

#endif
