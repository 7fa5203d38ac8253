#include "common/text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* --- Growing texts ---------------------------------------------------------------------------- */

void rf_text_add(rf_text *text, const char *data, size_t bytes)
{
    if (text->failed) {
        return;
    }
    if (bytes >= text->capacity - text->bytes) {
        size_t capacity = text->capacity < 64 ? 64 : text->capacity;
        while (capacity - text->bytes <= bytes && capacity < SIZE_MAX / 4) {
            capacity *= 2;
        }
        char *grown = capacity < SIZE_MAX / 4 ? realloc(text->data, capacity) : NULL;
        if (grown == NULL) {
            text->failed = true;
            return;
        }
        text->data = grown;
        text->capacity = capacity;
    }
    if (bytes > 0) {
        memcpy(text->data + text->bytes, data, bytes);
    }
    text->bytes += bytes;
    text->data[text->bytes] = '\0';
}

void rf_text_add_string(rf_text *text, const char *string)
{
    rf_text_add(text, string, strlen(string));
}

int rf_text_check(const rf_text *text, rf_error *err)
{
    return text->failed ? rf_error_set(err, RF_ERR, "no memory for a text of %zu bytes and more",
                                       text->bytes)
                        : RF_OK;
}

void rf_text_free(rf_text *text)
{
    free(text->data);
    *text = (rf_text){0};
}

/* --- Characters ------------------------------------------------------------------------------- */

size_t rf_unicode_next(int32_t *character, const char *text)
{
    const unsigned char *t = (const unsigned char *)text;
    if (t[0] < 0x80) {
        *character = t[0];
        return 1;
    }
    if (t[0] < 0xE0) {
        *character = (t[0] & 0x1F) << 6 | (t[1] & 0x3F);
        return 2;
    }
    if (t[0] < 0xF0) {
        *character = (t[0] & 0x0F) << 12 | (t[1] & 0x3F) << 6 | (t[2] & 0x3F);
        return 3;
    }
    *character = (t[0] & 0x07) << 18 | (t[1] & 0x3F) << 12 | (t[2] & 0x3F) << 6 | (t[3] & 0x3F);
    return 4;
}

size_t rf_unicode_put(char text[4], int32_t character)
{
    unsigned c = (unsigned)character;
    if (c < 0x80) {
        text[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        text[i] = (char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    static const unsigned lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    text[0] = (char)(lead[n] | c);
    return n;
}

static bool stands_for_itself(int byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

int32_t rf_unicode_of_byte(int byte)
{
    if (stands_for_itself(byte)) {
        return byte;
    }
    return byte <= 32 ? 256 + byte : byte <= 160 ? 256 + 33 + byte - 127 : 256 + 67;
}

int rf_unicode_byte_of(int32_t character)
{
    if (character < 256) {
        return stands_for_itself((int)character) ? (int)character : -1;
    }
    int n = (int)character - 256;
    return character > 256 + 67 ? -1 : n < 33 ? n : n < 67 ? n - 33 + 127 : 173;
}

bool rf_unicode_is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

bool rf_unicode_is_python_space(int32_t c)
{
    return rf_unicode_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

/* --- What is newer than Unicode 14, the version of PCRE2 10.42 ---------------------------------
 * From DerivedGeneralCategory of Unicode 16; a PCRE2 that knows them already is not disturbed. */

#define R(low, high) "\\x{" #low "}-\\x{" #high "}"

const char *rf_unicode_new_letters(void)
{
    return R(1C89, 1C8A) R(A7CB, A7CD) R(A7DA, A7DC) R(105C0, 105F3) R(10D4A, 10D65) R(10D6F, 10D85)
        R(10EC2, 10EC4) R(1123F, 11240) R(11380, 11389) R(1138B, 1138B) R(1138E, 1138E)
            R(11390, 113B5) R(113B7, 113B7) R(113D1, 113D1) R(113D3, 113D3) R(11BC0, 11BE0)
                R(11F02, 11F02) R(11F04, 11F10) R(11F12, 11F33) R(1342F, 1342F) R(13441, 13446)
                    R(13460, 143FA) R(16100, 1611D) R(16D40, 16D6C) R(18CFF, 18CFF) R(1B132, 1B132)
                        R(1B155, 1B155) R(1DF25, 1DF2A) R(1E030, 1E06D) R(1E4D0, 1E4EB)
                            R(1E5D0, 1E5ED) R(1E5F0, 1E5F0) R(2B739, 2B739) R(2EBF0, 2EE5D)
                                R(31350, 323AF);
}

const char *rf_unicode_new_numbers(void)
{
    return R(10D40, 10D49) R(116D0, 116E3) R(11BF0, 11BF9) R(11F50, 11F59) R(16130, 16139)
        R(16D70, 16D79) R(1CCF0, 1CCF9) R(1D2C0, 1D2D3) R(1E4F0, 1E4F9) R(1E5F1, 1E5FA);
}

/* A superset of both lists and of U+180E, which PCRE2 takes for a space: the blocks they lie in. */
static bool may_be_new(int32_t c)
{
    if (c < 0x180E) {
        return false;
    }
    return c == 0x180E || (c >= 0x1C89 && c <= 0x1C8A) || (c >= 0xA7CB && c <= 0xA7DC) ||
           (c >= 0x105C0 && c < 0x1F000) || (c >= 0x2B739 && c <= 0x323AF);
}

/* --- Scanning --------------------------------------------------------------------------------- */

/* In normal form C already, whatever stands beside it: a starter that composes with nothing in
 * front of it (NFC_Quick_Check=Yes, combining class 0). A subset of those characters: the ranges
 * in which nearly all text lies. And U+11A7, so that utf8proc never sees it behind a Hangul
 * syllable: 2.8 takes it for a final consonant and drops it. */
static bool is_stable(int32_t c)
{
    return c < 0x300 || c == 0x11A7 || (c >= 0x388 && c <= 0x482) || (c >= 0x48A && c <= 0x58F) ||
           (c >= 0x2010 && c < 0x20D0) || (c >= 0x2190 && c < 0x2329) ||
           (c >= 0x2500 && c < 0x2ADC) || (c >= 0x3001 && c < 0x302A) ||
           (c >= 0x3041 && c < 0x3097) || (c >= 0x30A0 && c < 0x3100) ||
           (c >= 0x3400 && c < 0xA000) || (c >= 0xAC00 && c <= 0xD7A3) ||
           (c >= 0xFF00 && c < 0xFFF0) || (c >= 0x1F000 && c < 0x1FB00);
}

/* Bytes at text that a decoder takes as one unit: a whole sequence (*valid), or the longest
 * beginning of one (Unicode 15, section 3.9, "maximal subpart"), which becomes one U+FFFD. */
static size_t utf8_unit(const unsigned char *text, size_t bytes, bool *valid)
{
    unsigned char c = text[0];
    *valid = c < 0x80;
    size_t n = c < 0xC2 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 1;
    unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < n; i++) {
        if (i >= bytes || text[i] < low || text[i] > high) {
            return i;
        }
        low = 0x80;
        high = 0xBF;
    }
    *valid = *valid || n > 1;
    return n;
}

static size_t skip_ascii(const char *text, size_t bytes)
{
    size_t i = 0;
    uint64_t eight;
    while (bytes - i >= sizeof eight) {
        memcpy(&eight, text + i, sizeof eight);
        if ((eight & UINT64_C(0x8080808080808080)) != 0) {
            break;
        }
        i += sizeof eight;
    }
    while (i < bytes && (unsigned char)text[i] < 0x80) {
        i++;
    }
    return i;
}

bool rf_unicode_scan(rf_unicode_traits *out, size_t *bad, const char *text, size_t bytes)
{
    *out = (rf_unicode_traits){0};
    for (size_t i = 0; (i += skip_ascii(text + i, bytes - i)) < bytes;) {
        bool valid;
        size_t n = utf8_unit((const unsigned char *)text + i, bytes - i, &valid);
        if (!valid) {
            *bad = i;
            return false;
        }
        int32_t c;
        rf_unicode_next(&c, text + i);
        out->may_change = out->may_change || !is_stable(c);
        out->is_new = out->is_new || may_be_new(c);
        i += n;
    }
    return true;
}

char *rf_unicode_replace_broken(const char *raw, size_t bytes, size_t *out_bytes)
{
    /* U+FFFD takes three bytes, a broken unit at least one. */
    char *text = bytes < SIZE_MAX / 4 ? malloc(3 * bytes + 1) : NULL;
    if (text == NULL) {
        return NULL;
    }
    size_t used = 0;
    for (size_t i = 0; i < bytes;) {
        bool valid;
        size_t n = utf8_unit((const unsigned char *)raw + i, bytes - i, &valid);
        memcpy(text + used, valid ? raw + i : "\xEF\xBF\xBD", valid ? n : 3);
        used += valid ? n : 3;
        i += n;
    }
    text[used] = '\0';
    *out_bytes = used;
    return text;
}

/* --- Normal form C ---------------------------------------------------------------------------- */

static int nfc_piece(rf_text *out, const char *text, size_t bytes, rf_error *err)
{
    utf8proc_uint8_t *normal = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &normal,
                     (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n < 0) {
        return rf_error_set(err, RF_ERR, "the text cannot be normalised (NFC): %s",
                            utf8proc_errmsg(n));
    }
    rf_text_add(out, (const char *)normal, (size_t)n);
    free(normal);
    return RF_OK;
}

/* Only the stretches that may change are given to utf8proc: each with the one stable character in
 * front of it, with which it may compose. A stable character composes with nothing before it, so
 * the text may be cut there. */
int rf_unicode_nfc(rf_text *out, const char *text, size_t bytes, rf_error *err)
{
    size_t done = 0, stable = 0; /* written up to; begin of the last stable character */
    for (size_t i = 0; i < bytes;) {
        int32_t c;
        size_t n = rf_unicode_next(&c, text + i);
        if (is_stable(c)) {
            stable = i;
            i += n;
            continue;
        }
        size_t end = i + n;
        while (end < bytes && (n = rf_unicode_next(&c, text + end), !is_stable(c))) {
            end += n;
        }
        rf_text_add(out, text + done, stable - done);
        int rc = nfc_piece(out, text + stable, end - stable, err);
        if (rc != RF_OK) {
            return rc;
        }
        done = stable = i = end;
    }
    rf_text_add(out, text + done, bytes - done);
    return rf_text_check(out, err);
}
