/* outputs.h: what a run writes, against what it reads. */
#ifndef RF_TRAIN_OUTPUTS_H
#define RF_TRAIN_OUTPUTS_H

#include "train/setup.h"

/* local. Neither debug.dump_step nor the run folder's own files go over what the run reads (RF_ERR_USAGE), and the
 * dump has a folder that can be written. Of a setup that has its sources and what it goes on from. */
RF_MUST_CHECK int rf_outputs_check(const rf_setup *setup, rf_error *err);

#endif
