/* cuda.h: the backend `cuda`, for NVIDIA GPUs of the Hopper architecture (sm_90).  all local
 *
 * Only in builds with `make CUDA=1`. Includes nothing of CUDA: who uses the backend needs no toolkit.
 */
#ifndef RF_KERNELS_CUDA_CUDA_H
#define RF_KERNELS_CUDA_CUDA_H

#include "common/kernels/kernels.h"

extern const rf_memory rf_cuda_memory;
extern const rf_kernels rf_cuda_kernels;

/* RF_OK where this process can use a GPU that the kernels are compiled for: the one of its seat
 * (rf_backend_set_seat), or that RF_DEVICE names, of those that CUDA_VISIBLE_DEVICES shows. Else an error that says what is missing and what to do. The first call
 * decides; it starts no work on the GPU and takes none of its memory. */
RF_MUST_CHECK int rf_cuda_find(rf_error *err);

#endif
