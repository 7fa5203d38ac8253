#include "common/text/chat.h"

#include "common/base/utf8.h"
#include "common/text/unicode.h"

#include <jansson.h>
#include <string.h>

/* A part of a string. */
typedef struct part {
    const char *text;
    size_t bytes;
} part;

static part content_of(const rf_turn *turn)
{
    return (part){turn->content, turn->bytes};
}

static void add(rf_text *out, part p)
{
    rf_text_add(out, p.text, p.bytes);
}

static bool is_role(const rf_turn *turn, const char *role)
{
    return strcmp(turn->role, role) == 0;
}

/* Python's lstrip("\n"), rstrip("\n"). */
static part strip_left(part p)
{
    while (p.bytes > 0 && p.text[0] == '\n') {
        p.text++;
        p.bytes--;
    }
    return p;
}

static part strip_right(part p)
{
    while (p.bytes > 0 && p.text[p.bytes - 1] == '\n') {
        p.bytes--;
    }
    return p;
}

static const char *find(part p, const char *word)
{
    return p.bytes > 0 ? memmem(p.text, p.bytes, word, strlen(word)) : NULL;
}

/* What stands in front of the first `word`: Python's split(word)[0]. */
static part before_first(part p, const char *word)
{
    const char *found = find(p, word);
    return found != NULL ? (part){p.text, (size_t)(found - p.text)} : p;
}

/* What stands behind the last `word`: Python's split(word)[-1]. */
static part behind_last(part p, const char *word)
{
    for (const char *found; (found = find(p, word)) != NULL;) {
        const char *next = found + strlen(word);
        p.bytes -= (size_t)(next - p.text);
        p.text = next;
    }
    return p;
}

static bool begins_with(part p, const char *word)
{
    return p.bytes >= strlen(word) && memcmp(p.text, word, strlen(word)) == 0;
}

static bool ends_with(part p, const char *word)
{
    const size_t n = strlen(word);
    return p.bytes >= n && memcmp(p.text + p.bytes - n, word, n) == 0;
}

/* Python's str.strip(). The text is valid UTF-8, or its broken bytes are kept. */
static part trimmed(part p)
{
    int32_t c;
    size_t n;
    while (p.bytes > 0 && (unsigned char)p.text[0] < 0xF0 &&
           p.bytes >= (size_t)((unsigned char)p.text[0] < 0x80   ? 1
                               : (unsigned char)p.text[0] < 0xE0 ? 2
                                                                 : 3) &&
           (n = rf_utf8_next(&c, p.text), rf_unicode_is_python_space(c))) {
        p.text += n;
        p.bytes -= n;
    }
    for (;;) {
        size_t begin = p.bytes;
        while (begin > 0 && rf_utf8_continues(p.text[--begin])) {
        }
        if (p.bytes == 0 || p.bytes - begin > 3 || (unsigned char)p.text[begin] >= 0xF0) {
            return p;
        }
        n = rf_utf8_next(&c, p.text + begin);
        if (n != p.bytes - begin || !rf_unicode_is_python_space(c)) {
            return p;
        }
        p.bytes = begin;
    }
}

/* --- ChatML and what Qwen makes of it --------------------------------------------------------- */

static void add_message(rf_text *out, const char *role, part content)
{
    rf_text_add_string(out, "<|im_start|>");
    rf_text_add_string(out, role);
    rf_text_add(out, "\n", 1);
    add(out, content);
    rf_text_add_string(out, "<|im_end|>\n");
}

static void add_tools(rf_text *out, const json_t *tools)
{
    rf_text_add_string(out, "# Tools\n\nYou may call one or more functions to assist with the user "
                            "query.\n\nYou are provided with function signatures within "
                            "<tools></tools> XML tags:\n<tools>");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        rf_text_add(out, "\n", 1);
        rf_chat_json(out, json_array_get(tools, i), 0);
    }
    rf_text_add_string(
        out, "\n</tools>\n\nFor each function call, return a json object with function name and "
             "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": "
             "<function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n");
}

static const json_t *function_of(const json_t *call)
{
    const json_t *function = json_object_get(call, "function");
    return function != NULL ? function : call;
}

/* Qwen3 prints arguments that are a string as they are, Qwen2.5 as JSON. */
static void add_calls(rf_text *out, const json_t *calls, bool after_content, bool raw_strings)
{
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *call = function_of(json_array_get(calls, i));
        const json_t *arguments = json_object_get(call, "arguments");
        rf_text_add(out, "\n", after_content || i > 0 ? 1 : 0);
        rf_text_add_string(out, "<tool_call>\n{\"name\": \"");
        rf_text_add_string(out, json_string_value(json_object_get(call, "name")));
        rf_text_add_string(out, "\", \"arguments\": ");
        if (raw_strings && json_is_string(arguments)) {
            rf_text_add(out, json_string_value(arguments), json_string_length(arguments));
        } else {
            rf_chat_json(out, arguments, 0);
        }
        rf_text_add_string(out, "}\n</tool_call>");
    }
}

/* Results of tools that follow one another are one message of the user. */
static void add_result(rf_text *out, const rf_turn *turn, int64_t i, int64_t n)
{
    if (i == 0 || !is_role(&turn[i - 1], "tool")) {
        rf_text_add_string(out, "<|im_start|>user");
    }
    rf_text_add_string(out, "\n<tool_response>\n");
    add(out, content_of(&turn[i]));
    rf_text_add_string(out, "\n</tool_response>");
    if (i + 1 == n || !is_role(&turn[i + 1], "tool")) {
        rf_text_add_string(out, "<|im_end|>\n");
    }
}

/* The system message, with the tools in it; `fallback`: where the conversation has none. */
static void add_system(rf_text *out, const rf_turn *first, const char *fallback,
                       const json_t *tools, bool always_blank)
{
    const bool has_system = is_role(first, "system");
    part system = has_system         ? content_of(first)
                  : fallback != NULL ? (part){fallback, strlen(fallback)}
                                     : (part){"", 0};
    if (tools != NULL) {
        rf_text_add_string(out, "<|im_start|>system\n");
        add(out, system);
        rf_text_add_string(out, has_system || always_blank ? "\n\n" : "");
        add_tools(out, tools);
    } else if (has_system || fallback != NULL) {
        add_message(out, "system", system);
    }
}

/* What an assistant's message consists of in Qwen3's eyes. */
typedef struct answer {
    part reasoning, content;
} answer;

static answer answer_of(const rf_turn *turn)
{
    answer a = {.content = content_of(turn)};
    if (turn->reasoning != NULL) {
        a.reasoning = (part){turn->reasoning, turn->reasoning_bytes};
    } else if (find(a.content, "</think>") != NULL) {
        part thought = strip_right(before_first(a.content, "</think>"));
        a.reasoning = strip_left(behind_last(thought, "<think>"));
        a.content = strip_left(behind_last(a.content, "</think>"));
    }
    return a;
}

static void add_thought(rf_text *out, answer a)
{
    rf_text_add_string(out, "<think>\n");
    add(out, strip_right(strip_left(a.reasoning)));
    rf_text_add_string(out, "\n</think>\n\n");
    add(out, strip_left(a.content));
}

/* The last message of the user that is no result of a tool: thoughts in front of it are dropped. */
static int64_t last_query(const rf_turn *turn, int64_t n)
{
    for (int64_t i = n - 1; i >= 0; i--) {
        const part content = content_of(&turn[i]);
        if (is_role(&turn[i], "user") &&
            !(begins_with(content, "<tool_response>") && ends_with(content, "</tool_response>"))) {
            return i;
        }
    }
    return n - 1;
}

static void add_qwen3_answer(rf_text *out, const rf_turn *turn, bool is_recent, bool is_last)
{
    const answer a = answer_of(turn);
    rf_text_add_string(out, "<|im_start|>assistant\n");
    if (is_recent && (is_last || a.reasoning.bytes > 0)) {
        add_thought(out, a);
    } else {
        add(out, a.content);
    }
    if (turn->tool_calls != NULL) {
        add_calls(out, turn->tool_calls, a.content.bytes > 0, true);
    }
    rf_text_add_string(out, "<|im_end|>\n");
}

static void render_qwen3(rf_text *out, const rf_turn *turn, int64_t n,
                         const rf_render_options *options)
{
    const int64_t query = last_query(turn, n);
    add_system(out, turn, NULL, options->tools, false);
    for (int64_t i = 0; i < n; i++) {
        if (is_role(&turn[i], "assistant")) {
            add_qwen3_answer(out, &turn[i], i > query, i + 1 == n);
        } else if (is_role(&turn[i], "tool")) {
            add_result(out, turn, i, n);
        } else if (i > 0 || !is_role(&turn[i], "system")) {
            add_message(out, turn[i].role, content_of(&turn[i]));
        }
    }
    if (options->add_generation_prompt) {
        rf_text_add_string(out, "<|im_start|>assistant\n");
        rf_text_add_string(out,
                           options->thinking == RF_THINKING_OFF ? "<think>\n\n</think>\n\n" : "");
    }
}

static void render_qwen2(rf_text *out, const rf_chat *chat, const rf_turn *turn, int64_t n,
                         const rf_render_options *options)
{
    add_system(out, turn, chat->system, options->tools, true);
    for (int64_t i = 0; i < n; i++) {
        const part content = content_of(&turn[i]);
        if (is_role(&turn[i], "assistant") && turn[i].tool_calls != NULL) {
            rf_text_add_string(out, "<|im_start|>assistant\n");
            add(out, content);
            add_calls(out, turn[i].tool_calls, content.bytes > 0, false);
            rf_text_add_string(out, "<|im_end|>\n");
        } else if (is_role(&turn[i], "tool")) {
            add_result(out, turn, i, n);
        } else if (i > 0 || !is_role(&turn[i], "system")) {
            add_message(out, turn[i].role, content);
        }
    }
    rf_text_add_string(out, options->add_generation_prompt ? "<|im_start|>assistant\n" : "");
}

static void render_chatml(rf_text *out, const rf_chat *chat, const rf_turn *turn, int64_t n,
                          const rf_render_options *options)
{
    if (chat->system != NULL && !is_role(turn, "system")) {
        add_message(out, "system", (part){chat->system, strlen(chat->system)});
    }
    for (int64_t i = 0; i < n; i++) {
        add_message(out, turn[i].role, content_of(&turn[i]));
    }
    rf_text_add_string(out, options->add_generation_prompt ? "<|im_start|>assistant\n" : "");
}

/* --- The others ------------------------------------------------------------------------------- */

static void add_header(rf_text *out, const char *role)
{
    rf_text_add_string(out, "<|start_header_id|>");
    rf_text_add_string(out, role);
    rf_text_add_string(out, "<|end_header_id|>\n\n");
}

static void render_llama3(rf_text *out, const rf_turn *turn, int64_t n,
                          const rf_render_options *options)
{
    rf_text_add_string(out, "<|begin_of_text|>");
    for (int64_t i = 0; i < n; i++) {
        add_header(out, turn[i].role);
        add(out, trimmed(content_of(&turn[i])));
        rf_text_add_string(out, "<|eot_id|>");
    }
    if (options->add_generation_prompt) {
        add_header(out, "assistant");
    }
}

/* What Llama-3.1 says in front of the user's first message when there are tools. */
static void add_llama31_tools(rf_text *out, const json_t *tools)
{
    rf_text_add_string(
        out, "Given the following functions, please respond with a JSON for a function call with "
             "its proper arguments that best answers the given prompt.\n\nRespond in the format "
             "{\"name\": function name, \"parameters\": dictionary of argument name and its "
             "value}.Do not use variables.\n\n");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        rf_chat_json(out, json_array_get(tools, i), 4);
        rf_text_add_string(out, "\n\n");
    }
}

/* A call takes the place of what the message says. */
static void add_llama31_answer(rf_text *out, const rf_turn *turn)
{
    if (turn->tool_calls == NULL) {
        add(out, trimmed(content_of(turn)));
        return;
    }
    const json_t *call = function_of(json_array_get(turn->tool_calls, 0));
    rf_text_add_string(out, "{\"name\": \"");
    rf_text_add_string(out, json_string_value(json_object_get(call, "name")));
    rf_text_add_string(out, "\", \"parameters\": ");
    rf_chat_json(out, json_object_get(call, "arguments"), 0);
    rf_text_add_string(out, "}");
}

static int render_llama31(rf_text *out, const rf_turn *turn, int64_t n,
                          const rf_render_options *options, rf_error *err)
{
    const bool has_system = is_role(turn, "system");
    int64_t i = has_system;
    rf_text_add_string(out, "<|begin_of_text|>");
    add_header(out, "system");
    rf_text_add_string(out, options->tools != NULL ? "Environment: ipython\n" : "");
    rf_text_add_string(out, "Cutting Knowledge Date: December 2023\nToday Date: ");
    rf_text_add_string(out, options->date != NULL ? options->date : "26 Jul 2024");
    rf_text_add_string(out, "\n\n");
    add(out, has_system ? trimmed(content_of(turn)) : (part){"", 0});
    rf_text_add_string(out, "<|eot_id|>");
    if (options->tools != NULL && i == n) {
        return rf_error_set(err, RF_ERR,
                            "the chat form \"llama3.1\" puts tools into the user's "
                            "first message, and there is none: add one");
    }
    if (options->tools != NULL) {
        add_header(out, "user");
        add_llama31_tools(out, options->tools);
        add(out, trimmed(content_of(&turn[i++])));
        rf_text_add_string(out, "<|eot_id|>");
    }
    for (; i < n; i++) {
        const bool is_result = is_role(&turn[i], "tool");
        add_header(out, is_result                    ? "ipython"
                        : turn[i].tool_calls != NULL ? "assistant"
                                                     : turn[i].role);
        if (is_result) {
            rf_chat_json_string(out, turn[i].content, turn[i].bytes);
        } else {
            add_llama31_answer(out, &turn[i]);
        }
        rf_text_add_string(out, "<|eot_id|>");
    }
    if (options->add_generation_prompt) {
        add_header(out, "assistant");
    }
    return RF_OK;
}

static void render_plain(rf_text *out, const char *begin, const char *end, const rf_turn *turn,
                         int64_t n)
{
    rf_text_add_string(out, begin);
    for (int64_t i = 0; i < n; i++) {
        add(out, content_of(&turn[i]));
        rf_text_add_string(out, is_role(&turn[i], "assistant") ? end : "");
        rf_text_add(out, "\n", 1);
    }
}

static bool has_tools(const rf_chat *chat)
{
    return chat->kind == RF_CHAT_QWEN2 || chat->kind == RF_CHAT_QWEN3 ||
           chat->kind == RF_CHAT_LLAMA31;
}

static int no_tools(const rf_chat *chat, const char *what, rf_error *err)
{
    return rf_error_set(err, RF_ERR, "the chat form \"%s\" has no %s: remove them",
                        rf_chat_name(chat->kind), what);
}

static int check_turn(const rf_chat *chat, const rf_turn *turn, rf_error *err)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    const int n_roles = has_tools(chat) ? 4 : 3;
    int i = 0;
    while (i < n_roles && !is_role(turn, roles[i])) {
        i++;
    }
    if (i == n_roles) {
        return rf_error_set(
            err, RF_ERR, "unknown role \"%.64s\": use \"system\", \"user\"%s \"assistant\"%s",
            turn->role, has_tools(chat) ? "," : " or", has_tools(chat) ? " or \"tool\"" : "");
    }
    if (turn->tool_calls != NULL && !has_tools(chat)) {
        return no_tools(chat, "tool calls", err);
    }
    if (chat->kind == RF_CHAT_LLAMA31 && json_array_size(turn->tool_calls) > 1) {
        return rf_error_set(err, RF_ERR,
                            "the chat form \"llama3.1\" has one tool call a message, "
                            "not %zu: give each a message of its own",
                            json_array_size(turn->tool_calls));
    }
    return RF_OK;
}

int rf_chat_render(const rf_chat *chat, rf_text *out, const char *begin, const char *end,
                   const rf_turn *turn, int64_t n, const rf_render_options *options, rf_error *err)
{
    rf_render_options o = *options;
    o.tools = json_array_size(o.tools) > 0 ? o.tools : NULL;
    if (n < 1) {
        return rf_error_set(err, RF_ERR, "a conversation needs at least one message");
    }
    if (o.tools != NULL && !has_tools(chat)) {
        return no_tools(chat, "tools", err);
    }
    for (int64_t i = 0; i < n; i++) {
        int rc = check_turn(chat, &turn[i], err);
        if (rc != RF_OK) {
            return rc;
        }
    }
    switch (chat->kind) {
    case RF_CHAT_QWEN3:
        render_qwen3(out, turn, n, &o);
        break;
    case RF_CHAT_QWEN2:
        render_qwen2(out, chat, turn, n, &o);
        break;
    case RF_CHAT_CHATML:
        render_chatml(out, chat, turn, n, &o);
        break;
    case RF_CHAT_LLAMA3:
        render_llama3(out, turn, n, &o);
        break;
    case RF_CHAT_LLAMA31: {
        int rc = render_llama31(out, turn, n, &o, err);
        if (rc != RF_OK) {
            return rc;
        }
        break;
    }
    default:
        RF_ASSERT(chat->kind == RF_CHAT_PLAIN);
        render_plain(out, begin, end, turn, n);
    }
    return RF_OK;
}

int rf_chat_render_answer(const rf_chat *chat, rf_text *out, const rf_turn *turn, rf_error *err)
{
    int rc = check_turn(chat, turn, err);
    if (rc != RF_OK) {
        return rc;
    }
    part content = content_of(turn);
    if (chat->kind == RF_CHAT_LLAMA31) {
        add_llama31_answer(out, turn);
        return RF_OK;
    }
    if (chat->kind == RF_CHAT_LLAMA3) {
        content = trimmed(content);
    }
    if (chat->kind == RF_CHAT_QWEN3 && turn->reasoning != NULL) {
        add_thought(out, answer_of(turn));
    } else {
        add(out, content);
    }
    if (turn->tool_calls != NULL) {
        add_calls(out, turn->tool_calls, content.bytes > 0, chat->kind == RF_CHAT_QWEN3);
    }
    return RF_OK;
}
