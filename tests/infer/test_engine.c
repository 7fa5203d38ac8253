/* Many prompts at once: each answer is the one that its prompt gets alone. */
#include "infer/engine.h"
#include "tests/infer/infer_test.h"

enum { N = 17, MAX_PROMPT = 8, SEATS = 4 };

/* N random prompts, and what happened to each. */
typedef struct crowd {
    int32_t prompt[N][MAX_PROMPT];
    rf_request request[N];
    rf_answer answer[N];
    uint64_t events[N]; /* hash of all that its observer saw */
    int64_t order[N];   /* numbers in the order in which they were done */
    int64_t n_done, fails_at;
} crowd;

static uint64_t mix(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * UINT64_C(0x100000001B3);
}

static void watch(void *user, rf_event_kind kind, const rf_sequence *s)
{
    uint64_t *hash = user;
    *hash = mix(mix(*hash, kind), (uint64_t)s->forwards);
    for (int64_t e = 0; e < s->n_slots; e++) {
        *hash = mix(mix(*hash, s->slot[e]), (uint64_t)s->round[e]);
    }
    for (int64_t i = 0; i < s->n_tokens; i++) {
        *hash = mix(mix(*hash, (uint64_t)s->token[i]), (uint64_t)s->draft[i]);
    }
}

static int note_done(void *user, int64_t request, rf_error *err)
{
    crowd *c = user;
    cr_assert(c->answer[request].n > 0 && c->answer[request].seconds >= 0);
    c->order[c->n_done++] = request;
    return c->n_done == c->fails_at ? rf_error_set(err, RF_ERR, "enough") : RF_OK;
}

static void make_crowd(crowd *c)
{
    *c = (crowd){0};
    for (uint64_t i = 0; i < N; i++) {
        rf_rng rng = RF_RNG_STREAM(11, RF_RNG_TEST, i);
        int64_t n = 1 + (int64_t)rf_rng_below(&rng, MAX_PROMPT);
        random_prompt(c->prompt[i], n, &rng);
        c->request[i] = (rf_request){.prompt = c->prompt[i],
                                     .n_prompt = n,
                                     .index = i,
                                     .observer = watch,
                                     .user = &c->events[i]};
    }
}

static void free_answers(crowd *c)
{
    for (int i = 0; i < N; i++) {
        rf_answer_free(&c->answer[i]);
    }
}

static rf_engine *make_engine(rf_model *model, const rf_tokenizer *tokenizer,
                              const rf_decode_options *o, int64_t capacity)
{
    rf_engine *engine = NULL;
    TINY_MUST(rf_engine_new(&engine, model, tokenizer, o, MAX_PROMPT, capacity, tiny_error()));
    return engine;
}

static void run_crowd(crowd *c, rf_model *model, const rf_tokenizer *tokenizer,
                      const rf_decode_options *o, int64_t capacity)
{
    rf_engine *engine = make_engine(model, tokenizer, o, capacity);
    make_crowd(c);
    TINY_MUST(rf_engine_run(engine, c->answer, c->request, N, note_done, c, tiny_error()));
    cr_assert_eq(c->n_done, N);
    rf_engine_free(engine);
}

static void expect_alike(const crowd *a, const crowd *b, const char *what, int64_t capacity)
{
    for (int i = 0; i < N; i++) {
        const rf_answer *x = &a->answer[i], *y = &b->answer[i];
        cr_assert(x->n == y->n && x->ended == y->ended && x->forwards == y->forwards &&
                      x->rounds == y->rounds && x->places == y->places &&
                      a->events[i] == b->events[i] &&
                      memcmp(x->token, y->token, (size_t)x->n * sizeof *x->token) == 0,
                  "%s: prompt %d differs among %d", what, i, (int)capacity);
    }
}

/* Returns how often an answer overtook one that began before it. */
static int compare_capacities(rf_model *model, const rf_tokenizer *tokenizer,
                              const rf_decode_options *o, const char *what)
{
    static crowd alone, together;
    int overtaken = 0;
    run_crowd(&alone, model, tokenizer, o, 1);
    for (int64_t capacity = 2; capacity <= SEATS; capacity++) {
        run_crowd(&together, model, tokenizer, o, capacity);
        expect_alike(&alone, &together, what, capacity);
        for (int i = 1; i < N; i++) {
            overtaken += together.order[i] < together.order[i - 1];
        }
        free_answers(&together);
    }
    free_answers(&alone);
    return overtaken;
}

static rf_model *packed_model(rf_layout weights)
{
    rf_model *model = NULL, *from = sharp_model(backend_default(), 1, 5, 1.4);
    rf_model_config config = sharp_config();
    rf_model_limits limits = {.places = SHARP_PLACES, .keys = SHARP_PLACES, .weights = weights};
    static float value[SHARP_VOCABULARY * SHARP_WIDTH];
    TINY_MUST(rf_model_new(&model, &config, NULL, 1, &limits, tiny_error()));
    for (int64_t i = 0; i < from->table.n_tensors; i++) {
        const rf_tensor *t = &from->table.tensor[i];
        rf_backend_download(from->ctx, value, RF_F32,
                            rf_backend_at(from->ctx->backend, RF_MASTER, from->master, t->offset),
                            RF_MASTER, t->count);
        rf_model_upload(model, &model->table.tensor[i], 0, value, RF_F32, t->count);
        rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
    }
    rf_model_prepare(model);
    rf_model_free(from);
    return model;
}

/* Every decoder and every rule, greedy and sampled. */
static void compare_settings(rf_model *model, const char *what)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    int overtaken = 0;
    for (int setting = 0; setting < 4 * N_DECODERS; setting++) {
        rf_decode_options o = plain_options(every_decoder[setting / 4], 22, 4);
        o.temperature = setting % 2 == 0 ? 0 : 0.8;
        if (rf_decoder_reads(o.kind, "top_p")) {
            o.tail = o.min_p = 0.1;
            o.repetition_penalty = setting % 2 == 0 ? 1 : 1.3;
            o.sample_all = setting % 4 >= 2;
        }
        if (setting % 4 >= 2) {
            o.verify_paper = o.recompute_kv = true;
            o.block_length = 8; /* whole prompts wait for the next pass */
            o.slot_least = 1;
            o.slot_score = RF_SLOT_SCORE_PRODUCT;
            o.cache = RF_CANVAS_CACHE_PREFIX;
        }
        if (setting % 4 >= 2 && o.kind == &rf_decoder_mdm) {
            o.gen_length = 8;
            o.cfg = 0.5; /* two copies in a slab */
        }
        overtaken += compare_capacities(model, tokenizer, &o, what);
    }
    cr_assert(overtaken > 20, "only %d answers were overtaken", overtaken);
    rf_tokenizer_free(tokenizer);
}

Test(engine, answers_do_not_depend_on_the_batch)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    for (int b = 0; b < n_backends; b++) {
        rf_model *model = sharp_model(list[b], 1, 5, 1.4);
        compare_settings(model, list[b]->isa);
        rf_model_free(model);
    }
}

Test(engine, nor_with_packed_weights)
{
    static const rf_layout layouts[] = {RF_PACKED_F32, RF_PACKED_BF16, RF_PACKED_INT8};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        rf_model *model = packed_model(layouts[i]);
        compare_settings(model, rf_layout_name(layouts[i]));
        rf_model_free(model);
    }
}

/* Fails as request number `bad` (too long) or the callback says; then the same engine answers. */
static void fails_and_goes_on(rf_engine *engine, const crowd *good, int bad, int64_t fails_at,
                              const char *words)
{
    static crowd c;
    rf_error err = {0};
    make_crowd(&c);
    c.fails_at = fails_at;
    c.request[bad].n_prompt += bad > 0 ? MAX_PROMPT : 0;
    cr_assert(rf_engine_run(engine, c.answer, c.request, N, note_done, &c, &err) == RF_ERR &&
                  strstr(err.message, words) != NULL,
              "%s", err.message);
    for (int i = 0; i < N; i++) {
        cr_assert(c.answer[i].token == NULL);
    }
    make_crowd(&c);
    TINY_MUST(rf_engine_run(engine, c.answer, c.request, N, note_done, &c, tiny_error()));
    expect_alike(good, &c, "after an error", engine->capacity);
    free_answers(&c);
}

Test(engine, errors_leave_it_ready)
{
    static crowd good;
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 5, 1.4);
    rf_decode_options o = plain_options(&rf_decoder_refusion, 22, 4);
    rf_engine *engine = make_engine(model, tokenizer, &o, 3);
    run_crowd(&good, model, tokenizer, &o, 1);
    fails_and_goes_on(engine, &good, 5, -1, "takes 1 to 8");
    fails_and_goes_on(engine, &good, 0, 2, "enough");
    TINY_MUST(rf_engine_run(engine, NULL, NULL, 0, NULL, NULL, tiny_error())); /* nothing to do */
    free_answers(&good);
    rf_engine_free(engine);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

static void drop_answer(void *user, int64_t number, rf_answer *answer)
{
    (void)user;
    cr_assert(number < SEATS);
    rf_answer_free(answer);
}

/* Prompts that come together are read together. */
Test(engine, first_passes_are_one)
{
    static crowd c;
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 5, 1.4);
    const rf_decode_options o = plain_options(&rf_decoder_ar, 22, 1);
    rf_engine *engine = make_engine(model, tokenizer, &o, SEATS);
    int64_t tokens = 0;
    make_crowd(&c);
    for (int64_t i = 0; i < SEATS; i++) {
        TINY_MUST(rf_engine_take(engine, &c.request[i], i, tiny_error()));
        tokens += c.request[i].n_prompt;
    }
    TINY_MUST(rf_engine_pass(engine, drop_answer, NULL, tiny_error()));
    cr_assert_eq(engine->batch.n, tokens);
    rf_engine_free(engine);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* No seat is taken, no pass was seen, and the answers behind it are those of an engine without. */
Test(engine, a_warm_up_leaves_no_trace)
{
    static crowd good, c;
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 5, 1.4);
    rf_decode_options o = plain_options(&rf_decoder_refusion, 22, 4);
    rf_error err = {0};
    o.plan_measured = true;
    run_crowd(&good, model, tokenizer, &o, 1);
    rf_engine *engine = make_engine(model, tokenizer, &o, SEATS);
    make_crowd(&c);
    TINY_MUST(rf_engine_warm_up(engine, c.prompt[0], c.request[0].n_prompt, tiny_error()));
    cr_assert(rf_engine_n_free(engine) == SEATS && engine->turn == 0);
    for (int i = 0; i < RF_PACE_SIZES; i++) {
        cr_assert(!(engine->pace.seconds[i] > 0));
    }
    cr_assert(engine->pace.rounds[0] == 0 && engine->pace.rounds[1] == 0);
    cr_assert_eq(rf_engine_warm_up(engine, c.prompt[0], MAX_PROMPT + 1, &err), RF_ERR);
    TINY_MUST(rf_engine_run(engine, c.answer, c.request, N, note_done, &c, tiny_error()));
    for (int i = 0; i < N; i++) {
        cr_assert(c.answer[i].n == good.answer[i].n &&
                  memcmp(c.answer[i].token, good.answer[i].token,
                         (size_t)c.answer[i].n * sizeof *c.answer[i].token) == 0);
    }
    free_answers(&good);
    free_answers(&c);
    rf_engine_free(engine);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

Test(engine, slabs_need_a_model_made_for_them)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 5, 1.4);
    rf_decode_options o = plain_options(&rf_decoder_refusion, 24, 4);
    rf_model_limits limits = rf_engine_limits(&o, MAX_PROMPT, SEATS);
    rf_engine *engine = NULL;
    rf_error err = {0};
    cr_assert(limits.places == 128 && limits.keys == 128 && limits.positions == 32);
    cr_assert_eq(rf_engine_limits(&o, 300, 20).places, 2048);
    cr_assert_eq(rf_engine_limits(&o, 3000, 20).places, 3024 + 256);
    cr_assert(rf_engine_new(&engine, model, tokenizer, &o, MAX_PROMPT, SEATS + 1, &err) == RF_ERR &&
                  strstr(err.message, "of 160 places") != NULL,
              "%s", err.message);
    cr_assert(rf_engine_new(&engine, model, tokenizer, &o, MAX_PROMPT, 0, &err) == RF_ERR);
    engine = make_engine(model, tokenizer, &o, SEATS);
    rf_engine *one = make_engine(model, tokenizer, &o, 1);
    cr_assert_eq(engine->cache->bytes, SEATS * one->cache->bytes);
    rf_engine_free(one);
    rf_engine_free(engine);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}
