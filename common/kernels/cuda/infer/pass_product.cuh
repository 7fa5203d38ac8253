/* pass_product.cuh: the products of a pass (pass.cu): weights through the ring, x in shared memory, sums by
 * slices and what follows from them. */
#ifndef RF_KERNELS_CUDA_INFER_PASS_PRODUCT_CUH
#define RF_KERNELS_CUDA_INFER_PASS_PRODUCT_CUH

#include "common/kernels/cuda/infer/ends.cuh"
#include "common/kernels/cuda/infer/pass_mail.cuh"
#include "common/kernels/cuda/wgmma.cuh"

/* --- Weights ----------------------------------------------------------------------------------- */

/* The matrix of the first factor of each product. */
static __device__ inline int first_matrix(int product)
{
    return product == HEADS ? 0 : product == ATTENDED ? 3 : product == GATES ? 4 : 6;
}

/* A chunk of a tile into a stage: 64 columns of each slice. */
static __device__ void load_stage(const own_pass &p, const own_block &b, int product, int tile,
                                  int chunk, unsigned to, unsigned full)
{
    const rf_cuda_deal &d = p.deal[product];
    const rf_cuda_dealt at = rf_cuda_deal_at(&d, tile);
    const CUtensorMap *w = &b.w[first_matrix(product) + at.which];
    const unsigned bytes = static_cast<unsigned>(d.rows) * TILE_ROW;
    barrier_expect(full, STAGE);
    for (int s = 0; s * d.rows < RF_CUDA_TILE; s++, to += bytes) {
        const int column = s * d.slice + chunk * TILE_COLUMNS;
        load_tile(to, w, column, at.row, full);
        if (product == GATES) {
            load_tile(to + bytes / 2, w + 1, column, at.row, full);
        }
    }
}

/* One thread: all weights of this block of threads, in the order in which the groups take them. */
static __device__ void load_weights(const own_pass &p, const room &r)
{
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    int stage = 0;
    for (int b = 0; b < p.blocks; b++) {
        for (int product = 0; product < PRODUCTS; product++) {
            const rf_cuda_deal &d = p.deal[product];
            const int count = rf_cuda_deal_count(&d, block, blocks);
            const int chunks = d.slice / TILE_COLUMNS;
            for (int first = 0; first < count; first += GROUPS) {
                const int side = min(count - first, int{GROUPS});
                for (int i = 0; i < chunks * side; i++, stage++) {
                    const int slot = stage % p.stages, turn_number = stage / p.stages;
                    if (turn_number > 0) {
                        barrier_wait(r.empty_at(slot), static_cast<unsigned>(turn_number - 1) & 1U);
                    }
                    load_stage(p, p.block[b], product, block + (first + i % side) * blocks,
                               i / side, r.ring + static_cast<unsigned>(slot) * STAGE,
                               r.full_at(slot));
                }
            }
        }
    }
}

/* --- x of a product ---------------------------------------------------------------------------- */

template <int ROWS>
static __device__ inline uint4 *x_at(const room &r, const rf_cuda_deal &d, int i, int j)
{
    return reinterpret_cast<uint4 *>(r.x_data + rf_cuda_deal_x(&d, ROWS, i, j));
}

/* Has this block of threads anything to multiply x with? */
static __device__ inline bool has_tiles(const rf_cuda_deal &d)
{
    return static_cast<int>(blockIdx.x) < d.tiles[RF_CUDA_TOGETHER - 1];
}

/* The norm of the stream, a group a row; in the order of stream.cuh. */
template <int ROWS>
static __device__ void put_normed(const own_pass &p, const room &r, const rf_cuda_deal &d,
                                  const letter *x, uint32_t number, const float *gain)
{
    __shared__ float sum[GROUPS][NORM_WARPS];
    const int thread = static_cast<int>(threadIdx.x) % GROUP, begin = thread * PIECE;
    const int group = group_number(), rows = has_tiles(d) ? p.n : 0;
    for (int i = group; i < rows; i += GROUPS) {
        const int64_t row = static_cast<int64_t>(i) * p.d;
        piece first = {};
        float own = 0.0F;
        if (begin < p.d) {
            first = read_stream(p, x, number, row + begin);
            own = add_squares(own, first);
        }
        for (int j = begin + GROUP * PIECE; j < p.d; j += GROUP * PIECE) {
            own = add_squares(own, read_stream(p, x, number, row + j));
        }
        own = warp_sum(own);
        if (thread % WARP == 0) {
            sum[group][thread / WARP] = own;
        }
        group_meets();
        const float rate = rate_of(sum[group], p.d, p.eps);
        for (int j = begin; j < d.slices * d.slice; j += GROUP * PIECE) {
            uint4 words = {};
            if (j < p.d) {
                words =
                    normed(j == begin ? first : read_stream(p, x, number, row + j), rate, gain + j);
            }
            *x_at<ROWS>(r, d, i, j) = words;
        }
        group_meets(); /* the sums have been read */
    }
    fence_async();
    workers_meet();
}

/* Rows of pairs of bf16 as they are. */
template <int ROWS>
static __device__ void put_rows(const own_pass &p, const room &r, const rf_cuda_deal &d,
                                const letter *x, uint32_t number)
{
    const int pieces = d.slices * d.slice / PIECE, rows = has_tiles(d) ? p.n : 0;
    for (int e = static_cast<int>(threadIdx.x); e < rows * pieces; e += WORKERS) {
        const int i = e / pieces, j = e % pieces * PIECE;
        uint32_t word[PIECE / 2] = {};
        if (j < d.in) {
            receive(word, x + (static_cast<int64_t>(i) * d.in + j) / 2, number);
        }
        *x_at<ROWS>(r, d, i, j) = {word[0], word[1], word[2], word[3]};
    }
    fence_async();
    workers_meet();
}

/* --- Products ---------------------------------------------------------------------------------- */

/* A tile times x: all slices of its rows with all slices of x. Its stages: first, first + step, ... */
template <int ROWS>
static __device__ void multiply(float (&sum)[4 * ROWS], const own_pass &p, const room &r,
                                int chunks, int first, int step)
{
    const bool leads = threadIdx.x % GROUP == 0;
    int before = 0;
    for (int c = 0; c < chunks; c++) {
        const int stage = first + c * step, slot = stage % p.stages;
        const unsigned w = r.ring + static_cast<unsigned>(slot) * STAGE,
                       x = r.x + static_cast<unsigned>(c) * ROWS * 8U * TILE_ROW;
        barrier_wait(r.full_at(slot), static_cast<unsigned>(stage / p.stages) & 1U);
        mma_fence();
#pragma unroll
        for (int k = 0; k < TILE_COLUMNS / TILE_STEP; k++) {
            const unsigned offset = static_cast<unsigned>(k) * TILE_STEP * 2U;
            multiply_tiles<8 * ROWS>(sum, descriptor(w + offset), descriptor(x + offset),
                                     c > 0 || k > 0);
        }
        mma_commit();
        mma_wait<1>();
        if (leads && c > 0) {
            barrier_arrive(r.empty_at(before));
        }
        before = slot;
    }
    mma_wait<0>();
    if (leads) {
        barrier_arrive(r.empty_at(before));
    }
}

/* sums[i][row of the tile] of row i of the pass: a slice of weights with its own slice of x. */
template <int ROWS>
static __device__ void keep_own(float *sums, const rf_cuda_deal &d, const float (&sum)[4 * ROWS])
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) % GROUP / WARP;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = warp * 16 + lane / 4 + h * 8;
#pragma unroll
        for (int c = 0; c < 2; c++) {
            if (rf_cuda_deal_is_own(&d, row, lane % 4 * 2 + c)) {
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    sums[i * RF_CUDA_TILE + row] = sum[4 * i + 2 * h + c];
                }
            }
        }
    }
}

/* The sum of a row of weights, its slices in order. */
static __device__ inline float sum_slices(const float *sums, const rf_cuda_deal &d, int row)
{
    float slice[RF_CUDA_MOST_SLICES];
#pragma unroll
    for (int s = 0; s < RF_CUDA_MOST_SLICES; s++) {
        slice[s] = s < d.slices ? sums[s * d.rows + row] : 0.0F;
    }
    float sum = slice[0];
#pragma unroll
    for (int s = 1; s < RF_CUDA_MOST_SLICES; s++) {
        sum = s < d.slices ? sum + slice[s] : sum;
    }
    return sum;
}

/* An element of a tile, or two side by side of gates: row in the pass, row of weights in the tile and in the
 * matrix. */
struct element {
    int i, row, out;
    bool is_there;
};

/* Elements that a thread finishes together: two gates make a letter. */
static __device__ inline int together(int product)
{
    return product == GATES ? 2 : 1;
}

static __device__ inline element element_at(const own_pass &p, int product, const rf_cuda_dealt &at,
                                            int number)
{
    const rf_cuda_deal &d = p.deal[product];
    const int first = number * together(product);
    const int i = first / d.each, row = first - i * d.each, out = at.row + row;
    return {i, row, out, i < p.n && out < d.out[at.which]};
}

/* What a product adds to. */
static __device__ inline float residual_at(const own_pass &p, int product, const element &e,
                                           const mail &m)
{
    const int64_t at = static_cast<int64_t>(e.i) * p.d + e.out;
    if (!e.is_there || product == HEADS || product == GATES) {
        return 0.0F;
    }
    if (product == DOWN) {
        return receive_one(m.slot + p.slot.between + at, m.number);
    }
    return m.stream == nullptr ? p.x[at] : receive_one(m.stream + at, m.number - 1U);
}

/* What follows from the sums of an element, or of two gates. */
static __device__ void finish_element(const own_pass &p, const own_block &b, int product,
                                      const rf_cuda_dealt &at, const element &e, const float *sums,
                                      float residual, const mail &m)
{
    const rf_cuda_deal &d = p.deal[product];
    const float *own = sums + e.i * RF_CUDA_TILE;
    const float y = sum_slices(own, d, e.row);
    const int64_t to = static_cast<int64_t>(e.i) * p.d + e.out;
    if (product == HEADS) {
        const float *bias = at.which == 0 ? b.q_bias : at.which == 1 ? b.k_bias : b.v_bias;
        const int before = (at.which > 0 ? d.out[0] : 0) + (at.which > 1 ? d.out[1] : 0);
        send(m.slot + p.slot.raw + static_cast<int64_t>(e.i) * p.wide + before + e.out,
             __float_as_uint(bias != nullptr ? y + bias[e.out] : y), m.number);
    } else if (product == GATES) {
        const float low = gated(y, sum_slices(own, d, e.row + d.each));
        const float high =
            gated(sum_slices(own, d, e.row + 1), sum_slices(own, d, e.row + 1 + d.each));
        send(m.slot + p.slot.hidden + (static_cast<int64_t>(e.i) * p.f + e.out) / 2,
             pair_of(low, high), m.number);
    } else if (product == ATTENDED) {
        const float sum = b.o_bias != nullptr ? y + b.o_bias[e.out] : y;
        send(m.slot + p.slot.between + to, __float_as_uint(sum + residual), m.number);
    } else if (m.is_last) {
        p.x[to] = y + residual;
    } else {
        send(m.slot + p.slot.stream + to, __float_as_uint(y + residual), m.number);
    }
}

/* All tiles of this block of threads, a group a tile. Sets the next stage. Ends with a meeting of the
 * workers: x has been read. */
template <int ROWS>
static __device__ void make_product(const own_pass &p, const room &r, const own_block &b,
                                    int product, const mail &m, int *stage)
{
    const rf_cuda_deal &d = p.deal[product];
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int count = rf_cuda_deal_count(&d, block, blocks), chunks = d.slice / TILE_COLUMNS;
    const int group = group_number(), thread = static_cast<int>(threadIdx.x) % GROUP;
    const int elements = p.n * d.each / together(product);
    float *sums = r.sums + group * ROWS * RF_CUDA_TILE;
    for (int first = 0; first < count; first += GROUPS) {
        const int side = min(count - first, int{GROUPS});
        if (group < side) {
            const rf_cuda_dealt at = rf_cuda_deal_at(&d, block + (first + group) * blocks);
            float sum[4 * ROWS] = {};
            element e = {};
            float residual = 0.0F;
            if (ROWS == 1) { /* on its way while the tile is multiplied */
                e = element_at(p, product, at, thread);
                residual = residual_at(p, product, e, m);
            }
            multiply<ROWS>(sum, p, r, chunks, *stage + group, side);
            keep_own<ROWS>(sums, d, sum);
            group_meets();
#pragma unroll 1
            for (int i = thread; i < elements; i += GROUP) {
                if (ROWS > 1 || i != thread) {
                    e = element_at(p, product, at, i);
                    residual = residual_at(p, product, e, m);
                }
                if (e.is_there) {
                    finish_element(p, b, product, at, e, sums, residual, m);
                }
            }
            group_meets();
        }
        *stage += chunks * side;
    }
    workers_meet();
}

#endif
