/* optimizer.h: AdamW over the trainable space, of which every rank updates what it holds (shard.h).
 * All local but the norm. */
#ifndef RF_TRAIN_MATH_OPTIMIZER_H
#define RF_TRAIN_MATH_OPTIMIZER_H

#include "common/base/arena.h"
#include "common/dist/dist.h"
#include "common/model/model.h"

typedef struct rf_optimizer_settings {
    double beta1, beta2, eps;
    double weight_decay; /* of tensors whose table entry says `decay` */
    double clip;         /* largest global norm; 0: no clipping */
} rf_optimizer_settings;

/* Adam's moments, and room for the norm; memory belongs to the arena they were taken from. */
typedef struct rf_optimizer {
    rf_optimizer_settings settings;
    const rf_shards *shards; /* not owned */
    void *m, *v;             /* [rf_shards_trained] class master */
    void *sums;              /* [runs + 1] class sum: rf_sum_runs(rf_shards_elements) */
    double *host;            /* [runs] sums on their way between ranks. Owned */
} rf_optimizer;

/* Caller frees. */
void rf_optimizer_new(rf_optimizer *out, const rf_optimizer_settings *settings,
                      const rf_shards *shards);
void rf_optimizer_free(rf_optimizer *optimizer); /* a zeroed struct is fine */
/* Takes m, v and sums from the arena (arena.h: run twice). */
void rf_optimizer_layout(rf_optimizer *optimizer, rf_arena *arena, const rf_backend *backend);

/* collective. Euclidean norm of the whole gradient, of which this rank has what it holds
 * [rf_shards_trained] (class master); not finite where any element is not. Summed in an order that
 * the number of elements alone decides (kernels.h: sum_squares, sum_tree). dist: of the ranks that
 * share it; not read where one holds all. */
RF_MUST_CHECK int rf_optimizer_norm(double *norm, const rf_optimizer *optimizer, rf_dist *dist,
                                    rf_ctx *ctx, const void *gradient, rf_error *err);
/* Factor that brings a gradient of this norm down to `clip`: min(1, clip/norm). */
double rf_optimizer_scale(const rf_optimizer_settings *settings, double norm);

/* One step of AdamW (kernels.h: adamw; arXiv:1711.05101) on what this rank holds of the model's
 * masters. Then they are to be renewed (gather.h, rf_model_prepare).
 *   gradient [rf_shards_trained] reads; scale: multiplies it; lr: of this step
 *   update: which one this is, from 1 (bias correction) */
void rf_optimizer_step(rf_optimizer *optimizer, rf_model *model, const void *gradient, double scale,
                       double lr, int64_t update);

#endif
