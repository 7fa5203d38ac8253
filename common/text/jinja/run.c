/* Trees to text. */
#include "common/text/jinja/jinja_private.h"

#include "common/base/alloc.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct rf_jinja {
    job job; /* whose pool holds the tree */
    const node *first;
    char origin[];
};

typedef struct scope {
    struct scope *outer;
    dict names;
} scope;

/* A rendering: the job is its first member, so that builtins find it from their job. */
typedef struct run {
    job job;
    scope *scope;
    buffer printed, *out;
    const char *date;
    value caller; /* of the macro that a call block calls next */
} run;

typedef enum flow { GO_ON, BREAK, CONTINUE } flow;

static value evaluate(run *r, const node *n);
static flow execute(run *r, const node *n);

const char *rf_jinja_date(job *j)
{
    return ((run *)j)->date;
}

/* --- Names -------------------------------------------------------------------------------------- */

static value look_up(run *r, text name)
{
    for (scope *s = r->scope; s != NULL; s = s->outer) {
        const value *v = rf_jinja_find(&r->job, &s->names, rf_jinja_string(name));
        if (v != NULL) {
            return *v;
        }
    }
    builtin *function = rf_jinja_function(name);
    return function != NULL ? rf_jinja_callable(&r->job, function, (value){.kind = UNDEFINED})
                            : (value){.kind = UNDEFINED, .s = name};
}

static void enter_scope(run *r, scope *outer)
{
    scope *s = rf_jinja_take(&r->job, sizeof *s);
    s->outer = outer;
    r->scope = s;
    rf_jinja_enter(&r->job);
}

static void leave_scope(run *r, scope *before)
{
    r->scope = before;
    r->job.depth--;
}

static void define(run *r, text name, value v)
{
    rf_jinja_put(&r->job, &r->scope->names, rf_jinja_string(name), v);
}

static void assign(run *r, const node *target, value v)
{
    if (target->syntax == E_NAME) {
        define(r, target->s, v);
    } else if (target->syntax == E_ATTRIBUTE) {
        value space = evaluate(r, target->kid[0]);
        if (space.kind != NAMESPACE) {
            rf_jinja_fail(&r->job, "a field of %s cannot be set: use a namespace",
                          rf_jinja_kind_name(space));
        }
        rf_jinja_put(&r->job, space.dict, rf_jinja_string(target->s), v);
    } else {
        const list *l = rf_jinja_items(&r->job, v);
        size_t i = 0;
        for (const node *t = target->kid[0]; t != NULL; t = t->next, i++) {
            if (i >= l->n) {
                rf_jinja_fail(&r->job, "%zu values for more names", l->n);
            }
            assign(r, t, l->item[i]);
        }
        if (i != l->n) {
            rf_jinja_fail(&r->job, "%zu values for %zu names", l->n, i);
        }
    }
}

/* --- Calls -------------------------------------------------------------------------------------- */

static arguments evaluate_arguments(run *r, const node *first)
{
    arguments a = {0};
    value positional = rf_jinja_new_list(&r->job, 4);
    for (const node *n = first; n != NULL; n = n->next) {
        value v = evaluate(r, n);
        if (rf_jinja_is(n->argument, "*")) {
            const list *l = rf_jinja_items(&r->job, v);
            for (size_t i = 0; i < l->n; i++) {
                rf_jinja_push(&r->job, positional.list, l->item[i]);
            }
        } else if (n->argument.n > 0) {
            rf_jinja_put(&r->job, &a.named, rf_jinja_string(n->argument), v);
        } else {
            rf_jinja_push(&r->job, positional.list, v);
        }
    }
    a.v = positional.list->item;
    a.n = positional.list->n;
    return a;
}

/* What statements print, in a scope of their own. */
static value capture(run *r, const node *statements)
{
    buffer text_of = {0}, *out = r->out;
    r->out = &text_of;
    (void)execute(r, statements);
    r->out = out;
    return rf_jinja_string(rf_jinja_made(&text_of));
}

static value call_macro(run *r, const callable *c, const arguments *a)
{
    scope *before = r->scope;
    const value caller = r->caller;
    size_t i = 0, n_named = 0;
    r->caller = (value){.kind = UNDEFINED, .s = TEXT("caller")};
    enter_scope(r, c->scope);
    define(r, TEXT("caller"), caller);
    for (const node *p = c->macro->kid[0]; p != NULL; p = p->next, i++) {
        const value *named = rf_jinja_find(&r->job, &a->named, rf_jinja_string(p->s));
        value v = {.kind = UNDEFINED, .s = p->s};
        n_named += named != NULL;
        if (i < a->n) {
            v = a->v[i];
        } else if (named != NULL) {
            v = *named;
        } else if (p->kid[0] != NULL) {
            v = evaluate(r, p->kid[0]);
        }
        define(r, p->s, v);
    }
    if (a->n > i || n_named != a->named.n) {
        rf_jinja_fail(&r->job, "the macro \"%.*s\" has no such argument", (int)c->macro->s.n,
                      c->macro->s.at);
    }
    value v = capture(r, c->macro->kid[c->macro->syntax == S_CALL ? 2 : 1]);
    leave_scope(r, before);
    return v;
}

static value call(run *r, value callee, const arguments *a)
{
    if (callee.kind != CALLABLE) {
        rf_jinja_fail(
            &r->job, "%s%s%.*s%s cannot be called", rf_jinja_kind_name(callee),
            callee.kind == UNDEFINED ? " (\"" : "", callee.kind == UNDEFINED ? (int)callee.s.n : 0,
            callee.kind == UNDEFINED ? callee.s.at : "", callee.kind == UNDEFINED ? "\")" : "");
    }
    return callee.call->run != NULL ? callee.call->run(&r->job, callee.call->self, a)
                                    : call_macro(r, callee.call, a);
}

/* --- Expressions -------------------------------------------------------------------------------- */

/* Bound i of a slice over n elements; absent: `otherwise`. */
static int64_t slice_bound(run *r, const node *n, int64_t size, int64_t low, int64_t high,
                           int64_t otherwise)
{
    value v = n != NULL ? evaluate(r, n) : (value){.kind = NONE};
    if (v.kind == NONE) {
        return otherwise;
    }
    if (v.kind != INTEGER) {
        rf_jinja_fail(&r->job, "%s as a bound of a slice", rf_jinja_kind_name(v));
    }
    int64_t i = v.i < 0 && v.i >= -size ? v.i + size : v.i;
    return i < low ? low : i > high ? high : i;
}

static value slice(run *r, const node *n)
{
    value all = evaluate(r, n->kid[0]);
    if (all.kind != STRING && all.kind != LIST) {
        rf_jinja_fail(&r->job, "%s has no slices", rf_jinja_kind_name(all));
    }
    value step = n->kid[3] != NULL ? evaluate(r, n->kid[3]) : rf_jinja_integer(1);
    int64_t by = step.kind == INTEGER ? step.i : step.kind == NONE ? 1 : 0;
    if (by == 0 || by == INT64_MIN) {
        rf_jinja_fail(&r->job, "a slice with a wrong step");
    }
    const int64_t size =
        all.kind == LIST ? (int64_t)all.list->n : (int64_t)rf_jinja_length(&r->job, all.s);
    const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? size : size - 1;
    int64_t begin = slice_bound(r, n->kid[1], size, low, high, by > 0 ? low : high);
    int64_t end = slice_bound(r, n->kid[2], size, low, high, by > 0 ? high : low);
    if (all.kind == STRING && by == 1) {
        return rf_jinja_string(
            rf_jinja_slice(all.s, (size_t)begin, end > begin ? (size_t)(end - begin) : 0));
    }
    const list *l = rf_jinja_items(&r->job, all);
    value part = rf_jinja_new_list(&r->job, 8);
    for (int64_t i = begin; by > 0 ? i < end : i > end;) {
        rf_jinja_push(&r->job, part.list, l->item[i]);
        if (__builtin_add_overflow(i, by, &i)) {
            break;
        }
    }
    if (all.kind == LIST) {
        part.list->is_tuple = l->is_tuple;
        return part;
    }
    buffer b = {0};
    for (size_t i = 0; i < part.list->n; i++) {
        rf_jinja_add(&r->job, &b, part.list->item[i].s);
    }
    return rf_jinja_string(rf_jinja_made(&b));
}

static value evaluate_list(run *r, const node *n)
{
    value l = rf_jinja_new_list(&r->job, 4);
    l.list->is_tuple = n->op;
    for (const node *item = n->kid[0]; item != NULL; item = item->next) {
        rf_jinja_push(&r->job, l.list, evaluate(r, item));
    }
    return l;
}

static value evaluate_dict(run *r, const node *n)
{
    value d = rf_jinja_new_dict(&r->job, DICT);
    for (const node *key = n->kid[0]; key != NULL; key = key->next->next) {
        value k = evaluate(r, key);
        rf_jinja_put(&r->job, d.dict, k, evaluate(r, key->next));
    }
    return d;
}

static value evaluate_kind(run *r, const node *n)
{
    arguments a;
    value v;
    switch (n->syntax) {
    case E_CONSTANT:
        return n->constant;
    case E_NAME:
        return look_up(r, n->s);
    case E_LIST:
        return evaluate_list(r, n);
    case E_DICT:
        return evaluate_dict(r, n);
    case E_ATTRIBUTE:
        return rf_jinja_attribute(&r->job, evaluate(r, n->kid[0]), n->s);
    case E_ELEMENT:
        v = evaluate(r, n->kid[0]);
        return rf_jinja_element(&r->job, v, evaluate(r, n->kid[1]));
    case E_SLICE:
        return slice(r, n);
    case E_CALL:
        v = evaluate(r, n->kid[0]);
        a = evaluate_arguments(r, n->kid[1]);
        r->job.line = n->line;
        return call(r, v, &a);
    case E_FILTER:
    case E_TEST:
        v = evaluate(r, n->kid[0]);
        a = evaluate_arguments(r, n->kid[1]);
        r->job.line = n->line;
        return (n->syntax == E_FILTER ? rf_jinja_filter(n->s) : rf_jinja_test(n->s))(&r->job, v,
                                                                                     &a);
    case E_NOT:
        return rf_jinja_boolean(!rf_jinja_truth(evaluate(r, n->kid[0])));
    case E_NEGATE:
        return rf_jinja_negate(&r->job, evaluate(r, n->kid[0]));
    case E_AND:
        v = evaluate(r, n->kid[0]);
        return rf_jinja_truth(v) ? evaluate(r, n->kid[1]) : v;
    case E_OR:
        v = evaluate(r, n->kid[0]);
        return rf_jinja_truth(v) ? v : evaluate(r, n->kid[1]);
    case E_IF:
        if (rf_jinja_truth(evaluate(r, n->kid[0]))) {
            return evaluate(r, n->kid[1]);
        }
        return n->kid[2] != NULL ? evaluate(r, n->kid[2]) : (value){.kind = UNDEFINED};
    case E_BINARY:
        v = evaluate(r, n->kid[0]);
        return rf_jinja_calculate(&r->job, n->op, v, evaluate(r, n->kid[1]));
    default:
        RF_ASSERT(n->syntax == E_COMPARE);
        v = evaluate(r, n->kid[0]);
        return rf_jinja_boolean(rf_jinja_compare(&r->job, n->op, v, evaluate(r, n->kid[1])));
    }
}

static value evaluate(run *r, const node *n)
{
    rf_jinja_step(&r->job, 1);
    rf_jinja_enter(&r->job);
    r->job.line = n->line;
    value v = evaluate_kind(r, n);
    r->job.depth--;
    return v;
}

/* --- Statements --------------------------------------------------------------------------------- */

static value cycle(job *j, value self, const arguments *a)
{
    const value *at = rf_jinja_find(j, self.dict, rf_jinja_string(TEXT("index0")));
    if (a->n == 0) {
        rf_jinja_fail(j, "loop.cycle needs values");
    }
    return a->v[(size_t)at->i % a->n];
}

/* What a template may ask about a loop at element i. */
static value describe(run *r, const list *l, size_t i)
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
                  {TEXT("cycle"), rf_jinja_callable(j, cycle, loop)}};
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
    list *all = rf_jinja_items(&r->job, evaluate(r, n->kid[1]));
    if (n->kid[4] == NULL) {
        return all;
    }
    scope *before = r->scope;
    list *chosen = rf_jinja_new_list(&r->job, all->n).list;
    for (size_t i = 0; i < all->n; i++) {
        enter_scope(r, before);
        assign(r, n->kid[0], all->item[i]);
        if (rf_jinja_truth(evaluate(r, n->kid[4]))) {
            rf_jinja_push(&r->job, chosen, all->item[i]);
        }
        leave_scope(r, before);
    }
    return chosen;
}

/* What the body sets is gone at the end of each round: a scope for each. */
static flow loop(run *r, const node *n)
{
    scope *before = r->scope;
    const list *l = chosen_items(r, n);
    for (size_t i = 0; i < l->n; i++) {
        enter_scope(r, before);
        define(r, TEXT("loop"), describe(r, l, i));
        assign(r, n->kid[0], l->item[i]);
        const flow end = execute(r, n->kid[2]);
        leave_scope(r, before);
        if (end == BREAK) {
            return GO_ON;
        }
    }
    return l->n == 0 ? execute(r, n->kid[3]) : GO_ON;
}

static void set_captured(run *r, const node *n)
{
    scope *before = r->scope;
    enter_scope(r, before);
    value printed = capture(r, n->kid[1]);
    define(r, TEXT(""), printed);
    value v = evaluate(r, n->kid[2]);
    leave_scope(r, before);
    if (n->kid[0] != NULL) {
        assign(r, n->kid[0], v);
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
    enter_scope(r, before);
    (void)execute(r, n->kid[0]);
    const flow end = execute(r, n->kid[1]);
    leave_scope(r, before);
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
        rf_jinja_add(&r->job, r->out, rf_jinja_text(&r->job, evaluate(r, n->kid[0])));
        return GO_ON;
    case S_IF:
        return execute(r, rf_jinja_truth(evaluate(r, n->kid[0])) ? n->kid[1] : n->kid[2]);
    case S_FOR:
        return loop(r, n);
    case S_SET:
        assign(r, n->kid[0], evaluate(r, n->kid[1]));
        return GO_ON;
    case S_CAPTURE:
        set_captured(r, n);
        return GO_ON;
    case S_MACRO:
        define(r, n->s, new_macro(r, n));
        return GO_ON;
    case S_CALL: {
        value callee = evaluate(r, n->kid[1]->kid[0]);
        arguments a = evaluate_arguments(r, n->kid[1]->kid[1]);
        r->caller = new_macro(r, n);
        rf_jinja_add(&r->job, r->out, rf_jinja_text(&r->job, call(r, callee, &a)));
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
    t->job.most = JINJA_MOST_BYTES;
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

static void render(run *r, const node *first, const json_t *variables)
{
    const char *name;
    json_t *item;
    enter_scope(r, NULL);
    json_object_foreach((json_t *)variables, name, item)
    {
        define(r, (text){name, strlen(name)}, rf_jinja_from_json(&r->job, item));
    }
    enter_scope(r, r->scope);
    (void)execute(r, first);
}

int rf_jinja_render(const rf_jinja *template, rf_text *out, const json_t *variables,
                    const char *date, rf_error *err)
{
    rf_error unused;
    run *r = rf_alloc(1, sizeof *r); /* not on the stack, where longjmp would leave it undefined */
    r->job.origin = template->origin;
    r->job.most = JINJA_MOST_BYTES;
    r->job.err = err != NULL ? err : &unused;
    r->date = date;
    r->out = &r->printed;
    r->caller = (value){.kind = UNDEFINED, .s = TEXT("caller")};
    const bool failed = setjmp(r->job.failed) != 0;
    if (!failed) {
        render(r, template->first, variables);
        rf_text_add(out, r->printed.n > 0 ? r->printed.at : "", r->printed.n);
    }
    rf_jinja_end(&r->job);
    free(r);
    return failed ? RF_ERR : RF_OK;
}
