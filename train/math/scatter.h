/* scatter.h: a gradient's sum over ranks, of which every rank gets what it holds (shard.h).
 *
 * The parts of a pass are pushed as they become complete, all ranks in the same order, and travel
 * while the ranks compute on: portions of every rank's slice go to that rank (all-to-all), which
 * adds the versions as a binary tree in rank order. So sums have the same bits as rf_dist_reduce
 * gives, and together with the tree over leaves (reduce.h) on any number of ranks. Where gradients
 * travel in bf16, every rank's is rounded first, this one's too.
 * In bytes this is a reduce-scatter: a rank sends (R-1)/R of what it has. `fast` does the same: with Open MPI
 * 4.1.4 and 25 MB, MPI_Ireduce_scatter_block takes 1.4 to 3 times as long (353 ms for 245 on 2 ranks of a busy host,
 * 513 for 176 over 1 Gbit/s, 938 for 468 on 2 + 2), and a ring of sends is faster only between 2 hosts without a limit.
 *   local       involves this rank alone, but others must do the same
 *   collective  waits for other ranks
 */
#ifndef RF_TRAIN_MATH_SCATTER_H
#define RF_TRAIN_MATH_SCATTER_H

#include "common/base/arena.h"
#include "common/dist/dist.h"
#include "common/model/shard.h"

enum { RF_SCATTER_FLIGHTS = 2 };

typedef struct rf_scatter {
    rf_dist *dist; /* not owned, as shards and ctx */
    const rf_shards *shards;
    rf_ctx *ctx;     /* set before the first pass */
    bool narrow;     /* gradients travel in bf16; their sums are of class master all the same */
    int64_t portion; /* elements of a slice that travel at a time; a multiple of RF_SUM_RUN */
    struct {
        rf_exchange *exchange; /* owned */
        void *versions;        /* [ranks, portion] class master */
        void *sent, *came;     /* [ranks, portion] class wire; NULL: versions come as they are */
        int64_t first, n;      /* elements of this rank's slice that it brings */
        int64_t queued;        /* of which part in the queue */
    } flight[RF_SCATTER_FLIGHTS];

    /* While a pass runs: what was pushed, and how far it has come. */
    struct {
        int64_t part;
        const void *gradient;
    } * queue;                 /* [shards->n_trained] owned */
    int64_t n_queued;          /* parts pushed */
    int64_t next;              /* part of the queue that the next portion is of, */
    int64_t next_from;         /* and where that begins in the slice */
    int64_t n_flown, n_landed; /* portions begun, and summed */
    int64_t n_done;            /* parts of the queue that are summed */
    void *sums;                /* [rf_shards_trained] class master */
    bool adds;

    rf_error failure; /* the first; rf_scatter_wait reports it */
} rf_scatter;

/* local. Caller frees. */
void rf_scatter_new(rf_scatter *out, rf_dist *dist, const rf_shards *shards, size_t element_bytes,
                    bool narrow);
void rf_scatter_free(
    rf_scatter *scatter); /* local; when nothing travels; a zeroed struct is fine */
/* local. Takes the memory of what travels (arena.h: run twice). */
void rf_scatter_layout(rf_scatter *scatter, rf_arena *arena, const rf_backend *backend);

/* local. Begins a pass: what is pushed goes into sums, in place of what is there, or is added. */
void rf_scatter_begin(rf_scatter *scatter, void *sums, bool adds);
/* local. A part of the pass is complete: gradient, its elements, stays as it is until it is summed. */
void rf_scatter_push(rf_scatter *scatter, int64_t part, const void *gradient);
/* local. Moves on. */
void rf_scatter_poll(rf_scatter *scatter);
/* collective. Until this part, if it was pushed, is summed. */
void rf_scatter_wait_part(rf_scatter *scatter, int64_t part);
/* collective. Until all that was pushed is. Returns the first failure of the pass. */
RF_MUST_CHECK int rf_scatter_wait(rf_scatter *scatter, rf_error *err);

#endif
