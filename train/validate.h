/* validate.h: the loss on held-out data. */
#ifndef RF_TRAIN_VALIDATE_H
#define RF_TRAIN_VALIDATE_H

#include "train/leaves.h"
#include "train/run/watchdog.h"
#include "train/sources.h"

typedef struct rf_validation {
    double loss;                    /* the objective, with the denominators of all rows at once */
    double part_loss[RF_MAX_PARTS]; /* means over the targets of each part */
    rf_counts counts;
    double seconds;
    bool stopped; /* a request to stop came: the figures mean nothing */
} rf_validation;

/* What is validated; nothing is owned. */
typedef struct rf_valid_job {
    const rf_sources *sources;
    const rf_objective *objective;
    rf_loader_settings loader; /* of training */
    int64_t most_rows;         /* log.valid_rows; 0: all */
} rf_valid_job;

/* local. Does data.valid have a row to run over? */
RF_MUST_CHECK int rf_validate_check(const rf_sources *sources, const rf_objective *objective,
                                    rf_error *err);

/* collective. Runs over data.valid once, or its first rows, with the same noise each time (seed 0,
 * epoch 0, whatever train.seed), so that figures of one run and of several compare. The result has
 * the same bits on any number of ranks that train.reduce=exact allows. step: for the watchdog. */
RF_MUST_CHECK int rf_validate_run(rf_validation *out, const rf_valid_job *job, rf_leaves *leaves,
                                  rf_watchdog *watchdog, int64_t step, rf_error *err);

#endif
