/* gather.h: weights of which ranks hold slices (shard.h), brought together before they are read.
 *
 * After an update every rank has the new values of its slices. Where the masters are whole on all
 * ranks (RF_SHARD_STATE, RF_SHARD_GRADIENTS) the others' slices arrive in them while the next forward
 * pass runs, in the order in which it reads them. With RF_SHARD_WEIGHTS a block comes into one of two
 * windows when the pass is at the block before, and what lies outside the blocks into a third, once
 * after an update. Kernels get these through the model's rf_weight_source: forward and backward passes
 * are collective then, and all ranks must make the same ones.
 *   local       involves this rank alone
 *   collective  waits for other ranks
 */
#ifndef RF_TRAIN_MATH_GATHER_H
#define RF_TRAIN_MATH_GATHER_H

#include "common/base/arena.h"
#include "common/dist/dist.h"
#include "common/model/model.h"

enum { RF_GATHER_FLIGHTS = 2, RF_GATHER_WINDOWS = 3, RF_GATHER_PARTS = 4 };

/* Weights of a block, or of what lies outside the blocks. */
typedef struct rf_gather_window {
    int64_t layer;                          /* as rf_model_acquire has it; -1: none */
    bool is_there;                          /* all parts have come */
    int n_parts;                            /* what is trained and what is frozen of its layers */
    int64_t part[RF_GATHER_PARTS];          /* of the shards */
    int64_t begin[RF_GATHER_PARTS];         /* where they lie in the window */
    rf_exchange *exchange[RF_GATHER_PARTS]; /* owned */
    int64_t n;                              /* elements, of the largest that it will hold */
    void *master;                           /* [n] class master */
    void *weight; /* [n] class weight, as products read them; NULL: the masters */
} rf_gather_window;

typedef struct rf_gather {
    rf_dist *dist; /* not owned, as shards and model */
    const rf_shards *shards;
    rf_model *model; /* set by rf_gather_attach */

    /* Whole masters: parts in the order in which a forward pass reads them. */
    int64_t *order; /* [shards->n_trained] owned */
    int64_t n_flown, n_landed;
    rf_exchange *flight[RF_GATHER_FLIGHTS]; /* owned */
    /* RF_SHARD_WEIGHTS */
    rf_gather_window window[RF_GATHER_WINDOWS];

    rf_error failure; /* the first of a poll; whoever waits next hears of it */
} rf_gather;

/* local. Caller frees. */
void rf_gather_new(rf_gather *out, rf_dist *dist, const rf_shards *shards);
/* collective: waits for what travels. A zeroed struct is fine; before its model. */
void rf_gather_free(rf_gather *gather);
/* local. Takes the windows from the arena (arena.h: run twice). compute: of the model. */
void rf_gather_layout(rf_gather *gather, rf_arena *arena, const rf_backend *backend,
                      rf_compute compute);
/* local. Becomes the source of weights of a model that was made with the same shards. */
void rf_gather_attach(rf_gather *gather, rf_model *model);

/* local. To be called after what this rank holds of the masters changed, in place of
 * rf_model_prepare; nothing travels then (rf_gather_settle). Whole masters set off. */
RF_MUST_CHECK int rf_gather_renew(rf_gather *gather, rf_error *err);
/* local. Moves on what travels. */
void rf_gather_poll(rf_gather *gather);
/* collective. Before the masters are written, or read but by passes: waits for what travels. */
RF_MUST_CHECK int rf_gather_settle(rf_gather *gather, rf_error *err);

#endif
