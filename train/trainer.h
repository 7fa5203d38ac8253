/* trainer.h: a run that has its memory: what it is made of, and where it stands. */
#ifndef RF_TRAIN_TRAINER_H
#define RF_TRAIN_TRAINER_H

#include "train/leaves.h"
#include "train/run/watchdog.h"
#include "train/setup.h"

/* What a save is for. */
typedef struct rf_save_of {
    int64_t step;
    bool is_best; /* after the validation with the lowest loss so far, and */
    double loss;  /* that loss */
    bool is_last; /* nothing is done after it: its failure is the run's */
} rf_save_of;

typedef struct rf_trainer {
    rf_setup *setup; /* not owned; its run and its reduction are used */
    rf_model *model;
    rf_leaves leaves;
    rf_optimizer optimizer;
    rf_gather gather;
    void *optimizer_memory, *step_memory; /* two arenas on the backend */
    rf_engine *decoder;                   /* NULL without samples to make */
    rf_loader *loader;
    rf_watchdog *watchdog;

    /* Where it stands. */
    rf_progress progress;
    rf_save_of save;        /* the last one begun */
    double saved_best_loss; /* progress.best_valid_loss as of what has been saved */
} rf_trainer;

/* collective. Allocates, loads or initialises the weights, prepares the run folder, starts the
 * loader. Caller frees, also after an error. */
RF_MUST_CHECK int rf_trainer_start(rf_trainer *out, rf_setup *setup, rf_error *err);
/* local. Would the weights load? Reads their files, but makes no model. */
RF_MUST_CHECK int rf_trainer_check(rf_setup *setup, rf_error *err);
void rf_trainer_free(rf_trainer *trainer); /* local; a zeroed struct is fine */

#endif
