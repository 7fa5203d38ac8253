/* nccl.h: links (kernels/link.h) by NCCL, which is looked for when ranks are to be connected, so that a
 * program needs it neither to be built nor to run.                                  all local
 *
 * Declared here is what is used of NCCL's C interface, which has been the same since version 2.7
 * (tests/dist/test_link.c holds it against nccl.h where that is installed).
 */
#ifndef RF_KERNELS_CUDA_LINK_NCCL_H
#define RF_KERNELS_CUDA_LINK_NCCL_H

#include "common/kernels/cuda/launch.h"
#include "common/kernels/link.h"

extern const rf_transport rf_cuda_transport;
/* rf_transport.device_id */
bool rf_cuda_device_id(unsigned char id[RF_DEVICE_ID]);

/* --- NCCL ------------------------------------------------------------------------------------- */

typedef struct ncclComm *rf_nccl_comm;

typedef struct rf_nccl_id {
    char internal[RF_LINK_ID];
} rf_nccl_id;

enum { RF_NCCL_SUCCESS = 0, RF_NCCL_INVALID_USAGE = 5, RF_NCCL_IN_PROGRESS = 7 }; /* results */
enum { RF_NCCL_UINT8 = 1, RF_NCCL_FLOAT = 7, RF_NCCL_DOUBLE = 8 };                /* types */
enum { RF_NCCL_SUM = 0 };                                                         /* operations */

/* Functions of the library. Each returns a result. */
typedef struct rf_nccl {
    char name[32]; /* "NCCL 2.28.9" */
    int (*get_version)(int *version);
    int (*get_unique_id)(rf_nccl_id *id);
    int (*init_rank)(rf_nccl_comm *comm, int n_ranks, rf_nccl_id id, int rank);
    int (*destroy)(rf_nccl_comm comm);
    int (*abort)(rf_nccl_comm comm);
    int (*get_async_error)(rf_nccl_comm comm, int *result);
    const char *(*get_error_string)(int result);
    int (*group_start)(void);
    int (*group_end)(void);
    int (*send)(const void *from, size_t n, int type, int peer, rf_nccl_comm comm,
                rf_cuda_stream stream);
    int (*receive)(void *to, size_t n, int type, int peer, rf_nccl_comm comm,
                   rf_cuda_stream stream);
    int (*broadcast)(const void *from, void *to, size_t n, int type, int root, rf_nccl_comm comm,
                     rf_cuda_stream stream);
    int (*reduce)(const void *from, void *to, size_t n, int type, int op, int root,
                  rf_nccl_comm comm, rf_cuda_stream stream);
} rf_nccl;

/* The library of this process: the file that RF_NCCL names, else libnccl.so.2 where the system's loader
 * finds it. RF_NCCL=none: an error, like any that is missing or older than 2.7. */
RF_MUST_CHECK int rf_nccl_load(const rf_nccl **out, rf_error *err);

/* --- Lanes ------------------------------------------------------------------------------------ */

/* A stream beside the one of a context, with marks in it and some memory of its own. */
typedef struct rf_cuda_lane rf_cuda_lane;

RF_MUST_CHECK int rf_cuda_lane_new(rf_cuda_lane **out, size_t bytes, rf_error *err);
void rf_cuda_lane_free(rf_cuda_lane *lane); /* NULL is fine */
rf_cuda_stream rf_cuda_lane_stream(const rf_cuda_lane *lane);
void *rf_cuda_lane_memory(const rf_cuda_lane *lane);
/* What is put into the lane from here on comes after all that ctx was given so far. */
RF_MUST_CHECK int rf_cuda_lane_follow(rf_cuda_lane *lane, rf_ctx *ctx, rf_error *err);
RF_MUST_CHECK int rf_cuda_lane_copy(rf_cuda_lane *lane, void *dst, const void *src, size_t bytes,
                                    rf_error *err);
/* *mark: behind what was put into the lane so far; from 1, ascending. */
RF_MUST_CHECK int rf_cuda_lane_mark(rf_cuda_lane *lane, int64_t *mark, rf_error *err);
/* Is everything before the mark done? An older one may be told from one behind it, never too early. */
RF_MUST_CHECK int rf_cuda_lane_passed(const rf_cuda_lane *lane, int64_t mark, bool *passed,
                                      rf_error *err);

#endif
