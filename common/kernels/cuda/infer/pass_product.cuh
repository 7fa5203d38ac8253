/* pass_product.cuh: the products of a pass (pass.cu): tiles of weights times x, sums by slices, and what follows
 * from them. */
#ifndef RF_KERNELS_CUDA_INFER_PASS_PRODUCT_CUH
#define RF_KERNELS_CUDA_INFER_PASS_PRODUCT_CUH

#include "common/kernels/cuda/infer/ends.cuh"
#include "common/kernels/cuda/infer/pass_mail.cuh"
#include "common/kernels/cuda/infer/pass_weights.cuh"
#include "common/kernels/cuda/wgmma.cuh"

/* Chunks [first, end) of a tile times x, SIDE at once; `end - first` a multiple of it. Their stages: stage, stage
 * + step, ... */
template <int ROWS, int SIDE>
static __device__ void multiply_chunks(float (&sum)[4 * ROWS], const room &r, const char *x_data,
                                       int first, int end, turn_of_ring *stage, int step)
{
    const unsigned full = r.full, empty = r.empty;
    const bool leads = threadIdx.x % GROUP == 0;
    const int stages = r.p.stages;
    const uint64_t ring_tiles = descriptor(r.ring), x_tiles = descriptor(shared_address(x_data));
    const uint64_t upper = x_tiles >> 32 << 32; /* the same of all; addresses: of 16 bytes */
    const unsigned first_w = static_cast<unsigned>(ring_tiles);
    unsigned x =
        static_cast<unsigned>(x_tiles) + static_cast<unsigned>(first) * (ROWS * 8U * TILE_ROW / 16);
    unsigned before[SIDE];
#pragma unroll 1
    for (int c = first; c < end; c += SIDE) {
        unsigned slot[SIDE];
#pragma unroll
        for (int s = 0; s < SIDE; s++) {
            slot[s] = stage->slot(stages);
            barrier_wait(full + slot[s] * 8U, stage->parity(stages));
            stage->step(stages, step);
        }
        mma_fence();
#pragma unroll
        for (int s = 0; s < SIDE; s++) {
            const unsigned w = first_w + slot[s] * (STAGE / 16);
#pragma unroll
            for (unsigned k = 0; k < TILE_COLUMNS / TILE_STEP; k++) {
                const unsigned offset = k * (TILE_STEP * 2 / 16);
                multiply_tiles<8 * ROWS>(sum, upper | (w + offset), upper | (x + offset),
                                         c > 0 || s > 0 || k > 0);
            }
            x += ROWS * 8U * TILE_ROW / 16;
        }
        mma_commit();
        mma_wait<1>();
#pragma unroll
        for (int s = 0; s < SIDE; s++) {
            if (leads && c > first) {
                barrier_arrive(empty + before[s] * 8U);
            }
            before[s] = slot[s];
        }
    }
    mma_wait<0>();
#pragma unroll
    for (int s = 0; s < SIDE; s++) {
        if (leads && end > first) {
            barrier_arrive(empty + before[s] * 8U);
        }
    }
}

/* A tile times x: all slices of its rows with all slices of x. */
template <int ROWS>
static __device__ void multiply(float (&sum)[4 * ROWS], const room &r, const char *x, int chunks,
                                turn_of_ring stage, int step)
{
    const int even = chunks / 2 * 2;
    multiply_chunks<ROWS, 2>(sum, r, x, 0, even, &stage, step);
    if (even < chunks) {
        multiply_chunks<ROWS, 1>(sum, r, x, even, chunks, &stage, step);
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

/* The sum of a row of weights, its slices in order; `sums`: of the first. */
template <int SLICES> static __device__ inline float sum_of(const float *sums, int each)
{
    float sum = sums[0];
#pragma unroll
    for (int s = 1; s < SLICES; s++) {
        sum += sums[s * each];
    }
    return sum;
}

static __device__ inline float sum_slices(const float *sums, const rf_cuda_deal &d)
{
    if (d.slices == RF_CUDA_MOST_SLICES) {
        return sum_of<RF_CUDA_MOST_SLICES>(sums, d.each);
    }
    if (d.slices == RF_CUDA_MOST_SLICES / 2) {
        return sum_of<RF_CUDA_MOST_SLICES / 2>(sums, d.each);
    }
    float sum = sums[0];
#pragma unroll 1
    for (int s = 1; s < d.slices; s++) {
        sum += sums[s * d.each];
    }
    return sum;
}

/* An element of a tile: where its sums lie, what is added to them, and where its letter goes (NULL: it is not
 * there). All that does not depend on the product: found and asked for while x is waited for. */
struct element {
    int sums;
    bool has_bias;
    float bias;
    const letter *from; /* the residual, looked at already; NULL: it is `seen`, or there is none */
    letter seen;
    letter *to;
};

/* An element as it is in every block of the model: its sums, and its letter in a slot (below 0: it is not
 * there). */
struct own_element {
    int sums, letter;
};

/* Element `number` of tile `tile` of this block of threads. */
template <int PRODUCT>
static __device__ own_element own_element_at(const room &r, int tile, int number)
{
    const own_pass &p = r.p;
    const rf_cuda_deal &d = p.deal[PRODUCT];
    if (tile >= r.share.tiles[PRODUCT]) {
        return {0, -1};
    }
    const rf_cuda_dealt at = tile_at(r, PRODUCT, tile);
    const int i = number >> d.each_log, row = number & (d.each - 1), out = at.row + row;
    own_element own = {i * RF_CUDA_TILE + row, -1};
    if (i >= p.n || out >= d.out[at.which]) {
        return own;
    }
    if (PRODUCT == HEADS) {
        const int before = (at.which > 0 ? d.out[0] : 0) + (at.which > 1 ? d.out[1] : 0);
        own.letter = static_cast<int>(p.slot.raw) + i * p.wide + before + out;
    } else if (PRODUCT == GATES) {
        own.letter = static_cast<int>(p.slot.hidden) + (i * p.f + out) / 2;
    } else {
        const int64_t first = PRODUCT == ATTENDED ? p.slot.between : p.slot.stream;
        own.letter = static_cast<int>(first) + i * p.d + out;
    }
    return own;
}

template <int PRODUCT> static __device__ inline const float *bias_of(const own_block &b, int which)
{
    const float *of_heads = which == 0 ? b.q_bias : which == 1 ? b.k_bias : b.v_bias;
    return PRODUCT == HEADS ? of_heads : b.o_bias;
}

/* The same element, in a block of the model. */
template <int PRODUCT>
static __device__ element element_at(const room &r, const own_block &b, const own_element &own,
                                     int tile, const mail &m)
{
    const own_pass &p = r.p;
    element e = {own.sums, false, 0.0F, nullptr, 0U, nullptr};
    if (own.letter < 0) {
        return e;
    }
    e.to = m.slot + own.letter;
    if (PRODUCT == ATTENDED) {
        const int of_stream = own.letter - static_cast<int>(p.slot.between);
        if (m.stream != nullptr) {
            e.from = m.stream + of_stream;
        } else {
            e.seen = __float_as_uint(p.x[of_stream]);
        }
    } else if (PRODUCT == DOWN) {
        e.from = m.slot + p.slot.between + (own.letter - static_cast<int>(p.slot.stream));
    }
    if (e.from != nullptr) {
        e.seen = look_at_one(e.from);
    }
    if ((PRODUCT == HEADS || PRODUCT == ATTENDED) && b.has_bias) {
        const rf_cuda_dealt at = tile_at(r, PRODUCT, tile);
        const float *bias = bias_of<PRODUCT>(b, at.which);
        e.has_bias = bias != nullptr;
        e.bias = e.has_bias ? bias[at.row + own.sums % RF_CUDA_TILE] : 0.0F;
    }
    return e;
}

/* What follows from the sums of an element. All lanes of a warp. */
template <int PRODUCT>
static __device__ void finish_element(const room &r, const element &e, const float *sums,
                                      const mail &m)
{
    const own_pass &p = r.p;
    const rf_cuda_deal &d = p.deal[PRODUCT];
    const bool is_there = e.to != nullptr;
    float y = is_there ? sum_slices(sums + e.sums, d) : 0.0F;
    if (PRODUCT == GATES) { /* two make a letter */
        y = is_there ? gated(y, sum_slices(sums + e.sums + d.part, d)) : 0.0F;
        const float next = __shfl_down_sync(0xffffffffU, y, 1);
        if (is_there && e.sums % 2 == 0) {
            send(e.to, pack_pair(y, next), m.number);
        }
        return;
    }
    if (!is_there) {
        return;
    }
    y = e.has_bias ? y + e.bias : y;
    if (PRODUCT != HEADS) {
        const uint32_t wanted = PRODUCT == DOWN ? m.number : m.number - 1U;
        y += e.from != nullptr ? receive_one(e.seen, e.from, wanted) : word_of(e.seen);
    }
    if (PRODUCT == DOWN && m.is_last) {
        p.x[e.to - (m.slot + p.slot.stream)] = y;
    } else {
        send(e.to, __float_as_uint(y), m.number);
    }
}

/* All tiles of this block of threads, a group a tile; e: the first element that the thread finishes. Sets the
 * next stage. The workers meet at the end: groups without a tile would look for letters all the time that the
 * others need, and so hold them up. */
template <int ROWS, int PRODUCT>
static __device__ void make_product(const room &r, const own_block &b, const mail &m, element e,
                                    turn_of_ring *stage)
{
    const rf_cuda_deal &d = r.p.deal[PRODUCT];
    const int count = r.share.tiles[PRODUCT], chunks = d.slice / TILE_COLUMNS;
    const int group = group_number(), thread = static_cast<int>(threadIdx.x) % GROUP;
    const int elements = r.p.n * d.each;
    float *sums = r.sums + group * ROWS * RF_CUDA_TILE;
#pragma unroll 1
    for (int first = 0; first < count; first += GROUPS) {
        const int side = min(count - first, int{GROUPS});
        if (group < side) {
            float sum[4 * ROWS] = {};
            turn_of_ring own = *stage;
            own.advance(r.p.stages, group);
            multiply<ROWS>(sum, r, r.x[PRODUCT % 2], chunks, own, side);
            if (first > 0) {
                group_meets(); /* the last tile's sums have been read */
            }
            keep_own<ROWS>(sums, d, sum);
            group_meets();
#pragma unroll 1
            for (int i = 0; i < elements; i += GROUP) {
                if (first > 0 || i > 0) {
                    const int tile = first + group;
                    e = element_at<PRODUCT>(r, b, own_element_at<PRODUCT>(r, tile, i + thread),
                                            tile, m);
                }
                finish_element<PRODUCT>(r, e, sums, m);
            }
        }
        stage->advance(r.p.stages, chunks * side);
    }
    workers_meet();
}

#endif
