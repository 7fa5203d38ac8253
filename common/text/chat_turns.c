#include "common/base/alloc.h"
#include "common/text/chat.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* --- Turns from JSON -------------------------------------------------------------------------- */

const char *rf_chat_json_kind(const json_t *value)
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
                            i, key, rf_chat_json_kind(value));
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
                            rf_chat_json_kind(calls));
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
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    size_t role_bytes;
    if (!json_is_object(item)) {
        return rf_error_set(err, RF_ERR, "messages[%zu]: must be an object, but is %s", i,
                            rf_chat_json_kind(item));
    }
    turn->message = item;
    RF_TRY(get_string(&turn->role, &role_bytes, item, i, "role", err));
    RF_TRY(read_calls(turn, item, i, err));
    turn->content = "";
    if (turn->tool_calls == NULL || !is_null(json_object_get(item, "content"))) {
        RF_TRY(get_string(&turn->content, &turn->bytes, item, i, "content", err));
    }
    if (!is_null(json_object_get(item, "reasoning_content"))) {
        RF_TRY(get_string(&turn->reasoning, &turn->reasoning_bytes, item, i, "reasoning_content",
                          err));
    }
    for (int k = 0; k < 4; k++) {
        if (strcmp(turn->role, roles[k]) == 0) {
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR,
                        "messages[%zu]: unknown role \"%.64s\": use \"system\", \"user\", "
                        "\"assistant\" or \"tool\"",
                        i, turn->role);
}

int rf_chat_turns(rf_turn **out, int64_t *n, const json_t *messages, rf_error *err)
{
    const size_t n_turns = json_array_size(messages);
    *out = NULL;
    *n = 0;
    if (!json_is_array(messages)) {
        return rf_error_set(err, RF_ERR, "field \"messages\" must be an array, but is %s",
                            messages != NULL ? rf_chat_json_kind(messages) : "missing");
    }
    if (n_turns == 0) {
        return rf_error_set(err, RF_ERR, "field \"messages\" is empty: give at least one message");
    }
    rf_turn *turn = rf_alloc(n_turns, sizeof *turn);
    for (size_t i = 0; i < n_turns; i++) {
        int rc = read_turn(&turn[i], json_array_get(messages, i), i, err);
        if (rc != RF_OK) {
            free(turn);
            return rc;
        }
    }
    *out = turn;
    *n = (int64_t)n_turns;
    return RF_OK;
}

/* --- Options from JSON ------------------------------------------------------------------------ */

/* What a record or the tokenizer says elsewhere is no further variable: Transformers refuses it too, or
 * lets one of the two win. */
static int check_more(const json_t *record, const json_t *more, rf_error *err)
{
    static const char *const taken[] = {"messages",  "tools",     "add_generation_prompt",
                                        "bos_token", "eos_token", "unk_token",
                                        "pad_token"};
    static const char *const twice[] = {"enable_thinking", "date_string"};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        if (json_object_get(more, taken[i]) != NULL) {
            return rf_error_set(err, RF_ERR,
                                "chat_template_kwargs: \"%s\" comes from the %s: remove it there",
                                taken[i], i < 3 ? "record itself" : "tokenizer");
        }
    }
    for (size_t i = 0; i < sizeof twice / sizeof *twice; i++) {
        if (json_object_get(more, twice[i]) != NULL &&
            !is_null(json_object_get(record, twice[i]))) {
            return rf_error_set(err, RF_ERR,
                                "\"%s\" is in the record and in its chat_template_kwargs: keep one "
                                "of them",
                                twice[i]);
        }
    }
    return RF_OK;
}

int rf_chat_read_options(rf_render_options *out, const json_t *record, rf_error *err)
{
    const json_t *tools = json_object_get(record, "tools");
    const json_t *prompt = json_object_get(record, "add_generation_prompt");
    const json_t *thinking = json_object_get(record, "enable_thinking");
    const json_t *date = json_object_get(record, "date_string");
    const json_t *more = json_object_get(record, "chat_template_kwargs");
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
    } else if (!is_null(more) && !json_is_object(more)) {
        field = "chat_template_kwargs";
        wanted = "an object of variables";
    }
    if (field != NULL) {
        return rf_error_set(err, RF_ERR, "field \"%s\" must be %s, but is %s", field, wanted,
                            rf_chat_json_kind(json_object_get(record, field)));
    }
    RF_TRY(check_more(record, more, err));
    *out = (rf_render_options){.tools = is_null(tools) ? NULL : tools,
                               .add_generation_prompt = json_is_true(prompt),
                               .thinking = json_is_true(thinking)    ? RF_THINKING_ON
                                           : json_is_false(thinking) ? RF_THINKING_OFF
                                                                     : RF_THINKING_UNSET,
                               .date = json_string_value(date),
                               .more = is_null(more) ? NULL : more};
    return RF_OK;
}
