/* run_folder.h: the folder of a run: what it goes on from, and what it keeps. */
#ifndef RF_TRAIN_RUN_RUN_FOLDER_H
#define RF_TRAIN_RUN_RUN_FOLDER_H

#include "common/base/config/config.h"
#include "common/base/file.h"
#include "common/store/checkpoint.h"
#include "train/run/metrics.h"

/* How to begin. */
typedef enum rf_resume {
    RF_RESUME_NO,   /* a run folder with checkpoints is an error */
    RF_RESUME_AUTO, /* from the newest checkpoint that verifies; an empty folder begins */
    RF_RESUME_PATH  /* from this file, or the newest in this folder */
} rf_resume;

typedef struct rf_run {
    rf_dist *dist;              /* not owned */
    const char *folder;         /* log.dir; not owned */
    int64_t keep;               /* checkpoint.keep */
    bool keeps_best;            /* checkpoint.best */
    bool tensorboard;           /* log.tensorboard */
    char resume[RF_PATH_BYTES]; /* the checkpoint it goes on from, "" : none */
    char best[64];              /* name of the best checkpoint in the folder, "" : none */
    int64_t saved_step;         /* of the newest checkpoint; -1: none */
    rf_metrics *metrics;        /* rank 0 */
    int lock;                   /* rank 0: descriptor of the locked folder; -1: none */
} rf_run;

/* collective. Finds what to go on from: sets run->resume. Refuses a folder that holds checkpoints
 * where it may not touch them (RF_ERR_USAGE). `path` only with RF_RESUME_PATH. Changes nothing on
 * the file system. Caller ends with rf_run_close, also after an error. */
RF_MUST_CHECK int rf_run_find(rf_run *run, rf_resume resume, const char *path, rf_error *err);
/* local. Could rf_run_begin make and write the folder? Changes nothing on the file system. */
RF_MUST_CHECK int rf_run_check(const rf_run *run, rf_error *err);
/* collective. Makes the folder, which all ranks must see, writes config.yaml, opens metrics.jsonl behind progress->step.
 * Checkpoints newer than the one to go on from did not verify: they are renamed to
 * "<name>.damaged"; `latest` names it from now on. */
RF_MUST_CHECK int rf_run_begin(rf_run *run, const rf_config *config, const rf_progress *progress,
                               rf_error *err);
/* collective. Saves a checkpoint of info->progress.step, unless there is one already; is_best: the
 * validation loss has never been lower. Arguments as rf_checkpoint_save has them. */
RF_MUST_CHECK int rf_run_save(rf_run *run, rf_model *model, const void *adam_m, const void *adam_v,
                              const rf_checkpoint_info *info, bool is_best, rf_error *err);
void rf_run_close(rf_run *run); /* local */

#endif
