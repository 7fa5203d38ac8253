/* parts.cuh: how the keys of a run's spans are cut. */
#ifndef RF_KERNELS_CUDA_INFER_PARTS_CUH
#define RF_KERNELS_CUDA_INFER_PARTS_CUH

#include "common/kernels/cuda/infer/few.h"
#include "common/kernels/cuda/real.cuh"

/* A row of rf_spans.run: its queries, and the keys of its two spans, each [x,y). */
typedef struct own_run {
    int2 queries, span[2];
} own_run;

static __device__ inline const own_run &run_at(const rf_cuda_attend &p, int number)
{
    return reinterpret_cast<const own_run *>(p.run)[number];
}

/* How many parts keys [x,y) are cut into; part i of them. */
static __device__ inline int parts_of(int2 keys)
{
    return (keys.y - keys.x + RF_CUDA_PART - 1) / RF_CUDA_PART;
}

static __device__ inline int2 part_of(int2 keys, int i)
{
    const int begin = keys.x + i * RF_CUDA_PART;
    return make_int2(begin, min(keys.y, begin + int{RF_CUDA_PART}));
}

/* Sections of a run at most, of all `keys`: what the launch of attend.cu knows of the plan's choice (plan.cu). */
static inline int64_t most_sections(int64_t keys)
{
    return keys / (RF_CUDA_PART * RF_CUDA_SECTION) + 2;
}

#endif
