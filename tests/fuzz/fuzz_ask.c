/* Fuzz target of requests for completions: the first byte chooses which kind, and what the model was
 * trained for; the rest is the body. What is accepted fits the engine, what is refused says why, in
 * OpenAI's form. */
#include "common/base/utf8.h"
#include "serve/ask.h"
#include "tests/fuzz/fuzz.h"

#include <jansson.h>

static void check_accepted(const rf_ask *ask, const rf_offer *offer)
{
    const int64_t size = rf_tokenizer_size(offer->loaded->info.tokenizer);
    RF_ASSERT(ask->n_prompts >= 1 && ask->n >= 1 && ask->n_prompts * ask->n <= RF_ASK_CHOICES);
    RF_ASSERT(ask->max_tokens >= 0 && ask->n_likely <= RF_ASK_LIKELY);
    bool masks;
    RF_ASSERT(ask->n_likely < 0 || rf_offer_judges(offer, &masks));
    for (int64_t i = 0; i < ask->n_prompts; i++) {
        const rf_ids *ids = &ask->prompt[i].ids;
        rf_error err = {0};
        RF_ASSERT(ids->n >= 1);
        for (int64_t k = 0; k < ids->n; k++) {
            RF_ASSERT(ids->id[k] >= 0 && ids->id[k] < size);
        }
        RF_ASSERT(ids->n + ask->max_tokens <= offer->size.positions);
        if (ask->max_tokens > 0) {
            RF_ASSERT(ask->options.gen_length >= ask->max_tokens);
            fuzz_must(rf_engine_size_fits(&offer->size, &ask->options, ids->n, &err), &err);
        }
    }
    for (int64_t i = 0; ask->stops != NULL && ask->stops[i] != NULL; i++) {
        RF_ASSERT(i < RF_ASK_STOPS && ask->stops[i][0] != '\0');
    }
}

static void check_refused(const rf_problem *problem)
{
    size_t bad;
    RF_ASSERT(problem->status == 400 || problem->status == 404);
    RF_ASSERT(problem->message[0] != '\0' && strchr(problem->message, '\n') == NULL);
    RF_ASSERT(rf_utf8_is_valid(problem->message, strlen(problem->message), &bad));
    json_t *json = rf_problem_json(problem);
    RF_ASSERT(json != NULL);
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const objectives[] = {"refusion", "ar", "mdm", "block"};
    static char no_settings[] = "";
    static rf_loaded loaded = {.path = "model.h5"};
    rf_error err = {0};
    if (size < 1) {
        return 0;
    }
    if (loaded.info.tokenizer == NULL) {
        loaded.info.run_config = no_settings;
        fuzz_must(rf_tokenizer_load(&loaded.info.tokenizer, "byte", &err), &err);
    }
    const rf_offer offer = {.name = "model",
                            .loaded = &loaded,
                            .size = rf_engine_size_of_any(64, 2),
                            .objective = objectives[data[0] >> 1 & 3]};
    rf_ask ask;
    rf_problem problem = {0};
    const rf_ask_kind kind = data[0] % 2 == 0 ? RF_ASK_COMPLETION : RF_ASK_CHAT;
    if (rf_ask_read(&ask, kind, (const char *)data + 1, size - 1, &offer, &problem) == RF_OK) {
        check_accepted(&ask, &offer);
    } else {
        check_refused(&problem);
    }
    rf_ask_free(&ask);
    return 0;
}
