/* int8.cuh: int8 weights as the operand of a product of inference (few.cu).
 *
 * A chunk of 128 weights a row lies in shared memory as launch.h says, permuted as all tiles (hopper.cuh). The
 * lanes of a warp turn those of its 16 rows into bf16, which holds them exactly, and tensor cores take them from
 * registers. A chunk is a group (quantize.h): what it sums up to is multiplied by its rows' scales and added
 * in f32. */
#ifndef RF_KERNELS_CUDA_INFER_INT8_CUH
#define RF_KERNELS_CUDA_INFER_INT8_CUH

#include "common/kernels/cuda/infer/ring.cuh"
#include "common/kernels/cuda/wgmma.cuh"

/* Products of a chunk; a half of them is on its way while the other half's weights are converted. */
enum { INT8_STEPS = RF_CUDA_INT8_CHUNK / TILE_STEP, INT8_HALF = INT8_STEPS / 2 };
static_assert(chunk<int8_t>::columns == RF_CUDA_INT8_CHUNK &&
                  int{RF_CUDA_INT8_CHUNK} == int{RF_QUANTIZE_GROUP},
              "what a copy brings of a row is a group");

/* --- From int8 to bf16 ----------------------------------------------------------------------- */

/* What a lane has of a chunk: 32 weights of row lane / 4 of its warp, and of the row 8 further; a word a step. */
typedef struct int8_rows {
    uint4 near[2], far[2];
} int8_rows;

static __device__ inline uint4 read_shared(unsigned address)
{
    uint4 x;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(address));
    return x;
}

/* tile: the 64 rows of the thread's group. */
static __device__ inline int8_rows read_int8(unsigned tile)
{
    const unsigned thread = threadIdx.x % GROUP, lane = thread % WARP, row = lane / 4;
    const unsigned own = tile + (thread / WARP * 16 + row) * TILE_ROW;
    const unsigned first = (lane % 4 * 2 ^ row) * 16, second = first ^ 16;
    return {{read_shared(own + first), read_shared(own + second)},
            {read_shared(own + 8 * TILE_ROW + first), read_shared(own + 8 * TILE_ROW + second)}};
}

/* Two bytes q of `bytes` as bf16. With 128 as its high byte's exponent a number holds seven bits below: 128 + the
 * lower seven bits of q, minus 128, or 256 where q is negative. */
template <unsigned WHICH> static __device__ inline unsigned as_bf16(unsigned bytes)
{
    const unsigned both = __byte_perm(bytes, 0x43434343U, WHICH);
    unsigned pair;
    asm("sub.rn.bf16x2 %0, %1, %2;"
        : "=r"(pair)
        : "r"(both & 0xff7fff7fU), "r"(both & 0xff80ff80U));
    return pair;
}

/* The left operands of the steps of a half. */
typedef unsigned int8_left[INT8_HALF][4];
static __device__ inline void convert(int8_left &left, const int8_rows &rows, int half)
{
    enum : unsigned { LOWER = 0x4140, UPPER = 0x4342 };
    const uint4 a = rows.near[half], b = rows.far[half];
    const unsigned near[] = {a.x, a.y, a.z, a.w}, far[] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int step = 0; step < INT8_HALF; step++) {
        left[step][0] = as_bf16<LOWER>(near[step]);
        left[step][1] = as_bf16<LOWER>(far[step]);
        left[step][2] = as_bf16<UPPER>(near[step]);
        left[step][3] = as_bf16<UPPER>(far[step]);
    }
}

/* --- Scales ---------------------------------------------------------------------------------- */

/* Of the 16 rows of a warp, two groups at a time: a lane has one of row lane / 2, and the next two groups' on
 * its way. */
template <int ROWS> struct int8_scales {
    enum { GROUPS = 2, WINDOW = GROUPS * RF_QUANTIZE_GROUP };
    const float *own;
    int most, window;
    float now, next;

    __device__ float read(int number) const
    {
        const int group = number * GROUPS + static_cast<int>(threadIdx.x) % GROUPS;
        return own[min(group, most)];
    }

    __device__ void begin(const operands &p, const place &at)
    {
        const int thread = static_cast<int>(threadIdx.x);
        const int row = thread / WARP * 16 + thread % WARP / GROUPS,
                  part = p.gates ? ROWS / 2 : ROWS;
        const int which = row < part ? at.which : 1;
        const int64_t out = min(at.row + row % part, p.of[which].out - 1);
        own = reinterpret_cast<const float *>(p.int8[which] + out * rf_cuda_int8_row(p.in) +
                                              rf_cuda_int8_scales(p.in));
        most = static_cast<int>(rf_quantize_groups(p.in)) - 1;
        window = at.begin / WINDOW;
        now = read(window);
        next = read(window + 1);
    }

    /* Of rows lane / 4 and 8 further, the group of `column`; columns ascend by chunks. */
    __device__ float2 of(int column)
    {
        if (column / WINDOW > window) {
            window++;
            now = next;
            next = read(window + 1);
        }
        const int lane = static_cast<int>(threadIdx.x) % WARP;
        const int from = lane / 4 * GROUPS + column / RF_QUANTIZE_GROUP % GROUPS;
        return {__shfl_sync(0xffffffffU, now, from), __shfl_sync(0xffffffffU, now, from + 16)};
    }
};

#endif
