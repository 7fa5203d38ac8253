/* stream.cuh: the norm of a row of the stream by four warps, for products that norm their x themselves and
 * for the kernel that does it for them: the same order of sums, hence the same bits. */
#ifndef RF_KERNELS_CUDA_INFER_STREAM_CUH
#define RF_KERNELS_CUDA_INFER_STREAM_CUH

#include "common/kernels/cuda/hopper.cuh"

/* A thread takes pieces of this many elements, GROUP of them apart. */
enum { PIECE = 8, NORM_WARPS = GROUP / WARP };

typedef struct piece {
    float x[PIECE];
} piece;

static __device__ inline piece read_piece(const float *from)
{
    const float4 a = *reinterpret_cast<const float4 *>(from);
    const float4 b = *reinterpret_cast<const float4 *>(from + 4);
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

static __device__ inline float add_squares(float sum, const piece &p)
{
#pragma unroll
    for (int e = 0; e < PIECE; e++) {
        sum = fmaf(p.x[e], p.x[e], sum);
    }
    return sum;
}

/* A thread's part of the sum of squares of a row [d], joined over its warp. */
static __device__ inline float sum_of_warp(const float *row, int d)
{
    float sum = 0.0F;
#pragma unroll 2
    for (int j = static_cast<int>(threadIdx.x) * PIECE; j < d; j += GROUP * PIECE) {
        sum = add_squares(sum, read_piece(row + j));
    }
    return warp_sum(sum);
}

/* 1/sqrt(mean of squares + eps), from the sums of the four warps. */
static __device__ inline float rate_of(const float (&sum)[NORM_WARPS], int d, float eps)
{
    return rsqrtf(__fdividef(sum[0] + sum[1] + sum[2] + sum[3], static_cast<float>(d)) + eps);
}

static __device__ inline uint4 normed(const piece &x, float rate, const piece &g)
{
    uint32_t word[PIECE / 2];
#pragma unroll
    for (int e = 0; e < PIECE; e += 2) {
        word[e / 2] = pack_pair(x.x[e] * rate * g.x[e], x.x[e + 1] * rate * g.x[e + 1]);
    }
    return {word[0], word[1], word[2], word[3]};
}

#endif
