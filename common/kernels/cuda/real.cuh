/* real.cuh: elements of real operands, and how kernels of this folder are launched. */
#ifndef RF_KERNELS_CUDA_REAL_CUH
#define RF_KERNELS_CUDA_REAL_CUH

#include "common/kernels/cuda/launch.h"
#include "common/kernels/quantize.h"

#include <cstring>
#include <cuda_runtime.h>

/* RESIDENT: how many blocks share a multiprocessor's registers, in kernels that need many. */
enum { WARP = 32, BLOCK = 256, WARPS = BLOCK / WARP, RESIDENT = 2 };

/* The type is the same for all threads, so that the branches cost next to nothing. */
static __device__ inline float read(const rf_cuda_real &x, int64_t i)
{
    if (x.type == RF_CUDA_BF16) {
        return rf_quantize_from_bf16(static_cast<const uint16_t *>(x.data)[i]);
    }
    const float value = static_cast<const float *>(x.data)[i];
    return x.type == RF_CUDA_F32_AS_BF16 ? rf_quantize_from_bf16(rf_quantize_bf16(value)) : value;
}

/* Element `inner` of row `row` of an operand [*,width] that may be int8. Element (row, inner) of others
 * is row*step + inner*inner_step. */
static __device__ inline float read_row(const rf_cuda_real &x, int64_t row, int64_t inner,
                                        int64_t step, int64_t inner_step, int64_t width)
{
    if (x.type == RF_CUDA_INT8) {
        const char *data = static_cast<const char *>(x.data) + row * rf_cuda_int8_row(width);
        const float *scale = reinterpret_cast<const float *>(data + rf_cuda_int8_scales(width));
        return scale[inner / RF_QUANTIZE_GROUP] *
               static_cast<float>(static_cast<int8_t>(data[rf_cuda_int8_at(inner)]));
    }
    return read(x, row * step + inner * inner_step);
}

static __device__ inline void write(const rf_cuda_real &x, int64_t i, float value)
{
    if (x.type == RF_CUDA_BF16) {
        static_cast<uint16_t *>(x.data)[i] = rf_quantize_bf16(value);
    } else {
        static_cast<float *>(x.data)[i] = value;
    }
}

/* EACH neighbouring elements from i on: one, or RUN of them, in 16-byte pieces, where i is a multiple of RUN
 * and the operand begins at a multiple of 16 bytes. */
enum { RUN = 8 };
static inline bool in_runs(const rf_cuda_real &x)
{
    return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.type != RF_CUDA_INT8;
}

/* Two floats as bf16, the first in the lower half. */
static __device__ inline unsigned pack_pair(float first, float second)
{
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

template <int EACH>
static __device__ inline void read_run(float value[EACH], const rf_cuda_real &x, int64_t i)
{
    static_assert(EACH == 1 || EACH == RUN, "one element or a run");
    if (EACH == 1) {
        value[0] = read(x, i);
    } else if (x.type == RF_CUDA_BF16) {
        const uint4 four =
            *reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(x.data) + i);
        const unsigned pair[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            value[e] = __uint_as_float(e % 2 == 0 ? pair[e / 2] << 16 : pair[e / 2] & 0xffff0000U);
        }
    } else {
        const float *from = static_cast<const float *>(x.data) + i;
#pragma unroll
        for (int e = 0; e < EACH; e += 4) {
            const float4 four = *reinterpret_cast<const float4 *>(from + e);
            value[e] = four.x, value[e + 1] = four.y, value[e + 2] = four.z, value[e + 3] = four.w;
        }
    }
}

template <int EACH>
static __device__ inline void write_run(const rf_cuda_real &x, int64_t i, const float value[EACH])
{
    if (EACH == 1) {
        write(x, i, value[0]);
    } else if (x.type == RF_CUDA_BF16) {
        unsigned pair[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            pair[e] = pack_pair(value[2 * e % EACH], value[(2 * e + 1) % EACH]);
        }
        *reinterpret_cast<uint4 *>(static_cast<uint16_t *>(x.data) + i) =
            make_uint4(pair[0], pair[1], pair[2], pair[3]);
    } else {
        float *to = static_cast<float *>(x.data) + i;
#pragma unroll
        for (int e = 0; e < EACH; e += 4) {
            *reinterpret_cast<float4 *>(to + e) =
                make_float4(value[e], value[e + 1], value[e + 2], value[e + 3]);
        }
    }
}

/* The sum over the lanes of a warp, in every lane: a fixed tree. */
static __device__ inline float warp_sum(float x)
{
    for (int step = WARP / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffU, x, step);
    }
    return x;
}

/* What the lane whose number differs in the bit `step` has. */
template <typename Value> static __device__ inline Value from_lane(Value value, int step)
{
    static_assert(sizeof(Value) % sizeof(unsigned) == 0, "whole words");
    unsigned word[sizeof(Value) / sizeof(unsigned)];
    memcpy(word, &value, sizeof(value));
#pragma unroll
    for (unsigned &own : word) {
        own = __shfl_xor_sync(0xffffffffU, own, step);
    }
    memcpy(&value, word, sizeof(value));
    return value;
}

/* Joins the values of a warp's lanes by a fixed tree, the result in every lane. join(a, b) is join(b, a). */
template <typename Value, typename Join>
static __device__ inline Value join_lanes(Value value, Join join)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        value = join(value, from_lane(value, step));
    }
    return value;
}

/* The same of a block's threads, the result in every thread: each warp by that tree, then its warps in order. */
template <typename Value, typename Join>
static __device__ inline Value join_all(Value value, Join join)
{
    __shared__ Value part[WARPS];
    value = join_lanes(value, join);
    __syncthreads(); /* the last result has been read */
    if (threadIdx.x % WARP == 0) {
        part[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    value = part[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++) {
        value = join(value, part[w]);
    }
    return value;
}

static inline unsigned blocks_for(int64_t count, int64_t each)
{
    return static_cast<unsigned>((count + each - 1) / each);
}

/* This thread's number among all of the grid. */
static __device__ inline int64_t thread_number()
{
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

#endif
