/* The decoders against a plain transcription of the algorithm (oracle.h): the same tokens, the same
 * number of forward passes and rounds, the same logits, whatever the settings; also where the next plan
 * goes into the last pass of a round (decode.fuse). */
#include "infer/engine.h"
#include "tests/infer/oracle.h"

#include <stdio.h>

enum { N_MODELS = 4, MAX_PROMPT = 6 };

/* One prompt with one set of options. */
typedef struct trial {
    rf_decode_options options;
    int32_t prompt[MAX_PROMPT];
    int64_t n_prompt;
    uint64_t index;
} trial;

/* What a family of trials draws from: anything, or where most happens. */
typedef struct family {
    int n_sizes, n_slots, n_tokens; /* how many of each */
    int64_t sizes[5];
    double slots[5], tokens[5]; /* thresholds */
    int left_to_right, blocks;  /* one trial in so many */
    int paper;                  /* of four trials */
} family;

static const family families[] = {
    {5, 5, 5, {1, 2, 4, 8, 16}, {0, 0.1, 0.4, 0.9, 1}, {0, 0.1, 0.4, 0.9, 1}, 5, 2, 2},
    /* several slots, of which some are refused */
    {3, 2, 3, {2, 4, 8}, {0, 0.1}, {0, 0.1, 0.4}, 100, 4, 2},
    /* all pass alone and none together */
    {2, 3, 2, {1, 2}, {0.1, 0.2, 0.4}, {0.4, 0.9}, 100, 4, 4},
    /* some are full at once where an earlier one was refused */
    {2, 3, 2, {2, 3}, {0, 0.1, 0.2}, {0.1, 0.3}, 100, 100, 0},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static uint64_t below(rf_rng *rng, int n)
{
    return rf_rng_below(rng, (uint64_t)n);
}

/* Most trials draw from everything. Edges among the few likely tokens are seldom close. */
static void draw_rules(rf_decode_options *o, rf_rng *rng)
{
    static const int64_t ks[] = {0, 0, 0, 2, 5};
    static const double tails[] = {0, 0, 0, 0.6, 0.9}, min_ps[] = {0, 0, 0, 0.1, 0.4};
    o->top_k = ks[below(rng, 5)];
    o->tail = tails[below(rng, 5)];
    o->min_p = min_ps[below(rng, 5)];
    o->repetition_penalty = below(rng, 4) > 0 ? 0 : 0.7 + rf_rng_uniform(rng);
    o->sample_all = below(rng, 2) == 0;
}

/* A function of (seed, i) alone. */
static trial make_trial(uint64_t seed, uint64_t i)
{
    const family *f = &families[i / N_MODELS % N_FAMILIES];
    rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_TEST, i);
    trial t = {0};
    rf_decode_options *o = &t.options;

    o->kind = below(&rng, f->left_to_right) > 0 ? &rf_decoder_refusion : &rf_decoder_left_to_right;
    o->slot_size = f->sizes[below(&rng, f->n_sizes)];
    o->gen_length = 1 + (int64_t)below(&rng, 40);
    o->block_length = below(&rng, f->blocks) > 0 ? 0 : o->slot_size * (int64_t)(1 + below(&rng, 4));
    o->slot_threshold = f->slots[below(&rng, f->n_slots)];
    o->token_threshold = f->tokens[below(&rng, f->n_tokens)];
    o->verify_paper = (int)below(&rng, 4) < f->paper;
    o->recompute_kv = below(&rng, 3) == 0;
    o->temperature = below(&rng, 3) > 0 ? 0 : 0.5 + 1.5 * rf_rng_uniform(&rng);
    o->seed = below(&rng, 3);
    t.index = below(&rng, 100);
    t.n_prompt = 1 + (int64_t)below(&rng, MAX_PROMPT);
    random_prompt(t.prompt, t.n_prompt, &rng);
    draw_rules(o, &rng);
    o->slot_score = below(&rng, 2) > 0 ? (rf_slot_score)below(&rng, 7) : RF_SLOT_SCORE_FIRST;
    o->order_bias = (const double[]){1, 1, 0.9, 0.5}[below(&rng, 4)];
    o->slot_least = (const int64_t[]){0, 1, 2, 3}[below(&rng, 4)];
    if (o->slot_least > 0 && below(&rng, 3) == 0) { /* halves are surer than what they are of */
        o->slot_score = RF_SLOT_SCORE_PRODUCT;
        o->slot_threshold = 0.1;
    }
    return t;
}

/* --- Logits through the cache ----------------------------------------------------------------- */

typedef struct watcher {
    rf_engine *decoder;
    double *plan; /* [rounds,V] logits of the first mask of each plan */
    int64_t round;
} watcher;

/* The masks of the plan stand at the end of the last forward pass. */
static void watch(void *user, rf_event_kind kind, const rf_sequence *s)
{
    watcher *w = user;
    rf_engine *d = w->decoder;
    if (kind == RF_EVENT_PLAN && w->plan != NULL) {
        int32_t place = (int32_t)d->batch.n;
        for (int64_t j = 0; j < s->n_masked; j++) {
            place -= (int32_t)rf_sequence_length(s, s->masked[j]);
        }
        cr_assert(w->round < ORACLE_LENGTH);
        TINY_MUST(rf_model_logits(d->model, d->acts, w->plan + w->round++ * SHARP_VOCABULARY,
                                  &place, 1, tiny_error()));
    }
}

/* --- Trials ----------------------------------------------------------------------------------- */

static void describe(char *text, size_t bytes, const trial *t, const oracle *a, const rf_answer *b)
{
    const rf_decode_options *o = &t->options;
    char sampling[160];
    rf_decode_sampling_text(sampling, sizeof sampling, o);
    int n = snprintf(
        text, bytes,
        "%s, score %s (bias %g), slots of %lld to %lld, length %lld, block %lld, thresholds %g and "
        "%g, %s, "
        "%s, %s, sample %s: %lld and %lld tokens, %lld and %lld forwards, %lld and "
        "%lld rounds\n",
        rf_decoder_name(o->kind), rf_slot_score_names[o->slot_score], o->order_bias,
        (long long)o->slot_size, (long long)o->slot_least, (long long)o->gen_length,
        (long long)o->block_length, o->slot_threshold, o->token_threshold,
        o->verify_paper ? "paper" : "released", o->recompute_kv ? "recompute" : "reuse", sampling,
        o->sample_all ? "all" : "drafts", (long long)a->n, (long long)b->n, (long long)a->forwards,
        (long long)b->forwards, (long long)a->rounds, (long long)b->rounds);
    for (int64_t i = 0; (i < a->n || i < b->n) && n < (int)bytes - 16; i++) {
        n += snprintf(text + n, bytes - (size_t)n, "%d/%d ", i < a->n ? a->answer[i] : -1,
                      i < b->n ? b->token[i] : -1);
    }
}

/* Decodes with the options given; *w: what there was to see. narrow > 0: as if rounds had lately
 * been settled by so many slots (pace.h). */
static rf_answer decode(watcher *w, const trial *t, const rf_decode_options *options,
                        rf_model *model, const rf_tokenizer *tokenizer, int64_t narrow)
{
    rf_answer answer;
    TINY_MUST(rf_engine_new(&w->decoder, model, tokenizer, options, MAX_PROMPT, 1, tiny_error()));
    rf_pace *pace = &w->decoder->pace;
    for (int i = 0; i < 2 && narrow > 0 && narrow < pace->n_slots; i++) {
        pace->need[i][narrow] = pace->need[i][pace->n_slots];
        pace->need[i][pace->n_slots] = 0;
    }
    const rf_request request = {.prompt = t->prompt,
                                .n_prompt = t->n_prompt,
                                .index = t->index,
                                .observer = watch,
                                .user = w};
    TINY_MUST(rf_engine_run(w->decoder, &answer, &request, 1, NULL, NULL, tiny_error()));
    rf_engine_free(w->decoder);
    for (int64_t i = 0; i < answer.n; i++) {
        cr_assert(answer.token[i] >= 0 && answer.token[i] < 262 && answer.token[i] != 257 &&
                      answer.token[i] != 258,
                  "token %d was produced", answer.token[i]);
    }
    return answer;
}

/* The plain loop against the witness, unless that found something too close to call. */
static void check_plain(const oracle *a, const watcher *w, const trial *t, const rf_answer *plain,
                        double tolerance)
{
    char text[1024];
    describe(text, sizeof text, t, a, plain);
    cr_assert(plain->n == a->n && plain->ended == a->ended && plain->forwards == a->forwards &&
                  plain->rounds == a->rounds && w->round == a->rounds,
              "%s", text);
    cr_assert(memcmp(plain->token, a->answer, (size_t)a->n * sizeof(int32_t)) == 0, "%s", text);
    for (int64_t i = 0; i < a->rounds; i++) {
        double gap = tiny_gap(w->plan + i * SHARP_VOCABULARY, a->plan + i * SHARP_VOCABULARY,
                              SHARP_VOCABULARY);
        cr_assert(!!(gap <= tolerance), "logits differ by %g of the largest: %s", gap, text);
    }
}

/* decode.fuse changes the number of forward passes, and no bit of anything else. */
static void check_fused(const oracle *a, const watcher *w, const watcher *plain_w, const trial *t,
                        const rf_answer *fused, const rf_answer *plain)
{
    char text[1024];
    describe(text, sizeof text, t, a, fused);
    cr_assert(fused->n == plain->n && fused->ended == plain->ended &&
                  fused->rounds == plain->rounds && w->round == plain_w->round,
              "fused: %s", text);
    cr_assert(memcmp(fused->token, plain->token, (size_t)plain->n * sizeof(int32_t)) == 0,
              "fused: %s", text);
    cr_assert(memcmp(w->plan, plain_w->plan,
                     (size_t)(w->round * SHARP_VOCABULARY) * sizeof *w->plan) == 0,
              "fused: %s", text);
    cr_assert(a->close || fused->forwards == a->fused, "fused: %lld forwards, not %lld: %s",
              (long long)fused->forwards, (long long)a->fused, text);
}

/* Nor does decode.plan change anything but passes and places, however narrow plans are. */
static void check_narrow(oracle *a, const trial *t, rf_model *model, const rf_answer *plain,
                         const rf_answer *fused)
{
    char text[1024];
    for (int64_t narrow = 1; narrow <= 3; narrow++) {
        watcher w = {0};
        rf_decode_options options = t->options;
        options.plan_measured = true;
        options.fuse = (t->index + (uint64_t)narrow) % 2 == 0;
        rf_answer answer = decode(&w, t, &options, model, a->tokenizer, narrow);
        describe(text, sizeof text, t, a, &answer);
        cr_assert(answer.n == plain->n && answer.ended == plain->ended &&
                      answer.rounds == plain->rounds &&
                      memcmp(answer.token, plain->token, (size_t)plain->n * sizeof(int32_t)) == 0,
                  "plans of %lld slots: %s", (long long)narrow, text);
        const rf_answer *whole = options.fuse ? fused : plain;
        oracle_hit(a, HIT_narrow, answer.places < whole->places);
        oracle_hit(a, HIT_widened, answer.forwards > whole->forwards);
        rf_answer_free(&answer);
    }
}

static void run_trial(oracle *a, const trial *t, rf_model *model, double tolerance)
{
    static double plan[2][ORACLE_LENGTH * SHARP_VOCABULARY];
    watcher w[2] = {{.plan = plan[0]}, {.plan = plan[1]}};
    rf_decode_options fuse = t->options;

    fuse.fuse = true;
    oracle_run(a, &t->options, t->prompt, t->n_prompt, t->index);
    rf_answer plain = decode(&w[0], t, &t->options, model, a->tokenizer, 0);
    rf_answer fused = decode(&w[1], t, &fuse, model, a->tokenizer, 0);
    if (!a->close) {
        check_plain(a, &w[0], t, &plain, tolerance);
    }
    check_fused(a, &w[1], &w[0], t, &fused, &plain);
    check_narrow(a, t, model, &plain, &fused);
    rf_answer_free(&plain);
    rf_answer_free(&fused);
}

/* Adds to hits; returns how many trials were too close to call. */
static int64_t run_trials(int64_t *hits, const rf_backend *backend, uint64_t seed, uint64_t n,
                          double margin, double tolerance)
{
    static const double sharpness[N_MODELS] = {0.5, 0.9, 1.4, 2.5};
    rf_tokenizer *tokenizer = byte_tokenizer();
    int64_t n_close = 0;

    for (uint64_t m = 0; m < N_MODELS; m++) {
        rf_model *model = sharp_model(backend, 1, seed + m, sharpness[m]);
        oracle *a = oracle_new(model, tokenizer, margin);
        for (uint64_t i = m; i < n; i += N_MODELS) {
            trial t = make_trial(seed, i);
            run_trial(a, &t, model, tolerance);
            n_close += a->close;
        }
        for (int b = 0; b < ORACLE_N_BRANCHES; b++) {
            hits[b] += a->hits[b];
        }
        oracle_free(a);
        rf_model_free(model);
    }
    rf_tokenizer_free(tokenizer);
    return n_close;
}

/* In f64 next to nothing is close (probabilities of almost 1 are): all agree, and all branches are
 * taken. */
Test(decode_oracle, reference, .timeout = 600)
{
    int64_t hits[ORACLE_N_BRANCHES] = {0};
    int64_t n_close = run_trials(hits, backend_named("ref64", ""), 1, 1200, 1e-9, 1e-9);
    cr_expect(n_close < 12, "%lld trials were too close to call", (long long)n_close);
    expect_all_branches(hits, oracle_branch_text, ORACLE_N_BRANCHES);
}

/* In f32 a decision may be closer than rounding: such trials are left out. About a tenth of random
 * trials are within the margin, whatever the backend. */
Test(decode_oracle, every_backend, .timeout = 600)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    uint64_t n = 300;
    for (int b = 0; b < n_backends; b++) {
        int64_t hits[ORACLE_N_BRANCHES] = {0};
        int64_t n_close = run_trials(hits, list[b], 100 + (uint64_t)b, n, 1e-4, 1e-4);
        cr_expect(n_close < (int64_t)n / 5, "%s %s: %lld of %lld trials were too close to call",
                  list[b]->name, list[b]->isa, (long long)n_close, (long long)n);
    }
}
