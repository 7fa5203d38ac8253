/* few.h: products of inference on tensor cores, from one row to many.             all local
 *
 * As launch.h: read by C17 and C++, functions return the runtime's code. */
#ifndef RF_KERNELS_CUDA_INFER_FEW_H
#define RF_KERNELS_CUDA_INFER_FEW_H

#include "common/kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Queries, keys and values on their way from the products to attention: the norm of each head (gain NULL:
 * none) and the rotation by its position, of v neither; q to q [n,h,head_dim], k and v to their places
 * (NULL: place i) in the cache. All bf16; head_dim: 64 or 128. */
typedef struct rf_cuda_heads {
    uint16_t *q, *cache_k, *cache_v;
    const float *q_gain, *k_gain, *cosine, *sine;
    const int32_t *position, *place;
    int64_t h, g, head_dim;
    float eps;
} rf_cuda_heads;

/* o = attention of q over the cache's keys and values, all bf16 as above. run [n_runs,6] and span [n,4] as
 * in spans.h; runs without queries are the last; run is aligned to 8 bytes. h/g at most RF_CUDA_SHARED.
 * The plan is made once for all blocks of a pass; with more than RF_CUDA_PLANNED runs there is none, and a
 * block makes a run. */
enum { RF_CUDA_PART = 64, RF_CUDA_SECTION = 8, RF_CUDA_SHARED = 8, RF_CUDA_PLANNED = 256 };
/* Up to so many rows of parts they are made side by side, beyond it sections are. */
enum { RF_CUDA_FEW_PARTS = 4096, RF_CUDA_ALL_SPANS = 2 };
/* Parts [first, last) of a span of a run; its queries are rows row, row + 1, ... of `part`. With
 * RF_CUDA_ALL_SPANS all of the run, and no rows. */
typedef struct rf_cuda_unit {
    int32_t run, span, first, last, row;
} rf_cuda_unit;
/* Of a query: rows row, row + step, ... of `part`, first those of the first span; `each` of them make a
 * section. front below 0: the result is there. */
typedef struct rf_cuda_parts {
    int32_t row, step, front, back, each;
} rf_cuda_parts;
/* How blocks of threads of a pass (pass.h) hand words to each other: letters, of 4 bytes each and the number
 * that tells when they were written. The plan counts passes: *number goes up by RF_CUDA_PASS_NUMBERS, so
 * that no letter that is there has a number of this pass; and it sets `arrived` to 0. */
enum { RF_CUDA_PASS_NUMBERS = 1024, RF_CUDA_ARRIVED = 4 };
typedef struct rf_cuda_mail {
    uint64_t *letter; /* [letters] scratch that nothing else writes, 0 at first */
    int64_t letters;
    uint32_t *number;  /* [1], likewise */
    uint32_t *arrived; /* [RF_CUDA_ARRIVED] */
} rf_cuda_mail;
typedef struct rf_cuda_attend {
    const uint16_t *q, *k, *v;
    uint16_t *o;
    const int32_t *span, *run, *place; /* place: where the pass's keys go; NULL: place i */
    int64_t n, n_runs, keys, h, g, head_dim;
    float *part; /* [part_rows,h,head_dim + 4] scratch */
    int64_t part_rows;
    rf_cuda_parts *table; /* [n], */
    rf_cuda_unit *unit;   /* [part_rows + RF_CUDA_PLANNED], */
    int32_t *units;       /* [2] the plan: how many units; the first place not to be read early */
    rf_cuda_mail mail;
} rf_cuda_attend;
/* early: attend_few may fetch, while the kernel before it ends, keys that this pass does not write. To find them is
 * spared where one kernel makes the pass. */
int rf_cuda_plan_attention(rf_cuda_stream, const rf_cuda_attend *attention, bool early);
/* Leaves the units; then the merge. */
int rf_cuda_attend_few(rf_cuda_stream, const rf_cuda_attend *attention);
int rf_cuda_merge_parts(rf_cuda_stream, const rf_cuda_attend *attention);

/* The most products that a launch makes of one x; rows of x whose norm a product makes itself. */
enum { RF_CUDA_TOGETHER = 3, RF_CUDA_NORMED = 4 };

/* One of a launch's products: y = x w^T + bias + residual. */
typedef struct rf_cuda_factor {
    const void *w;                /* [out,in] bf16, or int8 rows; aligned to 16 bytes */
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
    bool gates, int8; /* int8: all weights are */
    int64_t n, in;
    /* stream not NULL: x is rmsnorm(stream) with gain, with the bits of rf_cuda_norm_stream, and n is at most
     * RF_CUDA_NORMED */
    const float *stream, *gain;
    float eps;
    /* not NULL: three products, of q, k and v, and this instead of their y */
    const rf_cuda_heads *heads;
} rf_cuda_few;
int rf_cuda_multiply_few(rf_cuda_stream, const rf_cuda_few *product);
/* Is x of this size to be normed by the product? */
bool rf_cuda_few_norms(int64_t n, int64_t in);

/* y [n,d] bf16 = rmsnorm(x) gain; d: a multiple of 8. */
int rf_cuda_norm_stream(rf_cuda_stream, uint16_t *y, const float *x, const float *gain, int64_t n,
                        int64_t d, float eps);

#ifdef __cplusplus
}
#endif

#endif
