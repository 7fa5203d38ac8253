/* ask_prompt.c: texts, ids and conversations as the model sees them. */
#include "serve/ask_private.h"

#include "common/base/alloc.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int rf_ask_ids(rf_ids *ids, const json_t *array, const rf_tokenizer *tokenizer, const char *param,
               rf_problem *problem)
{
    const int64_t size = rf_tokenizer_size(tokenizer);
    size_t i;
    json_t *value;
    json_array_foreach((json_t *)(uintptr_t)array, i, value)
    {
        const json_int_t id = json_integer_value(value);
        if (!json_is_integer(value)) {
            return rf_problem_set(problem, 400, "invalid_type", param,
                                  "%s: entry %zu is %s: a list of token ids holds whole numbers",
                                  param, i, rf_chat_json_kind(value));
        }
        if (id < 0 || id >= size) {
            return rf_problem_set(problem, 400, "invalid_value", param,
                                  "%s: there is no token %" JSON_INTEGER_FORMAT
                                  ": ids are from 0 to %" PRId64,
                                  param, id, size - 1);
        }
        rf_ids_push(ids, (int32_t)id);
    }
    return RF_OK;
}

static rf_ask_prompt *add_prompt(rf_ask *ask)
{
    ask->prompt = rf_realloc(ask->prompt, (size_t)ask->n_prompts + 1, sizeof *ask->prompt);
    ask->prompt[ask->n_prompts] = (rf_ask_prompt){0};
    return &ask->prompt[ask->n_prompts++];
}

/* --- Texts and ids ---------------------------------------------------------------------------- */

/* A text as it is (refusion-infer --raw): the begin token, then its own. Ids that begin with the begin
 * token are taken as they are. */
static int read_text(rf_ask_reader *in, const json_t *value)
{
    const rf_tokenizer *tokenizer = in->offer->loaded->info.tokenizer;
    const int32_t begin = rf_tokenizer_specials(tokenizer)->begin;
    rf_ask_prompt *p = add_prompt(&in->ask);
    rf_error err = {0};
    if (begin >= 0 &&
        (!json_is_array(value) || json_integer_value(json_array_get(value, 0)) != begin)) {
        rf_ids_push(&p->ids, begin);
        p->hides_begin = true;
    }
    if (json_is_array(value)) {
        return rf_ask_ids(&p->ids, value, tokenizer, "prompt", in->problem);
    }
    if (rf_tokenizer_encode(tokenizer, &p->ids, json_string_value(value), json_string_length(value),
                            &err) != RF_OK) {
        return rf_problem_set(in->problem, 400, "invalid_value", "prompt", "prompt: %s",
                              err.message);
    }
    return RF_OK;
}

/* A string, strings, ids, or lists of ids. */
static int read_completion(rf_ask_reader *in)
{
    const json_t *value = in->prompt, *first = json_array_get(value, 0);
    if (value == NULL) {
        return rf_problem_set(in->problem, 400, "missing_field", "prompt", "prompt is missing");
    }
    if (json_is_string(value) || json_is_integer(first)) {
        return read_text(in, value);
    }
    if (!json_is_array(value)) {
        return rf_ask_wrong_kind(in->problem, "prompt",
                                 "a string, a list of strings, a list of token ids or a list of "
                                 "such lists",
                                 value);
    }
    if (first == NULL) {
        return rf_problem_set(in->problem, 400, "invalid_value", "prompt",
                              "prompt is an empty list: give a prompt");
    }
    size_t i;
    json_t *one;
    json_array_foreach((json_t *)(uintptr_t)value, i, one)
    {
        if (json_typeof(one) != json_typeof(first) ||
            !(json_is_string(one) || json_is_array(one))) {
            return rf_problem_set(in->problem, 400, "invalid_type", "prompt",
                                  "prompt: entry %zu is %s: all are strings, or all are lists of "
                                  "token ids",
                                  i, rf_chat_json_kind(one));
        }
        RF_TRY(read_text(in, one));
    }
    return RF_OK;
}

/* --- Conversations ---------------------------------------------------------------------------- */

/* Content in parts becomes one text where all are texts. The caller releases *out. */
static int join_parts(json_t **out, rf_ask_reader *in, size_t number, const json_t *parts)
{
    rf_text text = {0};
    size_t i;
    json_t *part;
    int rc = RF_OK;
    json_array_foreach((json_t *)(uintptr_t)parts, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *words = json_object_get(part, "text");
        if (type == NULL || strcmp(type, "text") != 0 || !json_is_string(words)) {
            RF_TRY_OUT(rf_problem_set(in->problem, 400, "unsupported_value", "messages",
                                      "messages[%zu].content[%zu]: only parts {\"type\": \"text\", "
                                      "\"text\": ...} are supported, not \"%.100s\"",
                                      number, i, type != NULL ? type : "(no type)"));
        }
        rf_text_add(&text, json_string_value(words), json_string_length(words));
    }
    *out = json_stringn(text.data != NULL ? text.data : "", text.bytes);
out:
    rf_text_free(&text);
    return rc;
}

/* A copy with contents as texts, and the role "developer" as what templates call it. The caller
 * releases it. */
static int plain_messages(json_t **out, rf_ask_reader *in)
{
    size_t i;
    json_t *message;
    *out = json_array();
    json_array_foreach((json_t *)(uintptr_t)in->messages, i, message)
    {
        json_t *copy = json_copy(message);
        const json_t *content = json_object_get(copy, "content");
        const char *role = json_string_value(json_object_get(copy, "role"));
        json_array_append_new(*out, copy);
        if (role != NULL && strcmp(role, "developer") == 0) {
            json_object_set_new(copy, "role", json_string("system"));
        }
        if (json_is_array(content)) {
            json_t *joined = NULL;
            RF_TRY(join_parts(&joined, in, i, content));
            json_object_set_new(copy, "content", joined);
        }
    }
    return RF_OK;
}

static int read_chat(rf_ask_reader *in)
{
    json_t *messages = NULL;
    rf_turn *turn = NULL;
    rf_render_options options = {0};
    int64_t n = 0;
    rf_error err = {0};
    int rc;
    if (in->messages == NULL) {
        return rf_problem_set(in->problem, 400, "missing_field", "messages", "messages is missing");
    }
    if (!json_is_array(in->messages)) {
        return rf_ask_wrong_kind(in->problem, "messages", "a list", in->messages);
    }
    if (json_array_size(in->messages) == 0) {
        return rf_problem_set(in->problem, 400, "invalid_value", "messages",
                              "messages is empty: give one message at least");
    }
    RF_TRY_OUT(plain_messages(&messages, in));
    if (rf_chat_turns(&turn, &n, messages, &err) != RF_OK ||
        rf_chat_read_options(&options, in->body, &err) != RF_OK) {
        RF_TRY_OUT(
            rf_problem_set(in->problem, 400, "invalid_value", "messages", "%s", err.message));
    }
    options.add_generation_prompt = true;
    options.tools = in->no_tools ? NULL : options.tools;
    rf_ask_prompt *p = add_prompt(&in->ask);
    char *text = NULL;
    size_t bytes;
    if (rf_tokenizer_render(in->offer->loaded->info.tokenizer, &text, &bytes, &p->ids, turn, n,
                            &options, &err) != RF_OK) {
        rc = rf_problem_set(in->problem, 400, "invalid_value", "messages", "%s", err.message);
    }
    free(text);
out:
    free(turn);
    json_decref(messages);
    return rc;
}

/* --- Room ------------------------------------------------------------------------------------- */

/* A conversation whose client did not say how long answers may be takes what room there is. */
static int find_room(rf_ask_reader *in, const rf_ask_prompt *p)
{
    rf_ask *ask = &in->ask;
    rf_error err = {0};
    const int64_t room = in->offer->size.positions - p->ids.n;
    rf_decode_options o = ask->options;
    if (ask->kind == RF_ASK_CHAT && !in->has_max_tokens && o.gen_length > room &&
        rf_decode_options_shorten(&o, room)) {
        ask->options = o;
        ask->max_tokens = o.gen_length;
    }
    if (ask->max_tokens == 0) {
        o = (rf_decode_options){.kind = &rf_decoder_given, .gen_length = 1};
    } else {
        o = ask->options;
    }
    /* A response that is judged needs room for what stands there, whatever the decoder needs. */
    if (p->ids.n + ask->max_tokens > in->offer->size.positions ||
        (p->ids.n > 1 && rf_engine_size_fits(&in->offer->size, &o,
                                             p->ids.n - (ask->max_tokens == 0), &err) != RF_OK)) {
        return rf_problem_set(in->problem, 400, "context_length_exceeded",
                              ask->kind == RF_ASK_CHAT ? "messages" : "prompt",
                              "the prompt has %" PRId64 " tokens and the answer up to %" PRId64
                              ": this server has room for %" PRId64 " together",
                              p->ids.n, ask->max_tokens > 0 ? o.gen_length : 0,
                              in->offer->size.positions);
    }
    return RF_OK;
}

int rf_ask_read_prompts(rf_ask_reader *in)
{
    rf_ask *ask = &in->ask;
    RF_TRY(ask->kind == RF_ASK_CHAT ? read_chat(in) : read_completion(in));
    if (ask->n_prompts > RF_ASK_CHOICES / ask->n) {
        return rf_problem_set(in->problem, 400, "invalid_value", "n",
                              "%" PRId64 " prompts with %" PRId64
                              " answers each: a request may ask for %d answers at most",
                              ask->n_prompts, ask->n, RF_ASK_CHOICES);
    }
    if (ask->stream && ask->n_prompts * ask->n > 1 && ask->shows_slots) {
        return rf_problem_set(in->problem, 400, "unsupported_value", "stream_options",
                              "stream_options.slots goes with one prompt and n = 1");
    }
    for (int64_t i = 0; i < ask->n_prompts; i++) {
        RF_TRY(find_room(in, &ask->prompt[i]));
    }
    return RF_OK;
}
