/* ask_fields.c: the fields of a request, one function for each kind. */
#include "serve/ask_private.h"

#include "common/base/alloc.h"
#include "common/base/nearest.h"
#include "infer/decode/stop.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int rf_ask_wrong_kind(rf_problem *problem, const char *param, const char *wanted,
                      const json_t *value)
{
    return rf_problem_set(problem, 400, "invalid_type", param, "%s must be %s, not %s", param,
                          wanted, rf_chat_json_kind(value));
}

/* --- Values ----------------------------------------------------------------------------------- */

static int read_bool(bool *out, rf_ask_reader *in, const char *name, const json_t *value)
{
    if (!json_is_boolean(value)) {
        return rf_ask_wrong_kind(in->problem, name, "true or false", value);
    }
    *out = json_is_true(value);
    return RF_OK;
}

static int read_integer(int64_t *out, rf_ask_reader *in, const char *name, const json_t *value,
                        int64_t least, int64_t most)
{
    const double real = json_number_value(value);
    if (!json_is_number(value)) {
        return rf_ask_wrong_kind(in->problem, name, "a whole number", value);
    }
    if (real != floor(real)) {
        return rf_problem_set(in->problem, 400, "invalid_type", name,
                              "%s is %.17g: must be a whole number", name, real);
    }
    if (real < (double)least || real > (double)most) {
        return rf_problem_set(in->problem, 400, "invalid_value", name,
                              "%s is %.17g: must be from %" PRId64 " to %" PRId64, name, real,
                              least, most);
    }
    *out = (int64_t)real;
    return RF_OK;
}

static int read_string(char **out, rf_ask_reader *in, const char *name, const json_t *value)
{
    if (!json_is_string(value)) {
        return rf_ask_wrong_kind(in->problem, name, "a string", value);
    }
    free(*out);
    *out = rf_alloc_string(json_string_value(value));
    return RF_OK;
}

/* --- Fields ----------------------------------------------------------------------------------- */

typedef int field_reader(rf_ask_reader *in, const char *name, const json_t *value);

int rf_ask_model(const char *name, const rf_offer *offer, rf_problem *problem)
{
    return strcmp(name, offer->name) == 0
               ? RF_OK
               : rf_problem_set(problem, 404, "model_not_found", "model",
                                "there is no model '%.200s' here: ask for '%s'", name, offer->name);
}

static int read_model(rf_ask_reader *in, const char *name, const json_t *value)
{
    return json_is_string(value) ? rf_ask_model(json_string_value(value), in->offer, in->problem)
                                 : rf_ask_wrong_kind(in->problem, name, "a string", value);
}

static int read_prompt(rf_ask_reader *in, const char *name, const json_t *value)
{
    (void)name;
    in->prompt = value;
    return RF_OK;
}

static int read_messages(rf_ask_reader *in, const char *name, const json_t *value)
{
    (void)name;
    in->messages = value;
    return RF_OK;
}

static int read_decode(rf_ask_reader *in, const char *name, const json_t *value)
{
    if (!json_is_object(value)) {
        return rf_ask_wrong_kind(in->problem, name, "an object", value);
    }
    in->decode = value;
    return RF_OK;
}

static int read_max_tokens(rf_ask_reader *in, const char *name, const json_t *value)
{
    if (in->has_max_tokens) {
        return rf_problem_set(in->problem, 400, "invalid_value", name,
                              "max_tokens and max_completion_tokens are one: give one of them");
    }
    in->has_max_tokens = true;
    return read_integer(&in->ask->max_tokens, in, name, value, 0, 1 << 20);
}

static void add_setting(rf_ask_reader *in, const char *name, const char *format, ...)
    RF_PRINTF(3, 4);
static void add_setting(rf_ask_reader *in, const char *name, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    (void)vsnprintf(in->setting[in->n_settings], sizeof in->setting[0], format, list);
    va_end(list);
    in->setting_field[in->n_settings++] = name;
}

/* One of OpenAI's that is a setting of decode.*, whose range the settings check. */
static int read_setting(rf_ask_reader *in, const char *name, const json_t *value)
{
    if (!json_is_number(value)) {
        return rf_ask_wrong_kind(in->problem, name, "a number", value);
    }
    add_setting(in, name, "decode.%s=%.17g", name, json_number_value(value));
    return RF_OK;
}

static int read_seed(rf_ask_reader *in, const char *name, const json_t *value)
{
    int64_t seed;
    RF_TRY(read_integer(&seed, in, name, value, 0, INT64_C(9000000000000000)));
    add_setting(in, name, "decode.seed=%" PRId64, seed);
    in->has_seed = true;
    return RF_OK;
}

static int read_n(rf_ask_reader *in, const char *name, const json_t *value)
{
    return read_integer(&in->ask->n, in, name, value, 1, in->offer->max_choices);
}

static int read_echo(rf_ask_reader *in, const char *name, const json_t *value)
{
    return read_bool(&in->ask->echo, in, name, value);
}

static int read_stream(rf_ask_reader *in, const char *name, const json_t *value)
{
    return read_bool(&in->ask->stream, in, name, value);
}

static int read_stream_options(rf_ask_reader *in, const char *name, const json_t *value)
{
    const char *key;
    json_t *option;
    if (!json_is_object(value)) {
        return rf_ask_wrong_kind(in->problem, name, "an object", value);
    }
    if (!json_is_true(json_object_get(in->body, "stream"))) {
        return rf_problem_set(in->problem, 400, "invalid_value", name,
                              "stream_options goes with \"stream\": true");
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, option)
    {
        if (strcmp(key, "include_usage") == 0) {
            RF_TRY(read_bool(&in->ask->includes_usage, in, "stream_options.include_usage", option));
        } else if (strcmp(key, "slots") == 0) {
            RF_TRY(read_bool(&in->ask->shows_slots, in, "stream_options.slots", option));
        } else {
            return rf_problem_set(in->problem, 400, "unsupported_field", name,
                                  "stream_options.%.200s is not supported: there are include_usage "
                                  "and slots",
                                  key);
        }
    }
    return RF_OK;
}

static int read_stop(rf_ask_reader *in, const char *name, const json_t *value)
{
    const size_t n = json_is_string(value) ? 1 : json_array_size(value);
    rf_error err = {0};
    if (!json_is_string(value) && !json_is_array(value)) {
        return rf_ask_wrong_kind(in->problem, name, "a string or a list of strings", value);
    }
    if ((int64_t)n > in->offer->max_stops) {
        return rf_problem_set(in->problem, 400, "invalid_value", name,
                              "stop has %zu strings: at most %" PRId64, n, in->offer->max_stops);
    }
    in->ask->stops = n > 0 ? rf_alloc(n + 1, sizeof *in->ask->stops) : NULL;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_string(value) ? value : json_array_get(value, i);
        RF_TRY(read_string(&in->ask->stops[i], in, name, one));
    }
    if (rf_stops_check((const char *const *)in->ask->stops, &err) != RF_OK) {
        return rf_problem_set(in->problem, 400, "invalid_value", name, "stop: %s", err.message);
    }
    return RF_OK;
}

static int read_user(rf_ask_reader *in, const char *name, const json_t *value)
{
    return read_string(&in->ask->user, in, name, value);
}

/* Of completions: a number. */
static int read_logprobs(rf_ask_reader *in, const char *name, const json_t *value)
{
    return read_integer(&in->ask->n_likely, in, name, value, 0, in->offer->max_likely);
}

/* Of conversations: whether, and how many beside. */
static int read_chat_logprobs(rf_ask_reader *in, const char *name, const json_t *value)
{
    return read_bool(&in->has_logprobs, in, name, value);
}

static int read_top_logprobs(rf_ask_reader *in, const char *name, const json_t *value)
{
    return read_integer(&in->top_logprobs, in, name, value, 0, in->offer->max_likely);
}

static int read_tool_choice(rf_ask_reader *in, const char *name, const json_t *value)
{
    const char *choice = json_string_value(value);
    if (choice == NULL || (strcmp(choice, "auto") != 0 && strcmp(choice, "none") != 0)) {
        return rf_problem_set(
            in->problem, 400, "unsupported_value", name,
            "tool_choice: only \"auto\" and \"none\" are supported, for the model "
            "alone decides");
    }
    in->no_tools = strcmp(choice, "none") == 0;
    return RF_OK;
}

/* Read with the messages, from the body as a whole. */
static int read_later(rf_ask_reader *in, const char *name, const json_t *value)
{
    (void)in, (void)name, (void)value;
    return RF_OK;
}

/* --- Fields that are there only with the value that changes nothing --------------------------- */

static int refuse(rf_ask_reader *in, const char *name, const char *neutral)
{
    return rf_problem_set(in->problem, 400, "unsupported_field", name,
                          "%s is not supported: leave it out, or give %s", name, neutral);
}

static int needs_zero(rf_ask_reader *in, const char *name, const json_t *value)
{
    return json_is_number(value) && json_number_value(value) == 0 ? RF_OK : refuse(in, name, "0");
}

static int needs_one(rf_ask_reader *in, const char *name, const json_t *value)
{
    return json_is_number(value) && json_number_value(value) == 1 ? RF_OK : refuse(in, name, "1");
}

static int needs_empty(rf_ask_reader *in, const char *name, const json_t *value)
{
    const bool is_empty = (json_is_object(value) && json_object_size(value) == 0) ||
                          (json_is_array(value) && json_array_size(value) == 0) ||
                          (json_is_string(value) && json_string_length(value) == 0);
    return is_empty ? RF_OK : refuse(in, name, "null");
}

static int needs_false(rf_ask_reader *in, const char *name, const json_t *value)
{
    return json_is_false(value) ? RF_OK : refuse(in, name, "false");
}

static int needs_true(rf_ask_reader *in, const char *name, const json_t *value)
{
    return json_is_true(value) ? RF_OK : refuse(in, name, "true");
}

static int needs_auto(rf_ask_reader *in, const char *name, const json_t *value)
{
    const char *tier = json_string_value(value);
    return tier != NULL && (strcmp(tier, "auto") == 0 || strcmp(tier, "default") == 0)
               ? RF_OK
               : refuse(in, name, "\"auto\"");
}

static int needs_text_alone(rf_ask_reader *in, const char *name, const json_t *value)
{
    const char *kind = json_string_value(json_array_get(value, 0));
    return json_array_size(value) == 1 && kind != NULL && strcmp(kind, "text") == 0
               ? RF_OK
               : refuse(in, name, "[\"text\"]");
}

static int needs_text(rf_ask_reader *in, const char *name, const json_t *value)
{
    const char *type = json_string_value(json_object_get(value, "type"));
    return type != NULL && strcmp(type, "text") == 0 ? RF_OK
                                                     : refuse(in, name, "{\"type\": \"text\"}");
}

/* --- All of them ------------------------------------------------------------------------------ */

typedef struct field {
    const char *name;
    field_reader *read;
} field;

#define SHARED_FIELDS                                                                              \
    {"model", read_model}, {"max_tokens", read_max_tokens}, {"temperature", read_setting},         \
        {"top_p", read_setting}, {"seed", read_seed}, {"n", read_n}, {"stream", read_stream},      \
        {"stream_options", read_stream_options}, {"stop", read_stop}, {"user", read_user},         \
        {"decode", read_decode}, {"presence_penalty", needs_zero},                                 \
        {"frequency_penalty", needs_zero},                                                         \
    {                                                                                              \
        "logit_bias", needs_empty                                                                  \
    }

static const field completion_fields[] = {SHARED_FIELDS,
                                          {"prompt", read_prompt},
                                          {"echo", read_echo},
                                          {"logprobs", read_logprobs},
                                          {"best_of", needs_one},
                                          {"suffix", needs_empty},
                                          {0}};
static const field chat_fields[] = {SHARED_FIELDS,
                                    {"messages", read_messages},
                                    {"max_completion_tokens", read_max_tokens},
                                    {"logprobs", read_chat_logprobs},
                                    {"top_logprobs", read_top_logprobs},
                                    {"tools", read_later},
                                    {"tool_choice", read_tool_choice},
                                    {"response_format", needs_text},
                                    {"modalities", needs_text_alone},
                                    {"parallel_tool_calls", needs_true},
                                    {"store", needs_false},
                                    {"metadata", needs_empty},
                                    {"service_tier", needs_auto},
                                    {"enable_thinking", read_later},
                                    {"chat_template_kwargs", read_later},
                                    {0}};

static int refuse_unknown(rf_ask_reader *in, const field *fields, const char *name)
{
    rf_nearest nearest = rf_nearest_to(name, strlen(name));
    for (const field *f = fields; f->name != NULL; f++) {
        rf_nearest_try(&nearest, f->name, strlen(f->name));
    }
    return nearest.name != NULL
               ? rf_problem_set(in->problem, 400, "unsupported_field", name,
                                "the field '%.200s' is not supported: did you mean '%s'?", name,
                                nearest.name)
               : rf_problem_set(in->problem, 400, "unsupported_field", name,
                                "the field '%.200s' is not supported: leave it out", name);
}

/* Of conversations "logprobs" says whether; of completions how many. */
static int settle_logprobs(rf_ask_reader *in)
{
    if (in->top_logprobs >= 0 && !in->has_logprobs) {
        return rf_problem_set(in->problem, 400, "invalid_value", "top_logprobs",
                              "top_logprobs goes with \"logprobs\": true");
    }
    if (in->has_logprobs) {
        in->ask->n_likely = in->top_logprobs < 0 ? 0 : in->top_logprobs;
    }
    if (in->ask->n_likely < 0) {
        return RF_OK;
    }
    bool masks;
    if (!rf_offer_judges(in->offer, &masks)) {
        return rf_problem_set(in->problem, 400, "unsupported_value", "logprobs",
                              "logprobs: a model of objective.kind=%s has no log-probability for "
                              "each token, only a bound on that of a text: leave the field out",
                              in->offer->objective);
    }
    return RF_OK;
}

int rf_ask_read_fields(rf_ask_reader *in)
{
    const field *fields = in->ask->kind == RF_ASK_CHAT ? chat_fields : completion_fields;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)in->body, name, value)
    {
        const field *f = fields;
        while (f->name != NULL && strcmp(f->name, name) != 0) {
            f++;
        }
        if (f->name == NULL) {
            return refuse_unknown(in, fields, name);
        }
        RF_TRY(json_is_null(value) ? RF_OK : f->read(in, name, value));
    }
    return settle_logprobs(in);
}
