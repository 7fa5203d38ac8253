/* ring.cuh: what a block of a product of inference (few.cu) multiplies, and how it comes into shared memory.
 */
#ifndef RF_KERNELS_CUDA_INFER_RING_CUH
#define RF_KERNELS_CUDA_INFER_RING_CUH

#include "common/kernels/cuda/hopper.cuh"
#include "common/kernels/cuda/infer/few.h"

/* What the kernel reads of an rf_cuda_factor. */
typedef struct factor {
    const float *bias, *residual;
    rf_cuda_real y;
    int out, tiles; /* tiles: of rows, of this factor and those before it */
} factor;

typedef struct operands {
    CUtensorMap w[RF_CUDA_TOGETHER], x;
    const char *int8[RF_CUDA_TOGETHER]; /* int8 weights, for their scales */
    factor of[RF_CUDA_TOGETHER];
    int n, in, slice, slices, stages;
    bool gates;
    const float *stream, *gain;
    float eps;
    rf_cuda_heads heads;
} operands;

/* Where this block is. */
typedef struct place {
    int which, row, column; /* the factor; the first row of weights, the first row of x */
    int begin, chunks;      /* of the inner dimension; how many chunks */
    int slice_chunks;       /* of a whole slice */
} place;

/* A chunk of the inner dimension is what TILE_ROW bytes of weights hold: 64 of bf16, 128 of int8. */
template <typename WEIGHT> struct chunk {
    static constexpr int columns = TILE_ROW / sizeof(WEIGHT);
};

template <int ROWS, int COLUMNS, bool SPLIT, typename WEIGHT>
static __device__ place place_of(const operands &p)
{
    constexpr int columns = chunk<WEIGHT>::columns;
    place at = {};
    int tile = static_cast<int>(SPLIT ? blockIdx.z : blockIdx.y);
    while (at.which + 1 < RF_CUDA_TOGETHER && tile >= p.of[at.which].tiles) {
        at.which++;
    }
    tile -= at.which > 0 ? p.of[at.which - 1].tiles : 0;
    at.row = tile * (p.gates ? ROWS / 2 : ROWS);
    at.column = static_cast<int>(SPLIT ? blockIdx.y : blockIdx.x) * COLUMNS;
    at.begin = SPLIT ? static_cast<int>(blockIdx.x) * p.slice : 0;
    const int end = SPLIT ? min(at.begin + p.slice, p.in) : p.in;
    at.chunks = (end - at.begin + columns - 1) / columns;
    at.slice_chunks = p.slice / columns;
    return at;
}

/* The ring: per stage a tile of weights, of bf16 or int8, then one or two of x, TILE_COLUMNS each; barriers that
 * a stage is full, or free again. */
template <int ROWS, int COLUMNS, typename WEIGHT> struct ring {
    unsigned tiles, full, empty;
    static constexpr int columns = chunk<WEIGHT>::columns, x_tiles = columns / TILE_COLUMNS;
    static constexpr unsigned weights = ROWS * TILE_ROW, x_bytes = COLUMNS * TILE_ROW;
    static constexpr unsigned bytes = weights + x_tiles * x_bytes;
    static constexpr unsigned readers = sizeof(WEIGHT) == 1 ? GROUP / WARP : 1; /* of each group */
    __device__ unsigned stage(int s) const
    {
        return tiles + static_cast<unsigned>(s) * bytes;
    }
    __device__ unsigned full_at(int s) const
    {
        return full + static_cast<unsigned>(s) * 8U;
    }
    __device__ unsigned empty_at(int s) const
    {
        return empty + static_cast<unsigned>(s) * 8U;
    }
};

template <int ROWS, int COLUMNS, typename WEIGHT>
static __device__ void load_weights(const ring<ROWS, COLUMNS, WEIGHT> &r, const operands &p,
                                    const place &at, int chunk, int s, bool copies)
{
    const int column = at.begin + chunk * r.columns;
    barrier_expect(r.full_at(s), copies ? r.bytes : r.weights);
    load_tile(r.stage(s), &p.w[at.which], column, at.row, r.full_at(s));
    if (p.gates) {
        load_tile(r.stage(s) + r.weights / 2, &p.w[1], column, at.row, r.full_at(s));
    }
}

/* One thread. */
template <int ROWS, int COLUMNS, typename WEIGHT>
static __device__ void load_all(const ring<ROWS, COLUMNS, WEIGHT> &r, const operands &p,
                                const place &at, bool copies)
{
    const int first = min(at.chunks, p.stages);
    for (int c = 0; c < first; c++) {
        load_weights(r, p, at, c, c, copies);
    }
    wait_for_previous();
    let_next_begin();
    for (int c = 0; c < at.chunks; c++) {
        const int s = c % p.stages;
        if (c >= first) {
            barrier_wait(r.empty_at(s), static_cast<unsigned>(c / p.stages - 1) & 1U);
            load_weights(r, p, at, c, s, copies);
        }
        for (int i = 0; copies && i < r.x_tiles; i++) {
            load_tile(r.stage(s) + r.weights + static_cast<unsigned>(i) * r.x_bytes, &p.x,
                      at.begin + c * r.columns + i * TILE_COLUMNS, at.column, r.full_at(s));
        }
    }
}

#endif
