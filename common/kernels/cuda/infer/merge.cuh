/* merge.cuh: two states of a row of attention become one (arXiv:1805.02867). `most` is in units of
 * log 2. */
#ifndef RF_KERNELS_CUDA_INFER_MERGE_CUH
#define RF_KERNELS_CUDA_INFER_MERGE_CUH

#include <cuda_runtime.h>

/* How much of each stays. One without keys changes nothing. */
typedef struct shares {
    float old, added;
} shares;

static __device__ inline shares merge(float *most, float *sum, float added_most, float added_sum)
{
    if (!(added_most > -INFINITY)) {
        return {1.0F, 0.0F};
    }
    const float largest = fmaxf(*most, added_most);
    const shares s = {exp2f(*most - largest), exp2f(added_most - largest)};
    *sum = fmaf(*sum, s.old, added_sum * s.added);
    *most = largest;
    return s;
}

static __device__ inline float join(float old, float added, const shares &s)
{
    return fmaf(old, s.old, added * s.added);
}

#endif
