/* reduce.h: from the gradients of leaves to the gradient of a step.
 *
 * A leaf is what one forward and backward pass adds. `exact` adds the leaves of a step in a tree over
 * their global index: pairs of neighbours while their number is even; the odd number of subtrees that
 * is left, one after the other. A number of ranks that is a power of two divides each of these
 * subtrees: in a *round* the ranks run the leaves of one, each rank a smaller subtree of it in rank
 * order (rf_loader_leaf), and the sum over ranks completes it. So the bits do not depend on the
 * number of ranks, nor would they on shorter rounds. Streamed, it takes log2(round)+1 gradients, and
 * one more where a step has several rounds. `fast` adds all leaves of a rank into one gradient, and
 * then over any number of ranks: one round.
 * The losses of the leaves are added in the same tree, in double, for any number of ranks.
 */
#ifndef RF_TRAIN_MATH_REDUCE_H
#define RF_TRAIN_MATH_REDUCE_H

#include "common/base/arena.h"
#include "common/dist/dist.h"
#include "train/math/bucket.h"

enum { RF_REDUCE_LOSSES = 8, RF_REDUCE_DEPTH = 64 };

typedef struct rf_reduce {
    rf_dist *dist;
    rf_ctx *ctx; /* set before the first step; not needed to lay out */
    bool exact;
    int64_t n_elements;
    int64_t n_leaves; /* of this rank in a step */
    int64_t round;    /* of these in a round; divides them */
    int64_t n_buckets;
    rf_range *bucket; /* [n_buckets] what is summed over ranks at a time. Owned */
    int n_buffers;
    void *buffer[RF_REDUCE_DEPTH]; /* [n_buffers] -> [n_elements] class master */
    void *work;                    /* for the sum over ranks */
    rf_exchange *exchange;         /* likewise. Owned */
    double *all;                   /* [leaves of all ranks, RF_REDUCE_LOSSES] host. Owned, twice */

    /* While a step runs. */
    int64_t done;               /* leaves */
    int depth;                  /* subtrees of this round in the first buffers, the largest first */
    int level[RF_REDUCE_DEPTH]; /* log2 of the leaves in each */
    int total;                  /* the buffer with the sum of all rounds done; -1: none yet */
} rf_reduce;

/* local. Describes the reduction of a step of n_leaves (over all ranks). Refused with RF_ERR_USAGE:
 * leaves that the ranks cannot share evenly; `exact` with a number of ranks that is no power of
 * two. Caller frees. */
RF_MUST_CHECK int rf_reduce_new(rf_reduce *out, rf_dist *dist, int64_t n_elements, int64_t n_leaves,
                                bool exact, rf_error *err);
void rf_reduce_free(rf_reduce *reduce); /* a zeroed struct is fine */
/* local. Sums over ranks by buckets of this table, which has the n_elements; without it in one. */
void rf_reduce_set_buckets(rf_reduce *reduce, const rf_table *table, const rf_backend *backend);
/* local. Takes the gradients and the work space from the arena (arena.h: run twice). */
void rf_reduce_layout(rf_reduce *reduce, rf_arena *arena, const rf_backend *backend);

/* local. Begins a step. */
void rf_reduce_begin(rf_reduce *reduce);
/* local. The gradient that the next leaf's backward pass adds to; and that leaf is complete. */
void *rf_reduce_leaf(rf_reduce *reduce);
void rf_reduce_leaf_done(rf_reduce *reduce);
/* collective. After each round: the sum over ranks, added to those of the rounds before. */
RF_MUST_CHECK int rf_reduce_round(rf_reduce *reduce, rf_error *err);
/* local. After the last round: the sum over all leaves [n_elements], valid until rf_reduce_begin. */
void *rf_reduce_gradient(const rf_reduce *reduce);

/* collective. The sum of the losses of all leaves of all ranks.
 *   sum  [RF_REDUCE_LOSSES]           sets
 *   leaf [n_leaves, RF_REDUCE_LOSSES] reads    of this rank, in the order it ran them */
RF_MUST_CHECK int rf_reduce_losses(rf_reduce *reduce, double *sum, const double *leaf,
                                   rf_error *err);

#endif
