/* part.cuh: what makes a part of attention (attend.cu, pass.cu): copies, products of tiles by a warp, and the
 * softmax of a part. */
#ifndef RF_KERNELS_CUDA_INFER_PART_CUH
#define RF_KERNELS_CUDA_INFER_PART_CUH

#include "common/kernels/cuda/hopper.cuh"
#include "common/kernels/cuda/infer/few.h"

enum { PART = RF_CUDA_PART };

/* 16 bytes; zeros where there are none. */
static __device__ inline void copy_piece(void *to, const void *from, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}

template <int PENDING> static __device__ inline void wait_pieces()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

static __device__ inline void commit_pieces()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

static __device__ inline void load_four(uint32_t (&x)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row)));
}

static __device__ inline void load_four_turned(uint32_t (&x)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row)));
}

/* sum (16 x 8) += a (16 x 16) b (16 x 8). */
static __device__ inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The largest, or the sum, over the four lanes that share a row. */
static __device__ inline float quad_most(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffU, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffU, x, 2));
}

static __device__ inline float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffU, x, 1);
    return x + __shfl_xor_sync(0xffffffffU, x, 2);
}

/* 2^x; 0 below 2^-126. */
static __device__ inline float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* From scores to weights, bf16 pairs as the second product reads them; `count`: how many of the part's
 * keys the row sees. A warp. scale: above 0. */
static __device__ inline void weigh(uint32_t (&weight)[PART / 8][2], float *most, float *sum,
                                    const float (&score)[PART / 8][4], int half, int count,
                                    float scale)
{
    const int key = static_cast<int>(threadIdx.x) % 4 * 2;
    float x[PART / 4], largest = -INFINITY, total = 0.0F;
#pragma unroll
    for (int e = 0; e < PART / 4; e++) {
        x[e] = score[e / 2][half * 2 + e % 2];
    }
    if (__any_sync(0xffffffffU, count < PART)) {
#pragma unroll
        for (int e = 0; e < PART / 4; e++) {
            x[e] = key + e / 2 * 8 + e % 2 < count ? x[e] : -INFINITY;
        }
    }
#pragma unroll
    for (int e = 0; e < PART / 4; e++) {
        largest = fmaxf(largest, x[e]);
    }
    largest = quad_most(largest) * scale;
    const float base = largest > -INFINITY ? -largest : 0.0F;
#pragma unroll
    for (int e = 0; e < PART / 4; e += 2) {
        const float a = power_of_two(fmaf(x[e], scale, base)),
                    b = power_of_two(fmaf(x[e + 1], scale, base));
        total += a + b;
        weight[e / 2][half] = pack_pair(a, b);
    }
    *most = largest;
    *sum = quad_sum(total);
}

#endif
