/* Templates to trees: Jinja's lexer and parser (jinja2/lexer.py and parser.py define the language). */
#include "common/text/jinja/jinja_private.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* --- Tokens of a tag ---------------------------------------------------------------------------- */

typedef enum token_kind {
    T_END, /* of the tag */
    T_NAME,
    T_NUMBER,
    T_STRING,
    T_SIGN /* one or two characters */
} token_kind;

typedef struct token {
    token_kind kind;
    text s;  /* as written; of a string its value */
    value v; /* of a number */
} token;

typedef struct parser {
    job *job;
    const char *at, *end;
    char close; /* '}' or '%': the tag that is being read; its end is "}}" or "%}" */
    int open;   /* brackets in it that are not closed yet */
    token now;
    bool line_begins; /* nothing but blanks can stand before `at` on its line */
} parser;

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static char peek(const parser *p, size_t i)
{
    return (size_t)(p->end - p->at) > i ? p->at[i] : '\0';
}

static void skip_blanks(parser *p)
{
    for (; p->at < p->end && is_blank(*p->at); p->at++) {
        p->job->line += *p->at == '\n';
        p->line_begins = *p->at == '\n';
    }
}

/* Behind the end of a tag, in front of which stood `sign`: "-" takes all blanks, and a statement or
 * a comment without "+" the end of its line. */
static void leave_tag(parser *p, char sign, bool is_print)
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

static void read_number(parser *p)
{
    char digits[64];
    size_t n = 0;
    bool is_real = false;
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
    p->now = (token){.kind = T_NUMBER, .s = TEXT("a number")};
    p->now.v = is_real ? (value){.kind = REAL, .r = strtod(digits, NULL)}
                       : rf_jinja_integer(strtoll(digits, NULL, 10));
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

static void advance(parser *p)
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
        leave_tag(p, c, p->close == '}');
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

static bool is_sign(const parser *p, const char *sign)
{
    return p->now.kind == T_SIGN && rf_jinja_is(p->now.s, sign);
}

static bool is_name(const parser *p, const char *name)
{
    return p->now.kind == T_NAME && rf_jinja_is(p->now.s, name);
}

static bool take_sign(parser *p, const char *sign)
{
    bool is = is_sign(p, sign);
    if (is) {
        advance(p);
    }
    return is;
}

static bool take_name(parser *p, const char *name)
{
    bool is = is_name(p, name);
    if (is) {
        advance(p);
    }
    return is;
}

_Noreturn static void unexpected(parser *p, const char *wanted)
{
    rf_jinja_fail(p->job, "\"%.*s\" where %s should be", (int)(p->now.s.n < 60 ? p->now.s.n : 60),
                  p->now.s.at, wanted);
}

static void expect_sign(parser *p, const char *sign)
{
    if (!take_sign(p, sign)) {
        unexpected(p, sign);
    }
}

static text expect_name(parser *p)
{
    text s = p->now.s;
    if (p->now.kind != T_NAME) {
        unexpected(p, "a name");
    }
    advance(p);
    return s;
}

static void expect_end(parser *p)
{
    if (p->now.kind != T_END) {
        unexpected(p, "the end of the tag");
    }
}

/* --- Expressions -------------------------------------------------------------------------------- */

static node *new_node(parser *p, node_kind syntax, node *a, node *b)
{
    node *n = rf_jinja_take(p->job, sizeof *n);
    *n = (node){.syntax = syntax, .line = p->job->line, .kid = {a, b}};
    return n;
}

static node *new_name(parser *p, text s)
{
    node *n = new_node(p, E_NAME, NULL, NULL);
    n->s = s;
    return n;
}

static node *new_operation(parser *p, node_kind syntax, int op, node *a, node *b)
{
    node *n = new_node(p, syntax, a, b);
    n->op = op;
    return n;
}

static node *new_constant(parser *p, value v)
{
    node *n = new_node(p, E_CONSTANT, NULL, NULL);
    n->constant = v;
    return n;
}

static node *parse_expression(parser *p);
static node *parse_unary(parser *p, bool with_filter);

/* Expressions between commas up to `close`, linked; where `named` with "name=" or "*" in front. */
static node *parse_list(parser *p, const char *close, bool named)
{
    node *first = NULL, **last = &first;
    while (!take_sign(p, close)) {
        const bool is_spread = named && take_sign(p, "*");
        node *n = parse_expression(p);
        if (is_spread) {
            n->argument = TEXT("*");
        } else if (named && n->syntax == E_NAME && take_sign(p, "=")) {
            text s = n->s;
            n = parse_expression(p);
            n->argument = s;
        }
        *last = n;
        last = &n->next;
        if (!is_sign(p, close)) {
            expect_sign(p, ",");
        }
    }
    return first;
}

static node *parse_dict(parser *p)
{
    node *first = NULL, **last = &first;
    while (!take_sign(p, "}")) {
        node *key = parse_expression(p);
        expect_sign(p, ":");
        key->next = parse_expression(p);
        *last = key;
        last = &key->next->next;
        if (!is_sign(p, "}")) {
            expect_sign(p, ",");
        }
    }
    return new_node(p, E_DICT, first, NULL);
}

/* a, b, ...: a tuple where there is a comma. */
static node *parse_tuple(parser *p)
{
    node *first = parse_expression(p), *last = first;
    if (!is_sign(p, ",")) {
        return first;
    }
    while (take_sign(p, ",") && p->now.kind != T_END && !is_sign(p, ")")) {
        last->next = parse_expression(p);
        last = last->next;
    }
    return new_operation(p, E_LIST, true, first, NULL);
}

static node *parse_primary(parser *p)
{
    const token t = p->now;
    node *n;
    if (t.kind == T_NAME) {
        advance(p);
        if (rf_jinja_is(t.s, "true") || rf_jinja_is(t.s, "True")) {
            return new_constant(p, rf_jinja_boolean(true));
        }
        if (rf_jinja_is(t.s, "false") || rf_jinja_is(t.s, "False")) {
            return new_constant(p, rf_jinja_boolean(false));
        }
        if (rf_jinja_is(t.s, "none") || rf_jinja_is(t.s, "None")) {
            return new_constant(p, (value){.kind = NONE});
        }
        return new_name(p, t.s);
    }
    if (t.kind == T_NUMBER) {
        advance(p);
        return new_constant(p, t.v);
    }
    if (t.kind == T_STRING) { /* strings that follow one another are one */
        buffer b = {0};
        for (; p->now.kind == T_STRING; advance(p)) {
            rf_jinja_add(p->job, &b, p->now.s);
        }
        return new_constant(p, rf_jinja_string(rf_jinja_made(&b)));
    }
    if (take_sign(p, "(")) {
        if (take_sign(p, ")")) {
            return new_operation(p, E_LIST, true, NULL, NULL);
        }
        n = parse_tuple(p);
        expect_sign(p, ")");
        return n;
    }
    if (take_sign(p, "[")) {
        return new_node(p, E_LIST, parse_list(p, "]", false), NULL);
    }
    if (take_sign(p, "{")) {
        return parse_dict(p);
    }
    unexpected(p, "an expression");
}

/* What stands in brackets behind an object: a key, or begin:end:step. */
static node *parse_subscript(parser *p, node *object)
{
    node *part[3] = {NULL, NULL, NULL};
    int n = 0;
    for (; !is_sign(p, "]") && n < 3; n += take_sign(p, ":")) {
        if (is_sign(p, ":")) {
            continue;
        }
        if (part[n] != NULL) {
            unexpected(p, "]");
        }
        part[n] = parse_expression(p);
    }
    expect_sign(p, "]");
    if (n == 0) {
        if (part[0] == NULL) {
            rf_jinja_fail(p->job, "an index that is empty");
        }
        return new_node(p, E_ELEMENT, object, part[0]);
    }
    node *slice = new_node(p, E_SLICE, object, part[0]);
    slice->kid[2] = part[1];
    slice->kid[3] = part[2];
    return slice;
}

static node *parse_call(parser *p, node *callee)
{
    return new_node(p, E_CALL, callee, parse_list(p, ")", true));
}

static node *parse_postfix(parser *p, node *n)
{
    for (;;) {
        if (take_sign(p, ".")) {
            if (p->now.kind == T_NUMBER) {
                n = new_node(p, E_ELEMENT, n, new_constant(p, p->now.v));
                advance(p);
            } else {
                n = new_node(p, E_ATTRIBUTE, n, NULL);
                n->s = expect_name(p);
            }
        } else if (take_sign(p, "[")) {
            n = parse_subscript(p, n);
        } else if (take_sign(p, "(")) {
            n = parse_call(p, n);
        } else {
            return n;
        }
    }
}

static node *parse_test(parser *p, node *operand)
{
    const bool is_not = take_name(p, "not");
    node *n = new_node(p, E_TEST, operand, NULL);
    n->s = expect_name(p);
    if (rf_jinja_test(n->s) == NULL) {
        rf_jinja_fail(p->job, "the test \"%.*s\" is not known", (int)n->s.n, n->s.at);
    }
    if (take_sign(p, "(")) {
        n->kid[1] = parse_list(p, ")", true);
    } else if (p->now.kind == T_STRING || p->now.kind == T_NUMBER || is_sign(p, "[") ||
               is_sign(p, "{") ||
               (p->now.kind == T_NAME && !is_name(p, "else") && !is_name(p, "or") &&
                !is_name(p, "and") && !is_name(p, "if") && !is_name(p, "is"))) {
        n->kid[1] = parse_postfix(p, parse_primary(p));
    }
    return is_not ? new_node(p, E_NOT, n, NULL) : n;
}

static node *parse_filter(parser *p, node *operand)
{
    node *n = new_node(p, E_FILTER, operand, NULL);
    n->s = expect_name(p);
    if (rf_jinja_filter(n->s) == NULL) {
        rf_jinja_fail(p->job, "the filter \"%.*s\" is not known", (int)n->s.n, n->s.at);
    }
    if (take_sign(p, "(")) {
        n->kid[1] = parse_list(p, ")", true);
    }
    return n;
}

static node *parse_filters(parser *p, node *n)
{
    for (;;) {
        if (take_sign(p, "|")) {
            n = parse_filter(p, n);
        } else if (take_name(p, "is")) {
            n = parse_test(p, n);
        } else if (take_sign(p, "(")) {
            n = parse_call(p, n);
        } else {
            return n;
        }
    }
}

static node *parse_unary(parser *p, bool with_filter)
{
    node *n;
    rf_jinja_enter(p->job);
    if (take_sign(p, "-")) {
        n = new_node(p, E_NEGATE, parse_unary(p, false), NULL);
    } else if (take_sign(p, "+")) {
        n = parse_unary(p, false);
    } else {
        n = parse_postfix(p, parse_primary(p));
    }
    n = with_filter ? parse_filters(p, n) : n;
    p->job->depth--;
    return n;
}

/* Operators of two sides, the weakest first; those of a level are taken from the left. */
static node *parse_binary(parser *p, int level)
{
    static const struct {
        const char *sign[4];
        char op[4];
    } levels[] = {{{"+", "-"}, {'+', '-'}},
                  {{"~"}, {'~'}},
                  {{"*", "/", "//", "%"}, {'*', '/', 'F', '%'}},
                  {{"**"}, {'P'}}};
    if (level == (int)(sizeof levels / sizeof *levels)) {
        return parse_unary(p, true);
    }
    node *n = parse_binary(p, level + 1);
    for (int i = 0; i < 4;) {
        const char *sign = levels[level].sign[i];
        if (sign != NULL && take_sign(p, sign)) {
            n = new_operation(p, E_BINARY, levels[level].op[i], n, parse_binary(p, level + 1));
            i = 0;
        } else {
            i++;
        }
    }
    return n;
}

static int comparison(parser *p)
{
    static const char *const signs[] = {"==", "!=", "<", ">", "<=", ">="};
    for (int i = 0; i < 6; i++) {
        if (take_sign(p, signs[i])) {
            return "=!<>lg"[i];
        }
    }
    if (take_name(p, "in")) {
        return 'i';
    }
    if (!is_name(p, "not")) {
        return 0;
    }
    const parser before = *p;
    advance(p);
    if (take_name(p, "in")) {
        return 'n';
    }
    *p = before;
    return 0;
}

/* a < b < c is a < b and b < c. */
static node *parse_compare(parser *p)
{
    node *left = parse_binary(p, 0), *all = NULL;
    for (int op; (op = comparison(p)) != 0;) {
        node *right = parse_binary(p, 0), *one = new_operation(p, E_COMPARE, op, left, right);
        all = all != NULL ? new_node(p, E_AND, all, one) : one;
        left = right;
    }
    return all != NULL ? all : left;
}

static node *parse_not(parser *p)
{
    if (!take_name(p, "not")) {
        return parse_compare(p);
    }
    rf_jinja_enter(p->job);
    node *n = new_node(p, E_NOT, parse_not(p), NULL);
    p->job->depth--;
    return n;
}

static node *parse_and(parser *p)
{
    node *n = parse_not(p);
    while (take_name(p, "and")) {
        n = new_node(p, E_AND, n, parse_not(p));
    }
    return n;
}

static node *parse_or(parser *p)
{
    node *n = parse_and(p);
    while (take_name(p, "or")) {
        n = new_node(p, E_OR, n, parse_and(p));
    }
    return n;
}

static node *parse_expression(parser *p)
{
    rf_jinja_enter(p->job);
    node *n = parse_or(p);
    while (take_name(p, "if")) {
        n = new_node(p, E_IF, parse_or(p), n);
        n->kid[2] = take_name(p, "else") ? parse_expression(p) : NULL;
    }
    p->job->depth--;
    return n;
}

/* --- Statements --------------------------------------------------------------------------------- */

/* Statements up to a tag that begins with one of the words `stop`, which is then p->now. */
static node *parse_statements(parser *p, const char *const *stop);

static void end_statements(parser *p, const char *word)
{
    if (!take_name(p, word)) {
        unexpected(p, word);
    }
    expect_end(p);
}

static node *parse_body(parser *p, const char *end)
{
    const char *const stop[] = {end, NULL};
    expect_end(p);
    node *body = parse_statements(p, stop);
    end_statements(p, end);
    return body;
}

static node *parse_if(parser *p)
{
    static const char *const stop[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif",
                                                                                       NULL};
    node *first = new_node(p, S_IF, parse_tuple(p), NULL), *n = first;
    for (;;) {
        expect_end(p);
        n->kid[1] = parse_statements(p, stop);
        if (take_name(p, "elif")) {
            n->kid[2] = new_node(p, S_IF, parse_tuple(p), NULL);
            n = n->kid[2];
            continue;
        }
        if (take_name(p, "else")) {
            expect_end(p);
            n->kid[2] = parse_statements(p, end);
        }
        end_statements(p, "endif");
        return first;
    }
}

/* A name, names between commas, or name.field. */
static node *parse_target(parser *p)
{
    node *first = NULL, **last = &first;
    do {
        bool in_brackets = take_sign(p, "(");
        node *n = in_brackets ? parse_target(p) : new_name(p, expect_name(p));
        if (in_brackets) {
            expect_sign(p, ")");
        } else if (take_sign(p, ".")) {
            n = new_node(p, E_ATTRIBUTE, n, NULL);
            n->s = expect_name(p);
        }
        *last = n;
        last = &n->next;
    } while (take_sign(p, ",") && p->now.kind == T_NAME && !is_name(p, "in"));
    return first->next != NULL ? new_operation(p, E_LIST, true, first, NULL) : first;
}

static node *parse_for(parser *p)
{
    static const char *const stop[] = {"else", "endfor", NULL}, *const end[] = {"endfor", NULL};
    node *n = new_node(p, S_FOR, parse_target(p), NULL);
    if (!take_name(p, "in")) {
        unexpected(p, "in");
    }
    n->kid[1] = parse_or(p); /* an "if" behind it is a condition on the elements */
    n->kid[4] = take_name(p, "if") ? parse_expression(p) : NULL;
    if (is_name(p, "recursive")) {
        rf_jinja_fail(p->job, "recursive loops are not supported");
    }
    expect_end(p);
    n->kid[2] = parse_statements(p, stop);
    if (take_name(p, "else")) {
        expect_end(p);
        n->kid[3] = parse_statements(p, end);
    }
    end_statements(p, "endfor");
    return n;
}

static node *parse_set(parser *p)
{
    node *target = parse_target(p);
    if (take_sign(p, "=")) {
        return new_node(p, S_SET, target, parse_tuple(p));
    }
    node *n = new_node(p, S_CAPTURE, target, NULL);
    n->kid[2] = parse_filters(p, new_name(p, TEXT("")));
    n->kid[1] = parse_body(p, "endset");
    return n;
}

static node *parse_parameters(parser *p)
{
    node *first = NULL, **last = &first;
    expect_sign(p, "(");
    while (!take_sign(p, ")")) {
        node *n = new_name(p, expect_name(p));
        n->kid[0] = take_sign(p, "=") ? parse_expression(p) : NULL;
        *last = n;
        last = &n->next;
        if (!is_sign(p, ")")) {
            expect_sign(p, ",");
        }
    }
    return first;
}

static node *parse_macro(parser *p)
{
    node *n = new_node(p, S_MACRO, NULL, NULL);
    n->s = expect_name(p);
    n->kid[0] = parse_parameters(p);
    n->kid[1] = parse_body(p, "endmacro");
    return n;
}

static node *parse_call_block(parser *p)
{
    node *n = new_node(p, S_CALL, NULL, NULL);
    n->kid[0] = is_sign(p, "(") ? parse_parameters(p) : NULL;
    n->kid[1] = parse_unary(p, true);
    if (n->kid[1]->syntax != E_CALL) {
        rf_jinja_fail(p->job, "call needs a call of a macro");
    }
    n->kid[2] = parse_body(p, "endcall");
    return n;
}

/* {% filter upper %}...: the text printed is what the filters make of the body. */
static node *parse_filter_block(parser *p)
{
    node *n = new_node(p, S_CAPTURE, NULL, NULL);
    n->kid[2] = parse_filters(p, parse_filter(p, new_name(p, TEXT(""))));
    n->kid[1] = parse_body(p, "endfilter");
    return n;
}

static node *parse_with(parser *p)
{
    node *first = NULL, **last = &first;
    while (p->now.kind != T_END) {
        node *target = parse_target(p);
        expect_sign(p, "=");
        *last = new_node(p, S_SET, target, parse_expression(p));
        last = &(*last)->next;
        if (p->now.kind != T_END) {
            expect_sign(p, ",");
        }
    }
    return new_node(p, S_SCOPE, first, parse_body(p, "endwith"));
}

static node *new_text(parser *p, const char *begin, const char *end)
{
    node *n = new_node(p, S_TEXT, NULL, NULL);
    n->s = (text){begin, (size_t)(end - begin)};
    return n;
}

/* A tag "{", sign, blanks, word, blanks, sign, "}" at `at`; NULL: another one. */
static const char *match_raw_end(const char *at, const char *end, char *before, char *behind)
{
    static const char word[] = "endraw";
    at += 2;
    *before = at < end ? *at : ' ';
    at += at < end && (*at == '-' || *at == '+');
    while (at < end && is_blank(*at)) {
        at++;
    }
    if ((size_t)(end - at) < sizeof word - 1 || memcmp(at, word, sizeof word - 1) != 0) {
        return NULL;
    }
    at += sizeof word - 1;
    while (at < end && is_blank(*at)) {
        at++;
    }
    *behind = at < end ? *at : ' ';
    at += at < end && (*at == '-' || *at == '+');
    return end - at >= 2 && at[0] == '%' && at[1] == '}' ? at + 2 : NULL;
}

/* The text in front of a tag: "-" strips it; a statement or a comment that has its line to itself
 * takes the blanks in front of it (lstrip_blocks). */
static const char *cut_before(const char *begin, const char *tag, char kind, char sign,
                              bool line_begins)
{
    const char *blank = tag;
    if (sign == '-') {
        while (blank > begin && is_blank(blank[-1])) {
            blank--;
        }
        return blank;
    }
    if (sign == '+' || kind == '{') {
        return tag;
    }
    while (blank > begin && blank[-1] != '\n' && is_blank(blank[-1])) {
        blank--;
    }
    return (blank == begin ? line_begins : blank[-1] == '\n') ? blank : tag;
}

static node *parse_raw(parser *p)
{
    expect_end(p);
    const char *begin = p->at, *tag = begin;
    const bool line_begins = p->line_begins;
    for (; (tag = memmem(tag, (size_t)(p->end - tag), "{%", 2)) != NULL; tag += 2) {
        char before, behind;
        const char *next = match_raw_end(tag, p->end, &before, &behind);
        if (next != NULL) {
            const char *stop = cut_before(begin, tag, '%', before, line_begins);
            p->at = next;
            leave_tag(p, behind, false);
            return new_text(p, begin, stop);
        }
    }
    rf_jinja_fail(p->job, "raw without endraw");
}

static node *parse_statement(parser *p)
{
    if (take_name(p, "if")) {
        return parse_if(p);
    }
    if (take_name(p, "for")) {
        return parse_for(p);
    }
    if (take_name(p, "set")) {
        return parse_set(p);
    }
    if (take_name(p, "macro")) {
        return parse_macro(p);
    }
    if (take_name(p, "call")) {
        return parse_call_block(p);
    }
    if (take_name(p, "filter")) {
        return parse_filter_block(p);
    }
    if (take_name(p, "with")) {
        return parse_with(p);
    }
    if (take_name(p, "generation")) { /* marks what the assistant says, for training */
        return new_node(p, S_SCOPE, NULL, parse_body(p, "endgeneration"));
    }
    if (take_name(p, "raw")) {
        return parse_raw(p);
    }
    if (is_name(p, "break") || is_name(p, "continue")) {
        node *n = new_node(p, is_name(p, "break") ? S_BREAK : S_CONTINUE, NULL, NULL);
        advance(p);
        return n;
    }
    rf_jinja_fail(p->job, "the statement \"%.*s\" is not supported",
                  (int)(p->now.s.n < 60 ? p->now.s.n : 60), p->now.s.at);
}

static void skip_comment(parser *p)
{
    const char *end = memmem(p->at, (size_t)(p->end - p->at), "#}", 2);
    if (end == NULL) {
        rf_jinja_fail(p->job, "a comment that does not end");
    }
    const char sign = end > p->at ? end[-1] : ' ';
    for (; p->at < end; p->at++) {
        p->job->line += *p->at == '\n';
    }
    p->at += 2;
    leave_tag(p, sign, false);
}

static const char *find_tag(const parser *p)
{
    const char *tag = p->at;
    while (tag < p->end && (tag = memchr(tag, '{', (size_t)(p->end - tag))) != NULL) {
        if (tag + 1 < p->end && strchr("{%#", tag[1]) != NULL && tag[1] != '\0') {
            return tag;
        }
        tag++;
    }
    return NULL;
}

static node *parse_statements(parser *p, const char *const *stop)
{
    node *first = NULL, **last = &first;
    rf_jinja_enter(p->job);
    for (;;) {
        const char *tag = find_tag(p), *begin = p->at;
        const char kind = tag != NULL ? tag[1] : '\0';
        const char sign = tag != NULL && tag + 2 < p->end ? tag[2] : ' ';
        const char *end = tag != NULL ? cut_before(begin, tag, kind, sign, p->line_begins) : p->end;
        if (end > begin) {
            *last = new_text(p, begin, end);
            last = &(*last)->next;
        }
        for (; p->at < (tag != NULL ? tag : p->end); p->at++) {
            p->job->line += *p->at == '\n';
        }
        if (tag == NULL) {
            if (stop != NULL) {
                rf_jinja_fail(p->job, "\"%s\" is missing", stop[0]);
            }
            break;
        }
        p->at += 2 + (sign == '-' || (sign == '+' && kind != '{'));
        p->line_begins = false;
        if (kind == '#') {
            skip_comment(p);
            continue;
        }
        p->close = kind == '{' ? '}' : '%';
        p->open = 0;
        advance(p);
        if (kind == '{') {
            *last = new_node(p, S_PRINT, parse_tuple(p), NULL);
        } else {
            int i = 0;
            while (stop != NULL && stop[i] != NULL && !is_name(p, stop[i])) {
                i++;
            }
            if (stop != NULL && stop[i] != NULL) {
                break;
            }
            *last = parse_statement(p);
        }
        expect_end(p);
        last = &(*last)->next;
    }
    p->job->depth--;
    return first;
}

node *rf_jinja_read(job *j, text source)
{
    /* Line ends are "\n", and one at the end of the template is none of its text. */
    char *copy = rf_jinja_take(j, source.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < source.n; i++) {
        if (source.at[i] == '\r' && i + 1 < source.n && source.at[i + 1] == '\n') {
            continue;
        }
        copy[n++] = source.at[i] == '\r' ? '\n' : source.at[i];
    }
    n -= n > 0 && copy[n - 1] == '\n';
    parser p = {.job = j, .at = copy, .end = copy + n, .line_begins = true};
    j->line = 1;
    return parse_statements(&p, NULL);
}
