#include "infer/score.h"

#include "common/base/alloc.h"

#include <inttypes.h>
#include <stdlib.h>

struct rf_scorer {
    rf_model *model;
    int32_t mask;
    int64_t slot_size, max_tokens;
    rf_acts *acts;
    rf_batch batch;
    int32_t *row;    /* [max_tokens] batch places that predict the response's tokens */
    double *logprob; /* [max_tokens] */
    double *loss;    /* [places] */
};

/* The clean row and, for `refusion`, a mask for each slot: at most one for each response token. */
rf_model_limits rf_scorer_limits(int64_t slot_size, int64_t max_tokens)
{
    int64_t masks = slot_size > 0 ? (max_tokens + slot_size - 1) / slot_size : 0;
    return (rf_model_limits){
        .places = max_tokens + masks, .keys = max_tokens + masks, .positions = max_tokens};
}

int rf_scorer_new(rf_scorer **out, rf_model *model, int32_t mask, int64_t slot_size,
                  int64_t max_tokens, rf_error *err)
{
    rf_model_limits need = rf_scorer_limits(slot_size, max_tokens);
    int rc;

    *out = NULL;
    if (need.positions > model->n_positions) {
        return rf_error_set(err, RF_ERR,
                            "scoring samples of %" PRId64 " tokens: the model was made for %" PRId64
                            " positions",
                            max_tokens, model->n_positions);
    }
    rf_scorer *s = rf_alloc(1, sizeof *s);
    *s =
        (rf_scorer){.model = model, .mask = mask, .slot_size = slot_size, .max_tokens = max_tokens};
    s->row = rf_alloc((size_t)max_tokens, sizeof *s->row);
    s->logprob = rf_alloc((size_t)max_tokens, sizeof *s->logprob);
    s->loss = rf_alloc((size_t)need.places, sizeof *s->loss);
    RF_TRY_OUT(rf_batch_new(&s->batch, need.places, err));
    RF_TRY_OUT(rf_acts_new(&s->acts, model, need.places, need.keys, false, RF_RECOMPUTE_NONE, err));
    *out = s;
    return RF_OK;
out:
    rf_scorer_free(s);
    return rc;
}

void rf_scorer_free(rf_scorer *s)
{
    if (s == NULL) {
        return;
    }
    rf_acts_free(s->acts);
    rf_batch_free(&s->batch);
    free(s->row);
    free(s->logprob);
    free(s->loss);
    free(s);
}

int rf_scorer_run(rf_scorer *s, double *nats, double *logprob, const int32_t *token,
                  int64_t n_prompt, int64_t n_response, rf_error *err)
{
    int64_t n = n_prompt + n_response, S = s->slot_size;

    if (n_prompt < 1 || n_response < 1 || n > s->max_tokens) {
        return rf_error_set(err, RF_ERR,
                            "cannot score a sample of %" PRId64 " + %" PRId64
                            " tokens: prompt and response need one or more, %" PRId64
                            " together at most",
                            n_prompt, n_response, s->max_tokens);
    }
    rf_batch_clear(&s->batch);
    for (int64_t i = 0; i < n; i++) {
        rf_batch_add(&s->batch, token[i], (int32_t)i, i, 0, i + 1, 0, 0);
    }
    for (int64_t i = 0; i < n_response; i++) {
        s->row[i] = (int32_t)(n_prompt + i - 1);
        if (S > 0 && i % S == 0) { /* the slot's mask sees what precedes the slot, and itself */
            int64_t at = n_prompt + i, end = s->batch.n + 1;
            s->row[i] = (int32_t)rf_batch_add(&s->batch, s->mask, (int32_t)at, end - 1, 0, at,
                                              end - 1, end);
        }
    }
    const rf_model_question question = {
        .n = n_response, .place = s->row, .target = token + n_prompt, .logprob = s->logprob};
    RF_TRY(rf_model_forward(s->model, s->acts, &s->batch, NULL, err));
    RF_TRY(rf_model_query(s->model, s->acts, &question, err));
    *nats = 0;
    for (int64_t i = 0; i < n_response; i++) {
        *nats -= s->logprob[i];
        if (logprob != NULL) {
            logprob[i] = s->logprob[i];
        }
    }
    return RF_OK;
}

int rf_scorer_losses(rf_scorer *s, double *losses, rf_counts *counts, const rf_objective *objective,
                     const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng *rng,
                     rf_error *err)
{
    if (rf_objective_places(objective, n_prompt, n_response) > s->batch.capacity) {
        return rf_error_set(err, RF_ERR, "cannot measure the losses of %" PRId64 " tokens",
                            n_prompt + n_response);
    }
    rf_batch_clear(&s->batch);
    rf_objective_append(objective, &s->batch, counts, token, n_prompt, n_response, rng);
    RF_TRY(rf_model_forward(s->model, s->acts, &s->batch, NULL, err));
    RF_TRY(rf_model_losses(s->model, s->acts, s->loss, err));
    for (int64_t i = 0; i < s->batch.n; i++) {
        if (s->batch.part[i] != RF_PART_NONE) {
            losses[s->batch.part[i]] += s->loss[i];
        }
    }
    return RF_OK;
}
