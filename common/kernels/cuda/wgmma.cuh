/* wgmma.cuh: products of tiles, by the number of their columns.
 *
 * sum (64 x N, f32) = a (64 x 16) b (N x 16)^T, plus sum where `adds`. Of thread t of the group, lane l of
 * warp w: sum[4 j + 2 h + c] is row 16 w + l / 4 + 8 h, column 8 j + 2 (l % 4) + c. */
#ifndef RF_KERNELS_CUDA_WGMMA_CUH
#define RF_KERNELS_CUDA_WGMMA_CUH

#include "common/kernels/cuda/hopper.cuh"

/* The sums of a thread as operands of an instruction, and their names in it. */
#define RF_SUMS_4(i)  "+f"(sum[i]), "+f"(sum[(i) + 1]), "+f"(sum[(i) + 2]), "+f"(sum[(i) + 3])
#define RF_SUMS_8(i)  RF_SUMS_4(i), RF_SUMS_4((i) + 4)
#define RF_SUMS_16(i) RF_SUMS_8(i), RF_SUMS_8((i) + 8)
#define RF_SUMS_32(i) RF_SUMS_16(i), RF_SUMS_16((i) + 16)
#define RF_SUMS_64(i) RF_SUMS_32(i), RF_SUMS_32((i) + 32)
#define RF_NAMES_4    "%0, %1, %2, %3"
#define RF_NAMES_8    RF_NAMES_4 ", %4, %5, %6, %7"
#define RF_NAMES_16   RF_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define RF_NAMES_32                                                                                \
    RF_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define RF_NAMES_64                                                                                \
    RF_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
                ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/* The instruction for N columns, of which a thread has M sums; P, Q, ...: the operands' numbers behind these. */
#define RF_TILES(N, M, P, Q)                                                                       \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #Q ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" RF_NAMES_##M         \
                 "}, %" #M ", %" #P ", p, 1, 1, 0, 0;\n}"                                          \
                 : RF_SUMS_##M(0)                                                                  \
                 : "l"(a), "l"(b), "r"(adds))
#define RF_LEFT(N, M, P, Q, R, S, T, U)                                                            \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #T ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" RF_NAMES_##M         \
                 "}, {%" #M ", %" #P ", %" #Q ", %" #R "}, %" #S ", p, 1, 1, %" #U ";\n}"          \
                 : RF_SUMS_##M(0)                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(TURNED))

/* a and b in shared memory. */
template <int N>
static __device__ inline void multiply_tiles(float (&sum)[N / 2], uint64_t a, uint64_t b, int adds)
{
    static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128, "columns of a tile");
    if constexpr (N == 8) {
        RF_TILES(8, 4, 5, 6);
    } else if constexpr (N == 16) {
        RF_TILES(16, 8, 9, 10);
    } else if constexpr (N == 32) {
        RF_TILES(32, 16, 17, 18);
    } else if constexpr (N == 64) {
        RF_TILES(64, 32, 33, 34);
    } else {
        RF_TILES(128, 64, 65, 66);
    }
}

/* The same with `a` in registers: a[0] has columns 2 (l % 4) + {0,1} of row 16 w + l / 4, a[1] those of the row
 * 8 further, a[2] and a[3] the columns 8 further. They stay as they are until mma_wait. TURNED: b lies as
 * 16 x N. */
template <int N, int TURNED = 0>
static __device__ inline void multiply_left(float (&sum)[N / 2], const unsigned (&a)[4], uint64_t b,
                                            int adds)
{
    static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128, "columns of a tile");
    if constexpr (N == 8) {
        RF_LEFT(8, 4, 5, 6, 7, 8, 9, 10);
    } else if constexpr (N == 16) {
        RF_LEFT(16, 8, 9, 10, 11, 12, 13, 14);
    } else if constexpr (N == 32) {
        RF_LEFT(32, 16, 17, 18, 19, 20, 21, 22);
    } else if constexpr (N == 64) {
        RF_LEFT(64, 32, 33, 34, 35, 36, 37, 38);
    } else {
        RF_LEFT(128, 64, 65, 66, 67, 68, 69, 70);
    }
}
#undef RF_TILES
#undef RF_LEFT

/* Nothing that reads or writes these sums moves across. */
template <int N> static __device__ inline void hold(float (&sum)[N][4])
{
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            asm volatile("" : "+f"(sum[j][e])::"memory");
        }
    }
}

/* The same of a product's left operand. */
template <int N> static __device__ inline void hold(unsigned (&left)[N][4])
{
#pragma unroll
    for (int s = 0; s < N; s++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            asm volatile("" : "+r"(left[s][e])::"memory");
        }
    }
}

#endif
