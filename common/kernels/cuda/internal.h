/* internal.h: what the C sources of this folder share.                             all local */
#ifndef RF_KERNELS_CUDA_INTERNAL_H
#define RF_KERNELS_CUDA_INTERNAL_H

#include "common/kernels/cuda/cuda.h"
#include "common/kernels/cuda/launch.h"

rf_cuda_stream rf_cuda_stream_of(const rf_ctx *ctx);
/* code: what the runtime said of `what`. The first failure stays in ctx->error, where rf_ctx_sync
 * finds it. */
void rf_cuda_take(rf_ctx *ctx, int code, const char *what);

#endif
