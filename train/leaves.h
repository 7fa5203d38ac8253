/* leaves.h: how a rank runs its leaves of a step, in training and in validation. */
#ifndef RF_TRAIN_LEAVES_H
#define RF_TRAIN_LEAVES_H

#include "common/model/model.h"
#include "data/loader.h"
#include "train/math/gather.h"
#include "train/math/reduce.h"

/* What is summed of a leaf's losses: from RF_SUM_WEIGHTED on weight x loss of the targets of each
 * part, from RF_SUM_PLAIN on their losses without weight. */
enum { RF_SUM_WEIGHTED = 0, RF_SUM_PLAIN = RF_MAX_PARTS, RF_N_SUMS = 2 * RF_MAX_PARTS };
_Static_assert((int)RF_N_SUMS == (int)RF_REDUCE_LOSSES, "one slot for each sum");

typedef struct rf_leaves {
    rf_dist *dist; /* not owned, nor are model, reduce and gather */
    rf_model *model;
    rf_reduce *reduce;
    rf_gather *gather;
    rf_acts *acts;
    rf_backward *backward;
    int64_t places; /* of a leaf */
    void *loss;     /* [reduce->n_leaves, places] class statistic: fetched once a step */
    double *host;   /* the same on the host */
    double *sums;   /* [reduce->n_leaves, RF_N_SUMS] */
} rf_leaves;

/* local. Bytes of what keeps the losses of a step. */
size_t rf_leaves_loss_bytes(const rf_backend *backend, int64_t n_leaves, int64_t places);
/* local. Takes the memory for leaves of `places`. Caller frees, also after an error. */
RF_MUST_CHECK int rf_leaves_new(rf_leaves *out, rf_dist *dist, rf_model *model, rf_reduce *reduce,
                                rf_gather *gather, int64_t places, rf_recompute recompute,
                                rf_error *err);
void rf_leaves_free(rf_leaves *leaves); /* local; a zeroed struct is fine */

/* collective. Forward and backward pass of all leaves of all ranks: sum [RF_N_SUMS] sets, and the
 * gradient is rf_reduce_gradient. Weights are final. step: of the dropout; *seconds: what this rank
 * spent on its own. A rank that fails where others wait for it in the middle of a pass ends the job. */
RF_MUST_CHECK int rf_leaves_train(rf_leaves *leaves, const rf_loader_share *share, int64_t step,
                                  double *sum, double *seconds, rf_error *err);
/* collective. Forward pass alone. */
RF_MUST_CHECK int rf_leaves_valid(rf_leaves *leaves, const rf_loader_share *share, double *sum,
                                  rf_error *err);
/* local. part_loss [RF_MAX_PARTS] sets: the mean loss of each part's targets, 0 without; sum
 * [RF_N_SUMS] and counts are of the same rows. */
void rf_leaves_part_losses(double *part_loss, const double *sum, const rf_counts *counts);
/* collective. The counts of all ranks together. */
RF_MUST_CHECK int rf_leaves_sum_counts(rf_dist *dist, rf_counts *counts, rf_error *err);

#endif
