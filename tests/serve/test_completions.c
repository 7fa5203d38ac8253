/* Streams, log-probabilities, stop strings. */
#include "tests/serve/server_test.h"

TestSuite(completions, .init = server_begin, .fini = server_end, .timeout = 600);

#define COMPLETIONS "/v1/completions"
#define CHAT        "/v1/chat/completions"

/* --- Streams ---------------------------------------------------------------------------------- */

/* What a stream sent: its text, its events, the usage. */
typedef struct told {
    char text[4096];
    int n_chunks, n_slots;
    bool ended;
    char finish[16];
    json_t *usage;    /* owned; NULL: none */
    json_t *slots;    /* the events `slots`. Owned */
    json_t *logprobs; /* of all chunks, put together; NULL: none had some. Owned */
} told;

/* Lists of the same names become one. */
static void take_logprobs(told *t, json_t *logprobs)
{
    const char *name;
    json_t *list;
    if (t->logprobs == NULL) {
        t->logprobs = json_deep_copy(logprobs);
        return;
    }
    json_object_foreach(logprobs, name, list)
    {
        cr_assert(json_array_extend(json_object_get(t->logprobs, name), list) == 0, "%s", reply);
    }
}

static void take_chunk(told *t, const json_t *data)
{
    const json_t *choice = json_array_get(json_object_get(data, "choices"), 0);
    const json_t *delta = json_object_get(json_object_get(choice, "delta"), "content");
    const json_t *text = delta != NULL ? delta : json_object_get(choice, "text");
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    cr_assert_null(json_object_get(data, "error"), "%s", reply);
    t->n_chunks++;
    if (json_is_object(json_object_get(choice, "logprobs"))) {
        take_logprobs(t, json_object_get(choice, "logprobs"));
    }
    strncat(t->text, text != NULL ? json_string_value(text) : "",
            sizeof t->text - strlen(t->text) - 1);
    if (finish != NULL) {
        snprintf(t->finish, sizeof t->finish, "%s", finish);
    }
    if (json_is_object(json_object_get(data, "usage"))) {
        t->usage = json_incref(json_object_get(data, "usage"));
    }
}

/* Chunked transfer: the sizes between the parts go away. */
static char *unchunk(void)
{
    char *text = calloc(1, REPLY_BYTES), *to = text;
    cr_assert_not_null(text);
    for (const char *at = reply_body();;) {
        const long n = strtol(at, NULL, 16);
        at = strstr(at, "\r\n") + 2;
        if (n == 0) {
            return text;
        }
        to = mempcpy(to, at, (size_t)n);
        at += n + 2;
    }
}

static void stream(told *t, const char *path, const char *body)
{
    const int s = client_connect(1);
    *t = (told){.slots = json_array()};
    client_post(s, path, body);
    client_read(s);
    cr_assert(reply_status() == 200 && strstr(reply, "text/event-stream") != NULL, "%s", reply);
    char *text = unchunk(), *rest = NULL;
    bool is_slots = false;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strcmp(line, "event: slots") == 0) {
            is_slots = true;
        } else if (strcmp(line, "data: [DONE]") == 0) {
            t->ended = true;
        } else {
            cr_assert(strncmp(line, "data: ", 6) == 0 && !t->ended, "%s", line);
            json_t *data = json_loads(line + 6, JSON_ALLOW_NUL, NULL);
            cr_assert_not_null(data, "%s", line);
            if (is_slots) {
                json_array_append(t->slots, data);
            } else {
                take_chunk(t, data);
            }
            json_decref(data);
            is_slots = false;
        }
    }
    free(text);
    cr_assert(t->ended, "%s", reply);
}

static void forget(told *t)
{
    json_decref(t->usage);
    json_decref(t->slots);
    json_decref(t->logprobs);
}

/* A stream tells what an answer as a whole tells. */
static void same_as_whole(const char *path, const char *fields)
{
    char body[1024];
    told t;
    snprintf(body, sizeof body, "{%s}", fields);
    json_t *whole = ask(path, 200, body);
    const json_t *message = json_object_get(choice_of(whole, 0), "message");
    const json_t *text = message != NULL ? json_object_get(message, "content")
                                         : json_object_get(choice_of(whole, 0), "text");
    snprintf(body, sizeof body,
             "{%s, \"stream\": true, \"stream_options\": {\"include_usage\": true}}", fields);
    stream(&t, path, body);
    cr_assert_str_eq(t.text, json_string_value(text), "%s", fields);
    cr_assert_str_eq(t.finish,
                     json_string_value(json_object_get(choice_of(whole, 0), "finish_reason")));
    const json_t *logprobs = json_object_get(choice_of(whole, 0), "logprobs");
    if (json_is_object(logprobs)) {
        cr_assert(json_equal(t.logprobs, logprobs), "%s: %s", fields, reply);
    } else {
        cr_assert_null(t.logprobs);
    }
    const json_t *usage = json_object_get(whole, "usage");
    cr_assert(json_equal(json_object_get(usage, "completion_tokens"),
                         json_object_get(t.usage, "completion_tokens")));
    forget(&t);
    json_decref(whole);
}

Test(completions, streams_tell_the_same)
{
    static const char *const kinds[] = {"ar", "refusion", "refusion-left-to-right", "mdm",
                                        "fast-dllm"};
    char fields[512];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        for (int length = 1; length < 30; length += 9) {
            snprintf(fields, sizeof fields,
                     "\"prompt\": \"abc\", \"max_tokens\": %d, \"decode\": {\"kind\": \"%s\"}",
                     length, kinds[i]);
            same_as_whole(COMPLETIONS, fields);
            snprintf(fields, sizeof fields,
                     "\"prompt\": \"abc\", \"max_tokens\": %d, \"decode\": {\"kind\": \"%s\"},"
                     " \"temperature\": 1.3, \"seed\": %d, \"stop\": [\"ab\", \"c\", \"dd\"]",
                     length, kinds[i], (int)i);
            same_as_whole(COMPLETIONS, fields);
        }
    }
    same_as_whole(CHAT, "\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]");
    same_as_whole(COMPLETIONS, "\"prompt\": \"a\u00e9b\", \"max_tokens\": 9, \"echo\": true");
    same_as_whole(COMPLETIONS, "\"prompt\": \"abc\", \"max_tokens\": 0, \"echo\": true");
}

/* Pieces wait for the log-probabilities of their tokens, which are those of the whole answer. */
Test(completions, streams_tell_the_same_log_probabilities)
{
    static const char *const kinds[] = {"ar", "refusion"};
    char fields[512];
    told t;
    for (size_t i = 0; i < 2; i++) {
        for (int k = 0; k < 4; k += 3) {
            snprintf(fields, sizeof fields,
                     "\"prompt\": \"abc\", \"max_tokens\": 40, \"decode\": {\"kind\": \"%s\"},"
                     " \"logprobs\": %d, \"temperature\": 1.3, \"top_p\": 0.8, \"seed\": %d%s",
                     kinds[i], k, k, k > 0 ? ", \"stop\": [\"ab\", \"c\", \"dd\"]" : "");
            same_as_whole(COMPLETIONS, fields);
        }
        for (int length = 0; length < 10; length += 9) {
            snprintf(fields, sizeof fields,
                     "\"prompt\": \"hello\", \"max_tokens\": %d, \"decode\": {\"kind\": \"%s\"},"
                     " \"logprobs\": 2, \"echo\": true",
                     length, kinds[i]);
            same_as_whole(COMPLETIONS, fields);
        }
        snprintf(fields, sizeof fields,
                 "\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}],"
                 " \"logprobs\": true, \"top_logprobs\": 2, \"decode\": {\"kind\": \"%s\"}",
                 kinds[i]);
        same_as_whole(CHAT, fields);
    }
    stream(&t, COMPLETIONS,
           "{\"prompt\": \"hello\", \"max_tokens\": 60, \"stream\": true, \"logprobs\": 1,"
           " \"decode\": {\"kind\": \"ar\"}, \"seed\": 1, \"temperature\": 2}");
    cr_assert(t.n_chunks > 5, "%d chunks: %s", t.n_chunks, reply);
    forget(&t);
    server_stop();
    server_start("--batch 1"); /* no seat beside the answer's */
    same_as_whole(CHAT, fields);
    same_as_whole(COMPLETIONS, "\"prompt\": \"hello\", \"logprobs\": 1, \"echo\": true");
}

Test(completions, a_stream_begins_before_its_end)
{
    told t;
    stream(&t, COMPLETIONS,
           "{\"prompt\": \"hello\", \"max_tokens\": 60, \"stream\": true,"
           " \"decode\": {\"kind\": \"ar\"}, \"seed\": 1, \"temperature\": 2}");
    cr_assert(t.n_chunks > 5, "%d chunks: %s", t.n_chunks, reply);
    cr_assert_null(t.usage);
    cr_assert_eq(json_array_size(t.slots), 0);
    forget(&t);
}

/* From the changes of all events follows what was committed: the answer. */
Test(completions, slots_tell_how_it_came_about)
{
    told t;
    char place[12][64] = {""}, joined[12 * 64] = "";
    bool drafted[12] = {false};
    stream(&t, COMPLETIONS,
           "{\"prompt\": \"hello\", \"max_tokens\": 12, \"stream\": true,"
           " \"stream_options\": {\"slots\": true}}");
    cr_assert(json_array_size(t.slots) > 2);
    const json_t *first = json_array_get(t.slots, 0);
    cr_assert_eq(json_integer_value(json_object_get(first, "places")), 12);
    cr_assert_eq(json_integer_value(json_object_get(first, "slot_size")), 4);
    cr_assert(json_array_size(json_object_get(first, "scores")) > 0, "%s", reply);
    size_t i, k;
    json_t *event, *change;
    json_array_foreach(t.slots, i, event)
    {
        cr_assert_eq(json_integer_value(json_object_get(event, "index")), 0);
        cr_assert(json_is_integer(json_object_get(event, "round")) &&
                  json_is_integer(json_object_get(event, "forward")));
        json_array_foreach(json_object_get(event, "changes"), k, change)
        {
            const int at = (int)json_integer_value(json_array_get(change, 0));
            const char *state = json_string_value(json_array_get(change, 1));
            cr_assert(at >= 0 && at < 12);
            const bool committed = strcmp(state, "committed") == 0;
            drafted[at] |= strcmp(state, "draft") == 0;
            cr_assert(!committed || drafted[at / 4 * 4], "slot %d was never drafted", at / 4);
            snprintf(place[at], sizeof place[at], "%s",
                     committed ? json_string_value(json_array_get(change, 2)) : "");
        }
    }
    for (int at = 0; at < 12 && strcmp(place[at], "■") != 0; at++) { /* the end of text */
        strcat(joined, place[at]);
    }
    cr_assert(strlen(t.text) > 0);
    cr_assert_str_eq(joined, t.text);
    forget(&t);
}

/* --- Stop strings ----------------------------------------------------------------------------- */

Test(completions, stop_strings_end_them)
{
    json_t *whole =
        ask(COMPLETIONS, 200,
            "{\"prompt\": \"abc\", \"max_tokens\": 40, \"decode\": {\"kind\": \"ar\"}}");
    char text[256], body[512], stop[3] = "";
    snprintf(text, sizeof text, "%s", text_of(whole, 0));
    json_decref(whole);
    cr_assert(strlen(text) >= 6, "%s", text);
    memcpy(stop, text + 3, 2); /* falls on two tokens */
    const size_t expected = (size_t)(strstr(text, stop) - text);
    snprintf(body, sizeof body,
             "{\"prompt\": \"abc\", \"max_tokens\": 40, \"decode\": {\"kind\": \"ar\"},"
             " \"stop\": \"%s\"}",
             stop);
    json_t *cut = ask(COMPLETIONS, 200, body);
    cr_assert(strncmp(text_of(cut, 0), text, expected) == 0 && strlen(text_of(cut, 0)) == expected,
              "%s cut at %s: %s", text, stop, text_of(cut, 0));
    cr_assert_str_eq(json_string_value(json_object_get(choice_of(cut, 0), "finish_reason")),
                     "stop");
    cr_assert_eq(
        json_integer_value(json_object_get(json_object_get(cut, "usage"), "completion_tokens")),
        (int)expected + 2);
    json_decref(cut);
}

/* --- Log-probabilities ------------------------------------------------------------------------ */

static const json_t *logprobs_of(const json_t *json)
{
    return json_object_get(choice_of(json, 0), "logprobs");
}

/* Where the tokens of a text begin in it, as "0 1 1 ...". */
static void expect_offsets(const json_t *logprobs, const char *expected)
{
    const json_t *list = json_object_get(logprobs, "text_offset");
    char found[512] = "";
    for (size_t i = 0; i < json_array_size(list); i++) {
        snprintf(found + strlen(found), sizeof found - strlen(found), i > 0 ? " %d" : "%d",
                 (int)json_integer_value(json_array_get(list, i)));
    }
    cr_assert_str_eq(found, expected);
}

/* In characters: the pieces of one are where it is, each broken one is one. */
Test(completions, offsets_count_characters)
{
    static const struct {
        const char *prompt, *offsets;
    } cases[] = {
        {"104, 195, 169, 108", "0 1 1 2"},                            /* hél */
        {"226, 130, 172, 240, 159, 152, 128, 33", "0 0 0 1 1 1 1 2"}, /* a euro, a face, ! */
        {"195, 104, 128, 226, 130", "0 1 2 3 3"},                     /* three broken ones */
        {"104, 256, 105", "0 1 14"},                                  /* h<|endoftext|>i */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[256];
        snprintf(body, sizeof body,
                 "{\"prompt\": [%s], \"max_tokens\": 0, \"logprobs\": 0, \"echo\": true}",
                 cases[i].prompt);
        json_t *json = ask(COMPLETIONS, 200, body);
        expect_offsets(logprobs_of(json), cases[i].offsets);
        json_decref(json);
    }
    json_t *json = ask(COMPLETIONS, 200, /* the answer's characters begin anew */
                       "{\"prompt\": [104, 195], \"max_tokens\": 1, \"logprobs\": 0,"
                       " \"echo\": true}");
    expect_offsets(logprobs_of(json), "0 1 2");
    json_decref(json);
}

/* What lm-evaluation-harness relies on. */
Test(completions, echoed_log_probabilities)
{
    json_t *json = ask(COMPLETIONS, 200,
                       "{\"prompt\": [104, 101, 108, 195, 169], \"max_tokens\": 1, \"logprobs\": 1,"
                       " \"echo\": true, \"temperature\": 0, \"seed\": 1234}");
    const json_t *l = logprobs_of(json), *tokens = json_object_get(l, "tokens");
    const json_t *own = json_object_get(l, "token_logprobs"),
                 *top = json_object_get(l, "top_logprobs");
    cr_assert(json_array_size(tokens) == 6 && json_array_size(own) == 6 &&
              json_array_size(top) == 6 && json_array_size(json_object_get(l, "text_offset")) == 6);
    cr_assert_str_eq(json_string_value(json_array_get(tokens, 0)), "h");
    cr_assert_str_eq(json_string_value(json_array_get(tokens, 3)), "token_id:195");
    cr_assert(strncmp(text_of(json, 0), "hel\xC3\xA9", 5) == 0);
    for (size_t i = 0; i < 6; i++) {
        const double p = json_real_value(json_array_get(own, i));
        const char *name, *token = json_string_value(json_array_get(tokens, i));
        json_t *value;
        double most = -1e9;
        json_object_foreach(json_array_get(top, i), name, value)
        {
            most = fmax(most, json_real_value(value));
        }
        cr_assert(p < 0 && most >= p);
        cr_assert(json_real_value(json_object_get(json_array_get(top, i), token)) == p);
    }
    json_decref(json);
    /* Of an answer, one for each token. */
    json_t *chat =
        ask(CHAT, 200,
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"logprobs\": true,"
            " \"top_logprobs\": 3, \"max_tokens\": 5}");
    const json_t *content = json_object_get(logprobs_of(chat), "content");
    cr_assert_eq(
        (json_int_t)json_array_size(content),
        json_integer_value(json_object_get(json_object_get(chat, "usage"), "completion_tokens")));
    cr_assert_eq(json_array_size(json_object_get(json_array_get(content, 0), "top_logprobs")), 3);
    json_decref(chat);
    refuses(COMPLETIONS, 400, "logprobs", "from 0 to 20", "{\"prompt\": \"a\", \"logprobs\": 21}");
}

/* refusion-eval of slots of one token, of the same raw text. */
static void compare_with_eval(void)
{
    program_write("q.jsonl", "{\"query\": \"abcab\", \"response\": \"cdeab\"}\n"
                             "{\"query\": \"x\", \"response\": \"dcbae\"}\n");
    program_runs("\"$EVAL\" --model model.h5 --data q.jsonl --task exact --raw --answers a.jsonl "
                 "decode.slot_size=1 --threads 1",
                 0);
    static const char *const texts[] = {"abcab cdeab", "x dcbae"};
    static char answers[1 << 16];
    program_read(answers, sizeof answers, "a.jsonl");
    for (int i = 0; i < 2; i++) {
        char ids[512] = "", body[1024], sum[32], expected[32];
        for (const char *c = texts[i]; *c != '\0'; c++) {
            snprintf(ids + strlen(ids), sizeof ids - strlen(ids), "%d, ", *c);
        }
        snprintf(body, sizeof body,
                 "{\"prompt\": [%s256], \"max_tokens\": 0, \"logprobs\": 1, \"echo\": true}", ids);
        json_t *json = ask(COMPLETIONS, 200, body), *row = program_json(answers, i);
        const json_t *own = json_object_get(logprobs_of(json), "token_logprobs");
        const size_t n = json_array_size(own);
        double nats = 0;
        for (size_t k = n - 7; k < n; k++) { /* a blank, five letters, the end of text */
            nats -= json_real_value(json_array_get(own, k));
        }
        cr_assert_eq(json_integer_value(json_object_get(row, "loglikelihood_tokens")), 7);
        snprintf(sum, sizeof sum, "%.9g", -nats);
        snprintf(expected, sizeof expected, "%.9g",
                 json_real_value(json_object_get(row, "loglikelihood")));
        cr_assert_str_eq(sum, expected);
        json_decref(json);
        json_decref(row);
    }
}

Test(completions, log_probabilities_are_those_of_refusion_eval)
{
    compare_with_eval();
}

/* Of a model of `ar`, whose decoder takes them: the answer's tokens are the likeliest behind what it
 * made before. */
static void answers_are_likeliest(void)
{
    static const char *const same[] = {"token", "logprob", "bytes"};
    json_t *chat =
        ask(CHAT, 200,
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"logprobs\": true,"
            " \"top_logprobs\": 3, \"max_tokens\": 12}");
    const json_t *content = json_object_get(logprobs_of(chat), "content");
    cr_assert(json_array_size(content) > 1, "%s", reply);
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *one = json_array_get(content, i), *top = json_object_get(one, "top_logprobs");
        cr_assert_eq(json_array_size(top), 3);
        for (size_t k = 0; k < sizeof same / sizeof *same; k++) {
            cr_assert(json_equal(json_object_get(one, same[k]),
                                 json_object_get(json_array_get(top, 0), same[k])),
                      "token %zu: %s", i, reply);
        }
        for (size_t k = 1; k < 3; k++) {
            cr_assert(json_real_value(json_object_get(json_array_get(top, k), "logprob")) <
                          json_real_value(json_object_get(one, "logprob")),
                      "token %zu: %s", i, reply);
        }
    }
    json_decref(chat);
}

Test(completions, and_of_ar_too)
{
    server_stop();
    program_save_model("model.h5", 48, 1.4,
                       "objective:\n  kind: ar\ndecode:\n  kind: ar\n  gen_length: 12\n");
    server_start("");
    compare_with_eval();
    answers_are_likeliest();
}

Test(completions, bounds_are_no_log_probabilities)
{
    server_stop();
    program_save_model("model.h5", 48, 1.4,
                       "objective:\n  kind: mdm\ndecode:\n  kind: mdm\n  gen_length: 12\n");
    server_start("");
    refuses(COMPLETIONS, 400, "logprobs", "only a bound", "{\"prompt\": \"a\", \"logprobs\": 1}");
    json_t *json = ask(COMPLETIONS, 200, "{\"prompt\": \"a\", \"max_tokens\": 3}");
    cr_assert(json_integer_value(
                  json_object_get(json_object_get(json, "usage"), "completion_tokens")) <= 3);
    json_decref(json);
}

/* --- A canvas --------------------------------------------------------------------------------- */

/* Expects so many tokens, for they hold no end of text. The text is the caller's. */
static char *fill_canvas(const char *settings, const char *more, int tokens)
{
    char body[256];
    snprintf(body, sizeof body, "{\"prompt\": \"abc\", \"decode\": {%s}%s}", settings, more);
    json_t *json = ask(COMPLETIONS, 200, body);
    cr_assert_eq(
        json_integer_value(json_object_get(json_object_get(json, "usage"), "completion_tokens")),
        tokens, "%s: %s", body, reply);
    cr_assert_str_eq(json_string_value(json_object_get(choice_of(json, 0), "finish_reason")),
                     "length", "%s", body);
    char *text = strdup(text_of(json, 0));
    json_decref(json);
    return text;
}

/* It is the one of the training, or of the request's decode.gen_length; max_tokens only cuts, and may be
 * more than there is room for. */
Test(completions, max_tokens_do_not_stretch_a_canvas)
{
    static const char *const kinds[] = {"\"kind\": \"mdm\"", "\"kind\": \"fast-dllm\""};
    server_stop();
    program_save_model("model.h5", 48, 1.4,
                       "objective:\n  kind: mdm\n  pad_length: 12\ndecode:\n  kind: mdm\n");
    server_start("decode.eos_rule=logits");
    for (size_t i = 0; i < 2; i++) {
        char longer[64];
        snprintf(longer, sizeof longer, "%s, \"gen_length\": 24", kinds[i]);
        char *whole = fill_canvas(kinds[i], "", 12);
        char *same = fill_canvas(kinds[i], ", \"max_tokens\": 200", 12);
        cr_assert_str_eq(same, whole, "%s", kinds[i]);
        free(whole);
        free(same);
        free(fill_canvas(kinds[i], ", \"max_tokens\": 5", 5));
        free(fill_canvas(longer, ", \"max_tokens\": 200", 24));
        free(fill_canvas(longer, "", 24));
    }
    same_as_whole(COMPLETIONS, "\"prompt\": \"abc\", \"max_tokens\": 60");
}
