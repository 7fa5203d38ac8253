/* The decoders of masked diffusion against the released code of LLaDA, Fast-dLLM and SDAR on the same
 * weights, in f64: all tokens of the response. The files and the program that makes them:
 * tests/golden/make_masked_golden.py. */
#include "data/objective.h"
#include "infer/engine.h"
#include "tests/infer/infer_test.h"
#include "tests/model/golden.h"

#include <jansson.h>

enum { MAX_PROMPT = 8, MAX_LENGTH = 24, N_PLACES = 2 * (MAX_PROMPT + MAX_LENGTH) };

static rf_model *read_model(void)
{
    rf_model *model = NULL;
    hid_t file = golden_open("tests/golden/masked.h5");
    rf_model_config config = golden_config(file);
    rf_model_limits limits = {.places = N_PLACES, .keys = N_PLACES};
    TINY_MUST(rf_model_new(&model, &config, backend_named("ref64", ""), 1, &limits, tiny_error()));
    golden_weights(model, file);
    H5Fclose(file);
    return model;
}

/* section.key=value for each member of an object. */
static void set_all(rf_config *config, const char *section, json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        char assignment[100], *text = json_dumps(value, JSON_ENCODE_ANY);
        snprintf(assignment, sizeof assignment, "%s.%s=%s", section, key,
                 json_is_string(value) ? json_string_value(value) : text);
        TINY_MUST(rf_config_set(config, assignment, tiny_error()));
        free(text);
    }
}

static rf_decode_options read_options(json_t *c)
{
    static const rf_config_key *const tables[] = {rf_decode_keys, rf_objective_keys, NULL};
    rf_config *config = rf_config_new(tables);
    rf_decode_options o;
    set_all(config, "decode", json_object_get(c, "decode"));
    set_all(config, "objective", json_object_get(c, "objective"));
    TINY_MUST(rf_config_set(config, "decode.stop=never", tiny_error())); /* as they do */
    TINY_MUST(rf_decode_options_from_config(&o, config, tiny_error()));
    rf_config_free(config);
    return o;
}

static void keep_tokens(void *user, rf_event_kind kind, const rf_sequence *s)
{
    if (kind == RF_EVENT_END) {
        memcpy(user, s->token, (size_t)s->n_tokens * sizeof *s->token);
    }
}

static void check_case(rf_model *model, const rf_tokenizer *tokenizer, json_t *c)
{
    rf_decode_options o = read_options(c);
    json_t *prompt = json_object_get(c, "prompt"), *expected = json_object_get(c, "tokens");
    int32_t token[MAX_LENGTH], ids[MAX_PROMPT];
    rf_engine *engine = NULL;
    rf_answer answer;
    cr_assert(json_array_size(prompt) <= MAX_PROMPT && o.gen_length <= MAX_LENGTH &&
              json_array_size(expected) == (size_t)o.gen_length);
    for (size_t i = 0; i < json_array_size(prompt); i++) {
        ids[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
    }
    const rf_request request = {.prompt = ids,
                                .n_prompt = (int64_t)json_array_size(prompt),
                                .index = (uint64_t)json_integer_value(json_object_get(c, "index")),
                                .observer = keep_tokens,
                                .user = token};
    TINY_MUST(rf_engine_new(&engine, model, tokenizer, &o, MAX_PROMPT, 1, tiny_error()));
    TINY_MUST(rf_engine_run(engine, &answer, &request, 1, NULL, NULL, tiny_error()));
    for (size_t i = 0; i < json_array_size(expected); i++) {
        char *text = json_dumps(c, 0);
        cr_assert(token[i] == json_integer_value(json_array_get(expected, i)),
                  "place %zu has token %d: %s", i, token[i], text);
        free(text);
    }
    rf_answer_free(&answer);
    rf_engine_free(engine);
}

Test(masked_golden, tokens_of_the_released_code)
{
    json_error_t error;
    json_t *cases = json_load_file("tests/golden/masked_vectors.json", 0, &error);
    cr_assert(cases != NULL && json_array_size(cases) > 100, "%s", error.text);
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = read_model();
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_case(model, tokenizer, json_array_get(cases, i));
    }
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
    json_decref(cases);
}
