/* setup.h: a run before it takes memory: everything that can be wrong with it is found here.
 *
 * Calls marked collective are made by all ranks in the same order; what fails on one rank fails on
 * all (rf_dist_agree), so that ranks leave together.
 */
#ifndef RF_TRAIN_SETUP_H
#define RF_TRAIN_SETUP_H

#include "common/store/checkpoint.h"
#include "data/loader.h"
#include "train/math/reduce.h"
#include "train/run/run_folder.h"
#include "train/samples.h"
#include "train/sources.h"
#include "train/train_settings.h"

typedef struct rf_setup {
    rf_dist *dist;             /* not owned */
    rf_config *config;         /* not owned; resolved */
    const char *config_path;   /* the file that it is from; NULL: none. Not owned */
    const char *const *change; /* [n_changes] "section.key=value": differ from the checkpoint's on
                                  purpose. Not owned */
    int n_changes;
    rf_train_settings set;
    double begin; /* rf_log_seconds() of this process's begin */

    /* What it learns from. */
    rf_sources sources;
    rf_objective objective;
    rf_rows_statistics epoch; /* the first one; rank 0 */
    rf_samples samples;

    /* What it will be made of. */
    const rf_backend *backend;
    int n_threads;
    rf_model_config shape;
    int64_t n_elements, n_parameters, n_trainable; /* of the model's table */
    rf_model_limits limits;
    rf_shards shards; /* how ranks share the state of a run */
    rf_reduce reduce; /* described; its memory is the trainer's */

    /* Where it begins. */
    rf_run run;
    rf_progress progress;
    rf_spikes spikes; /* moves on with the training */
} rf_setup;

/* collective. Reads everything, checks that it fits together and is the same on all ranks, and
 * finds the checkpoint to go on from; allocates nothing large. `config`, read from the file
 * config_path (NULL: from none), gets its derived values. `path` as in rf_run_find. change
 * [n_changes]: "section.key=value", in force already: keys that may differ from the checkpoint's.
 * Caller ends with rf_setup_close, also after an error. */
RF_MUST_CHECK int rf_setup_open(rf_setup *out, rf_dist *dist, rf_config *config,
                                const char *config_path, rf_resume resume, const char *path,
                                const char *const *change, int n_changes, rf_error *err);
void rf_setup_close(rf_setup *setup); /* local */

/* local. The best validation loss of a checkpoint, where it counts for what is to come: the best is marked
 * (checkpoint.best), and of the same rows; else infinity. */
double rf_setup_best_loss(const rf_setup *setup, const rf_checkpoint_info *of);
rf_position rf_setup_position(const rf_progress *progress); /* local. The next row to train on. */
/* local. How this rank's training rows are loaded. */
rf_loader_settings rf_setup_loader(const rf_setup *setup);
/* local. The loader of training rows, from where `progress` stands, without those that the spikes leave
 * out. Caller frees. */
RF_MUST_CHECK int rf_setup_new_loader(rf_loader **out, const rf_setup *setup,
                                      const rf_progress *progress, rf_error *err);
/* local. The bytes that it takes, without making it. */
RF_MUST_CHECK int rf_setup_plan_loader(size_t *bytes, const rf_setup *setup, rf_error *err);

#endif
