/* step.h: one optimizer step. */
#ifndef RF_TRAIN_STEP_H
#define RF_TRAIN_STEP_H

#include "train/run/dump.h"
#include "train/trainer.h"

typedef struct rf_step_result {
    rf_step_metrics
        line;           /* what the step knows of it: losses, norm, rate, counts, and what this rank
                             waited for rows and exchanged */
    double own_seconds; /* this rank's forward and backward passes; differs between ranks */
    const rf_loader_share *share; /* this rank's rows, until the next step */
    rf_verdict verdict;           /* of a step that is not taken nothing was changed */
} rf_step_result;

/* collective. Takes the next rows, and moves weights, moments and progress on by one step. The
 * result is the same on all ranks but for seconds. Allocates nothing.
 *   dump: where to put the step's data (run/dump.h); NULL: nowhere */
RF_MUST_CHECK int rf_step_run(rf_trainer *trainer, rf_step_result *out, rf_dump *dump,
                              rf_error *err);

#endif
