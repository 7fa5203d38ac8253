/* pass_room.cuh: what a block of threads of a pass (pass.cu) works on and has.
 */
#ifndef RF_KERNELS_CUDA_INFER_PASS_ROOM_CUH
#define RF_KERNELS_CUDA_INFER_PASS_ROOM_CUH

#include "common/kernels/cuda/hopper.cuh"
#include "common/kernels/cuda/infer/few.h"
#include "common/kernels/cuda/infer/part.cuh"
#include "common/kernels/cuda/infer/parts.cuh"
#include "common/kernels/cuda/infer/pass.h"

enum {
    GROUPS = 3,
    WORKERS = GROUPS * GROUP,
    WORKER_WARPS = WORKERS / WARP,
    THREADS = WORKERS + WARP,
    STAGE = RF_CUDA_TILE * TILE_ROW,
    ALIGNMENT = 1024,
    LEAST_STAGES = 8,
    MOST_ROWS = RF_CUDA_PASS_ROWS,
    SHARED_MEMORY = 227 << 10,
    WIDTH = RF_CUDA_PASS_WIDTH,
    QUERY_ROWS = 16,
    KEY_PAD = 8,
    SCORE_PAD = 4
};
enum { HEADS, ATTENDED, GATES, DOWN, PRODUCTS }; /* products of a block */

typedef uint64_t letter; /* pass_mail.cuh */
/* A block of the model: its slot of the mail, its number, the stream that it begins with (NULL: that in
 * memory, of the launch's first block). */
struct mail {
    letter *slot;
    const letter *stream;
    uint32_t number;
    bool is_last; /* of the launch: its stream goes to memory */
};

struct own_block {
    CUtensorMap w[RF_CUDA_PASS_MATRICES];
    const float *attention_gain, *mlp_gain, *q_gain, *k_gain, *q_bias, *k_bias, *v_bias, *o_bias;
    uint16_t *keys, *values;
};

struct own_pass {
    own_block block[RF_CUDA_PASS_BLOCKS];
    rf_cuda_deal deal[PRODUCTS];
    rf_cuda_slot slot;
    int blocks, before, n, d, f, wide, stages, x_bytes; /* wide: of a row of `raw` */
    float eps, scale;
    float *x;
    const float *cosine, *sine;
    const int32_t *position, *place;
    rf_cuda_attend attention;
};
static_assert(sizeof(own_pass) <= 32764, "a kernel's arguments");

/* What a part of attention needs in shared memory. */
struct part_tiles {
    uint16_t k[PART][WIDTH + KEY_PAD], v[PART][WIDTH + KEY_PAD], q[QUERY_ROWS][WIDTH + KEY_PAD];
    float score[QUERY_ROWS][PART + SCORE_PAD];
};

/* Shared memory: the ring, x of a product or a part of attention, sums by slices. */
struct room {
    unsigned ring, full, empty, x;
    char *x_data;
    part_tiles *tiles;
    float *sums;
    __device__ unsigned full_at(int s) const
    {
        return full + static_cast<unsigned>(s) * 8U;
    }
    __device__ unsigned empty_at(int s) const
    {
        return empty + static_cast<unsigned>(s) * 8U;
    }
};

static __device__ inline void meet(unsigned barrier, unsigned threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

static __device__ inline void workers_meet()
{
    meet(1, WORKERS);
}

static __device__ inline int group_number()
{
    return static_cast<int>(threadIdx.x) / GROUP;
}

static __device__ inline void group_meets()
{
    meet(2U + threadIdx.x / GROUP, GROUP);
}

#endif
