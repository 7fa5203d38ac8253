/* The tokens of a tag (jinja2/lexer.py defines them). */
#include "common/text/jinja/parse.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool rf_jinja_is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static char peek(const parser *p, size_t i)
{
    return (size_t)(p->end - p->at) > i ? p->at[i] : '\0';
}

static void skip_blanks(parser *p)
{
    for (; p->at < p->end && rf_jinja_is_blank(*p->at); p->at++) {
        p->job->line += *p->at == '\n';
        p->line_begins = *p->at == '\n';
    }
}

void rf_jinja_leave_tag(parser *p, char sign, bool is_print)
{
    p->line_begins = false;
    if (sign == '-') {
        skip_blanks(p);
    } else if (sign != '+' && !is_print && peek(p, 0) == '\n') {
        p->at++;
        p->job->line++;
        p->line_begins = true;
    }
}

/* 0x1F, 0o17, 0b11: the base; 0 for a number in decimal. */
static int base_of(const parser *p)
{
    const int letter = peek(p, 0) == '0' ? tolower((unsigned char)peek(p, 1)) : 0;
    return letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
}

static void set_integer(parser *p, const char *digits, int base)
{
    char *end;
    errno = 0;
    p->now = (token){.kind = T_NUMBER, .s = TEXT("a number")};
    p->now.v = rf_jinja_integer(strtoll(digits, &end, base));
    if (errno != 0 || end == digits || *end != '\0') {
        rf_jinja_fail(p->job, "a number that is too large, or not one of base %d", base);
    }
}

/* Those of a number of another base, and the underscores between them. */
static void read_digits(parser *p, int base)
{
    char digits[80];
    size_t n = 0;
    for (p->at += 2; isxdigit((unsigned char)peek(p, 0)) || peek(p, 0) == '_'; p->at++) {
        if (n + 1 == sizeof digits) {
            rf_jinja_fail(p->job, "a number of more than %zu digits", n);
        }
        digits[n] = peek(p, 0);
        n += digits[n] != '_';
    }
    digits[n] = '\0';
    set_integer(p, digits, base);
}

static void read_number(parser *p)
{
    char digits[64];
    const int base = base_of(p);
    size_t n = 0;
    bool is_real = false;
    if (base > 0) {
        read_digits(p, base);
        return;
    }
    for (; isdigit((unsigned char)peek(p, 0)) || peek(p, 0) == '_' ||
           (peek(p, 0) == '.' && isdigit((unsigned char)peek(p, 1)) && !is_real) ||
           ((peek(p, 0) == 'e' || peek(p, 0) == 'E') &&
            (isdigit((unsigned char)peek(p, 1)) || strchr("+-", peek(p, 1)) != NULL));
         p->at++) {
        char c = peek(p, 0);
        is_real = is_real || !(isdigit((unsigned char)c) || c == '_');
        if (n + 3 > sizeof digits) {
            rf_jinja_fail(p->job, "a number of more than %zu digits", sizeof digits - 3);
        }
        if (c != '_') {
            digits[n++] = c;
        }
        if (c == 'e' || c == 'E') {
            digits[n++] = *++p->at;
        }
    }
    digits[n] = '\0';
    if (!is_real) {
        set_integer(p, digits, 10);
        return;
    }
    p->now = (token){.kind = T_NUMBER, .s = TEXT("a number")};
    p->now.v = (value){.kind = REAL, .r = strtod(digits, NULL)};
}

/* \xhh, \uhhhh, \Uhhhhhhhh: n digits follow. */
static void add_code_point(parser *p, buffer *b, int n)
{
    char digits[9] = {0}, utf8[4], *end;
    for (int i = 0; i < n; i++) {
        digits[i] = peek(p, (size_t)i);
    }
    long code = strtol(digits, &end, 16);
    if (end != digits + n || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
        rf_jinja_fail(p->job, "a wrong escape in a string");
    }
    p->at += n;
    rf_jinja_add(p->job, b, (text){utf8, rf_utf8_put(utf8, (int32_t)code)});
}

static void read_string(parser *p)
{
    static const char letters[] = "ntrabfv0\\'\"", meant[] = "\n\t\r\a\b\f\v\0\\'\"";
    const char quote = *p->at++;
    buffer b = {0};
    for (; p->at < p->end && *p->at != quote;) {
        const char c = *p->at++;
        p->job->line += c == '\n';
        if (c != '\\' || p->at == p->end) {
            rf_jinja_add(p->job, &b, (text){p->at - 1, 1});
            continue;
        }
        const char escape = *p->at++, *found = escape != '\0' ? strchr(letters, escape) : NULL;
        if (found != NULL) {
            rf_jinja_add(p->job, &b, (text){meant + (found - letters), 1});
        } else if (strchr("xuU", escape) != NULL) {
            add_code_point(p, &b, escape == 'x' ? 2 : escape == 'u' ? 4 : 8);
        } else if (escape != '\n') { /* Python keeps the backslash of an unknown escape */
            rf_jinja_add(p->job, &b, (text){p->at - 2, 2});
        }
    }
    if (p->at == p->end) {
        rf_jinja_fail(p->job, "a string that does not end");
    }
    p->at++;
    p->now = (token){.kind = T_STRING, .s = rf_jinja_made(&b)};
}

void rf_jinja_advance(parser *p)
{
    skip_blanks(p);
    const char c = peek(p, 0);
    const size_t sign = c == '-' || (c == '+' && p->close == '%'); /* "-%}", "+%}" */
    if (p->at == p->end) {
        rf_jinja_fail(p->job, "a tag that is not closed");
    }
    if (p->open == 0 && peek(p, sign) == p->close && peek(p, sign + 1) == '}') {
        p->at += sign + 2;
        p->now = (token){.kind = T_END, .s = TEXT("the end of the tag")};
        rf_jinja_leave_tag(p, c, p->close == '}');
        return;
    }
    if (isdigit((unsigned char)c)) {
        read_number(p);
    } else if (c == '\'' || c == '"') {
        read_string(p);
    } else if (isalpha((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80) {
        const char *begin = p->at;
        while (isalnum((unsigned char)peek(p, 0)) || peek(p, 0) == '_' ||
               (unsigned char)peek(p, 0) >= 0x80) {
            p->at++;
        }
        p->now = (token){.kind = T_NAME, .s = {begin, (size_t)(p->at - begin)}};
    } else {
        static const char *const pairs[] = {"==", "!=", "<=", ">=", "//", "**"};
        size_t n = 1;
        for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
            n = c == pairs[i][0] && peek(p, 1) == pairs[i][1] ? 2 : n;
        }
        if (n == 1 && (c == '\0' || strchr("+-*/%~()[]{}.,:|=<>", c) == NULL)) {
            rf_jinja_fail(p->job, "unexpected character '%c'", isprint((unsigned char)c) ? c : '?');
        }
        p->open += strchr("([{", c) != NULL ? 1 : strchr(")]}", c) != NULL ? -1 : 0;
        p->now = (token){.kind = T_SIGN, .s = {p->at, n}};
        p->at += n;
    }
}

bool rf_jinja_is_sign(const parser *p, const char *sign)
{
    return p->now.kind == T_SIGN && rf_jinja_is(p->now.s, sign);
}

bool rf_jinja_is_name(const parser *p, const char *name)
{
    return p->now.kind == T_NAME && rf_jinja_is(p->now.s, name);
}

bool rf_jinja_take_sign(parser *p, const char *sign)
{
    bool is = rf_jinja_is_sign(p, sign);
    if (is) {
        rf_jinja_advance(p);
    }
    return is;
}

bool rf_jinja_take_name(parser *p, const char *name)
{
    bool is = rf_jinja_is_name(p, name);
    if (is) {
        rf_jinja_advance(p);
    }
    return is;
}

_Noreturn void rf_jinja_unexpected(parser *p, const char *wanted)
{
    rf_jinja_fail(p->job, "\"%.*s\" where %s should be", QUOTE(p->now.s), wanted);
}

void rf_jinja_expect_sign(parser *p, const char *sign)
{
    if (!rf_jinja_take_sign(p, sign)) {
        rf_jinja_unexpected(p, sign);
    }
}

text rf_jinja_expect_name(parser *p)
{
    text s = p->now.s;
    if (p->now.kind != T_NAME) {
        rf_jinja_unexpected(p, "a name");
    }
    rf_jinja_advance(p);
    return s;
}

void rf_jinja_expect_end(parser *p)
{
    if (p->now.kind != T_END) {
        rf_jinja_unexpected(p, "the end of the tag");
    }
}
