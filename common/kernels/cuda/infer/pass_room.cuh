/* pass_room.cuh: what a block of threads of a pass (pass.cu) works on and has.
 */
#ifndef RF_KERNELS_CUDA_INFER_PASS_ROOM_CUH
#define RF_KERNELS_CUDA_INFER_PASS_ROOM_CUH

#include "common/kernels/cuda/hopper.cuh"
#include "common/kernels/cuda/infer/few.h"
#include "common/kernels/cuda/infer/part.cuh"
#include "common/kernels/cuda/infer/parts.cuh"
#include "common/kernels/cuda/infer/pass.h"
#include "common/kernels/cuda/infer/stream.cuh"

enum {
    GROUPS = 3,
    WORKERS = GROUPS * GROUP,
    WORKER_WARPS = WORKERS / WARP,
    THREADS = WORKERS + GROUP, /* the last group's first warp loads */
    LOADER_REGISTERS = 56,
    WORKER_REGISTERS = 152,
    STAGE = RF_CUDA_TILE * TILE_ROW,
    ALIGNMENT = 1024,
    LEAST_STAGES = 4 * GROUPS, /* multiply_chunks holds two chunks while it waits for two */
    MOST_ROWS = RF_CUDA_PASS_ROWS,
    SHARED_MEMORY = 227 << 10,
    WIDTH = RF_CUDA_PASS_WIDTH,
    QUERY_ROWS = 16,
    HEAD_TURNS = 3, /* for 16 queries, 16 keys and values of the pass, and what is cached */
    KEY_PAD = 8,
    SCORE_PAD = 4
};
enum { HEADS, ATTENDED, GATES, DOWN, PRODUCTS }; /* products of a block */

typedef uint64_t letter; /* pass_mail.cuh */

/* What is a block's of the model, but for its matrices. */
struct own_block {
    const float *attention_gain, *mlp_gain, *q_gain, *k_gain, *q_bias, *k_bias, *v_bias, *o_bias;
    uint16_t *keys, *values;
    bool has_bias; /* any */
};

/* Read all the time: it lies in shared memory. The constants' cache does not hold as much. */
struct alignas(16) own_pass {
    own_block block[RF_CUDA_PASS_BLOCKS];
    rf_cuda_deal deal[PRODUCTS];
    rf_cuda_slot slot;
    int blocks, before, n, d, f, wide, stages, x_bytes[2]; /* wide: of a row of `raw` */
    float eps, scale;
    float *x;
    const float *cosine, *sine;
    const int32_t *position, *place;
    rf_cuda_attend attention;
};

struct arguments {
    CUtensorMap map[RF_CUDA_PASS_BLOCKS][RF_CUDA_PASS_MATRICES];
    own_pass pass;
};
static_assert(sizeof(arguments) <= 32764, "a kernel's arguments");

/* A part of a run's keys with a key head. */
struct part_work {
    int query, rows, head, span, key, keys, row; /* query: the first; rows: queries times heads */
};

/* A head that a warp makes: query (which 0), key (1) or value (2); below 0: none. Where its sums are in the
 * letters, where it goes: to shared memory, or (NULL) into the cache, and its rotation. */
struct own_head {
    int which, sums;
    uint16_t *to;
    int64_t cached, angle;
};

/* Heads that a part needs: its queries, keys and values of this pass, and what goes into the cache. */
struct head_jobs {
    int queries, keys, cached;
    __device__ int count() const
    {
        return queries + keys + cached;
    }
};

/* A row of a part: how many of its keys it sees, and where in the letters of parts it goes (below 0: there is
 * no such row). */
struct own_row {
    int count, to;
};

/* A query and head, and its parts. */
struct own_merge {
    int number, head; /* number: of the head among all queries' */
    rf_cuda_parts parts;
};

/* What this block of threads has to do in every block of the model alike, the first of which has that number:
 * of each product so many tiles, the first of each group; of attention its first part, of `parts` in all, that
 * part's heads, the first HEAD_TURNS of each warp, its rows; of the merge the first half of a query's head of each group. */
struct own_share {
    uint32_t number;
    int tiles[PRODUCTS];
    rf_cuda_dealt first[PRODUCTS][GROUPS];
    int parts;
    part_work part;
    head_jobs jobs;
    own_head head[HEAD_TURNS * WORKER_WARPS];
    own_row row[QUERY_ROWS];
    own_merge merge[GROUPS];
};

/* What a part of attention needs in shared memory. */
struct alignas(16) part_tiles {
    uint16_t k[PART][WIDTH + KEY_PAD], v[PART][WIDTH + KEY_PAD], q[QUERY_ROWS][WIDTH + KEY_PAD];
    float score[QUERY_ROWS][PART + SCORE_PAD];
    part_work work;
};

/* What all threads of a block know, in shared memory; and where the rest of it lies: the ring, x of a product,
 * a part of attention, pieces, sums by slices, barriers. */
struct room {
    own_pass p;
    own_share share;
    unsigned ring, full, empty; /* barriers of stages that are full, or free again */
    char *x[2];                 /* of a product and the next */
    part_tiles *tiles;
    float *sums, *turn;           /* in room that is free then; turn: pieces, each warp's own */
    float (*squares)[NORM_WARPS]; /* of the rows that a group norms, SIDE_ROWS for each group */
};

/* Bytes of sums for each row of the pass; of pieces; of sums of squares; of all that is laid out. */
enum {
    SUMS = GROUPS * RF_CUDA_TILE * 4,
    TURN = WORKERS * PIECE * 4,
    SIDE_ROWS = (MOST_ROWS + GROUPS - 1) / GROUPS,
    SQUARES = GROUPS * SIDE_ROWS * NORM_WARPS * 4,
    DYNAMIC_MEMORY = (SHARED_MEMORY - sizeof(room)) / 128 * 128
};

/* p is there. One thread. The products whose x is a norm take x[0], between them the others x[1]: then it is
 * free for pieces. Where attention has queries and scores, and then merge_all what it found, there are sums while
 * products are made: between them the workers meet. */
static __device__ inline void lay_out(room *r, char *memory)
{
    static_assert(MOST_ROWS * SUMS <= sizeof(r->tiles->q) + sizeof(r->tiles->score), "room");
    r->x[0] = memory + r->p.stages * STAGE;
    r->x[1] = r->x[0] + r->p.x_bytes[0];
    r->turn = reinterpret_cast<float *>(r->x[1]);
    r->tiles = reinterpret_cast<part_tiles *>(r->x[1] + r->p.x_bytes[1]);
    r->sums = reinterpret_cast<float *>(r->tiles->q);
    r->squares = reinterpret_cast<float(*)[NORM_WARPS]>(r->tiles + 1);
    r->ring = shared_address(memory);
    r->full = shared_address(r->squares + GROUPS * SIDE_ROWS);
    r->empty = r->full + static_cast<unsigned>(r->p.stages) * 8U;
}

/* A stage, counted over two turns of the ring: its slot, and whether the turn is the first of the two. */
struct turn_of_ring {
    int number;
    __device__ unsigned slot(int stages) const
    {
        return static_cast<unsigned>(number < stages ? number : number - stages);
    }
    __device__ unsigned parity(int stages) const
    {
        return number < stages ? 0U : 1U;
    }
    __device__ void step(int stages, int by) /* by at most two turns */
    {
        number += by;
        number -= number >= 2 * stages ? 2 * stages : 0;
    }
    __device__ void advance(int stages, int by)
    {
        for (number += by; number >= 2 * stages; number -= 2 * stages) {
        }
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
