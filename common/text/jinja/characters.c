/* What templates may do with strings character by character: kinds, widths, words. */
#include "common/text/jinja/builtins.h"

#include <string.h>
#include <utf8proc.h>

/* --- Kinds -------------------------------------------------------------------------------------- */

static bool is_letter(int32_t c)
{
    const utf8proc_category_t kind = utf8proc_category(c);
    return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL ||
           kind == UTF8PROC_CATEGORY_LT || kind == UTF8PROC_CATEGORY_LM ||
           kind == UTF8PROC_CATEGORY_LO;
}

static bool is_decimal(int32_t c)
{
    return utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
}

/* Also the digits of category No, of Unicode 14. */
static bool is_digit(int32_t c)
{
    static const int32_t others[][2] = {
        {0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
        {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
        {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
        {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
        {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
    bool is = is_decimal(c);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        is |= c >= others[i][0] && c <= others[i][1];
    }
    return is;
}

static bool is_alphanumeric(int32_t c)
{
    const utf8proc_category_t kind = utf8proc_category(c);
    return is_letter(c) || kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL ||
           kind == UTF8PROC_CATEGORY_NO;
}

/* Has it characters, all of this kind? */
static value are_all(job *j, text s, bool (*is_kind)(int32_t c))
{
    const bool is_empty = s.n == 0;
    rf_jinja_step(j, s.n / 64);
    for (int32_t c; s.n > 0 && (rf_utf8_next(&c, s.at), is_kind(c));) {
        const size_t n = rf_jinja_character(s);
        s = (text){s.at + n, s.n - n};
    }
    return rf_jinja_boolean(!is_empty && s.n == 0);
}

BUILTIN(do_isalnum, are_all(j, self.s, is_alphanumeric))
BUILTIN(do_isalpha, are_all(j, self.s, is_letter))
BUILTIN(do_isdecimal, are_all(j, self.s, is_decimal))
BUILTIN(do_isdigit, are_all(j, self.s, is_digit))
BUILTIN(do_isspace, are_all(j, self.s, rf_unicode_is_python_space))
BUILTIN(do_isascii, rf_jinja_boolean(rf_utf8_count(self.s.at, self.s.n) == self.s.n))
BUILTIN(do_islower, rf_jinja_boolean(rf_jinja_is_all(j, self.s, LOWER)))
BUILTIN(do_isupper, rf_jinja_boolean(rf_jinja_is_all(j, self.s, UPPER)))
BUILTIN(do_swapcase, rf_jinja_recase(j, self.s, SWAPPED))

/* --- Widths ------------------------------------------------------------------------------------- */

static void add_times(job *j, buffer *b, text s, int64_t times)
{
    for (int64_t i = 0; i < times; i++) {
        rf_jinja_step(j, 1);
        rf_jinja_add(j, b, s);
    }
}

/* How many characters s lacks of a width. */
static int64_t missing_of(job *j, text s, value width)
{
    const int64_t n = (int64_t)rf_jinja_length(j, s), wide = rf_jinja_whole(j, width, 0);
    if (!rf_jinja_is_given(width)) {
        rf_jinja_fail(j, "a width is missing");
    }
    return wide > n ? wide - n : 0;
}

/* s between so many of the character of argument 1, which is a blank where it is not given. */
static value pad(job *j, text s, const arguments *a, int64_t left, int64_t right)
{
    const value given = rf_jinja_argument(a, 1, "fillchar");
    const text fill = rf_jinja_is_given(given) ? rf_jinja_get_string(j, given) : TEXT(" ");
    buffer b = {0};
    if (rf_jinja_length(j, fill) != 1) {
        rf_jinja_fail(j, "\"%.*s\" where one character should be", QUOTE(fill));
    }
    add_times(j, &b, fill, left);
    rf_jinja_add(j, &b, s);
    add_times(j, &b, fill, right);
    return rf_jinja_string(rf_jinja_made(&b));
}

static value center(job *j, text s, const arguments *a, value width)
{
    const int64_t n = missing_of(j, s, width);
    const int64_t left = n / 2 + (n & rf_jinja_whole(j, width, 0) & 1); /* as Python rounds it */
    return pad(j, s, a, left, n - left);
}

static value default_of(value v, int64_t otherwise)
{
    return rf_jinja_is_given(v) ? v : rf_jinja_integer(otherwise);
}

static const arguments nothing;

BUILTIN(do_center, center(j, self.s, a, rf_jinja_argument(a, 0, "width")))
BUILTIN(do_center_filter, center(j, rf_jinja_text(j, self), &nothing,
                                 default_of(rf_jinja_argument(a, 0, "width"), 80)))
BUILTIN(do_ljust, pad(j, self.s, a, 0, missing_of(j, self.s, rf_jinja_argument(a, 0, "width"))))
BUILTIN(do_rjust, pad(j, self.s, a, missing_of(j, self.s, rf_jinja_argument(a, 0, "width")), 0))

/* Zeros behind the sign. */
static value do_zfill(job *j, value self, const arguments *a)
{
    const text s = self.s;
    const size_t sign = s.n > 0 && (s.at[0] == '+' || s.at[0] == '-');
    buffer b = {0};
    rf_jinja_add(j, &b, (text){s.at, sign});
    add_times(j, &b, TEXT("0"), missing_of(j, s, rf_jinja_argument(a, 0, "width")));
    rf_jinja_add(j, &b, (text){s.at + sign, s.n - sign});
    return rf_jinja_string(rf_jinja_made(&b));
}

static value do_expandtabs(job *j, value self, const arguments *a)
{
    const int64_t width = rf_jinja_whole(j, rf_jinja_argument(a, 0, "tabsize"), 8);
    int64_t column = 0;
    buffer b = {0};
    rf_jinja_step(j, self.s.n / 16);
    for (text s = self.s; s.n > 0;) {
        const size_t n = rf_jinja_character(s);
        if (*s.at == '\t') {
            const int64_t blanks = width > 0 ? width - column % width : 0;
            for (int64_t i = 0; i < blanks; i++) {
                rf_jinja_step(j, 1);
                rf_jinja_add_for(j, &b, TEXT(" "), s.at);
            }
            column += blanks;
        } else {
            rf_jinja_add(j, &b, (text){s.at, n});
            column = *s.at == '\n' || *s.at == '\r' ? 0 : column + 1;
        }
        s = (text){s.at + n, s.n - n};
    }
    return rf_jinja_string(rf_jinja_made(&b));
}

/* --- Words -------------------------------------------------------------------------------------- */

static value do_wordcount(job *j, value self, const arguments *a)
{
    int64_t n_words = 0;
    bool in_word = false;
    text s = rf_jinja_text(j, self);
    (void)a;
    rf_jinja_step(j, s.n / 16);
    while (s.n > 0) {
        int32_t c;
        const size_t n = rf_jinja_character(s);
        rf_utf8_next(&c, s.at);
        const bool is_part = c == '_' || is_alphanumeric(c);
        n_words += is_part && !in_word;
        in_word = is_part;
        s = (text){s.at + n, s.n - n};
    }
    return rf_jinja_integer(n_words);
}

/* The text in front of the last blank; without one all of it. */
static text without_last_word(text s)
{
    const char *blank = s.n > 0 ? memrchr(s.at, ' ', s.n) : NULL;
    return blank != NULL ? (text){s.at, (size_t)(blank - s.at)} : s;
}

static value do_truncate(job *j, value self, const arguments *a)
{
    const int64_t most = rf_jinja_whole(j, rf_jinja_argument(a, 0, "length"), 255);
    const bool kills_words = rf_jinja_truth(rf_jinja_argument(a, 1, "killwords"));
    const value given = rf_jinja_argument(a, 2, "end");
    const text end = given.kind != UNDEFINED ? rf_jinja_get_string(j, given) : TEXT("...");
    const int64_t leeway = rf_jinja_whole(j, rf_jinja_argument(a, 3, "leeway"), 5);
    const int64_t end_length = (int64_t)rf_jinja_length(j, end);
    buffer b = {0};
    if (self.kind == UNDEFINED) {
        return self;
    }
    const text s = rf_jinja_get_string(j, self);
    const int64_t n = (int64_t)rf_jinja_length(j, s);
    if (most < end_length || leeway < 0) {
        rf_jinja_fail(j, "truncate to less than its end, or with a leeway below 0");
    }
    if (n <= most || n - most <= leeway) {
        return self;
    }
    const text kept = rf_jinja_slice(s, 0, (size_t)(most - end_length));
    rf_jinja_add(j, &b, kills_words ? kept : without_last_word(kept));
    rf_jinja_add(j, &b, end);
    return rf_jinja_string(rf_jinja_made(&b));
}

/* --- Their names -------------------------------------------------------------------------------- */

const builtin_name rf_jinja_character_filters[] = {
    {"center", do_center_filter},
    {"truncate", do_truncate},
    {"wordcount", do_wordcount},
    {NULL, NULL},
};

const builtin_name rf_jinja_character_methods[] = {
    {"center", do_center},     {"expandtabs", do_expandtabs}, {"isalnum", do_isalnum},
    {"isalpha", do_isalpha},   {"isascii", do_isascii},       {"isdecimal", do_isdecimal},
    {"isdigit", do_isdigit},   {"islower", do_islower},       {"isspace", do_isspace},
    {"isupper", do_isupper},   {"ljust", do_ljust},           {"rjust", do_rjust},
    {"swapcase", do_swapcase}, {"zfill", do_zfill},           {NULL, NULL},
};
