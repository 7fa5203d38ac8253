/* run_folder.h: the folder of a run: what it goes on from, and what it keeps. */
#ifndef RF_TRAIN_RUN_FOLDER_H
#define RF_TRAIN_RUN_FOLDER_H

#include "train/trainer.h"

/* collective. Finds what to go on from: sets trainer->resume. Refuses a folder that holds
 * checkpoints where it may not touch them (RF_ERR_USAGE). Changes nothing on the file system. */
RF_MUST_CHECK int rf_run_folder_find(rf_trainer *trainer, rf_resume resume, const char *path,
                                     rf_error *err);
/* local. Checks that the checkpoint's run is this run: configuration (but for keys that may
 * change), corpora, seed; sets trainer->progress. */
RF_MUST_CHECK int rf_run_folder_check(rf_trainer *trainer, rf_error *err);
/* collective. Makes the folder, writes config.yaml, opens metrics.jsonl. Checkpoints newer than the
 * one to go on from did not verify: they are renamed to "<name>.damaged". */
RF_MUST_CHECK int rf_run_folder_begin(rf_trainer *trainer, rf_error *err);
/* collective. Saves a checkpoint of this step, unless there is one already; is_best: the
 * validation loss has never been lower. */
RF_MUST_CHECK int rf_run_folder_save(rf_trainer *trainer, bool is_best, rf_error *err);

#endif
