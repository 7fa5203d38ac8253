#include "infer/reuse.h"

#include "common/base/alloc.h"

#include <stdlib.h>
#include <string.h>

void rf_told_free(rf_told *told)
{
    free(told->logprob);
    free(told->likely);
    free(told->likely_logprob);
    *told = (rf_told){0};
}

/* --- What is common --------------------------------------------------------------------------- */

/* Tokens of a request: its prompt, and a response that is given. */
static int64_t count_tokens(const rf_request *r)
{
    return r->n_prompt + (r->given != NULL ? r->given->n : 0);
}

static int32_t token_at(const rf_request *r, int64_t i)
{
    return i < r->n_prompt ? r->prompt[i] : r->given->token[i - r->n_prompt];
}

static bool has_masks(const rf_request *r)
{
    return r->options->slot_size > 0;
}

/* Was it told what the request wants to know of the tokens that it judges? */
static bool tells(const rf_seat *seat, const rf_request *r)
{
    const rf_told *t = &seat->told;
    return r->given != NULL && t->n > 0 && t->first <= r->n_prompt &&
           t->n_likely == r->given->n_likely && t->masks == has_masks(r);
}

/* Tokens from the first on that the seat's slab holds, and that need not be computed again: the last
 * one of a prompt must be, for what comes next is predicted there, and the last one of all. */
static int64_t common(const rf_seat *seat, const rf_request *r)
{
    const int64_t most = tells(seat, r) ? count_tokens(r) - 1 : r->n_prompt - 1;
    int64_t n = 0;
    while (n < seat->sequence.n_held && n < most && seat->held.id[n] == token_at(r, n)) {
        n++;
    }
    const int64_t told = seat->told.first + seat->told.n;
    return n < r->n_prompt ? n : n < told ? n : told;
}

/* The seat with most in common; only_free: of the free ones, of which there is one at least. */
static rf_seat *find_best(rf_engine *e, const rf_request *r, bool only_free)
{
    rf_seat *best = NULL;
    int64_t most = -1;
    for (int64_t i = 0; i < e->capacity; i++) {
        rf_seat *seat = &e->seat[i];
        if (only_free && seat->request >= 0) {
            continue;
        }
        const int64_t n = e->reuses ? common(seat, r) : 0;
        /* Of equals one that holds least: others may come back for what it holds. */
        if (n > most || (n == most && seat->sequence.n_held < best->sequence.n_held)) {
            best = seat;
            most = n;
        }
    }
    return best;
}

rf_seat *rf_reuse_find_seat(rf_engine *e, const rf_request *request)
{
    return find_best(e, request, true);
}

/* --- Bringing it ------------------------------------------------------------------------------ */

static int64_t slab_at(const rf_engine *e, const rf_seat *seat)
{
    return (seat - e->seat) * e->size.slab;
}

/* What was told about the first n tokens of the response. */
static void copy_told(const rf_told *t, const rf_request *r, int64_t n)
{
    rf_given *g = r->given;
    const int64_t from = r->n_prompt - t->first, k = g->n_likely;
    memcpy(g->logprob, t->logprob + from, (size_t)n * sizeof *g->logprob);
    memcpy(g->likely, t->likely + from * k, (size_t)(n * k) * sizeof *g->likely);
    memcpy(g->likely_logprob, t->likely_logprob + from * k,
           (size_t)(n * k) * sizeof *g->likely_logprob);
}

/* The sequence goes on behind the first n tokens, some of which are of its response. By the chain rule
 * the last of them is computed again, for it predicts the next. */
static void go_on(rf_sequence *s, const rf_request *r, int64_t n)
{
    const int64_t n_given = n - r->n_prompt;
    if (n_given < 1) {
        s->n_held = n_given < 0 ? n : n - 1;
        return;
    }
    for (int64_t i = 0; i < n_given; i++) {
        s->token[i] = r->given->token[i];
        s->slot[i] = RF_SLOT_COMMITTED;
    }
    s->step = (int)(has_masks(r) ? n_given : n_given - 1);
    s->committed = s->n_held = r->n_prompt + s->step;
    s->wants_prompt = false;
}

void rf_reuse_begin(rf_engine *e, rf_seat *seat, const rf_request *request)
{
    rf_seat *from = find_best(e, request, false);
    from = common(from, request) > common(seat, request) ? from : seat;
    const int64_t n = common(from, request);
    if (from != seat) {
        rf_cache_copy(e->cache, slab_at(e, seat), slab_at(e, from), n);
    }
    if (n > request->n_prompt) {
        copy_told(&from->told, request, n - request->n_prompt);
    }
    rf_told_free(&seat->told);
    seat->held.n = 0;
    for (int64_t i = 0; i < count_tokens(request); i++) {
        rf_ids_push(&seat->held, token_at(request, i));
    }
    go_on(&seat->sequence, request, n);
    e->n_reused += n;
}

void rf_reuse_keep(const rf_engine *e, rf_seat *seat)
{
    const rf_sequence *s = &seat->sequence;
    const rf_given *g = s->given;
    if (!e->reuses || g == NULL || !s->done) {
        return;
    }
    const size_t n = (size_t)g->n, all = (size_t)(g->n * g->n_likely);
    seat->told = (rf_told){.first = s->n_prompt,
                           .n = g->n,
                           .n_likely = g->n_likely,
                           .masks = s->options->slot_size > 0,
                           .logprob = rf_alloc_copy(g->logprob, n * sizeof *g->logprob),
                           .likely = rf_alloc_copy(g->likely, all * sizeof *g->likely)};
    seat->told.likely_logprob = rf_alloc_copy(g->likely_logprob, all * sizeof *g->likely_logprob);
}
