/* Names, scopes and expressions of a rendering. */
#include "common/text/jinja/builtins.h"
#include "common/text/jinja/run.h"

const char *rf_jinja_date(job *j)
{
    return ((run *)j)->date;
}

const struct tm *rf_jinja_day(job *j)
{
    return ((run *)j)->day;
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
    if (rf_jinja_is(name, "self")) {
        rf_jinja_fail(&r->job, "self, by which a template calls its blocks, is not supported");
    }
    builtin *function = rf_jinja_function(name);
    return function != NULL ? rf_jinja_callable(&r->job, function, (value){.kind = UNDEFINED})
                            : (value){.kind = UNDEFINED, .s = name};
}

void rf_jinja_enter_scope(run *r, scope *outer)
{
    scope *s = rf_jinja_take(&r->job, sizeof *s);
    s->outer = outer;
    r->scope = s;
    rf_jinja_enter(&r->job);
}

void rf_jinja_leave_scope(run *r, scope *before)
{
    r->scope = before;
    r->job.depth--;
}

void rf_jinja_define(run *r, text name, value v)
{
    rf_jinja_put(&r->job, &r->scope->names, rf_jinja_string(name), v);
}

void rf_jinja_assign(run *r, const node *target, value v)
{
    if (target->syntax == E_NAME) {
        rf_jinja_define(r, target->s, v);
    } else if (target->syntax == E_ATTRIBUTE) {
        value space = rf_jinja_evaluate(r, target->kid[0]);
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
            rf_jinja_assign(r, t, l->item[i]);
        }
        if (i != l->n) {
            rf_jinja_fail(&r->job, "%zu values for %zu names", l->n, i);
        }
    }
}

/* --- Calls -------------------------------------------------------------------------------------- */

arguments rf_jinja_evaluate_arguments(run *r, const node *first)
{
    arguments a = {0};
    value positional = rf_jinja_new_list(&r->job, 4);
    for (const node *n = first; n != NULL; n = n->next) {
        value v = rf_jinja_evaluate(r, n);
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

static value call_macro(run *r, const callable *c, const arguments *a)
{
    scope *before = r->scope;
    const value caller = r->caller;
    size_t i = 0, n_named = 0;
    r->caller = (value){.kind = UNDEFINED, .s = TEXT("caller")};
    rf_jinja_enter_scope(r, c->scope);
    rf_jinja_define(r, TEXT("caller"), caller);
    for (const node *p = c->macro->kid[0]; p != NULL; p = p->next, i++) {
        const value *named = rf_jinja_find(&r->job, &a->named, rf_jinja_string(p->s));
        value v = {.kind = UNDEFINED, .s = p->s};
        n_named += named != NULL;
        if (i < a->n) {
            v = a->v[i];
        } else if (named != NULL) {
            v = *named;
        } else if (p->kid[0] != NULL) {
            v = rf_jinja_evaluate(r, p->kid[0]);
        }
        rf_jinja_define(r, p->s, v);
    }
    if (a->n > i || n_named != a->named.n) {
        rf_jinja_fail(&r->job, "the macro \"%.*s\" has no such argument", QUOTE(c->macro->s));
    }
    value v = rf_jinja_capture(r, c->macro->kid[c->macro->syntax == S_CALL ? 2 : 1]);
    rf_jinja_leave_scope(r, before);
    return v;
}

value rf_jinja_call(run *r, value callee, const arguments *a)
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
    value v = n != NULL ? rf_jinja_evaluate(r, n) : (value){.kind = NONE};
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
    value all = rf_jinja_evaluate(r, n->kid[0]);
    if (all.kind != STRING && all.kind != LIST) {
        rf_jinja_fail(&r->job, "%s has no slices", rf_jinja_kind_name(all));
    }
    value step = n->kid[3] != NULL ? rf_jinja_evaluate(r, n->kid[3]) : rf_jinja_integer(1);
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
    return rf_jinja_join(&r->job, part.list, TEXT(""), (value){.kind = UNDEFINED});
}

static value evaluate_list(run *r, const node *n)
{
    value l = rf_jinja_new_list(&r->job, 4);
    l.list->is_tuple = n->op;
    for (const node *item = n->kid[0]; item != NULL; item = item->next) {
        rf_jinja_push(&r->job, l.list, rf_jinja_evaluate(r, item));
    }
    return l;
}

static value evaluate_dict(run *r, const node *n)
{
    value d = rf_jinja_new_dict(&r->job, DICT);
    for (const node *key = n->kid[0]; key != NULL; key = key->next->next) {
        value k = rf_jinja_evaluate(r, key);
        rf_jinja_put(&r->job, d.dict, k, rf_jinja_evaluate(r, key->next));
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
        return rf_jinja_attribute(&r->job, rf_jinja_evaluate(r, n->kid[0]), n->s);
    case E_ELEMENT:
        v = rf_jinja_evaluate(r, n->kid[0]);
        return rf_jinja_element(&r->job, v, rf_jinja_evaluate(r, n->kid[1]));
    case E_SLICE:
        return slice(r, n);
    case E_CALL:
        v = rf_jinja_evaluate(r, n->kid[0]);
        a = rf_jinja_evaluate_arguments(r, n->kid[1]);
        r->job.line = n->line;
        return rf_jinja_call(r, v, &a);
    case E_FILTER:
    case E_TEST:
        v = rf_jinja_evaluate(r, n->kid[0]);
        a = rf_jinja_evaluate_arguments(r, n->kid[1]);
        r->job.line = n->line;
        return rf_jinja_named(&r->job, n)(&r->job, v, &a);
    case E_NOT:
        return rf_jinja_boolean(!rf_jinja_truth(rf_jinja_evaluate(r, n->kid[0])));
    case E_NEGATE:
        return rf_jinja_negate(&r->job, rf_jinja_evaluate(r, n->kid[0]));
    case E_AND:
        v = rf_jinja_evaluate(r, n->kid[0]);
        return rf_jinja_truth(v) ? rf_jinja_evaluate(r, n->kid[1]) : v;
    case E_OR:
        v = rf_jinja_evaluate(r, n->kid[0]);
        return rf_jinja_truth(v) ? v : rf_jinja_evaluate(r, n->kid[1]);
    case E_IF:
        if (rf_jinja_truth(rf_jinja_evaluate(r, n->kid[0]))) {
            return rf_jinja_evaluate(r, n->kid[1]);
        }
        return n->kid[2] != NULL ? rf_jinja_evaluate(r, n->kid[2]) : (value){.kind = UNDEFINED};
    case E_BINARY:
        v = rf_jinja_evaluate(r, n->kid[0]);
        return rf_jinja_calculate(&r->job, n->op, v, rf_jinja_evaluate(r, n->kid[1]));
    default:
        RF_ASSERT(n->syntax == E_COMPARE);
        v = rf_jinja_evaluate(r, n->kid[0]);
        return rf_jinja_boolean(
            rf_jinja_compare(&r->job, n->op, v, rf_jinja_evaluate(r, n->kid[1])));
    }
}

value rf_jinja_evaluate(run *r, const node *n)
{
    rf_jinja_step(&r->job, 1);
    rf_jinja_enter(&r->job);
    r->job.line = n->line;
    value v = evaluate_kind(r, n);
    r->job.depth--;
    return v;
}
