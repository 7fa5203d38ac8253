/* step.h: one optimizer step. */
#ifndef RF_TRAIN_STEP_H
#define RF_TRAIN_STEP_H

#include "train/run/dump.h"
#include "train/trainer.h"

typedef struct rf_step_result {
    double loss;                    /* the objective: sum of weight x cross-entropy */
    double part_loss[RF_MAX_PARTS]; /* means over the targets of each part; 0 without */
    double grad_norm, lr;
    rf_counts counts;          /* over all ranks */
    double loader_seconds;     /* this rank waited for rows */
    double own_seconds;        /* this rank's forward and backward passes; differs between ranks */
    rf_exchange_cost exchange; /* this rank's, of this step */
    const rf_loader_share *share; /* this rank's rows, until the next step */
    rf_verdict verdict;           /* of a step that is not taken nothing was changed */
} rf_step_result;

/* collective. Takes the next rows, and moves weights, moments and progress on by one step. The
 * result is the same on all ranks but for seconds. Allocates nothing.
 *   dump: where to put the step's data (run/dump.h); NULL: nowhere */
RF_MUST_CHECK int rf_step_run(rf_trainer *trainer, rf_step_result *out, rf_dump *dump,
                              rf_error *err);

#endif
