/* internal.h: what the C sources of this folder share.                             all local */
#ifndef RF_KERNELS_CUDA_INTERNAL_H
#define RF_KERNELS_CUDA_INTERNAL_H

#include "common/kernels/cuda/cuda.h"
#include "common/kernels/cuda/launch.h"

rf_cuda_stream rf_cuda_stream_of(const rf_ctx *ctx);
/* code: what the runtime said of `what`. The first failure stays in ctx->error, where rf_ctx_sync
 * finds it. */
void rf_cuda_take(rf_ctx *ctx, int code, const char *what);

/* What bf16 copy of a residual operand the scratch holds: of n elements at `of`, until memory of that class
 * changes. `of` NULL: none. */
typedef struct rf_cuda_copy {
    const void *of;
    int64_t n;
} rf_cuda_copy;
rf_cuda_copy *rf_cuda_copy_of(const rf_ctx *ctx);

/* cuBLASLt, opened by the first product that it takes. */
typedef struct rf_cuda_blas rf_cuda_blas;
enum { RF_CUDA_BLAS_BYTES = 32 << 20 }; /* workspace */
/* Where the context keeps it; *... NULL: not yet. */
rf_cuda_blas **rf_cuda_blas_of(rf_ctx *ctx);
void rf_cuda_blas_free(rf_cuda_blas *blas); /* NULL is fine */
/* Can the library make this product? bf16 operands, c f32 or bf16, rows of 16-byte pieces, no bias. */
bool rf_cuda_blas_takes(const rf_cuda_product *product);
/* workspace: RF_CUDA_BLAS_BYTES of scratch. */
void rf_cuda_blas_multiply(rf_ctx *ctx, const rf_cuda_product *product, void *workspace);

#endif
