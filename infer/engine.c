#include "infer/engine.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "infer/decode/stop.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

void rf_answer_free(rf_answer *answer)
{
    free(answer->token);
    *answer = (rf_answer){0};
}

char *rf_answer_text(const rf_answer *answer, size_t *bytes, const rf_tokenizer *tokenizer)
{
    const char *const stops[] = {answer->stop, NULL};
    char *text = rf_tokenizer_decode(tokenizer, bytes, answer->token, answer->n, true);
    (void)rf_stops_find(bytes, text, *bytes, stops);
    text[*bytes] = '\0';
    return text;
}

/* --- Sizes and memory ------------------------------------------------------------------------- */

/* With so many places arithmetic bounds the products, no longer the bytes of the weights: a larger
 * pass would take more memory and no less time for each place. */
enum { ENOUGH_PLACES = 256 };

static int64_t slab_of(const rf_decode_options *o, int64_t n_prompt)
{
    return o->kind->slab != NULL ? o->kind->slab(o, n_prompt) : n_prompt + o->gen_length;
}

rf_model_limits rf_engine_limits(const rf_decode_options *options, int64_t max_prompt,
                                 int64_t capacity)
{
    rf_decode_options o = *options;
    if (rf_decode_options_resolve(&o, NULL) != RF_OK) {
        o.block_length = o.gen_length; /* rf_engine_new says what is wrong with them */
    }
    int64_t first = o.kind->most_places(&o, max_prompt, true);
    int64_t one = o.kind->most_places(&o, max_prompt, false), all = capacity * one;
    int64_t enough = one > ENOUGH_PLACES ? one : ENOUGH_PLACES;
    int64_t beside = first > one ? first - one : 0; /* the first pass of one, beside others */
    return (rf_model_limits){.places = beside + (all < enough ? all : enough),
                             .keys = capacity * slab_of(&o, max_prompt),
                             .positions = max_prompt + o.gen_length};
}

/* The model's vocabulary, context and special tokens must fit what is asked. */
static int check(const rf_engine *e, rf_error *err)
{
    const rf_specials *special = rf_tokenizer_specials(e->tokenizer);
    int64_t n_tokens = rf_tokenizer_size(e->tokenizer);
    rf_model_limits need = rf_engine_limits(&e->options, e->max_prompt, e->capacity);

    if (e->max_prompt < 1 || e->capacity < 1) {
        return rf_error_set(err, RF_ERR,
                            "%" PRId64 " prompts of at most %" PRId64 " tokens: give 1 or more",
                            e->capacity, e->max_prompt);
    }
    if (n_tokens > e->model->config.vocab_size) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has %" PRId64
                            " tokens and the model's vocab_size is %" PRId64
                            ": use the tokenizer that the model was trained with",
                            n_tokens, e->model->config.vocab_size);
    }
    if (e->options.kind->needs_mask && special->mask < 0) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has no mask token, which decode.kind=%s needs: take ar",
                            rf_decoder_name(e->options.kind));
    }
    if (special->n_eos < 1) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has no end-of-text token: answers could not end");
    }
    if (need.positions > e->model->n_positions) {
        return rf_error_set(
            err, RF_ERR,
            "a prompt of up to %" PRId64 " tokens and decode.gen_length %" PRId64 " need %" PRId64
            " positions, the model has %" PRId64 ": lower decode.gen_length",
            e->max_prompt, e->options.gen_length, need.positions, e->model->n_positions);
    }
    return RF_OK;
}

static void make_seats(rf_engine *e)
{
    size_t most = (size_t)e->batch.capacity;
    e->asked = rf_alloc(most, sizeof(rf_query *));
    e->row = rf_alloc(most, sizeof *e->row);
    e->target = rf_alloc(most, sizeof *e->target);
    e->token = rf_alloc(most, sizeof *e->token);
    e->draw = rf_alloc(most, sizeof *e->draw);
    e->score = rf_alloc(most, sizeof *e->score);
    e->logprob = rf_alloc(most, sizeof *e->logprob);
    e->seen = rf_alloc((size_t)e->acts->keys, sizeof *e->seen);
    e->second = rf_alloc(most, sizeof *e->second);
    e->entropy = rf_alloc(most, sizeof *e->entropy);
    e->seat = rf_alloc((size_t)e->capacity, sizeof *e->seat);
    for (int64_t i = 0; i < e->capacity; i++) {
        rf_sequence_new(&e->seat[i].sequence, &e->options, e->tokenizer,
                        i * slab_of(&e->options, e->max_prompt));
        e->seat[i].sequence.pace = e->options.plan_measured ? &e->pace : NULL;
        e->seat[i].request = -1;
    }
    rf_pace_new(&e->pace, e->seat[0].sequence.n_slots);
}

static void ban(rf_engine *e, int32_t id)
{
    if (id >= 0) {
        e->banned[e->n_banned++] = id;
    }
}

int rf_engine_new(rf_engine **out, rf_model *model, const rf_tokenizer *tokenizer,
                  const rf_decode_options *options, int64_t max_prompt, int64_t capacity,
                  rf_error *err)
{
    const rf_specials *special = rf_tokenizer_specials(tokenizer);
    rf_engine *e = rf_alloc(1, sizeof *e);
    int rc;

    *out = NULL;
    *e = (rf_engine){.model = model,
                     .tokenizer = tokenizer,
                     .options = *options,
                     .decoder = options->kind,
                     .max_prompt = max_prompt,
                     .capacity = capacity};
    RF_TRY_OUT(rf_decode_options_resolve(&e->options, err));
    RF_TRY_OUT(check(e, err));
    rf_model_limits need = rf_engine_limits(&e->options, max_prompt, capacity);
    RF_TRY_OUT(rf_cache_new(&e->cache, model, need.keys, err));
    RF_TRY_OUT(rf_acts_new(&e->acts, model, need.places, need.keys, false, RF_RECOMPUTE_NONE, err));
    RF_TRY_OUT(rf_batch_new(&e->batch, need.places, err));
    ban(e, special->mask);
    ban(e, special->begin);
    for (int i = 0; e->options.bans_ends && i < special->n_eos; i++) {
        ban(e, special->eos[i]);
    }
    make_seats(e);
    *out = e;
    return RF_OK;
out:
    rf_engine_free(e);
    return rc;
}

void rf_engine_free(rf_engine *e)
{
    if (e == NULL) {
        return;
    }
    for (int64_t i = 0; i < e->capacity && e->seat != NULL; i++) {
        rf_sequence_free(&e->seat[i].sequence);
    }
    rf_batch_free(&e->batch);
    rf_acts_free(e->acts);
    rf_cache_free(e->cache);
    rf_pace_free(&e->pace);
    free(e->seat);
    free(e->asked);
    free(e->row);
    free(e->target);
    free(e->token);
    free(e->draw);
    free(e->seen);
    free(e->score);
    free(e->logprob);
    free(e->second);
    free(e->entropy);
    free(e);
}

/* --- One pass --------------------------------------------------------------------------------- */

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
        rf_sequence *s = &seat->sequence;
        int64_t most = e->decoder->most_places(&e->options, s->n_prompt, s->wants_prompt);
        seat->waits = seat->request >= 0 && most <= e->batch.capacity - e->batch.n;
        if (seat->waits) {
            const int64_t before = e->batch.n;
            s->n_queries = s->n_guided = 0;
            s->forwards++;
            e->decoder->ask(s, &e->batch);
            s->places += e->batch.n - before;
        }
    }
    e->turn = (e->turn + 1) % e->capacity;
    RF_ASSERT(e->batch.n > 0); /* the first in turn always fits */
}

/* What a repetition penalty looks at, behind what is listed already: the prompt, and the response as
 * far as it is committed. */
static void list_seen(rf_engine *e, const rf_sequence *s)
{
    if (e->options.repetition_penalty == 1) {
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

/* How a draft is drawn; what the sequence has seen begins at `seen`. Each cycle of a completion takes
 * the next number of the place's stream. */
static rf_draw rule_of(const rf_engine *e, const rf_sequence *s, const rf_query *q, int64_t seen)
{
    const rf_decode_options *o = &e->options;
    rf_rng rng = rf_sequence_rng(s, q->at);
    rf_draw draw = {.seen = (int32_t)seen,
                    .n_seen = (int32_t)(e->n_seen - seen),
                    .penalty = o->repetition_penalty,
                    .temperature = o->temperature,
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
        e->target[n] = q->kind == RF_QUERY_PROBABILITY ? q->token : -1;
        e->draw[n] = q->kind == RF_QUERY_DRAFT ? rule_of(e, s, q, seen) : (rf_draw){0};
    }
    return n;
}

/* All queries at once; the head is asked only for kinds of answers that one of them wants. */
static int ask_head(rf_engine *e, rf_error *err)
{
    int64_t n = 0, n_targets = 0, n_measures[RF_MEASURE_ENTROPY + 1] = {0};
    e->n_seen = 0;
    for (int64_t i = 0; i < e->capacity; i++) {
        if (e->seat[i].waits) {
            n = take_queries(e, n, &e->seat[i].sequence);
        }
    }
    for (int64_t j = 0; j < n; j++) {
        n_targets += e->target[j] >= 0;
        n_measures[e->asked[j]->measure]++;
    }
    const rf_model_question question = {
        .n = n,
        .place = e->row,
        .target = e->target,
        .draw = e->draw,
        .banned = e->banned,
        .n_banned = e->n_banned,
        .n_usable = rf_tokenizer_size(e->tokenizer),
        .seen = e->seen,
        .n_seen = e->n_seen,
        .token = n_targets < n ? e->token : NULL,
        .score = e->score,
        .logprob = n_targets > 0 ? e->logprob : NULL,
        .second = n_measures[RF_MEASURE_SECOND] > 0 ? e->second : NULL,
        .entropy = n_measures[RF_MEASURE_ENTROPY] > 0 ? e->entropy : NULL,
    };
    RF_TRY(rf_model_query(e->model, e->acts, &question, err));
    for (int64_t j = 0; j < n; j++) {
        rf_query *q = e->asked[j];
        const bool is_drawn = e->target[j] < 0;
        q->p = is_drawn ? e->score[j] : exp(e->logprob[j]);
        q->token = is_drawn ? e->token[j] : e->target[j];
        if (q->measure != RF_MEASURE_NONE) {
            q->measured = q->measure == RF_MEASURE_SECOND ? e->second[j] : e->entropy[j];
        }
    }
    return RF_OK;
}

static void guide(rf_engine *e)
{
    for (int64_t i = 0; i < e->capacity; i++) {
        const rf_sequence *s = &e->seat[i].sequence;
        if (e->seat[i].waits && s->n_guided > 0) {
            rf_model_guide(e->model, e->acts, s->guided, s->unguided, s->n_guided, e->options.cfg);
        }
    }
}

static int run_pass(rf_engine *e, rf_error *err)
{
    gather(e);
    double begin = rf_log_seconds();
    RF_TRY(rf_model_forward(e->model, e->acts, &e->batch, e->cache, err));
    guide(e);
    for (bool more = true, first = true; more; first = false) {
        RF_TRY(ask_head(e, err));
        if (first) {
            rf_pace_take_pass(&e->pace, e->batch.n, rf_log_seconds() - begin);
        }
        more = false;
        for (int64_t i = 0; i < e->capacity; i++) {
            rf_seat *seat = &e->seat[i];
            seat->waits = seat->waits && e->decoder->tell(&seat->sequence);
            more |= seat->waits;
        }
    }
    return RF_OK;
}

/* --- Running ---------------------------------------------------------------------------------- */

static int take_seat(rf_engine *e, rf_seat *seat, const rf_request *request, int64_t number,
                     rf_error *err)
{
    if (request->n_prompt < 1 || request->n_prompt > e->max_prompt) {
        return rf_error_set(err, RF_ERR,
                            "the prompt has %" PRId64 " tokens: this decoder takes 1 to %" PRId64,
                            request->n_prompt, e->max_prompt);
    }
    RF_TRY(rf_stops_check(request->stops, err));
    rf_sequence_begin(&seat->sequence, request->prompt, request->n_prompt, request->index);
    seat->sequence.observer = request->observer;
    seat->sequence.user = request->user;
    seat->request = number;
    seat->stops = request->stops;
    seat->cancel = request->cancel;
    seat->n_searched = 0;
    seat->begin = rf_log_seconds();
    return RF_OK;
}

static bool is_cancelled(const rf_seat *seat)
{
    return seat->cancel != NULL && *seat->cancel != 0;
}

/* Looks for stop strings in the tokens that have become fixed since the last pass. True: with token
 * n_searched - 1 one is complete. */
static bool is_stopped(rf_seat *seat)
{
    const rf_sequence *s = &seat->sequence;
    const int64_t n_fixed = seat->stops != NULL ? rf_sequence_fixed(s) : 0;
    bool stopped = false;
    while (seat->n_searched < n_fixed && !stopped) {
        stopped = rf_stops_reached(s->tokenizer, s->token, ++seat->n_searched, seat->stops);
    }
    return stopped;
}

static const char *find_stop(const rf_seat *seat)
{
    size_t bytes, begin;
    char *text = rf_tokenizer_decode(seat->sequence.tokenizer, &bytes, seat->sequence.token,
                                     seat->n_searched, true);
    const int number = rf_stops_find(&begin, text, bytes, seat->stops);
    free(text);
    RF_ASSERT(number >= 0);
    return seat->stops[number];
}

/* The answer is what stands before the first end of text by position; slots committed behind it in
 * earlier rounds are cut off. */
static void leave_seat(rf_seat *seat, bool stopped, rf_answer *out)
{
    const rf_sequence *s = &seat->sequence;
    const int64_t n = stopped ? seat->n_searched : s->done ? s->n_tokens : rf_sequence_fixed(s);
    out->n = rf_sequence_cut(s, s->token, n, &out->ended);
    out->stop = stopped ? find_stop(seat) : NULL;
    out->cancelled = !stopped && !s->done && !out->ended;
    out->token = rf_alloc_copy(s->token, (size_t)out->n * sizeof *out->token);
    for (int64_t i = 0; i < out->n; i++) {
        RF_ASSERT(out->token[i] >= 0);
    }
    out->forwards = s->forwards;
    out->places = s->places;
    out->rounds = s->rounds;
    out->seconds = rf_log_seconds() - seat->begin;
    seat->request = -1;
    rf_sequence_notify(s, RF_EVENT_END);
}

int rf_engine_run(rf_engine *e, rf_answer *answer, const rf_request *request, int64_t n,
                  rf_engine_done done, void *user, rf_error *err)
{
    int64_t next = 0, n_done = 0;
    int rc = RF_OK;

    for (int64_t i = 0; i < n; i++) {
        answer[i] = (rf_answer){0};
    }
    while (n_done < n) {
        for (int64_t i = 0; i < e->capacity && next < n; i++) {
            if (e->seat[i].request < 0) {
                RF_TRY_OUT(take_seat(e, &e->seat[i], &request[next], next, err));
                next++;
            }
        }
        RF_TRY_OUT(run_pass(e, err));
        for (int64_t i = 0; i < e->capacity; i++) {
            rf_seat *seat = &e->seat[i];
            const int64_t number = seat->request;
            const bool stopped = number >= 0 && is_stopped(seat);
            if (number >= 0 && (stopped || seat->sequence.done || is_cancelled(seat))) {
                leave_seat(seat, stopped, &answer[number]);
                n_done++;
                RF_TRY_OUT(done != NULL ? done(user, number, err) : RF_OK);
            }
        }
    }
    return RF_OK;
out:
    for (int64_t i = 0; i < e->capacity; i++) {
        e->seat[i].request = -1;
    }
    for (int64_t i = 0; i < n; i++) {
        rf_answer_free(&answer[i]);
    }
    return rc;
}
