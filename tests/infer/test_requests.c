/* Requests that come and go in one engine, each with settings of its own. */
#include "infer/engine.h"
#include "infer/score/score.h"
#include "tests/infer/infer_test.h"

enum { CONTEXT = 300, SEATS = 3, N = 40, MAX_PROMPT = 24, MAX_GIVEN = 290 };

/* A sharp model with room for long responses. */
static rf_model *long_model(const rf_backend *backend)
{
    rf_model *model = NULL;
    rf_model_config config = sharp_config();
    config.max_position_embeddings = CONTEXT;
    const rf_engine_size size = rf_engine_size_of_any(CONTEXT, SEATS);
    rf_model_limits limits = rf_engine_size_limits(&size);
    limits.places = 2 * CONTEXT; /* of the scorer */
    TINY_MUST(rf_model_new(&model, &config, backend, 1, &limits, tiny_error()));
    sharp_randomize(model, 5, 1.4);
    return model;
}

static rf_engine *any_engine(rf_model *model, const rf_tokenizer *tokenizer)
{
    rf_engine *engine = NULL;
    const rf_decode_options o = plain_options(&rf_decoder_refusion, 20, 4);
    const rf_engine_size size = rf_engine_size_of_any(CONTEXT, SEATS);
    TINY_MUST(rf_engine_new_sized(&engine, model, tokenizer, &o, &size, tiny_error()));
    return engine;
}

/* --- Settings of their own -------------------------------------------------------------------- */

typedef struct crowd {
    int32_t prompt[N][MAX_PROMPT];
    rf_decode_options options[N];
    rf_request request[N];
    rf_answer answer[N];
    int n_answered;
} crowd;

static void make_crowd(crowd *c)
{
    *c = (crowd){0};
    for (uint64_t i = 0; i < N; i++) {
        rf_rng rng = RF_RNG_STREAM(31, RF_RNG_TEST, i);
        rf_decode_options *o = &c->options[i];
        *o = plain_options(every_decoder[i % N_DECODERS], 1 + (int64_t)rf_rng_below(&rng, 30),
                           1 + (int64_t)rf_rng_below(&rng, 6));
        o->temperature = i % 3 == 0 ? 0.8 : 0;
        o->seed = i;
        o->plan_measured = i % 2 == 0;
        o->eos_rule = i % 5 == 0 ? RF_EOS_LOGITS : RF_EOS_NONE;
        if (rf_decoder_reads(o->kind, "top_p")) {
            o->tail = i % 4 == 0 ? 0.1 : 0;
            o->repetition_penalty = i % 4 == 1 ? 1.3 : 1;
        }
        o->sees_prompt = i % 4 < 2;
        o->cfg = o->kind == &rf_decoder_mdm && i % 4 == 1 ? 0.5 : 0;
        TINY_MUST(rf_decode_options_resolve(o, tiny_error()));
        /* Beginnings are shared. */
        rf_rng shared = RF_RNG_STREAM(32, RF_RNG_TEST, i % 2);
        random_prompt(c->prompt[i], MAX_PROMPT, &shared);
        random_prompt(c->prompt[i] + 16, 8, &rng);
        c->request[i] = (rf_request){.prompt = c->prompt[i],
                                     .n_prompt = 1 + (int64_t)rf_rng_below(&rng, MAX_PROMPT),
                                     .index = i,
                                     .options = o};
    }
}

static void keep_answer(void *user, int64_t number, rf_answer *answer)
{
    crowd *c = user;
    c->answer[number] = *answer;
    c->n_answered++;
}

/* Comes and goes: a request takes a seat when there is one, some later than they could. */
static void run_crowd(crowd *c, rf_engine *engine)
{
    int next = 0;
    for (int pass = 0; c->n_answered < N; pass++) {
        while (next < N && rf_engine_n_free(engine) > (pass % 3 == 0 ? 1 : 0)) {
            TINY_MUST(rf_engine_take(engine, &c->request[next], next, tiny_error()));
            next++;
        }
        TINY_MUST(rf_engine_pass(engine, keep_answer, c, tiny_error()));
    }
}

static void expect_same_as_alone(const crowd *c, int i, rf_model *model,
                                 const rf_tokenizer *tokenizer)
{
    rf_engine *alone = NULL;
    rf_answer answer;
    rf_request request = c->request[i];
    request.options = NULL;
    TINY_MUST(rf_engine_new(&alone, model, tokenizer, &c->options[i], MAX_PROMPT, 1, tiny_error()));
    TINY_MUST(rf_engine_run(alone, &answer, &request, 1, NULL, NULL, tiny_error()));
    cr_assert(
        answer.n == c->answer[i].n && answer.ended == c->answer[i].ended &&
            memcmp(answer.token, c->answer[i].token, (size_t)answer.n * sizeof *answer.token) == 0,
        "request %d (%s) is answered otherwise than alone", i, rf_decoder_name(c->options[i].kind));
    rf_answer_free(&answer);
    rf_engine_free(alone);
}

/* piece: of prompts, 0: whole. */
static void compare_crowd(const rf_backend *backend, bool reuses, int64_t piece)
{
    static crowd c;
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = long_model(backend);
    rf_engine *engine = any_engine(model, tokenizer);
    engine->reuses = reuses;
    engine->piece = piece;
    make_crowd(&c);
    run_crowd(&c, engine);
    cr_assert(reuses ? engine->n_reused > 100 : engine->n_reused == 0, "%d places reused",
              (int)engine->n_reused);
    for (int i = 0; i < N; i++) {
        expect_same_as_alone(&c, i, model, tokenizer);
        rf_answer_free(&c.answer[i]);
    }
    rf_engine_free(engine);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

Test(requests, each_has_its_own_settings)
{
    const rf_backend *list[MAX_BACKENDS];
    const int n = backends_available(list);
    for (int b = 0; b < n; b++) {
        compare_crowd(list[b], false, 0);
    }
}

/* Prompts in pieces leave the same in the slabs. */
Test(requests, shared_beginnings_are_computed_once)
{
    const rf_backend *list[MAX_BACKENDS];
    const int n = backends_available(list);
    for (int b = 0; b < n; b++) {
        compare_crowd(list[b], true, 0);
        compare_crowd(list[b], true, 5);
        compare_crowd(list[b], true, 1); /* every length is so many whole pieces */
    }
}

Test(requests, what_does_not_fit_is_refused)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = long_model(backend_default());
    rf_engine *engine = any_engine(model, tokenizer);
    rf_decode_options o = plain_options(&rf_decoder_ar, 20, 1);
    rf_error err = {0};
    TINY_MUST(rf_engine_size_fits(&engine->size, &o, CONTEXT - 20, tiny_error()));
    cr_assert(rf_engine_size_fits(&engine->size, &o, CONTEXT - 19, &err) == RF_ERR &&
                  strstr(err.message, "281 tokens and an answer of up to 20") != NULL,
              "%s", err.message);
    cr_assert(rf_engine_size_fits(&engine->size, &o, 0, &err) == RF_ERR);
    o = plain_options(&rf_decoder_mdm, 20, 1);
    o.cfg = 1; /* two copies */
    TINY_MUST(rf_decode_options_resolve(&o, tiny_error()));
    TINY_MUST(rf_engine_size_fits(&engine->size, &o, 130, tiny_error()));
    cr_assert(rf_engine_size_fits(&engine->size, &o, CONTEXT - 20, &err) == RF_ERR);
    rf_engine_free(engine);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* --- Responses that are judged ---------------------------------------------------------------- */

enum { K = 4 };

typedef struct judged {
    int32_t token[CONTEXT];
    double logprob[2][MAX_GIVEN], likely_logprob[2][MAX_GIVEN * K];
    int32_t likely[2][MAX_GIVEN * K];
} judged;

static void ignore_answer(void *user, int64_t number, rf_answer *answer)
{
    (void)user, (void)number;
    rf_answer_free(answer);
}

static void judge(judged *j, rf_engine *engine, int64_t n_prompt, int64_t n, int64_t S)
{
    for (int i = 0; i < 2; i++) {
        rf_given given = {.token = j->token + n_prompt,
                          .n = n,
                          .n_likely = i == 0 ? 1 : K,
                          .logprob = j->logprob[i],
                          .likely = j->likely[i],
                          .likely_logprob = j->likely_logprob[i]};
        const rf_decode_options o = {
            .kind = &rf_decoder_given, .gen_length = n, .slot_size = S, .repetition_penalty = 1};
        const rf_request request = {
            .prompt = j->token, .n_prompt = n_prompt, .options = &o, .given = &given};
        TINY_MUST(rf_engine_take(engine, &request, 0, tiny_error()));
        while (rf_engine_n_free(engine) < SEATS) {
            TINY_MUST(rf_engine_pass(engine, ignore_answer, NULL, tiny_error()));
        }
    }
}

/* The same bits as the scorer; the likeliest hold what they should. */
static void expect_judged(const judged *j, const double *logprob, int64_t n_prompt, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const int32_t target = j->token[n_prompt + i], *likely = &j->likely[1][i * K];
        const double *p = &j->likely_logprob[1][i * K];
        cr_assert(j->logprob[0][i] == logprob[i] && j->logprob[1][i] == logprob[i],
                  "token %d: %.17g, the scorer %.17g", (int)i, j->logprob[0][i], logprob[i]);
        cr_assert(j->likely[0][i] == likely[0] && !!(fabs(j->likely_logprob[0][i] - p[0]) < 1e-5));
        cr_assert(j->likely_logprob[0][i] >= logprob[i]);
        for (int k = 0; k < K; k++) {
            cr_assert(likely[k] >= 0 && likely[k] != 257 && likely[k] != 258 && likely[k] < 262);
            cr_assert(k == 0 || p[k] < p[k - 1] || (p[k] == p[k - 1] && likely[k] > likely[k - 1]));
            cr_assert(likely[k] != target || p[k] == logprob[i]);
        }
    }
}

static void compare_with_scorer(const rf_backend *backend, int64_t S)
{
    static judged j;
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = long_model(backend);
    rf_engine *engine = any_engine(model, tokenizer);
    const rf_objective objective = {.kind = S > 0 ? &rf_objective_refusion : &rf_objective_ar,
                                    .mask = 257};
    const rf_scoring how = {.objective = &objective, .slot_size = S};
    const int64_t lengths[][2] = {{1, 1}, {1, 2}, {7, 60}, {1, 128}, {3, 129}, {9, MAX_GIVEN}};
    rf_scorer *scorer = NULL;
    engine->reuses = true;
    TINY_MUST(rf_scorer_new(&scorer, model, &how, CONTEXT, tiny_error()));
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const int64_t n_prompt = lengths[i][0], n = lengths[i][1];
        double nats, logprob[MAX_GIVEN];
        rf_rng rng = RF_RNG_STREAM(33, RF_RNG_TEST, i);
        for (int64_t t = 0; t < n_prompt + n; t++) {
            j.token[t] = t % 4 != 0 ? 'a' + (int32_t)rf_rng_below(&rng, 5) : (int32_t)t % 256;
        }
        TINY_MUST(rf_scorer_run(scorer, &nats, logprob, j.token, n_prompt, n, NULL, tiny_error()));
        judge(&j, engine, n_prompt, n, S);
        expect_judged(&j, logprob, n_prompt, n);
    }
    rf_scorer_free(scorer);
    rf_engine_free(engine);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

Test(requests, given_responses_have_the_scorers_digits)
{
    const rf_backend *list[MAX_BACKENDS];
    const int n = backends_available(list);
    for (int b = 0; b < n; b++) {
        compare_with_scorer(list[b], 0);
        compare_with_scorer(list[b], 1);
    }
}

/* Texts that begin alike are judged one after the other: the same digits, with fewer places. */
static void compare_beginnings(const rf_backend *backend, int64_t S)
{
    static judged with, without;
    static const int64_t differs[] = {199, 199, 150, 129, 128, 127, 2, 1, 0, 60};
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = long_model(backend);
    rf_engine *reusing = any_engine(model, tokenizer), *plain = any_engine(model, tokenizer);
    reusing->reuses = true;
    for (size_t i = 0; i < sizeof differs / sizeof *differs; i++) {
        const int64_t n_prompt = i % 3 == 2 ? 3 : 1, n = 200 - n_prompt;
        for (int64_t t = 0; t < 200; t++) {
            with.token[t] = t < differs[i] ? 'a' + (int32_t)(t * t % 5) : 'a' + (int32_t)i;
        }
        memcpy(without.token, with.token, sizeof with.token);
        for (int again = 0; again < 2; again++) {
            judge(&with, reusing, n_prompt, n, S);
            judge(&without, plain, n_prompt, n, S);
            for (int k = 0; k < 2; k++) {
                const size_t all = (size_t)(n * (k == 0 ? 1 : K));
                cr_assert(memcmp(with.logprob[k], without.logprob[k], (size_t)n * 8) == 0 &&
                              memcmp(with.likely[k], without.likely[k], all * 4) == 0 &&
                              memcmp(with.likely_logprob[k], without.likely_logprob[k], all * 8) ==
                                  0,
                          "text %d, slots of %d, %d likely", (int)i, (int)S, k);
            }
        }
    }
    cr_assert(reusing->n_reused > 3000, "only %d places reused", (int)reusing->n_reused);
    rf_engine_free(reusing);
    rf_engine_free(plain);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

Test(requests, texts_that_begin_alike_are_judged_once)
{
    const rf_backend *list[MAX_BACKENDS];
    const int n = backends_available(list);
    for (int b = 0; b < n; b++) {
        compare_beginnings(list[b], 0);
        compare_beginnings(list[b], 1);
    }
}
