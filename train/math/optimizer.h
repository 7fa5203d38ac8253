/* optimizer.h: AdamW over the trainable space.                                 all local */
#ifndef RF_TRAIN_MATH_OPTIMIZER_H
#define RF_TRAIN_MATH_OPTIMIZER_H

#include "common/base/arena.h"
#include "common/model/model.h"

typedef struct rf_optimizer_settings {
    double beta1, beta2, eps;
    double weight_decay; /* of tensors whose table entry says `decay` */
    double clip;         /* largest global norm; 0: no clipping */
} rf_optimizer_settings;

/* Adam's moments, and room for the norm; memory belongs to the arena they were taken from. */
typedef struct rf_optimizer {
    rf_optimizer_settings settings;
    void *m, *v; /* [table.n_elements] class master */
    void *sums;  /* [rf_sum_runs(table.n_elements) + 1] class sum */
} rf_optimizer;

/* Takes m, v and sums from the arena (arena.h: run twice). */
void rf_optimizer_layout(rf_optimizer *optimizer, rf_arena *arena, const rf_backend *backend,
                         int64_t n_elements);

/* Euclidean norm of the whole gradient [table.n_elements] (class master); not finite where any
 * element is not. Summed in an order that the number of elements alone decides (kernels.h:
 * sum_squares, sum_tree). */
double rf_optimizer_norm(const rf_optimizer *optimizer, rf_model *model, const void *gradient);
/* Factor that brings a gradient of this norm down to `clip`: min(1, clip/norm). */
double rf_optimizer_scale(const rf_optimizer_settings *settings, double norm);

/* One step of AdamW (kernels.h: adamw; arXiv:1711.05101) on the model's masters, then
 * rf_model_prepare.
 *   gradient [table.n_elements] reads; scale: multiplies it; lr: of this step
 *   update: which one this is, from 1 (bias correction) */
void rf_optimizer_step(rf_optimizer *optimizer, rf_model *model, const void *gradient, double scale,
                       double lr, int64_t update);

#endif
