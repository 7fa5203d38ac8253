#include "common/text/chat.h"

#include "common/base/hash.h"

#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    [RF_CHAT_MARKS] = "marks",      [RF_CHAT_PLAIN] = "plain", [RF_CHAT_CHATML] = "chatml",
    [RF_CHAT_QWEN2] = "qwen2.5",    [RF_CHAT_QWEN3] = "qwen3", [RF_CHAT_LLAMA3] = "llama3",
    [RF_CHAT_LLAMA31] = "llama3.1",
};
enum { N_NAMES = sizeof names / sizeof names[0] };

void rf_chat_free(rf_chat *chat)
{
    free(chat->system);
    *chat = (rf_chat){0};
}

const char *rf_chat_name(rf_chat_kind kind)
{
    return names[kind];
}

bool rf_chat_by_name(rf_chat_kind *out, const char *name)
{
    for (int i = RF_CHAT_PLAIN; i < N_NAMES; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (rf_chat_kind)i;
            return true;
        }
    }
    return false;
}

const char *rf_chat_end(rf_chat_kind kind)
{
    switch (kind) {
    case RF_CHAT_CHATML:
    case RF_CHAT_QWEN2:
    case RF_CHAT_QWEN3:
        return "<|im_end|>";
    case RF_CHAT_LLAMA3:
    case RF_CHAT_LLAMA31:
        return "<|eot_id|>";
    default:
        return NULL;
    }
}

/* --- What a template prints ---------------------------------------------------------------------
 * The print of a template: the texts between its tags that would come out, its output expressions
 * and those `set` statements that hold a control token, each on a line. In an expression blanks
 * are left out, literals are written without escapes and joined where "+" joins them, x['y'] is
 * written x.y, and message.content content. Templates of a kind differ in conditions and spelling,
 * not in their print. */

enum { LITERAL = '\x01', LITERAL_END = '\x02' };

static char unescaped(char c)
{
    return c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
}

/* A string literal at *p, which is its quote; joined to one in front of it. */
static void add_literal(rf_text *out, const char **p, const char *end)
{
    const char quote = *(*p)++;
    if (out->bytes >= 2 && out->data[out->bytes - 1] == '+' &&
        out->data[out->bytes - 2] == LITERAL_END) {
        out->bytes -= 2;
    } else {
        rf_text_add(out, "\x01", 1);
    }
    for (; *p < end && **p != quote; ++*p) {
        char c = **p;
        if (c == '\\' && *p + 1 < end) {
            c = unescaped(*++*p);
        }
        rf_text_add(out, &c, 1);
    }
    *p += *p < end;
    rf_text_add(out, "\x02", 1);
}

/* x['y'] -> x.y, when the "]" comes. */
static bool close_index(rf_text *out)
{
    if (out->bytes == 0 || out->data[out->bytes - 1] != LITERAL_END) {
        return false;
    }
    size_t begin = out->bytes - 1;
    while (begin > 0 && out->data[begin] != LITERAL) {
        begin--;
    }
    if (begin == 0 || out->data[begin - 1] != '[') {
        return false;
    }
    memmove(out->data + begin, out->data + begin + 1, out->bytes - begin - 2);
    out->data[begin - 1] = '.';
    out->bytes -= 2;
    return true;
}

static void add_expression(rf_text *out, const char *p, const char *end)
{
    static const char field[] = "message.content", alias[] = "content";
    const size_t begin = out->bytes;
    while (p < end) {
        if (*p == '\'' || *p == '"') {
            add_literal(out, &p, end);
            continue;
        }
        if (!isspace((unsigned char)*p) && !(*p == ']' && close_index(out))) {
            rf_text_add(out, p, 1);
        }
        p++;
        const size_t n = sizeof field - 1;
        if (out->bytes >= begin + n && memcmp(out->data + out->bytes - n, field, n) == 0) {
            out->bytes -= n;
            rf_text_add_string(out, alias);
        }
    }
    rf_text_add(out, "\n", 1);
}

/* The end of the tag whose inside begins at p: where its "}}", "%}" or "#}" begins; NULL: none. */
static const char *tag_end(const char *p, char kind)
{
    const char closing[] = {kind == '{' ? '}' : kind, '}', '\0'};
    char quote = '\0';
    for (; *p != '\0'; p++) {
        if (quote != '\0') {
            p += *p == '\\' && p[1] != '\0';
            quote = *p == quote && p[-1] != '\\' ? '\0' : quote;
        } else if (kind != '#' && (*p == '\'' || *p == '"')) {
            quote = *p;
        } else if (strncmp(p, closing, 2) == 0) {
            return p;
        }
    }
    return NULL;
}

static void add_tag(rf_text *out, char kind, const char *p, const char *end)
{
    if (kind == '{') {
        rf_text_add(out, "=", 1);
        add_expression(out, p, end);
    }
    while (p < end && isspace((unsigned char)*p)) {
        p++;
    }
    if (kind == '%' && end - p > 4 && strncmp(p, "set ", 4) == 0 &&
        memmem(p, (size_t)(end - p), "<|", 2) != NULL) {
        add_expression(out, p, end);
    }
}

/* The text in front of a tag as Jinja prints it with trim_blocks and lstrip_blocks, which is how
 * Transformers sets it up. before, after: the characters that open and close the tags beside it,
 * '-' for one that strips, '\0' at the ends of the template. */
static void add_between(rf_text *out, const char *p, const char *end, char before, char after)
{
    if (before == '-') {
        while (p < end && isspace((unsigned char)*p)) {
            p++;
        }
    } else if ((before == '%' || before == '#') && p < end && *p == '\n') {
        p++;
    }
    if (after == '-') {
        while (end > p && isspace((unsigned char)end[-1])) {
            end--;
        }
    } else if (after == '%' || after == '#') {
        const char *blank = end;
        while (blank > p && (blank[-1] == ' ' || blank[-1] == '\t')) {
            blank--;
        }
        end = blank == p || blank[-1] == '\n' ? blank : end;
    } else if (after == '\0' && end > p && end[-1] == '\n') {
        end--;
    }
    if (p < end) {
        rf_text_add(out, "\"", 1);
        rf_text_add(out, p, (size_t)(end - p));
        rf_text_add(out, "\n", 1);
    }
}

/* False: a tag is not closed. */
static bool print_of(rf_text *out, const char *template)
{
    char before = '\0';
    for (const char *p = template;;) {
        const char *tag = p;
        while ((tag = strchr(tag, '{')) != NULL && strchr("{%#", tag[1]) == NULL) {
            tag++;
        }
        if (tag == NULL || tag[1] == '\0') {
            add_between(out, p, p + strlen(p), before, '\0');
            return true;
        }
        const char kind = tag[1];
        const bool strips = tag[2] == '-';
        add_between(out, p, tag, before, strips ? '-' : kind);
        const char *inside = tag + 2 + strips, *end = tag_end(inside, kind);
        if (end == NULL) {
            return false;
        }
        const bool strips_after = end > inside && end[-1] == '-';
        add_tag(out, kind, inside, end - strips_after);
        before = strips_after ? '-' : kind;
        p = end + 2;
    }
}

/* --- Which one it is -------------------------------------------------------------------------- */

/* Takes the default system message out of a print: what stands in a literal
 * "<|im_start|>system\n...<|im_end|>\n". In its place, and wherever it stands again, comes "@". */
static void take_system(rf_chat *chat, rf_text *print)
{
    static const char begin[] = "\x01<|im_start|>system\n", end[] = "<|im_end|>\n\x02";
    const char *from = print->data != NULL ? strstr(print->data, begin) : NULL;
    for (; from != NULL; from = strstr(from + 1, begin)) {
        const char *system = from + sizeof begin - 1, *stop = strchr(system, LITERAL_END);
        const size_t n_end = sizeof end - 1;
        if (stop == NULL || stop + 1 < system + n_end ||
            memcmp(stop + 1 - n_end, end, n_end) != 0) {
            continue;
        }
        const size_t n = (size_t)(stop + 1 - system) - n_end;
        chat->system = n > 0 ? strndup(system, n) : NULL;
        break;
    }
    if (chat->system == NULL) {
        return;
    }
    const size_t n = strlen(chat->system);
    rf_text replaced = {0};
    const char *p = print->data, *found;
    while ((found = strstr(p, chat->system)) != NULL) {
        rf_text_add(&replaced, p, (size_t)(found - p));
        rf_text_add(&replaced, "@", 1);
        p = found + n;
    }
    rf_text_add_string(&replaced, p);
    rf_text_free(print);
    *print = replaced;
}

/* The known prints, by their FNV-1a hashes (tests/text/test_chat.c has the templates), and words
 * that the conditions must hold. */
static const struct known {
    uint64_t print;
    rf_chat_kind kind;
    const char *words[3];
} known[] = {
    {UINT64_C(0xF05A5C16E309F211),
     RF_CHAT_QWEN3,
     {"last_query_index", "enable_thinking is false", "add_generation_prompt"}},
    {UINT64_C(0x9A7334B3CC85180C), RF_CHAT_QWEN2, {"message.tool_calls", "add_generation_prompt"}},
    {UINT64_C(0x4D962666F966ACD4),
     RF_CHAT_LLAMA3,
     {"bos_token + content", "add_generation_prompt"}},
    {UINT64_C(0xBCD17B6540884829),
     RF_CHAT_LLAMA31,
     {"tools_in_user_message = true", "\"26 Jul 2024\"", "not tools is none"}},
    {UINT64_C(0x2B6597495EF98C55),
     RF_CHAT_LLAMA31,
     {"tools_in_user_message = true", "\"26 Jul 2024\"", "not tools is none"}},
    {UINT64_C(0xE62F96FEA28FADB9), RF_CHAT_CHATML, {"add_generation_prompt"}},
    {UINT64_C(0x98AC1C90A9E938D5), RF_CHAT_CHATML, {"!= 'system'", "add_generation_prompt"}},
};
enum { N_KNOWN = sizeof known / sizeof known[0] };

static bool has_words(const struct known *k, const char *template)
{
    for (int i = 0; i < 3 && k->words[i] != NULL; i++) {
        if (strstr(template, k->words[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static int unknown(const char *origin, rf_error *err)
{
    return rf_error_set(
        err, RF_ERR,
        "%s: chat_template is none that is known: known are those of Qwen2.5, "
        "Qwen3, Llama-3, Llama-3.1 to 3.3 and ChatML: set it to the name of the "
        "form to use (\"qwen2.5\", \"qwen3\", \"llama3\", \"llama3.1\", \"chatml\" or "
        "\"plain\")",
        origin);
}

int rf_chat_recognise(rf_chat *out, const char *template, const char *origin, rf_error *err)
{
    *out = (rf_chat){0};
    if (rf_chat_by_name(&out->kind, template)) {
        return RF_OK;
    }
    rf_text print = {0};
    bool is_closed = print_of(&print, template);
    take_system(out, &print);
    const uint64_t hash = rf_hash_bytes(RF_HASH_BEGIN, print.data, print.bytes);
    rf_text_free(&print);
    for (int i = 0; is_closed && i < N_KNOWN; i++) {
        if (known[i].print == hash && has_words(&known[i], template)) {
            out->kind = known[i].kind;
            return RF_OK;
        }
    }
    rf_chat_free(out);
    return unknown(origin, err);
}

/* --- Turns from JSON -------------------------------------------------------------------------- */

static const char *type_name(const json_t *value)
{
    static const char *const type_names[] = {
        [JSON_OBJECT] = "an object",    [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number",    [JSON_REAL] = "a number",  [JSON_TRUE] = "true or false",
        [JSON_FALSE] = "true or false", [JSON_NULL] = "null",
    };
    return type_names[json_typeof(value)];
}

static int get_string(const char **text, size_t *bytes, const json_t *object, size_t i,
                      const char *key, rf_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return rf_error_set(err, RF_ERR, "messages[%zu]: field \"%s\" is missing", i, key);
    }
    if (!json_is_string(value)) {
        return rf_error_set(err, RF_ERR, "messages[%zu]: field \"%s\" must be a string, but is %s",
                            i, key, type_name(value));
    }
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return RF_OK;
}

static bool is_null(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

static int read_calls(rf_turn *turn, const json_t *item, size_t i, rf_error *err)
{
    const json_t *calls = json_object_get(item, "tool_calls");
    if (is_null(calls)) {
        return RF_OK;
    }
    if (!json_is_array(calls)) {
        return rf_error_set(err, RF_ERR, "messages[%zu]: tool_calls must be an array, but is %s", i,
                            type_name(calls));
    }
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *call = json_array_get(calls, k);
        const json_t *function = json_object_get(call, "function");
        call = function != NULL ? function : call;
        if (!json_is_string(json_object_get(call, "name")) ||
            json_object_get(call, "arguments") == NULL) {
            return rf_error_set(err, RF_ERR,
                                "messages[%zu]: tool_calls[%zu] needs \"name\" and \"arguments\"",
                                i, k);
        }
    }
    turn->tool_calls = json_array_size(calls) > 0 ? calls : NULL;
    return RF_OK;
}

static int read_turn(rf_turn *turn, const json_t *item, size_t i, rf_error *err)
{
    size_t role_bytes;
    if (!json_is_object(item)) {
        return rf_error_set(err, RF_ERR, "messages[%zu]: must be an object, but is %s", i,
                            type_name(item));
    }
    int rc = get_string(&turn->role, &role_bytes, item, i, "role", err);
    if (rc == RF_OK) {
        rc = read_calls(turn, item, i, err);
    }
    if (rc == RF_OK && turn->tool_calls != NULL && is_null(json_object_get(item, "content"))) {
        turn->content = "";
    } else if (rc == RF_OK) {
        rc = get_string(&turn->content, &turn->bytes, item, i, "content", err);
    }
    if (rc == RF_OK && !is_null(json_object_get(item, "reasoning_content"))) {
        rc =
            get_string(&turn->reasoning, &turn->reasoning_bytes, item, i, "reasoning_content", err);
    }
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    for (int k = 0; rc == RF_OK && k < 4; k++) {
        if (strcmp(turn->role, roles[k]) == 0) {
            return RF_OK;
        }
    }
    return rc != RF_OK ? rc
                       : rf_error_set(err, RF_ERR,
                                      "messages[%zu]: unknown role \"%.64s\": use \"system\", "
                                      "\"user\", \"assistant\" or \"tool\"",
                                      i, turn->role);
}

int rf_chat_turns(rf_turn **out, int64_t *n, const json_t *messages, rf_error *err)
{
    *out = NULL;
    *n = 0;
    if (!json_is_array(messages)) {
        return rf_error_set(err, RF_ERR, "field \"messages\" must be an array, but is %s",
                            messages != NULL ? type_name(messages) : "missing");
    }
    size_t n_turns = json_array_size(messages);
    if (n_turns == 0) {
        return rf_error_set(err, RF_ERR, "field \"messages\" is empty: give at least one message");
    }
    rf_turn *turn = calloc(n_turns, sizeof *turn);
    int rc = turn != NULL ? RF_OK : rf_error_set(err, RF_ERR, "no memory for the messages");
    for (size_t i = 0; i < n_turns && rc == RF_OK; i++) {
        rc = read_turn(&turn[i], json_array_get(messages, i), i, err);
    }
    if (rc != RF_OK) {
        free(turn);
        return rc;
    }
    *out = turn;
    *n = (int64_t)n_turns;
    return RF_OK;
}

/* --- Options from JSON ------------------------------------------------------------------------ */

int rf_chat_read_options(rf_render_options *out, const json_t *record, rf_error *err)
{
    const json_t *tools = json_object_get(record, "tools");
    const json_t *prompt = json_object_get(record, "add_generation_prompt");
    const json_t *thinking = json_object_get(record, "enable_thinking");
    const json_t *date = json_object_get(record, "date_string");
    const char *field = NULL, *wanted = "true or false";
    if (!is_null(tools) && !json_is_array(tools)) {
        field = "tools";
        wanted = "an array of functions";
    } else if (!is_null(prompt) && !json_is_boolean(prompt)) {
        field = "add_generation_prompt";
    } else if (!is_null(thinking) && !json_is_boolean(thinking)) {
        field = "enable_thinking";
    } else if (!is_null(date) && !json_is_string(date)) {
        field = "date_string";
        wanted = "a string";
    }
    if (field != NULL) {
        return rf_error_set(err, RF_ERR, "field \"%s\" must be %s, but is %s", field, wanted,
                            type_name(json_object_get(record, field)));
    }
    *out = (rf_render_options){.tools = is_null(tools) ? NULL : tools,
                               .add_generation_prompt = json_is_true(prompt),
                               .thinking = json_is_true(thinking)    ? RF_THINKING_ON
                                           : json_is_false(thinking) ? RF_THINKING_OFF
                                                                     : RF_THINKING_UNSET,
                               .date = json_string_value(date)};
    return RF_OK;
}
