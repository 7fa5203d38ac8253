#include "common/text/unicode.h"

#include "common/base/alloc.h"
#include "common/base/utf8.h"

#include <stdlib.h>
#include <utf8proc.h>

/* --- Characters ------------------------------------------------------------------------------- */

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

/* A quick test that holds for all characters of both lists, some others, and U+180E, which PCRE2 takes
 * for a space. */
static bool may_be_new(int32_t c)
{
    if (c < 0x180E) {
        return false;
    }
    return c == 0x180E || (c >= 0x1C89 && c <= 0x1C8A) || (c >= 0xA7CB && c <= 0xA7DC) ||
           (c >= 0x105C0 && c < 0x1F000) || (c >= 0x2B739 && c <= 0x323AF);
}

/* --- Scanning --------------------------------------------------------------------------------- */

/* A quick test for characters that normal form C leaves as they are, whatever stands beside them: those
 * that never combine with what stands in front of them (NFC_Quick_Check=Yes, combining class 0). Not all
 * of them, but the ranges in which nearly all text lies. U+11A7 is called one so that utf8proc never
 * sees it behind a Hangul syllable: 2.8 takes it for a final consonant and drops it. */
static bool is_stable(int32_t c)
{
    return c < 0x300 || c == 0x11A7 || (c >= 0x388 && c <= 0x482) || (c >= 0x48A && c <= 0x58F) ||
           (c >= 0x2010 && c < 0x20D0) || (c >= 0x2190 && c < 0x2329) ||
           (c >= 0x2500 && c < 0x2ADC) || (c >= 0x3001 && c < 0x302A) ||
           (c >= 0x3041 && c < 0x3097) || (c >= 0x30A0 && c < 0x3100) ||
           (c >= 0x3400 && c < 0xA000) || (c >= 0xAC00 && c <= 0xD7A3) ||
           (c >= 0xFDD0 && c < 0xFDF0) || (c >= 0xFF00 && c < 0xFFF0) ||
           (c >= 0x1F000 && c < 0x1FB00);
}

int rf_unicode_scan(rf_unicode_traits *out, const char *text, size_t bytes, rf_error *err)
{
    *out = (rf_unicode_traits){0};
    if (bytes > INT32_MAX) {
        return rf_error_set(err, RF_ERR, "a text of %zu bytes is too long: cut it", bytes);
    }
    for (size_t i = 0; (i += rf_utf8_ascii(text + i, bytes - i)) < bytes;) {
        bool valid;
        size_t n = rf_utf8_unit(text + i, bytes - i, &valid);
        if (!valid) {
            return rf_error_set(err, RF_ERR, "the text is not UTF-8 at byte %zu: convert it",
                                i + 1);
        }
        int32_t c;
        rf_utf8_next(&c, text + i);
        out->may_change = out->may_change || !is_stable(c);
        out->is_new = out->is_new || may_be_new(c);
        i += n;
    }
    return RF_OK;
}

/* --- Normal form C ---------------------------------------------------------------------------- */

static int class_of(int32_t character)
{
    return utf8proc_get_property(character)->combining_class;
}

/* Sorts marks[n] by their combining classes; those of one class stay in their order. Few of them
 * stand on one letter; for many (somebody else's rubbish) the time must not grow with the square. */
static void sort_marks(int32_t *mark, int64_t n)
{
    enum { FEW = 32 };
    if (n <= FEW) {
        for (int64_t i = 1; i < n; i++) {
            const int32_t moved = mark[i];
            int64_t k = i;
            for (; k > 0 && class_of(mark[k - 1]) > class_of(moved); k--) {
                mark[k] = mark[k - 1];
            }
            mark[k] = moved;
        }
        return;
    }
    int64_t begin[257] = {0}; /* of each class among the sorted ones */
    int32_t *copy = rf_alloc_copy(mark, (size_t)n * sizeof *mark);
    for (int64_t i = 0; i < n; i++) {
        begin[class_of(copy[i]) + 1]++;
    }
    for (int k = 0; k < 256; k++) {
        begin[k + 1] += begin[k];
    }
    for (int64_t i = 0; i < n; i++) {
        mark[begin[class_of(copy[i])]++] = copy[i];
    }
    free(copy);
}

/* Decomposes, orders the marks, composes. utf8proc_map does the same, but orders by swapping
 * neighbours. */
static void nfc_piece(rf_text *out, const char *text, size_t bytes)
{
    const utf8proc_option_t options = (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    enum { MOST = 32 }; /* characters that one is decomposed to: 4 in Unicode 16 */
    rf_ids point = {0};
    for (size_t i = 0; i < bytes;) {
        int32_t c;
        int unused = 0;
        i += rf_utf8_next(&c, text + i);
        rf_ids_reserve(&point, MOST);
        const utf8proc_ssize_t n =
            utf8proc_decompose_char(c, point.id + point.n, MOST, options, &unused);
        RF_ASSERT(n >= 0 && n <= MOST);
        point.n += n;
    }
    for (int64_t begin = 0, end; begin < point.n; begin = end + 1) {
        for (end = begin; end < point.n && class_of(point.id[end]) != 0; end++) {
        }
        sort_marks(point.id + begin, end - begin);
    }
    point.n = utf8proc_normalize_utf32(point.id, point.n, options);
    for (int64_t i = 0; i < point.n; i++) {
        char c[4];
        rf_text_add(out, c, rf_utf8_put(c, point.id[i]));
    }
    rf_ids_free(&point);
}

/* Only the stretches that may change are given to utf8proc: each with the one stable character in
 * front of it, with which it may compose. A stable character composes with nothing before it, so
 * the text may be cut there. */
void rf_unicode_nfc(rf_text *out, const char *text, size_t bytes)
{
    size_t done = 0, stable = 0; /* written up to; begin of the last stable character */
    for (size_t i = 0; i < bytes;) {
        int32_t c;
        size_t n = rf_utf8_next(&c, text + i);
        if (is_stable(c)) {
            stable = i;
            i += n;
            continue;
        }
        size_t end = i + n;
        while (end < bytes && (n = rf_utf8_next(&c, text + end), !is_stable(c))) {
            end += n;
        }
        rf_text_add(out, text + done, stable - done);
        nfc_piece(out, text + stable, end - stable);
        done = stable = i = end;
    }
    rf_text_add(out, text + done, bytes - done);
}

/* How many bytes the valid character at `at` has; 0: there is none. */
static size_t valid_character(int32_t *c, const char *text, size_t at, size_t bytes)
{
    bool valid = false;
    const size_t n = at < bytes ? rf_utf8_unit(text + at, bytes - at, &valid) : 0;
    if (valid) {
        rf_utf8_next(c, text + at);
    }
    return valid ? n : 0;
}

size_t rf_unicode_nfc_stretch(rf_text *out, const char *text, size_t from, size_t bytes)
{
    int32_t c;
    bool unused, may_change;
    size_t n = valid_character(&c, text, from, bytes);
    if (n == 0) {
        n = rf_utf8_unit(text + from, bytes - from, &unused);
        rf_text_add(out, text + from, n);
        return from + n;
    }
    may_change = !is_stable(c);
    size_t end = from + n;
    while ((n = valid_character(&c, text, end, bytes)) > 0 && !is_stable(c)) {
        may_change = true;
        end += n;
    }
    if (may_change) {
        nfc_piece(out, text + from, end - from);
    } else {
        rf_text_add(out, text + from, end - from);
    }
    return end;
}
