/* saves.h: the checkpoints of a run, and what one that fails means.
 *
 * A save that may be written while training goes on (checkpoint.async) is begun after a step and moved on
 * after later ones: when all ranks have written, and when the file has its name. One that is due before
 * that waits for it. What nothing comes after is written while all wait.
 */
#ifndef RF_TRAIN_SAVES_H
#define RF_TRAIN_SAVES_H

#include "train/trainer.h"

/* collective. Ends the save under way, if there is one, and begins that of the step just done. With
 * checkpoint.on_full=warn one that fails is warned about and RF_OK, but for the last. */
RF_MUST_CHECK int rf_saves_begin(rf_trainer *trainer, const rf_save_of *of, rf_error *err);
/* collective. Ends the phase that the save under way is in (run_folder.h). Fine without one. Failures as
 * above. */
RF_MUST_CHECK int rf_saves_advance(rf_trainer *trainer, rf_error *err);
/* collective. Ends the save under way; waits for it. Fine without one. Failures as above. */
RF_MUST_CHECK int rf_saves_end(rf_trainer *trainer, rf_error *err);

/* local. The step of the checkpoint that a rollback would go back to now: the last multiple of
 * checkpoint.every before the steps skipped in a row; 0: there is none. */
int64_t rf_saves_rollback_step(const rf_trainer *trainer);

#endif
