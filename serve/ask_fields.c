/* ask_fields.c: the fields of a request, one function for each kind. */
#include "serve/ask_private.h"

#include "common/base/alloc.h"
#include "common/base/nearest.h"
#include "infer/decode/stop.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int rf_ask_wrong_kind(rf_problem *problem, const char *param, const char *wanted,
                      const json_t *value)
{
    return rf_problem_set(problem, 400, "invalid_type", param, "%s must be %s, not %s", param,
                          wanted, rf_chat_json_kind(value));
}

/* --- Values ----------------------------------------------------------------------------------- */

typedef struct field field;
typedef int field_reader(rf_ask_reader *in, const field *f, const json_t *value);

struct field {
    const char *name;
    field_reader *read;  /* NULL: it is read with the messages, from the body as a whole */
    size_t at;           /* where its value goes in rf_ask_reader */
    int64_t least, most; /* of a whole number */
    const char *neutral; /* JSON: an array of the values that it may have, which change nothing; the
                            first is the one that messages name */
};
#define AT(member) .at = offsetof(rf_ask_reader, member)

static void *place_of(rf_ask_reader *in, const field *f)
{
    return (char *)in + f->at;
}

static int read_bool(rf_ask_reader *in, const field *f, const json_t *value)
{
    if (!json_is_boolean(value)) {
        return rf_ask_wrong_kind(in->problem, f->name, "true or false", value);
    }
    *(bool *)place_of(in, f) = json_is_true(value);
    return RF_OK;
}

static int read_integer(rf_ask_reader *in, const field *f, const json_t *value)
{
    const double real = json_number_value(value);
    if (!json_is_number(value)) {
        return rf_ask_wrong_kind(in->problem, f->name, "a whole number", value);
    }
    if (real != floor(real)) {
        return rf_problem_set(in->problem, 400, "invalid_type", f->name,
                              "%s is %.17g: must be a whole number", f->name, real);
    }
    if (real < (double)f->least || real > (double)f->most) {
        return rf_problem_set(in->problem, 400, "invalid_value", f->name,
                              "%s is %.17g: must be from %" PRId64 " to %" PRId64, f->name, real,
                              f->least, f->most);
    }
    *(int64_t *)place_of(in, f) = (int64_t)real;
    return RF_OK;
}

static int read_string(rf_ask_reader *in, const field *f, const json_t *value)
{
    char **out = place_of(in, f);
    if (!json_is_string(value)) {
        return rf_ask_wrong_kind(in->problem, f->name, "a string", value);
    }
    *out = rf_alloc_string(json_string_value(value));
    return RF_OK;
}

static int read_value(rf_ask_reader *in, const field *f, const json_t *value)
{
    *(const json_t **)place_of(in, f) = value;
    return RF_OK;
}

static int read_neutral(rf_ask_reader *in, const field *f, const json_t *value)
{
    json_t *list = json_loads(f->neutral, 0, NULL), *one;
    const bool is_number = json_is_number(value); /* 0 and 0.0 are one */
    bool is_neutral = false;
    size_t i;
    json_array_foreach(list, i, one)
    {
        is_neutral |=
            is_number ? json_is_number(one) && json_number_value(one) == json_number_value(value)
                      : json_equal(one, value);
    }
    char *first = json_dumps(json_array_get(list, 0), JSON_ENCODE_ANY);
    const int rc = is_neutral ? RF_OK
                              : rf_problem_set(in->problem, 400, "unsupported_field", f->name,
                                               "%s is not supported: leave it out, or give %s",
                                               f->name, first);
    free(first);
    json_decref(list);
    return rc;
}

/* --- Fields ----------------------------------------------------------------------------------- */

int rf_ask_model(const char *name, const rf_offer *offer, rf_problem *problem)
{
    return strcmp(name, offer->name) == 0
               ? RF_OK
               : rf_problem_set(problem, 404, "model_not_found", "model",
                                "there is no model '%.200s' here: ask for '%s'", name, offer->name);
}

static int read_model(rf_ask_reader *in, const field *f, const json_t *value)
{
    return json_is_string(value) ? rf_ask_model(json_string_value(value), in->offer, in->problem)
                                 : rf_ask_wrong_kind(in->problem, f->name, "a string", value);
}

/* A setting that is null is taken out, for that counts as missing wherever it is looked for. */
static int read_decode(rf_ask_reader *in, const field *f, const json_t *value)
{
    const char *key;
    json_t *settings = (json_t *)(uintptr_t)value, *setting;
    void *next;
    if (!json_is_object(value)) {
        return rf_ask_wrong_kind(in->problem, f->name, "an object", value);
    }
    json_object_foreach_safe(settings, next, key, setting)
    {
        if (json_is_null(setting)) {
            json_object_del(settings, key);
        }
    }
    return read_value(in, f, value);
}

static int read_max_tokens(rf_ask_reader *in, const field *f, const json_t *value)
{
    if (in->has_max_tokens) {
        return rf_problem_set(in->problem, 400, "invalid_value", f->name,
                              "max_tokens and max_completion_tokens are one: give one of them");
    }
    in->has_max_tokens = true;
    return read_integer(in, f, value);
}

/* Of a setting decode.*, whose range the settings check (ask.c). */
static int read_number(rf_ask_reader *in, const field *f, const json_t *value)
{
    return json_is_number(value) ? RF_OK
                                 : rf_ask_wrong_kind(in->problem, f->name, "a number", value);
}

static int read_stream_options(rf_ask_reader *in, const field *f, const json_t *value)
{
    static const field usage = {"stream_options.include_usage", NULL, AT(ask.includes_usage)};
    static const field slots = {"stream_options.slots", NULL, AT(ask.shows_slots)};
    const char *key;
    json_t *option;
    if (!json_is_object(value)) {
        return rf_ask_wrong_kind(in->problem, f->name, "an object", value);
    }
    if (!json_is_true(json_object_get(in->body, "stream"))) {
        return rf_problem_set(in->problem, 400, "invalid_value", f->name,
                              "stream_options goes with \"stream\": true");
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, option)
    {
        const bool is_usage = strcmp(key, "include_usage") == 0;
        if (!is_usage && strcmp(key, "slots") != 0) {
            return rf_problem_set(in->problem, 400, "unsupported_field", f->name,
                                  "stream_options.%.200s is not supported: there are include_usage "
                                  "and slots",
                                  key);
        }
        RF_TRY(read_bool(in, is_usage ? &usage : &slots, option));
    }
    return RF_OK;
}

static int read_stop(rf_ask_reader *in, const field *f, const json_t *value)
{
    const size_t n = json_is_string(value) ? 1 : json_array_size(value);
    rf_error err = {0};
    if (!json_is_string(value) && !json_is_array(value)) {
        return rf_ask_wrong_kind(in->problem, f->name, "a string or a list of strings", value);
    }
    if (n > RF_ASK_STOPS) {
        return rf_problem_set(in->problem, 400, "invalid_value", f->name,
                              "stop has %zu strings: at most %d", n, RF_ASK_STOPS);
    }
    in->ask.stops = n > 0 ? rf_alloc(n + 1, sizeof *in->ask.stops) : NULL;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_string(value) ? value : json_array_get(value, i);
        if (!json_is_string(one)) {
            return rf_ask_wrong_kind(in->problem, f->name, "a string", one);
        }
        in->ask.stops[i] = rf_alloc_string(json_string_value(one));
    }
    if (rf_stops_check((const char *const *)in->ask.stops, &err) != RF_OK) {
        return rf_problem_set(in->problem, 400, "invalid_value", f->name, "stop: %s", err.message);
    }
    return RF_OK;
}

static int read_tool_choice(rf_ask_reader *in, const field *f, const json_t *value)
{
    const char *choice = json_string_value(value);
    if (choice == NULL || (strcmp(choice, "auto") != 0 && strcmp(choice, "none") != 0)) {
        return rf_problem_set(
            in->problem, 400, "unsupported_value", f->name,
            "tool_choice: only \"auto\" and \"none\" are supported, for the model "
            "alone decides");
    }
    in->no_tools = strcmp(choice, "none") == 0;
    return RF_OK;
}

/* --- All of them ------------------------------------------------------------------------------ */

static const char nothing[] = "[null, {}, [], \"\"]";
static const field shared_fields[] = {
    {"model", .read = read_model},
    {"max_tokens", read_max_tokens, AT(ask.max_tokens), .most = 1 << 20},
    {"temperature", .read = read_number},
    {"top_p", .read = read_number},
    {"seed", read_integer, AT(seed), .most = INT64_C(9000000000000000)},
    {"n", read_integer, AT(ask.n), .least = 1, .most = RF_ASK_CHOICES},
    {"stream", read_bool, AT(ask.stream)},
    {"stream_options", .read = read_stream_options},
    {"stop", .read = read_stop},
    {"user", read_string, AT(ask.user)},
    {"decode", read_decode, AT(decode)},
    {"presence_penalty", read_neutral, .neutral = "[0]"},
    {"frequency_penalty", read_neutral, .neutral = "[0]"},
    {"logit_bias", read_neutral, .neutral = nothing},
    {0}};
static const field completion_fields[] = {
    {"prompt", read_value, AT(prompt)},
    {"echo", read_bool, AT(ask.echo)},
    {"logprobs", read_integer, AT(ask.n_likely), .most = RF_ASK_LIKELY},
    {"best_of", read_neutral, .neutral = "[1]"},
    {"suffix", read_neutral, .neutral = nothing},
    {0}};
static const field chat_fields[] = {
    {"messages", read_value, AT(messages)},
    {"max_completion_tokens", read_max_tokens, AT(ask.max_tokens), .most = 1 << 20},
    {"logprobs", read_bool, AT(has_logprobs)},
    {"top_logprobs", read_integer, AT(top_logprobs), .most = RF_ASK_LIKELY},
    {.name = "tools"},
    {"tool_choice", .read = read_tool_choice},
    {"response_format", read_neutral, .neutral = "[{\"type\": \"text\"}]"},
    {"modalities", read_neutral, .neutral = "[[\"text\"]]"},
    {"parallel_tool_calls", read_neutral, .neutral = "[true]"},
    {"store", read_neutral, .neutral = "[false]"},
    {"metadata", read_neutral, .neutral = nothing},
    {"service_tier", read_neutral, .neutral = "[\"auto\", \"default\"]"},
    {.name = "enable_thinking"},
    {.name = "chat_template_kwargs"},
    {0}};

/* The field of this name; NULL: there is none, and `nearest` knows what is like it. */
static const field *find_field(const field *fields, const char *name, rf_nearest *nearest)
{
    while (fields->name != NULL && strcmp(fields->name, name) != 0) {
        rf_nearest_try(nearest, fields->name, strlen(fields->name));
        fields++;
    }
    return fields->name != NULL ? fields : NULL;
}

/* Is there a setting decode.NAME? */
static bool is_setting(const char *name)
{
    static const char section[] = "decode.";
    const rf_config_key *key = rf_decode_keys;
    while (key->name != NULL && strcmp(key->name + strlen(section), name) != 0) {
        key++;
    }
    return key->name != NULL;
}

/* The body has a field that no request has. `nearest` knows what is like it. */
static int refuse_field(rf_ask_reader *in, const char *name, const json_t *value,
                        const rf_nearest *nearest)
{
    if (is_setting(name)) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        rf_problem_set(in->problem, 400, "unsupported_field", name,
                       "the field '%s' is not supported: it is a setting, and stands in decode: "
                       "\"decode\": {\"%s\": %.100s}",
                       name, name, text);
        free(text);
        return RF_ERR;
    }
    return nearest->name != NULL
               ? rf_problem_set(in->problem, 400, "unsupported_field", name,
                                "the field '%.200s' is not supported: did you mean '%s'?", name,
                                nearest->name)
               : rf_problem_set(in->problem, 400, "unsupported_field", name,
                                "the field '%.200s' is not supported: leave it out", name);
}

static int read_field(rf_ask_reader *in, const char *name, const json_t *value)
{
    const field *own = in->ask.kind == RF_ASK_CHAT ? chat_fields : completion_fields;
    rf_nearest nearest = rf_nearest_to(name, strlen(name));
    const field *f = find_field(shared_fields, name, &nearest);
    f = f != NULL ? f : find_field(own, name, &nearest);
    if (f != NULL) {
        return json_is_null(value) || f->read == NULL ? RF_OK : f->read(in, f, value);
    }
    return refuse_field(in, name, value, &nearest);
}

/* Of conversations "logprobs" says whether; of completions how many. */
static int settle_logprobs(rf_ask_reader *in)
{
    if (in->top_logprobs >= 0 && !in->has_logprobs) {
        return rf_problem_set(in->problem, 400, "invalid_value", "top_logprobs",
                              "top_logprobs goes with \"logprobs\": true");
    }
    if (in->has_logprobs) {
        in->ask.n_likely = in->top_logprobs < 0 ? 0 : in->top_logprobs;
    }
    if (in->ask.n_likely < 0) {
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
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)in->body, name, value)
    {
        RF_TRY(read_field(in, name, value));
    }
    return settle_logprobs(in);
}
