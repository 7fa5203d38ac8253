#include "infer/pass.h"

#include "common/base/alloc.h"
#include "common/base/log.h"

#include <math.h>

/* Is more of the prompt left than a pass takes beside others? */
static bool wants_piece(const rf_engine *e, const rf_seat *seat)
{
    const rf_sequence *s = &seat->sequence;
    return e->piece > 0 && seat->options.kind->in_pieces && s->wants_prompt &&
           s->n_prompt - s->n_held > e->piece;
}

static int64_t most_places(const rf_engine *e, const rf_seat *seat)
{
    const rf_sequence *s = &seat->sequence;
    return wants_piece(e, seat)
               ? e->piece
               : seat->options.kind->most_places(&seat->options, s->n_prompt, s->wants_prompt);
}

/* The places of a sequence. True: it asks about them. */
static bool ask_sequence(rf_engine *e, rf_seat *seat)
{
    rf_sequence *s = &seat->sequence;
    const int64_t before = e->batch.n;
    const bool is_piece = wants_piece(e, seat);
    s->n_queries = s->n_guided = 0;
    s->forwards++;
    if (is_piece) {
        rf_sequence_add_piece(s, &e->batch, e->piece);
    } else {
        seat->options.kind->ask(s, &e->batch);
    }
    s->places += e->batch.n - before;
    return !is_piece;
}

/* What the sequences want computed. One that may not fit any more waits for the next pass; each
 * seat comes first in its turn. */
static void gather(rf_engine *e)
{
    rf_batch_clear(&e->batch);
    e->pace.sequences = 0;
    for (int64_t i = 0; i < e->capacity; i++) {
        e->pace.sequences += e->seat[i].request >= 0;
    }
    for (int64_t i = 0; i < e->capacity; i++) {
        rf_seat *seat = &e->seat[(e->turn + i) % e->capacity];
        seat->waits = seat->request >= 0 &&
                      most_places(e, seat) <= e->batch.capacity - e->batch.n &&
                      ask_sequence(e, seat);
    }
    e->turn = (e->turn + 1) % e->capacity;
    RF_ASSERT(e->batch.n > 0); /* the first in turn always fits */
}

/* What a repetition penalty looks at, behind what is listed already: the prompt, and the response as
 * far as it is committed. */
static void list_seen(rf_engine *e, const rf_sequence *s)
{
    if (s->options->repetition_penalty == 1) {
        return;
    }
    for (int64_t i = 0; i < s->n_prompt; i++) {
        e->seen[e->n_seen++] = s->prompt[i];
    }
    for (int64_t i = 0; i < s->n_tokens; i++) {
        if (s->slot[i / s->slot_size] == RF_SLOT_COMMITTED && s->token[i] >= 0) {
            e->seen[e->n_seen++] = s->token[i];
        }
    }
}

/* Logits divided by a lower one overflow: it draws as 0 does. */
static const double LEAST_TEMPERATURE = 1e-300;

/* How a draft is drawn; what the sequence has seen begins at `seen`. Each cycle of a completion takes
 * the next number of the place's stream. */
static rf_draw rule_of(const rf_engine *e, const rf_sequence *s, const rf_query *q, int64_t seen)
{
    const rf_decode_options *o = s->options;
    rf_rng rng = rf_sequence_rng(s, q->at);
    rf_draw draw = {.seen = (int32_t)seen,
                    .n_seen = (int32_t)(e->n_seen - seen),
                    .penalty = o->repetition_penalty,
                    .temperature = o->temperature < LEAST_TEMPERATURE ? 0 : o->temperature,
                    .top_k = o->top_k,
                    .tail = o->tail,
                    .min_p = o->min_p};
    for (int64_t i = 0; i <= s->cycle; i++) {
        draw.key = rf_rng_u64(&rng);
    }
    return draw;
}

/* The queries of one sequence go to the head, from number n on. Returns the number of the next. */
static int64_t take_queries(rf_engine *e, int64_t n, rf_sequence *s)
{
    const int64_t seen = e->n_seen;
    list_seen(e, s);
    for (int64_t j = 0; j < s->n_queries; j++, n++) {
        rf_query *q = &s->query[j];
        e->asked[n] = q;
        e->row[n] = q->row;
        e->target[n] = q->kind >= RF_QUERY_PROBABILITY ? q->token : -1;
        e->draw[n] = q->kind == RF_QUERY_DRAFT ? rule_of(e, s, q, seen) : (rf_draw){0};
    }
    return n;
}

/* A token that may be produced? */
static bool is_usable(const rf_engine *e, int32_t id)
{
    for (int32_t i = 0; i < e->n_banned; i++) {
        if (e->banned[i] == id) {
            return false;
        }
    }
    return id < rf_tokenizer_size(e->tokenizer);
}

/* The k likeliest of the logits, whose target has this log-probability: descending, among equals the
 * lower id first. */
static void rank(const rf_engine *e, int32_t *token, double *logprob, int64_t k,
                 const double *logits, int32_t target, double target_logprob)
{
    int64_t n = 0;
    for (int32_t id = 0; id < e->model->config.vocab_size; id++) {
        const double own = target_logprob + (logits[id] - logits[target]);
        if ((n == k && own <= logprob[k - 1]) || !is_usable(e, id)) {
            continue;
        }
        int64_t at = n < k ? n++ : k - 1;
        for (; at > 0 && logprob[at - 1] < own; at--) {
            token[at] = token[at - 1];
            logprob[at] = logprob[at - 1];
        }
        token[at] = id;
        logprob[at] = own;
    }
    for (; n < k; n++) {
        token[n] = -1;
        logprob[n] = -(double)INFINITY;
    }
}

/* Of queries [first, n) of one sequence, all RF_QUERY_GIVEN, which ask for several. */
static int rank_rows(rf_engine *e, const rf_given *g, int64_t first, int64_t n, rf_error *err)
{
    const int64_t V = e->model->config.vocab_size, k = g->n_likely;
    if (e->logits == NULL) {
        e->logits = rf_alloc((size_t)(RF_ENGINE_RANKED * V), sizeof *e->logits);
    }
    for (int64_t j = first; j < n; j += RF_ENGINE_RANKED) {
        const int64_t rows = n - j < RF_ENGINE_RANKED ? n - j : RF_ENGINE_RANKED;
        RF_TRY(rf_model_logits(e->model, e->acts, e->logits, &e->row[j], rows, err));
        for (int64_t r = 0; r < rows; r++) {
            const int64_t at = e->asked[j + r]->at;
            rank(e, &g->likely[at * k], &g->likely_logprob[at * k], k, e->logits + r * V,
                 e->target[j + r], g->logprob[at]);
        }
    }
    return RF_OK;
}

/* What the head said about the response that a sequence judges: queries from `first` on. */
static int take_given(rf_engine *e, const rf_sequence *s, int64_t first, rf_error *err)
{
    const rf_given *g = s->given;
    for (int64_t j = first; j < first + s->n_queries; j++) {
        const int64_t at = e->asked[j]->at;
        g->logprob[at] = e->logprob[j];
        if (g->n_likely == 1) { /* the target's own digits, where it is the likeliest */
            const double likeliest = log(e->score[j]);
            g->likely[at] = e->token[j];
            g->likely_logprob[at] = e->token[j] == e->target[j] || likeliest < e->logprob[j]
                                        ? e->logprob[j]
                                        : likeliest;
        }
    }
    return g->n_likely > 1 ? rank_rows(e, g, first, first + s->n_queries, err) : RF_OK;
}

/* What the head said goes to those who asked. */
static int give_answers(rf_engine *e, int64_t n, bool bans_ends, rf_error *err)
{
    for (int64_t j = 0; j < n; j++) {
        rf_query *q = e->asked[j];
        const bool is_drawn = e->target[j] < 0;
        q->p = is_drawn ? e->score[j] : exp(e->logprob[j]);
        q->token = is_drawn ? e->token[j] : e->target[j];
        if (q->measure != RF_MEASURE_NONE) {
            q->measured = q->measure == RF_MEASURE_SECOND ? e->second[j] : e->entropy[j];
        }
    }
    for (int64_t i = 0, first = 0; i < e->capacity; i++) {
        const rf_seat *seat = &e->seat[i];
        if (seat->waits && seat->options.bans_ends == bans_ends) {
            RF_TRY(seat->sequence.given != NULL ? take_given(e, &seat->sequence, first, err)
                                                : RF_OK);
            first += seat->sequence.n_queries;
        }
    }
    return RF_OK;
}

/* The queries of all sequences that ban ends of text, or of the others; the head is asked only for
 * kinds of answers that one of them wants. */
static int ask_head(rf_engine *e, bool bans_ends, rf_error *err)
{
    int64_t n = 0, n_targets = 0, n_tokens = 0, n_measures[RF_MEASURE_ENTROPY + 1] = {0};
    e->n_seen = 0;
    for (int64_t i = 0; i < e->capacity; i++) {
        if (e->seat[i].waits && e->seat[i].options.bans_ends == bans_ends) {
            n = take_queries(e, n, &e->seat[i].sequence);
        }
    }
    if (n == 0) {
        return RF_OK;
    }
    for (int64_t j = 0; j < n; j++) {
        n_targets += e->target[j] >= 0;
        n_tokens += e->target[j] < 0 || e->asked[j]->kind == RF_QUERY_GIVEN;
        n_measures[e->asked[j]->measure]++;
    }
    const rf_model_question question = {
        .n = n,
        .place = e->row,
        .target = e->target,
        .draw = e->draw,
        .banned = e->banned,
        .n_banned = bans_ends ? e->n_banned_ends : e->n_banned,
        .n_usable = rf_tokenizer_size(e->tokenizer),
        .seen = e->seen,
        .n_seen = e->n_seen,
        .token = n_tokens > 0 ? e->token : NULL,
        .score = e->score,
        .logprob = n_targets > 0 ? e->logprob : NULL,
        .second = n_measures[RF_MEASURE_SECOND] > 0 ? e->second : NULL,
        .entropy = n_measures[RF_MEASURE_ENTROPY] > 0 ? e->entropy : NULL,
    };
    RF_TRY(rf_model_query(e->model, e->acts, &question, err));
    return give_answers(e, n, bans_ends, err);
}

static void guide(rf_engine *e)
{
    for (int64_t i = 0; i < e->capacity; i++) {
        const rf_sequence *s = &e->seat[i].sequence;
        if (e->seat[i].waits && s->n_guided > 0) {
            rf_model_guide(e->model, e->acts, s->guided, s->unguided, s->n_guided, s->options->cfg);
        }
    }
}

int rf_pass_run(rf_engine *e, rf_error *err)
{
    gather(e);
    double begin = rf_log_seconds();
    RF_TRY(rf_model_forward(e->model, e->acts, &e->batch, e->cache, err));
    guide(e);
    for (bool more = true, first = true; more; first = false) {
        RF_TRY(ask_head(e, false, err));
        RF_TRY(ask_head(e, true, err));
        if (first) {
            rf_pace_take_pass(&e->pace, e->batch.n, rf_log_seconds() - begin);
        }
        more = false;
        for (int64_t i = 0; i < e->capacity; i++) {
            rf_seat *seat = &e->seat[i];
            seat->waits = seat->waits && seat->options.kind->tell(&seat->sequence);
            more |= seat->waits;
        }
    }
    return RF_OK;
}
