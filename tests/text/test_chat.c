/* Chat templates: rendered as Jinja does (tests/golden), and what a model learns of them. */
#include "tests/text/bpe_test.h"

#include "common/text/chat.h"

#include <jansson.h>

static rf_chat open_chat(const char *source, const char *system)
{
    json_t *config = json_pack("{s:s}", "bos_token", "<|begin_of_text|>");
    rf_error err;
    rf_chat chat;
    cr_assert_eq(rf_chat_open(&chat, source, system, config, "x.json", &err), RF_OK, "%.60s: %s",
                 source, err.message);
    json_decref(config);
    return chat;
}

/* The form that prints what a template prints. */
static const char *form_of(const char *template)
{
    return strncmp(template, "qwen3", 5) == 0    ? "qwen3"
           : strncmp(template, "chatml", 6) == 0 ? "chatml"
           : strcmp(template, "llama3.2") == 0   ? "llama3.1"
                                                 : template;
}

static const char *system_of(const char *template)
{
    return strcmp(template, "qwen2.5") == 0
               ? "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
           : strcmp(template, "chatml_system") == 0 ? "You are a helpful assistant."
                                                    : NULL;
}

static void assert_renders(const rf_chat *chat, const json_t *item, const char *name, size_t i)
{
    const json_t *text = json_object_get(item, "text");
    rf_render_options options;
    rf_error err;
    rf_turn *turn;
    rf_text out = {0};
    int64_t n;
    cr_assert_eq(rf_chat_turns(&turn, &n, json_object_get(item, "messages"), &err), RF_OK);
    cr_assert_eq(rf_chat_read_options(&options, item, &err), RF_OK, "%s", err.message);
    cr_assert_eq(rf_chat_render(chat, &out, "", "", turn, n, &options, &err), RF_OK,
                 "case %zu (%s): %s", i, name, err.message);
    cr_expect(out.bytes == json_string_length(text) &&
                  memcmp(out.data, json_string_value(text), out.bytes) == 0,
              "case %zu (%s):\n%s\nshould be\n%s", i, name, out.data, json_string_value(text));
    rf_text_free(&out);
    free(turn);
}

/* Each template itself, and the form with a name that stored files may hold instead. */
Test(chat, golden_texts)
{
    json_t *templates = bpe_read_json("tests/golden/chat_templates.json");
    json_t *cases = bpe_read_json("tests/golden/chat_vectors.json"), *item;
    size_t i;
    json_array_foreach(cases, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "template"));
        rf_chat own = open_chat(json_string_value(json_object_get(templates, name)), NULL);
        rf_chat form = open_chat(form_of(name), system_of(name));
        assert_renders(&own, item, name, i);
        assert_renders(&form, item, form_of(name), i);
        rf_chat_free(&own);
        rf_chat_free(&form);
    }
    cr_assert_geq(i, 60);
    json_decref(cases);
    json_decref(templates);
}

/* What a model is trained to answer is what stands behind the prompt. */
Test(chat, answers)
{
    static const struct {
        const char *template, *end, *messages, *answer;
    } cases[] = {
        {"chatml", "<|im_end|>",
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b "
         "c\"}]",
         "b c"},
        {"qwen3", "<|im_end|>",
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": "
         "\"b\"}]",
         "b"},
        {"qwen3", "<|im_end|>",
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\", "
         "\"reasoning_content\": \"hm\"}]",
         "<think>\nhm\n</think>\n\nb"},
        {"llama3", "<|eot_id|>",
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \" b "
         "\"}]",
         "b"},
        {"{{ '[' ~ messages[0].content ~ ']' }}{% for m in messages[1:] %} {{ m.content }}</s>{% "
         "endfor %}",
         "</s>",
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": "
         "\"b\"}]",
         " b"},
        /* a prompt that begins a thought which the answer does not have */
        {"{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
         "{% if add_generation_prompt %}<assistant><think>{% endif %}",
         "</s>",
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": "
         "\"b\"}]",
         "b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_chat chat = open_chat(cases[i].template, NULL);
        json_t *messages = json_loads(cases[i].messages, 0, NULL);
        rf_render_options options = {.add_generation_prompt = true};
        rf_error err;
        rf_turn *turn;
        rf_text out = {0}, prompt = {0};
        int64_t n;
        cr_assert_eq(rf_chat_turns(&turn, &n, messages, &err), RF_OK);
        cr_assert_eq(rf_chat_render(&chat, &prompt, "", "", turn, n - 1, &options, &err), RF_OK);
        cr_assert_eq(
            rf_chat_render_answer(&chat, &out, &prompt, cases[i].end, turn, n, &options, &err),
            RF_OK, "%s", err.message);
        cr_expect_str_eq(out.data, cases[i].answer);
        rf_text_free(&prompt);
        rf_text_free(&out);
        free(turn);
        json_decref(messages);
        rf_chat_free(&chat);
    }
    /* the messages before the answer change when it comes: nothing can be learned from that */
    rf_chat chat = open_chat(
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", NULL);
    const rf_turn turn[] = {{.role = "user", .content = "a", .bytes = 1},
                            {.role = "assistant", .content = "b", .bytes = 1}};
    const rf_render_options options = {0};
    rf_text out = {0}, prompt = {0};
    rf_error err;
    cr_assert_eq(rf_chat_render(&chat, &prompt, "", "", turn, 1, &options, &err), RF_OK);
    cr_expect_eq(rf_chat_render_answer(&chat, &out, &prompt, "</s>", turn, 2, &options, &err),
                 RF_ERR);
    rf_text_free(&prompt);
    cr_expect_not_null(strstr(err.message, "messages[1]"), "%s", err.message);
    rf_text_free(&out);
    rf_chat_free(&chat);
}

/* What a record says of a template's variables reaches it, those that are set anyway too. */
Test(chat, further_variables)
{
    rf_chat chat = open_chat("{{ documents[0] if documents else 'none' }} {{ other }}", NULL);
    const rf_turn turn = {.role = "user", .content = "a", .bytes = 1};
    json_t *more = json_pack("{s:[s], s:i}", "documents", "d", "other", 7);
    const rf_render_options options[] = {{.more = NULL}, {.more = more}};
    static const char *const texts[] = {"none ", "d 7"};
    for (size_t i = 0; i < 2; i++) {
        rf_text out = {0};
        rf_error err;
        cr_assert_eq(rf_chat_render(&chat, &out, "", "", &turn, 1, &options[i], &err), RF_OK, "%s",
                     err.message);
        cr_expect_str_eq(out.data, texts[i]);
        rf_text_free(&out);
    }
    json_decref(more);
    rf_chat_free(&chat);
}

/* Finds "<x>", and counts the bytes that it has looked at. */
static bool find_counting(const void *tokens, const char *text, size_t bytes, rf_chat_found *found)
{
    const size_t from = found->end;
    const char *at = memmem(text + from, bytes - from, "<x>", 3);
    found->begin = at != NULL ? (size_t)(at - text) : bytes;
    found->end = found->begin + 3;
    **(size_t *const *)tokens += found->begin - from;
    return at != NULL;
}

/* Characters of the marks in a message, each of which is marked, and tokens among them: what marks a
 * text looks at it once, however many there are. */
Test(chat, many_marks_are_found_in_linear_time)
{
    enum { MANY = 10000 };
    size_t looked_at = 0, *counter = &looked_at;
    const rf_chat chat = {
        .kind = RF_CHAT_TEMPLATE, .find = find_counting, .tokens = (const void *)&counter};
    rf_text text = {0}, expected = {0}, out = {0};
    for (int i = 0; i < MANY; i++) {
        const char *const mark = i % 2 == 0 ? "\uFDD0" : "\uFDD1";
        rf_text_add_string(&text, mark);
        rf_text_add_string(&expected, "\uFDD0");
        rf_text_add_string(&expected, mark);
        rf_text_add_string(&expected, "\uFDD1");
        if (i % (MANY / 4) == 1) {
            rf_text_add_string(&text, "<x>");
            rf_text_add_string(&expected, "\uFDD0<x>\uFDD1");
        }
    }
    rf_chat_mark_text(&chat, &out, text.data, text.bytes);
    cr_expect_str_eq(out.data, expected.data);
    cr_expect_leq(looked_at, text.bytes);
    rf_chat_remove_marks(&chat, &out);
    cr_expect_str_eq(out.data, text.data);
    rf_text_free(&text);
    rf_text_free(&expected);
    rf_text_free(&out);
}

/* Marks without a token: each is looked behind as far as the next one, wherever the next token is. */
Test(chat, marks_that_were_cut_off_are_passed_in_linear_time)
{
    enum { MANY = 10000 };
    size_t looked_at = 0, *counter = &looked_at;
    const rf_chat chat = {
        .kind = RF_CHAT_TEMPLATE, .find = find_counting, .tokens = (const void *)&counter};
    rf_text text = {0}, expected = {0};
    for (int i = 0; i < MANY; i++) {
        rf_text_add_string(&text, "\uFDD0a");
        rf_text_add_string(&expected, "a");
    }
    rf_text_add_string(&text, "\uFDD0<x>\uFDD1");
    rf_text_add_string(&expected, "<x>");
    rf_chat_remove_marks(&chat, &text);
    cr_expect_str_eq(text.data, expected.data);
    cr_expect_leq(looked_at, expected.bytes);
    rf_text_free(&text);
    rf_text_free(&expected);
}

Test(chat, endings)
{
    static const char *const cases[][2] = {{"chatml", "<|im_end|>\n"},
                                           {"llama3.1", "<|eot_id|>"},
                                           {"{{ messages[0].content }}", ""},
                                           {"{{ raise_exception('no') }}", ""}};
    for (size_t i = 0; i < 4; i++) {
        rf_chat chat = open_chat(cases[i][0], NULL);
        rf_text out = {0};
        rf_chat_ending(&chat, &out);
        cr_expect_str_eq(out.data != NULL ? out.data : "", cases[i][1]);
        rf_text_free(&out);
        rf_chat_free(&chat);
    }
}

static void assert_turns_refused(const char *messages, const char *part)
{
    json_t *list = json_loads(messages, JSON_DECODE_ANY, NULL);
    rf_turn *turn;
    int64_t n;
    rf_error err;
    cr_assert_not_null(list, "%s", messages);
    cr_assert_eq(rf_chat_turns(&turn, &n, list, &err), RF_ERR, "%s", messages);
    cr_assert_not_null(strstr(err.message, part), "\"%s\" should name \"%s\"", err.message, part);
    json_decref(list);
}

Test(chat, bad_messages_are_refused)
{
    assert_turns_refused("3", "array");
    assert_turns_refused("[]", "empty");
    assert_turns_refused("[3]", "messages[0]");
    assert_turns_refused("[{\"role\": \"user\"}]", "\"content\" is missing");
    assert_turns_refused("[{\"role\": 1, \"content\": \"\"}]", "\"role\"");
    assert_turns_refused("[{\"role\": \"cook\", \"content\": \"\"}]", "cook");
    assert_turns_refused("[{\"role\": \"assistant\", \"content\": null}]", "null");
    assert_turns_refused("[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": 1}]",
                         "array");
    assert_turns_refused("[{\"role\": \"assistant\", \"tool_calls\": [{}]}]", "tool_calls[0]");
    rf_chat chat = open_chat("llama3", NULL);
    const rf_turn turn = {.role = "tool", .content = ""};
    json_t *tools = json_pack("[{}]");
    rf_render_options options = {0};
    rf_text out = {0};
    rf_error err;
    cr_assert_eq(rf_chat_render(&chat, &out, "", "", &turn, 1, &options, &err), RF_ERR);
    cr_assert_eq(rf_chat_render(&chat, &out, "", "", &turn, 0, &options, &err), RF_ERR);
    options.tools = tools;
    cr_assert_eq(rf_chat_render(&chat, &out, "", "", &turn, 1, &options, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "tools"), "%s", err.message);
    /* One call a message; tools need a message to stand in. */
    rf_chat newer = open_chat("llama3.1", NULL);
    json_t *calls = json_loads("[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", "
                               "\"arguments\": {}}]",
                               0, NULL);
    options.tools = NULL;
    const rf_turn both = {.role = "assistant", .content = "", .tool_calls = calls};
    cr_assert_eq(rf_chat_render(&newer, &out, "", "", &both, 1, &options, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "one tool call"), "%s", err.message);
    options.tools = tools;
    const rf_turn system = {.role = "system", .content = "s", .bytes = 1};
    cr_assert_eq(rf_chat_render(&newer, &out, "", "", &system, 1, &options, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "first message"), "%s", err.message);
    json_decref(calls);
    json_decref(tools);
    rf_text_free(&out);
    rf_chat_free(&chat);
    rf_chat_free(&newer);
}

/* It may be missing beside calls, unless the template reads it. */
Test(chat, content_that_a_template_misses)
{
    static const struct {
        const char *template, *part; /* of the error; NULL: there is none */
    } cases[] = {
        {"{% for m in messages %}{{ m.role + m.content }}{{ m.tool_calls }}{% endfor %}",
         "messages[1]: \"content\" is missing, which the chat template reads: write \"content\": "
         "\"\""},
        {"{% for m in messages %}{{ m.tool_calls + m.content }}{% endfor %}",
         "undefined is tool_calls"},
        {"{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}", NULL}};
    json_t *messages = json_loads("[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": "
                                  "\"assistant\", \"content\": null, \"tool_calls\": [{\"name\": "
                                  "\"f\", \"arguments\": {}}]}]",
                                  0, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rf_chat chat = open_chat(cases[i].template, NULL);
        const rf_render_options options = {0};
        rf_text out = {0};
        rf_error err;
        rf_turn *turn;
        int64_t n;
        cr_assert_eq(rf_chat_turns(&turn, &n, messages, &err), RF_OK);
        const int rc = rf_chat_render(&chat, &out, "", "", turn, n, &options, &err);
        cr_assert((rc == RF_OK) == (cases[i].part == NULL));
        cr_assert(rc == RF_OK || strstr(err.message, cases[i].part) != NULL, "%s", err.message);
        cr_assert(i != 1 || strstr(err.message, "is missing") == NULL, "%s", err.message);
        rf_text_free(&out);
        rf_chat_free(&chat);
        free(turn);
    }
    json_decref(messages);
}

/* What a template has no words for would be left out without a word: variables of a record, and the
 * thought of the answer that is to be learnt. */
Test(chat, what_a_template_lacks_is_refused)
{
    rf_chat lacks = open_chat("chatml", NULL), has = open_chat("qwen3", NULL);
    json_t *more = json_pack("{s:b}", "enable_thinking", 0);
    const rf_turn turn[] = {
        {.role = "user", .content = "q", .bytes = 1},
        {.role = "assistant", .content = "a", .bytes = 1, .reasoning = "t", .reasoning_bytes = 1}};
    const rf_render_options plain = {0}, options = {.more = more};
    rf_text prompt = {0}, out = {0};
    rf_error err;
    cr_assert_eq(rf_chat_render(&lacks, &out, "", "", turn, 1, &options, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "no variable \"enable_thinking\""), "%s", err.message);
    cr_assert_eq(rf_chat_render(&has, &out, "", "", turn, 1, &options, &err), RF_OK);
    cr_assert_eq(rf_chat_render(&lacks, &prompt, "", "", turn, 1, &plain, &err), RF_OK);
    cr_assert_eq(rf_chat_render_answer(&lacks, &out, &prompt, "<|im_end|>", turn, 2, &plain, &err),
                 RF_ERR);
    cr_assert_not_null(strstr(err.message, "reasoning_content"), "%s", err.message);
    json_decref(more);
    rf_text_free(&prompt);
    rf_text_free(&out);
    rf_chat_free(&lacks);
    rf_chat_free(&has);
}

Test(chat, options_of_a_record)
{
    static const struct {
        const char *record, *part;
    } bad[] = {
        {"{\"tools\": 1}", "\"tools\" must be an array"},
        {"{\"add_generation_prompt\": \"yes\"}", "\"add_generation_prompt\" must be true or false"},
        {"{\"enable_thinking\": 0}", "\"enable_thinking\" must be true or false, but is a number"},
        {"{\"date_string\": 2024}", "\"date_string\" must be a string"},
        {"{\"chat_template_kwargs\": []}", "\"chat_template_kwargs\" must be an object"},
    };
    rf_render_options options;
    rf_error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *record = json_loads(bad[i].record, 0, NULL);
        cr_assert_eq(rf_chat_read_options(&options, record, &err), RF_ERR);
        cr_expect_not_null(strstr(err.message, bad[i].part), "%s", err.message);
        json_decref(record);
    }
    json_t *record = json_loads("{\"tools\": null, \"enable_thinking\": null}", 0, NULL);
    cr_assert_eq(rf_chat_read_options(&options, record, &err), RF_OK);
    cr_expect(options.tools == NULL && !options.add_generation_prompt && options.date == NULL &&
              options.thinking == RF_THINKING_UNSET);
    json_decref(record);
}
