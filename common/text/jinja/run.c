/* Trees to text. */
#include "common/text/jinja/run.h"

#include "common/base/alloc.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct rf_jinja {
    job job; /* whose pool holds the tree */
    const node *first;
    char origin[];
};

typedef enum flow { GO_ON, BREAK, CONTINUE } flow;

static flow execute(run *r, const node *n);

/* --- Statements --------------------------------------------------------------------------------- */

/* What statements print, in a scope of their own. */
value rf_jinja_capture(run *r, const node *statements)
{
    buffer text_of = {0}, *out = r->out;
    r->out = &text_of;
    (void)execute(r, statements);
    r->out = out;
    return rf_jinja_string(rf_jinja_made(&text_of));
}

static value cycle(job *j, value self, const arguments *a)
{
    const value *at = rf_jinja_find(j, self.dict, rf_jinja_string(TEXT("index0")));
    if (a->n == 0) {
        rf_jinja_fail(j, "loop.cycle needs values");
    }
    return a->v[(size_t)at->i % a->n];
}

/* Are the arguments others than at the last call in this loop, which `self` holds? */
static value changed(job *j, value self, const arguments *a)
{
    value now = rf_jinja_new_list(j, a->n);
    for (size_t i = 0; i < a->n; i++) {
        rf_jinja_push(j, now.list, a->v[i]);
    }
    if (self.list->n > 0 && rf_jinja_equal(j, self.list->item[0], now)) {
        return rf_jinja_boolean(false);
    }
    self.list->n = 0;
    rf_jinja_push(j, self.list, now);
    return rf_jinja_boolean(true);
}

/* What a template may ask about a loop at element i. */
static value describe(run *r, const list *l, size_t i, value last)
{
    value loop = rf_jinja_new_dict(&r->job, NAMESPACE);
    job *j = &r->job;
    const int64_t at = (int64_t)i, n = (int64_t)l->n;
    const struct {
        text name;
        value v;
    } fields[] = {{TEXT("index0"), rf_jinja_integer(at)},
                  {TEXT("index"), rf_jinja_integer(at + 1)},
                  {TEXT("first"), rf_jinja_boolean(i == 0)},
                  {TEXT("last"), rf_jinja_boolean(at + 1 == n)},
                  {TEXT("length"), rf_jinja_integer(n)},
                  {TEXT("revindex"), rf_jinja_integer(n - at)},
                  {TEXT("revindex0"), rf_jinja_integer(n - at - 1)},
                  {TEXT("depth"), rf_jinja_integer(1)},
                  {TEXT("depth0"), rf_jinja_integer(0)},
                  {TEXT("cycle"), rf_jinja_callable(j, cycle, loop)},
                  {TEXT("changed"), rf_jinja_callable(j, changed, last)}};
    for (size_t k = 0; k < sizeof fields / sizeof *fields; k++) {
        rf_jinja_put(j, loop.dict, rf_jinja_string(fields[k].name), fields[k].v);
    }
    if (i > 0) {
        rf_jinja_put(j, loop.dict, rf_jinja_string(TEXT("previtem")), l->item[i - 1]);
    }
    if (i + 1 < l->n) {
        rf_jinja_put(j, loop.dict, rf_jinja_string(TEXT("nextitem")), l->item[i + 1]);
    }
    return loop;
}

/* The elements that a loop's condition lets through. */
static list *chosen_items(run *r, const node *n)
{
    list *all = rf_jinja_items(&r->job, rf_jinja_evaluate(r, n->kid[1]));
    if (n->kid[4] == NULL) {
        return all;
    }
    scope *before = r->scope;
    list *chosen = rf_jinja_new_list(&r->job, all->n).list;
    for (size_t i = 0; i < all->n; i++) {
        rf_jinja_enter_scope(r, before);
        rf_jinja_assign(r, n->kid[0], all->item[i]);
        if (rf_jinja_truth(rf_jinja_evaluate(r, n->kid[4]))) {
            rf_jinja_push(&r->job, chosen, all->item[i]);
        }
        rf_jinja_leave_scope(r, before);
    }
    return chosen;
}

/* What the body sets is gone at the end of each round: a scope for each. */
static flow loop(run *r, const node *n)
{
    scope *before = r->scope;
    const list *l = chosen_items(r, n);
    const value last = rf_jinja_new_list(&r->job, 1); /* of loop.changed */
    for (size_t i = 0; i < l->n; i++) {
        rf_jinja_enter_scope(r, before);
        rf_jinja_define(r, TEXT("loop"), describe(r, l, i, last));
        rf_jinja_assign(r, n->kid[0], l->item[i]);
        const flow end = execute(r, n->kid[2]);
        rf_jinja_leave_scope(r, before);
        if (end == BREAK) {
            return GO_ON;
        }
    }
    return l->n == 0 ? execute(r, n->kid[3]) : GO_ON;
}

static void set_captured(run *r, const node *n)
{
    scope *before = r->scope;
    rf_jinja_enter_scope(r, before);
    value printed = rf_jinja_capture(r, n->kid[1]);
    rf_jinja_define(r, TEXT(""), printed);
    value v = rf_jinja_evaluate(r, n->kid[2]);
    rf_jinja_leave_scope(r, before);
    if (n->kid[0] != NULL) {
        rf_jinja_assign(r, n->kid[0], v);
    } else {
        rf_jinja_add(&r->job, r->out, rf_jinja_text(&r->job, v));
    }
}

static value new_macro(run *r, const node *n)
{
    value v = rf_jinja_callable(&r->job, NULL, (value){.kind = UNDEFINED});
    callable *c = (callable *)v.call;
    c->macro = n;
    c->scope = r->scope;
    return v;
}

static flow scoped(run *r, const node *n)
{
    scope *before = r->scope;
    rf_jinja_enter_scope(r, before);
    (void)execute(r, n->kid[0]);
    const flow end = execute(r, n->kid[1]);
    rf_jinja_leave_scope(r, before);
    return end;
}

static flow execute_one(run *r, const node *n)
{
    r->job.line = n->line;
    switch (n->syntax) {
    case S_TEXT:
        rf_jinja_add(&r->job, r->out, n->s);
        return GO_ON;
    case S_PRINT:
        rf_jinja_add(&r->job, r->out, rf_jinja_text(&r->job, rf_jinja_evaluate(r, n->kid[0])));
        return GO_ON;
    case S_IF:
        return execute(r, rf_jinja_truth(rf_jinja_evaluate(r, n->kid[0])) ? n->kid[1] : n->kid[2]);
    case S_FOR:
        return loop(r, n);
    case S_SET:
        rf_jinja_assign(r, n->kid[0], rf_jinja_evaluate(r, n->kid[1]));
        return GO_ON;
    case S_CAPTURE:
        set_captured(r, n);
        return GO_ON;
    case S_MACRO:
        rf_jinja_define(r, n->s, new_macro(r, n));
        return GO_ON;
    case S_CALL: {
        value callee = rf_jinja_evaluate(r, n->kid[1]->kid[0]);
        arguments a = rf_jinja_evaluate_arguments(r, n->kid[1]->kid[1]);
        r->caller = new_macro(r, n);
        rf_jinja_add(&r->job, r->out, rf_jinja_text(&r->job, rf_jinja_call(r, callee, &a)));
        return GO_ON;
    }
    case S_SCOPE:
        return scoped(r, n);
    default:
        return n->syntax == S_BREAK ? BREAK : CONTINUE;
    }
}

static flow execute(run *r, const node *n)
{
    flow end = GO_ON;
    rf_jinja_enter(&r->job);
    for (; n != NULL && end == GO_ON; n = n->next) {
        rf_jinja_step(&r->job, 1);
        end = execute_one(r, n);
    }
    r->job.depth--;
    return end;
}

/* --- Templates ---------------------------------------------------------------------------------- */

int rf_jinja_parse(rf_jinja **out, const char *text_of, size_t bytes, const char *origin,
                   rf_error *err)
{
    rf_error unused;
    rf_jinja *t = rf_alloc(1, sizeof *t + strlen(origin) + 1);
    *out = NULL;
    strcpy(t->origin, origin);
    t->job.origin = t->origin;
    t->job.err = err != NULL ? err : &unused;
    if (setjmp(t->job.failed) != 0) {
        rf_jinja_free(t);
        return RF_ERR;
    }
    t->first = rf_jinja_read(&t->job, (text){text_of, bytes});
    *out = t;
    return RF_OK;
}

void rf_jinja_free(rf_jinja *template)
{
    if (template != NULL) {
        rf_jinja_end(&template->job);
        free(template);
    }
}

static void define_all(run *r, const json_t *variables, bool said)
{
    const char *name;
    json_t *item;
    json_object_foreach((json_t *)variables, name, item)
    {
        rf_jinja_define(r, (text){name, strlen(name)}, rf_jinja_from_json(&r->job, item, said));
    }
}

static void render(run *r, const node *first, const json_t *said, const json_t *own)
{
    rf_jinja_enter_scope(r, NULL);
    define_all(r, said, true);
    define_all(r, own, false);
    rf_jinja_enter_scope(r, r->scope);
    (void)execute(r, first);
}

int rf_jinja_render(const rf_jinja *template, rf_text *out, rf_text *is_said,
                    const json_t *variables, const json_t *own, const char *date,
                    const struct tm *day, rf_error *err)
{
    rf_error unused;
    run *r = rf_alloc(1, sizeof *r); /* not on the stack, where longjmp would leave it undefined */
    r->job.origin = template->origin;
    r->job.err = err != NULL ? err : &unused;
    r->date = date;
    r->day = day;
    r->out = &r->printed;
    r->caller = (value){.kind = UNDEFINED, .s = TEXT("caller")};
    const bool failed = setjmp(r->job.failed) != 0;
    if (!failed) {
        render(r, template->first, variables, own);
        if (r->printed.n > 0) {
            rf_text_add(out, r->printed.at, r->printed.n);
            rf_text_add(is_said, r->printed.said, r->printed.n);
        }
    }
    rf_jinja_end(&r->job);
    free(r);
    return failed ? RF_ERR : RF_OK;
}
