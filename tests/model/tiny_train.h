/* tiny_train.h: a tiny model with everything that a backward pass takes. */
#ifndef TESTS_MODEL_TINY_TRAIN_H
#define TESTS_MODEL_TINY_TRAIN_H

#include "tests/model/tiny.h"
#include "train/math/backward.h"

typedef struct tiny_train {
    rf_model *model;
    rf_acts *acts; /* TINY_PACKED places */
    rf_backward *backward;
    void *gradient; /* [n_elements] class master */
} tiny_train;

/* Random weights. adaptation NULL: none. */
static inline tiny_train tiny_train_new(const rf_backend *backend, const rf_model_config *config,
                                        int n_threads, const rf_adaptation *adaptation,
                                        rf_recompute recompute)
{
    tiny_train r = {0};
    rf_model_limits limits = {
        .places = TINY_PACKED, .keys = TINY_PACKED, .backward = true, .adaptation = adaptation};
    TINY_MUST(rf_model_new(&r.model, config, backend, n_threads, &limits, tiny_error()));
    tiny_randomize(r.model, 1);
    TINY_MUST(
        rf_acts_new(&r.acts, r.model, TINY_PACKED, TINY_PACKED, true, recompute, tiny_error()));
    TINY_MUST(rf_backward_new(&r.backward, r.model, TINY_PACKED, tiny_error()));
    size_t bytes = rf_backend_bytes(r.model->ctx->backend, RF_MASTER, r.model->table.n_elements);
    TINY_MUST(rf_backend_alloc(&r.gradient, r.model->ctx, bytes, tiny_error()));
    return r;
}

static inline void tiny_train_free(tiny_train *r)
{
    rf_backend_free(r->model->ctx, r->gradient);
    rf_backward_free(r->backward);
    rf_acts_free(r->acts);
    rf_model_free(r->model);
}

#endif
