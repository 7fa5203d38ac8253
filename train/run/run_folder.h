/* run_folder.h: the folder of a run: what it goes on from, and what it keeps. */
#ifndef RF_TRAIN_RUN_RUN_FOLDER_H
#define RF_TRAIN_RUN_RUN_FOLDER_H

#include "common/base/config/config.h"
#include "common/base/files/file.h"
#include "common/store/checkpoint.h"
#include "train/run/metrics.h"

/* How to begin. */
typedef enum rf_resume {
    RF_RESUME_NO,   /* a run folder with checkpoints is an error */
    RF_RESUME_AUTO, /* from the newest checkpoint that is not damaged; else as the others */
    RF_RESUME_PATH  /* from this file, or the newest in this folder */
} rf_resume;

typedef struct rf_run {
    rf_dist *dist;              /* not owned */
    const char *folder;         /* log.dir; not owned */
    rf_checkpoint_keep keep;    /* checkpoint.keep, keep_every; `best` is the one below */
    bool keeps_best;            /* checkpoint.best */
    bool tensorboard;           /* log.tensorboard */
    bool trained;               /* debug.log_samples */
    char resume[RF_PATH_BYTES]; /* the checkpoint it goes on from, "" : none */
    char best[64];              /* name of the best checkpoint in the folder, "" : none */
    int64_t saved_step;         /* of the newest checkpoint; -1: none */
    rf_metrics *metrics;        /* rank 0 */
    rf_checkpoint_buffer copy;  /* of the last save beside training */
    struct rf_save *save;       /* under way, on all ranks; NULL: none (saving.c) */
    int lock;                   /* rank 0: descriptor of the locked folder; -1: none */
} rf_run;

/* collective. Finds what to go on from: sets run->resume. Refuses a folder that holds checkpoints
 * where it may not touch them (RF_ERR_USAGE), and one in which another process trains (RF_ERR, after five
 * seconds). `path` NULL: none is given. Changes nothing on the file system, but locks the folder it
 * goes on in. Caller ends with rf_run_close, also after an error. */
RF_MUST_CHECK int rf_run_find(rf_run *run, rf_resume resume, const char *path, rf_error *err);
/* local. Could rf_run_begin make and write the folder? Makes a folder where it would be, and removes it. */
RF_MUST_CHECK int rf_run_check(const rf_run *run, rf_error *err);
/* collective. Makes the folder, which all ranks must see, writes config.yaml, opens metrics.jsonl
 * behind progress->step. Checkpoints newer than the one to go on from are damaged (rf_checkpoint_find):
 * they are renamed to "<name>.damaged"; `latest` names it from now on. */
RF_MUST_CHECK int rf_run_begin(rf_run *run, const rf_config *config, const rf_progress *progress,
                               rf_error *err);

/* --- Saving (saving.c) ------------------------------------------------------------------------
 *
 * After its begin a save is under way (run->save) in two phases: every rank writes its values, then
 * rank 0 completes the file, gives it its name, points `latest` and `best` at it and removes those that
 * are not kept. With a copy, threads do both and training may go on; copying begins the first phase, and
 * weights and moments may change when that is over (rf_run_save_settle). One save at a time. */

/* collective. Begins to save a checkpoint of info->progress.step; where there is one of this step
 * already, nothing is to be done. is_best: the validation loss has never been lower. copy: the values
 * are copied, else they are written before it returns, and no phase runs beside. Other arguments as
 * rf_checkpoint_snapshot has them. After an error no save is under way. */
RF_MUST_CHECK int rf_run_save_begin(rf_run *run, rf_model *model, const void *adam_m,
                                    const void *adam_v, const rf_checkpoint_info *info,
                                    bool is_best, bool copy, rf_error *err);
/* local. Waits until the save has its copy: whoever changes weights or moments calls it first. Fine
 * without a save. */
void rf_run_save_settle(rf_run *run);
/* local. Is a thread of this rank at work on the phase? */
bool rf_run_save_is_busy(const rf_run *run);
/* collective. Waits until this rank is through with the phase; all agree, and the next one begins,
 * or the save is over. After an error too. Fine without a save. */
RF_MUST_CHECK int rf_run_save_advance(rf_run *run, rf_error *err);
/* local. Instead of rf_run_save_advance, where ranks no longer agree: waits for the thread, and leaves
 * nothing behind. Fine without a save. */
void rf_run_save_abandon(rf_run *run);

/* collective. The run has gone back to `step`: takes away what the folder has of later ones, in
 * metrics.jsonl too. The checkpoint of this step may be saved again. */
RF_MUST_CHECK int rf_run_go_back(rf_run *run, int64_t step, rf_error *err);
void rf_run_close(rf_run *run); /* local; a save under way is abandoned */

#endif
