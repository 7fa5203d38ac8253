/* dump.h: all data of one optimizer step in a file, for comparison with other implementations.
 *
 * The layout is in train/README.md. Everything is gathered on rank 0, which writes one HDF5 file
 * atomically. A debugging aid: it holds several copies of the weights in host memory.
 */
#ifndef RF_TRAIN_DUMP_H
#define RF_TRAIN_DUMP_H

#include "train/trainer.h"

typedef struct rf_dump rf_dump;

/* collective. A dump to be filled during the next step and closed behind it; *out is NULL where
 * debug.dump_step is "". Memory for all of it is taken here. Caller ends with rf_dump_close or
 * rf_dump_free. */
RF_MUST_CHECK int rf_dump_new(rf_dump **out, rf_trainer *trainer, rf_error *err);
void rf_dump_free(rf_dump *dump); /* local; NULL is fine */

/* Called by the step, in this order; with NULL they do nothing. local. */
void rf_dump_batch(rf_dump *dump, rf_trainer *trainer, const rf_share *share);
void rf_dump_gradient(rf_dump *dump, rf_trainer *trainer, const void *gradient, double loss,
                      double lr, double scale);
void rf_dump_after(rf_dump *dump, rf_trainer *trainer);

/* collective. Gathers and writes. NULL is fine. */
RF_MUST_CHECK int rf_dump_write(rf_dump *dump, rf_trainer *trainer, rf_error *err);

#endif
