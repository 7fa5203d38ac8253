/* jinja_private.h: what the files of this folder share.                             all local
 *
 * A job is one parsing or one rendering. All its memory comes from a pool that is given back at once,
 * and a failure leaves it by longjmp to where it began (rf_jinja_parse, rf_jinja_render): nothing in
 * this folder holds anything that would have to be freed on the way.
 */
#ifndef RF_TEXT_JINJA_JINJA_PRIVATE_H
#define RF_TEXT_JINJA_JINJA_PRIVATE_H

#include "common/base/utf8.h"
#include "common/text/jinja/jinja.h"
#include "common/text/unicode.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

/* Bounds of a job, whatever its variables: bytes of a text, more than a context of a million tokens
 * has; bytes of its pool, in which a text as long as that is made several times; nodes evaluated,
 * elements moved and texts added; nested expressions, statements and calls. */
#define JINJA_MOST_TEXT  ((size_t)8 << 20)
#define JINJA_MOST_BYTES ((size_t)256 << 20)
#define JINJA_MOST_STEPS ((int64_t)50000000)
enum { JINJA_MOST_DEPTH = 200 };

typedef struct job {
    struct pool_chunk *chunk, *texts;
    size_t bytes;      /* taken from the system */
    size_t text_bytes; /* of the chunks of texts */
    int64_t steps;
    int depth, line; /* of the template, for messages */
    const char *origin;
    rf_error *err;
    jmp_buf failed;
} job;

_Noreturn void rf_jinja_fail(job *j, const char *format, ...) RF_PRINTF(2, 3);
void *rf_jinja_take(job *j, size_t bytes); /* cleared */
/* For a text: each of its bytes is known as said or not, and none is at first (jinja.h). */
char *rf_jinja_take_text(job *j, size_t bytes);
/* 1 for each byte from `at` on that is said, else 0; NULL: this job has not made the text, which is the
 * template's. */
char *rf_jinja_said(const job *j, const char *at);
void rf_jinja_end(job *j);            /* gives the pool back */
void rf_jinja_step(job *j, size_t n); /* counts n steps */
void rf_jinja_enter(job *j);          /* one level deeper; the caller takes it back */

/* --- Values ----------------------------------------------------------------------------------- */

typedef struct text {
    const char *at; /* not 0-terminated */
    size_t n;
} text;
#define TEXT(literal) ((text){literal, sizeof literal - 1})
#define QUOTE(s)      (int)((s).n < 60 ? (s).n : 60), (s).at /* the beginning, for "%.*s" */
bool rf_jinja_is(text t, const char *word);

typedef enum value_kind {
    UNDEFINED, /* name: what was asked for */
    NONE,
    BOOLEAN,
    INTEGER,
    REAL,
    STRING,
    LIST, /* and tuples */
    DICT,
    NAMESPACE, /* a dict whose fields can be set */
    CALLABLE
} value_kind;

typedef struct value {
    value_kind kind;
    union {
        bool b;
        int64_t i;
        double r;
        text s; /* of STRING, and the name of UNDEFINED */
        struct list *list;
        struct dict *dict;
        const struct callable *call;
    };
} value;

typedef struct list {
    value *item;
    size_t n, capacity;
    bool is_tuple;
} list;

typedef struct dict { /* in the order of insertion, as Python's */
    struct pair {
        value key, value;
    } * pair;
    size_t n, capacity;
} dict;

typedef struct arguments {
    value *v; /* [n] by position */
    size_t n;
    dict named;
} arguments;

/* A function of this folder, bound to the value that it is a method of; or a macro. */
typedef value builtin(job *j, value self, const arguments *a);
typedef struct callable {
    builtin *run; /* NULL: a macro */
    value self;
    const struct node *macro;
    struct scope *scope; /* in which the macro was defined */
} callable;

value rf_jinja_string(text s);
value rf_jinja_integer(int64_t i);
value rf_jinja_boolean(bool b);
value rf_jinja_callable(job *j, builtin *run, value self);
value rf_jinja_new_list(job *j, size_t capacity);
value rf_jinja_new_dict(job *j, value_kind kind);
void rf_jinja_push(job *j, list *l, value v);
void rf_jinja_put(job *j, dict *d, value key, value v);
const value *rf_jinja_find(job *j, const dict *d, value key); /* NULL: not there */
/* said: its texts are. */
value rf_jinja_from_json(job *j, const struct json_t *json, bool said);
text rf_jinja_copy(job *j, text s, bool said);

const char *rf_jinja_kind_name(value v); /* "a string" */
bool rf_jinja_truth(value v);
bool rf_jinja_equal(job *j, value a, value b);
int rf_jinja_order(job *j, value a, value b); /* <0, 0, >0; fails where there is no order */
bool rf_jinja_contains(job *j, value all, value one);
list *rf_jinja_items(job *j, value v); /* what a loop over v sees; do not change it */
bool rf_jinja_real(double *out, value v);
text rf_jinja_text(job *j, value v); /* what printing v gives: Python's str() */

/* Strings are counted in characters, as in Python. */
size_t rf_jinja_length(job *j, text s);
text rf_jinja_slice(text s, size_t first, size_t n);
size_t rf_jinja_character(text s); /* bytes of the first character; s is not empty */

/* A text that is being made, in the pool. It may have JINJA_MOST_TEXT bytes. */
typedef struct buffer {
    char *at, *said; /* [capacity], [capacity] */
    size_t n, capacity;
} buffer;
void rf_jinja_add(job *j, buffer *b, text s);
/* s stands for the character at `like`, and is said where that is. */
void rf_jinja_add_for(job *j, buffer *b, text s, const char *like);
void rf_jinja_add_blanks(job *j, buffer *b, int64_t n); /* n <= 0: none */
text rf_jinja_made(const buffer *b);
text rf_jinja_print(job *j, const char *format, ...) RF_PRINTF(2, 3);

/* --- Operators (operators.c): op is that of E_BINARY and E_COMPARE below ------------------------ */

value rf_jinja_calculate(job *j, int op, value a, value b);
bool rf_jinja_compare(job *j, int op, value a, value b);
value rf_jinja_negate(job *j, value v);

/* --- Builtins (builtins.c, strings.c, collections.c, json.c) ------------------------------------ */

/* What stands behind a name: NULL where there is none. A test returns a boolean. */
builtin *rf_jinja_filter(text name);
builtin *rf_jinja_test(text name);
builtin *rf_jinja_function(text name);
/* Attribute or element `name` of v (`.name`), or element `key` (`[key]`); undefined where missing. */
value rf_jinja_attribute(job *j, value v, text name);
value rf_jinja_element(job *j, value v, value key);
/* Argument i, or the one of that name; undefined where it is missing. */
value rf_jinja_argument(const arguments *a, size_t i, const char *name);
const char *rf_jinja_date(job *j);     /* what strftime_now gives; NULL: */
const struct tm *rf_jinja_day(job *j); /* in its format; NULL: the fixed day */

/* --- Syntax (parse.c) --------------------------------------------------------------------------- */

typedef enum node_kind {
    /* statements, linked by `next` */
    S_TEXT,    /* s */
    S_PRINT,   /* kid 0 */
    S_IF,      /* condition, statements, statements of else */
    S_FOR,     /* target, iterable, statements, statements of else, condition */
    S_SET,     /* target, expression */
    S_CAPTURE, /* target or NULL, statements, expression of what they print (the name "") */
    S_MACRO,   /* s; parameters (E_NAME with a default in kid 0), statements */
    S_CALL,    /* parameters, call, statements */
    S_SCOPE,   /* names (S_SET), statements */
    S_BREAK,
    S_CONTINUE,
    /* expressions */
    E_CONSTANT,  /* constant */
    E_NAME,      /* s */
    E_LIST,      /* elements, linked; is_tuple in op */
    E_DICT,      /* keys and values in turn, linked */
    E_ATTRIBUTE, /* object; s */
    E_ELEMENT,   /* object, key */
    E_SLICE,     /* object, begin, end, step, each but the object NULL where left out */
    E_CALL,      /* callee, arguments, linked; s: name of a named one */
    E_FILTER,    /* operand, arguments; s */
    E_TEST,      /* operand, arguments; s */
    E_NOT,
    E_NEGATE,
    E_AND,
    E_OR,
    E_IF,     /* condition, then, else or NULL */
    E_BINARY, /* op: one of + - * / % ~, 'F' for "//", 'P' for a power */
    E_COMPARE /* op: = ! < > and 'l' for <=, 'g' for >=, 'i' for in, 'n' for not in */
} node_kind;

typedef struct node {
    node_kind syntax;
    int line, op;
    text s; /* a name; `argument`: of a named argument, "*" of a list of them */
    text argument;
    value constant;
    struct node *kid[5], *next;
} node;

/* The filter of an E_FILTER, the test of an E_TEST (builtins.c); one that is not known is an error. */
builtin *rf_jinja_named(job *j, const node *n);

/* Statements of the template. Fails through the job. */
node *rf_jinja_read(job *j, text source);

#endif
