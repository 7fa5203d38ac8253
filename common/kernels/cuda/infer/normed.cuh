/* normed.cuh: a product of inference (few.cu) that norms the few rows of its x itself.
 */
#ifndef RF_KERNELS_CUDA_INFER_NORMED_CUH
#define RF_KERNELS_CUDA_INFER_NORMED_CUH

#include "common/kernels/cuda/infer/ring.cuh"
#include "common/kernels/cuda/infer/stream.cuh"

/* Threads of the groups that multiply wait for each other, without the warp that copies. */
static __device__ inline void groups_wait(unsigned threads)
{
    asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory");
}

/* Where a piece of 8 elements of x belongs in shared memory; `column`: of x. */
typedef struct x_piece {
    int row, column;
    void *to;
} x_piece;

template <int ROWS, int COLUMNS, typename WEIGHT>
static __device__ x_piece x_piece_at(const ring<ROWS, COLUMNS, WEIGHT> &r, const place &at,
                                     char *tiles, int i)
{
    enum { PIECES = TILE_COLUMNS / PIECE };
    const int number = i % PIECES, row = i / PIECES % COLUMNS, tile = i / (PIECES * COLUMNS);
    return {row, at.begin + tile * TILE_COLUMNS + number * PIECE,
            tiles + (r.stage(tile / r.x_tiles) - r.tiles) + r.weights +
                static_cast<unsigned>(tile % r.x_tiles) * r.x_bytes + row * TILE_ROW +
                (number ^ row % 8) * 16};
}

/* Puts the norm of the rows of the stream where bulk copies would have put x. */
template <int ROWS, int COLUMNS, typename WEIGHT>
static __device__ void norm_rows(const ring<ROWS, COLUMNS, WEIGHT> &r, const operands &p,
                                 const place &at, char *tiles)
{
    enum { THREADS = ROWS / 64 * GROUP };
    __shared__ float sum[RF_CUDA_NORMED][NORM_WARPS];
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int row = 0; row < RF_CUDA_NORMED; row++) {
        if (row < p.n && thread < GROUP) {
            const float own = sum_of_warp(p.stream + static_cast<int64_t>(row) * p.in, p.in);
            if (thread % WARP == 0) {
                sum[row][thread / WARP] = own;
            }
        }
    }
    groups_wait(THREADS);
    for (int i = thread; i < at.chunks * COLUMNS * (r.columns / PIECE); i += THREADS) {
        const x_piece to = x_piece_at(r, at, tiles, i);
        uint4 words = {};
        if (to.row < p.n && to.column < p.in) {
            const piece x = read_piece(p.stream + static_cast<int64_t>(to.row) * p.in + to.column);
            words = normed(x, rate_of(sum[to.row], p.in, p.eps), read_piece(p.gain + to.column));
        }
        *static_cast<uint4 *>(to.to) = words;
    }
    fence_async();
    groups_wait(THREADS);
}

#endif
