/* Answers that end before their end: at a stop string, or because they are no longer wanted. */
#include "infer/decode/stop.h"
#include "infer/stream.h"
#include "tests/infer/infer_test.h"

enum { N = 24, MAX_PROMPT = 8, SEATS = 3 };

/* --- Strings ---------------------------------------------------------------------------------- */

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static void expect_found(const char *text, const char *const *stops, int number, size_t begin)
{
    size_t at;
    cr_assert_eq(rf_stops_find(&at, text, strlen(text), stops), number, "%s", text);
    cr_assert_eq(at, begin, "%s: %zu", text, at);
}

Test(stop, the_first_to_be_complete_counts)
{
    expect_found("abc", NULL, -1, 3);
    expect_found("abc", LIST("x"), -1, 3);
    expect_found("abcabc", LIST("c", "ab"), 1, 0);
    expect_found("xabcd", LIST("xabcd", "ab"), 1, 1);  /* complete before the other one is */
    expect_found("xab", LIST("b", "xab", "ab"), 1, 0); /* together: the longest */
    expect_found("", LIST("a"), -1, 0);
    size_t at;
    cr_assert(rf_stops_find(&at, "a\0b", 3, LIST("b")) == 0 && at == 2);
}

Test(stop, lists_are_checked)
{
    rf_error err = {0};
    TINY_MUST(rf_stops_check(NULL, tiny_error()));
    TINY_MUST(rf_stops_check(LIST("a", "é\n"), tiny_error()));
    cr_assert(rf_stops_check(LIST("a", ""), &err) == RF_ERR_USAGE);
    cr_assert(rf_stops_check(LIST("\xC3"), &err) == RF_ERR_USAGE);
    cr_assert(rf_stops_check(LIST("\xEF\xBF\xBD"), &err) == RF_ERR_USAGE &&
                  strstr(err.message, "U+FFFD") != NULL,
              "%s", err.message);
}

/* Number of the token that completes a string first; -1: none does. */
static int64_t completed_by(const int32_t *token, int64_t n, const char *const *stops)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    int64_t i = 0;
    while (i < n && !rf_stops_reached(tokenizer, token, i + 1, stops)) {
        i++;
    }
    rf_tokenizer_free(tokenizer);
    return i < n ? i : -1;
}

Test(stop, strings_fall_across_tokens)
{
    /* "xé" in three tokens, a special token among them; what follows the string does not matter. */
    const int32_t token[] = {'a', 0xA9, 'x', 257, 0xC3, 0xA9, 0xC3, 'b'};
    cr_assert_eq(completed_by(token, 8, LIST("é")), 5);
    cr_assert_eq(completed_by(token, 8, LIST("xé")), 5);
    cr_assert_eq(completed_by(token, 8, LIST("éb")), -1);
    cr_assert_eq(completed_by(token, 8, LIST("b", "xé")), 5);
    cr_assert_eq(completed_by(token, 5, LIST("é")), -1);
    cr_assert_eq(completed_by(token, 8, NULL), -1);
}

/* --- Pieces of text --------------------------------------------------------------------------- */

/* What comes after each token, "|" between; '$' is the end of text. */
static void expect_pieces(const char *tokens, const char *const *stops, const char *expected)
{
    char all[256] = "";
    int32_t token[64];
    const int64_t n = (int64_t)strlen(tokens);
    size_t bytes;
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_stream stream = {.tokenizer = tokenizer, .stops = stops};
    rf_sequence s = {.tokenizer = tokenizer, .token = token};
    for (int64_t i = 0; i < n; i++) {
        token[i] = tokens[i] == '$' ? 256 : (unsigned char)tokens[i];
    }
    for (s.n_tokens = 1; s.n_tokens <= n; s.n_tokens++) {
        const char *piece = rf_stream_take(&stream, &bytes, &s);
        strcat(strncat(all, piece, bytes), "|");
    }
    const char *rest = rf_stream_end(&stream, &bytes, &(rf_answer){.token = token, .n = n});
    strncat(all, rest, bytes);
    cr_assert_str_eq(all, expected);
    rf_stream_free(&stream);
    rf_tokenizer_free(tokenizer);
}

Test(stop, pieces_are_certain)
{
    expect_pieces("abc$", NULL, "a|b|c||");
    expect_pieces("a\xC3\xA9", NULL, "a||é|");
    expect_pieces("a\xC3", NULL, "a||\xEF\xBF\xBD");
    expect_pieces("a\xC3z", NULL, "a||\xEF\xBF\xBDz|");
    expect_pieces("abcab", LIST("abd"), "||abc|||ab");
    expect_pieces("aabdx", LIST("abd"), "|a||||");
    expect_pieces("xyab", LIST("y", "ya"), "x||||");
    expect_pieces("x\xC3\xA9y", LIST("éz"), "x|||éy|");
}

/* --- Decoding --------------------------------------------------------------------------------- */

/* What is fixed stays, and is the beginning of the answer. */
typedef struct watcher {
    int32_t fixed[SHARP_POSITIONS];
    int64_t n_fixed, n_events, cancel_at;
    rf_stream stream;
    char text[4 * SHARP_POSITIONS]; /* its pieces */
    size_t bytes;
    atomic_bool cancel;
} watcher;

static void take_piece(watcher *w, const rf_sequence *s, const rf_answer *answer)
{
    size_t bytes;
    const char *piece = s != NULL ? rf_stream_take(&w->stream, &bytes, s)
                                  : rf_stream_end(&w->stream, &bytes, answer);
    cr_assert(bytes <= sizeof w->text - w->bytes);
    memcpy(w->text + w->bytes, piece, bytes);
    w->bytes += bytes;
}

static void watch(void *user, rf_event_kind kind, const rf_sequence *s)
{
    watcher *w = user;
    const int64_t n = rf_sequence_fixed(s);
    (void)kind;
    take_piece(w, s, NULL);
    cr_assert(n >= w->n_fixed &&
              memcmp(w->fixed, s->token, (size_t)w->n_fixed * sizeof *w->fixed) == 0);
    memcpy(w->fixed, s->token, (size_t)n * sizeof *w->fixed);
    w->n_fixed = n;
    if (++w->n_events == w->cancel_at) {
        atomic_store(&w->cancel, true);
    }
}

typedef struct crowd {
    int32_t prompt[N][MAX_PROMPT];
    rf_request request[N];
    rf_answer answer[N];
    watcher watcher[N];
} crowd;

/* All pieces are the answer. */
static void expect_text(watcher *w, const rf_answer *answer)
{
    size_t bytes;
    char *text = rf_answer_text(answer, &bytes, w->stream.tokenizer);
    take_piece(w, NULL, answer);
    cr_assert(w->bytes == bytes && memcmp(w->text, text, bytes) == 0, "%.*s, not %s", (int)w->bytes,
              w->text, text);
    rf_stream_free(&w->stream);
    free(text);
}

/* Prompts whose answers end at these strings. */
static void run_crowd(crowd *c, rf_engine *engine, const char *const *stops, int64_t cancel_at)
{
    *c = (crowd){0};
    for (uint64_t i = 0; i < N; i++) {
        rf_rng rng = RF_RNG_STREAM(12, RF_RNG_TEST, i);
        const int64_t n = 1 + (int64_t)rf_rng_below(&rng, MAX_PROMPT);
        random_prompt(c->prompt[i], n, &rng);
        c->watcher[i].cancel_at = i % 2 == 0 ? cancel_at : 0;
        c->watcher[i].stream = (rf_stream){.tokenizer = engine->tokenizer, .stops = stops};
        c->request[i] = (rf_request){.prompt = c->prompt[i],
                                     .n_prompt = n,
                                     .index = i,
                                     .observer = watch,
                                     .user = &c->watcher[i],
                                     .stops = stops,
                                     .cancel = &c->watcher[i].cancel};
    }
    TINY_MUST(rf_engine_run(engine, c->answer, c->request, N, NULL, NULL, tiny_error()));
    for (int i = 0; i < N; i++) {
        expect_text(&c->watcher[i], &c->answer[i]);
    }
}

static void free_answers(crowd *c)
{
    for (int i = 0; i < N; i++) {
        rf_answer_free(&c->answer[i]);
    }
}

static bool begins_with(const rf_answer *whole, const rf_answer *part)
{
    return part->n <= whole->n &&
           memcmp(whole->token, part->token, (size_t)part->n * sizeof *part->token) == 0;
}

/* The answer that ended early is the whole one cut afterwards. Returns the forwards that it saved. */
static int64_t compare_cut(const rf_answer *whole, const rf_answer *cut,
                           const rf_tokenizer *tokenizer, const char *const *stops)
{
    size_t bytes, begin, cut_bytes;
    char *text = rf_answer_text(whole, &bytes, tokenizer);
    char *cut_text = rf_answer_text(cut, &cut_bytes, tokenizer);
    const int number = rf_stops_find(&begin, text, bytes, stops);
    cr_assert(cut->stop == (number >= 0 ? stops[number] : NULL) && !cut->cancelled);
    cr_assert(cut_bytes == begin && memcmp(text, cut_text, begin) == 0, "%s, not %s", cut_text,
              text);
    cr_assert(begins_with(whole, cut) && cut->forwards <= whole->forwards);
    cr_assert(number >= 0 ? !cut->ended : cut->n == whole->n && cut->ended == whole->ended);
    cr_assert(number < 0 || !rf_stops_reached(tokenizer, cut->token, cut->n - 1, stops));
    free(text);
    free(cut_text);
    return whole->forwards - cut->forwards;
}

static rf_decode_options options_of(int setting)
{
    rf_decode_options o = plain_options(every_decoder[setting / 4], 24, 4);
    o.temperature = setting % 2 == 0 ? 0 : 0.8;
    o.block_length = 8;
    o.fuse = setting % 2 == 0;
    o.verify_paper = setting % 4 >= 2;
    o.slot_threshold = setting % 4 >= 2 ? 0.1 : 0.4; /* slots far to the right come early */
    o.stop = setting % 4 >= 2 ? RF_STOP_NEVER : RF_STOP_EAGER;
    return o;
}

typedef void (*trial)(int64_t *count, rf_engine *engine, const rf_tokenizer *tokenizer);

/* Models that answer in different ways; each decoder must have met the case often enough. */
static void try_all(trial one, int64_t enough)
{
    static const uint64_t seeds[] = {7, 21, 48};
    int64_t count[N_DECODERS] = {0};
    rf_tokenizer *tokenizer = byte_tokenizer();
    for (size_t m = 0; m < sizeof seeds / sizeof *seeds; m++) {
        rf_model *model = sharp_model(backend_default(), 1, seeds[m], 1.4);
        for (int setting = 0; setting < 4 * N_DECODERS; setting++) {
            rf_engine *engine = NULL;
            const rf_decode_options o = options_of(setting);
            TINY_MUST(
                rf_engine_new(&engine, model, tokenizer, &o, MAX_PROMPT, SEATS, tiny_error()));
            one(&count[setting / 4], engine, tokenizer);
            rf_engine_free(engine);
        }
        rf_model_free(model);
    }
    for (int d = 0; d < N_DECODERS; d++) {
        cr_assert(count[d] >= enough, "%s: %d", rf_decoder_name(every_decoder[d]), (int)count[d]);
    }
    rf_tokenizer_free(tokenizer);
}

/* Counts the forwards saved. */
static void try_stops(int64_t *count, rf_engine *engine, const rf_tokenizer *tokenizer)
{
    static const char *const lists[][4] = {
        {"a", NULL}, {"ba", "cc", NULL}, {"bab", "da", "ea", NULL}, {"acb", "a\xC3\xA9", NULL}};
    static crowd whole, cut;
    run_crowd(&whole, engine, NULL, 0);
    for (size_t l = 0; l < sizeof lists / sizeof *lists; l++) {
        run_crowd(&cut, engine, lists[l], 0);
        for (int i = 0; i < N; i++) {
            const watcher *w = &whole.watcher[i];
            *count += compare_cut(&whole.answer[i], &cut.answer[i], tokenizer, lists[l]);
            cr_assert(begins_with(&whole.answer[i],
                                  &(rf_answer){.token = (int32_t *)w->fixed, .n = w->n_fixed}));
        }
        free_answers(&cut);
    }
    free_answers(&whole);
}

Test(stop, decoding_ends_with_the_answer_that_is_cut_afterwards)
{
    try_all(try_stops, 200);
}

/* Every second answer is cancelled; what it has is the beginning of the whole one. The others do not
 * notice. Counts the cancelled ones. */
static void try_cancelling(int64_t *count, rf_engine *engine, const rf_tokenizer *tokenizer)
{
    static crowd whole, some;
    (void)tokenizer;
    run_crowd(&whole, engine, NULL, 0);
    run_crowd(&some, engine, NULL, 3);
    for (int i = 0; i < N; i++) {
        const rf_answer *a = &some.answer[i];
        cr_assert(begins_with(&whole.answer[i], a));
        cr_assert(a->cancelled ? i % 2 == 0 && !a->ended && a->token != NULL
                               : a->n == whole.answer[i].n);
        *count += a->cancelled;
    }
    free_answers(&whole);
    free_answers(&some);
}

Test(stop, a_cancelled_answer_is_what_was_fixed)
{
    try_all(try_cancelling, 20);
}
