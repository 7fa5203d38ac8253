#include "data/corpus/records.h"

#include "common/base/alloc.h"
#include "common/base/utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int rf_record_parse(json_t **out, const char *line, size_t bytes, rf_error *err)
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
        rf_error_set(err, RF_ERR,
                     "a JSON object is needed, but this is %s: write one record a line",
                     rf_chat_json_kind(root));
        json_decref(root);
        return RF_ERR;
    }
    *out = root;
    return RF_OK;
}

/* The string at `key`. */
static int get_string(const char **text, size_t *bytes, const json_t *object, const char *key,
                      rf_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return rf_error_set(err, RF_ERR, "field \"%s\" is missing", key);
    }
    if (!json_is_string(value)) {
        return rf_error_set(err, RF_ERR, "field \"%s\" must be a string, but is %s", key,
                            rf_chat_json_kind(value));
    }
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return RF_OK;
}

/* --- Forms ------------------------------------------------------------------------------------ */

static int read_query(rf_record *out, rf_error *err)
{
    rf_turn *turn = out->turn = rf_alloc(2, sizeof *turn);
    out->answer_field = "response";
    turn[0].role = "user";
    turn[1].role = "assistant";
    RF_TRY(get_string(&turn[0].content, &turn[0].bytes, out->root, "query", err));
    if (turn[0].bytes == 0) {
        return rf_error_set(err, RF_ERR,
                            "field \"query\" is empty: give a question, or plain {\"text\"}");
    }
    out->n_turns = 1;
    if (json_object_get(out->root, "response") != NULL) {
        RF_TRY(get_string(&turn[1].content, &turn[1].bytes, out->root, "response", err));
        out->n_turns = 2;
    }
    return RF_OK;
}

static int read_messages(rf_record *out, rf_error *err)
{
    RF_TRY(rf_chat_read_options(&out->options, out->root, err));
    RF_TRY(rf_chat_turns(&out->turn, &out->n_turns, json_object_get(out->root, "messages"), err));
    for (int64_t i = 0; i < out->n_turns; i++) {
        if (out->turn[i].bytes == 0 && strcmp(out->turn[i].role, "user") == 0) {
            return rf_error_set(err, RF_ERR, "messages[%lld]: the user's content is empty",
                                (long long)i);
        }
    }
    return RF_OK;
}

static int read_text(rf_record *out, rf_error *err)
{
    RF_TRY(get_string(&out->text, &out->bytes, out->root, "text", err));
    if (out->bytes == 0) {
        return rf_error_set(err, RF_ERR,
                            "field \"text\" is empty: there is nothing to learn, remove the "
                            "record");
    }
    return RF_OK;
}

/* "a", "b", ... of the fields present, for the message that none of them is known. */
static void list_fields(char *list, size_t size, json_t *root)
{
    const char *key;
    json_t *value;
    size_t used = 0;
    snprintf(list, size, "none");
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

static int read_form(rf_record *out, rf_error *err)
{
    bool has_pair = json_object_get(out->root, "query") != NULL ||
                    json_object_get(out->root, "response") != NULL;
    bool has_messages = json_object_get(out->root, "messages") != NULL;
    bool has_text = json_object_get(out->root, "text") != NULL;
    if (has_pair + has_messages + has_text > 1) {
        return rf_error_set(err, RF_ERR,
                            "the record mixes %s%s%s: keep one form: query and response, messages, "
                            "or text",
                            has_pair ? "query/response " : "", has_messages ? "messages " : "",
                            has_text ? "text" : "");
    }
    if (has_pair) {
        return read_query(out, err);
    }
    if (has_messages) {
        return read_messages(out, err);
    }
    if (has_text) {
        return read_text(out, err);
    }
    char fields[256];
    list_fields(fields, sizeof fields, out->root);
    return rf_error_set(err, RF_ERR,
                        "no field that is known (present: %s): needed are \"query\" and "
                        "\"response\", \"messages\", or \"text\"",
                        fields);
}

int rf_record_read(rf_record *out, const char *line, size_t bytes, rf_error *err)
{
    *out = (rf_record){0};
    RF_TRY(rf_record_parse(&out->root, line, bytes, err));
    int rc = read_form(out, err);
    out->options.add_generation_prompt = true;
    if (rc != RF_OK) {
        rf_record_free(out);
    }
    return rc;
}

void rf_record_free(rf_record *record)
{
    free(record->turn);
    json_decref(record->root);
    *record = (rf_record){0};
}
