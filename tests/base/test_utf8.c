/* UTF-8: what is valid, what is put in the place of what is not, characters there and back. */
#include "common/base/utf8.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(utf8, is_told_from_what_is_none)
{
    static const struct {
        const char *text;
        int bad; /* -1: valid */
    } cases[] = {
        {"", -1},
        {"plain", -1},
        {"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80", -1},
        {"\xEF\xBF\xBF\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF", -1},
        {"a\x80", 1},              /* no beginning */
        {"a\xC3", 1},              /* no end */
        {"ab\xE2\x82", 2},         /* no end */
        {"\xC0\x80", 0},           /* overlong */
        {"\xC1\xBF", 0},           /* overlong */
        {"\xE0\x9F\xBF", 0},       /* overlong */
        {"\xF0\x8F\xBF\xBF", 0},   /* overlong */
        {"x\xED\xA0\x80", 1},      /* surrogate */
        {"\xF4\x90\x80\x80", 0},   /* above U+10FFFF */
        {"\xF5\x80\x80\x80", 0},   /* above U+10FFFF */
        {"\xFF", 0},               /* never */
        {"\xE2\x82\xACx\xE2(", 4}, /* continuation missing */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t bad = 99;
        bool is_valid = rf_utf8_is_valid(cases[i].text, strlen(cases[i].text), &bad);
        cr_expect(is_valid == (cases[i].bad < 0), "case %zu", i);
        cr_expect(is_valid || bad == (size_t)cases[i].bad, "case %zu: %zu", i, bad);
        cr_expect(rf_utf8_is_valid(cases[i].text, strlen(cases[i].text), NULL) == is_valid);
    }
    cr_expect(rf_utf8_is_valid("a\0b", 3, NULL));
}

Test(utf8, repair_puts_one_character_for_each_broken_unit)
{
    static const struct {
        const char *broken, *repaired;
    } cases[] = {
        {"", ""},
        {"a\xC3\xA4z", "a\xC3\xA4z"},
        {"\xE2\x82x", "\xEF\xBF\xBDx"},                           /* one unit */
        {"\x80\xFFx", "\xEF\xBF\xBD\xEF\xBF\xBDx"},               /* two */
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* a surrogate */
        {"\xF0\x9F\x98", "\xEF\xBF\xBD"},                         /* cut off */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bytes = 99;
        char *text = rf_utf8_repair(cases[i].broken, strlen(cases[i].broken), &bytes);
        cr_expect_str_eq(text, cases[i].repaired, "case %zu", i);
        cr_expect_eq(bytes, strlen(cases[i].repaired));
        free(text);
    }
}

Test(utf8, characters_there_and_back)
{
    for (int32_t c = 1; c <= 0x10FFFF; c++) {
        if (c == 0xD800) {
            c = 0xE000; /* behind the surrogates */
        }
        char text[5] = "";
        int32_t back = -1;
        size_t n = rf_utf8_put(text, c);
        cr_assert(rf_utf8_is_valid(text, n, NULL) && strlen(text) == n, "%x", (unsigned)c);
        cr_assert(rf_utf8_next(&back, text) == n && back == c, "%x", (unsigned)c);
        cr_assert(rf_utf8_ascii(text, n) == (c < 0x80));
        cr_assert(!rf_utf8_continues(text[0]) && (n == 1 || rf_utf8_continues(text[n - 1])));
    }
}
