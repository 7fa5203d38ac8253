/* ShareGPT's messages, and tools as LLaMA-Factory and ms-swift write them: calls and signatures that are
 * texts of JSON. They become those that chat templates read.
 * Source: https://github.com/hiyouga/LlamaFactory/blob/main/data/README.md (ShareGPT format). */
#include "data/corpus/records_private.h"

#include <jansson.h>
#include <string.h>

/* JSON in a string; NULL: it is none. */
static json_t *parse(const json_t *text)
{
    return json_loadb(json_string_value(text), json_string_length(text),
                      JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
}

/* {"name": ...} becomes {"type": "function", "function": {"name": ...}}; takes `function` over. */
static json_t *wrap(json_t *function)
{
    const bool is_bare = json_is_string(json_object_get(function, "name")) &&
                         json_object_get(function, "type") == NULL;
    return is_bare ? json_pack("{s:s, s:o}", "type", "function", "function", function) : function;
}

/* Each of a list, or a single one that becomes a list. A new reference. */
static json_t *wrap_all(json_t *functions)
{
    json_t *all = json_array(), *one;
    size_t i;
    if (!json_is_array(functions)) {
        json_array_append_new(all, wrap(json_incref(functions)));
    }
    json_array_foreach(functions, i, one)
    {
        json_array_append_new(all, wrap(json_incref(one)));
    }
    return all;
}

/* What the assistant calls is a text: {"name", "arguments"}, or a list of them. */
static int take_calls(json_t *item, size_t i, rf_error *err)
{
    const json_t *text = json_object_get(item, "content");
    json_t *calls = json_is_string(text) ? parse(text) : NULL;
    if (calls == NULL) {
        return rf_error_set(err, RF_ERR,
                            "messages[%zu]: the call of a function must be JSON: {\"name\", "
                            "\"arguments\"}, or a list of them",
                            i);
    }
    json_object_set_new(item, "tool_calls", wrap_all(calls));
    json_object_set_new(item, "content", json_string(""));
    json_decref(calls);
    return RF_OK;
}

/* "value" becomes "content", which may be there already if it says the same. */
static int take_value(json_t *item, size_t i, rf_error *err)
{
    json_t *value = json_object_get(item, "value");
    const json_t *content = json_object_get(item, "content");
    const bool says_nothing = content == NULL || json_is_null(content) ||
                              (json_is_string(content) && json_string_length(content) == 0);
    if (value != NULL && !says_nothing && !json_equal(value, content)) {
        return rf_error_set(
            err, RF_ERR,
            "conversations[%zu]: both \"value\" and \"content\" are there: keep one "
            "of them",
            i);
    }
    json_object_set(item, "content", value);
    return RF_OK;
}

int rf_record_name_speaker(json_t *item, size_t i, rf_error *err)
{
    static const struct {
        const char *name, *role;
        bool calls;
    } speakers[] = {{"human", "user", false},
                    {"user", "user", false},
                    {"gpt", "assistant", false},
                    {"chatgpt", "assistant", false},
                    {"bing", "assistant", false},
                    {"bard", "assistant", false},
                    {"assistant", "assistant", false},
                    {"model", "assistant", false},
                    {"system", "system", false},
                    {"function_call", "assistant", true},
                    {"tool_call", "assistant", true},
                    {"observation", "tool", false},
                    {"tool", "tool", false},
                    {"tool_response", "tool", false},
                    {"function_response", "tool", false}};
    const json_t *speaker = json_object_get(item, "from");
    const char *from = json_string_value(speaker);
    const char *name = from != NULL ? from : json_string_value(json_object_get(item, "role"));
    if (from == NULL && speaker != NULL && !json_is_null(speaker)) {
        return rf_error_set(err, RF_ERR,
                            "conversations[%zu]: field \"from\" must be a string, but is %s", i,
                            rf_chat_json_kind(speaker));
    }
    if (from != NULL) {
        RF_TRY(take_value(item, i, err));
    }
    for (size_t k = 0; name != NULL && k < sizeof speakers / sizeof *speakers; k++) {
        if (strcmp(name, speakers[k].name) == 0) {
            json_object_set_new(item, "role", json_string(speakers[k].role));
            return speakers[k].calls ? take_calls(item, i, err) : RF_OK;
        }
    }
    return from == NULL ? RF_OK /* the reader of messages says what is wrong */
                        : rf_error_set(err, RF_ERR,
                                       "conversations[%zu]: unknown speaker \"%.64s\": use "
                                       "\"system\", \"human\", \"gpt\", \"function_call\" or "
                                       "\"observation\"",
                                       i, from);
}

int rf_record_read_tools(json_t *root, rf_error *err)
{
    const json_t *text = json_object_get(root, "tools");
    if (!json_is_string(text)) {
        return RF_OK;
    }
    json_t *tools = json_string_length(text) > 0 ? parse(text) : json_array();
    if (!json_is_array(tools)) {
        json_decref(tools);
        return rf_error_set(err, RF_ERR,
                            "field \"tools\" is a text, but not of a JSON array of functions");
    }
    json_object_set_new(root, "tools", wrap_all(tools));
    json_decref(tools);
    return RF_OK;
}
