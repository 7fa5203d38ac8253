/* few.h: products of inference on tensor cores, from one row to many.             all local
 *
 * As launch.h: read by C17 and C++, functions return the runtime's code. */
#ifndef RF_KERNELS_CUDA_INFER_FEW_H
#define RF_KERNELS_CUDA_INFER_FEW_H

#include "common/kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The most products that a launch makes of one x; rows of x whose norm a product makes itself. */
enum { RF_CUDA_TOGETHER = 3, RF_CUDA_NORMED = 4 };

/* One of a launch's products: y = x w^T + bias + residual. */
typedef struct rf_cuda_factor {
    const void *w;                /* [out,in] bf16, aligned to 16 bytes */
    int64_t out;                  /* a multiple of 4 */
    const float *bias, *residual; /* NULL: none; residual [n,out] may be y */
    rf_cuda_real y;               /* [n,out] f32 or bf16, aligned to 16 bytes */
} rf_cuda_factor;

/* Up to RF_CUDA_TOGETHER products; or, with `gates`, of w[0] and w[1] silu(x w0^T) * (x w1^T) into the
 * first y. in: a multiple of 8. The order of sums: few.cu. */
typedef struct rf_cuda_few {
    const void *x; /* [n,in] bf16, aligned to 16 bytes */
    rf_cuda_factor of[RF_CUDA_TOGETHER];
    int count;
    bool gates;
    int64_t n, in;
    /* stream not NULL: x is rmsnorm(stream) with gain, with the bits of rf_cuda_norm_stream, and n is at most
     * RF_CUDA_NORMED */
    const float *stream, *gain;
    float eps;
} rf_cuda_few;
int rf_cuda_multiply_few(rf_cuda_stream, const rf_cuda_few *product);
/* May x of this width be normed by the product? */
bool rf_cuda_few_norms(int64_t in);

/* y [n,d] bf16 = rmsnorm(x) gain; d: a multiple of 8. */
int rf_cuda_norm_stream(rf_cuda_stream, uint16_t *y, const float *x, const float *gain, int64_t n,
                        int64_t d, float eps);

/* q [n,h,head_dim], k, v [n,g,head_dim] bf16, as the products made them: q becomes its norm (gain NULL:
 * none), rotated by its position, in place; k likewise and v as it is go to the cache's places (NULL: place i; the cache may be k and v themselves
 * then). head_dim: 64 or 128. */
typedef struct rf_cuda_heads {
    uint16_t *q;
    const uint16_t *k, *v;
    uint16_t *cache_k, *cache_v;
    const float *q_gain, *k_gain, *cosine, *sine;
    const int32_t *position, *place;
    int64_t n, h, g, head_dim;
    float eps;
} rf_cuda_heads;
int rf_cuda_turn_heads(rf_cuda_stream, const rf_cuda_heads *heads);

/* o = attention of q over the cache's keys and values, all bf16 as above. run [n_runs,6] and span [n,4] as
 * in spans.h; runs without queries are passed over. The keys of a span are cut into parts of
 * RF_CUDA_PART from its begin; parts of a query are merged in order. Where all parts of all runs fit into
 * `part` each has a block of its own, else a block takes a run. h/g at most RF_CUDA_SHARED. */
enum { RF_CUDA_PART = 128, RF_CUDA_SHARED = 8, RF_CUDA_PART_RUNS = 256 };
typedef struct rf_cuda_parts { /* of a query: rows row, row + step, ... of `part`; count 0: none */
    int32_t row, step, count;
} rf_cuda_parts;
typedef struct rf_cuda_attend {
    const uint16_t *q, *k, *v;
    uint16_t *o;
    const int32_t *span, *run;
    int64_t n, n_runs, keys, h, g, head_dim;
    float *part; /* [part_rows,h,head_dim + 4] scratch */
    int64_t part_rows;
    rf_cuda_parts *table; /* [n] scratch */
} rf_cuda_attend;
int rf_cuda_attend_few(rf_cuda_stream, const rf_cuda_attend *attention);
/* The second half of it. */
int rf_cuda_merge_parts(rf_cuda_stream, const rf_cuda_attend *attention);

#ifdef __cplusplus
}
#endif

#endif
