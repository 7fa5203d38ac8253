/* dump.h: all data of one optimizer step in a file, for comparison with other implementations.
 *
 * The layout is in train/README.md. Everything is gathered on rank 0, which writes one HDF5 file
 * atomically. A debugging aid: it holds several copies of the weights in host memory.
 */
#ifndef RF_TRAIN_RUN_DUMP_H
#define RF_TRAIN_RUN_DUMP_H

#include "common/dist/dist.h"
#include "common/model/model.h"
#include "data/loader.h"

typedef struct rf_dump rf_dump;

typedef struct rf_dump_settings {
    const char *path;                /* debug.dump_step, "" : none; not owned */
    int64_t row_length, leaf_places; /* places of a row, and of a leaf */
    int64_t n_leaves, round;         /* of a rank in a step, and in a round (loader.h) */
} rf_dump_settings;

/* How the step changed the weights. */
typedef struct rf_dump_update {
    double loss, lr;
    double scale; /* of the gradient, from clipping */
    double beta1, beta2, eps, weight_decay;
    int64_t update; /* t of the bias correction */
} rf_dump_update;

/* collective. A dump to be filled during the next step and then written; *out is NULL where the path
 * is "". Memory for all of it is taken here. Caller frees. */
RF_MUST_CHECK int rf_dump_new(rf_dump **out, const rf_dump_settings *settings, rf_dist *dist,
                              rf_model *model, rf_error *err);
void rf_dump_free(rf_dump *dump); /* local; NULL is fine */

/* Called by the step, in this order; with NULL they do nothing. The second and third are collective
 * where ranks hold slices (the model's shards).
 *   gradient [rf_shards_trained] of class master: over all ranks, what this rank holds of it */
void rf_dump_batch(rf_dump *dump, const rf_loader_share *share);
RF_MUST_CHECK int rf_dump_gradient(rf_dump *dump, const void *gradient, rf_error *err);
RF_MUST_CHECK int rf_dump_after(rf_dump *dump, const rf_dump_update *update, rf_error *err);

/* collective. Gathers and writes. NULL is fine. */
RF_MUST_CHECK int rf_dump_write(rf_dump *dump, rf_error *err);

#endif
