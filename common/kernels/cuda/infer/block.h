/* block.h: inference in bf16 (block.c).                                           all local */
#ifndef RF_KERNELS_CUDA_INFER_BLOCK_H
#define RF_KERNELS_CUDA_INFER_BLOCK_H

#include "common/kernels/cuda/infer/pass.h"
#include "common/kernels/cuda/internal.h"

rf_takes_blocks_fn rf_cuda_takes_blocks;
rf_block_forward_fn rf_cuda_block_forward;
/* The pass whose blocks are being collected, a context's own. */
rf_cuda_pass *rf_cuda_pass_of(const rf_ctx *ctx);
/* The end of a context's scratch, which they have for themselves. */
size_t rf_cuda_block_scratch(const rf_limits *limits);

/* Is it a product of inference that tensor cores can make? Its sizes and types decide, and where its
 * operands lie; not the number of rows. */
bool rf_cuda_takes_product(const rf_ctx *ctx, const rf_cuda_product *product);
void rf_cuda_few_product(rf_ctx *ctx, const rf_cuda_product *product);

#endif
