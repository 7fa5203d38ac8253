#include "data/corpus/import.h"

#include "common/base/file.h"
#include "common/base/utf8.h"
#include "common/text/chat.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

void rf_imported_clear(rf_imported *out)
{
    out->ids.n = 0;
    out->n_samples = 0;
}

void rf_imported_free(rf_imported *out)
{
    rf_ids_free(&out->ids);
    free(out->sample);
    *out = (rf_imported){0};
}

static int add_sample(rf_imported *out, rf_imported_sample sample, rf_error *err)
{
    if (out->n_samples == out->capacity) {
        int64_t capacity = out->capacity == 0 ? 64 : 2 * out->capacity;
        rf_imported_sample *grown = realloc(out->sample, (size_t)capacity * sizeof *grown);
        if (grown == NULL) {
            return rf_error_set(err, RF_ERR, "no memory for %lld samples", (long long)capacity);
        }
        out->sample = grown;
        out->capacity = capacity;
    }
    out->sample[out->n_samples++] = sample;
    return RF_OK;
}

static int64_t count_chars(const char *text, size_t bytes)
{
    int64_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    }
    return n;
}

/* --- JSON ------------------------------------------------------------------------------------- */

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    default:
        return "null";
    }
}

int rf_import_object(json_t **out, const char *line, size_t bytes, rf_error *err)
{
    *out = NULL;
    size_t bad;
    if (!rf_utf8_is_valid(line, bytes, &bad)) {
        return rf_error_set(err, RF_ERR, "invalid UTF-8 at byte %zu of the line: convert the file",
                            bad + 1);
    }
    json_error_t why;
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_t *root = json_loadb(line, bytes, flags, &why);
    if (root == NULL && json_error_code(&why) == json_error_numeric_overflow) {
        /* Integers as reals: a huge number in a field that nobody reads is no reason to refuse. */
        root = json_loadb(line, bytes, flags | JSON_DECODE_INT_AS_REAL, &why);
    }
    if (root == NULL) {
        return rf_error_set(err, RF_ERR,
                            "malformed JSON at column %d (%s): one object a line is needed",
                            why.column, why.text);
    }
    if (!json_is_object(root)) {
        int rc = rf_error_set(err, RF_ERR,
                              "a JSON object is needed, but this is %s: write one record a line",
                              type_name(root));
        json_decref(root);
        return rc;
    }
    *out = root;
    return RF_OK;
}

/* The string at `key`; `where` stands before the name in messages. */
static int get_string(const char **text, size_t *bytes, const json_t *object, const char *where,
                      const char *key, rf_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return rf_error_set(err, RF_ERR, "%sfield \"%s\" is missing", where, key);
    }
    if (!json_is_string(value)) {
        return rf_error_set(err, RF_ERR, "%sfield \"%s\" must be a string, but is %s", where, key,
                            type_name(value));
    }
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return RF_OK;
}

/* --- Samples ---------------------------------------------------------------------------------- */

/* The sample whose prompt is turns [0, n) and whose response is turn n. */
static int add_answer(rf_imported *out, const rf_tokenizer *tokenizer, const rf_turn *turn,
                      int64_t n, const rf_render_options *options, bool held_out, rf_error *err)
{
    rf_imported_sample sample = {.held_out = held_out};
    for (int64_t i = 0; i <= n; i++) {
        sample.n_chars += count_chars(turn[i].content, turn[i].bytes);
    }
    int64_t begin = out->ids.n;
    int rc = rf_tokenizer_render(tokenizer, NULL, NULL, &out->ids, turn, n, options, err);
    sample.n_prompt = out->ids.n - begin;
    if (rc == RF_OK) {
        rc = rf_tokenizer_render_response(tokenizer, &out->ids, &turn[n], err);
    }
    sample.n_tokens = out->ids.n - begin;
    return add_sample(out, sample, err);
}

static int import_query(rf_imported *out, const rf_tokenizer *tokenizer, const json_t *root,
                        bool held_out, rf_error *err)
{
    const char *query, *response;
    size_t query_bytes, response_bytes;
    int rc = get_string(&query, &query_bytes, root, "", "query", err);
    if (rc == RF_OK) {
        rc = get_string(&response, &response_bytes, root, "", "response", err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    if (query_bytes == 0) {
        return rf_error_set(err, RF_ERR,
                            "field \"query\" is empty: give a question, or plain {\"text\"}");
    }
    if (response_bytes == 0) {
        return rf_error_set(err, RF_ERR,
                            "field \"response\" is empty: there is nothing to learn, remove the "
                            "record");
    }
    const rf_turn turn[] = {
        {.role = "user", .content = query, .bytes = query_bytes},
        {.role = "assistant", .content = response, .bytes = response_bytes},
    };
    const rf_render_options options = {.add_generation_prompt = true};
    return add_answer(out, tokenizer, turn, 1, &options, held_out, err);
}

static int check_conversation(const rf_turn *turn, int64_t n, rf_error *err)
{
    int64_t n_answers = 0;
    for (int64_t i = 0; i < n; i++) {
        bool is_assistant = strcmp(turn[i].role, "assistant") == 0;
        if (is_assistant && i == 0) {
            return rf_error_set(err, RF_ERR,
                                "messages[0]: the assistant speaks first: a prompt is needed");
        }
        if (turn[i].bytes == 0 && turn[i].tool_calls == NULL && is_assistant) {
            return rf_error_set(err, RF_ERR,
                                "messages[%lld]: empty response: there is nothing to learn, remove "
                                "the record",
                                (long long)i);
        }
        if (turn[i].bytes == 0 && strcmp(turn[i].role, "user") == 0) {
            return rf_error_set(err, RF_ERR, "messages[%lld]: the user's content is empty",
                                (long long)i);
        }
        n_answers += is_assistant;
    }
    if (n_answers == 0) {
        return rf_error_set(err, RF_ERR,
                            "no message of the assistant: there is nothing to learn, remove the "
                            "record");
    }
    return RF_OK;
}

/* Every message of the assistant is a sample, with what was said before it as its prompt. */
static int import_conversation(rf_imported *out, const rf_tokenizer *tokenizer, const json_t *root,
                               bool held_out, rf_error *err)
{
    rf_turn *turn;
    int64_t n;
    rf_render_options options;
    int rc = rf_chat_read_options(&options, root, err);
    if (rc != RF_OK) {
        return rc;
    }
    options.add_generation_prompt = true;
    rc = rf_chat_turns(&turn, &n, json_object_get(root, "messages"), err);
    if (rc == RF_OK) {
        rc = check_conversation(turn, n, err);
    }
    for (int64_t i = 0; i < n && rc == RF_OK; i++) {
        if (strcmp(turn[i].role, "assistant") == 0) {
            rc = add_answer(out, tokenizer, turn, i, &options, held_out, err);
        }
    }
    free(turn);
    return rc;
}

static int add_text(rf_imported *out, const rf_tokenizer *tokenizer, const char *text, size_t bytes,
                    bool begins, bool ends, bool held_out, rf_error *err)
{
    const rf_specials *s = rf_tokenizer_specials(tokenizer);
    if (s->begin < 0) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has no begin token, which plain text needs: use "
                            "{\"query\",\"response\"} records");
    }
    if (ends && s->n_eos == 0) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has no end-of-text token: name it as \"eos_token\" in "
                            "tokenizer_config.json");
    }
    int64_t begin = out->ids.n;
    if (begins) {
        rf_ids_push(&out->ids, s->begin);
    }
    RF_TRY(rf_tokenizer_encode(tokenizer, &out->ids, text, bytes, err));
    if (ends) {
        rf_ids_push(&out->ids, s->eos[0]);
    }
    rf_imported_sample sample = {.n_tokens = out->ids.n - begin,
                                 .n_prompt = ends ? 1 : 0,
                                 .n_chars = count_chars(text, bytes),
                                 .held_out = held_out};
    return add_sample(out, sample, err);
}

int rf_import_text(rf_imported *out, const rf_tokenizer *tokenizer, const char *text, size_t bytes,
                   bool begins, bool ends, bool held_out, size_t *bad, rf_error *err)
{
    *bad = 0;
    if (!rf_utf8_is_valid(text, bytes, bad)) {
        return rf_error_set(err, RF_ERR, "invalid UTF-8: convert the file");
    }
    *bad = bytes;
    int64_t n_ids = out->ids.n;
    int rc = add_text(out, tokenizer, text, bytes, begins, ends, held_out, err);
    if (rc != RF_OK) {
        out->ids.n = n_ids;
    }
    return rc;
}

static int import_plain(rf_imported *out, const rf_tokenizer *tokenizer, const json_t *root,
                        bool held_out, rf_error *err)
{
    const char *text;
    size_t bytes;
    int rc = get_string(&text, &bytes, root, "", "text", err);
    if (rc != RF_OK) {
        return rc;
    }
    if (bytes == 0) {
        return rf_error_set(err, RF_ERR,
                            "field \"text\" is empty: there is nothing to learn, remove the "
                            "record");
    }
    return add_text(out, tokenizer, text, bytes, true, true, held_out, err);
}

/* "a", "b", ... of the fields present, for the message that none of them is known. */
static void list_fields(char *list, size_t size, json_t *root)
{
    const char *key;
    json_t *value;
    size_t used = 0;
    list[0] = '\0';
    json_object_foreach(root, key, value)
    {
        int n = snprintf(list + used, size - used, "%s\"%.32s\"", used > 0 ? ", " : "", key);
        if (n < 0 || (size_t)n >= size - used) {
            list[used] = '\0';
            return;
        }
        used += (size_t)n;
    }
}

static int import_record(rf_imported *out, const rf_tokenizer *tokenizer, json_t *root,
                         bool held_out, rf_error *err)
{
    bool has_pair =
        json_object_get(root, "query") != NULL || json_object_get(root, "response") != NULL;
    bool has_messages = json_object_get(root, "messages") != NULL;
    bool has_text = json_object_get(root, "text") != NULL;
    if (has_pair + has_messages + has_text > 1) {
        return rf_error_set(err, RF_ERR,
                            "the record mixes %s%s%s: keep one form: query and response, messages, "
                            "or text",
                            has_pair ? "query/response " : "", has_messages ? "messages " : "",
                            has_text ? "text" : "");
    }
    if (has_pair) {
        return import_query(out, tokenizer, root, held_out, err);
    }
    if (has_messages) {
        return import_conversation(out, tokenizer, root, held_out, err);
    }
    if (has_text) {
        return import_plain(out, tokenizer, root, held_out, err);
    }
    char fields[256];
    list_fields(fields, sizeof fields, root);
    return rf_error_set(err, RF_ERR,
                        "no field that is known (present: %s): needed are \"query\" and "
                        "\"response\", \"messages\", or \"text\"",
                        fields[0] != '\0' ? fields : "none");
}

int rf_import_json(rf_imported *out, const rf_tokenizer *tokenizer, const char *line, size_t bytes,
                   bool held_out, rf_error *err)
{
    json_t *root;
    int64_t n_ids = out->ids.n, n_samples = out->n_samples;
    int rc = rf_import_object(&root, line, bytes, err);
    if (rc == RF_OK) {
        rc = import_record(out, tokenizer, root, held_out, err);
    }
    if (rc != RF_OK) {
        out->ids.n = n_ids;
        out->n_samples = n_samples;
    }
    json_decref(root);
    return rc;
}
