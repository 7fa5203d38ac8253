/* ends.cuh: how a product of inference (few.cu) ends: its slices are added, and what follows from the sums is
 * written: y with bias and residual, the gates of SwiGLU, or the heads and the cache.
 */
#ifndef RF_KERNELS_CUDA_INFER_ENDS_CUH
#define RF_KERNELS_CUDA_INFER_ENDS_CUH

#include "common/kernels/cuda/infer/ring.cuh"

/* Slices of the inner dimension at most; floats between the columns of `part`, against bank conflicts. */
enum { MOST_SLICES = 8, PAD = 4 };

/* Columns [begin,end) of a tile. */
typedef struct tile_columns {
    int begin, end;
} tile_columns;

/* How the sums of the blocks of a cluster come together. Each block ends some columns: the others send it theirs, or
 * it reads them where they are. A barrier that orders what was written waits for all that a block has under way in the
 * memory; what is sent has a barrier of its own, but needs room for both, which of large tiles the next kernel's blocks
 * would miss. */
template <int ROWS, int COLUMNS, bool SPLIT> struct exchange {
    static constexpr unsigned pitch = (ROWS + PAD) * 4, sums = COLUMNS * pitch,
                              received = sums + MOST_SLICES * pitch;
    static constexpr bool sends = SPLIT && (ROWS == 64 || COLUMNS <= 32);
    static constexpr unsigned bytes = sums + (sends ? received : 0);
    float *part;
    unsigned barrier; /* of what is sent */
    tile_columns own; /* that this block ends */
};

/* Those that a block of the cluster ends. */
template <int COLUMNS, bool SPLIT>
static __device__ inline tile_columns columns_of(const operands &p, const place &at, int block)
{
    const int all = min(COLUMNS, p.n - at.column), each = (all + p.slices - 1) / p.slices;
    return SPLIT ? tile_columns{min(block * each, all), min((block + 1) * each, all)}
                 : tile_columns{0, all};
}

/* Those that this block ends. */
template <int COLUMNS, bool SPLIT>
static __device__ inline tile_columns own_columns(const operands &p, const place &at)
{
    return columns_of<COLUMNS, SPLIT>(p, at, SPLIT ? cluster_rank() : 0);
}

/* part[column][row] of a block's sums. */
template <int ROWS, int COLUMNS>
static __device__ void store_sums(float *part, const float (&total)[COLUMNS / 2])
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    const int row = warp * 16 + lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int e = 0; e < COLUMNS / 2; e++) {
        part[(column + e / 4 * 8 + e % 2) * (ROWS + PAD) + row + e / 2 % 2 * 8] = total[e];
    }
}

static __device__ inline float4 add4(float4 a, float4 b)
{
    return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

/* Four rows of a column, all slices. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ float4 add_slices(const operands &p, const exchange<ROWS, COLUMNS, SPLIT> &x,
                                    int column, int row)
{
    const float *own = x.part + column * (ROWS + PAD) + row;
    if constexpr (SPLIT) {
        const int apart = (x.own.end - x.own.begin) * (ROWS + PAD);
        const float *sent = own + x.sums / 4 - x.own.begin * (ROWS + PAD);
        float4 slice[MOST_SLICES];
#pragma unroll
        for (int s = 0; s < MOST_SLICES; s++) { /* all on their way before the first is added */
            slice[s] = {};
            if (s < p.slices) {
                slice[s] = x.sends ? *reinterpret_cast<const float4 *>(sent + s * apart)
                                   : read_cluster(shared_address(own), static_cast<unsigned>(s));
            }
        }
        float4 sum = slice[0];
#pragma unroll
        for (int s = 1; s < MOST_SLICES; s++) {
            sum = s < p.slices ? add4(sum, slice[s]) : sum;
        }
        return sum;
    } else {
        return *reinterpret_cast<const float4 *>(own);
    }
}

static __device__ inline float gated(float gate, float up)
{
    return __fdividef(gate, 1.0F + __expf(-gate)) * up;
}

static __device__ inline void write4(const rf_cuda_real &y, int64_t at, float4 x)
{
    if (y.type == RF_CUDA_BF16) {
        *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(y.data) + at) = {pack_pair(x.x, x.y),
                                                                            pack_pair(x.z, x.w)};
    } else {
        *reinterpret_cast<float4 *>(static_cast<float *>(y.data) + at) = x;
    }
}

/* Four elements of y: where they are, and what is added to the sum there. */
typedef struct quad {
    int64_t y;
    int column, row;
    bool is_there;
    float4 residual;
} quad;

template <int ROWS>
static __device__ quad quad_at(const operands &p, const place &at, const tile_columns &own, int i)
{
    const factor &f = p.of[at.which];
    const int quads = (p.gates ? ROWS / 2 : ROWS) / 4;
    quad q = {0, own.begin + i / quads, i % quads * 4, false, {}};
    const int out = at.row + q.row;
    q.is_there = q.column < own.end && out < f.out;
    q.y = static_cast<int64_t>(at.column + q.column) * f.out + out;
    if (q.is_there && f.residual != nullptr) {
        q.residual = *reinterpret_cast<const float4 *>(f.residual + q.y);
    }
    return q;
}

/* One thread, when the kernel begins. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void begin_exchange(const operands &p, const exchange<ROWS, COLUMNS, SPLIT> &x)
{
    if constexpr (exchange<ROWS, COLUMNS, SPLIT>::sends) {
        barrier_init(x.barrier, 1);
        barriers_are_initialised();
        barrier_expect(x.barrier,
                       static_cast<unsigned>(p.slices * (x.own.end - x.own.begin)) * x.pitch);
    }
}

/* All threads: this one reads no tile any more, whose memory the sums of others may take. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ inline void tiles_are_free(const exchange<ROWS, COLUMNS, SPLIT> &x)
{
    if constexpr (exchange<ROWS, COLUMNS, SPLIT>::sends) {
        cluster_arrive_relaxed();
    }
    __syncthreads();
}

/* The sums of all blocks of the cluster, or of this one, are stored: they are here, or may be read. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ inline void all_stored(const operands &p, const place &at,
                                         const exchange<ROWS, COLUMNS, SPLIT> &x)
{
    if constexpr (exchange<ROWS, COLUMNS, SPLIT>::sends) {
        /* what a thread sends, found while the others come */
        const int block = static_cast<int>(threadIdx.x);
        const tile_columns to = columns_of<COLUMNS, SPLIT>(p, at, block);
        const unsigned bytes = static_cast<unsigned>(to.end - to.begin) * x.pitch,
                       part = shared_address(x.part),
                       from = part + static_cast<unsigned>(to.begin) * x.pitch;
        cluster_wait();
        __syncthreads();
        if (block < p.slices && bytes > 0) {
            send_cluster(part + x.sums + blockIdx.x * bytes, from, bytes, x.barrier, threadIdx.x);
        }
        barrier_wait(x.barrier, 0);
        cluster_arrive_relaxed(); /* it has got all; who sent waits for that when the kernel ends */
    } else if constexpr (SPLIT) {
        cluster_arrive();
        cluster_wait();
    } else {
        __syncthreads();
    }
}

template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void finish_quad(const operands &p, const place &at,
                                   const exchange<ROWS, COLUMNS, SPLIT> &x, const quad &q)
{
    const factor &f = p.of[at.which];
    float4 sum = add_slices(p, x, q.column, q.row);
    if (p.gates) {
        const float4 up = add_slices(p, x, q.column, q.row + ROWS / 2);
        sum = {gated(sum.x, up.x), gated(sum.y, up.y), gated(sum.z, up.z), gated(sum.w, up.w)};
    }
    if (f.bias != nullptr) {
        sum = add4(sum, *reinterpret_cast<const float4 *>(f.bias + at.row + q.row));
    }
    write4(f.y, q.y, f.residual != nullptr ? add4(sum, q.residual) : sum);
}

template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void finish(const operands &p, const place &at,
                              const exchange<ROWS, COLUMNS, SPLIT> &x)
{
    /* so that what they need of memory comes together; the blocks of a cluster have few each */
    enum { AT_ONCE = COLUMNS < 64 || SPLIT ? 1 : 4 };
    const int step = static_cast<int>(blockDim.x),
              count = (x.own.end - x.own.begin) * (p.gates ? ROWS / 2 : ROWS) / 4;
    int i = static_cast<int>(threadIdx.x);
    quad q[AT_ONCE]; /* on their way while the others end */
#pragma unroll
    for (int e = 0; e < AT_ONCE; e++) {
        q[e] = quad_at<ROWS>(p, at, x.own, i + e * step);
    }
    all_stored(p, at, x);
    while (i < count) {
#pragma unroll
        for (int e = 0; e < AT_ONCE; e++) {
            if (q[e].is_there) {
                finish_quad(p, at, x, q[e]);
            }
        }
        i += AT_ONCE * step;
#pragma unroll
        for (int e = 0; e < AT_ONCE; e++) {
            q[e] = quad_at<ROWS>(p, at, x.own, i + e * step);
        }
    }
}

/* Four elements of a head: what they become does not depend on the products. */
typedef struct turn {
    uint16_t *to;
    float4 gain, cosine, sine;
} turn;

static __device__ inline float4 read4(const float *from)
{
    return *reinterpret_cast<const float4 *>(from);
}

static __device__ turn turn_at(const operands &p, const place &at, const tile_columns &own,
                               int column)
{
    const rf_cuda_heads &heads = p.heads;
    turn t = {nullptr, {1.0F, 1.0F, 1.0F, 1.0F}, {}, {}};
    const int width = static_cast<int>(heads.head_dim),
              element = static_cast<int>(threadIdx.x) % WARP * 4;
    const int64_t row = at.column + column;
    if (column >= own.end || at.row + element >= p.of[at.which].out) {
        return t;
    }
    const int64_t place = at.which == 0 || heads.place == nullptr ? row : heads.place[row];
    uint16_t *all = at.which == 0 ? heads.q : at.which == 1 ? heads.cache_k : heads.cache_v;
    t.to = all + place * p.of[at.which].out + at.row + element;
    if (at.which < 2) {
        const float *gain = at.which == 0 ? heads.q_gain : heads.k_gain;
        const int64_t angle = heads.position[row] * (heads.head_dim / 2) + element % (width / 2);
        t.gain = gain != nullptr ? read4(gain + element % width) : t.gain;
        t.cosine = read4(heads.cosine + angle);
        t.sine = read4(heads.sine + angle);
    }
    return t;
}

/* The sum over the lanes that have a head, and what the lane half a head away has. */
static __device__ inline float head_sum(float x, int lanes)
{
    for (int step = lanes / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffU, x, step);
    }
    return x;
}

static __device__ inline float4 opposite(float4 x, int lanes)
{
    return {
        __shfl_xor_sync(0xffffffffU, x.x, lanes / 2), __shfl_xor_sync(0xffffffffU, x.y, lanes / 2),
        __shfl_xor_sync(0xffffffffU, x.z, lanes / 2), __shfl_xor_sync(0xffffffffU, x.w, lanes / 2)};
}

/* The norm of the head, where it has one, then the rotation. */
static __device__ inline float4 turned(float4 x, const turn &t, bool has_gain, float eps, int width)
{
    const int lanes = width / 4, lane = static_cast<int>(threadIdx.x) % WARP;
    const float squares = fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, x.x * x.x)));
    const float mean = head_sum(squares, lanes) / static_cast<float>(width);
    if (has_gain) {
        const float r = rsqrtf(mean + eps);
        x = {x.x * r * t.gain.x, x.y * r * t.gain.y, x.z * r * t.gain.z, x.w * r * t.gain.w};
    }
    const float4 y = opposite(x, lanes), c = t.cosine;
    const float sign = lane % lanes < lanes / 2 ? -1.0F : 1.0F;
    const float4 s = {sign * t.sine.x, sign * t.sine.y, sign * t.sine.z, sign * t.sine.w};
    return {x.x * c.x + y.x * s.x, x.y * c.y + y.y * s.y, x.z * c.z + y.z * s.z,
            x.w * c.w + y.w * s.w};
}

/* Warps of the block; each has every so many-th of its columns. */
static __device__ inline int warps_of_block()
{
    return static_cast<int>(blockDim.x) / WARP;
}

static __device__ inline int warp_of_block()
{
    return static_cast<int>(threadIdx.x) / WARP;
}

template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void finish_head(const operands &p, const place &at,
                                   const exchange<ROWS, COLUMNS, SPLIT> &from, int column,
                                   const turn &t)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const float *bias = p.of[at.which].bias;
    float4 x = add_slices(p, from, column, lane * 4);
    if (bias != nullptr && t.to != nullptr) {
        x = add4(x, read4(bias + at.row + lane * 4));
    }
    if (at.which < 2) {
        const float *gain = at.which == 0 ? p.heads.q_gain : p.heads.k_gain;
        x = turned(x, t, gain != nullptr, p.heads.eps, static_cast<int>(p.heads.head_dim));
    }
    if (t.to != nullptr) {
        write4({t.to, RF_CUDA_BF16}, 0, x);
    }
}

/* What a warp's first columns become, asked for before the products are made (by the warp that has tiles copied:
 * after the last) where there are registers for it, else while the others end. Nothing of it depends on a kernel that
 * may still run. */
template <int COLUMNS, bool SPLIT, typename WEIGHT> struct first_turns {
    static constexpr bool is_wide = COLUMNS >= 64, is_half = sizeof(WEIGHT) > 1,
                          is_early = is_half ? !is_wide || SPLIT : COLUMNS == 8;
    enum { COUNT = !is_wide ? 1 : !SPLIT ? 4 : is_half && COLUMNS == 64 ? 2 : 1 };
    turn of[COUNT];
    __device__ void begin(const operands &p, const place &at, const tile_columns &own)
    {
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            of[e] = turn_at(p, at, own, own.begin + warp_of_block() + e * warps_of_block());
        }
    }
};

/* A warp a column: 128 rows are one head or two. What the columns behind these need comes meanwhile. */
template <int ROWS, int COLUMNS, bool SPLIT, typename WEIGHT>
static __device__ void finish_heads(const operands &p, const place &at,
                                    const exchange<ROWS, COLUMNS, SPLIT> &x,
                                    first_turns<COLUMNS, SPLIT, WEIGHT> &t)
{
    enum { AT_ONCE = first_turns<COLUMNS, SPLIT, WEIGHT>::COUNT, AHEAD = AT_ONCE == 1 };
    const int step = warps_of_block();
    int column = x.own.begin + warp_of_block();
    if constexpr (!t.is_early) {
        t.begin(p, at, x.own);
    }
    all_stored(p, at, x);
    while (column < x.own.end) {
        const turn next = AHEAD ? turn_at(p, at, x.own, column + step) : turn{};
#pragma unroll
        for (int e = 0; e < AT_ONCE; e++) {
            if (column + e * step < x.own.end) {
                finish_head(p, at, x, column + e * step, t.of[e]);
            }
        }
        column += AT_ONCE * step;
#pragma unroll
        for (int e = 0; e < AT_ONCE; e++) {
            t.of[e] = AHEAD ? next : turn_at(p, at, x.own, column + e * step);
        }
    }
}

#endif
