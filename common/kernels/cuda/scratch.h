/* scratch.h: what kernels find in the context's scratch.                           all local
 *
 * What training's products share and the lists of tiles come first; every kernel's own part begins behind them, and
 * the kernel after it uses the same memory. Sizes follow from the context's limits alone.
 */
#ifndef RF_KERNELS_CUDA_SCRATCH_H
#define RF_KERNELS_CUDA_SCRATCH_H

#include "common/base/arena.h"
#include "common/kernels/cuda/internal.h"

/* Training in bf16: large products by cuBLASLt, attention by tensor cores. Inference keeps rule 4 of the
 * contract, and f32 its precision. */
bool rf_cuda_trains_in_half(const rf_limits *limits);

typedef struct rf_cuda_product_scratch {
    void *workspace; /* RF_CUDA_BLAS_BYTES */
    void *half;      /* [places,width] bf16: an operand of class residual, rounded */
} rf_cuda_product_scratch;
rf_cuda_product_scratch rf_cuda_take_products(rf_ctx *ctx);

/* A kernel's own part; nothing of it is taken yet. */
rf_arena rf_cuda_own_part(rf_ctx *ctx);

/* Sums of a product in f32, before their bias: [places, rf_cuda_widest_sums]. */
int64_t rf_cuda_widest_sums(const rf_limits *limits);
void *rf_cuda_take_sums(rf_arena *arena, const rf_limits *limits);

/* A chunk of the head. */
typedef struct rf_cuda_head_scratch {
    int64_t rows;
    /* [rows + 1,V], then the gradient of rows of them; draws take half of it for rows of their own */
    float *logits;
    void *x;     /* [rows,D] activation */
    float *dx;   /* [rows,D] */
    void *parts; /* of rf_cuda_answer */
} rf_cuda_head_scratch;
rf_cuda_head_scratch rf_cuda_take_head(rf_ctx *ctx, int64_t d, int64_t v);

/* Lists of attention's tiles; order: of the tiles of many queries. */
typedef struct rf_cuda_tile_lists {
    int32_t *by_query, *by_key, *order;
} rf_cuda_tile_lists;
/* Do these limits have room for them? */
bool rf_cuda_has_lists(const rf_limits *limits);
/* Theirs, which no kernel's own part touches: of the forward or of the backward pass. */
rf_cuda_tile_lists rf_cuda_take_lists(rf_ctx *ctx, bool forward);

/* Sums of pieces of n rows of width d, for the gradients of gains and biases. */
float *rf_cuda_take_part(rf_ctx *ctx, int64_t n, int64_t d);
/* Room to sort n places by their tokens. */
int32_t *rf_cuda_take_order(rf_ctx *ctx, int64_t n);

#endif
