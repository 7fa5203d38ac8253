/* reduce.h: from the gradients of leaves to the gradient of a step.
 *
 * A leaf is what one forward and backward pass adds. `exact` combines the leaves of a step in a
 * tree over their global index: a range of leaves is halved while its count is even; an odd rest is
 * summed one after the other. Where the number of ranks is a power of two that divides the leaves,
 * every rank owns a whole subtree, so that the bits do not depend on it. Streamed, the tree needs
 * log2(groups of this rank)+1 gradients, where a group is an odd rest. `fast` adds all leaves of a
 * rank into one gradient, and then over any number of ranks.
 * The losses of the leaves go the same way, in double, always by the tree.
 */
#ifndef RF_TRAIN_MATH_REDUCE_H
#define RF_TRAIN_MATH_REDUCE_H

#include "common/base/arena.h"
#include "common/dist/dist.h"

enum { RF_REDUCE_LOSSES = 8, RF_REDUCE_DEPTH = 64 };

typedef struct rf_reduce {
    rf_dist *dist;
    rf_ctx *ctx; /* set before the first step; not needed to lay out */
    bool exact;
    int64_t n_elements;
    int64_t n_leaves; /* of this rank */
    int64_t group;    /* leaves summed one after the other */
    int n_buffers;
    void *buffer[RF_REDUCE_DEPTH]; /* [n_buffers] -> [n_elements] class master */
    void *work;                    /* for the sum over ranks */
    rf_exchange *exchange;         /* likewise. Owned */
    double *all;                   /* [n_ranks, RF_REDUCE_LOSSES] host. Owned */

    /* While a step runs: pending subtrees, the largest first, then the group being filled. */
    bool gradients;             /* as given to rf_reduce_begin */
    int64_t done;               /* leaves */
    int depth;                  /* pending subtrees */
    int level[RF_REDUCE_DEPTH]; /* log2 of the groups in each */
    double loss[RF_REDUCE_DEPTH][RF_REDUCE_LOSSES];
} rf_reduce;

/* local. Describes the reduction of a step of n_leaves (over all ranks). Refused with RF_ERR_USAGE:
 * leaves that the ranks cannot share evenly; `exact` with a number of ranks that is no power of
 * two. Caller frees. */
RF_MUST_CHECK int rf_reduce_new(rf_reduce *out, rf_dist *dist, int64_t n_elements, int64_t n_leaves,
                                bool exact, rf_error *err);
void rf_reduce_free(rf_reduce *reduce); /* a zeroed struct is fine */
/* local. Takes the gradients and the work space from the arena (arena.h: run twice). */
void rf_reduce_layout(rf_reduce *reduce, rf_arena *arena, const rf_backend *backend);

/* local. Begins a step; without gradients (validation) only losses are summed. */
void rf_reduce_begin(rf_reduce *reduce, bool gradients);
/* local. The gradient that the next leaf's backward pass adds to. */
void *rf_reduce_leaf(rf_reduce *reduce);
/* local. That leaf is complete, with these losses [RF_REDUCE_LOSSES]. */
void rf_reduce_leaf_done(rf_reduce *reduce, const double *loss);
/* collective. After all n_leaves of this rank: the sum over all leaves of all ranks. *gradient
 * [n_elements] is valid until rf_reduce_begin, NULL without gradients; loss [RF_REDUCE_LOSSES]
 * sets, in rank order where the number of ranks is no power of two. */
RF_MUST_CHECK int rf_reduce_finish(rf_reduce *reduce, void **gradient, double *loss, rf_error *err);

#endif
