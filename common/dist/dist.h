/* dist.h: a handful of collectives.
 *
 * dist_mpi.c is MPI, dist_stub.c one rank without it (MPI=0, and programs that never start ranks).
 * Calls marked `collective` are made by all ranks in the same order. The main thread alone calls
 * (MPI_THREAD_FUNNELED). A failing MPI call returns RF_ERR_RETRY.
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

int rf_dist_rank(const rf_dist *dist);       /* local */
int rf_dist_size(const rf_dist *dist);       /* local */
int rf_dist_local_rank(const rf_dist *dist); /* local: rank within this host */
int rf_dist_local_size(const rf_dist *dist); /* local: ranks on this host */
const char *rf_dist_library(void);           /* local: "Open MPI 4.1.4" or "none" */

RF_MUST_CHECK int rf_dist_barrier(rf_dist *dist, rf_error *err); /* collective */
RF_MUST_CHECK int rf_dist_broadcast(rf_dist *dist, void *data, size_t bytes,
                                    int root, /* collective */
                                    rf_error *err);
/* collective. Element-wise over ranks, host memory, in place. */
RF_MUST_CHECK int rf_dist_max_i64(rf_dist *dist, int64_t *x, int n, rf_error *err);
RF_MUST_CHECK int rf_dist_sum_i64(rf_dist *dist, int64_t *x, int n, rf_error *err);
/* collective. all [size*n] gets every rank's x [n] in rank order (so sums over ranks can be made in
 * a fixed order); host memory. */
RF_MUST_CHECK int rf_dist_allgather_f64(rf_dist *dist, double *all, const double *x, int n,
                                        rf_error *err);
RF_MUST_CHECK int rf_dist_allgather_bytes(rf_dist *dist, void *all, const void *x, size_t bytes,
                                          rf_error *err);

/* collective. Every rank passes what its own work returned; when any failed, all return the code of
 * the lowest failing rank, with "rank R: message" in err. So that ranks leave together. */
RF_MUST_CHECK int rf_dist_agree(rf_dist *dist, int code, rf_error *err);

/* collective. x [n] of class master (backend memory), in place: the sum over ranks, on all ranks.
 *   exact: a balanced binary tree over ranks in rank order, so that together with the tree over the
 *     leaves of a rank (train/math/reduce.h) the bits are those of one rank. Size must be a power
 * of two. else:  the library's own allreduce. work: backend memory of rf_dist_reduce_bytes. */
RF_MUST_CHECK int rf_dist_reduce(rf_dist *dist, rf_ctx *ctx, void *x, int64_t n, bool exact,
                                 void *work, rf_error *err);
size_t rf_dist_reduce_bytes(const rf_dist *dist, const rf_backend *backend, int64_t n, bool exact);

#endif
