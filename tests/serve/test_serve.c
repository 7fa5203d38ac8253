/* What each path answers, and what is refused. */
#include "serve/links.h"
#include "tests/serve/server_test.h"

#include <errno.h>
#include <fcntl.h>

TestSuite(serve, .init = server_begin, .fini = server_end, .timeout = 600);

#define COMPLETIONS "/v1/completions"
#define CHAT        "/v1/chat/completions"

static json_int_t number_at(const json_t *json, const char *object, const char *key)
{
    return json_integer_value(json_object_get(json_object_get(json, object), key));
}

/* What refusion-infer answers to the same. Caller frees. */
static char *inferred(const char *options)
{
    char command[512];
    snprintf(command, sizeof command, "\"$INFER\" --model model.h5 --threads 1 %s", options);
    program_runs(command, 0);
    program_output[strcspn(program_output, "\n")] = '\0';
    return program_keep();
}

Test(serve, is_there)
{
    json_t *health = ask("/health", 200, NULL), *models = ask("/v1/models", 200, NULL);
    const json_t *model = json_array_get(json_object_get(models, "data"), 0);
    const json_t *more = json_object_get(model, "refusion");
    cr_assert_str_eq(json_string_value(json_object_get(health, "status")), "ok");
    cr_assert_str_eq(json_string_value(json_object_get(model, "id")), "model");
    cr_assert_str_eq(json_string_value(json_object_get(more, "objective")), "refusion");
    cr_assert_eq(json_integer_value(json_object_get(more, "slot_size")), 4);
    cr_assert_eq(json_array_size(json_object_get(more, "decoders")), N_DECODERS);
    cr_assert_eq(number_at(more, "defaults", "gen_length"), 12);
    json_t *one = ask("/v1/models/model", 200, NULL);
    cr_assert(json_equal(one, model));
    json_decref(one);
    refuses("/v1/models/gpt-4", 404, "model", "no model 'gpt-4' here: ask for 'model'", NULL);
    refuses("/v1/models/org%2Fname", 404, "model", "no model 'org/name'", NULL);
    refuses("/v1/models/", 404, "", "there is no /v1/models/ here", NULL);
    refuses("/v1/models/model", 405, "", "takes GET", "{}");
    json_decref(health);
    json_decref(models);
}

Test(serve, answers_as_refusion_infer_does)
{
    char *raw = inferred("--raw --prompt hello"), *chat = inferred("--prompt hello");
    char *ar = inferred("--raw --prompt hello decode.kind=ar decode.gen_length=5");
    json_t *a = ask(COMPLETIONS, 200, "{\"prompt\": \"hello\", \"max_tokens\": 12}");
    json_t *b = ask(CHAT, 200, "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}");
    json_t *c = ask(COMPLETIONS, 200,
                    "{\"prompt\": [104, 101, 108, 108, 111], \"max_tokens\": 5,"
                    " \"decode\": {\"kind\": \"ar\"}}");
    json_t *parts = ask(CHAT, 200,
                        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\","
                        " \"text\": \"hel\"}, {\"type\": \"text\", \"text\": \"lo\"}]}]}");
    cr_assert_str_eq(text_of(a, 0), raw);
    cr_assert_str_eq(text_of(c, 0), ar);
    const json_t *message = json_object_get(choice_of(b, 0), "message");
    cr_assert_str_eq(json_string_value(json_object_get(message, "content")), chat);
    cr_assert(json_equal(message, json_object_get(choice_of(parts, 0), "message")));
    cr_assert_eq(number_at(a, "usage", "prompt_tokens"), 5);
    cr_assert(number_at(a, "usage", "completion_tokens") >= (json_int_t)strlen(raw));
    cr_assert(number_at(a, "usage", "forwards") > 0);
    json_decref(a);
    json_decref(b);
    json_decref(c);
    json_decref(parts);
    free(raw);
    free(chat);
    free(ar);
}

Test(serve, several_prompts_and_choices)
{
    json_t *one = ask(COMPLETIONS, 200, "{\"prompt\": \"b\", \"max_tokens\": 9}");
    json_t *all =
        ask(COMPLETIONS, 200, "{\"prompt\": [\"a\", \"b\", \"c\"], \"max_tokens\": 9, \"n\": 2}");
    cr_assert_eq(json_array_size(json_object_get(all, "choices")), 6);
    for (size_t i = 0; i < 6; i++) {
        cr_assert_eq(json_integer_value(json_object_get(choice_of(all, i), "index")), (int)i);
    }
    cr_assert_str_eq(text_of(all, 2), text_of(one, 0));
    cr_assert_str_eq(text_of(all, 3), text_of(one, 0)); /* at temperature 0 */
    json_decref(one);
    json_decref(all);
    const char *sampled = "{\"prompt\": \"b\", \"max_tokens\": 9, \"n\": 3, \"temperature\": 1.5,"
                          " \"seed\": 7, \"decode\": {\"kind\": \"ar\"}}";
    json_t *x = ask(COMPLETIONS, 200, sampled), *y = ask(COMPLETIONS, 200, sampled);
    cr_assert(json_equal(json_object_get(x, "choices"), json_object_get(y, "choices")));
    cr_assert(strcmp(text_of(x, 0), text_of(x, 1)) != 0 ||
              strcmp(text_of(x, 0), text_of(x, 2)) != 0);
    json_decref(x);
    json_decref(y);
}

static void answers_alike(const char *one, const char *other)
{
    json_t *a = ask(COMPLETIONS, 200, one), *b = ask(COMPLETIONS, 200, other);
    cr_assert_str_eq(text_of(a, 0), text_of(b, 0), "%s: %s", one, text_of(a, 0));
    cr_assert_eq(number_at(a, "usage", "completion_tokens"),
                 number_at(b, "usage", "completion_tokens"));
    json_decref(a);
    json_decref(b);
}

/* 16 tokens, unless the request says how many; null says nothing. */
Test(serve, lengths_of_completions)
{
    int n_long = 0;
    for (char c = 'a'; c <= 'z'; c++) {
        char body[4][128];
        static const char *const more[4] = {
            "", ", \"max_tokens\": 24", ", \"decode\": {\"gen_length\": 24}",
            ", \"top_p\": 1, \"decode\": {\"gen_length\": null, \"top_p\": null}"};
        for (int i = 0; i < 4; i++) {
            snprintf(body[i], sizeof body[i], "{\"prompt\": \"%c\"%s}", c, more[i]);
        }
        json_t *usual = ask(COMPLETIONS, 200, body[0]);
        const json_int_t n = number_at(usual, "usage", "completion_tokens");
        n_long += n == 16;
        cr_assert(n <= 16);
        answers_alike(body[2], body[1]);
        answers_alike(body[3], body[0]);
        json_decref(usual);
    }
    cr_assert(n_long > 0);
}

Test(serve, refuses_by_name)
{
    refuses(COMPLETIONS, 400, "max_token", "did you mean 'max_tokens'",
            "{\"prompt\": \"a\", \"max_token\": 3}");
    refuses(COMPLETIONS, 400, "messages", "not supported", "{\"prompt\": \"a\", \"messages\": []}");
    refuses(COMPLETIONS, 400, "top_k", "stands in decode: \"decode\": {\"top_k\": 3}",
            "{\"prompt\": \"a\", \"top_k\": 3}");
    refuses(COMPLETIONS, 400, "min_p", "\"decode\": {\"min_p\": 0.1}",
            "{\"prompt\": \"a\", \"min_p\": 0.1}");
    refuses(CHAT, 400, "slot_score", "\"decode\": {\"slot_score\": \"mean\"}",
            "{\"messages\": [], \"slot_score\": \"mean\"}");
    refuses(COMPLETIONS, 400, "decode.min_p", "leave it out",
            "{\"prompt\": \"a\", \"decode.min_p\": 0.1}");
    refuses(COMPLETIONS, 400, "presence_penalty", "or give 0",
            "{\"prompt\": \"a\", \"presence_penalty\": 0.5}");
    refuses(COMPLETIONS, 400, "temperature", "from 0", "{\"prompt\": \"a\", \"temperature\": -1}");
    refuses(COMPLETIONS, 400, "temperature", "must be a number, not a string",
            "{\"prompt\": \"a\", \"temperature\": \"hot\"}");
    refuses(COMPLETIONS, 400, "decode", "did you mean 'decode.slot_size'",
            "{\"prompt\": \"a\", \"decode\": {\"slot_siz\": 2}}");
    refuses(COMPLETIONS, 400, "decode", "slot_threshold",
            "{\"prompt\": \"a\", \"decode\": {\"slot_threshold\": 1.5}}");
    refuses(COMPLETIONS, 400, "temperature", "temperature and decode.temperature are one",
            "{\"prompt\": \"a\", \"temperature\": 0, \"decode\": {\"temperature\": 5}}");
    refuses(COMPLETIONS, 400, "seed", "seed and decode.seed are one: give one of them",
            "{\"prompt\": \"a\", \"seed\": 1, \"decode\": {\"seed\": 2}}");
    refuses(COMPLETIONS, 400, "prompt", "is missing", "{}");
    refuses(COMPLETIONS, 400, "", "the body is empty", "");
    refuses(COMPLETIONS, 400, "", "must be a JSON object, not null", "null");
    refuses(COMPLETIONS, 400, "", "must be a JSON object, not a number", "3");
    refuses(COMPLETIONS, 400, "", "no character U+0000 here", "{\"prompt\": \"a\\u0000b\"}");
    refuses(COMPLETIONS, 400, "stream_options", "goes with \"stream\": true",
            "{\"prompt\": \"a\", \"stream_options\": {\"include_usage\": true}}");
    refuses(CHAT, 400, "max_completion_tokens", "give one of them",
            "{\"messages\": [], \"max_tokens\": 2, \"max_completion_tokens\": 2}");
    refuses(COMPLETIONS, 400, "max_tokens", "max_tokens is 1.5: must be a whole number",
            "{\"prompt\": \"a\", \"max_tokens\": 1.5}");
    refuses(COMPLETIONS, 400, "prompt", "ids are from 0", "{\"prompt\": [1, 262]}");
    refuses(COMPLETIONS, 400, "prompt", "entry 1", "{\"prompt\": [\"a\", 2]}");
    refuses(COMPLETIONS, 400, "prompt", "room for 96", "{\"prompt\": \"a\", \"max_tokens\": 95}");
    refuses(COMPLETIONS, 400, "stop", "at most 16",
            "{\"prompt\": \"a\", \"stop\": [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\","
            "\"i\",\"j\",\"k\",\"l\",\"m\",\"n\",\"o\",\"p\",\"q\"]}");
    refuses(COMPLETIONS, 400, "n", "from 1 to 128", "{\"prompt\": \"a\", \"n\": 129}");
    refuses(COMPLETIONS, 404, "model", "ask for 'model'",
            "{\"prompt\": \"a\", \"model\": \"gpt-4\"}");
    refuses(CHAT, 400, "messages", "is missing", "{}");
    refuses(CHAT, 400, "messages", "messages is empty: give one", "{\"messages\": []}");
    refuses(CHAT, 400, "messages", "must be a list, not an object", "{\"messages\": {}}");
    refuses(CHAT, 400, "messages", "image_url",
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}");
    refuses(CHAT, 400, "response_format", "or give",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}],"
            " \"response_format\": {\"type\": \"json_object\"}}");
    refuses(CHAT, 400, "messages", "role",
            "{\"messages\": [{\"role\": \"wizard\", \"content\": \"a\"}]}");
    refuses("/nothing", 404, "", "there is no /nothing", "{}");
    refuses(COMPLETIONS, 405, "", "takes POST", NULL);
    json_decref(
        ask(COMPLETIONS, 200,
            "{\"prompt\": \"a\", \"suffix\": null, \"presence_penalty\": 0,"
            " \"logit_bias\": {}, \"best_of\": 1.0, \"user\": \"me\", \"model\": \"model\"}"));
    json_decref(ask(CHAT, 200,
                    "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"store\": false,"
                    " \"metadata\": {}, \"service_tier\": \"auto\", \"modalities\": [\"text\"],"
                    " \"parallel_tool_calls\": true}"));
    refuses(CHAT, 400, "modalities", "or give [\"text\"]",
            "{\"messages\": [], \"modalities\": [\"text\", \"audio\"]}");
    refuses(CHAT, 400, "store", "or give false", "{\"messages\": [], \"store\": true}");
    refuses(CHAT, 400, "parallel_tool_calls", "or give true",
            "{\"messages\": [], \"parallel_tool_calls\": false}");
    refuses(CHAT, 400, "service_tier", "or give \"auto\"",
            "{\"messages\": [], \"service_tier\": \"flex\"}");
}

Test(serve, tokens_there_and_back)
{
    json_t *ids = ask("/tokenize", 200, "{\"prompt\": \"h\\u00e9\", \"add_special_tokens\": true}");
    char *list = json_dumps(json_object_get(ids, "tokens"), JSON_COMPACT);
    cr_assert_str_eq(list, "[258,104,195,169]");
    json_t *text = ask("/detokenize", 200, "{\"tokens\": [104, 195, 169]}");
    cr_assert_str_eq(json_string_value(json_object_get(text, "prompt")), "h\xC3\xA9");
    json_t *info = ask("/tokenizer_info", 200, NULL);
    cr_assert_str_eq(json_string_value(json_object_get(info, "eos_token")), "<|endoftext|>");
    json_t *end = ask("/tokenize", 200, "{\"prompt\": \"<|endoftext|>\"}");
    cr_assert_eq(json_integer_value(json_array_get(json_object_get(end, "tokens"), 0)), 256);
    refuses("/detokenize", 400, "tokens", "must be a list", "{\"tokens\": \"a\"}");
    refuses("/tokenize", 400, "text", "not supported", "{\"text\": \"a\"}");
    json_decref(ids);
    json_decref(text);
    json_decref(info);
    json_decref(end);
    free(list);
}

/* What was taken is answered; then it ends, with status 0. */
Test(serve, a_signal_drains_it)
{
    const int s = client_connect(1);
    client_post(
        s, COMPLETIONS,
        "{\"prompt\": \"a\", \"max_tokens\": 80, \"decode\": {\"kind\": \"ar\"}, \"n\": 100}");
    wait_until("queue_length", 1, 100);
    cr_assert(kill(server_pid, SIGTERM) == 0);
    client_read(s);
    cr_assert_eq(reply_status(), 200);
    json_t *json = reply_json();
    cr_assert_eq(json_array_size(json_object_get(json, "choices")), 100);
    json_decref(json);
    cr_assert_eq(server_wait(), 0);
}

/* --- How it was started ------------------------------------------------------------------------- */

TestSuite(serve_start, .init = program_begin_model, .fini = server_end, .timeout = 600);

/* Before it listens there is nothing to answer: it ends at once, with the same status. Its keys come
 * from a pipe, of which it waits for the end. */
Test(serve_start, a_signal_ends_it_before_it_listens)
{
    int keys;
    cr_assert(mkfifo("keys", 0600) == 0);
    server_run("--api-key-file keys");
    for (int i = 0; (keys = open("keys", O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0; i++) {
        cr_assert(errno == ENXIO && i < SERVER_SECONDS * 50, "it does not read its keys: %m");
        server_pause(20);
    }
    cr_assert(kill(server_pid, SIGTERM) == 0);
    cr_assert_eq(server_wait(), 0);
    close(keys);
}

/* A model whose chat template refuses each request with the day as it knows it. */
static void put_dated_model(void)
{
    program_runs("mkdir hf && cp \"$ROOT\"/tests/golden/hf_qwen3/* hf/ && "
                 "cp \"$ROOT\"/tests/golden/tokenizer_small.json hf/tokenizer.json && "
                 "rm model.h5",
                 0);
    program_write("hf/tokenizer_config.json",
                  "{\"eos_token\": \"<|end|>\", \"chat_template\": "
                  "\"{{ raise_exception('on ' ~ strftime_now('%d %b %Y')) }}\"}");
    program_runs("\"$CONVERT\" import hf model.h5 --grow", 0);
}

Test(serve_start, the_date_of_chat_templates)
{
    static const char asked[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
    program_refuses("\"$SERVE\" --model model.h5 --port 0 --date yesterday", 2,
                    "--date yesterday: must be today");
    put_dated_model();
    server_start("");
    refuses(CHAT, 400, "messages", "on 26 Jul 2024", asked);
    server_stop();
    server_start("--date 2028-02-29");
    refuses(CHAT, 400, "messages", "on 29 Feb 2028", asked);
}

/* What a request does not say is as on the command line; the choices of one still differ. */
Test(serve_start, the_seed_of_samples)
{
    static const char plain[] = "{\"prompt\": \"b\", \"max_tokens\": 9, \"n\": 3}";
    static const char as_said[] = "{\"prompt\": \"b\", \"max_tokens\": 9, \"n\": 3, \"seed\": 7}";
    static const char other[] = "{\"prompt\": \"b\", \"max_tokens\": 9, \"n\": 3, \"seed\": 8}";
    server_start("decode.kind=ar decode.temperature=1.5 decode.seed=7");
    json_t *x = ask(COMPLETIONS, 200, plain), *y = ask(COMPLETIONS, 200, plain);
    json_t *said = ask(COMPLETIONS, 200, as_said), *differs = ask(COMPLETIONS, 200, other);
    cr_assert(json_equal(json_object_get(x, "choices"), json_object_get(y, "choices")));
    cr_assert(json_equal(json_object_get(x, "choices"), json_object_get(said, "choices")));
    cr_assert(!json_equal(json_object_get(x, "choices"), json_object_get(differs, "choices")));
    cr_assert(strcmp(text_of(x, 0), text_of(x, 1)) != 0 ||
              strcmp(text_of(x, 0), text_of(x, 2)) != 0);
    json_decref(x);
    json_decref(y);
    json_decref(said);
    json_decref(differs);
}

/* --- Who may ----------------------------------------------------------------------------------- */

TestSuite(serve_access, .init = program_begin_model, .fini = server_end, .timeout = 600);

static int status_with(const char *headers)
{
    char head[512];
    const int s = client_connect(1);
    const int n = snprintf(head, sizeof head,
                           "GET /v1/models HTTP/1.1\r\n%sConnection: close\r\n\r\n", headers);
    cr_assert(client_send(s, head, (size_t)n));
    client_read(s);
    return reply_status();
}

Test(serve_access, keys)
{
    program_write("keys", "# for tests\none-key\n\n#not-a-key\nano#ther\r\n");
    program_refuses("\"$SERVE\" --model model.h5 --port 0 --api-key-file keys", 2, "chmod 600");
    cr_assert(chmod("keys", 0600) == 0);
    server_start("--api-key-file keys");
    cr_assert_eq(status_with("Host: anywhere\r\n"), 401);
    cr_assert_eq(status_with("Host: a\r\nAuthorization: Bearer one\r\n"), 401);
    cr_assert_eq(status_with("Host: a\r\nAuthorization: Bearer one-key-\r\n"), 401);
    cr_assert_eq(status_with("Host: a\r\nAuthorization: Bearer one-key\r\n"), 200);
    cr_assert_eq(status_with("Host: a\r\nauthorization: bearer ano#ther\r\n"), 200);
    cr_assert_eq(status_with("Host: a\r\nAuthorization: Bearer #not-a-key\r\n"), 401);
    json_decref(ask("/health", 200, NULL));
}

/* A key is a whole line: none is cut to a weaker one. */
Test(serve_access, keys_with_blanks_are_refused)
{
    static const char *const keys[] = {"correct horse\n", " another\n", "another \n", "a\tb",
                                       "   \n",           "a\rb\n"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char text[64];
        snprintf(text, sizeof text, "# one\none-key\n%s", keys[i]);
        program_write("keys", text);
        cr_assert(chmod("keys", 0600) == 0);
        program_refuses("\"$SERVE\" --model model.h5 --port 0 --api-key-file keys", 2,
                        "keys:3: a key is the whole line");
    }
    program_write("keys", "# one\n\n");
    program_refuses("\"$SERVE\" --model model.h5 --port 0 --api-key-file keys", 2, "holds no key");
}

Test(serve_access, pages_from_elsewhere)
{
    server_start("");
    cr_assert_eq(status_with("Host: evil.example\r\n"), 403);
    cr_assert_eq(status_with("Host: localhost.evil.example:80\r\n"), 403);
    cr_assert_eq(status_with("Host: localhost:8080\r\nOrigin: http://evil.example\r\n"), 403);
    cr_assert_eq(status_with("Host: localhost:8080\r\nOrigin: http://localhost:8080\r\n"), 200);
    cr_assert_eq(status_with("Host: [::1]:8080\r\n"), 200);
}

Test(serve_access, other_addresses_need_a_key)
{
    program_refuses("\"$SERVE\" --model model.h5 --host 0.0.0.0 --port 0", 2, "--no-key");
    program_refuses("\"$SERVE\" --model model.h5 --api-key-file none", 1, "none");
    program_refuses("\"$SERVE\" --port 0", 2, "--model is missing");
    program_refuses("\"$SERVE\" --model model.h5 --model other.h5", 2, "--model: given twice");
    program_refuses("\"$SERVE\" --model model.h5 --api-key-file a --api-key-file b", 2,
                    "--api-key-file: given twice, a and b");
    program_refuses("\"$SERVE\" --model model.h5 --name ''", 2,
                    "name '' is empty: say with --name");
    program_refuses("\"$SERVE\" --model model.h5 --name 'a\xFF'", 2, "is no UTF-8");
    program_refuses("\"$SERVE\" --model model.h5 --port 0 --context 97", 2,
                    "--context 97: model.h5 has 96 positions");
    program_refuses("\"$SERVE\" --model model.h5 objective.block_size=2", 2,
                    "answers follow from decode.* and objective.kind");
    program_refuses("\"$SERVE\" --model model.h5 decode.kind=mdm decode.top_p=0.5", 2, "top_p");
    server_start("--host 0.0.0.0 --no-key");
    cr_assert_eq(status_with("Host: anything\r\n"), 200);
}

/* --- Connections that only pretend to ask -------------------------------------------------------- */

Test(serve_links, a_sweep_ends_those_that_do_not_ask)
{
    rf_links links;
    int idle[2], busy[2];
    char byte;
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, idle) == 0 &&
              socketpair(AF_UNIX, SOCK_STREAM, 0, busy) == 0);
    rf_links_init(&links);
    rf_link *first = rf_links_add(&links, idle[0]), *second = rf_links_add(&links, busy[0]);
    rf_links_note(&links, second, true);
    rf_links_sweep(&links, 3600);
    cr_assert(recv(idle[1], &byte, 1, MSG_DONTWAIT) < 0);
    server_pause(5);
    rf_links_sweep(&links, 1e-3);
    cr_assert_eq(recv(idle[1], &byte, 1, MSG_DONTWAIT), 0);
    cr_assert(recv(busy[1], &byte, 1, MSG_DONTWAIT) < 0);
    rf_links_note(&links, second, false);
    rf_links_remove(&links, first);
    server_pause(5);
    rf_links_sweep(&links, 1e-3);
    cr_assert_eq(recv(busy[1], &byte, 1, MSG_DONTWAIT), 0);
    rf_links_free(&links);
    for (int i = 0; i < 2; i++) {
        close(idle[i]);
        close(busy[i]);
    }
}
