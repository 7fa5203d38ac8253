/* validate.h: the loss on held-out data. */
#ifndef RF_TRAIN_VALIDATE_H
#define RF_TRAIN_VALIDATE_H

#include "train/trainer.h"

typedef struct rf_validation {
    double loss;                    /* the objective, with the denominators of all rows at once */
    double part_loss[RF_MAX_PARTS]; /* means over the targets of each part; 0 without */
    rf_counts counts;
    double seconds;
    bool stopped; /* a request to stop came: the figures mean nothing */
} rf_validation;

/* local. Does data.valid have a row to run over? Fine without data.valid or log.valid_every. */
RF_MUST_CHECK int rf_validate_check(const rf_trainer *trainer, rf_error *err);

/* collective. Runs over data.valid once, or its first log.valid_rows rows, with the same noise each
 * time (seed 0, epoch 0, whatever train.seed), so that figures of one run and of several compare.
 * The result has the same bits on any number of ranks that train.reduce=exact allows. */
RF_MUST_CHECK int rf_validate_run(rf_trainer *trainer, rf_validation *out, rf_error *err);

#endif
