/* Templates to trees: text, tags and statements (jinja2/parser.py defines the language). */
#include "common/text/jinja/parse.h"

#include <string.h>

/* Statements up to a tag that begins with one of the words `stop`, which is then p->now. */
static node *parse_statements(parser *p, const char *const *stop);

static void end_statements(parser *p, const char *word)
{
    if (!rf_jinja_take_name(p, word)) {
        rf_jinja_unexpected(p, word);
    }
    rf_jinja_expect_end(p);
}

static node *parse_body(parser *p, const char *end)
{
    const char *const stop[] = {end, NULL};
    rf_jinja_expect_end(p);
    node *body = parse_statements(p, stop);
    end_statements(p, end);
    return body;
}

/* What stands behind "else", if it is there, and the end of the statement. */
static node *parse_else(parser *p, const char *end)
{
    if (rf_jinja_take_name(p, "else")) {
        return parse_body(p, end);
    }
    end_statements(p, end);
    return NULL;
}

static node *parse_if(parser *p)
{
    static const char *const stop[] = {"elif", "else", "endif", NULL};
    unknown *const before = p->unknown; /* what stands in it may never be reached */
    node *n = rf_jinja_new_node(p, S_IF, rf_jinja_parse_tuple(p), NULL);
    rf_jinja_enter(p->job);
    rf_jinja_expect_end(p);
    n->kid[1] = parse_statements(p, stop);
    n->kid[2] = rf_jinja_take_name(p, "elif") ? parse_if(p) : parse_else(p, "endif");
    p->unknown = before;
    p->job->depth--;
    return n;
}

/* A name, names between commas, or name.field. */
static node *parse_target(parser *p)
{
    node *first = NULL, **last = &first;
    do {
        bool in_brackets = rf_jinja_take_sign(p, "(");
        node *n = in_brackets ? parse_target(p) : rf_jinja_new_name(p, rf_jinja_expect_name(p));
        if (in_brackets) {
            rf_jinja_expect_sign(p, ")");
        } else if (rf_jinja_take_sign(p, ".")) {
            n = rf_jinja_new_node(p, E_ATTRIBUTE, n, NULL);
            n->s = rf_jinja_expect_name(p);
        }
        *last = n;
        last = &n->next;
    } while (rf_jinja_take_sign(p, ",") && p->now.kind == T_NAME && !rf_jinja_is_name(p, "in"));
    return first->next != NULL ? rf_jinja_new_operation(p, E_LIST, true, first, NULL) : first;
}

static node *parse_for(parser *p)
{
    static const char *const stop[] = {"else", "endfor", NULL};
    node *n = rf_jinja_new_node(p, S_FOR, parse_target(p), NULL);
    if (!rf_jinja_take_name(p, "in")) {
        rf_jinja_unexpected(p, "in");
    }
    n->kid[1] = rf_jinja_parse_or(p); /* an "if" behind it is a condition on the elements */
    n->kid[4] = rf_jinja_take_name(p, "if") ? rf_jinja_parse_expression(p) : NULL;
    if (rf_jinja_is_name(p, "recursive")) {
        rf_jinja_fail(p->job, "recursive loops are not supported");
    }
    rf_jinja_expect_end(p);
    n->kid[2] = parse_statements(p, stop);
    n->kid[3] = parse_else(p, "endfor");
    return n;
}

static node *parse_set(parser *p)
{
    node *target = parse_target(p);
    if (rf_jinja_take_sign(p, "=")) {
        return rf_jinja_new_node(p, S_SET, target, rf_jinja_parse_tuple(p));
    }
    node *n = rf_jinja_new_node(p, S_CAPTURE, target, NULL);
    n->kid[2] = rf_jinja_parse_filters(p, rf_jinja_new_name(p, TEXT("")));
    n->kid[1] = parse_body(p, "endset");
    return n;
}

static node *parse_parameters(parser *p)
{
    node *first = NULL, **last = &first;
    rf_jinja_expect_sign(p, "(");
    while (!rf_jinja_take_sign(p, ")")) {
        node *n = rf_jinja_new_name(p, rf_jinja_expect_name(p));
        n->kid[0] = rf_jinja_take_sign(p, "=") ? rf_jinja_parse_expression(p) : NULL;
        *last = n;
        last = &n->next;
        if (!rf_jinja_is_sign(p, ")")) {
            rf_jinja_expect_sign(p, ",");
        }
    }
    return first;
}

static node *parse_macro(parser *p)
{
    node *n = rf_jinja_new_node(p, S_MACRO, NULL, NULL);
    n->s = rf_jinja_expect_name(p);
    n->kid[0] = parse_parameters(p);
    n->kid[1] = parse_body(p, "endmacro");
    return n;
}

static node *parse_call_block(parser *p)
{
    node *n = rf_jinja_new_node(p, S_CALL, NULL, NULL);
    n->kid[0] = rf_jinja_is_sign(p, "(") ? parse_parameters(p) : NULL;
    n->kid[1] = rf_jinja_parse_unary(p, true);
    if (n->kid[1]->syntax != E_CALL) {
        rf_jinja_fail(p->job, "call needs a call of a macro");
    }
    n->kid[2] = parse_body(p, "endcall");
    return n;
}

/* {% filter upper %}...: the text printed is what the filters make of the body. */
static node *parse_filter_block(parser *p)
{
    node *n = rf_jinja_new_node(p, S_CAPTURE, NULL, NULL);
    n->kid[2] = rf_jinja_parse_filters(p, rf_jinja_parse_filter(p, rf_jinja_new_name(p, TEXT(""))));
    n->kid[1] = parse_body(p, "endfilter");
    return n;
}

static node *parse_with(parser *p)
{
    node *first = NULL, **last = &first;
    while (p->now.kind != T_END) {
        node *target = parse_target(p);
        rf_jinja_expect_sign(p, "=");
        *last = rf_jinja_new_node(p, S_SET, target, rf_jinja_parse_expression(p));
        last = &(*last)->next;
        if (p->now.kind != T_END) {
            rf_jinja_expect_sign(p, ",");
        }
    }
    return rf_jinja_new_node(p, S_SCOPE, first, parse_body(p, "endwith"));
}

static node *new_text(parser *p, const char *begin, const char *end)
{
    node *n = rf_jinja_new_node(p, S_TEXT, NULL, NULL);
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
    while (at < end && rf_jinja_is_blank(*at)) {
        at++;
    }
    if ((size_t)(end - at) < sizeof word - 1 || memcmp(at, word, sizeof word - 1) != 0) {
        return NULL;
    }
    at += sizeof word - 1;
    while (at < end && rf_jinja_is_blank(*at)) {
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
        while (blank > begin && rf_jinja_is_blank(blank[-1])) {
            blank--;
        }
        return blank;
    }
    if (sign == '+' || kind == '{') {
        return tag;
    }
    while (blank > begin && blank[-1] != '\n' && rf_jinja_is_blank(blank[-1])) {
        blank--;
    }
    return (blank == begin ? line_begins : blank[-1] == '\n') ? blank : tag;
}

static node *parse_raw(parser *p)
{
    rf_jinja_expect_end(p);
    const char *begin = p->at, *tag = begin;
    const bool line_begins = p->line_begins;
    for (; (tag = memmem(tag, (size_t)(p->end - tag), "{%", 2)) != NULL; tag += 2) {
        char before, behind;
        const char *next = match_raw_end(tag, p->end, &before, &behind);
        if (next != NULL) {
            const char *stop = cut_before(begin, tag, '%', before, line_begins);
            p->at = next;
            rf_jinja_leave_tag(p, behind, false);
            return new_text(p, begin, stop);
        }
    }
    rf_jinja_fail(p->job, "raw without endraw");
}

/* generation marks what the assistant says, for training. */
static node *parse_generation(parser *p)
{
    return rf_jinja_new_node(p, S_SCOPE, NULL, parse_body(p, "endgeneration"));
}

static node *parse_break(parser *p)
{
    return rf_jinja_new_node(p, S_BREAK, NULL, NULL);
}

static node *parse_continue(parser *p)
{
    return rf_jinja_new_node(p, S_CONTINUE, NULL, NULL);
}

static node *parse_statement(parser *p)
{
    static const struct {
        const char *name;
        node *(*parse)(parser *p);
    } statements[] = {
        {"if", parse_if},
        {"for", parse_for},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call_block},
        {"filter", parse_filter_block},
        {"with", parse_with},
        {"generation", parse_generation},
        {"raw", parse_raw},
        {"break", parse_break},
        {"continue", parse_continue},
    };
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (rf_jinja_take_name(p, statements[i].name)) {
            return statements[i].parse(p);
        }
    }
    rf_jinja_fail(p->job, "the statement \"%.*s\" is not supported", QUOTE(p->now.s));
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
    rf_jinja_leave_tag(p, sign, false);
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
        rf_jinja_advance(p);
        if (kind == '{') {
            *last = rf_jinja_new_node(p, S_PRINT, rf_jinja_parse_tuple(p), NULL);
        } else {
            int i = 0;
            while (stop != NULL && stop[i] != NULL && !rf_jinja_is_name(p, stop[i])) {
                i++;
            }
            if (stop != NULL && stop[i] != NULL) {
                break;
            }
            *last = parse_statement(p);
        }
        rf_jinja_expect_end(p);
        last = &(*last)->next;
    }
    p->job->depth--;
    return first;
}

/* As in Jinja: names outside of conditions are refused at once. */
static void check_names(const parser *p)
{
    const unknown *first = p->unknown;
    while (first != NULL && first->next != NULL) { /* the last one in the list */
        first = first->next;
    }
    if (first != NULL) {
        p->job->line = first->of->line;
        (void)rf_jinja_named(p->job, first->of);
    }
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
    node *first = parse_statements(&p, NULL);
    check_names(&p);
    return first;
}
