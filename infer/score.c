#include "infer/score.h"

#include <stdlib.h>
#include <string.h>

struct rf_scorer {
    rf_model *model;
    int32_t mask;
    int64_t slot_size, max_tokens;
    rf_acts *acts;
    rf_batch batch;
    int32_t *place;  /* [max_tokens] */
    double *logprob; /* [max_tokens] */
};

/* The clean row and, for `refusion`, a mask for each slot: at most one for each response token. */
rf_model_limits rf_scorer_limits(int64_t slot_size, int64_t max_tokens)
{
    int64_t masks = slot_size > 0 ? (max_tokens + slot_size - 1) / slot_size : 0;
    rf_model_limits limits = {
        .places = max_tokens + masks, .keys = max_tokens + masks, .positions = max_tokens};
    return limits;
}

int rf_scorer_new(rf_scorer **out, rf_model *model, int32_t mask, int64_t slot_size,
                  int64_t max_tokens, rf_error *err)
{
    rf_model_limits need = rf_scorer_limits(slot_size, max_tokens);
    rf_scorer *s;
    int code;

    *out = NULL;
    if (need.positions > model->n_positions || need.places > model->ctx->limits.places ||
        need.keys > model->ctx->limits.keys) {
        return rf_error_set(err, RF_ERR,
                            "scoring samples of %lld tokens needs %lld places and %lld positions; "
                            "the model was made for %lld and %lld: use a shorter limit",
                            (long long)max_tokens, (long long)need.places,
                            (long long)need.positions, (long long)model->ctx->limits.places,
                            (long long)model->n_positions);
    }
    if (!(s = calloc(1, sizeof(*s)))) {
        return rf_error_set(err, RF_ERR, "out of memory for a scorer");
    }
    *s =
        (rf_scorer){.model = model, .mask = mask, .slot_size = slot_size, .max_tokens = max_tokens};
    s->place = malloc((size_t)max_tokens * sizeof(*s->place));
    s->logprob = malloc((size_t)max_tokens * sizeof(*s->logprob));
    code = s->place && s->logprob ? rf_batch_new(&s->batch, need.places, err)
                                  : rf_error_set(err, RF_ERR, "out of memory for a scorer");
    if (code == RF_OK) {
        code = rf_acts_new(&s->acts, model, need.places, need.keys, false, RF_RECOMPUTE_NONE, err);
    }
    if (code != RF_OK) {
        rf_scorer_free(s);
        return code;
    }
    *out = s;
    return RF_OK;
}

void rf_scorer_free(rf_scorer *s)
{
    if (!s) {
        return;
    }
    rf_acts_free(s->acts, s->model);
    rf_batch_free(&s->batch);
    free(s->place);
    free(s->logprob);
    free(s);
}

int rf_scorer_run(rf_scorer *s, double *nats, double *logprob, const int32_t *token,
                  int64_t n_prompt, int64_t n_response, rf_error *err)
{
    int64_t n = n_prompt + n_response, S = s->slot_size;
    int code;

    if (n_prompt < 1 || n_response < 1 || n > s->max_tokens) {
        return rf_error_set(err, RF_ERR,
                            "cannot score a sample of %lld + %lld tokens: prompt and response need "
                            "one or more, %lld together at most",
                            (long long)n_prompt, (long long)n_response, (long long)s->max_tokens);
    }
    rf_batch_clear(&s->batch);
    for (int64_t i = 0; i < n; i++) {
        rf_batch_add(&s->batch, token[i], (int32_t)i, i, 0, i + 1, 0, 0);
    }
    for (int64_t i = 0; i < n_response; i++) {
        s->place[i] = (int32_t)(n_prompt + i - 1);
        if (S > 0 && i % S == 0) { /* the slot's mask sees what precedes the slot, and itself */
            int64_t at = n_prompt + i, end = s->batch.n + 1;
            s->place[i] = (int32_t)rf_batch_add(&s->batch, s->mask, (int32_t)at, end - 1, 0, at,
                                                end - 1, end);
        }
    }
    if ((code = rf_model_forward(s->model, s->acts, &s->batch, NULL, err)) != RF_OK ||
        (code = rf_model_logprob(s->model, s->acts, s->logprob, s->place, token + n_prompt,
                                 n_response, err)) != RF_OK) {
        return code;
    }
    *nats = 0;
    for (int64_t i = 0; i < n_response; i++) {
        *nats -= s->logprob[i];
    }
    if (logprob) {
        memcpy(logprob, s->logprob, (size_t)n_response * sizeof(*logprob));
    }
    return RF_OK;
}
