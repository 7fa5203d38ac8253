/* pass_x.cuh: what the products of a pass (pass.cu) multiply weights with: the norm of a stream, or rows of
 * letters, as bf16 in shared memory. */
#ifndef RF_KERNELS_CUDA_INFER_PASS_X_CUH
#define RF_KERNELS_CUDA_INFER_PASS_X_CUH

#include "common/kernels/cuda/infer/pass_mail.cuh"

/* Where elements [j, j + 8) of the pass' first row lie; of row i X_ROW later each. */
enum { X_ROW = RF_CUDA_MOST_SLICES * TILE_ROW / 16 };
template <int ROWS, int PRODUCT> static __device__ inline uint4 *x_at(const room &r, int j)
{
    return reinterpret_cast<uint4 *>(r.x[PRODUCT % 2] +
                                     rf_cuda_deal_x(&r.p.deal[PRODUCT], ROWS, 0, j));
}

/* The norm of the stream, a group a row; in the order of stream.cuh. The first pieces of the gain are on their
 * way while the stream is waited for. */
template <int ROWS, int PRODUCT>
static __device__ void put_normed(const room &r, const letter *x, uint32_t number,
                                  const float *gain)
{
    const rf_cuda_deal &d = r.p.deal[PRODUCT];
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) % GROUP / WARP, group = group_number();
    const int rows = r.share.tiles[PRODUCT] > 0 ? r.p.n : 0;
    const int width = r.p.d, padded = d.slices * d.slice;
    const int begin = warp * WARP * PIECE, own_begin = begin + lane * PIECE; /* of the first lane */
    float *room = r.turn + (threadIdx.x / WARP) * WARP * PIECE;
    uint4 *first_to = x_at<ROWS, PRODUCT>(r, own_begin);
    piece first_gain = {};
    if (group < rows && own_begin < width) {
        first_gain = read_piece(gain + own_begin);
    }
#pragma unroll 1
    for (int i = group; i < rows; i += GROUPS) {
        const letter *row = x != nullptr ? x + static_cast<int64_t>(i) * width : nullptr;
        const float *memory = r.p.x + static_cast<int64_t>(i) * width;
        piece first = {};
        float own = 0.0F;
#pragma unroll 1
        for (int j = begin; j < width; j += GROUP * PIECE) {
            const piece some = read_stream(memory, row, j, width, room, number);
            own = j + lane * PIECE < width ? add_squares(own, some) : own;
            if (j == begin) {
                first = some;
            }
        }
        own = warp_sum(own);
        if (i > group) {
            group_meets(); /* the last row's sums have been read */
        }
        if (lane == 0) {
            r.squares[group][warp] = own;
        }
        group_meets();
        const float rate = rate_of(r.squares[group], width, r.p.eps);
        if (own_begin < padded) {
            first_to[i * X_ROW] = own_begin < width ? normed(first, rate, first_gain) : uint4{};
        }
#pragma unroll 1
        for (int j = begin + GROUP * PIECE; j < padded; j += GROUP * PIECE) {
            const piece some = read_stream(memory, row, j, width, room, number);
            const int at = j + lane * PIECE;
            if (at < padded) {
                x_at<ROWS, PRODUCT>(r, at)[i * X_ROW] =
                    at < width ? normed(some, rate, read_piece(gain + at)) : uint4{};
            }
        }
    }
    fence_async();
    workers_meet();
}

/* Rows of pairs of bf16 as they are: a thread takes two pairs, of all rows, and as many again where there is
 * one row. */
template <int ROWS, int PRODUCT>
static __device__ void put_rows(const room &r, const letter *x, uint32_t number)
{
    enum { EACH = 4, SIDE = ROWS == 1 ? 2 : 1 }; /* elements */
    const rf_cuda_deal &d = r.p.deal[PRODUCT];
    const int rows = r.share.tiles[PRODUCT] > 0 ? r.p.n : 0;
    const int width = d.in, padded = rows > 0 ? d.slices * d.slice : 0;
#pragma unroll 1
    for (int j = static_cast<int>(threadIdx.x) * EACH; j < padded; j += SIDE * WORKERS * EACH) {
        letter seen[SIDE][ROWS][2] = {};
        bool is_here;
        do {
            is_here = true;
#pragma unroll
            for (int s = 0; s < SIDE; s++) {
                const int at = j + s * WORKERS * EACH;
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    if (at < width && i < rows && !has_number(seen[s][i], number)) {
                        look(seen[s][i], x + (i * width + at) / 2);
                    }
                }
            }
#pragma unroll
            for (int s = 0; s < SIDE; s++) {
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    is_here = is_here && (j + s * WORKERS * EACH >= width || i >= rows ||
                                          has_number(seen[s][i], number));
                }
            }
        } while (!is_here);
#pragma unroll
        for (int s = 0; s < SIDE; s++) {
            const int at = j + s * WORKERS * EACH;
            if (at < padded) {
                uint4 *whole = x_at<ROWS, PRODUCT>(r, at / PIECE * PIECE);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    if (i < rows) {
                        reinterpret_cast<uint2 *>(whole + i * X_ROW)[at % PIECE / EACH] = {
                            static_cast<uint32_t>(seen[s][i][0]),
                            static_cast<uint32_t>(seen[s][i][1])};
                    }
                }
            }
        }
    }
    fence_async();
    workers_meet();
}

#endif
