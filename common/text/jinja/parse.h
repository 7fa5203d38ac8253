/* parse.h: what the files of the parser share.                                       all local
 *
 * Only parse.c, expressions.c and tokens.c include this. What does not fit fails through the job.
 */
#ifndef RF_TEXT_JINJA_PARSE_H
#define RF_TEXT_JINJA_PARSE_H

#include "common/text/jinja/jinja_private.h"

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

/* A filter or a test that is not known. */
typedef struct unknown {
    const node *of;
    struct unknown *next;
} unknown;

typedef struct parser {
    job *job;
    const char *at, *end;
    char close; /* '}' or '%': the tag that is being read; its end is "}}" or "%}" */
    int open;   /* brackets in it that are not closed yet */
    token now;
    unknown *unknown; /* those outside of conditions, the last one first */
    bool line_begins; /* nothing but blanks can stand before `at` on its line */
} parser;

/* --- Tokens of a tag (tokens.c) ----------------------------------------------------------------- */

bool rf_jinja_is_blank(char c);
/* The next token, into p->now. Behind the end of the tag it goes on with leave_tag. */
void rf_jinja_advance(parser *p);
/* Behind the end of a tag, in front of which stood `sign`: "-" takes all blanks, and a statement or
 * a comment without "+" the end of its line. */
void rf_jinja_leave_tag(parser *p, char sign, bool is_print);
/* Is the token at hand this one? take_: if so, on to the next one. expect_: else it is an error. */
bool rf_jinja_is_sign(const parser *p, const char *sign);
bool rf_jinja_is_name(const parser *p, const char *name);
bool rf_jinja_take_sign(parser *p, const char *sign);
bool rf_jinja_take_name(parser *p, const char *name);
void rf_jinja_expect_sign(parser *p, const char *sign);
text rf_jinja_expect_name(parser *p); /* any name, which it returns */
void rf_jinja_expect_end(parser *p);  /* stays there */
_Noreturn void rf_jinja_unexpected(parser *p, const char *wanted);

/* --- Trees, expressions (expressions.c) --------------------------------------------------------- */

node *rf_jinja_new_node(parser *p, node_kind syntax, node *a, node *b);
node *rf_jinja_new_name(parser *p, text s);
node *rf_jinja_new_operation(parser *p, node_kind syntax, int op, node *a, node *b);
/* Each reads as much as belongs to it: any expression; several with commas between them; one without
 * "if" behind it; one without operators of two sides; the filters and tests behind an operand; one
 * filter, whose "|" was read. */
node *rf_jinja_parse_expression(parser *p);
node *rf_jinja_parse_tuple(parser *p);
node *rf_jinja_parse_or(parser *p);
node *rf_jinja_parse_unary(parser *p, bool with_filter);
node *rf_jinja_parse_filters(parser *p, node *operand);
node *rf_jinja_parse_filter(parser *p, node *operand);

#endif
