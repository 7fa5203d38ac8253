/* run_folder_private.h: what run_folder.c and saving.c share.                   all local */
#ifndef RF_TRAIN_RUN_RUN_FOLDER_PRIVATE_H
#define RF_TRAIN_RUN_RUN_FOLDER_PRIVATE_H

#include "train/run/run_folder.h"

/* Writes the name of a checkpoint into <folder>/best; "": removes that file. */
RF_MUST_CHECK int rf_run_write_best(const rf_run *run, const char *best, rf_error *err);

#endif
