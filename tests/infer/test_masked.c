/* What the decoders of masked diffusion promise beside their algorithms (for these:
 * test_masked_oracle.c). */
#include "data/objective.h"
#include "infer/engine.h"
#include "tests/infer/infer_test.h"

enum { MAX_PROMPT = 8, N = 16 };

/* Answers to N random prompts. */
static void answer_all(rf_answer *answer, rf_model *model, const rf_tokenizer *tokenizer,
                       const rf_decode_options *o)
{
    rf_engine *engine = NULL;
    TINY_MUST(rf_engine_new(&engine, model, tokenizer, o, MAX_PROMPT, 1, tiny_error()));
    for (uint64_t i = 0; i < N; i++) {
        rf_rng rng = RF_RNG_STREAM(3, RF_RNG_TEST, i);
        int32_t prompt[MAX_PROMPT];
        int64_t n = 1 + (int64_t)rf_rng_below(&rng, MAX_PROMPT);
        random_prompt(prompt, n, &rng);
        const rf_request request = {.prompt = prompt, .n_prompt = n, .index = i};
        TINY_MUST(rf_engine_run(engine, &answer[i], &request, 1, NULL, NULL, tiny_error()));
    }
    rf_engine_free(engine);
}

static void free_all(rf_answer *answer)
{
    for (int i = 0; i < N; i++) {
        rf_answer_free(&answer[i]);
    }
}

static bool same_tokens(const rf_answer *a, const rf_answer *b)
{
    return a->n == b->n && memcmp(a->token, b->token, (size_t)a->n * sizeof *a->token) == 0;
}

static rf_decode_options masked_options(const rf_decoder *kind, int64_t gen_length, int64_t block)
{
    rf_decode_options o = plain_options(kind, gen_length, 1);
    o.block_length = block;
    return o;
}

Test(masked, fast_dllm_without_its_two_ideas_is_mdm)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 5, 1.4);
    for (int temperature = 0; temperature < 2; temperature++) {
        rf_answer slow[N], fast[N];
        rf_decode_options o = masked_options(&rf_decoder_mdm, 24, 8);
        o.steps = 9; /* three for eight places */
        o.temperature = temperature;
        answer_all(slow, model, tokenizer, &o);
        o.kind = &rf_decoder_fast_dllm;
        o.rule = RF_RULE_QUOTA;
        o.cache = RF_CANVAS_CACHE_NONE;
        answer_all(fast, model, tokenizer, &o);
        for (int i = 0; i < N; i++) {
            cr_assert(same_tokens(&slow[i], &fast[i]) && slow[i].forwards == fast[i].forwards &&
                      slow[i].places == fast[i].places);
        }
        free_all(slow);
        free_all(fast);
    }
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* An answer does not change behind the point at which decoding may stop. */
Test(masked, stopping_earlier_gives_the_same_answer)
{
    static const rf_decoder *const kinds[] = {&rf_decoder_mdm, &rf_decoder_fast_dllm,
                                              &rf_decoder_block};
    int n_block = 0, n_eager = 0;
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 5, 1.4);
    for (int k = 0; k < 3; k++) {
        rf_answer all[N], block[N], eager[N];
        rf_decode_options o = masked_options(kinds[k], 24, 6);
        o.threshold = 0.9;
        o.stop = RF_STOP_NEVER;
        answer_all(all, model, tokenizer, &o);
        o.stop = RF_STOP_BLOCK;
        answer_all(block, model, tokenizer, &o);
        o.stop = RF_STOP_EAGER;
        answer_all(eager, model, tokenizer, &o);
        for (int i = 0; i < N; i++) {
            cr_assert(same_tokens(&all[i], &block[i]) && same_tokens(&all[i], &eager[i]));
            cr_assert(all[i].forwards >= block[i].forwards &&
                      block[i].forwards >= eager[i].forwards);
            n_block += all[i].forwards > block[i].forwards;
            n_eager += block[i].forwards > eager[i].forwards;
        }
        free_all(all);
        free_all(block);
        free_all(eager);
    }
    cr_assert(n_block > 5 && n_eager > 5, "%d and %d", n_block, n_eager);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* One step a block: each is full after its first pass, and no pass is made for nothing. */
Test(masked, as_many_steps_as_blocks_fill_all)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 5, 1.4);
    for (int cache = RF_CANVAS_CACHE_NONE; cache <= RF_CANVAS_CACHE_DUAL; cache++) {
        rf_answer answer[N];
        rf_decode_options o = masked_options(&rf_decoder_fast_dllm, 24, 6);
        o.rule = RF_RULE_QUOTA;
        o.steps = 4;
        o.stop = RF_STOP_NEVER;
        o.cache = (rf_canvas_cache)cache;
        answer_all(answer, model, tokenizer, &o);
        for (int i = 0; i < N; i++) {
            cr_assert_eq(answer[i].forwards, 4);
        }
        free_all(answer);
    }
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* --- Settings --------------------------------------------------------------------------------- */

static void refuses(rf_decode_options o, const char *words)
{
    rf_error err = {0};
    cr_assert(rf_decode_options_resolve(&o, &err) == RF_ERR_USAGE &&
                  strstr(err.message, words) != NULL,
              "\"%s\" not in: %s", words, err.message);
}

Test(masked, settings_fit_together)
{
    rf_decode_options o = masked_options(&rf_decoder_mdm, 100, 0);
    TINY_MUST(rf_decode_options_resolve(&o, tiny_error()));
    cr_assert(o.block_length == 32 && o.gen_length == 128 && o.rule == RF_RULE_QUOTA &&
              o.cache == RF_CANVAS_CACHE_NONE);
    TINY_MUST(rf_decode_options_resolve(&o, tiny_error())); /* twice changes nothing */
    cr_assert(o.block_length == 32 && o.gen_length == 128);
    o.steps = 6;
    refuses(o, "decode.steps 6 are not a whole number of steps for each of 4 blocks");

    o = masked_options(&rf_decoder_mdm, 20, 0);
    TINY_MUST(rf_decode_options_resolve(&o, tiny_error()));
    cr_assert(o.block_length == 20 && o.gen_length == 20);
    rf_model_limits limits = rf_engine_limits(&o, 12, 3);
    cr_assert(limits.places == 96 && limits.keys == 96 && limits.positions == 32);
    o.cfg = 1;
    limits = rf_engine_limits(&o, 12, 3);
    cr_assert(limits.places == 192 && limits.keys == 192 && limits.positions == 32);

    o = masked_options(&rf_decoder_block, 9, 0);
    TINY_MUST(rf_decode_options_resolve(&o, tiny_error()));
    cr_assert(o.block_length == 4 && o.gen_length == 12); /* blocks as trained */
    limits = rf_engine_limits(&o, 2, 1);
    cr_assert(limits.places == 8 && limits.keys == 14); /* a clean block and masks */
    o.cfg = 0.5;
    refuses(o, "block has no guidance");
    o = masked_options(&rf_decoder_block, 9, 0);
    o.trained_block = 0;
    refuses(o, "decode.block_length is missing");
    o = masked_options(&rf_decoder_fast_dllm, 9, 0);
    o.remasking = RF_REMASK_RANDOM;
    refuses(o, "decode.remasking=random needs decode.rule=quota");
    o.remasking = RF_REMASK_LOW_CONFIDENCE;
    o.cfg = 0.5;
    refuses(o, "fast-dllm has no guidance");
}

Test(masked, reads_its_configuration)
{
    static const rf_config_key *const tables[] = {rf_decode_keys, rf_objective_keys, NULL};
    static const char *const set[] = {
        "decode.kind=fast-dllm",  "decode.steps=128",       "decode.remasking=random",
        "decode.eos_rule=late",   "decode.stop=never",      "decode.cache=prefix",
        "decode.rule=quota",      "decode.threshold=.7",    "decode.factor=2",
        "decode.block_length=64", "objective.block_size=6", "objective.block_prompt=bidirectional"};
    rf_config *config = rf_config_new(tables);
    rf_decode_options o;
    TINY_MUST(rf_decode_options_from_config(&o, config, tiny_error()));
    cr_assert(o.steps == 0 && o.remasking == RF_REMASK_LOW_CONFIDENCE &&
              o.eos_rule == RF_EOS_NONE && o.stop == RF_STOP_EAGER &&
              o.cache == RF_CANVAS_CACHE_DUAL && o.rule == RF_RULE_THRESHOLD &&
              o.trained_block == 4 && !o.sees_prompt);
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        TINY_MUST(rf_config_set(config, set[i], tiny_error()));
    }
    TINY_MUST(rf_decode_options_from_config(&o, config, tiny_error()));
    cr_assert(o.kind == &rf_decoder_fast_dllm && o.steps == 128 &&
              o.remasking == RF_REMASK_RANDOM && o.eos_rule == RF_EOS_LATE &&
              o.stop == RF_STOP_NEVER && o.cache == RF_CANVAS_CACHE_PREFIX &&
              o.rule == RF_RULE_QUOTA && o.block_length == 64);
    cr_assert(o.trained_block == 6 && o.sees_prompt);
    cr_assert(!!(fabs(o.threshold - 0.7) + fabs(o.factor - 2) < 1e-12));
    rf_config_free(config);
}
