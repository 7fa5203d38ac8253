/* trainer.h: the state of a training run, and its life.
 *
 * Calls marked collective are made by all ranks in the same order; what fails on one rank fails on
 * all (rf_dist_agree), so that ranks leave together.
 */
#ifndef RF_TRAIN_TRAINER_H
#define RF_TRAIN_TRAINER_H

#include "common/store/checkpoint.h"
#include "data/loader.h"
#include "infer/engine.h"
#include "train/math/backward.h"
#include "train/math/reduce.h"
#include "train/run/metrics.h"
#include "train/run/watchdog.h"
#include "train/settings.h"
#include "train/sources.h"

enum { RF_TRAINER_PATH = 4096 };

/* Prompts for sample completions; chosen when the run begins (train/samples.h). */
typedef struct rf_prompts {
    int64_t n;                 /* 0: no samples are made */
    int64_t max_prompt;        /* tokens of the longest */
    int32_t **token;           /* [n] -> prompt and response. Owned */
    int64_t *n_prompt;         /* [n] */
    int64_t *n_response;       /* [n] */
    rf_decode_options options; /* gen_length fits the model's positions */
} rf_prompts;

typedef struct rf_trainer {
    rf_dist *dist;     /* not owned */
    rf_config *config; /* not owned; resolved */
    rf_train_settings set;

    /* What it learns from. */
    rf_sources sources;
    rf_objective objective;
    char *corpora;            /* JSON of the training corpora */
    rf_rows_statistics epoch; /* the first one; rank 0 */
    rf_prompts prompts;

    /* What it is made of. */
    const rf_backend *backend;
    int n_threads;
    rf_model_config shape;
    int64_t n_elements, n_parameters, n_trainable; /* of the model's table */
    rf_model_limits limits;
    rf_model *model;
    rf_acts *acts;
    rf_backward *backward;
    double *loss;         /* [micro_rows * T] host: of a leaf */
    double *leaf_sums;    /* [reduce.n_leaves, RF_N_SUMS] (step.h) */
    double *rank_seconds; /* [ranks] */
    rf_optimizer optimizer;
    rf_reduce reduce;
    void *optimizer_memory, *step_memory; /* two arenas on the backend */
    rf_engine *decoder;                   /* NULL without prompts */
    rf_loader *loader;

    /* Where it stands. */
    char resume[RF_TRAINER_PATH]; /* the checkpoint it goes on from, "" : none */
    rf_progress progress;
    int64_t first_step;    /* progress.step when this process began */
    int64_t saved_step;    /* of the newest checkpoint; -1: none */
    int64_t skipped_now;   /* steps skipped in a row */
    char best[64];         /* name of the best checkpoint in the folder, "" : none */
    double begin;          /* rf_log_seconds() of this process's begin */
    double seconds_before; /* progress.seconds then */

    rf_metrics *metrics; /* rank 0 */
    int folder_lock;     /* descriptor of the run folder, locked; -1: none */
    rf_watchdog *watchdog;
} rf_trainer;

/* How to begin. */
typedef enum rf_resume {
    RF_RESUME_NO,   /* a run folder with checkpoints is an error */
    RF_RESUME_AUTO, /* from the newest checkpoint that verifies; an empty folder begins */
    RF_RESUME_PATH  /* from this file, or the newest in this folder */
} rf_resume;

/* collective. Reads everything, checks that it fits together, and finds the checkpoint to go on
 * from; allocates nothing large. `config` gets its derived values. `path` only with
 * RF_RESUME_PATH. Caller frees with rf_trainer_free, also after an error. */
RF_MUST_CHECK int rf_trainer_open(rf_trainer *out, rf_dist *dist, rf_config *config,
                                  rf_resume resume, const char *path, rf_error *err);
/* collective. Allocates, loads or initialises the weights, prepares the run folder, starts the
 * loader. */
RF_MUST_CHECK int rf_trainer_start(rf_trainer *trainer, rf_error *err);
/* local. */
void rf_trainer_free(rf_trainer *trainer);

/* local. Takes moments, gradients and the work space of their sum from two arenas (arena.h: run
 * twice). After rf_trainer_open. */
void rf_trainer_layout(rf_trainer *trainer, rf_arena *optimizer, rf_arena *step);

#endif
