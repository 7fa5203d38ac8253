/* row.cuh: rows of runs, LANES lanes of a warp each, STEPS runs a lane: what norms and heads share. */
#ifndef RF_KERNELS_CUDA_ROW_CUH
#define RF_KERNELS_CUDA_ROW_CUH

#include "common/kernels/cuda/real.cuh"

/* The sum over the LANES lanes of a row, in each of them: a fixed tree. */
template <int LANES> static __device__ inline float row_sum(float x)
{
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffU, x, step);
    }
    return x;
}

/* What the rows of a block that LANES lanes each took add to the gain's gradient, row after row. */
template <int LANES, int STEPS>
static __device__ inline void join_rows(float *part, const float sum[STEPS][RUN], int d)
{
    constexpr int GROUPS = BLOCK / LANES;
    __shared__ float all[GROUPS][LANES * RUN + 1];
    const int lane = static_cast<int>(threadIdx.x) % LANES,
              group = static_cast<int>(threadIdx.x) / LANES;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        __syncthreads(); /* the last sums have been read */
#pragma unroll
        for (int e = 0; e < RUN; e++) {
            all[group][lane * RUN + e] = sum[s][e];
        }
        __syncthreads();
        for (int j = static_cast<int>(threadIdx.x); j < LANES * RUN; j += BLOCK) {
            float total = 0.0F;
            for (int g = 0; g < GROUPS; g++) {
                total += all[g][j];
            }
            if (s * LANES * RUN + j < d) {
                part[s * LANES * RUN + j] = total;
            }
        }
    }
}

/* Behind a backward kernel that left pieces of the gain's gradient; the code of both launches. */
static inline int sum_gain(rf_cuda_stream stream, const rf_cuda_norm_slopes *s, int64_t pieces)
{
    const int code = cudaGetLastError();
    return code != 0 || s->dgain == nullptr
               ? code
               : rf_cuda_sum_pieces(stream, s->dgain, s->part, pieces, s->d);
}

#endif
