/* run.h: what the files of a rendering share.                                         all local
 *
 * Only run.c (statements) and evaluate.c (expressions) include this: a macro is called in an expression
 * and made of statements.
 */
#ifndef RF_TEXT_JINJA_RUN_H
#define RF_TEXT_JINJA_RUN_H

#include "common/text/jinja/jinja_private.h"

typedef struct scope {
    struct scope *outer;
    dict names;
} scope;

/* A rendering: the job is its first member, so that builtins find it from their job. */
typedef struct run {
    job job;
    scope *scope;
    buffer printed, *out;
    const char *date;     /* what strftime_now gives; NULL: */
    const struct tm *day; /* in its format; NULL: the fixed one */
    value caller;         /* of the macro that a call block calls next */
} run;

/* --- evaluate.c --------------------------------------------------------------------------------- */

/* Names that are set from now on are gone when the scope is left; `outer` has the others. Leave it for
 * the scope that was there `before`. */
void rf_jinja_enter_scope(run *r, scope *outer);
void rf_jinja_leave_scope(run *r, scope *before);
/* Sets a name of the present scope; `target`: a name, a field of a namespace, or several of them. */
void rf_jinja_define(run *r, text name, value v);
void rf_jinja_assign(run *r, const node *target, value v);

value rf_jinja_evaluate(run *r, const node *n);
arguments rf_jinja_evaluate_arguments(run *r, const node *first);
value rf_jinja_call(run *r, value callee, const arguments *a);

/* --- run.c -------------------------------------------------------------------------------------- */

/* What statements print, as a string. */
value rf_jinja_capture(run *r, const node *statements);

#endif
