/* utf8.h: which bytes are UTF-8, and the characters in them (RFC 3629).          all local */
#ifndef RF_BASE_UTF8_H
#define RF_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Valid: no surrogates, no overlong forms, nothing cut off? *bad: offset of the first bad byte. */
bool rf_utf8_is_valid(const char *text, size_t bytes, size_t *bad);
/* How many bytes at text are ASCII, up to the first that is not. */
size_t rf_utf8_ascii(const char *text, size_t bytes);
/* The bytes at text (1 or more) that a decoder takes as one unit: a whole character (*valid), or
 * the longest beginning of one (Unicode 15, section 3.9, "maximal subpart"). */
size_t rf_utf8_unit(const char *text, size_t bytes, bool *valid);
/* A copy (0-terminated, caller frees) with U+FFFD in the place of each unit that is not valid, as
 * WHATWG and Rust's from_utf8_lossy have it. */
char *rf_utf8_repair(const char *text, size_t bytes, size_t *out_bytes);

/* The character at text, which must be valid and not at its end; returns its bytes. */
size_t rf_utf8_next(int32_t *character, const char *text);
/* Writes a character (not a surrogate) as 1 to 4 bytes. */
size_t rf_utf8_put(char text[4], int32_t character);
/* Characters of a text, of which nothing need be valid. */
size_t rf_utf8_count(const char *text, size_t bytes);
/* Does this byte go on with a character that began before it? */
static inline bool rf_utf8_continues(char byte)
{
    return ((unsigned char)byte & 0xC0) == 0x80;
}

#endif
