/* dist.h: what the program knows of its other ranks.
 *
 * A rank is one process of a run. Exactly one of dist_mpi.c (MPI, with
 * exchange_mpi.c) and dist_stub.c (one rank without
 * it: MPI=0, and programs that never start ranks) is linked into a program.
 *   local        involves this rank alone
 *   collective   made by all ranks, in the same order
 *   threads      the main thread alone makes calls (MPI_THREAD_FUNNELED); other threads may ask for
 *                rank and size, and call nothing else
 * A failing MPI call returns RF_ERR_RETRY.
 */
#ifndef RF_DIST_DIST_H
#define RF_DIST_DIST_H

#include "common/kernels/backend.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct rf_dist rf_dist;

/* collective. Starts MPI if need be (also when the program was not started by mpirun: one rank).
 * Sets the panic hook (rank + abort) and log's rank. Caller ends with rf_dist_close. */
RF_MUST_CHECK int rf_dist_open(rf_dist **out, int *argc, char ***argv, rf_error *err);
void rf_dist_close(rf_dist *dist); /* collective; NULL is fine */
/* local. Ends all ranks at once with this exit status. */
_Noreturn void rf_dist_abort(rf_dist *dist, int status);
/* local. What the work of all ranks came to: rank 0 says what went wrong, and a failing call of MPI
 * ends them all, for others may wait in a call that this one will never make. */
void rf_dist_report(rf_dist *dist, int rc, const rf_error *err);
/* local. Where the others wait in the middle of work that all do together, one that failed cannot wait until all
 * can leave: it says why and ends them all. RF_OK: nothing. */
void rf_dist_leave_alone(rf_dist *dist, int rc, const rf_error *err);

int rf_dist_rank(const rf_dist *dist);       /* local; any thread */
int rf_dist_size(const rf_dist *dist);       /* local; any thread */
int rf_dist_local_size(const rf_dist *dist); /* local; any thread: ranks on this host */
const char *rf_dist_library(void);           /* local: "Open MPI 4.1.4" or "none" */
/* local. For plans alone: from here on this rank, which is the only one, stands for n_ranks that are all
 * as it is, n_local of them on this host. These are the sizes, and the small collectives give what they
 * would if every rank passed the same. No exchange may begin. */
void rf_dist_suppose(rf_dist *dist, int n_ranks, int n_local);

/* --- Devices ---------------------------------------------------------------------------------- */

/* collective. Has every rank a device of its own? RF_ERR_USAGE names two that have not, unless both
 * were told theirs by RF_DEVICE. A rank's device is the one of its number among the ranks of its host
 * (rf_backend_set_seat), so all are different where a host has as many. Backends of the host's memory:
 * RF_OK. */
RF_MUST_CHECK int rf_dist_check_devices(rf_dist *dist, const rf_backend *backend, rf_error *err);
/* collective. From here on, until rf_dist_close, backend memory of ctx's kind is exchanged from device
 * to device (kernels/link.h; cuda: by NCCL) where all ranks can do that; else by MPI through the
 * hosts' memory, as without this call, with the same results. Checks devices. ctx: for this call
 * alone. Backends of the host's memory: nothing to do; a second time: likewise. */
RF_MUST_CHECK int rf_dist_connect(rf_dist *dist, rf_ctx *ctx, rf_error *err);
/* local. What carries exchanges after rf_dist_connect: "NCCL 2.28.9", or "MPI through the hosts'
 * memory, which is slow: " and why. "": MPI, of the host's memory. */
const char *rf_dist_carrier(const rf_dist *dist);

/* --- Small collectives, on host memory -------------------------------------------------------- */

/* collective. Every rank gets the root's data. */
RF_MUST_CHECK int rf_dist_broadcast(rf_dist *dist, void *data, size_t bytes, int root,
                                    rf_error *err);
/* collective. Element-wise over ranks, in place. */
RF_MUST_CHECK int rf_dist_max_i64(rf_dist *dist, int64_t *x, int n, rf_error *err);
RF_MUST_CHECK int rf_dist_sum_i64(rf_dist *dist, int64_t *x, int n, rf_error *err);
/* collective. all [size, bytes] gets every rank's x [bytes], in rank order: so sums over ranks can be
 * made in a fixed order. */
RF_MUST_CHECK int rf_dist_allgather_bytes(rf_dist *dist, void *all, const void *x, size_t bytes,
                                          rf_error *err);
/* collective. Every rank passes what its own work returned; when any failed, all return the code of
 * the lowest rank that did, with "rank R: message" in err. So ranks leave together. */
RF_MUST_CHECK int rf_dist_agree(rf_dist *dist, int rc, rf_error *err);

/* collective. Is this text, made of lines, the same on all ranks? Else RF_ERR_USAGE names the lowest
 * rank that differs from rank 0, and the first line in which it does. */
RF_MUST_CHECK int rf_dist_same_text(rf_dist *dist, const char *text, rf_error *err);

/* --- Exchange of backend memory ---------------------------------------------------------------
 *
 * A range of n elements (of any class; below 2^31 with slices rounded up) is cut into one slice for
 * each rank, in rank order: slices begin at multiples of RF_SUM_RUN elements, so that ranks sum whole
 * runs of squares (kernels.h); all have rf_slice_slot elements but the last ones, which are shorter
 * or empty. How it is cut never shows in the result of a sum over ranks.
 *
 * An exchange is begun by all ranks, and is over where rf_exchange_poll says so or rf_exchange_wait
 * returns; until then nobody writes what it reads nor touches what it sets. It takes what kernels
 * called before it have made, and kernels called after its end see what it brought. Several may be
 * in flight, each with an rf_exchange of its own, ended in any order; all ranks begin those of a
 * channel in the same order. MPI works on them only while some call of this section runs: poll now and then. An
 * asynchronous error of the backend is left to rf_ctx_sync, for the other ranks wait. A link that fails
 * (rf_dist_connect) ends all ranks, after a line that says why.
 */
int64_t rf_slice_slot(int64_t n, int64_t n_ranks); /* local: elements of a full slice */
/* local: where the slice of `rank` begins; for rank = n_ranks: n. */
int64_t rf_slice_begin(int64_t n, int64_t rank, int64_t n_ranks);
/* local. Adds the versions of n elements, one behind the other at every `slot` elements of class master, as a
 * binary tree in rank order, into the first: sums over ranks have these bits. */
void rf_dist_add_versions(rf_ctx *ctx, void *versions, int64_t n_ranks, int64_t slot, int64_t n);

typedef struct rf_exchange rf_exchange;

/* Exchanges of different channels are begun in any order. */
typedef enum rf_channel { RF_CHANNEL_GRADIENTS, RF_CHANNEL_WEIGHTS, RF_N_CHANNELS } rf_channel;

/* local; never NULL; caller frees */
rf_exchange *rf_exchange_new(rf_dist *dist, rf_channel channel);
void rf_exchange_free(rf_exchange *exchange); /* local; when it is over; NULL is fine */

/* collective. Begins: every rank gets all versions of a portion of its own slice: of elements
 * [first, first + count) of it, as far as the slice goes.
 *   versions [size, count] sets    row r: rank r's version
 *   range    [n]           reads */
RF_MUST_CHECK int rf_exchange_all_to_all(rf_exchange *exchange, rf_ctx *ctx, void *versions,
                                         const void *range, rf_class cls, int64_t n, int64_t first,
                                         int64_t count, rf_error *err);
/* collective. Begins: every rank gets the sum over ranks of its own slice, in an order that is the
 * library's. Classes of f32 or f64.
 *   slice [of this rank] sets
 *   range [n]            reads */
RF_MUST_CHECK int rf_exchange_reduce_scatter(rf_exchange *exchange, rf_ctx *ctx, void *slice,
                                             const void *range, rf_class cls, int64_t n,
                                             rf_error *err);
/* collective. Begins: every rank gets the slices of all.
 *   range [n]            sets
 *   slice [of this rank] reads; it may be the very one in `range` */
RF_MUST_CHECK int rf_exchange_all_gather(rf_exchange *exchange, rf_ctx *ctx, void *range,
                                         const void *slice, rf_class cls, int64_t n, rf_error *err);
/* local. Moves exchanges on. *done: this one is over (or was never begun). */
RF_MUST_CHECK int rf_exchange_poll(rf_exchange *exchange, bool *done, rf_error *err);
/* local, but it returns only when all ranks have begun the exchange. Fine after its end. */
RF_MUST_CHECK int rf_exchange_wait(rf_exchange *exchange, rf_error *err);

/* What exchanges have cost this rank so far. MPI moves nothing while nobody calls it, so `seconds` is more
 * than the same exchanges would take by themselves. */
typedef struct rf_exchange_cost {
    double seconds; /* during which one was under way, or several */
    double waited;  /* of these, the rank stood still in rf_exchange_wait */
    int64_t bytes;  /* sent to other ranks */
} rf_exchange_cost;

rf_exchange_cost rf_dist_exchange_cost(const rf_dist *dist); /* local */

/* collective. x [n] of class master, in place: the sum over ranks, on all ranks, as a binary tree
 * over ranks in rank order: ((0+1)+(2+3))+((4+5)+(6+7)), a rank without a neighbour waits for the
 * next level. So the bits do not depend on the library, and together with the tree over the leaves
 * of a rank (train/math/reduce.h) 1, 2, 4, 8 ranks give the same ones. Waits for kernels, and
 * returns their first asynchronous error.
 *   exchange: one that is over
 *   work:     backend memory of rf_dist_reduce_bytes, some 25 MB whatever n is */
RF_MUST_CHECK int rf_dist_reduce(rf_dist *dist, rf_exchange *exchange, rf_ctx *ctx, void *x,
                                 int64_t n, void *work, rf_error *err);
size_t rf_dist_reduce_bytes(const rf_dist *dist, const rf_backend *backend, int64_t n);

#endif
