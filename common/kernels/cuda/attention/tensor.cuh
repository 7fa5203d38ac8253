/* tensor.cuh: what the passes of attention on tensor cores share.
 *
 * bf16 with heads 64 or 128 wide. Tiles of queries and keys that meet come from lists
 * (tiles.cu), so their order, and every sum's, depends on the batch's spans alone. Pairs of
 * tiles that see each other whole skip the mask; in others each query's two spans decide.
 */
#ifndef RF_KERNELS_CUDA_ATTENTION_TENSOR_CUH
#define RF_KERNELS_CUDA_ATTENTION_TENSOR_CUH

#include "common/kernels/cuda/attention/tile.cuh"

enum { KEYS = RF_CUDA_KEYS, QUERIES = RF_CUDA_QUERIES };
static const float LOG2_E = 1.4426950408889634F, LN_2 = 0.6931471805599453F;

/* Element 0 of a head of x [*,heads,width]. */
static __device__ inline uint16_t *head_of(const rf_cuda_real &x, int64_t head, int64_t width)
{
    return static_cast<uint16_t *>(x.data) + head * width;
}

/* Does a query with these spans see the key? */
static __device__ inline bool sees(const int4 &span, int key)
{
    return static_cast<unsigned>(key - span.x) < static_cast<unsigned>(span.y - span.x) ||
           static_cast<unsigned>(key - span.z) < static_cast<unsigned>(span.w - span.z);
}

/* The spans of query i; of one that is not there: none. */
static __device__ inline int4 span_of(const rf_cuda_spans &spans, int64_t i)
{
    return i < spans.n ? reinterpret_cast<const int4 *>(spans.span)[i] : make_int4(0, 0, 0, 0);
}

/* Begins to copy the tiles of keys and of values that an entry of by_query names; `step`: of their rows. */
template <int WIDTH, int THREADS>
static __device__ inline void fetch_keys(unsigned to, const uint16_t *k, const uint16_t *v,
                                         int64_t step, int entry, int64_t m)
{
    const int64_t keys = static_cast<int64_t>(entry / 2) * KEYS;
    copy_tile<WIDTH, KEYS, THREADS>(to, k, step, keys, m);
    copy_tile<WIDTH, KEYS, THREADS>(to + KEYS * WIDTH * 2, v, step, keys, m);
}

static inline float score_scale(int64_t width)
{
    return static_cast<float>(1.0 / sqrt(static_cast<double>(width)));
}

#endif
