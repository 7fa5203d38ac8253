#include "infer/engine.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "infer/decode/stop.h"
#include "infer/pass.h"
#include "infer/reuse.h"

#include <inttypes.h>
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

/* With so many places arithmetic bounds the products, no longer the bytes of the weights, on a CPU, and on a GPU:
 * a larger pass would take more memory and no less time for each place. */
enum { ENOUGH_PLACES = 256, ENOUGH_FOR_GPUS = 2048 };

static int64_t slab_of(const rf_decode_options *o, int64_t n_prompt)
{
    return o->kind->slab != NULL ? o->kind->slab(o, n_prompt) : n_prompt + o->gen_length;
}

static rf_engine_size size_of(const rf_decode_options *options, int64_t max_prompt,
                              int64_t capacity)
{
    rf_decode_options o = *options;
    if (rf_decode_options_resolve(&o, NULL) != RF_OK) {
        o.block_length = o.gen_length; /* rf_engine_new says what is wrong with them */
    }
    int64_t first = o.kind->most_places(&o, max_prompt, true);
    int64_t other = o.kind->most_places(&o, max_prompt, false);
    int64_t longest = first > other ? first : other, all = capacity * longest;
    int64_t enough = longest + ENOUGH_PLACES;
    enough = enough > ENOUGH_FOR_GPUS ? enough : ENOUGH_FOR_GPUS;
    return (rf_engine_size){.capacity = capacity,
                            .slab = slab_of(&o, max_prompt),
                            .places = all < enough ? all : enough,
                            .positions = max_prompt + o.gen_length};
}

/* Decoders whose prompt and answer fill the context at most; a response that is judged has masks
 * beside. */
rf_engine_size rf_engine_size_of_any(int64_t context, int64_t capacity)
{
    const rf_decode_options judged = {
        .kind = &rf_decoder_given, .gen_length = context > 1 ? context - 1 : 1, .slot_size = 1};
    return (rf_engine_size){.capacity = capacity,
                            .slab = slab_of(&judged, 1),
                            .places = context + ENOUGH_PLACES,
                            .positions = context};
}

rf_model_limits rf_engine_size_limits(const rf_engine_size *size)
{
    return (rf_model_limits){
        .places = size->places, .keys = size->capacity * size->slab, .positions = size->positions};
}

rf_model_limits rf_engine_limits(const rf_decode_options *options, int64_t max_prompt,
                                 int64_t capacity)
{
    const rf_engine_size size = size_of(options, max_prompt, capacity);
    return rf_engine_size_limits(&size);
}

/* The model's vocabulary, context and special tokens must fit what is asked. */
static int check(const rf_engine *e, rf_error *err)
{
    const rf_specials *special = rf_tokenizer_specials(e->tokenizer);
    int64_t n_tokens = rf_tokenizer_size(e->tokenizer);
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
    if (e->size.positions > e->model->n_positions) {
        return rf_error_set(
            err, RF_ERR,
            "a prompt of up to %" PRId64 " tokens and decode.gen_length %" PRId64 " need %" PRId64
            " positions, the model has %" PRId64 ": lower decode.gen_length",
            e->max_prompt, e->options.gen_length, e->size.positions, e->model->n_positions);
    }
    return RF_OK;
}

static void make_seats(rf_engine *e)
{
    size_t most = (size_t)e->batch.capacity;
    e->asked = rf_alloc(most, sizeof *e->asked);
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
        e->seat[i].request = -1;
    }
}

static void ban(rf_engine *e, int32_t id)
{
    if (id >= 0) {
        e->banned[e->n_banned++] = id;
    }
}

/* n_slots: the most of a response whose plans are measured. */
static int make(rf_engine **out, const rf_engine *from, int64_t n_slots, rf_error *err)
{
    const rf_specials *special = rf_tokenizer_specials(from->tokenizer);
    const rf_model_limits need = rf_engine_size_limits(&from->size);
    rf_engine *e = rf_alloc_copy(from, sizeof *from);
    int rc;
    RF_TRY_OUT(check(e, err));
    RF_TRY_OUT(rf_cache_new(&e->cache, e->model, need.keys, err));
    RF_TRY_OUT(
        rf_acts_new(&e->acts, e->model, need.places, need.keys, false, RF_RECOMPUTE_NONE, err));
    RF_TRY_OUT(rf_batch_new(&e->batch, need.places, err));
    ban(e, special->mask);
    ban(e, special->begin);
    e->n_banned_ends = e->n_banned;
    for (int i = 0; i < special->n_eos; i++) {
        e->banned[e->n_banned_ends++] = special->eos[i];
    }
    make_seats(e);
    rf_pace_new(&e->pace, n_slots);
    *out = e;
    return RF_OK;
out:
    rf_engine_free(e);
    return rc;
}

int rf_engine_new(rf_engine **out, rf_model *model, const rf_tokenizer *tokenizer,
                  const rf_decode_options *options, int64_t max_prompt, int64_t capacity,
                  rf_error *err)
{
    rf_engine e = {.model = model,
                   .tokenizer = tokenizer,
                   .options = *options,
                   .max_prompt = max_prompt,
                   .capacity = capacity};
    *out = NULL;
    RF_TRY(rf_decode_options_resolve(&e.options, err));
    const int64_t S = rf_decoder_slot_size(&e.options);
    e.size = size_of(&e.options, max_prompt, capacity);
    return make(out, &e, (e.options.gen_length + S - 1) / S, err);
}

int rf_engine_new_sized(rf_engine **out, rf_model *model, const rf_tokenizer *tokenizer,
                        const rf_decode_options *options, const rf_engine_size *size, rf_error *err)
{
    rf_engine e = {.model = model,
                   .tokenizer = tokenizer,
                   .options = *options,
                   .size = *size,
                   .max_prompt = size->positions,
                   .capacity = size->capacity};
    *out = NULL;
    RF_TRY(rf_decode_options_resolve(&e.options, err));
    return make(out, &e, size->positions, err);
}

void rf_engine_free(rf_engine *e)
{
    if (e == NULL) {
        return;
    }
    for (int64_t i = 0; i < e->capacity && e->seat != NULL; i++) {
        rf_sequence_free(&e->seat[i].sequence);
        rf_ids_free(&e->seat[i].held);
        rf_told_free(&e->seat[i].told);
    }
    RF_FREE(e->seat, e->asked, e->row, e->target, e->token, e->draw, e->seen, e->score, e->logprob,
            e->second, e->entropy, e->logits);
    rf_batch_free(&e->batch);
    rf_acts_free(e->acts);
    rf_cache_free(e->cache);
    rf_pace_free(&e->pace);
    free(e);
}

/* --- What fits -------------------------------------------------------------------------------- */

int rf_engine_size_fits(const rf_engine_size *size, const rf_decode_options *o, int64_t n_prompt,
                        rf_error *err)
{
    const int64_t positions = n_prompt + o->gen_length, slab = slab_of(o, n_prompt);
    if (n_prompt < 1) {
        return rf_error_set(err, RF_ERR, "the prompt is empty");
    }
    if (positions > size->positions || slab > size->slab ||
        o->kind->most_places(o, n_prompt, true) > size->places) {
        return rf_error_set(err, RF_ERR,
                            "a prompt of %" PRId64 " tokens and an answer of up to %" PRId64
                            " are more than the %" PRId64 " that fit together: shorten one of them",
                            n_prompt, o->gen_length, size->positions);
    }
    return RF_OK;
}

/* --- Seats ------------------------------------------------------------------------------------ */

int64_t rf_engine_n_free(const rf_engine *e)
{
    int64_t n = 0;
    for (int64_t i = 0; i < e->capacity; i++) {
        n += e->seat[i].request < 0;
    }
    return n;
}

static void begin_sequence(rf_engine *e, rf_seat *seat, const rf_decode_options *o,
                           const rf_request *request)
{
    rf_sequence *s = &seat->sequence;
    const int64_t n_held = s->n_held;
    rf_sequence_free(s);
    seat->options = *o;
    rf_sequence_new(s, &seat->options, e->tokenizer, (seat - e->seat) * e->size.slab);
    s->pace = o->plan_measured && s->n_slots <= e->pace.n_slots ? &e->pace : NULL;
    rf_sequence_begin(s, request->prompt, request->n_prompt, request->index);
    s->observer = request->observer;
    s->user = request->user;
    s->given = request->given;
    if (e->reuses) {
        s->n_held = n_held; /* of the request before */
        rf_reuse_begin(e, seat, request);
    }
}

int rf_engine_take(rf_engine *e, const rf_request *request, int64_t number, rf_error *err)
{
    const rf_decode_options *o = request->options != NULL ? request->options : &e->options;
    if (request->options == NULL && (request->n_prompt < 1 || request->n_prompt > e->max_prompt)) {
        return rf_error_set(err, RF_ERR,
                            "the prompt has %" PRId64 " tokens: this decoder takes 1 to %" PRId64,
                            request->n_prompt, e->max_prompt);
    }
    RF_TRY(rf_engine_size_fits(&e->size, o, request->n_prompt, err));
    RF_TRY(rf_stops_check(request->stops, err));
    rf_seat *seat = rf_reuse_find_seat(e, request);
    RF_ASSERT(seat != NULL && number >= 0);
    begin_sequence(e, seat, o, request);
    seat->request = number;
    seat->stops = request->stops;
    seat->cancel = request->cancel;
    seat->n_searched = 0;
    seat->begin = rf_log_seconds();
    return RF_OK;
}

static bool is_cancelled(const rf_seat *seat)
{
    return seat->cancel != NULL && atomic_load(seat->cancel);
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
static void leave_seat(const rf_engine *e, rf_seat *seat, bool stopped, rf_answer *out)
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
    rf_reuse_keep(e, seat);
    rf_sequence_notify(s, RF_EVENT_END);
}

/* After an error nobody has a seat, and what the slabs hold is not known. */
static void clear_seats(rf_engine *e)
{
    for (int64_t i = 0; i < e->capacity; i++) {
        e->seat[i].request = -1;
        e->seat[i].sequence.n_held = 0;
    }
}

int rf_engine_pass(rf_engine *e, rf_engine_answered answered, void *user, rf_error *err)
{
    const int rc = rf_pass_run(e, err);
    if (rc != RF_OK) {
        clear_seats(e);
        return rc;
    }
    for (int64_t i = 0; i < e->capacity; i++) {
        rf_seat *seat = &e->seat[i];
        const int64_t number = seat->request;
        const bool stopped = number >= 0 && is_stopped(seat);
        if (number >= 0 && (stopped || seat->sequence.done || is_cancelled(seat))) {
            rf_answer answer = {0};
            leave_seat(e, seat, stopped, &answer);
            answered(user, number, &answer);
        }
    }
    return RF_OK;
}

/* --- A list of requests ----------------------------------------------------------------------- */

typedef struct list {
    rf_answer *answer;
    rf_engine_done done;
    void *user;
    int64_t n_done;
    int rc; /* of `done` */
    rf_error *err;
} list;

static void take_answer(void *user, int64_t number, rf_answer *answer)
{
    list *l = user;
    l->answer[number] = *answer;
    l->n_done++;
    if (l->rc == RF_OK && l->done != NULL) {
        l->rc = l->done(l->user, number, l->err);
    }
}

int rf_engine_run(rf_engine *e, rf_answer *answer, const rf_request *request, int64_t n,
                  rf_engine_done done, void *user, rf_error *err)
{
    list l = {.answer = answer, .done = done, .user = user, .err = err};
    int64_t next = 0;
    int rc = RF_OK;
    for (int64_t i = 0; i < n; i++) {
        answer[i] = (rf_answer){0};
    }
    while (l.n_done < n) {
        for (; next < n && rf_engine_n_free(e) > 0; next++) {
            RF_TRY_OUT(rf_engine_take(e, &request[next], next, err));
        }
        RF_TRY_OUT(rf_engine_pass(e, take_answer, &l, err));
        RF_TRY_OUT(l.rc);
    }
    return RF_OK;
out:
    clear_seats(e);
    for (int64_t i = 0; i < n; i++) {
        rf_answer_free(&answer[i]);
    }
    return rc;
}

/* --- Before the clock runs -------------------------------------------------------------------- */

/* An rf_engine_answered. */
static void drop_answer(void *user, int64_t number, rf_answer *answer)
{
    (void)user;
    (void)number;
    rf_answer_free(answer);
}

int rf_engine_warm_up(rf_engine *e, const int32_t *prompt, int64_t n_prompt, rf_error *err)
{
    atomic_bool cancel = false;
    const rf_request request = {.prompt = prompt, .n_prompt = n_prompt, .cancel = &cancel};
    const rf_pace pace = e->pace;
    rf_pace_new(&e->pace, pace.n_slots);
    int rc = rf_engine_take(e, &request, 0, err);
    for (int pass = 0; pass < 2 && rc == RF_OK && rf_engine_n_free(e) < e->capacity; pass++) {
        atomic_store(&cancel, pass == 1);
        rc = rf_engine_pass(e, drop_answer, NULL, err);
    }
    rf_pace_free(&e->pace);
    e->pace = pace;
    e->turn = 0;
    return rc;
}
