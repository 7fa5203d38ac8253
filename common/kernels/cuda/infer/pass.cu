/* A pass of few rows: all of its blocks by one kernel, which stays on the multiprocessors from the first
 * block to the last.
 *
 * Few rows make a chain of short phases: the time of each is waiting (for the phase before, for x, for sums),
 * while weights could come all the time. So a warp of each block of threads does nothing but have the
 * weights of this block of threads copied into a ring, phase after phase and block after block, as far ahead
 * as the ring goes; it waits for no phase. Three groups of four warps multiply, and meet those of the other
 * blocks of threads between phases at a counter in memory.
 *
 * The bits are those of few.cu and attend.cu: same slices, each one chain of wgmma, added in order; same
 * parts of keys. How a product is cut: rf_cuda_deal (pass.h). Its x lies in shared memory as 8 rows for each
 * row of the pass, one for each slice; so the tensor cores multiply every slice of weights with every slice
 * of x, of which those of the same slice are kept. With one row that is what 8 columns cost anyway.
 *
 * Phases of a block: norm, q, k and v | attention by parts, the cache | the parts merged | o and the stream |
 * norm and gates | down and the stream. */
#include "common/kernels/cuda/infer/ends.cuh"
#include "common/kernels/cuda/infer/map.cuh"
#include "common/kernels/cuda/infer/merge.cuh"
#include "common/kernels/cuda/infer/part.cuh"
#include "common/kernels/cuda/infer/parts.cuh"
#include "common/kernels/cuda/infer/pass.h"
#include "common/kernels/cuda/infer/stream.cuh"
#include "common/kernels/cuda/infer/wgmma.cuh"

enum {
    GROUPS = 3,
    WORKERS = GROUPS * GROUP,
    WORKER_WARPS = WORKERS / WARP,
    THREADS = WORKERS + WARP,
    STAGE = RF_CUDA_TILE * TILE_ROW,
    ALIGNMENT = 1024,
    LEAST_STAGES = 8,
    MOST_ROWS = 8, /* that the kernel has room for; from RF_CUDA_PASS_ROWS on few.cu is faster */
    SHARED_MEMORY = 227 << 10,
    WIDTH = RF_CUDA_PASS_WIDTH,
    QUERY_ROWS = 16,
    KEY_PAD = 8,
    SCORE_PAD = 4,
    PHASES = 6
};
enum { HEADS, ATTENDED, GATES, DOWN, PRODUCTS }; /* products of a block */

struct own_block {
    CUtensorMap w[RF_CUDA_PASS_MATRICES];
    const float *attention_gain, *mlp_gain, *q_gain, *k_gain, *q_bias, *k_bias, *v_bias, *o_bias;
    uint16_t *keys, *values;
};

struct own_pass {
    own_block block[RF_CUDA_PASS_BLOCKS];
    rf_cuda_deal deal[PRODUCTS];
    int blocks, before, n, d, f, wide, stages, x_bytes; /* wide: of a row of `raw` */
    float eps, scale;
    float *x, *raw;
    uint16_t *hidden;
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

/* --- The blocks of threads meet ---------------------------------------------------------------- */

/* What this block of threads wrote is seen by whoever has waited. */
static __device__ inline void phase_done(const own_pass &p)
{
    workers_meet();
    if (threadIdx.x == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(p.attention.arrived)
                     : "memory");
    }
}

/* All blocks of threads have done so for `phases` phases. */
static __device__ inline void wait_for_phases(const own_pass &p, int phases)
{
    if (threadIdx.x == 0) {
        const unsigned wanted = static_cast<unsigned>(phases) * gridDim.x;
        unsigned seen;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                         : "=r"(seen)
                         : "l"(p.attention.arrived)
                         : "memory");
        } while (seen < wanted);
    }
    workers_meet();
}

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

/* The norm of the stream, a group a row; in the order of stream.cuh. */
template <int ROWS>
static __device__ void put_normed(const own_pass &p, const room &r, const rf_cuda_deal &d,
                                  const float *gain)
{
    __shared__ float sum[GROUPS][NORM_WARPS];
    const int thread = static_cast<int>(threadIdx.x) % GROUP, begin = thread * PIECE;
    const int group = group_number();
    for (int i = group; i < p.n; i += GROUPS) {
        const float *row = p.x + static_cast<int64_t>(i) * p.d;
        piece first = {};
        float own = 0.0F;
        if (begin < p.d) {
            first = read_piece(row + begin);
            own = add_squares(own, first);
        }
        for (int j = begin + GROUP * PIECE; j < p.d; j += GROUP * PIECE) {
            own = add_squares(own, read_piece(row + j));
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
                words = normed(j == begin ? first : read_piece(row + j), rate, gain + j);
            }
            *x_at<ROWS>(r, d, i, j) = words;
        }
        group_meets(); /* the sums have been read */
    }
    fence_async();
    workers_meet();
}

/* Rows of bf16 as they are. */
template <int ROWS>
static __device__ void put_rows(const own_pass &p, const room &r, const rf_cuda_deal &d,
                                const uint16_t *x)
{
    const int pieces = d.slices * d.slice / PIECE;
    for (int e = static_cast<int>(threadIdx.x); e < p.n * pieces; e += WORKERS) {
        const int i = e / pieces, j = e % pieces * PIECE;
        uint4 words = {};
        if (j < d.in) {
            words = *reinterpret_cast<const uint4 *>(x + static_cast<int64_t>(i) * d.in + j);
        }
        *x_at<ROWS>(r, d, i, j) = words;
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

/* An element of a tile: its row in the pass, its row of weights in the tile and in the matrix. */
struct element {
    int i, row, out;
    bool is_there;
};

static __device__ inline element element_at(const own_pass &p, const rf_cuda_deal &d,
                                            const rf_cuda_dealt &at, int number)
{
    const int i = number / d.each, row = number - i * d.each, out = at.row + row;
    return {i, row, out, i < p.n && out < d.out[at.which]};
}

static __device__ inline float residual_at(const own_pass &p, int product, const element &e)
{
    const bool adds = product == ATTENDED || product == DOWN;
    return adds && e.is_there ? p.x[static_cast<int64_t>(e.i) * p.d + e.out] : 0.0F;
}

/* What follows from the sums of an element. */
static __device__ void finish_element(const own_pass &p, const own_block &b, int product,
                                      const rf_cuda_dealt &at, const element &e, const float *sums,
                                      float residual)
{
    const rf_cuda_deal &d = p.deal[product];
    const float *own = sums + e.i * RF_CUDA_TILE;
    float y = sum_slices(own, d, e.row);
    if (product == HEADS) {
        const float *bias = at.which == 0 ? b.q_bias : at.which == 1 ? b.k_bias : b.v_bias;
        const int before = (at.which > 0 ? d.out[0] : 0) + (at.which > 1 ? d.out[1] : 0);
        y = bias != nullptr ? y + bias[e.out] : y;
        p.raw[static_cast<int64_t>(e.i) * p.wide + before + e.out] = y;
    } else if (product == GATES) {
        const float up = sum_slices(own, d, e.row + d.each);
        p.hidden[static_cast<int64_t>(e.i) * p.f + e.out] = rf_quantize_bf16(gated(y, up));
    } else {
        const bool has_bias = product == ATTENDED && b.o_bias != nullptr;
        y = has_bias ? y + b.o_bias[e.out] : y;
        p.x[static_cast<int64_t>(e.i) * p.d + e.out] = y + residual;
    }
}

/* All tiles of this block of threads, a group a tile. Sets the next stage. */
template <int ROWS>
static __device__ void make_product(const own_pass &p, const room &r, const own_block &b,
                                    int product, int *stage)
{
    const rf_cuda_deal &d = p.deal[product];
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int count = rf_cuda_deal_count(&d, block, blocks), chunks = d.slice / TILE_COLUMNS;
    const int group = group_number(), thread = static_cast<int>(threadIdx.x) % GROUP;
    float *sums = r.sums + group * ROWS * RF_CUDA_TILE;
    for (int first = 0; first < count; first += GROUPS) {
        const int side = min(count - first, int{GROUPS});
        if (group < side) {
            const rf_cuda_dealt at = rf_cuda_deal_at(&d, block + (first + group) * blocks);
            float sum[4 * ROWS] = {};
            element e = {};
            float residual = 0.0F;
            if (ROWS == 1) { /* on its way while the tile is multiplied */
                e = element_at(p, d, at, thread);
                residual = residual_at(p, product, e);
            }
            multiply<ROWS>(sum, p, r, chunks, *stage + group, side);
            keep_own<ROWS>(sums, d, sum);
            group_meets();
#pragma unroll 1
            for (int i = thread; i < p.n * d.each; i += GROUP) {
                if (ROWS > 1 || i != thread) {
                    e = element_at(p, d, at, i);
                    residual = residual_at(p, product, e);
                }
                if (e.is_there) {
                    finish_element(p, b, product, at, e, sums, residual);
                }
            }
            group_meets();
        }
        *stage += chunks * side;
    }
}

/* --- Attention --------------------------------------------------------------------------------- */

/* A part of a run's keys with a key head. */
struct part_work {
    int query, rows, head, span, key, keys, row; /* query: the first; rows: queries times heads */
};

static __device__ inline part_work work_at(const own_pass &p, int number)
{
    const int g = static_cast<int>(p.attention.g), shared = static_cast<int>(p.attention.h) / g;
    const rf_cuda_unit unit = p.attention.unit[number / g];
    const int32_t *run = p.attention.run + unit.run * RUN_COLUMNS;
    const int key = run[SPAN_BEGIN + 2 * unit.span] + unit.first * RF_CUDA_PART;
    return {run[QUERY_BEGIN],
            (run[QUERY_END] - run[QUERY_BEGIN]) * shared,
            number % g,
            unit.span,
            key,
            min(run[SPAN_END + 2 * unit.span] - key, int{RF_CUDA_PART}),
            unit.row};
}

/* Keys and values of a part; those of this pass may be old ones, and are put in their places later. */
static __device__ void fetch_keys(const own_pass &p, const own_block &b, part_tiles *t,
                                  const part_work &w)
{
    enum { PIECES = WIDTH / PIECE };
    const int64_t step = p.attention.g * WIDTH, first = w.key * step + w.head * WIDTH;
    for (int i = static_cast<int>(threadIdx.x); i < PART * PIECES; i += WORKERS) {
        const int row = i / PIECES, column = i % PIECES * PIECE;
        const bool is_there = row < w.keys;
        const int64_t from = first + (is_there ? row * step + column : 0);
        copy_piece(&t->k[row][column], b.keys + from, is_there);
        copy_piece(&t->v[row][column], b.values + from, is_there);
    }
    commit_pieces();
}

/* Query (which 0), key (1) or value (2) of a head, as bf16: a warp. */
static __device__ void put_head(const own_pass &p, const own_block &b, int which, int i, int head,
                                uint16_t *to)
{
    const rf_cuda_deal &d = p.deal[HEADS];
    const int element = static_cast<int>(threadIdx.x) % WARP * 4;
    const int before = (which > 0 ? d.out[0] : 0) + (which > 1 ? d.out[1] : 0);
    float4 x = read4(p.raw + static_cast<int64_t>(i) * p.wide + before + head * WIDTH + element);
    if (which < 2) {
        const float *gain = which == 0 ? b.q_gain : b.k_gain;
        const int64_t angle =
            static_cast<int64_t>(p.position[i]) * (WIDTH / 2) + element % (WIDTH / 2);
        turn t = {
            nullptr, {1.0F, 1.0F, 1.0F, 1.0F}, read4(p.cosine + angle), read4(p.sine + angle)};
        if (gain != nullptr) {
            t.gain = read4(gain + element);
        }
        x = turned(x, t, gain != nullptr, p.eps, WIDTH);
    }
    write4({to + element, RF_CUDA_BF16}, 0, x);
}

static __device__ inline int place_of_row(const own_pass &p, int i)
{
    return p.place != nullptr ? p.place[i] : i;
}

/* This pass' keys and values into the cache, dealt out from the last block of threads on: the first ones
 * have parts. */
static __device__ void write_cache(const own_pass &p, const own_block &b)
{
    const int warp = static_cast<int>(threadIdx.x) / WARP, g = static_cast<int>(p.attention.g);
    const int blocks = static_cast<int>(gridDim.x);
    for (int job = blocks - 1 - static_cast<int>(blockIdx.x) + blocks * warp; job < 2 * p.n * g;
         job += blocks * WORKER_WARPS) {
        const int which = 1 + job % 2, head = job / 2 % g, i = job / 2 / g;
        uint16_t *cache = which == 1 ? b.keys : b.values;
        put_head(p, b, which, i, head,
                 cache + (static_cast<int64_t>(place_of_row(p, i)) * g + head) * WIDTH);
    }
}

/* Those that lie in this part. */
static __device__ void put_new_keys(const own_pass &p, const own_block &b, part_tiles *t,
                                    const part_work &w)
{
    for (int job = static_cast<int>(threadIdx.x) / WARP; job < 2 * p.n; job += WORKER_WARPS) {
        const int row = place_of_row(p, job / 2) - w.key;
        if (row >= 0 && row < w.keys) {
            put_head(p, b, 1 + job % 2, job / 2, w.head, job % 2 == 0 ? t->k[row] : t->v[row]);
        }
    }
}

/* Scores of 16 rows, 16 keys a warp. */
static __device__ void make_scores(part_tiles *t)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              key = static_cast<int>(threadIdx.x) / WARP * 16;
    float score[2][4] = {};
#pragma unroll
    for (int c = 0; c < WIDTH; c += 16) {
        uint32_t a[4], b[4];
        load_four(a, &t->q[lane % 16][c + lane / 16 * 8]);
        load_four(b, &t->k[key + lane / 16 * 8 + lane % 8][c + lane / 8 % 2 * 8]);
        multiply_add(score[0], a, b[0], b[1]);
        multiply_add(score[1], a, b[2], b[3]);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            *reinterpret_cast<float2 *>(
                &t->score[lane / 4 + half * 8][key + j * 8 + lane % 4 * 2]) = {
                score[j][half * 2], score[j][half * 2 + 1]};
        }
    }
}

/* Rows [first, first + 16) of a part: their scores in shared memory, then a quarter of the values' columns a
 * warp. The first group. */
static __device__ void attend_rows(const own_pass &p, part_tiles *t, const part_work &w, int first)
{
    enum { COLUMNS = WIDTH / 4 };
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    const int h = static_cast<int>(p.attention.h), shared = h / static_cast<int>(p.attention.g);
    float score[PART / 8][4], most[2], sum[2], o[COLUMNS / 8][4] = {};
    uint32_t weight[PART / 8][2];
    make_scores(t);
    group_meets();
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int j = 0; j < PART / 8; j++) {
            const float2 pair = *reinterpret_cast<const float2 *>(
                &t->score[lane / 4 + half * 8][j * 8 + lane % 4 * 2]);
            score[j][half * 2] = pair.x;
            score[j][half * 2 + 1] = pair.y;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = w.query + min(first + lane / 4 + half * 8, w.rows - 1) / shared;
        const int count = p.attention.span[4 * query + 2 * w.span + 1] - w.key;
        weigh(weight, &most[half], &sum[half], score, half, count, p.scale);
    }
#pragma unroll
    for (int key = 0; key < PART / 8; key += 2) {
        const uint32_t a[4] = {weight[key][0], weight[key][1], weight[key + 1][0],
                               weight[key + 1][1]};
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j += 2) {
            uint32_t b[4];
            load_four_turned(b, &t->v[key * 8 + lane % 16][warp * COLUMNS + j * 8 + lane / 16 * 8]);
            multiply_add(o[j], a, b[0], b[1]);
            multiply_add(o[j + 1], a, b[2], b[3]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + lane / 4 + half * 8;
        float all_most = -INFINITY, all_sum = 0.0F; /* a state without keys, joined by the part */
        const shares m = merge(&all_most, &all_sum, most[half], sum[half]);
        if (row < w.rows) {
            const int64_t at = w.row + row / shared, head = w.head * shared + row % shared;
            float *to = p.attention.part + (at * h + head) * (WIDTH + 4);
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++) {
                *reinterpret_cast<float2 *>(to + warp * COLUMNS + j * 8 + lane % 4 * 2) = {
                    join(0.0F, o[j][half * 2], m), join(0.0F, o[j][half * 2 + 1], m)};
            }
            if (warp == 0 && lane % 4 == 0) {
                *reinterpret_cast<float2 *>(to + WIDTH) = {all_most, all_sum};
            }
        }
    }
}

static __device__ void attend_part(const own_pass &p, const own_block &b, part_tiles *t,
                                   const part_work &w)
{
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int shared = static_cast<int>(p.attention.h / p.attention.g);
    wait_pieces<0>();
    workers_meet();
    put_new_keys(p, b, t, w);
    for (int first = 0; first < w.rows; first += QUERY_ROWS) {
        for (int row = warp; row < min(w.rows - first, int{QUERY_ROWS}); row += WORKER_WARPS) {
            const int number = first + row;
            put_head(p, b, 0, w.query + number / shared, w.head * shared + number % shared,
                     t->q[row]);
        }
        workers_meet();
        if (threadIdx.x < GROUP) {
            attend_rows(p, t, w, first);
        }
        workers_meet(); /* queries, keys and values have been read */
    }
}

/* The first part's keys are on their way while the products are waited for. */
static __device__ void attend(const own_pass &p, const own_block &b, part_tiles *t, int phases)
{
    const int count = *p.attention.units * static_cast<int>(p.attention.g);
    int number = static_cast<int>(blockIdx.x);
    part_work w = {};
    if (number < count) {
        w = work_at(p, number);
        fetch_keys(p, b, t, w);
    }
    wait_for_phases(p, phases);
    write_cache(p, b);
    while (number < count) {
        attend_part(p, b, t, w);
        number += static_cast<int>(gridDim.x);
        if (number < count) {
            w = work_at(p, number);
            fetch_keys(p, b, t, w);
        }
    }
}

/* A warp a query and head. */
static __device__ void merge_all(const own_pass &p)
{
    const int blocks = static_cast<int>(gridDim.x), h = static_cast<int>(p.attention.h);
    for (int number =
             static_cast<int>(blockIdx.x) + blocks * (static_cast<int>(threadIdx.x) / WARP);
         number < p.n * h; number += blocks * WORKER_WARPS) {
        merge_row<WIDTH>(p.attention, p.attention.table[number / h], number / h, number % h);
    }
}

/* --- The kernel -------------------------------------------------------------------------------- */

/* Lines that a later phase reads, as far as they are a block's own. */
static __device__ inline void prefetch_gain(const float *gain, int count)
{
    const int element = static_cast<int>(threadIdx.x) * 32;
    if (gain != nullptr && element < count) {
        prefetch(gain + element);
    }
}

template <int ROWS> static __device__ void work(const own_pass &p, const room &r)
{
    int stage = 0, phases = p.before * PHASES;
    for (int i = 0; i < p.blocks; i++) {
        const own_block &b = p.block[i];
        prefetch_gain(b.attention_gain, p.d);
        if (i > 0) {
            wait_for_phases(p, phases);
        }
        put_normed<ROWS>(p, r, p.deal[HEADS], b.attention_gain);
        make_product<ROWS>(p, r, b, HEADS, &stage);
        prefetch_gain(b.q_gain, WIDTH);
        prefetch_gain(b.k_gain, WIDTH);
        phase_done(p);
        attend(p, b, r.tiles, ++phases);
        phase_done(p);
        wait_for_phases(p, ++phases);
        merge_all(p);
        phase_done(p);
        wait_for_phases(p, ++phases);
        put_rows<ROWS>(p, r, p.deal[ATTENDED], p.attention.o);
        make_product<ROWS>(p, r, b, ATTENDED, &stage);
        prefetch_gain(b.mlp_gain, p.d);
        phase_done(p);
        wait_for_phases(p, ++phases);
        put_normed<ROWS>(p, r, p.deal[GATES], b.mlp_gain);
        make_product<ROWS>(p, r, b, GATES, &stage);
        phase_done(p);
        wait_for_phases(p, ++phases);
        put_rows<ROWS>(p, r, p.deal[DOWN], p.hidden);
        make_product<ROWS>(p, r, b, DOWN, &stage);
        phase_done(p);
        ++phases;
    }
}

template <int ROWS>
static __global__ void __launch_bounds__(THREADS, 1) run_pass(const __grid_constant__ own_pass p)
{
    extern __shared__ char shared[];
    char *memory = shared + (ALIGNMENT - shared_address(shared) % ALIGNMENT) % ALIGNMENT;
    room r;
    r.ring = shared_address(memory);
    r.x_data = memory + p.stages * STAGE;
    r.x = shared_address(r.x_data);
    r.tiles = reinterpret_cast<part_tiles *>(r.x_data);
    r.sums = reinterpret_cast<float *>(r.x_data + p.x_bytes);
    r.full = shared_address(r.sums + GROUPS * ROWS * RF_CUDA_TILE);
    r.empty = r.full + static_cast<unsigned>(p.stages) * 8U;
    if (threadIdx.x == 0) {
        for (int s = 0; s < p.stages; s++) {
            barrier_init(r.full_at(s), 1);
            barrier_init(r.empty_at(s), 1);
        }
        barriers_are_initialised();
    }
    __syncthreads();
    if (threadIdx.x >= WORKERS) {
        if (threadIdx.x == WORKERS) {
            load_weights(p, r);
        }
    } else {
        work<ROWS>(p, r);
    }
}

/* --- Launches ---------------------------------------------------------------------------------- */

static void deal_out(rf_cuda_deal (&deal)[PRODUCTS], const rf_cuda_pass *p)
{
    const int64_t hk = p->attention.h * WIDTH, gk = p->attention.g * WIDTH;
    const int64_t heads[] = {hk, gk, gk};
    deal[HEADS] = rf_cuda_deal_of(p->d, heads, 3, false);
    deal[ATTENDED] = rf_cuda_deal_of(hk, &p->d, 1, false);
    deal[GATES] = rf_cuda_deal_of(p->d, &p->f, 1, true);
    deal[DOWN] = rf_cuda_deal_of(p->f, &p->d, 1, false);
}

static int rows_of(const rf_cuda_pass *p)
{
    return p->n == 1 ? 1 : int{MOST_ROWS};
}

/* Bytes for x of the widest product, or a part of attention. */
static int64_t x_bytes(const rf_cuda_pass *p)
{
    rf_cuda_deal deal[PRODUCTS];
    int64_t bytes = sizeof(part_tiles);
    deal_out(deal, p);
    for (const rf_cuda_deal &d : deal) {
        bytes = max(bytes, int64_t{d.slice} / TILE_COLUMNS * rows_of(p) * 8 * TILE_ROW);
    }
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static int64_t stages_of(const rf_cuda_pass *p)
{
    const int64_t sums = int64_t{GROUPS} * rows_of(p) * RF_CUDA_TILE * 4;
    const int64_t rest = SHARED_MEMORY - 2 * ALIGNMENT - x_bytes(p) - sums;
    return rest / (STAGE + 2 * 8);
}

bool rf_cuda_takes_pass(const rf_cuda_pass *p)
{
    const rf_cuda_attend &a = p->attention;
    return p->n > 0 && p->n <= RF_CUDA_PASS_ROWS && a.head_dim == WIDTH && a.g > 0 &&
           a.h / a.g <= RF_CUDA_SHARED && stages_of(p) >= LEAST_STAGES &&
           p->n * (a.keys / RF_CUDA_PART + 2) <= min(a.part_rows, int64_t{RF_CUDA_FEW_PARTS});
}

static int fill(own_pass *to, const rf_cuda_pass *p)
{
    static const int product[RF_CUDA_PASS_MATRICES] = {HEADS, HEADS, HEADS, ATTENDED,
                                                       GATES, GATES, DOWN};
    static const int factor_number[RF_CUDA_PASS_MATRICES] = {0, 1, 2, 0, 0, 0, 0};
    const double log2_e = 1.4426950408889634;
    deal_out(to->deal, p);
    for (int i = 0; i < p->blocks; i++) {
        const rf_cuda_pass_block &from = p->block[i];
        own_block &b = to->block[i];
        for (int m = 0; m < RF_CUDA_PASS_MATRICES; m++) {
            const rf_cuda_deal &d = to->deal[product[m]];
            const int code = encode(&b.w[m], from.w[m], d.out[factor_number[m]], d.in, d.each);
            if (code != 0) {
                return code;
            }
        }
        b.attention_gain = from.attention_gain;
        b.mlp_gain = from.mlp_gain;
        b.q_gain = from.q_gain;
        b.k_gain = from.k_gain;
        b.q_bias = from.q_bias;
        b.k_bias = from.k_bias;
        b.v_bias = from.v_bias;
        b.o_bias = from.o_bias;
        b.keys = from.keys;
        b.values = from.values;
    }
    to->blocks = p->blocks;
    to->before = p->before;
    to->n = static_cast<int>(p->n);
    to->d = static_cast<int>(p->d);
    to->f = static_cast<int>(p->f);
    to->wide = static_cast<int>((p->attention.h + 2 * p->attention.g) * WIDTH);
    to->stages = static_cast<int>(stages_of(p));
    to->x_bytes = static_cast<int>(x_bytes(p));
    to->eps = p->eps;
    to->scale = static_cast<float>(log2_e / sqrt(static_cast<double>(WIDTH)));
    to->x = p->x;
    to->raw = p->raw;
    to->hidden = p->hidden;
    to->cosine = p->cosine;
    to->sine = p->sine;
    to->position = p->position;
    to->place = p->place;
    to->attention = p->attention;
    return 0;
}

template <int ROWS> static int launch(rf_cuda_stream stream, const own_pass &p, unsigned blocks)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative; /* all blocks at once, or an error */
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = SHARED_MEMORY - GROUPS * NORM_WARPS * sizeof(float);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const int code = allow_memory(run_pass<ROWS>, config.dynamicSmemBytes);
    return code != 0 ? code : cudaLaunchKernelEx(&config, run_pass<ROWS>, p);
}

int rf_cuda_run_pass(rf_cuda_stream stream, const rf_cuda_pass *p)
{
    own_pass own = {};
    int device = 0, processors = 0, code = fill(&own, p);
    if (code == 0) {
        code = cudaGetDevice(&device);
    }
    if (code == 0) {
        code = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    }
    if (code != 0 || p->blocks == 0) {
        return code;
    }
    const unsigned blocks = static_cast<unsigned>(processors);
    return rows_of(p) == 1 ? launch<1>(stream, own, blocks)
                           : launch<MOST_ROWS>(stream, own, blocks);
}
