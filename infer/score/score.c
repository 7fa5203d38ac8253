#include "infer/score/score.h"

#include "common/base/alloc.h"
#include "infer/score/score_private.h"

#include <inttypes.h>

static bool is_masked(const rf_scoring *how)
{
    return how->objective->kind == &rf_objective_mdm || how->objective->kind == &rf_objective_block;
}

/* `ar` has no slots. */
static int64_t slot_size(const rf_scoring *how)
{
    return how->objective->kind == &rf_objective_refusion ? how->slot_size : 0;
}

/* The clean row and, for `refusion`, a mask for each slot: at most one for each response token. Of
 * `mdm` and `block` many masks share a pass, so that the weights are read less often. */
rf_model_limits rf_scorer_limits(const rf_scoring *how, int64_t max_places)
{
    enum { SHARED = 1024 };
    int64_t S = slot_size(how), places = max_places;
    if (S > 0) {
        places += (max_places + S - 1) / S;
    }
    if (is_masked(how) && places < SHARED) {
        places = SHARED;
    }
    return (rf_model_limits){.places = places, .keys = places, .positions = max_places};
}

int rf_scorer_new(rf_scorer **out, rf_model *model, const rf_scoring *how, int64_t max_places,
                  rf_error *err)
{
    rf_model_limits need = rf_scorer_limits(how, max_places);
    size_t n = (size_t)need.places;
    int rc;
    *out = NULL;
    if (need.positions > model->n_positions) {
        return rf_error_set(err, RF_ERR,
                            "scoring samples of %" PRId64 " tokens: the model was made for %" PRId64
                            " positions",
                            max_places, model->n_positions);
    }
    rf_scorer *s = rf_alloc(1, sizeof *s);
    *s = (rf_scorer){.model = model, .how = *how, .max_places = max_places};
    s->place = rf_alloc(n, sizeof *s->place);
    s->target = rf_alloc(n, sizeof *s->target);
    s->logprob = rf_alloc(n, sizeof *s->logprob);
    s->weight = rf_alloc(n, sizeof *s->weight);
    s->loss = rf_alloc(n, sizeof *s->loss);
    s->masked = rf_alloc(n, sizeof *s->masked);
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
    RF_FREE(s->place, s->target, s->logprob, s->weight, s->loss, s->masked, s);
}

/* The chain rule, in one pass. */
static int run_chain(rf_scorer *s, double *nats, double *logprob, const int32_t *token,
                     int64_t n_prompt, int64_t n_response, rf_error *err)
{
    int64_t n = n_prompt + n_response, S = slot_size(&s->how);
    rf_batch_clear(&s->batch);
    for (int64_t i = 0; i < n; i++) {
        rf_batch_add(&s->batch, token[i], (int32_t)i, i, 0, i + 1, 0, 0);
    }
    for (int64_t i = 0; i < n_response; i++) {
        s->place[i] = (int32_t)(n_prompt + i - 1);
        if (S > 0 && i % S == 0) { /* the slot's mask sees what precedes the slot, and itself */
            int64_t at = n_prompt + i, end = s->batch.n + 1;
            s->place[i] = (int32_t)rf_batch_add(&s->batch, s->how.objective->mask, (int32_t)at,
                                                end - 1, 0, at, end - 1, end);
        }
    }
    const rf_model_question question = {
        .n = n_response, .place = s->place, .target = token + n_prompt, .logprob = s->logprob};
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

int rf_scorer_run(rf_scorer *s, double *nats, double *logprob, const int32_t *token,
                  int64_t n_prompt, int64_t n_response, rf_rng *rng, rf_error *err)
{
    int64_t n = n_prompt + n_response;
    if (n_prompt < 1 || n_response < 1 || n > s->max_places) {
        return rf_error_set(err, RF_ERR,
                            "cannot score a sample of %" PRId64 " + %" PRId64
                            " tokens: prompt and response need one or more, %" PRId64
                            " together at most",
                            n_prompt, n_response, s->max_places);
    }
    if (!is_masked(&s->how)) {
        return run_chain(s, nats, logprob, token, n_prompt, n_response, err);
    }
    RF_ASSERT(logprob == NULL);
    return rf_scorer_run_masked(s, nats, token, n_prompt, n_response, rng, err);
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
