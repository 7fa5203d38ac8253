/* reduce.h: from the gradients of leaves to the gradient of a step.
 *
 * A leaf is what one forward and backward pass adds. `exact` adds the leaves of a step in a tree over
 * their global index: pairs of neighbours while their number is even; the odd number of subtrees that
 * is left, one after the other. A number of ranks that is a power of two divides each of these
 * subtrees: in a *round* the ranks run an aligned subtree of it, each rank a smaller one in rank order
 * (rf_loader_leaf), and the sum over ranks completes it. So the bits depend neither on the number of
 * ranks nor on the length of a round.
 *   Where every rank holds everything, a round is one of the largest subtrees: one sum over ranks for
 *   each, and log2(leaves of a rank in it)+1 gradients.
 *   Where ranks hold slices (shard.h), a round is one leaf of each rank: it is summed over ranks first
 *   (scatter.h), and what is pending of the tree are slices. A pass needs a gradient, or with
 *   RF_SHARD_GRADIENTS and beyond room for the parts that are on their way.
 * `fast` adds leaves in the order in which they come, over any number of ranks.
 * The losses of the leaves are added in the same tree, in double, for any number of ranks.
 */
#ifndef RF_TRAIN_MATH_REDUCE_H
#define RF_TRAIN_MATH_REDUCE_H

#include "train/math/backward.h"
#include "train/math/scatter.h"

enum { RF_REDUCE_LOSSES = 8, RF_REDUCE_DEPTH = 64 };

/* Where the gradient of a part of a pass lies; parts may take turns in one place. */
typedef struct rf_reduce_place {
    int64_t n;      /* elements */
    void *memory;   /* class master */
    int64_t tenant; /* part whose gradient it has; -1: none */
} rf_reduce_place;

typedef struct rf_reduce {
    rf_dist *dist; /* not owned, as shards and ctx */
    const rf_shards *shards;
    rf_ctx *ctx; /* set before the first step; not needed to lay out */
    bool exact;
    int64_t n_leaves; /* of this rank in a step */
    int64_t round;    /* of these in a round; divides them */

    /* Pending subtrees. */
    int64_t n_summed;  /* elements of a buffer: of all, or of what the rank holds */
    int64_t n_subtree; /* items of a largest subtree: leaves, or rounds */
    int n_buffers;
    void *buffer[RF_REDUCE_DEPTH]; /* [n_buffers] -> [n_summed] class master */

    /* Where every rank holds everything: the sum over ranks. */
    void *work;
    rf_exchange *exchange; /* owned */
    /* Where ranks hold slices: the gradient of a pass, on its way. */
    rf_scatter scatter;
    int64_t n_places;
    rf_reduce_place *place; /* [n_places] owned */

    double *all; /* [leaves of all ranks, RF_REDUCE_LOSSES] host. Owned, twice */

    /* While a step runs. */
    int64_t done;               /* leaves */
    int64_t n_items;            /* in this subtree */
    bool flies;                 /* the sum of a round is not complete yet */
    int depth;                  /* subtrees of this one in the first buffers, the largest first */
    int level[RF_REDUCE_DEPTH]; /* log2 of the items in each */
    int total;                  /* the buffer with the sum of all subtrees done; -1: none yet */
} rf_reduce;

/* local. Describes the reduction of a step of n_leaves (over all ranks). Refused with RF_ERR_USAGE:
 * leaves that the ranks cannot share evenly; `exact` with a number of ranks that is no power of
 * two. narrow: what ranks hold slices of travels in bf16. Caller frees. */
RF_MUST_CHECK int rf_reduce_new(rf_reduce *out, rf_dist *dist, const rf_shards *shards,
                                size_t element_bytes, int64_t n_leaves, bool exact, bool narrow,
                                rf_error *err);
void rf_reduce_free(rf_reduce *reduce); /* a zeroed struct is fine */
/* local. Takes the gradients and the work space from the arena (arena.h: run twice). */
void rf_reduce_layout(rf_reduce *reduce, rf_arena *arena, const rf_backend *backend);
/* local. Bytes of it that are gradients, of leaves and of pending subtrees. */
size_t rf_reduce_gradient_bytes(const rf_reduce *reduce, const rf_backend *backend);

/* local. Begins a step. */
void rf_reduce_begin(rf_reduce *reduce);
/* local. Where the next leaf's backward pass puts its gradient, and whom it tells (backward.h); and
 * that leaf is complete. */
rf_gradient rf_reduce_leaf(rf_reduce *reduce);
void rf_reduce_leaf_done(rf_reduce *reduce);
/* local. Moves on what travels. */
void rf_reduce_poll(rf_reduce *reduce);
/* collective. After each round. */
RF_MUST_CHECK int rf_reduce_round(rf_reduce *reduce, rf_error *err);
/* collective. After the last round: the sum over all leaves, [rf_shards_trained] of what this rank
 * holds, valid until rf_reduce_begin. */
RF_MUST_CHECK int rf_reduce_gradient(void **out, rf_reduce *reduce, rf_error *err);

/* collective. The sum of the losses of all leaves of all ranks.
 *   sum  [RF_REDUCE_LOSSES]           sets
 *   leaf [n_leaves, RF_REDUCE_LOSSES] reads    of this rank, in the order it ran them */
RF_MUST_CHECK int rf_reduce_losses(rf_reduce *reduce, double *sum, const double *leaf,
                                   rf_error *err);

#endif
