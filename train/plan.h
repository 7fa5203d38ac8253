/* plan.h: the memory that a rank will take, before it is taken.    all local but where said */
#ifndef RF_TRAIN_PLAN_H
#define RF_TRAIN_PLAN_H

#include "train/setup.h"

#include <stdio.h>

/* Bytes of a rank, and what they are for. */
typedef struct rf_plan {
    size_t weights;   /* masters and compute copies, rotary tables; windows (gather.h) */
    size_t moments;   /* Adam's */
    size_t gradients; /* n_gradients of them */
    int n_gradients; /* whole ones, or slices (train.shard); with the latter also those of a pass */
    size_t reduction;   /* what is on its way to be summed over ranks */
    size_t activations; /* of a leaf, with the batch and its spans; losses of a step */
    size_t backward;    /* gradients of activations */
    size_t scratch;     /* kernels', the head's logits among it */
    size_t decoder;     /* cache and activations for sample completions */
    size_t loader;      /* rows built ahead, and the window that is packed */
    size_t program;  /* what this process holds already: code, MPI, tokenizer, corpora's tables; and
                        the buffer that checkpoints go through */
    size_t snapshot; /* copy of a checkpoint that is written beside training (host memory) */
    size_t total;
    size_t host_available;   /* of this host now (run/room.h); 0: not known */
    size_t process_limit;    /* what a rank may have (likewise); 0: no limit */
    size_t device_available; /* of the GPU, where all but loader, program and snapshot are; 0: there
                                is none */
} rf_plan;

/* Disk of the run folder, rank 0. */
typedef struct rf_disk_plan {
    int64_t n_files;  /* checkpoints at once: those kept, the best, one that is being written */
    size_t file;      /* about, of one */
    size_t total;     /* of all */
    size_t available; /* free in the file system of log.dir, or taken by checkpoints that are in the
                         folder already; 0: not known */
} rf_disk_plan;

/* Of a run whose steps and folder are known. Changes nothing on the disk. */
rf_disk_plan rf_disk_plan_make(const rf_setup *setup);

/* About the bytes of a checkpoint. */
size_t rf_plan_checkpoint_bytes(const rf_setup *setup);
/* collective. Nothing large is allocated. */
RF_MUST_CHECK int rf_plan_make(rf_plan *out, const rf_setup *setup, rf_error *err);
/* Does the run fit, with all ranks of this host, and do its checkpoints? */
RF_MUST_CHECK int rf_plan_check(const rf_plan *plan, const rf_disk_plan *disk,
                                const rf_setup *setup, rf_error *err);
/* A table for people. */
void rf_plan_print(const rf_plan *plan, const rf_disk_plan *disk, const rf_setup *setup, FILE *out);

#endif
