/* step.h: one optimizer step. */
#ifndef RF_TRAIN_STEP_H
#define RF_TRAIN_STEP_H

#include "train/dump.h"
#include "train/trainer.h"

typedef struct rf_step_result {
    double loss;                    /* the objective: sum of weight x cross-entropy */
    double part_loss[RF_MAX_PARTS]; /* means over the targets of each part; 0 without */
    double grad_norm, lr;
    rf_counts counts;   /* over all ranks */
    double own_seconds; /* this rank's forward and backward passes; differs between ranks */
    bool skipped;       /* loss or gradient not finite: nothing was changed */
} rf_step_result;

/* collective. Takes the next rows, and moves weights, moments and progress on by one step. The
 * result is the same on all ranks but for own_seconds. Allocates nothing.
 *   dump: where to put the step's data (train/dump.h); NULL: nowhere */
RF_MUST_CHECK int rf_step_run(rf_trainer *trainer, rf_step_result *out, rf_dump *dump,
                              rf_error *err);

/* What is summed of a leaf's losses: from RF_SUM_WEIGHTED on weight x loss of the targets of each
 * part, from RF_SUM_PLAIN on their losses without weight. */
enum { RF_SUM_WEIGHTED = 0, RF_SUM_PLAIN = RF_MAX_PARTS, RF_N_SUMS = 2 * RF_MAX_PARTS };
_Static_assert((int)RF_N_SUMS == (int)RF_REDUCE_LOSSES, "one slot for each sum");

/* local. sum [RF_N_SUMS] sets; loss [batch->n] reads. */
void rf_step_losses(double *sum, const rf_batch *batch, const double *loss);
/* local. part_loss [RF_MAX_PARTS] sets: the mean loss of each part's targets, 0 without; sum
 * [RF_N_SUMS] and counts are of the same rows. */
void rf_step_part_losses(double *part_loss, const double *sum, const rf_counts *counts);

/* collective. The counts of all ranks together. */
RF_MUST_CHECK int rf_step_sum_counts(rf_trainer *trainer, rf_counts *counts, rf_error *err);

#endif
