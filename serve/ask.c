#include "serve/ask.h"

#include "common/base/alloc.h"
#include "data/objective.h"
#include "serve/ask_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void rf_ask_free(rf_ask *ask)
{
    for (int64_t i = 0; i < ask->n_prompts; i++) {
        rf_ids_free(&ask->prompt[i].ids);
    }
    for (int64_t i = 0; ask->stops != NULL && ask->stops[i] != NULL; i++) {
        free(ask->stops[i]);
    }
    free(ask->prompt);
    free(ask->stops);
    free(ask->user);
    *ask = (rf_ask){0};
}

bool rf_offer_judges(const rf_offer *offer, bool *masks)
{
    *masks = strcmp(offer->objective, rf_objective_refusion.name) == 0;
    return *masks || strcmp(offer->objective, rf_objective_ar.name) == 0;
}

/* --- JSON ------------------------------------------------------------------------------------- */

int rf_ask_json(json_t **out, const char *body, size_t bytes, rf_problem *problem)
{
    json_error_t where;
    *out = NULL;
    if (bytes == 0) {
        return rf_problem_set(problem, 400, "invalid_json", NULL,
                              "the body is empty: send a JSON object");
    }
    *out = json_loadb(body, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
    if (*out == NULL && json_error_code(&where) == json_error_null_character) {
        return rf_problem_set(problem, 400, "invalid_json", NULL,
                              "line %d, column %d: texts have no character U+0000 here: leave "
                              "\\u0000 out",
                              where.line, where.column);
    }
    if (*out == NULL) {
        return rf_problem_set(problem, 400, "invalid_json", NULL,
                              "the body is no JSON: line %d, column %d: %s", where.line,
                              where.column, where.text);
    }
    if (!json_is_object(*out)) {
        rf_problem_set(problem, 400, "invalid_json", NULL, "the body must be a JSON object, not %s",
                       rf_chat_json_kind(*out));
        json_decref(*out);
        *out = NULL;
        return RF_ERR;
    }
    return RF_OK;
}

/* --- Settings --------------------------------------------------------------------------------- */

/* Fields of OpenAI's that are settings decode.*. */
static const char *const own[] = {"temperature", "top_p", "seed"};
enum { N_OWN = sizeof own / sizeof *own };

/* The settings of the request, behind those of the command line; each "decode.key=value" is owned. */
typedef struct assignments {
    char **item;
    const char **param; /* the field that it is from */
    int n;
} assignments;

static void add_assignment(assignments *a, char *item, const char *param)
{
    a->item[a->n] = item;
    a->param[a->n++] = param;
}

/* A value of JSON in the form of the command line; NULL: it has none. Caller frees. */
static char *value_text(const json_t *value)
{
    if (json_is_string(value)) {
        return rf_alloc_string(json_string_value(value));
    }
    if (json_is_boolean(value)) {
        return rf_alloc_string(json_is_true(value) ? "true" : "false");
    }
    if (json_is_integer(value)) {
        return rf_alloc_format("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    }
    return json_is_real(value) ? rf_alloc_format("%.17g", json_real_value(value)) : NULL;
}

static int list_assignments(assignments *a, const rf_ask_reader *in)
{
    const char *key;
    json_t *value;
    for (int i = 0; i < in->offer->n_assignments; i++) {
        add_assignment(a, rf_alloc_string(in->offer->assignment[i]), NULL);
    }
    json_object_foreach((json_t *)(uintptr_t)in->decode, key, value)
    {
        char *text = value_text(value);
        if (text == NULL) {
            return rf_problem_set(in->problem, 400, "invalid_type", "decode",
                                  "decode.%.200s must be a number, a string, true or false, not %s",
                                  key, rf_chat_json_kind(value));
        }
        add_assignment(a, rf_alloc_format("decode.%s=%s", key, text), "decode");
        free(text);
    }
    for (int i = 0; i < N_OWN; i++) {
        value = json_object_get(in->body, own[i]);
        if (json_is_number(value)) {
            if (json_object_get(in->decode, own[i]) != NULL) {
                return rf_problem_set(in->problem, 400, "invalid_value", own[i],
                                      "%s and decode.%s are one: give one of them", own[i], own[i]);
            }
            char *text = value_text(value);
            add_assignment(a, rf_alloc_format("decode.%s=%s", own[i], text), own[i]);
            free(text);
        }
    }
    return RF_OK;
}

/* Errors of settings say where they come from; here it is not the command line. */
static const char *without_origin(const char *message)
{
    static const char origin[] = "command line: ";
    return strncmp(message, origin, strlen(origin)) == 0 ? message + strlen(origin) : message;
}

static int refuse_setting(rf_ask_reader *in, const char *param, const rf_error *err)
{
    return rf_problem_set(in->problem, 400, "invalid_value", param, "%s",
                          without_origin(err->message));
}

/* How long answers may become: max_tokens, or what the settings say. The canvas of a model of masked
 * diffusion, which it was trained on, is what the settings say: max_tokens only cuts the answer. */
static int settle_length(rf_ask_reader *in, rf_config *config, rf_error *err)
{
    enum { USUAL = 16 }; /* of OpenAI's completions */
    rf_ask *ask = &in->ask;
    const int64_t length = rf_config_int(config, "decode.gen_length");
    const rf_decoder *kind = rf_decoder_find(rf_config_string(config, "decode.kind"));
    const bool is_said = json_object_get(in->decode, "gen_length") != NULL;
    const bool has_canvas = kind->objective == rf_decoder_mdm.objective;
    char assignment[64];
    if (!in->has_max_tokens) {
        ask->max_tokens = ask->kind == RF_ASK_CHAT || is_said ? length : USUAL;
    }
    if (ask->max_tokens < 1 || has_canvas || (is_said && ask->max_tokens <= length)) {
        return RF_OK;
    }
    snprintf(assignment, sizeof assignment, "decode.gen_length=%" PRId64, ask->max_tokens);
    return rf_config_set(config, assignment, err);
}

static bool is_assigned(const rf_offer *offer, const char *key)
{
    const size_t n = strlen(key);
    for (int i = 0; i < offer->n_assignments; i++) {
        if (strncmp(offer->assignment[i], key, n) == 0 && offer->assignment[i][n] == '=') {
            return true;
        }
    }
    return false;
}

/* Who asks for samples wants others each time, unless a seed is named, here or on the command line. */
static void settle_seed(const rf_ask_reader *in, rf_decode_options *o)
{
    uint64_t seed;
    const bool is_said = in->seed >= 0 || json_object_get(in->decode, "seed") != NULL ||
                         is_assigned(in->offer, "decode.seed");
    if (o->temperature > 0 && !is_said && getrandom(&seed, sizeof seed, 0) == sizeof seed) {
        o->seed = seed >> 16;
    }
}

static int read_options(rf_ask_reader *in)
{
    const size_t most = (size_t)in->offer->n_assignments + json_object_size(in->decode) + N_OWN;
    assignments a = {.item = rf_alloc(most, sizeof *a.item),
                     .param = rf_alloc(most, sizeof *a.param)};
    rf_config *config = NULL;
    rf_error err = {0};
    int rc;
    RF_TRY_OUT(list_assignments(&a, in));
    rc = rf_loaded_settings(&config, in->offer->loaded, NULL, 0, &err);
    for (int i = 0; i < a.n && rc == RF_OK; i++) {
        rc = rf_config_set(config, a.item[i], &err);
        rc = rc != RF_OK ? refuse_setting(in, a.param[i], &err) : RF_OK;
    }
    RF_TRY_OUT(rc);
    if (settle_length(in, config, &err) != RF_OK ||
        rf_decode_options_from_config(&in->ask.options, config, &err) != RF_OK) {
        rc = refuse_setting(in, NULL, &err);
    }
    if (in->ask.max_tokens > in->ask.options.gen_length) { /* a canvas has no more */
        in->ask.max_tokens = in->ask.options.gen_length;
    }
    settle_seed(in, &in->ask.options);
out:
    rf_free_strings(a.item, a.n);
    free(a.param);
    rf_config_free(config);
    return rc;
}

/* --- All -------------------------------------------------------------------------------------- */

int rf_ask_read(rf_ask *out, rf_ask_kind kind, const char *body, size_t bytes,
                const rf_offer *offer, rf_problem *problem)
{
    json_t *json = NULL;
    int rc;
    rf_ask_reader in = {.ask = {.kind = kind, .n = 1, .n_likely = -1},
                        .offer = offer,
                        .problem = problem,
                        .seed = -1,
                        .top_logprobs = -1};
    RF_TRY_OUT(rf_ask_json(&json, body, bytes, problem));
    in.body = json;
    RF_TRY_OUT(rf_ask_read_fields(&in));
    RF_TRY_OUT(read_options(&in));
    RF_TRY_OUT(rf_ask_read_prompts(&in));
out:
    *out = in.ask;
    json_decref(json);
    return rc;
}
