/* Expressions to trees (jinja2/parser.py defines the language). */
#include "common/text/jinja/parse.h"

node *rf_jinja_new_node(parser *p, node_kind syntax, node *a, node *b)
{
    node *n = rf_jinja_take(p->job, sizeof *n);
    *n = (node){.syntax = syntax, .line = p->job->line, .kid = {a, b}};
    return n;
}

node *rf_jinja_new_name(parser *p, text s)
{
    node *n = rf_jinja_new_node(p, E_NAME, NULL, NULL);
    n->s = s;
    return n;
}

node *rf_jinja_new_operation(parser *p, node_kind syntax, int op, node *a, node *b)
{
    node *n = rf_jinja_new_node(p, syntax, a, b);
    n->op = op;
    return n;
}

static node *new_constant(parser *p, value v)
{
    node *n = rf_jinja_new_node(p, E_CONSTANT, NULL, NULL);
    n->constant = v;
    return n;
}

/* Expressions between commas up to `close`, linked; where `named` with "name=" or "*" in front. */
static node *parse_list(parser *p, const char *close, bool named)
{
    node *first = NULL, **last = &first;
    while (!rf_jinja_take_sign(p, close)) {
        const bool is_spread = named && rf_jinja_take_sign(p, "*");
        node *n = rf_jinja_parse_expression(p);
        if (is_spread) {
            n->argument = TEXT("*");
        } else if (named && n->syntax == E_NAME && rf_jinja_take_sign(p, "=")) {
            text s = n->s;
            n = rf_jinja_parse_expression(p);
            n->argument = s;
        }
        *last = n;
        last = &n->next;
        if (!rf_jinja_is_sign(p, close)) {
            rf_jinja_expect_sign(p, ",");
        }
    }
    return first;
}

static node *parse_dict(parser *p)
{
    node *first = NULL, **last = &first;
    while (!rf_jinja_take_sign(p, "}")) {
        node *key = rf_jinja_parse_expression(p);
        rf_jinja_expect_sign(p, ":");
        key->next = rf_jinja_parse_expression(p);
        *last = key;
        last = &key->next->next;
        if (!rf_jinja_is_sign(p, "}")) {
            rf_jinja_expect_sign(p, ",");
        }
    }
    return rf_jinja_new_node(p, E_DICT, first, NULL);
}

/* a, b, ...: a tuple where there is a comma. */
node *rf_jinja_parse_tuple(parser *p)
{
    node *first = rf_jinja_parse_expression(p), *last = first;
    if (!rf_jinja_is_sign(p, ",")) {
        return first;
    }
    while (rf_jinja_take_sign(p, ",") && p->now.kind != T_END && !rf_jinja_is_sign(p, ")")) {
        last->next = rf_jinja_parse_expression(p);
        last = last->next;
    }
    return rf_jinja_new_operation(p, E_LIST, true, first, NULL);
}

static node *parse_primary(parser *p)
{
    const token t = p->now;
    node *n;
    if (t.kind == T_NAME) {
        rf_jinja_advance(p);
        if (rf_jinja_is(t.s, "true") || rf_jinja_is(t.s, "True")) {
            return new_constant(p, rf_jinja_boolean(true));
        }
        if (rf_jinja_is(t.s, "false") || rf_jinja_is(t.s, "False")) {
            return new_constant(p, rf_jinja_boolean(false));
        }
        if (rf_jinja_is(t.s, "none") || rf_jinja_is(t.s, "None")) {
            return new_constant(p, (value){.kind = NONE});
        }
        return rf_jinja_new_name(p, t.s);
    }
    if (t.kind == T_NUMBER) {
        rf_jinja_advance(p);
        return new_constant(p, t.v);
    }
    if (t.kind == T_STRING) { /* strings that follow one another are one */
        buffer b = {0};
        for (; p->now.kind == T_STRING; rf_jinja_advance(p)) {
            rf_jinja_add(p->job, &b, p->now.s);
        }
        return new_constant(p, rf_jinja_string(rf_jinja_made(&b)));
    }
    if (rf_jinja_take_sign(p, "(")) {
        if (rf_jinja_take_sign(p, ")")) {
            return rf_jinja_new_operation(p, E_LIST, true, NULL, NULL);
        }
        n = rf_jinja_parse_tuple(p);
        rf_jinja_expect_sign(p, ")");
        return n;
    }
    if (rf_jinja_take_sign(p, "[")) {
        return rf_jinja_new_node(p, E_LIST, parse_list(p, "]", false), NULL);
    }
    if (rf_jinja_take_sign(p, "{")) {
        return parse_dict(p);
    }
    rf_jinja_unexpected(p, "an expression");
}

/* What stands in brackets behind an object: a key, or begin:end:step. */
static node *parse_subscript(parser *p, node *object)
{
    node *part[3] = {NULL, NULL, NULL};
    int n = 0;
    for (; !rf_jinja_is_sign(p, "]") && n < 3; n += rf_jinja_take_sign(p, ":")) {
        if (rf_jinja_is_sign(p, ":")) {
            continue;
        }
        if (part[n] != NULL) {
            rf_jinja_unexpected(p, "]");
        }
        part[n] = rf_jinja_parse_expression(p);
    }
    rf_jinja_expect_sign(p, "]");
    if (n == 0) {
        if (part[0] == NULL) {
            rf_jinja_fail(p->job, "an index that is empty");
        }
        return rf_jinja_new_node(p, E_ELEMENT, object, part[0]);
    }
    node *slice = rf_jinja_new_node(p, E_SLICE, object, part[0]);
    slice->kid[2] = part[1];
    slice->kid[3] = part[2];
    return slice;
}

static node *parse_call(parser *p, node *callee)
{
    return rf_jinja_new_node(p, E_CALL, callee, parse_list(p, ")", true));
}

static node *parse_postfix(parser *p, node *n)
{
    for (;;) {
        if (rf_jinja_take_sign(p, ".")) {
            if (p->now.kind == T_NUMBER) {
                n = rf_jinja_new_node(p, E_ELEMENT, n, new_constant(p, p->now.v));
                rf_jinja_advance(p);
            } else {
                n = rf_jinja_new_node(p, E_ATTRIBUTE, n, NULL);
                n->s = rf_jinja_expect_name(p);
            }
        } else if (rf_jinja_take_sign(p, "[")) {
            n = parse_subscript(p, n);
        } else if (rf_jinja_take_sign(p, "(")) {
            n = parse_call(p, n);
        } else {
            return n;
        }
    }
}

/* Notes a filter or a test that is not known. */
static void check_name(parser *p, const node *n)
{
    if ((n->syntax == E_FILTER ? rf_jinja_filter : rf_jinja_test)(n->s) == NULL) {
        unknown *u = rf_jinja_take(p->job, sizeof *u);
        *u = (unknown){.of = n, .next = p->unknown};
        p->unknown = u;
    }
}

static node *parse_test(parser *p, node *operand)
{
    const bool is_not = rf_jinja_take_name(p, "not");
    node *n = rf_jinja_new_node(p, E_TEST, operand, NULL);
    n->s = rf_jinja_expect_name(p);
    check_name(p, n);
    if (rf_jinja_take_sign(p, "(")) {
        n->kid[1] = parse_list(p, ")", true);
    } else if (p->now.kind == T_STRING || p->now.kind == T_NUMBER || rf_jinja_is_sign(p, "[") ||
               rf_jinja_is_sign(p, "{") ||
               (p->now.kind == T_NAME && !rf_jinja_is_name(p, "else") &&
                !rf_jinja_is_name(p, "or") && !rf_jinja_is_name(p, "and") &&
                !rf_jinja_is_name(p, "if") && !rf_jinja_is_name(p, "is"))) {
        n->kid[1] = parse_postfix(p, parse_primary(p));
    }
    return is_not ? rf_jinja_new_node(p, E_NOT, n, NULL) : n;
}

node *rf_jinja_parse_filter(parser *p, node *operand)
{
    node *n = rf_jinja_new_node(p, E_FILTER, operand, NULL);
    n->s = rf_jinja_expect_name(p);
    check_name(p, n);
    if (rf_jinja_take_sign(p, "(")) {
        n->kid[1] = parse_list(p, ")", true);
    }
    return n;
}

node *rf_jinja_parse_filters(parser *p, node *n)
{
    for (;;) {
        if (rf_jinja_take_sign(p, "|")) {
            n = rf_jinja_parse_filter(p, n);
        } else if (rf_jinja_take_name(p, "is")) {
            n = parse_test(p, n);
        } else if (rf_jinja_take_sign(p, "(")) {
            n = parse_call(p, n);
        } else {
            return n;
        }
    }
}

node *rf_jinja_parse_unary(parser *p, bool with_filter)
{
    node *n;
    rf_jinja_enter(p->job);
    if (rf_jinja_take_sign(p, "-")) {
        n = rf_jinja_new_node(p, E_NEGATE, rf_jinja_parse_unary(p, false), NULL);
    } else if (rf_jinja_take_sign(p, "+")) {
        n = rf_jinja_parse_unary(p, false);
    } else {
        n = parse_postfix(p, parse_primary(p));
    }
    n = with_filter ? rf_jinja_parse_filters(p, n) : n;
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
        return rf_jinja_parse_unary(p, true);
    }
    node *n = parse_binary(p, level + 1);
    for (int i = 0; i < 4;) {
        const char *sign = levels[level].sign[i];
        if (sign != NULL && rf_jinja_take_sign(p, sign)) {
            n = rf_jinja_new_operation(p, E_BINARY, levels[level].op[i], n,
                                       parse_binary(p, level + 1));
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
        if (rf_jinja_take_sign(p, signs[i])) {
            return "=!<>lg"[i];
        }
    }
    if (rf_jinja_take_name(p, "in")) {
        return 'i';
    }
    if (!rf_jinja_is_name(p, "not")) {
        return 0;
    }
    const parser before = *p;
    rf_jinja_advance(p);
    if (rf_jinja_take_name(p, "in")) {
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
        node *right = parse_binary(p, 0),
             *one = rf_jinja_new_operation(p, E_COMPARE, op, left, right);
        all = all != NULL ? rf_jinja_new_node(p, E_AND, all, one) : one;
        left = right;
    }
    return all != NULL ? all : left;
}

static node *parse_not(parser *p)
{
    if (!rf_jinja_take_name(p, "not")) {
        return parse_compare(p);
    }
    rf_jinja_enter(p->job);
    node *n = rf_jinja_new_node(p, E_NOT, parse_not(p), NULL);
    p->job->depth--;
    return n;
}

static node *parse_and(parser *p)
{
    node *n = parse_not(p);
    while (rf_jinja_take_name(p, "and")) {
        n = rf_jinja_new_node(p, E_AND, n, parse_not(p));
    }
    return n;
}

node *rf_jinja_parse_or(parser *p)
{
    node *n = parse_and(p);
    while (rf_jinja_take_name(p, "or")) {
        n = rf_jinja_new_node(p, E_OR, n, parse_and(p));
    }
    return n;
}

node *rf_jinja_parse_expression(parser *p)
{
    rf_jinja_enter(p->job);
    unknown *const before = p->unknown;
    node *n = rf_jinja_parse_or(p);
    while (rf_jinja_take_name(p, "if")) {
        n = rf_jinja_new_node(p, E_IF, rf_jinja_parse_or(p), n);
        n->kid[2] = rf_jinja_take_name(p, "else") ? rf_jinja_parse_expression(p) : NULL;
        p->unknown = before; /* what stands in it may never be reached */
    }
    p->job->depth--;
    return n;
}
