/* Chat templates: recognised, and rendered as Jinja does (tests/golden). */
#include "tests/text/bpe_test.h"

#include "common/text/chat.h"

static const char *kind_of(const char *template)
{
    return strncmp(template, "qwen3", 5) == 0    ? "qwen3"
           : strncmp(template, "chatml", 6) == 0 ? "chatml"
           : strcmp(template, "llama3.2") == 0   ? "llama3.1"
                                                 : template;
}

Test(chat, golden_texts)
{
    json_t *templates = bpe_read_json("tests/golden/chat_templates.json");
    json_t *cases = bpe_read_json("tests/golden/chat_vectors.json"), *item;
    size_t i;
    json_array_foreach(cases, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "template"));
        const json_t *text = json_object_get(item, "text");
        rf_render_options options;
        rf_chat chat;
        rf_error err;
        rf_turn *turn;
        rf_text out = {0};
        int64_t n;
        cr_assert_eq(rf_chat_recognise(&chat, json_string_value(json_object_get(templates, name)),
                                       "x.json", &err),
                     RF_OK, "%s: %s", name, err.message);
        cr_expect_str_eq(rf_chat_name(chat.kind), kind_of(name));
        cr_assert_eq(rf_chat_turns(&turn, &n, json_object_get(item, "messages"), &err), RF_OK);
        cr_assert_eq(rf_chat_read_options(&options, item, &err), RF_OK, "%s", err.message);
        cr_assert_eq(rf_chat_render(&chat, &out, "", "", turn, n, &options, &err), RF_OK,
                     "case %zu: %s", i, err.message);
        cr_expect(out.bytes == json_string_length(text) &&
                      memcmp(out.data, json_string_value(text), out.bytes) == 0,
                  "case %zu (%s):\n%s\nshould be\n%s", i, name, out.data, json_string_value(text));
        rf_text_free(&out);
        rf_chat_free(&chat);
        free(turn);
    }
    cr_assert_geq(i, 60);
    json_decref(cases);
    json_decref(templates);
}

Test(chat, changed_templates_are_unknown)
{
    json_t *templates = bpe_read_json("tests/golden/chat_templates.json"), *item;
    const char *name;
    rf_chat chat;
    rf_error err;
    json_object_foreach(templates, name, item)
    {
        /* What is printed changes; blanks between tags do not. */
        char *text = strdup(json_string_value(item)), *word = strstr(text, "<|");
        cr_assert_not_null(word);
        word[1] = '!';
        cr_expect_eq(rf_chat_recognise(&chat, text, "x.json", &err), RF_ERR, "%s", name);
        cr_expect_not_null(strstr(err.message, "x.json: chat_template"), "%s", err.message);
        free(text);
        rf_text longer = {0};
        rf_text_add_string(&longer, "{# a comment #}");
        rf_text_add_string(&longer, json_string_value(item));
        cr_expect_eq(rf_chat_recognise(&chat, longer.data, "x.json", &err), RF_OK, "%s", name);
        rf_chat_free(&chat);
        rf_text_add_string(&longer, "{{ 'more' }}");
        cr_expect_eq(rf_chat_recognise(&chat, longer.data, "x.json", &err), RF_ERR, "%s", name);
        rf_text_free(&longer);
    }
    json_decref(templates);
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
    const rf_chat chat = {.kind = RF_CHAT_LLAMA3};
    const rf_turn turn = {.role = "tool", .content = ""};
    json_t *tools = json_pack("[{}]");
    rf_render_options options = {0};
    rf_text out = {0};
    rf_error err;
    cr_assert_eq(rf_chat_render(&chat, &out, "", "", &turn, 1, &options, &err), RF_ERR);
    cr_assert_eq(rf_chat_render(&chat, &out, "", "", &turn, 0, &options, &err), RF_ERR);
    options.tools = tools;
    cr_assert_eq(rf_chat_render(&chat, &out, "", "", &turn, 1, &options, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "llama3"), "%s", err.message);
    /* One call a message; tools need a message to stand in. */
    const rf_chat newer = {.kind = RF_CHAT_LLAMA31};
    json_t *calls = json_loads("[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", "
                               "\"arguments\": {}}]",
                               0, NULL);
    const rf_turn both = {.role = "assistant", .content = "", .tool_calls = calls};
    cr_assert_eq(rf_chat_render(&newer, &out, "", "", &both, 1, &options, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "one tool call"), "%s", err.message);
    const rf_turn system = {.role = "system", .content = "s", .bytes = 1};
    cr_assert_eq(rf_chat_render(&newer, &out, "", "", &system, 1, &options, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "first message"), "%s", err.message);
    json_decref(calls);
    json_decref(tools);
    rf_text_free(&out);
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
