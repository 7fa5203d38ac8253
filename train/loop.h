/* loop.h: step after step, and what is due between them. */
#ifndef RF_TRAIN_LOOP_H
#define RF_TRAIN_LOOP_H

#include "train/trainer.h"

/* collective. After rf_trainer_start: trains to the last step, with validations, samples and
 * checkpoints. RF_ERR_STOPPED: stopped on request after a checkpoint; RF_ERR_DIVERGED: too many
 * non-finite steps in a row. */
RF_MUST_CHECK int rf_loop_run(rf_trainer *trainer, rf_error *err);

#endif
