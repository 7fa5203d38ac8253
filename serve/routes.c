/* routes.c: what each path answers. */
#include "serve/http_private.h"

#include "common/base/alloc.h"
#include "infer/values.h"
#include "serve/page.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <jansson.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* --- Small answers ---------------------------------------------------------------------------- */

static int answer_page(rf_visit *v)
{
    v->text = rf_page_text();
    v->type = "text/html; charset=utf-8";
    v->is_page = true;
    return RF_OK;
}

static int answer_health(rf_visit *v)
{
    if (rf_desk_is_closed(v->http->desk)) {
        return rf_problem_set(&v->problem, 503, "shutting_down", NULL,
                              "the server is shutting down");
    }
    rf_visit_say(v, json_pack("{s:s}", "status", "ok"));
    return RF_OK;
}

static int answer_metrics(rf_visit *v)
{
    v->text = rf_desk_metrics(v->http->desk);
    v->type = "text/plain; version=0.0.4; charset=utf-8";
    return RF_OK;
}

/* --- The model -------------------------------------------------------------------------------- */

#define COMMA             ,
#define ADDRESS(id, name) &rf_decoder_##id
static const rf_decoder *const decoders[] = {RF_DECODERS(ADDRESS, COMMA)};

/* Each decoder, the settings that it does not read, and whether the model was trained for it. */
static json_t *decoders_json(const rf_offer *offer)
{
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) {
        json_t *ignores = json_array();
        for (const rf_config_key *key = rf_decode_keys; key->name != NULL; key++) {
            const char *name = key->name + strlen("decode.");
            if (!rf_decoder_reads(decoders[i], name)) {
                json_array_append_new(ignores, json_string(name));
            }
        }
        json_array_append_new(list,
                              json_pack("{s:s, s:o, s:b}", "name", rf_decoder_name(decoders[i]),
                                        "ignores", ignores, "fits",
                                        strcmp(decoders[i]->objective, offer->objective) == 0));
    }
    return list;
}

/* The settings of requests that say nothing. NULL: they do not go together, which main has checked. */
static json_t *defaults_json(const rf_offer *offer)
{
    rf_config *config = NULL;
    json_t *object = json_object();
    RF_ASSERT(rf_loaded_settings(&config, offer->loaded, offer->assignment, offer->n_assignments,
                                 NULL) == RF_OK);
    for (const rf_config_key *key = rf_decode_keys; key->name != NULL; key++) {
        json_object_set_new(object, key->name + strlen("decode."), rf_value_json(config, key));
    }
    rf_config_free(config);
    return object;
}

static json_t *model_json(const rf_offer *offer)
{
    json_t *defaults = defaults_json(offer);
    json_t *more = json_pack("{s:s, s:b, s:o, s:O, s:O, s:I}", "objective", offer->objective,
                             "chat_template", 1, "decoders", decoders_json(offer), "defaults",
                             defaults, "slot_size", json_object_get(defaults, "slot_size"),
                             "context", (json_int_t)offer->size.positions);
    json_decref(defaults);
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", offer->name, "object", "model", "created",
                     (json_int_t)offer->created, "owned_by", "refusion", "refusion", more);
}

static int answer_models(rf_visit *v)
{
    rf_visit_say(v,
                 json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(v->http->offer)));
    return RF_OK;
}

static int answer_model(rf_visit *v)
{
    RF_TRY(rf_ask_model(v->name, v->http->offer, &v->problem));
    rf_visit_say(v, model_json(v->http->offer));
    return RF_OK;
}

/* --- The tokenizer ---------------------------------------------------------------------------- */

static const char *name_of(const rf_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 ? rf_tokenizer_special_name(tokenizer, id) : NULL;
}

/* The chat template, for clients who render conversations themselves; null where there is none. The
 * caller releases it. */
static json_t *template_json(const rf_tokenizer *tokenizer)
{
    size_t bytes;
    const char *text = rf_tokenizer_text(tokenizer, &bytes);
    json_t *stored = json_loadb(text, bytes, 0, NULL);
    const char *source = json_string_value(json_object_get(stored, "template"));
    const char *form = source != NULL ? rf_chat_form(source) : NULL;
    json_t *json = form != NULL                                     ? json_string(form)
                   : source != NULL && strstr(source, "{%") != NULL ? json_string(source)
                                                                    : json_null();
    json_decref(stored);
    return json;
}

static int answer_tokenizer_info(rf_visit *v)
{
    const rf_tokenizer *tokenizer = v->http->offer->loaded->info.tokenizer;
    const rf_specials *special = rf_tokenizer_specials(tokenizer);
    rf_visit_say(v, json_pack("{s:s?, s:s?, s:s?, s:n, s:I, s:s, s:o}", "eos_token",
                              special->n_eos > 0 ? name_of(tokenizer, special->eos[0]) : NULL,
                              "bos_token", name_of(tokenizer, special->begin), "mask_token",
                              name_of(tokenizer, special->mask), "pad_token", "vocab_size",
                              (json_int_t)rf_tokenizer_size(tokenizer), "chat_form",
                              rf_tokenizer_form(tokenizer), "chat_template",
                              template_json(tokenizer)));
    return RF_OK;
}

/* A text that is the name of a special token and nothing else is that token: clients ask so for its id. */
static int32_t find_special(const rf_tokenizer *tokenizer, const char *text)
{
    for (int32_t id = 0; id < rf_tokenizer_size(tokenizer); id++) {
        const char *name = rf_tokenizer_special_name(tokenizer, id);
        if (name != NULL && strcmp(name, text) == 0) {
            return id;
        }
    }
    return -1;
}

static int tokenize(rf_ids *ids, const rf_tokenizer *tokenizer, const json_t *body,
                    rf_problem *problem)
{
    const json_t *prompt = json_object_get(body, "prompt");
    const char *key;
    json_t *value;
    rf_error err = {0};
    json_object_foreach((json_t *)(uintptr_t)body, key, value)
    {
        if (strcmp(key, "prompt") != 0 && strcmp(key, "add_special_tokens") != 0 &&
            strcmp(key, "model") != 0) {
            return rf_problem_set(problem, 400, "unsupported_field", key,
                                  "the field '%.200s' is not supported: there are prompt and "
                                  "add_special_tokens",
                                  key);
        }
    }
    if (!json_is_string(prompt)) {
        return rf_problem_set(problem, 400, "invalid_type", "prompt", "prompt must be a string");
    }
    const int32_t id = find_special(tokenizer, json_string_value(prompt));
    if (json_is_true(json_object_get(body, "add_special_tokens"))) {
        rf_ids_push(ids, rf_tokenizer_specials(tokenizer)->begin);
    }
    if (id >= 0) {
        rf_ids_push(ids, id);
    } else if (rf_tokenizer_encode(tokenizer, ids, json_string_value(prompt),
                                   json_string_length(prompt), &err) != RF_OK) {
        return rf_problem_set(problem, 400, "invalid_value", "prompt", "prompt: %s", err.message);
    }
    return RF_OK;
}

static int answer_tokenize(rf_visit *v)
{
    json_t *body = NULL;
    rf_ids ids = {0};
    int rc;
    RF_TRY_OUT(rf_ask_json(&body, v->body.data, v->body.bytes, &v->problem));
    RF_TRY_OUT(tokenize(&ids, v->http->offer->loaded->info.tokenizer, body, &v->problem));
    rf_visit_say(v, json_pack("{s:I, s:I, s:o}", "count", (json_int_t)ids.n, "max_model_len",
                              (json_int_t)v->http->offer->size.positions, "tokens",
                              rf_ids_json(ids.id, ids.n)));
out:
    rf_ids_free(&ids);
    json_decref(body);
    return rc;
}

static int answer_detokenize(rf_visit *v)
{
    const rf_tokenizer *tokenizer = v->http->offer->loaded->info.tokenizer;
    json_t *body = NULL;
    rf_ids ids = {0};
    int rc;
    RF_TRY_OUT(rf_ask_json(&body, v->body.data, v->body.bytes, &v->problem));
    const json_t *tokens = json_object_get(body, "tokens");
    if (!json_is_array(tokens)) {
        RF_TRY_OUT(rf_problem_set(&v->problem, 400, "invalid_type", "tokens",
                                  "tokens must be a list of token ids"));
    }
    RF_TRY_OUT(rf_ask_ids(&ids, tokens, tokenizer, "tokens", &v->problem));
    size_t bytes;
    char *text = rf_tokenizer_decode(tokenizer, &bytes, ids.id, ids.n, false);
    rf_visit_say(v, json_pack("{s:s%}", "prompt", text, bytes));
    free(text);
out:
    rf_ids_free(&ids);
    json_decref(body);
    return rc;
}

/* --- Completions ------------------------------------------------------------------------------ */

/* Who takes turns: the same key and address. Not the user, which is whatever a request says. Caller
 * frees. */
static char *client_of(const rf_visit *v)
{
    char host[64] = "";
    const struct sockaddr *address =
        MHD_get_connection_info(v->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;
    const socklen_t bytes =
        address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    (void)getnameinfo(address, bytes, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    return rf_alloc_format("%d %s", v->who, host);
}

static int answer_ask(rf_visit *v)
{
    rf_ask ask;
    const int rc =
        rf_ask_read(&ask, v->route->kind, v->body.data, v->body.bytes, v->http->offer, &v->problem);
    if (rc == RF_OK) {
        char *client = client_of(v);
        v->order = rf_desk_order_new(&ask, v->http->offer, client);
        free(client);
    }
    rf_ask_free(&ask);
    return rc;
}

/* --- All -------------------------------------------------------------------------------------- */

static const rf_route routes[] = {
    {"/", "GET", true, .answer = answer_page},
    {"/health", "GET", true, .answer = answer_health},
    {"/metrics", "GET", false, .answer = answer_metrics},
    {"/v1/models", "GET", false, .answer = answer_models},
    {"/v1/models/", "GET", false, .answer = answer_model},
    {"/v1/completions", "POST", false, answer_ask, RF_ASK_COMPLETION},
    {"/v1/chat/completions", "POST", false, answer_ask, RF_ASK_CHAT},
    {"/tokenize", "POST", false, .answer = answer_tokenize},
    {"/detokenize", "POST", false, .answer = answer_detokenize},
    {"/tokenizer_info", "GET", false, .answer = answer_tokenizer_info},
};

static bool leads(const rf_route *r, const char *path)
{
    const size_t n = strlen(r->path);
    return strcmp(r->path, path) == 0
               ? n == 1 || path[n - 1] != '/'
               : n > 1 && r->path[n - 1] == '/' && strncmp(r->path, path, n) == 0;
}

const rf_route *rf_route_find(const char *path, const char *method, const char **allow)
{
    *allow = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const rf_route *r = &routes[i];
        if (!leads(r, path)) {
            continue;
        }
        if (strcmp(r->method, method) == 0 ||
            (strcmp(r->method, "GET") == 0 && strcmp(method, "HEAD") == 0)) {
            return r;
        }
        *allow = r->method;
    }
    return NULL;
}
