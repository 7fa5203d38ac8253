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

/* The norm of the stream: a group some rows, GROUPS apart, side by side; in the order of stream.cuh. The first pieces
 * of the gain are on their way while the stream is waited for. */
template <int ROWS, int PRODUCT>
static __device__ void put_normed(const room &r, const letter *x, uint32_t number,
                                  const float *gain)
{
    enum { SIDE = (ROWS + GROUPS - 1) / GROUPS };
    static_assert(SIDE <= SIDE_ROWS, "room");
    const rf_cuda_deal &d = r.p.deal[PRODUCT];
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) % GROUP / WARP, group = group_number();
    const int all = r.share.tiles[PRODUCT] > 0 ? r.p.n : 0;
    const int rows = (all - group + GROUPS - 1) / GROUPS; /* the group's */
    const int width = r.p.d, padded = d.slices * d.slice, step = GROUPS * width;
    const int begin = warp * WARP * PIECE, own_begin = begin + lane * PIECE; /* of the first lane */
    const letter *row = x != nullptr ? x + group * width : nullptr;
    const float *memory = r.p.x + group * width;
    float(*squares)[NORM_WARPS] = r.squares + group * SIDE_ROWS;
    float *room = r.turn + (threadIdx.x / WARP) * WARP * PIECE;
    uint4 *to = x_at<ROWS, PRODUCT>(r, own_begin) + group * X_ROW;
    piece first_gain = {}, first[SIDE] = {};
    if (rows > 0 && own_begin < width) {
        first_gain = read_piece(gain + own_begin);
    }
    float own[SIDE] = {};
#pragma unroll 1
    for (int j = begin; j < width && rows > 0; j += GROUP * PIECE) {
        piece some[SIDE];
        read_streams(some, rows, memory, row, step, j, width, room, number);
#pragma unroll
        for (int i = 0; i < SIDE; i++) {
            own[i] = j + lane * PIECE < width ? add_squares(own[i], some[i]) : own[i];
            first[i] = j == begin ? some[i] : first[i];
        }
    }
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        own[i] = warp_sum(own[i]);
        if (lane == 0) {
            squares[i][warp] = own[i];
        }
    }
    group_meets();
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        if (i < rows && own_begin < padded) {
            const float rate = rate_of(squares[i], width, r.p.eps);
            to[i * GROUPS * X_ROW] =
                own_begin < width ? normed(first[i], rate, first_gain) : uint4{};
        }
    }
#pragma unroll 1
    for (int j = begin + GROUP * PIECE; j < padded && rows > 0; j += GROUP * PIECE) {
        const int at = j + lane * PIECE;
        piece some[SIDE], own_gain = at < width ? read_piece(gain + at) : piece{};
        read_streams(some, rows, memory, row, step, j, width, room, number);
#pragma unroll
        for (int i = 0; i < SIDE; i++) {
            if (i < rows && at < padded) {
                const float rate = rate_of(squares[i], width, r.p.eps);
                x_at<ROWS, PRODUCT>(r, at)[(group + i * GROUPS) * X_ROW] =
                    at < width ? normed(some[i], rate, own_gain) : uint4{};
            }
        }
    }
    fence_async();
    workers_meet();
}

/* Rows of pairs of bf16 as they are: a thread takes two pairs, of all rows, and as many again where it has
 * registers for them. */
template <int ROWS, int PRODUCT>
static __device__ void put_rows(const room &r, const letter *x, uint32_t number)
{
    enum { EACH = 4, SIDE = ROWS < 8 ? 2 : 1 }; /* elements */
    const rf_cuda_deal &d = r.p.deal[PRODUCT];
    const int rows = r.share.tiles[PRODUCT] > 0 ? r.p.n : 0;
    const int width = d.in, padded = rows > 0 ? d.slices * d.slice : 0;
#pragma unroll 1
    for (int j = static_cast<int>(threadIdx.x) * EACH; j < padded; j += SIDE * WORKERS * EACH) {
        letter seen[SIDE * ROWS][2];
        receive(seen, number, [&](int k) {
            const int i = k % ROWS, at = j + k / ROWS * WORKERS * EACH;
            return pair_place{i < rows && at < width, x + (i * width + at) / 2};
        });
#pragma unroll
        for (int s = 0; s < SIDE; s++) {
            const int at = j + s * WORKERS * EACH;
            if (at < padded) {
                uint4 *whole = x_at<ROWS, PRODUCT>(r, at / PIECE * PIECE);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    if (i < rows) {
                        reinterpret_cast<uint2 *>(whole + i * X_ROW)[at % PIECE / EACH] = {
                            static_cast<uint32_t>(seen[s * ROWS + i][0]),
                            static_cast<uint32_t>(seen[s * ROWS + i][1])};
                    }
                }
            }
        }
    }
    fence_async();
    workers_meet();
}

#endif
