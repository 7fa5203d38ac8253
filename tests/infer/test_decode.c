/* What a decoder promises beside the algorithm (for that: test_decode_oracle.c). */
#include "data/objective.h"
#include "infer/engine.h"
#include "tests/infer/infer_test.h"
#include "tests/infer/plain_draw.h"

enum { MAX_PROMPT = 8 };

static rf_engine *make_decoder(rf_model *model, const rf_tokenizer *tokenizer,
                               const rf_decode_options *options)
{
    rf_engine *decoder = NULL;
    TINY_MUST(rf_engine_new(&decoder, model, tokenizer, options, MAX_PROMPT, 1, tiny_error()));
    return decoder;
}

static void run_one(rf_engine *decoder, rf_answer *out, const int32_t *prompt, int64_t n,
                    uint64_t index)
{
    const rf_request request = {.prompt = prompt, .n_prompt = n, .index = index};
    TINY_MUST(rf_engine_run(decoder, out, &request, 1, NULL, NULL, tiny_error()));
}

/* The answer to random prompt number i. */
static rf_answer answer_number(rf_engine *decoder, uint64_t i)
{
    rf_rng rng = RF_RNG_STREAM(3, RF_RNG_TEST, i);
    int32_t prompt[MAX_PROMPT];
    int64_t n = 1 + (int64_t)rf_rng_below(&rng, MAX_PROMPT);
    rf_answer answer;
    random_prompt(prompt, n, &rng);
    run_one(decoder, &answer, prompt, n, i);
    return answer;
}

static void expect_same(const rf_answer *a, const rf_answer *b, const char *why)
{
    cr_assert(a->n == b->n && a->ended == b->ended && a->forwards == b->forwards &&
                  a->rounds == b->rounds &&
                  memcmp(a->token, b->token, (size_t)a->n * sizeof(*a->token)) == 0,
              "%s", why);
}

Test(decode, answers_depend_on_nothing_decoded_before)
{
    enum { N = 12 };
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 5, 1.4);
    for (int k = 0; k < N_DECODERS; k++) {
        rf_decode_options o = plain_options(every_decoder[k], 22, 4);
        rf_answer alone[N];
        rf_engine *decoder;
        o.temperature = k % 2 == 1 ? 0.8 : 0;
        for (uint64_t i = 0; i < N; i++) {
            decoder = make_decoder(model, tokenizer, &o);
            alone[i] = answer_number(decoder, i);
            rf_engine_free(decoder);
        }
        decoder = make_decoder(model, tokenizer, &o);
        for (uint64_t turn = 0; turn < 2 * N; turn++) { /* every one twice, in mixed order */
            uint64_t i = turn * 7 % N;
            rf_answer again = answer_number(decoder, i);
            expect_same(&alone[i], &again, "another answer after other prompts");
            rf_answer_free(&again);
        }
        rf_engine_free(decoder);
        for (int i = 0; i < N; i++) {
            rf_answer_free(&alone[i]);
        }
    }
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

Test(decode, answers_do_not_depend_on_threads)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_decode_options o = plain_options(&rf_decoder_refusion, 24, 4);
    rf_model *one = sharp_model(backend_default(), 1, 6, 1.4);
    rf_model *three = sharp_model(backend_default(), 3, 6, 1.4);
    rf_engine *a = make_decoder(one, tokenizer, &o), *b = make_decoder(three, tokenizer, &o);
    for (uint64_t i = 0; i < 10; i++) {
        rf_answer x = answer_number(a, i), y = answer_number(b, i);
        expect_same(&x, &y, "1 and 3 threads differ");
        rf_answer_free(&x);
        rf_answer_free(&y);
    }
    rf_engine_free(a);
    rf_engine_free(b);
    rf_model_free(one);
    rf_model_free(three);
    rf_tokenizer_free(tokenizer);
}

/* --- ar --------------------------------------------------------------------------------------- */

/* The plain loop: the whole sequence anew for each token. */
static int64_t plain_ar(int32_t *answer, rf_model *model, const rf_decode_options *o,
                        const int32_t *prompt, int64_t n, uint64_t index)
{
    rf_batch batch = tiny_batch(SHARP_PLACES);
    rf_acts *acts = NULL;
    int32_t text[SHARP_PLACES];
    int64_t m = 0;
    TINY_MUST(rf_acts_new(&acts, model, SHARP_PLACES, SHARP_PLACES, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    memcpy(text, prompt, (size_t)n * sizeof *text);
    for (bool ended = false; m < o->gen_length && !ended; m++) {
        plain_draw d = {.n = 262};
        double logits[SHARP_VOCABULARY];
        int32_t place = (int32_t)(n + m - 1);
        rf_rng rng = RF_RNG_STREAM(o->seed, RF_RNG_DECODE, index, (uint64_t)m + 1, (uint64_t)m);
        rf_batch_clear(&batch);
        for (int64_t i = 0; i < n + m; i++) {
            rf_batch_add(&batch, text[i], (int32_t)i, i, 0, i + 1, 0, 0);
        }
        TINY_MUST(rf_model_forward(model, acts, &batch, NULL, tiny_error()));
        TINY_MUST(rf_model_logits(model, acts, logits, &place, 1, tiny_error()));
        for (int32_t id = 0; id < d.n; id++) {
            d.z[id] = id != 257 && id != 258 ? logits[id] : -HUGE_VAL;
        }
        answer[m] = text[n + m] = plain_token(&d, o, text, n + m, rf_rng_u64(&rng));
        ended = answer[m] == 256;
    }
    rf_acts_free(acts);
    rf_batch_free(&batch);
    return m;
}

Test(decode, ar_equals_a_plain_loop)
{
    enum { LENGTH = 19, N_RULES = 6 };
    int n_ended = 0;
    rf_tokenizer *tokenizer = byte_tokenizer();
    for (uint64_t seed = 0; seed < 4 * N_RULES; seed++) {
        rf_model *model = sharp_model(backend_named("ref64", ""), 1, seed / N_RULES, 1.4);
        rf_decode_options o = plain_options(&rf_decoder_ar, LENGTH, 4);
        const uint64_t rule =
            seed % N_RULES; /* greedy, with a penalty, from all, top-k, top-p, all */
        o.temperature = rule > 1 ? 1.2 : 0;
        o.repetition_penalty = rule == 1 || rule == 5 ? 1.4 : 1;
        o.top_k = rule == 3 || rule == 5 ? 4 : 0;
        o.tail = rule == 4 || rule == 5 ? 0.3 : 0;
        o.min_p = rule == 5 ? 0.05 : 0;
        rf_engine *decoder = make_decoder(model, tokenizer, &o);
        for (uint64_t i = 0; i < 6; i++) {
            rf_rng rng = RF_RNG_STREAM(3, RF_RNG_TEST, i);
            int32_t prompt[MAX_PROMPT], expected[LENGTH];
            int64_t n = 1 + (int64_t)rf_rng_below(&rng, MAX_PROMPT), m;
            rf_answer answer = answer_number(decoder, i);
            random_prompt(prompt, n, &rng);
            m = plain_ar(expected, model, &o, prompt, n, i);
            cr_assert(answer.n == m && answer.forwards == m && answer.rounds == m &&
                          answer.ended == (expected[m - 1] == 256) &&
                          memcmp(answer.token, expected, (size_t)m * sizeof(*expected)) == 0,
                      "rule %d", (int)rule);
            n_ended += answer.ended;
            rf_answer_free(&answer);
        }
        rf_engine_free(decoder);
        rf_model_free(model);
    }
    cr_assert(n_ended > 3 * N_RULES && n_ended < 24 * N_RULES, "%d answers ended", n_ended);
    rf_tokenizer_free(tokenizer);
}

/* --- Ties, temperature ------------------------------------------------------------------------ */

typedef struct order {
    int64_t round[16], n_slots, ends;
} order;

static void note_order(void *user, rf_event_kind kind, const rf_sequence *s)
{
    order *o = user;
    o->n_slots = s->n_slots;
    for (int64_t e = 0; e < s->n_slots; e++) {
        o->round[e] = s->round[e];
    }
    o->ends += kind == RF_EVENT_END;
}

/* Weights of 0: every token is as likely as every other. */
Test(decode, ties_go_to_the_lowest_token_and_slot)
{
    rf_model_config config = sharp_config();
    rf_model_limits limits = {.places = SHARP_PLACES, .keys = SHARP_PLACES};
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_decode_options o = plain_options(&rf_decoder_refusion, 15, 4);
    rf_model *model = NULL;
    rf_answer answer;
    int32_t prompt[] = {65, 66};
    order seen = {0};

    o.slot_threshold = 0.5;
    TINY_MUST(rf_model_new(&model, &config, NULL, 1, &limits, tiny_error()));
    rf_model_prepare(model);
    rf_engine *decoder = make_decoder(model, tokenizer, &o);
    const rf_request request = {
        .prompt = prompt, .n_prompt = 2, .observer = note_order, .user = &seen};
    TINY_MUST(rf_engine_run(decoder, &answer, &request, 1, NULL, NULL, tiny_error()));
    cr_assert(answer.n == 15 && !answer.ended && seen.n_slots == 4 && seen.ends == 1);
    for (int i = 0; i < 15; i++) {
        cr_assert_eq(answer.token[i], 0);
    }
    for (int e = 0; e < 4; e++) {
        cr_assert_eq(seen.round[e], e + 1, "slot %d in round %lld", e, (long long)seen.round[e]);
    }
    rf_answer_free(&answer);
    rf_engine_free(decoder);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* How many of 16 prompts are answered alike by two sets of options. */
static int same_answers(rf_model *model, const rf_tokenizer *tokenizer, const rf_decode_options *x,
                        const rf_decode_options *y)
{
    int same = 0;
    rf_engine *a = make_decoder(model, tokenizer, x), *b = make_decoder(model, tokenizer, y);
    for (uint64_t i = 0; i < 16; i++) {
        rf_answer p = answer_number(a, i), q = answer_number(b, i);
        same += p.n == q.n && memcmp(p.token, q.token, (size_t)p.n * sizeof(*p.token)) == 0;
        rf_answer_free(&p);
        rf_answer_free(&q);
    }
    rf_engine_free(a);
    rf_engine_free(b);
    return same;
}

Test(decode, seeds_matter_only_with_a_temperature)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 7, 0.9);
    for (int k = 0; k < N_DECODERS; k++) {
        rf_decode_options x = plain_options(every_decoder[k], 16, 4), y = x;
        y.seed = 1;
        cr_assert_eq(same_answers(model, tokenizer, &x, &y), 16);
        x.temperature = y.temperature = 1.5;
        cr_assert(same_answers(model, tokenizer, &x, &y) < 8);
        y.seed = x.seed;
        cr_assert_eq(same_answers(model, tokenizer, &x, &y), 16);
    }
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* What each setting of drawing touches. At temperature 0 the penalty alone; completions only where
 * they are drawn. */
Test(decode, rules_of_drawing)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 7, 0.9);
    for (int k = 0; k < N_DECODERS; k++) {
        const rf_decode_options greedy = plain_options(every_decoder[k], 16, 4);
        rf_decode_options x = greedy, y;
        if (!rf_decoder_reads(greedy.kind, "top_p")) {
            continue;
        }
        x.top_k = 3, x.tail = 0.5, x.min_p = 0.2, x.sample_all = true;
        cr_assert_eq(same_answers(model, tokenizer, &x, &greedy), 16);
        x.repetition_penalty = 3;
        cr_assert(same_answers(model, tokenizer, &x, &greedy) < 12);

        y = x = greedy, y.temperature = x.temperature = 1.5;
        y.sample_all = true;
        int same = same_answers(model, tokenizer, &x, &y);
        cr_assert(greedy.kind == &rf_decoder_ar ? same == 16 : same < 14, "%d", same);
        x.top_k = 1; /* the likeliest draft, as at temperature 0 */
        cr_assert_eq(same_answers(model, tokenizer, &x, &greedy), 16);
        y.tail = 1; /* and the likeliest completion */
        cr_assert_eq(same_answers(model, tokenizer, &y, &greedy), 16);
    }
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* With `ar`, the first token follows softmax(logits / temperature) without forbidden tokens. */
Test(decode, a_temperature_samples_its_distribution)
{
    enum { N = 4000 };
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 8, 0.5);
    rf_decode_options o = plain_options(&rf_decoder_ar, 1, 1);
    double logits[SHARP_VOCABULARY], total = 0, worst = 0, count[SHARP_VOCABULARY] = {0};
    int32_t prompt[] = {65, 66, 67}, place = 2;
    rf_engine *decoder;

    o.temperature = 1.3;
    decoder = make_decoder(model, tokenizer, &o);
    for (uint64_t i = 0; i < N; i++) {
        rf_answer answer;
        run_one(decoder, &answer, prompt, 3, i);
        count[answer.token[0]] += 1;
        rf_answer_free(&answer);
    }
    TINY_MUST(rf_model_logits(model, decoder->acts, logits, &place, 1, tiny_error()));
    for (int id = 0; id < SHARP_VOCABULARY; id++) {
        bool usable = id < 262 && id != 257 && id != 258;
        logits[id] = usable ? exp(logits[id] / 1.3) : 0;
        total += logits[id];
    }
    for (int id = 0; id < SHARP_VOCABULARY; id++) {
        double p = logits[id] / total;
        worst = fmax(worst, fabs(count[id] / N - p) / sqrt(p * (1 - p) / N + 1e-6));
    }
    cr_assert(!!(worst < 4.5), "a share is %g standard errors off", worst);
    rf_engine_free(decoder);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

/* --- Bad input -------------------------------------------------------------------------------- */

static void refuses_options(rf_model *model, const rf_tokenizer *tokenizer, rf_decode_options o,
                            int64_t max_prompt, const char *words)
{
    rf_engine *decoder = NULL;
    rf_error err = {0};
    int code = rf_engine_new(&decoder, model, tokenizer, &o, max_prompt, 1, &err);
    cr_assert(code != RF_OK && decoder == NULL && strstr(err.message, words), "\"%s\" not in: %s",
              words, err.message);
}

Test(decode, refuses_bad_sizes)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 9, 1);
    rf_decode_options good = plain_options(&rf_decoder_refusion, 16, 4), o;
    rf_model_limits limits = rf_engine_limits(&good, MAX_PROMPT, 1);

    cr_assert(limits.places == 24 && limits.keys == 24 && limits.positions == 24);
    o = good, o.block_length = 6;
    refuses_options(model, tokenizer, o, MAX_PROMPT, "decode.block_length 6 is not a multiple");
    o = good, o.slot_size = 0;
    refuses_options(model, tokenizer, o, MAX_PROMPT, "out of range");
    o = good, o.gen_length = 0;
    refuses_options(model, tokenizer, o, MAX_PROMPT, "out of range");
    o = good, o.block_length = -4;
    refuses_options(model, tokenizer, o, MAX_PROMPT, "out of range");
    o = good, o.tail = 1.5;
    refuses_options(model, tokenizer, o, MAX_PROMPT, "decode.top_p -0.5");
    o = good, o.kind = &rf_decoder_mdm, o.top_k = 5;
    refuses_options(model, tokenizer, o, MAX_PROMPT, "decode.top_k is not for decode.kind mdm");
    o.top_k = 0, o.repetition_penalty = 1.2;
    refuses_options(model, tokenizer, o, MAX_PROMPT, "decode.repetition_penalty is not for");
    o = good, o.gen_length = 90;
    refuses_options(model, tokenizer, o, MAX_PROMPT, "lower decode.gen_length");
    refuses_options(model, tokenizer, good, 0, "at most 0 tokens");
    rf_model_free(model);

    /* A model made for smaller batches, and one with a smaller vocabulary. */
    rf_model_config config = sharp_config();
    limits = (rf_model_limits){.places = 20, .keys = 24};
    TINY_MUST(rf_model_new(&model, &config, NULL, 1, &limits, tiny_error()));
    refuses_options(model, tokenizer, good, MAX_PROMPT, "the model was made for");
    rf_model_free(model);
    config.vocab_size = 261;
    limits.places = 24;
    TINY_MUST(rf_model_new(&model, &config, NULL, 1, &limits, tiny_error()));
    refuses_options(model, tokenizer, good, MAX_PROMPT, "vocab_size is 261");
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

Test(decode, slots_are_halved_to_whole_numbers)
{
    static const int64_t rows[][3] = {/* slot_size, slot_least; what they may come to */
                                      {8, 0, 8}, {8, 1, 1}, {8, 3, 4}, {8, 9, 8},
                                      {6, 1, 3}, {3, 1, 3}, {12, 3, 3}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rf_decode_options o = plain_options(&rf_decoder_refusion, 16, rows[i][0]), left = o;
        o.slot_least = left.slot_least = rows[i][1];
        for (int again = 0; again < 2; again++) {
            TINY_MUST(rf_decode_options_resolve(&o, tiny_error()));
            cr_assert_eq(o.slot_least, rows[i][2]);
        }
        left.kind = &rf_decoder_left_to_right; /* it selects without a threshold */
        TINY_MUST(rf_decode_options_resolve(&left, tiny_error()));
        cr_assert_eq(left.slot_least, left.slot_size);
    }
}

Test(decode, refuses_bad_prompts_and_goes_on)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_default(), 1, 9, 1);
    rf_decode_options o = plain_options(&rf_decoder_refusion, 16, 4);
    rf_engine *decoder = make_decoder(model, tokenizer, &o);
    rf_answer before = answer_number(decoder, 1), answer;
    int32_t prompt[MAX_PROMPT + 1] = {65, 65, 65, 65, 65, 65, 65, 65, 65};
    rf_error err = {0};

    cr_assert(decoder->cache->bytes > 0);
    rf_request bad = {.prompt = prompt};
    cr_assert(rf_engine_run(decoder, &answer, &bad, 1, NULL, NULL, &err) == RF_ERR &&
              answer.token == NULL && strstr(err.message, "1 to 8"));
    bad.n_prompt = 9;
    cr_assert(rf_engine_run(decoder, &answer, &bad, 1, NULL, NULL, &err) == RF_ERR &&
              strstr(err.message, "has 9 tokens"));
    prompt[1] = SHARP_VOCABULARY;
    bad.n_prompt = 8;
    cr_assert(rf_engine_run(decoder, &answer, &bad, 1, NULL, NULL, &err) == RF_ERR);
    answer = answer_number(decoder, 1);
    expect_same(&before, &answer, "another answer after a refused prompt");
    rf_answer_free(&before);
    rf_answer_free(&answer);
    rf_engine_free(decoder);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
}

Test(decode, reads_its_configuration)
{
    static const rf_config_key *const tables[] = {rf_decode_keys, rf_objective_keys, NULL};
    static const char *const set[] = {"decode.kind=refusion-left-to-right",
                                      "decode.gen_length=30",
                                      "decode.slot_size=4",
                                      "decode.block_length=8",
                                      "decode.slot_threshold=.5",
                                      "decode.token_threshold=0",
                                      "decode.verify=paper",
                                      "decode.kv=recompute",
                                      "decode.temperature=0.5",
                                      "decode.top_k=7",
                                      "decode.top_p=0.75",
                                      "decode.min_p=0.125",
                                      "decode.repetition_penalty=1.5",
                                      "decode.sample=all",
                                      "decode.seed=9"};
    rf_config *config = rf_config_new(tables);
    rf_decode_options o;

    TINY_MUST(rf_decode_options_from_config(&o, config, tiny_error()));
    cr_assert(o.kind == &rf_decoder_refusion && o.gen_length == 256 && o.block_length == 256 &&
              !o.verify_paper && !o.recompute_kv);
    cr_assert(o.top_k == 0 && o.tail == 0 && o.min_p == 0 && o.repetition_penalty == 1 &&
              !o.sample_all);
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        TINY_MUST(rf_config_set(config, set[i], tiny_error()));
    }
    TINY_MUST(rf_decode_options_from_config(&o, config, tiny_error()));
    cr_assert(o.kind == &rf_decoder_left_to_right && o.gen_length == 30 && o.slot_size == 4 &&
              o.block_length == 8 && o.verify_paper && o.recompute_kv && o.seed == 9);
    cr_assert(o.top_k == 7 && o.tail == 0.25 && o.min_p == 0.125 && o.repetition_penalty == 1.5 &&
              o.sample_all);
    char text[160];
    rf_decode_sampling_text(text, sizeof text, &o);
    cr_assert_str_eq(text,
                     "temperature 0.5, top-k 7, top-p 0.75, min-p 0.125, repetition penalty 1.5");
    cr_assert(
        !!(fabs(o.slot_threshold - 0.5) + fabs(o.temperature - 0.5) + fabs(o.token_threshold) <
           1e-12));
    TINY_MUST(rf_config_set(config, "decode.block_length=10", tiny_error()));
    cr_assert(rf_decode_options_from_config(&o, config, tiny_error()) == RF_ERR_USAGE);
    cr_assert(rf_config_set(config, "decode.slot_threshold=1.5", tiny_error()) == RF_ERR_USAGE);
    cr_assert(rf_config_set(config, "decode.top_p=1.5", tiny_error()) == RF_ERR_USAGE);
    cr_assert(rf_config_set(config, "decode.repetition_penalty=0", tiny_error()) == RF_ERR_USAGE);
    cr_assert(rf_config_set(config, "decode.slot_size=0", tiny_error()) == RF_ERR_USAGE);
    rf_config_free(config);
}
