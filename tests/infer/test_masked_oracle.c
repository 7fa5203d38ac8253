/* The decoders of masked diffusion against a plain transcription (masked_oracle.h): the same tokens,
 * rounds, forward passes and places computed, whatever the settings. */
#include "infer/engine.h"
#include "tests/infer/masked_oracle.h"

#include <stdio.h>

enum { N_MODELS = 4, MAX_PROMPT = 6, MAX_LENGTH = 24 };

typedef struct trial {
    rf_decode_options options;
    int32_t prompt[MAX_PROMPT];
    int64_t n_prompt;
    uint64_t index;
} trial;

static int below(rf_rng *rng, int n)
{
    return (int)rf_rng_below(rng, (uint64_t)n);
}

/* A function of (seed, i) alone. */
static trial make_trial(uint64_t seed, uint64_t i)
{
    static const rf_decoder *const kinds[] = {&rf_decoder_mdm, &rf_decoder_fast_dllm,
                                              &rf_decoder_block};
    static const double thresholds[] = {0, 0.2, 0.4, 0.6, 0.9, 1}, factors[] = {0, 0.5, 1, 2, 3};
    rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_TEST, i);
    trial t = {0};
    rf_decode_options *o = &t.options;
    int64_t L;

    o->kind = kinds[below(&rng, 3)];
    o->trained_block = 1 + below(&rng, 6);
    o->sees_prompt = below(&rng, 2) == 0;
    o->gen_length = 1 + below(&rng, MAX_LENGTH);
    o->block_length = below(&rng, 3) == 0 ? 0 : 1 + below(&rng, 10);
    o->cache = (rf_canvas_cache)below(&rng, 3);
    o->rule = (rf_rule)below(&rng, 4);
    if (below(&rng, 3) == 0) {
        o->rule = RF_RULE_QUOTA;
        o->remasking = (rf_remasking)below(&rng, 3);
    }
    if (o->kind == &rf_decoder_mdm) {
        o->rule = RF_RULE_QUOTA;
        o->cfg = below(&rng, 2) == 0 ? 0 : 1.5 * rf_rng_uniform(&rng);
    }
    o->eos_rule = (rf_eos_rule)(below(&rng, 2) * below(&rng, 3));
    o->stop = (rf_stop)below(&rng, 3);
    o->threshold = thresholds[below(&rng, 6)];
    o->factor = factors[below(&rng, 5)];
    o->temperature = below(&rng, 3) > 0 ? 0 : 0.3 + 1.5 * rf_rng_uniform(&rng);
    o->seed = rf_rng_below(&rng, 3);
    rf_decode_options whole = *o; /* its lengths say which numbers of steps are possible */
    TINY_MUST(rf_decode_options_resolve(&whole, tiny_error()));
    L = whole.gen_length / whole.block_length;
    o->steps = below(&rng, 3) == 0 ? 0 : L * (1 + below(&rng, (int)whole.block_length + 2));
    t.index = rf_rng_below(&rng, 100);
    t.n_prompt = 1 + below(&rng, MAX_PROMPT);
    random_prompt(t.prompt, t.n_prompt, &rng);
    return t;
}

static void describe(char *text, size_t bytes, const trial *t, const masked_oracle *a,
                     const rf_answer *b)
{
    const rf_decode_options *o = &t->options;
    int n =
        snprintf(text, bytes,
                 "%s, length %lld, block %lld (%lld), steps %lld, %s, %s, cache %s, eos %s, stop "
                 "%s, threshold %g, factor %g, cfg %g, temperature %g: %lld and %lld tokens, "
                 "%lld and %lld forwards, %lld and %lld places, %lld and %lld rounds\n",
                 rf_decoder_name(o->kind), (long long)o->gen_length, (long long)o->block_length,
                 (long long)o->trained_block, (long long)o->steps, rf_rule_names[o->rule],
                 rf_remasking_names[o->remasking], rf_canvas_cache_names[o->cache],
                 rf_eos_rule_names[o->eos_rule], rf_stop_names[o->stop], o->threshold, o->factor,
                 o->cfg, o->temperature, (long long)a->n, (long long)b->n, (long long)a->forwards,
                 (long long)b->forwards, (long long)a->places, (long long)b->places,
                 (long long)a->rounds, (long long)b->rounds);
    for (int64_t i = 0; (i < a->n || i < b->n) && n < (int)bytes - 16; i++) {
        n += snprintf(text + n, bytes - (size_t)n, "%d/%d ", i < a->n ? a->answer[i] : -1,
                      i < b->n ? b->token[i] : -1);
    }
}

static void run_trial(masked_oracle *a, const trial *t, rf_model *model)
{
    char text[1024];
    rf_engine *decoder = NULL;
    rf_answer answer;
    masked_oracle_run(a, &t->options, t->prompt, t->n_prompt, t->index);
    TINY_MUST(
        rf_engine_new(&decoder, model, a->tokenizer, &t->options, MAX_PROMPT, 1, tiny_error()));
    const rf_request request = {.prompt = t->prompt, .n_prompt = t->n_prompt, .index = t->index};
    TINY_MUST(rf_engine_run(decoder, &answer, &request, 1, NULL, NULL, tiny_error()));
    describe(text, sizeof text, t, a, &answer);
    if (!a->close) {
        cr_assert(answer.n == a->n && answer.ended == a->ended && answer.forwards == a->forwards &&
                      answer.places == a->places && answer.rounds == a->rounds,
                  "%s", text);
        cr_assert(memcmp(answer.token, a->answer, (size_t)a->n * sizeof(int32_t)) == 0, "%s", text);
    }
    rf_answer_free(&answer);
    rf_engine_free(decoder);
}

/* Half of the models have a second end of text. */
static rf_tokenizer *tokenizer_of(uint64_t m)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_specials *special = (rf_specials *)rf_tokenizer_specials(tokenizer);
    if (m % 2 == 1) {
        special->eos[special->n_eos++] = 'e';
    }
    return tokenizer;
}

/* Adds to hits; returns how many trials were too close to call. */
static int64_t run_trials(int64_t *hits, const rf_backend *backend, uint64_t seed, uint64_t n,
                          double margin)
{
    static const double sharpness[N_MODELS] = {0.5, 0.9, 1.4, 2.5};
    int64_t n_close = 0;
    for (uint64_t m = 0; m < N_MODELS; m++) {
        rf_tokenizer *tokenizer = tokenizer_of(m);
        rf_model *model = sharp_model(backend, 1, seed + m, sharpness[m]);
        masked_oracle *a = masked_oracle_new(model, tokenizer, margin);
        for (uint64_t i = m; i < n; i += N_MODELS) {
            trial t = make_trial(seed, i);
            run_trial(a, &t, model);
            n_close += a->close;
        }
        for (int b = 0; b < MASKED_N_BRANCHES; b++) {
            hits[b] += a->hits[b];
        }
        masked_oracle_free(a);
        rf_model_free(model);
        rf_tokenizer_free(tokenizer);
    }
    return n_close;
}

/* In f64 next to nothing is close: all agree, and all branches are taken. */
Test(masked_oracle, reference, .timeout = 600)
{
    int64_t hits[MASKED_N_BRANCHES] = {0};
    int64_t n_close = run_trials(hits, backend_named("ref64", ""), 1, 1500, 1e-9);
    cr_expect(n_close < 15, "%lld trials were too close to call", (long long)n_close);
    expect_all_branches(hits, masked_branch_text, MASKED_N_BRANCHES);
}

/* In f32 a decision may be closer than rounding: such trials are left out. */
Test(masked_oracle, every_backend, .timeout = 600)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    uint64_t n = 300;
    for (int b = 0; b < n_backends; b++) {
        int64_t hits[MASKED_N_BRANCHES] = {0};
        int64_t n_close = run_trials(hits, list[b], 100 + (uint64_t)b, n, 1e-4);
        cr_expect(n_close < (int64_t)n / 3, "%s %s: %lld of %lld trials were too close to call",
                  list[b]->name, list[b]->isa, (long long)n_close, (long long)n);
    }
}
