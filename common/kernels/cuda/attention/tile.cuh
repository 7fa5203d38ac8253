/* tile.cuh: tiles of bf16 in shared memory, and products of them by the tensor cores.
 *
 * A tile is ROWS rows of WIDTH elements, 64 or 128, in panels of 64 columns: a row of a panel is 128 bytes, its
 * eight 16-byte pieces in the order piece ^ row % 8, so that eight rows' like pieces lie in different banks.
 * That is the 128-byte swizzling that the tensor cores know. Tiles begin at multiples of 1024 bytes.
 *
 * A warpgroup, four warps, multiplies 64 rows: warp w has rows 16 w to 16 w + 15, and of its sums lane l
 * has in [j][0] and [j][1] those of row l / 4, columns 8 j + l % 4 * 2 and the next, in [j][2] and
 * [j][3] those of row l / 4 + 8. Products run asynchronously: mma_fence, any number of products,
 * end_products (or mma_commit, and mma_wait later); between them the sums are the tensor cores'.
 *
 * Source: PTX ISA, "wgmma.mma_async" with its register fragments and matrix descriptors, and "cp.async".
 */
#ifndef RF_KERNELS_CUDA_TILE_CUH
#define RF_KERNELS_CUDA_TILE_CUH

#include "common/kernels/cuda/wgmma.cuh"

/* Elements of a piece; bytes of it; columns, pieces and bytes of a panel's row; inner elements of one
 * product; columns of a block of sums; threads of a warpgroup. */
enum {
    PIECE = 8,
    PIECE_BYTES = 16,
    PANEL = TILE_COLUMNS,
    PANEL_PIECES = PANEL / PIECE,
    ROW_BYTES = TILE_ROW,
    INNER = TILE_STEP,
    COLUMN = 8,
    WARPGROUP = GROUP
};

/* Where a piece of a row lies in a tile, in bytes. */
template <int ROWS> static __device__ inline unsigned piece_at(int row, int piece)
{
    return static_cast<unsigned>(piece / PANEL_PIECES * ROWS * ROW_BYTES + row * ROW_BYTES +
                                 (piece % PANEL_PIECES ^ (row & 7)) * PIECE_BYTES);
}

/* --- Into shared memory ---------------------------------------------------------------------- */

/* 16 bytes of device memory, later; zeros where there is nothing. */
static __device__ inline void copy_piece(unsigned to, const void *from, bool exists)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(exists ? 16 : 0)
                 : "memory");
}

static __device__ inline void copy_word(unsigned to, const void *from, bool exists)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
                 "r"(exists ? 4 : 0)
                 : "memory");
}

/* Waits for this thread's copies; the tensor cores may read them behind the next barrier. */
static __device__ inline void wait_copies()
{
    asm volatile("cp.async.wait_all;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}

/* Rows [first, first + ROWS) of one head of x into a tile; rows from `end` on are zeros. x: element 0 of
 * the head; step: elements from row to row. */
template <int WIDTH, int ROWS, int THREADS>
static __device__ inline void copy_tile(unsigned tile, const uint16_t *x, int64_t step,
                                        int64_t first, int64_t end)
{
    constexpr int PIECES = WIDTH / PIECE, TOGETHER = THREADS / PIECES; /* rows */
    static_assert(ROWS % TOGETHER == 0 && TOGETHER % 8 == 0, "like pieces of each thread's rows");
    const int row = static_cast<int>(threadIdx.x) / PIECES,
              piece = static_cast<int>(threadIdx.x) % PIECES;
    const int n = static_cast<int>(min(end - first, static_cast<int64_t>(ROWS)));
    const uint16_t *from = x + (first + row) * step + piece * PIECE;
    const unsigned to = tile + piece_at<ROWS>(row, piece);
#pragma unroll
    for (int e = 0; e < ROWS / TOGETHER; e++) {
        copy_piece(to + static_cast<unsigned>(e * TOGETHER * ROW_BYTES), from,
                   row + e * TOGETHER < n);
        from += TOGETHER * step;
    }
}

/* --- Products -------------------------------------------------------------------------------- */

static __device__ inline void end_products()
{
    mma_commit();
    mma_wait<0>();
}

/* sum [64][64 or 128] += left [64][16] right: left in registers, right's inner elements are 16 rows of a
 * panel, or of two, whose distance the descriptor then has. */
static __device__ inline void multiply_rows(float (*sum)[4], const unsigned (&left)[4],
                                            uint64_t right)
{
    multiply_left<64, 1>(reinterpret_cast<float(&)[32]>(*sum), left, right, 1);
}

static __device__ inline void multiply_wide_rows(float (&sum)[16][4], const unsigned (&left)[4],
                                                 uint64_t right)
{
    multiply_left<128, 1>(reinterpret_cast<float(&)[64]>(sum), left, right, 1);
}

/* A descriptor that many bytes further. */
static __device__ inline uint64_t further(uint64_t panel, int bytes)
{
    return panel + static_cast<uint64_t>(bytes >> 4);
}

/* sum [64 rows of `own`][8 N rows of `other` from `row` on] = their dot products. */
template <int WIDTH, int ROWS, int OTHER_ROWS, int N>
static __device__ inline void dot_rows(float (&sum)[N][4], unsigned own, unsigned other, int row)
{
    const uint64_t left = descriptor(own), right = further(descriptor(other), row * ROW_BYTES);
#pragma unroll
    for (int s = 0; s < WIDTH / INNER; s++) {
        const int panel = s * INNER / PANEL * ROW_BYTES, within = s * INNER % PANEL * 2;
        multiply_tiles<COLUMN * N>(reinterpret_cast<float(&)[4 * N]>(sum),
                                   further(left, panel * ROWS + within),
                                   further(right, panel * OTHER_ROWS + within), s > 0);
    }
}

/* Sums as the left operand of the next product, rounded to bf16: inner elements are columns. */
template <int N>
static __device__ inline void as_left(unsigned (&left)[N / 2][4], const float (&sum)[N][4])
{
#pragma unroll
    for (int s = 0; s < N / 2; s++) {
        left[s][0] = pack_pair(sum[2 * s][0], sum[2 * s][1]);
        left[s][1] = pack_pair(sum[2 * s][2], sum[2 * s][3]);
        left[s][2] = pack_pair(sum[2 * s + 1][0], sum[2 * s + 1][1]);
        left[s][3] = pack_pair(sum[2 * s + 1][2], sum[2 * s + 1][3]);
    }
}

/* sum [64][WIDTH] += left [64][16 N] times 16 N rows of `other` from `row` on. */
template <int WIDTH, int OTHER_ROWS, int N>
static __device__ inline void add_rows(float (&sum)[WIDTH / COLUMN][4],
                                       const unsigned (&left)[N][4], unsigned other, int row)
{
    const uint64_t right = further(descriptor(other), row * ROW_BYTES);
#pragma unroll
    for (int s = 0; s < N; s++) {
#pragma unroll
        for (int panel = 0; panel < WIDTH / PANEL; panel++) {
            multiply_rows(&sum[panel * PANEL / COLUMN], left[s],
                          further(right, (panel * OTHER_ROWS + s * INNER) * ROW_BYTES));
        }
    }
}

/* The same of tiles 128 wide and all their rows, by products that go across both panels. */
template <int N>
static __device__ inline void add_wide_rows(float (&sum)[16][4], const unsigned (&left)[N][4],
                                            unsigned other)
{
    constexpr uint64_t PANEL_STEP = N * INNER * ROW_BYTES >> 4, NO_STEP = 1;
    const uint64_t right = descriptor(other) + ((PANEL_STEP - NO_STEP) << 16);
#pragma unroll
    for (int s = 0; s < N; s++) {
        multiply_wide_rows(sum, left[s], further(right, s * INNER * ROW_BYTES));
    }
}

/* --- Out of registers ------------------------------------------------------------------------ */

/* This warp's 16 rows of sums times `factor`, as bf16, into a tile from `row` on. */
template <int WIDTH, int ROWS>
static __device__ inline void put_sums(char *tile, int row, const float sum[][4], float factor)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int upper = row + lane / 4, at = lane % 4 * 4;
#pragma unroll
    for (int j = 0; j < WIDTH / COLUMN; j++) {
        *reinterpret_cast<unsigned *>(tile + piece_at<ROWS>(upper, j) + at) =
            pack_pair(sum[j][0] * factor, sum[j][1] * factor);
        *reinterpret_cast<unsigned *>(tile + piece_at<ROWS>(upper + 8, j) + at) =
            pack_pair(sum[j][2] * factor, sum[j][3] * factor);
    }
}

/* These rows of the tile to device memory, by the same warp: x is where row 0 of the tile goes; rows from n
 * on go nowhere. */
template <int WIDTH, int ROWS>
static __device__ inline void store_rows(uint16_t *x, int64_t step, const char *tile, int row,
                                         int64_t n)
{
    constexpr int PIECES = WIDTH / PIECE;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 16 * PIECES / WARP; e++) {
        const int own = row + (e * WARP + lane) / PIECES, piece = (e * WARP + lane) % PIECES;
        if (own < n) {
            *reinterpret_cast<uint4 *>(x + own * step + piece * PIECE) =
                *reinterpret_cast<const uint4 *>(tile + piece_at<ROWS>(own, piece));
        }
    }
}

/* 2^x; 0 for -INFINITY. */
static __device__ inline float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
