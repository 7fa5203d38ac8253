/* trained.h: which samples a step trained, for those who want to see it (debug.log_samples). */
#ifndef RF_TRAIN_TRAINED_H
#define RF_TRAIN_TRAINED_H

#include "train/step.h"

/* collective. With debug.log_samples: gathers the samples of the step just done from all ranks, and
 * writes them as a line of trained.jsonl (train/README.md). */
RF_MUST_CHECK int rf_trained_write(rf_trainer *trainer, const rf_step_result *result,
                                   rf_error *err);

#endif
