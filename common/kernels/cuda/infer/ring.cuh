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
    int begin, chunks;      /* of the inner dimension; how many tiles of TILE_COLUMNS */
    int slice_chunks;       /* of a whole slice */
} place;

template <int ROWS, int COLUMNS, bool SPLIT> static __device__ place place_of(const operands &p)
{
    place at = {};
    int tile = static_cast<int>(SPLIT ? blockIdx.y : blockIdx.x);
    while (at.which + 1 < RF_CUDA_TOGETHER && tile >= p.of[at.which].tiles) {
        at.which++;
    }
    tile -= at.which > 0 ? p.of[at.which - 1].tiles : 0;
    at.row = tile * (p.gates ? ROWS / 2 : ROWS);
    at.column = static_cast<int>(SPLIT ? blockIdx.z : blockIdx.y) * COLUMNS;
    at.begin = SPLIT ? static_cast<int>(blockIdx.x) * p.slice : 0;
    const int end = SPLIT ? min(at.begin + p.slice, p.in) : p.in;
    at.chunks = (end - at.begin + TILE_COLUMNS - 1) / TILE_COLUMNS;
    at.slice_chunks = p.slice / TILE_COLUMNS;
    return at;
}

/* The ring: per stage a tile of weights, then one of x; barriers that a stage is full, or free again. */
template <int ROWS, int COLUMNS> struct ring {
    unsigned tiles, full, empty;
    static constexpr unsigned weights = ROWS * TILE_ROW, bytes = weights + COLUMNS * TILE_ROW;
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

template <int ROWS, int COLUMNS>
static __device__ void load_weights(const ring<ROWS, COLUMNS> &r, const operands &p,
                                    const place &at, int chunk, int s, bool copies)
{
    const int column = at.begin + chunk * TILE_COLUMNS;
    barrier_expect(r.full_at(s), copies ? r.bytes : r.weights);
    load_tile(r.stage(s), &p.w[at.which], column, at.row, r.full_at(s));
    if (p.gates) {
        load_tile(r.stage(s) + r.weights / 2, &p.w[1], column, at.row, r.full_at(s));
    }
}

/* One thread. */
template <int ROWS, int COLUMNS>
static __device__ void load_all(const ring<ROWS, COLUMNS> &r, const operands &p, const place &at,
                                bool copies)
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
        if (copies) {
            load_tile(r.stage(s) + r.weights, &p.x, at.begin + c * TILE_COLUMNS, at.column,
                      r.full_at(s));
        }
    }
}

#endif
