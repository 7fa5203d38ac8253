#include "common/base/utf8.h"

#include "common/base/alloc.h"

#include <string.h>

size_t rf_utf8_ascii(const char *text, size_t bytes)
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

/* The bounds on the second byte are those of the table in RFC 3629, section 4. */
size_t rf_utf8_unit(const char *text, size_t bytes, bool *valid)
{
    const unsigned char *t = (const unsigned char *)text, c = t[0];
    *valid = c < 0x80;
    size_t n = c < 0xC2 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 1;
    unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < n; i++) {
        if (i >= bytes || t[i] < low || t[i] > high) {
            return i;
        }
        low = 0x80;
        high = 0xBF;
    }
    *valid = *valid || n > 1;
    return n;
}

bool rf_utf8_is_valid(const char *text, size_t bytes, size_t *bad)
{
    for (size_t i = 0; (i += rf_utf8_ascii(text + i, bytes - i)) < bytes;) {
        bool valid;
        size_t n = rf_utf8_unit(text + i, bytes - i, &valid);
        if (!valid) {
            if (bad != NULL) {
                *bad = i;
            }
            return false;
        }
        i += n;
    }
    return true;
}

char *rf_utf8_repair(const char *text, size_t bytes, size_t *out_bytes)
{
    /* U+FFFD takes three bytes, a broken unit at least one. */
    char *out = rf_alloc(bytes + 1, 3);
    size_t used = 0;
    for (size_t i = 0; i < bytes;) {
        bool valid;
        size_t n = rf_utf8_unit(text + i, bytes - i, &valid);
        memcpy(out + used, valid ? text + i : "\xEF\xBF\xBD", valid ? n : 3);
        used += valid ? n : 3;
        i += n;
    }
    *out_bytes = used;
    return out;
}

size_t rf_utf8_next(int32_t *character, const char *text)
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

size_t rf_utf8_put(char text[4], int32_t character)
{
    static const unsigned lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    unsigned c = (unsigned)character;
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        text[i] = (char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    text[0] = (char)(lead[n] | c);
    return n;
}

size_t rf_utf8_count(const char *text, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        n += !rf_utf8_continues(text[i]);
    }
    return n;
}
