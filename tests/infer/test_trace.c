/* The record of a decoding, against what an observer sees of it. */
#include "infer/engine.h"
#include "infer/trace.h"
#include "infer/unit.h"
#include "tests/infer/infer_test.h"

#include <jansson.h>

enum { N_EVENTS = 400, LENGTH = 22 };

/* What each place was after each event, seen directly. */
typedef struct witness {
    rf_trace trace;
    int n_events;
    bool committed[N_EVENTS][LENGTH];
    int32_t token[N_EVENTS][LENGTH]; /* -1: undecided */
    int64_t round[N_EVENTS], forward[N_EVENTS];
    bool selected[N_EVENTS][LENGTH]; /* of slots */
    int64_t slot_size[N_EVENTS];
} witness;

static void watch(void *user, rf_event_kind kind, const rf_sequence *s)
{
    witness *w = user;
    cr_assert(w->n_events < N_EVENTS && s->n_tokens == LENGTH);
    for (int64_t i = 0; i < LENGTH; i++) {
        w->token[w->n_events][i] = s->token[i];
        w->committed[w->n_events][i] =
            s->slot[i / s->slot_size] == RF_SLOT_COMMITTED && s->token[i] >= 0;
    }
    for (int64_t e = 0; e < s->n_slots; e++) {
        w->selected[w->n_events][e] = s->slot[e] == RF_SLOT_SELECTED;
    }
    w->slot_size[w->n_events] = s->slot_size;
    w->round[w->n_events] = s->rounds;
    w->forward[w->n_events] = s->forwards;
    w->n_events++;
    rf_trace_observe(&w->trace, kind, s);
}

/* The text of one token of the byte tokenizer, as pictures have it. */
static void text_of(char text[256], const rf_tokenizer *tokenizer, int32_t token)
{
    rf_unit u;
    rf_unit_next(&u, tokenizer, (int32_t[]){token}, 1);
    memcpy(text, u.text, sizeof u.text);
}

/* Scores of a plan tell which slots were selected: those above the threshold, or else the best. */
static void check_scores(const json_t *event, const bool *selected, double threshold)
{
    const json_t *scores = json_object_get(event, "scores"), *pair;
    const bool is_plan = strcmp(json_string_value(json_object_get(event, "event")), "plan") == 0;
    double best = 0;
    size_t i;
    cr_assert_eq(is_plan, json_array_size(scores) > 0);
    json_array_foreach(scores, i, pair)
    {
        best = fmax(best, json_number_value(json_array_get(pair, 1)));
    }
    json_array_foreach(scores, i, pair)
    {
        const double score = json_number_value(json_array_get(pair, 1));
        const bool expected = best > threshold ? score > threshold : score >= best;
        cr_assert(score >= 0 && score <= 1 &&
                  selected[json_integer_value(json_array_get(pair, 0))] == expected);
    }
}

static void replay(const witness *w, const rf_tokenizer *tokenizer, int *seen)
{
    const char *state[LENGTH], *text[LENGTH];
    size_t k, c;
    const json_t *event, *change;
    for (int i = 0; i < LENGTH; i++) {
        state[i] = "masked";
        text[i] = "";
    }
    cr_assert(json_integer_value(json_object_get(w->trace.json, "places")) == LENGTH);
    cr_assert_eq((int)json_array_size(w->trace.event), w->n_events);
    json_array_foreach(w->trace.event, k, event)
    {
        check_scores(event, w->selected[k], 0.2);
        const json_t *size =
            json_object_get(event, "slot_size"); /* of a plan, where it is smaller */
        cr_assert((size != NULL) == (w->slot_size[k] < 4 && json_object_get(event, "scores")));
        cr_assert(size == NULL || json_integer_value(size) == w->slot_size[k]);
        seen[4] += size != NULL;
        json_array_foreach(json_object_get(event, "changes"), c, change)
        {
            json_int_t at = json_integer_value(json_array_get(change, 0));
            cr_assert(at >= 0 && at < LENGTH);
            state[at] = json_string_value(json_array_get(change, 1));
            text[at] = json_string_value(json_array_get(change, 2));
            seen[0] += strcmp(state[at], "draft") == 0;
            seen[1] += strcmp(state[at], "rejected") == 0;
            seen[2] += strcmp(state[at], "accepted") == 0;
            seen[3] += strcmp(state[at], "removed") == 0;
        }
        cr_assert(json_integer_value(json_object_get(event, "round")) == w->round[k] &&
                  json_integer_value(json_object_get(event, "forward")) == w->forward[k]);
        for (int i = 0; i < LENGTH; i++) {
            char own[256];
            cr_assert_eq(strcmp(state[i], "committed") == 0, w->committed[k][i]);
            if (w->token[k][i] >= 0) {
                text_of(own, tokenizer, w->token[k][i]);
                cr_assert(strcmp(state[i], "committed") == 0 || strcmp(state[i], "accepted") == 0);
                cr_assert_str_eq(text[i], own);
            }
        }
    }
}

Test(trace, replays_what_happened)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    int seen[5] = {0};
    for (uint64_t seed = 0; seed < 12; seed++) {
        rf_decode_options o = plain_options(&rf_decoder_refusion, LENGTH, 4);
        o.slot_least = seed < 6 ? 0 : 1;
        o.slot_score = seed < 6 ? RF_SLOT_SCORE_FIRST : RF_SLOT_SCORE_PRODUCT;
        rf_model *model = sharp_model(backend_named("ref64", ""), 1, seed, 1.2);
        rf_rng rng = RF_RNG_STREAM(5, RF_RNG_TEST, seed);
        rf_engine *engine = NULL;
        rf_answer answer;
        int32_t prompt[6];
        witness w = {.trace.scores = true};
        o.slot_threshold = 0.2;
        random_prompt(prompt, 6, &rng);
        TINY_MUST(rf_engine_new(&engine, model, tokenizer, &o, 6, 1, tiny_error()));
        const rf_request request = {.prompt = prompt, .n_prompt = 6, .observer = watch, .user = &w};
        TINY_MUST(rf_engine_run(engine, &answer, &request, 1, NULL, NULL, tiny_error()));
        replay(&w, tokenizer, seen);
        rf_trace_free(&w.trace);
        rf_answer_free(&answer);
        rf_engine_free(engine);
        rf_model_free(model);
    }
    rf_tokenizer_free(tokenizer);
    cr_assert(seen[0] > 0 && seen[1] > 0 && seen[2] > 0 && seen[3] > 0 && seen[4] > 0,
              "%d %d %d %d %d", seen[0], seen[1], seen[2], seen[3], seen[4]);
}
