/* parts.cuh: how the keys of a run's spans are cut. */
#ifndef RF_KERNELS_CUDA_INFER_PARTS_CUH
#define RF_KERNELS_CUDA_INFER_PARTS_CUH

#include "common/kernels/cuda/infer/few.h"
#include "common/kernels/cuda/real.cuh"

/* Columns of rf_spans.run. */
enum { QUERY_BEGIN, QUERY_END, SPAN_BEGIN, SPAN_END, RUN_COLUMNS = 6 };

/* Parts of a run's first or second span. */
static __device__ inline int parts_of(const int32_t *run, int span)
{
    return (run[SPAN_END + 2 * span] - run[SPAN_BEGIN + 2 * span] + RF_CUDA_PART - 1) /
           RF_CUDA_PART;
}

#endif
