#include "data/tasks/math_answer.h"

#include "common/base/alloc.h"
#include "common/base/utf8.h"
#include "data/tasks/task_rules.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* --- Texts ------------------------------------------------------------------------------------ */

static size_t count(const char *text, const char *word)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p += strlen(word)) {
        n++;
    }
    return n;
}

/* Each `from` becomes `to`. Frees text; the caller frees the new one. */
static char *replace(char *text, const char *from, const char *to)
{
    size_t n_from = strlen(from), n_to = strlen(to), n = count(text, from);
    if (n == 0) {
        return text;
    }
    char *out = rf_alloc(strlen(text) + n * n_to + 1, 1), *at = out;
    const char *p = text, *next;
    for (; (next = strstr(p, from)) != NULL; p = next + n_from) {
        at = mempcpy(at, p, (size_t)(next - p));
        at = mempcpy(at, to, n_to);
    }
    strcpy(at, p);
    free(text);
    return out;
}

typedef struct substitution {
    const char *from, *to;
} substitution;

static char *replace_all(char *text, const substitution *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        text = replace(text, list[i].from, list[i].to);
    }
    return text;
}

/* text becomes its part [begin, begin + bytes). */
static char *keep(char *text, const char *begin, size_t bytes)
{
    char *out = rf_alloc_copy(begin, bytes);
    free(text);
    return out;
}

/* Bytes of the character at p, of a text that need not be UTF-8; 0 at its end. */
static size_t character(const char *p)
{
    size_t bytes = *p != '\0';
    while (bytes > 0 && rf_utf8_continues(p[bytes])) {
        bytes++;
    }
    return bytes;
}

/* text, "{", the character at *p, "}"; moves *p behind it. Returns the end of the text. */
static char *put_braced(char *text, const char **p)
{
    size_t bytes = character(*p);
    *text++ = '{';
    text = mempcpy(text, *p, bytes);
    *text++ = '}';
    *p += bytes;
    return text;
}

/* --- Where the answer stands ------------------------------------------------------------------ */

static const char *last(const char *text, const char *word)
{
    const char *found = NULL;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++) {
        found = p;
    }
    return found;
}

/* The content of the braces that open at `brace`; NULL: they never close. */
static char *braced(const char *brace)
{
    int depth = 0;
    for (const char *p = brace; *p != '\0'; p++) {
        depth += (*p == '{') - (*p == '}');
        if (depth == 0) {
            return rf_alloc_copy(brace + 1, (size_t)(p - brace - 1));
        }
    }
    return NULL;
}

static char *boxed(const char *solution)
{
    static const char *const words[] = {"\\boxed", "\\fbox"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const char *box = last(solution, words[i]);
        if (box == NULL) {
            continue;
        }
        box += strlen(words[i]);
        const char *content = box + strspn(box, " ");
        return *content == '{' ? braced(content)
               : content > box ? rf_alloc_copy(content, strcspn(content, "$"))
                               : NULL;
    }
    return NULL;
}

/* Bytes of the formula "$...$" that p, of n bytes, begins with; 0: none, as where "$" is of money. */
static size_t formula(const char *p, size_t n)
{
    if (n < 2 || p[0] != '$') {
        return 0;
    }
    size_t end = 1;
    while (end < n && p[end] != '$') {
        end += p[end] == '\\' ? 2 : 1;
    }
    const bool is_closed = end > 1 && end < n && (p[end - 1] != ' ' || p[1] == ' ') &&
                           !isdigit((unsigned char)p[end + 1]);
    return is_closed ? end + 1 : 0;
}

/* Bytes before the first ". " of a line that is in no formula and no brackets; where those do not
 * close, before the first in them. */
static size_t sentence(const char *p, size_t n)
{
    size_t first = n;
    int depth = 0;
    for (size_t i = 0; i < n; i++) {
        const bool is_escaped = i > 0 && p[i - 1] == '\\';
        const size_t skipped = is_escaped ? 0 : formula(p + i, n - i);
        if (skipped > 0) {
            i += skipped - 1;
            continue;
        }
        depth += memchr("([{", p[i], 3) != NULL;
        depth -= depth > 0 && memchr(")]}", p[i], 3) != NULL;
        if (p[i] == '.' && i + 1 < n && p[i + 1] == ' ') {
            if (depth == 0) {
                return i;
            }
            first = i < first ? i : first;
        }
    }
    return depth > 0 ? first : n;
}

/* "The final answer is $5$. I hope it is correct.": 5. The benchmark asks for the words behind it:
 * they end it even where a sentence seems to end earlier. */
static char *stated(const char *solution)
{
    static const char hope[] = ". I hope it is correct";
    const char *p = last(solution, "nswer is");
    if (p == NULL) {
        return NULL;
    }
    p += strlen("nswer is");
    p += strspn(p, ": ");
    size_t n = strcspn(p, "\n");
    const char *end = memmem(p, n, hope, strlen(hope));
    n = end != NULL ? (size_t)(end - p) : sentence(p, n);
    while (n > 0 && strchr(". \r", p[n - 1]) != NULL) {
        n--;
    }
    if (n > 2 && p[0] == '$' && p[n - 1] == '$') {
        p++;
        n -= 2;
    }
    return n > 0 ? rf_alloc_copy(p, n) : NULL;
}

char *rf_math_find(const char *solution)
{
    char *answer = boxed(solution);
    return answer != NULL ? answer : stated(solution);
}

/* --- The benchmark's normal form -------------------------------------------------------------- */

/* \sqrt3 is \sqrt{3}. NULL: nothing follows. Frees text. */
static char *brace_roots(char *text)
{
    static const char root[] = "\\sqrt";
    char *out = rf_alloc(strlen(text) * 2 + 1, 1), *at = out;
    const char *p = text;
    for (const char *next; (next = strstr(p, root)) != NULL;) {
        at = mempcpy(at, p, (size_t)(next - p) + strlen(root));
        p = next + strlen(root);
        if (*p == '\0' || strncmp(p, root, strlen(root)) == 0) {
            free(out);
            free(text);
            return NULL;
        }
        if (*p != '{') {
            at = put_braced(at, &p);
        }
    }
    strcpy(at, p);
    free(text);
    return out;
}

/* \frac12, \frac1{72} get the braces that they lack, unless one of several has a single sign behind
 * it. NULL: nothing follows. Frees text. */
static char *brace_fractions(char *text)
{
    static const char fraction[] = "\\frac";
    char *out = rf_alloc(strlen(text) * 2 + 1, 1), *at = out;
    const char *p = text;
    for (const char *next; (next = strstr(p, fraction)) != NULL;) {
        at = mempcpy(at, p, (size_t)(next - p) + strlen(fraction));
        p = next + strlen(fraction);
        const char *end = strstr(p, fraction);
        size_t n = end != NULL ? (size_t)(end - p) : strlen(p);
        if (n == 0) {
            free(out);
            free(text);
            return NULL;
        }
        if (*p == '{') {
            continue;
        }
        if (n <= character(p)) {
            free(out);
            return text;
        }
        at = put_braced(at, &p);
        if (*p != '{') {
            at = put_braced(at, &p);
        }
    }
    strcpy(at, p);
    free(text);
    return out;
}

/* Bytes of a whole number as it is printed: no plus, no leading zeros. 0: none is there. */
static size_t whole_number(const char *text)
{
    size_t sign = text[0] == '-', n = strspn(text + sign, "0123456789");
    bool is_plain = n > 0 && (text[sign] != '0' || (n == 1 && sign == 0));
    return is_plain ? sign + n : 0;
}

/* 3/4 is \frac{3}{4}, where there is nothing else. */
static char *slash_to_fraction(char *text)
{
    size_t a = whole_number(text);
    size_t b = a > 0 && text[a] == '/' ? whole_number(text + a + 1) : 0;
    if (b == 0 || text[a + 1 + b] != '\0') {
        return text;
    }
    char *out = rf_alloc_format("\\frac{%.*s}{%.*s}", (int)a, text, (int)b, text + a + 1);
    free(text);
    return out;
}

/* "x = 5" is "5", where what stands before the only sign of equality is short. Counted in
 * characters. */
static char *drop_name(char *text)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL || strchr(equals + 1, '=') != NULL ||
        rf_utf8_count(text, (size_t)(equals - text)) > 2) {
        return text;
    }
    return keep(text, equals + 1, strlen(equals + 1));
}

char *rf_math_normal_hendrycks(const char *answer)
{
    static const substitution first[] = {
        {"\n", ""},     {"\\!", ""},     {"\\\\", "\\"},    {"tfrac", "frac"}, {"dfrac", "frac"},
        {"\\left", ""}, {"\\right", ""}, {"^{\\circ}", ""}, {"^\\circ", ""},   {"\\$", ""}};
    static const substitution second[] = {{"\\%", ""}, {" .", " 0."}, {"{.", "{0."}};
    char *text = replace_all(rf_alloc_string(answer), first, sizeof first / sizeof *first);
    char *unit = strstr(text, "\\text{ "); /* begins a unit */
    if (unit != NULL && strstr(unit + 1, "\\text{ ") != NULL) {
        free(text);
        return NULL;
    }
    if (unit != NULL) {
        *unit = '\0';
    }
    text = replace_all(text, second, sizeof second / sizeof *second);
    if (text[0] == '.') {
        char *longer = rf_alloc_format("0%s", text);
        free(text);
        text = longer;
    }
    if (text[0] == '\0') {
        return text;
    }
    text = brace_roots(drop_name(text));
    text = text != NULL ? brace_fractions(replace(text, " ", "")) : NULL;
    if (text != NULL && strcmp(text, "0.5") == 0) {
        free(text);
        text = rf_alloc_string("\\frac{1}{2}");
    }
    return text != NULL ? slash_to_fraction(text) : NULL;
}

/* --- Minerva's normal form -------------------------------------------------------------------- */

/* \name{x} becomes x, up to the first '}', or where `widest` is set up to the last. */
static char *unwrap(char *text, const char *name, bool widest)
{
    char *from = text, *begin;
    while ((begin = strstr(from, name)) != NULL) {
        char *inner = begin + strlen(name);
        char *end = widest ? strrchr(inner, '}') : strchr(inner, '}');
        if (end == NULL) {
            break;
        }
        memmove(end, end + 1, strlen(end + 1) + 1);
        memmove(begin, inner, strlen(inner) + 1);
        from = begin + (end - inner);
    }
    return text;
}

/* "it is $5$ then" becomes "$5$". */
static char *keep_formula(char *text)
{
    char *begin = strchr(text, '$');
    char *end = begin != NULL ? strchr(begin + 1, '$') : NULL;
    return end != NULL ? keep(text, begin, (size_t)(end + 1 - begin)) : text;
}

/* "frac12" becomes "frac{1}{2}", "sqrt3" becomes "sqrt{3}": n operands (1 or 2) of one character. */
static char *brace_operands(char *text, const char *name, int n)
{
    char *out = rf_alloc(strlen(text) * 3 + 1, 1), *at = out;
    const char *p = text;
    for (const char *next; (next = strstr(p, name)) != NULL;) {
        at = mempcpy(at, p, (size_t)(next - p) + strlen(name));
        p = next + strlen(name);
        size_t first = character(p), second = character(p + first);
        if (*p == '{' || first == 0 || (n > 1 && second == 0)) {
            continue;
        }
        for (int i = 0; i < n; i++) {
            at = put_braced(at, &p);
        }
    }
    strcpy(at, p);
    free(text);
    return out;
}

char *rf_math_normal_minerva(const char *answer)
{
    static const substitution list[] = {{"\n", ""},
                                        {"an ", ""},
                                        {"a ", ""},
                                        {".$", "$"},
                                        {"\\$", ""},
                                        {"\\ ", ""},
                                        {" ", ""},
                                        {"mbox", "text"},
                                        {",\\text{and}", ","},
                                        {"\\text{and}", ","},
                                        {"\\text{m}", "\\text{}"}};
    static const char *const removed[] = {"square",       "ways",
                                          "integers",     "dollars",
                                          "mph",          "inches",
                                          "ft",           "hours",
                                          "km",           "units",
                                          "\\ldots",      "sue",
                                          "points",       "feet",
                                          "minutes",      "digits",
                                          "cents",        "degrees",
                                          "cm",           "gm",
                                          "pounds",       "meters",
                                          "meals",        "edges",
                                          "students",     "childrentickets",
                                          "multiples",    "\\text{s}",
                                          "\\text{.}",    "\\text{}^2",
                                          "\\text{}^3",   "\\text{}",
                                          "\\mathrm{th}", "^\\circ",
                                          "^{\\circ}",    "\\;",
                                          ",\\!",         "{,}",
                                          "\"",           "\\dots"};
    const char *equals = strrchr(answer, '=');
    char *text = rf_alloc_string(equals != NULL ? equals + 1 : answer);
    text = replace_all(text, list, sizeof list / sizeof *list);
    for (size_t i = 0; i < sizeof removed / sizeof removed[0]; i++) {
        text = replace(text, removed[i], "");
    }
    text = keep_formula(text);
    text = unwrap(text, "\\text{", false);
    text = unwrap(text, "\\textbf{", false);
    text = unwrap(text, "\\overline{", false);
    text = unwrap(text, "\\boxed{", true);
    text = brace_operands(text, "frac", 2);
    text = brace_operands(text, "sqrt", 1);
    text = replace(text, "$", "");
    if (strspn(text, "0123456789,") == strlen(text) && strspn(text, ",") != strlen(text)) {
        text = replace(text, ",", "");
    }
    return text;
}

/* --- Comparison ------------------------------------------------------------------------------- */

bool rf_math_same(const char *a, const char *b)
{
    if (strcmp(a, b) == 0 ||
        rf_task_same(rf_math_normal_hendrycks(a), rf_math_normal_hendrycks(b))) {
        return true;
    }
    char *x = rf_math_normal_minerva(a), *y = rf_math_normal_minerva(b);
    bool is_something = x[0] != '\0';
    return rf_task_same(x, y) && is_something;
}
