/* Capital and small letters, as Python has them. */
#include "common/text/jinja/builtins.h"

#include <string.h>
#include <utf8proc.h>

/* --- Characters --------------------------------------------------------------------------------- */

typedef struct range {
    int32_t first, last;
} range;

static bool is_in(const range *all, size_t n, int32_t c)
{
    bool is = false;
    for (size_t i = 0; i < n; i++) {
        is |= c >= all[i].first && c <= all[i].last;
    }
    return is;
}
#define IS_IN(all, c) is_in(all, sizeof(all) / sizeof *(all), c)

/* Cased, of DerivedCoreProperties of Unicode 14: letters with a case, and those of the table. */
static bool is_cased(int32_t c)
{
    static const range others[] = {
        {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},
        {0x2E0, 0x2E4},     {0x37A, 0x37A},     {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},
        {0x1D9B, 0x1DBF},   {0x2071, 0x2071},   {0x207F, 0x207F},   {0x2090, 0x209C},
        {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F8, 0xA7F9},
        {0xAB5C, 0xAB5F},   {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0},
        {0x107B2, 0x107BA}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
    const utf8proc_category_t kind = utf8proc_category(c);
    return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL ||
           kind == UTF8PROC_CATEGORY_LT || utf8proc_tolower(c) != c || utf8proc_toupper(c) != c ||
           IS_IN(others, c);
}

static bool is_title(int32_t c) /* half a capital: neither */
{
    return utf8proc_category(c) == UTF8PROC_CATEGORY_LT;
}

/* Uppercase of the same; the last three ranges of the table above are those without a small letter. */
static bool is_upper(int32_t c)
{
    return utf8proc_category(c) == UTF8PROC_CATEGORY_LU ||
           (is_cased(c) && !is_title(c) &&
            (utf8proc_tolower(c) != c || (c >= 0x1F130 && c <= 0x1F189)));
}

/* Case_Ignorable of the same: what stands within words. */
static bool is_ignorable(int32_t c)
{
    static const range others[] = {
        {'\'', '\''},     {'.', '.'},       {':', ':'},       {0xB7, 0xB7},
        {0x387, 0x387},   {0x55F, 0x55F},   {0x5F4, 0x5F4},   {0x2018, 0x2019},
        {0x2024, 0x2024}, {0x2027, 0x2027}, {0xFE13, 0xFE13}, {0xFE52, 0xFE52},
        {0xFE55, 0xFE55}, {0xFF07, 0xFF07}, {0xFF0E, 0xFF0E}, {0xFF1A, 0xFF1A}};
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return IS_IN(others, c);
    }
}

/* --- Mappings: a character becomes out[], whose number is returned ------------------------------- */

enum { MOST = 4 };
typedef int change(int32_t out[MOST], int32_t c);

static int to_lower(int32_t out[MOST], int32_t c)
{
    out[0] = c == 0x130 ? 'i' : utf8proc_tolower(c);
    out[1] = 0x307;
    return c == 0x130 ? 2 : 1;
}

/* Some small letters are several without their case (ß, ﬁ), and just as many in capitals. */
static int fold(int32_t out[MOST], int32_t c)
{
    int last = 0;
    const bool is_capital = utf8proc_category(c) == UTF8PROC_CATEGORY_LU;
    const utf8proc_ssize_t n =
        is_capital ? 0 : utf8proc_decompose_char(c, out, MOST, UTF8PROC_CASEFOLD, &last);
    return n > 1 && n <= MOST ? (int)n : 0;
}

static int to_upper(int32_t out[MOST], int32_t c)
{
    const int n = fold(out, c);
    for (int i = 0; i < n; i++) {
        out[i] = utf8proc_toupper(out[i]);
    }
    out[0] = n > 0 ? out[0] : utf8proc_toupper(c);
    return n > 0 ? n : 1;
}

/* The first of several that has a capital becomes one; an iota stays below its letter. */
static int to_title(int32_t out[MOST], int32_t c)
{
    const bool is_one = utf8proc_category(utf8proc_totitle(c)) == UTF8PROC_CATEGORY_LT;
    const int n = is_one ? 0 : fold(out, c);
    bool done = false;
    if (n == 0) {
        out[0] = utf8proc_totitle(c);
        return 1;
    }
    for (int i = 0; i < n; i++) {
        const int32_t before = out[i];
        out[i] = done ? (before == 0x3B9 ? 0x345 : before) : utf8proc_totitle(before);
        done |= out[i] != before;
    }
    return n;
}

static int to_swapped(int32_t out[MOST], int32_t c)
{
    out[0] = c;
    return is_title(c) ? 1 : is_upper(c) ? to_lower(out, c) : to_upper(out, c);
}

/* --- Texts -------------------------------------------------------------------------------------- */

bool rf_jinja_is_all(job *j, text s, letters wanted)
{
    bool has = false;
    rf_jinja_step(j, s.n / 64);
    for (size_t i = 0; i < s.n;) {
        int32_t c;
        i += rf_utf8_next(&c, s.at + i);
        if (is_title(c) || (is_cased(c) && is_upper(c) != (wanted == UPPER))) {
            return false;
        }
        has |= is_cased(c);
    }
    return has;
}

/* Does a word go on at s: does a cased character follow, behind those that are ignored? */
static bool goes_on(text s)
{
    int32_t c = 0;
    size_t i = 0;
    while (i < s.n && (i += rf_utf8_next(&c, s.at + i), is_ignorable(c))) {
        c = 0;
    }
    return is_cased(c);
}

value rf_jinja_recase(job *j, text s, letters how)
{
    /* Of the first character of a word; the others go to_lower. */
    static change *const first[] = {
        [LOWER] = to_lower,          [UPPER] = to_upper,           [CAPITALIZED] = to_title,
        [TITLE_OF_JINJA] = to_upper, [TITLE_OF_PYTHON] = to_title, [SWAPPED] = to_swapped};
    const int32_t sigma = 0x3A3, small_sigma = 0x3C3, final_sigma = 0x3C2;
    buffer b = {0};
    bool begins_word = true, follows_cased = false;
    rf_jinja_step(j, s.n / 16);
    for (size_t i = 0; i < s.n;) {
        const char *const like = s.at + i;
        int32_t c, many[MOST];
        char utf8[4];
        i += rf_utf8_next(&c, like);
        change *const to = begins_word ? first[how] : to_lower;
        const int n = to(many, c);
        if (n == 1 && many[0] == small_sigma && c == sigma && follows_cased &&
            !goes_on((text){s.at + i, s.n - i})) {
            many[0] = final_sigma;
        }
        for (int k = 0; k < n; k++) {
            rf_jinja_add_for(j, &b, (text){utf8, rf_utf8_put(utf8, many[k])}, like);
        }
        follows_cased = is_ignorable(c) ? follows_cased : is_cased(c);
        if (how == TITLE_OF_JINJA) {
            follows_cased &= !begins_word;
            begins_word = rf_unicode_is_python_space(c) || (c > 0 && c < 128 && strchr("-({[<", c));
        } else {
            begins_word =
                how == UPPER || how == SWAPPED || (how == TITLE_OF_PYTHON && !is_cased(c));
        }
    }
    return rf_jinja_string(rf_jinja_made(&b));
}
