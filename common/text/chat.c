#include "common/text/chat.h"

#include "common/base/alloc.h"
#include "common/base/utf8.h"
#include "common/text/unicode.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const token_names[RF_CHAT_N_TOKENS] = {"bos_token", "eos_token", "unk_token",
                                                          "pad_token"};

/* --- Opening ------------------------------------------------------------------------------------ */

const char *rf_chat_token(const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    const char *content = json_string_value(json_object_get(value, "content"));
    return content != NULL ? content : json_string_value(value);
}

int rf_chat_open(rf_chat *out, const char *source, const char *system, const json_t *config,
                 const char *origin, rf_error *err)
{
    const char *form = rf_chat_form(source);
    char *name = rf_alloc_format("%s: chat_template", origin);
    *out = (rf_chat){.kind = RF_CHAT_PLAIN,
                     .source = rf_alloc_string(source),
                     .system = rf_alloc_string(system)};
    for (int i = 0; i < RF_CHAT_N_TOKENS; i++) {
        out->token[i] = rf_alloc_string(rf_chat_token(config, token_names[i]));
    }
    int rc = RF_OK;
    if (strcmp(source, "plain") != 0) {
        out->kind = RF_CHAT_TEMPLATE;
        out->text = form != NULL ? form : out->source;
        rc = rf_jinja_parse(&out->template, out->text, strlen(out->text), name, err);
    }
    free(name);
    return rc;
}

void rf_chat_free(rf_chat *chat)
{
    free(chat->source);
    free(chat->system);
    for (int i = 0; i < RF_CHAT_N_TOKENS; i++) {
        free(chat->token[i]);
    }
    rf_jinja_free(chat->template);
    *chat = (rf_chat){0};
}

/* --- Special tokens that are text ---------------------------------------------------------------- */

#define MARK_BEGIN "\xEF\xB7\x90"
#define MARK_END   "\xEF\xB7\x91"
enum { MARK = 3 }; /* bytes of each */

static bool has_mark(const char *text, size_t at, size_t bytes, const char *mark)
{
    return bytes - at >= MARK && memcmp(text + at, mark, MARK) == 0;
}

/* Where the next MARK_BEGIN or MARK_END begins; bytes: nowhere. */
static size_t find_mark(const char *text, size_t from, size_t bytes)
{
    for (size_t at = from; at < bytes; at++) {
        const char *first = memchr(text + at, MARK_BEGIN[0], bytes - at);
        if (first == NULL) {
            break;
        }
        at = (size_t)(first - text);
        if (has_mark(text, at, bytes, MARK_BEGIN) || has_mark(text, at, bytes, MARK_END)) {
            return at;
        }
    }
    return bytes;
}

bool rf_chat_next_mark(rf_chat_mark *out, const rf_chat *chat, const char *text, size_t from,
                       size_t bytes)
{
    const size_t at = chat->find != NULL ? find_mark(text, from, bytes) : bytes, inside = at + MARK;
    rf_chat_found token = {.end = inside};
    if (at == bytes) {
        return false;
    }
    *out = (rf_chat_mark){.begin = at, .end = inside, .literal = inside};
    if (!has_mark(text, at, bytes, MARK_BEGIN)) {
        return true;
    }
    const size_t next = find_mark(text, inside, bytes); /* no marked token goes further */
    const bool is_character = next == inside;
    if (is_character) {
        token.end = inside + MARK;
    } else if (!chat->find(chat->tokens, text, next, &token) || token.begin != inside) {
        return true;
    }
    if (has_mark(text, token.end, bytes, MARK_END)) {
        *out = (rf_chat_mark){at, token.end + MARK, inside, token.end - inside, !is_character};
    }
    return true;
}

void rf_chat_remove_marks(const rf_chat *chat, rf_text *text)
{
    rf_text plain = {0};
    rf_chat_mark mark = {0};
    size_t done = 0;
    for (; rf_chat_next_mark(&mark, chat, text->data, done, text->bytes); done = mark.end) {
        rf_text_add(&plain, text->data + done, mark.begin - done);
        rf_text_add(&plain, text->data + mark.literal, mark.bytes);
    }
    if (done > 0) {
        rf_text_add(&plain, text->data + done, text->bytes - done);
        rf_text_free(text);
        *text = plain;
    }
}

/* Does text[begin, end) hold anything that is said but white space, which tokens may take in around
 * them? is_said NULL: all of it is. */
static bool holds_said(const char *text, const char *is_said, size_t begin, size_t end)
{
    for (size_t i = begin, n; i < end; i += n) {
        int32_t c;
        n = rf_utf8_next(&c, text + i);
        if ((is_said == NULL || is_said[i]) && !rf_unicode_is_space(c)) {
            return true;
        }
    }
    return false;
}

/* Appends text[bytes] with marks around the tokens that hold anything said. The next mark and the next
 * token are each looked for once, however many of the other stand before it. */
static void mark_said(const rf_chat *chat, rf_text *out, const char *text, const char *is_said,
                      size_t bytes)
{
    size_t done = 0, mark = 0;
    rf_chat_found token = {0};
    for (size_t from = 0, begin, end; chat->find != NULL && from < bytes; from = end) {
        mark = from == 0 || mark < from ? find_mark(text, from, bytes) : mark;
        if ((from == 0 || token.begin < from) && !chat->find(chat->tokens, text, bytes, &token)) {
            token.begin = bytes;
        }
        begin = token.begin <= mark ? token.begin : mark;
        end = token.begin <= mark ? token.end : mark + MARK;
        if (begin == bytes) {
            break;
        }
        if (begin != mark && !holds_said(text, is_said, begin, end)) {
            continue;
        }
        rf_text_add(out, text + done, begin - done);
        rf_text_add_string(out, MARK_BEGIN);
        rf_text_add(out, text + begin, end - begin);
        rf_text_add_string(out, MARK_END);
        done = end;
    }
    rf_text_add(out, text + done, bytes - done);
}

void rf_chat_mark_text(const rf_chat *chat, rf_text *out, const char *text, size_t bytes)
{
    mark_said(chat, out, text, NULL, bytes);
}

/* Adds the number of marked tokens of a rendered text to *options->n_literal, if it is there. */
static void count_literals(const rf_chat *chat, const rf_render_options *options, const char *text,
                           size_t bytes)
{
    rf_chat_mark mark = {0};
    while (options->n_literal != NULL && rf_chat_next_mark(&mark, chat, text, mark.end, bytes)) {
        *options->n_literal += mark.is_token;
    }
}

/* --- Variables ---------------------------------------------------------------------------------- */

/* A message as templates see it: a field that is null is one that is not there, as Transformers has it.
 * NULL: its text is no UTF-8. */
static json_t *message_of(const rf_turn *turn)
{
    if (turn->message == NULL) {
        return json_pack(
            "{s:s, s:o, s:o*, s:O*}", "role", turn->role, "content",
            json_stringn(turn->content, turn->bytes), "reasoning_content",
            turn->reasoning != NULL ? json_stringn(turn->reasoning, turn->reasoning_bytes) : NULL,
            "tool_calls", turn->tool_calls);
    }
    json_t *copy = json_copy((json_t *)turn->message), *value;
    const char *key;
    void *next;
    json_object_foreach_safe(copy, next, key, value)
    {
        if (json_is_null(value)) {
            json_object_del(copy, key);
        }
    }
    return copy;
}

/* What the users say, and what the tokenizer's own files do. Free both also after an error. */
static int variables_of(json_t **out, json_t **own, const rf_chat *chat, const rf_turn *turn,
                        int64_t n, const rf_render_options *options, bool prompts, rf_error *err)
{
    json_t *v = json_object(), *messages = json_array();
    *out = v;
    *own = json_object();
    json_object_set_new(v, "documents", json_null());
    json_object_update(v, (json_t *)options->more);
    json_object_set_new(v, "messages", messages);
    json_object_set(v, "tools",
                    json_array_size(options->tools) > 0 ? (json_t *)options->tools : json_null());
    json_object_set_new(v, "add_generation_prompt", json_boolean(prompts));
    if (options->thinking != RF_THINKING_UNSET) {
        json_object_set_new(v, "enable_thinking",
                            json_boolean(options->thinking == RF_THINKING_ON));
    }
    if (options->date != NULL) {
        json_object_set_new(v, "date_string", json_string(options->date));
    }
    if (chat->system != NULL) {
        json_object_set_new(*own, "default_system", json_string(chat->system));
    }
    for (int i = 0; i < RF_CHAT_N_TOKENS; i++) {
        if (chat->token[i] != NULL) {
            json_object_set_new(*own, token_names[i], json_string(chat->token[i]));
        }
    }
    for (int64_t i = 0; i < n; i++) {
        if (json_array_append_new(messages, message_of(&turn[i])) != 0) {
            return rf_error_set(err, RF_ERR, "messages[%" PRId64 "]: its text is not valid UTF-8",
                                i);
        }
    }
    return RF_OK;
}

/* --- Rendering ---------------------------------------------------------------------------------- */

static bool mentions(const rf_chat *chat, const char *word)
{
    return chat->text != NULL && strstr(chat->text, word) != NULL;
}

/* The same as a name of its own: "thinking" is not in "enable_thinking". */
static bool mentions_name(const rf_chat *chat, const char *name)
{
    const size_t n = strlen(name);
    const char *at = chat->text;
    while (at != NULL && (at = strstr(at, name)) != NULL) {
        const bool begins = at == chat->text || (!isalnum((unsigned char)at[-1]) && at[-1] != '_');
        if (begins && !isalnum((unsigned char)at[n]) && at[n] != '_') {
            return true;
        }
        at += n;
    }
    return false;
}

static int not_mentioned(const char *what, rf_error *err)
{
    return rf_error_set(err, RF_ERR, "the chat template has no %s: remove them", what);
}

/* Fields in which data sets have what was thought before an answer, beside "reasoning_content". */
int rf_chat_check_thought(const rf_chat *chat, const rf_turn *turn, rf_error *err)
{
    static const char *const names[] = {"reasoning", "thinking"};
    for (int i = 0; i < 2; i++) {
        const json_t *thought = json_object_get(turn->message, names[i]);
        if (json_string_length(thought) > 0 && !mentions_name(chat, names[i])) {
            return rf_error_set(err, RF_ERR,
                                "the form of the conversation has no \"%s\": remove it, or give it "
                                "as \"reasoning_content\" where the chat template has that",
                                names[i]);
        }
    }
    return RF_OK;
}

/* A template leaves out what it has no words for, and says nothing: it is looked for here instead. */
static int check(const rf_chat *chat, const rf_turn *turn, int64_t n,
                 const rf_render_options *options, rf_error *err)
{
    const char *key;
    json_t *value;
    if (n < 1) {
        return rf_error_set(err, RF_ERR, "a conversation needs at least one message");
    }
    if (json_array_size(options->tools) > 0 && !mentions(chat, "tools")) {
        return not_mentioned("tools", err);
    }
    json_object_foreach((json_t *)(uintptr_t)options->more, key, value)
    {
        if (!mentions(chat, key)) {
            return rf_error_set(err, RF_ERR,
                                "the chat template has no variable \"%.64s\" "
                                "(chat_template_kwargs): remove it",
                                key);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        if (turn[i].tool_calls != NULL && !mentions(chat, "tool_calls")) {
            return not_mentioned("tool calls", err);
        }
        if (strcmp(turn[i].role, "tool") == 0 && !mentions(chat, "tool")) {
            return not_mentioned("results of tools", err);
        }
    }
    return RF_OK;
}

static int run_template(const rf_chat *chat, rf_text *text, rf_text *is_said, json_t *variables,
                        json_t *own, const rf_render_options *options, rf_error *err)
{
    return rf_jinja_render(chat->template, text, is_said, variables, own, options->date,
                           chat->date[0] != '\0' ? &chat->day : NULL, err);
}

/* Beside tool calls the content may be missing, but some templates read it. Behind an error of the template:
 * err says so where an empty content would do. */
static void blame_content(const rf_chat *chat, json_t *variables, json_t *own, const rf_turn *turn,
                          int64_t n, const rf_render_options *options, rf_error *err)
{
    const json_t *messages = json_object_get(variables, "messages");
    rf_text text = {0}, is_said = {0};
    int64_t first = n;
    for (int64_t i = n - 1; i >= 0; i--) {
        json_t *message = json_array_get(messages, (size_t)i);
        if (turn[i].tool_calls != NULL && json_object_get(message, "content") == NULL) {
            json_object_set_new(message, "content", json_string(""));
            first = i;
        }
    }
    if (first < n && run_template(chat, &text, &is_said, variables, own, options, NULL) == RF_OK) {
        (void)rf_error_set(err, RF_ERR,
                           "messages[%" PRId64 "]: \"content\" is missing, which the chat template "
                           "reads: write \"content\": \"\"",
                           first);
    }
    rf_text_free(&text);
    rf_text_free(&is_said);
}

static int render_template(const rf_chat *chat, rf_text *out, const rf_turn *turn, int64_t n,
                           const rf_render_options *options, bool prompts, rf_error *err)
{
    json_t *variables, *own;
    rf_text text = {0}, is_said = {0};
    int rc = variables_of(&variables, &own, chat, turn, n, options, prompts, err);
    if (rc == RF_OK) {
        rc = run_template(chat, &text, &is_said, variables, own, options, err);
        if (rc != RF_OK) {
            blame_content(chat, variables, own, turn, n, options, err);
        }
    }
    if (text.bytes > 0) {
        mark_said(chat, out, text.data, is_said.data, text.bytes);
    }
    json_decref(variables);
    json_decref(own);
    rf_text_free(&text);
    rf_text_free(&is_said);
    return rc;
}

static void render_plain(const rf_chat *chat, rf_text *out, const char *begin, const char *end,
                         const rf_turn *turn, int64_t n)
{
    RF_ASSERT(chat->kind == RF_CHAT_PLAIN);
    rf_text_add_string(out, begin);
    for (int64_t i = 0; i < n; i++) {
        rf_chat_mark_text(chat, out, turn[i].content, turn[i].bytes);
        rf_text_add_string(out, strcmp(turn[i].role, "assistant") == 0 ? end : "");
        rf_text_add_string(out, "\n");
    }
}

int rf_chat_render(const rf_chat *chat, rf_text *out, const char *begin, const char *end,
                   const rf_turn *turn, int64_t n, const rf_render_options *options, rf_error *err)
{
    const size_t before = out->bytes;
    RF_TRY(check(chat, turn, n, options, err));
    if (chat->kind == RF_CHAT_TEMPLATE) {
        RF_TRY(render_template(chat, out, turn, n, options, options->add_generation_prompt, err));
    } else {
        render_plain(chat, out, begin, end, turn, n);
    }
    if (out->bytes > before) {
        count_literals(chat, options, out->data + before, out->bytes - before);
    }
    return RF_OK;
}

/* How many bytes two texts begin with in common. */
static size_t common_begin(const rf_text *a, const rf_text *b)
{
    size_t i = 0;
    while (i < a->bytes && i < b->bytes && a->data[i] == b->data[i]) {
        i++;
    }
    return i;
}

/* Where the last `word` in text[from, bytes) begins; bytes: it is not there. */
static size_t find_last(const rf_text *text, size_t from, const char *word)
{
    const size_t n = strlen(word);
    for (size_t i = text->bytes; n > 0 && i >= from + n; i--) {
        if (memcmp(text->data + i - n, word, n) == 0) {
            return i - n;
        }
    }
    return text->bytes;
}

/* Where the token `end` begins that ends the answer: the last one in text[from, bytes) that the
 * template printed itself, and that is not part of a message (those are marked). bytes: none. */
static size_t find_end(const rf_chat *chat, const rf_text *text, size_t from, const char *end)
{
    rf_text part = *text;
    rf_chat_mark mark;
    for (;;) {
        const size_t at = find_last(&part, from, end);
        if (at == part.bytes) {
            return text->bytes;
        }
        if (at < from + MARK || !has_mark(text->data, at - MARK, text->bytes, MARK_BEGIN) ||
            !rf_chat_next_mark(&mark, chat, text->data, at - MARK, text->bytes) || !mark.is_token) {
            return at;
        }
        part.bytes = at;
    }
}

int rf_chat_render_answer(const rf_chat *chat, rf_text *out, const rf_text *prompt, const char *end,
                          const rf_turn *turn, int64_t n, const rf_render_options *options,
                          rf_error *err)
{
    static const char no_thought[] = "<think>\n\n</think>\n\n";
    const rf_turn *last = &turn[n - 1];
    rf_text begin = {0}, all = {0};
    int rc = RF_OK;
    RF_TRY(check(chat, turn, n, options, err));
    if (last->reasoning_bytes > 0 && !mentions(chat, "reasoning_content")) {
        return not_mentioned("\"reasoning_content\"", err);
    }
    if (chat->kind == RF_CHAT_PLAIN) {
        rf_chat_mark_text(chat, out, last->content, last->bytes);
        return RF_OK;
    }
    RF_TRY_OUT(render_template(chat, &all, turn, n, options, false, err));
    size_t from = common_begin(prompt, &all);
    if (from < prompt->bytes) {
        /* The prompt ends with something that this answer does not begin with, such as the beginning
         * of a thought. That is no part of the sample: what stands in front of the answer is what the
         * template prints without it. */
        RF_TRY_OUT(render_template(chat, &begin, turn, n - 1, options, false, err));
        if (from < begin.bytes) {
            rc = rf_error_set(err, RF_ERR,
                              "messages[%" PRId64
                              "]: the chat template prints the messages before it in "
                              "another way once it is there: what the answer is cannot be told",
                              n - 1);
            goto out;
        }
    }
    const size_t to = find_end(chat, &all, from, end);
    const bool has_thought = last->reasoning != NULL ||
                             (last->bytes > 0 && memmem(last->content, last->bytes, "</think>", 8));
    if (!has_thought && to - from >= strlen(no_thought) &&
        memcmp(all.data + from, no_thought, strlen(no_thought)) == 0) {
        from += strlen(no_thought);
    }
    if (to > from) {
        rf_text_add(out, all.data + from, to - from);
        count_literals(chat, options, all.data + from, to - from);
    } else if (last->bytes > 0 || last->tool_calls != NULL) {
        rc = rf_error_set(err, RF_ERR,
                          "messages[%" PRId64 "]: the chat template prints nothing of the answer: "
                          "remove the record, or use another template",
                          n - 1);
    }
out:
    rf_text_free(&begin);
    rf_text_free(&all);
    return rc;
}

void rf_chat_ending(const rf_chat *chat, rf_text *out)
{
    static const char answer[] = "(an answer)";
    static const rf_turn turn[] = {
        {.role = "user", .content = "(a question)", .bytes = 12},
        {.role = "assistant", .content = answer, .bytes = sizeof answer - 1}};
    const rf_render_options options = {0};
    rf_text all = {0};
    if (chat->kind == RF_CHAT_TEMPLATE &&
        render_template(chat, &all, turn, 2, &options, false, NULL) == RF_OK) {
        const size_t at = find_last(&all, 0, answer);
        if (at < all.bytes) {
            rf_text_add_string(out, all.data + at + sizeof answer - 1);
        }
    }
    rf_text_free(&all);
}
