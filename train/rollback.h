/* rollback.h: back to a checkpoint, past the rows that made the loss spike. */
#ifndef RF_TRAIN_ROLLBACK_H
#define RF_TRAIN_ROLLBACK_H

#include "train/trainer.h"

/* collective, after a step. Where train.spike_rollback steps have been skipped in a row: goes back to
 * that checkpoint, which is saved again with the rows left out, and takes later ones away. The same
 * for a run that was interrupted and one that was not. Without such a checkpoint a warning.
 * RF_ERR_DIVERGED: going back has not helped. */
RF_MUST_CHECK int rf_rollback_if_due(rf_trainer *trainer, rf_error *err);

#endif
