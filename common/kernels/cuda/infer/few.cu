/* Products of inference: bf16 weights times bf16 rows, summed in f32 by tensor cores.
 *
 * y [n,out] = x [n,in] w [out,in]^T. The weights are the operand of 64 rows, so that one row of x costs
 * 8 columns and not 64. The inner dimension is cut into slices, whose number depends on its length alone
 * (slices_of); a slice is one chain of wgmma over 16 terms each, and slices are added in order. So an
 * element's bits depend neither on n nor on its place, although with few tiles each slice has a block of
 * its own (a cluster of them adds up in shared memory), and with many one block makes all.
 *
 * A block: a warp that has tiles copied into a ring, and one or two groups of four warps that multiply
 * them, 64 rows of weights each. Its first weights are on their way before the kernel that makes x has
 * ended. */
#include "common/kernels/cuda/infer/ring.cuh"
#include "common/kernels/cuda/infer/stream.cuh"
#include "common/kernels/cuda/infer/wgmma.cuh"

enum { MOST_SLICES = 8, SLICE = 256, PAD = 4, MOST_STAGES = 8, ALIGNMENT = 1024 };

/* Terms of a slice, a multiple of TILE_COLUMNS; the last may be shorter. */
static int64_t slice_of(int64_t in)
{
    int64_t slices = 1;
    while (slices < MOST_SLICES && slices * SLICE < in) {
        slices *= 2;
    }
    return (in + slices * TILE_COLUMNS - 1) / (slices * TILE_COLUMNS) * TILE_COLUMNS;
}

static int64_t slices_of(int64_t in)
{
    const int64_t slice = slice_of(in);
    return (in + slice - 1) / slice;
}

/* A group's sums over all chunks of its 64 rows. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void multiply_all(float (&total)[COLUMNS / 2], const ring<ROWS, COLUMNS> &r,
                                    const operands &p, const place &at)
{
    const unsigned own = threadIdx.x / GROUP * 64U * TILE_ROW;
    const bool leads = threadIdx.x % GROUP == 0;
    float sum[COLUMNS / 2];
    for (int begin = 0; begin < at.chunks; begin += at.slice_chunks) {
        const int end = min(begin + at.slice_chunks, at.chunks);
        for (int c = begin; c < end; c++) {
            const int s = c % p.stages;
            barrier_wait(r.full_at(s), static_cast<unsigned>(c / p.stages) & 1U);
            mma_fence();
#pragma unroll
            for (int step = 0; step < TILE_COLUMNS / TILE_STEP; step++) {
                const unsigned offset = static_cast<unsigned>(step) * TILE_STEP * 2U;
                multiply_tiles<COLUMNS>(sum, descriptor(r.stage(s) + own + offset),
                                        descriptor(r.stage(s) + r.weights + offset),
                                        c > begin || step > 0);
            }
            mma_commit();
            mma_wait<1>();
            if (leads && c > 0) {
                barrier_arrive(r.empty_at((c - 1) % p.stages));
            }
        }
        mma_wait<0>();
#pragma unroll
        for (int e = 0; e < COLUMNS / 2; e++) {
            total[e] = SPLIT || begin == 0 ? sum[e] : total[e] + sum[e];
        }
    }
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
template <int ROWS, bool SPLIT>
static __device__ float4 add_slices(const operands &p, const float *part, int column, int row)
{
    const float *own = part + column * (ROWS + PAD) + row;
    if constexpr (SPLIT) {
        float4 slice[MOST_SLICES];
#pragma unroll
        for (int s = 0; s < MOST_SLICES; s++) { /* all on their way before the first is added */
            slice[s] = {};
            if (s < p.slices) {
                slice[s] = read_cluster(shared_address(own), static_cast<unsigned>(s));
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
    return gate / (1.0F + expf(-gate)) * up;
}

static __device__ inline void write4(const rf_cuda_real &y, int64_t at, float4 x)
{
    if (y.type == RF_CUDA_BF16) {
        const uint32_t low = rf_quantize_bf16(x.x) | static_cast<uint32_t>(rf_quantize_bf16(x.y))
                                                         << 16;
        const uint32_t high = rf_quantize_bf16(x.z) | static_cast<uint32_t>(rf_quantize_bf16(x.w))
                                                          << 16;
        *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(y.data) + at) = {low, high};
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

template <int ROWS, int COLUMNS>
static __device__ quad quad_at(const operands &p, const place &at, int i)
{
    const factor &f = p.of[at.which];
    const int quads = (p.gates ? ROWS / 2 : ROWS) / 4;
    quad q = {0, i / quads, i % quads * 4, false, {}};
    const int out = at.row + q.row;
    q.is_there = q.column < min(COLUMNS, p.n - at.column) && out < f.out;
    q.y = static_cast<int64_t>(at.column + q.column) * f.out + out;
    if (q.is_there && f.residual != nullptr) {
        q.residual = *reinterpret_cast<const float4 *>(f.residual + q.y);
    }
    return q;
}

/* The sums of all blocks of the cluster, or of this one, are stored. */
template <bool SPLIT> static __device__ inline void all_stored()
{
    if constexpr (SPLIT) {
        cluster_arrive();
        cluster_wait();
    } else {
        __syncthreads();
    }
}

/* The blocks of a cluster share the elements out. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void finish(const operands &p, const place &at, const float *part)
{
    const factor &f = p.of[at.which];
    const int block = static_cast<int>(blockDim.x), blocks = SPLIT ? p.slices : 1;
    const int count = min(COLUMNS, p.n - at.column) * (p.gates ? ROWS / 2 : ROWS) / 4;
    int i = (SPLIT ? static_cast<int>(blockIdx.x) * block : 0) + static_cast<int>(threadIdx.x);
    quad q = quad_at<ROWS, COLUMNS>(p, at, i); /* on its way while the others end */
    all_stored<SPLIT>();
    while (i < count) {
        if (q.is_there) {
            float4 sum = add_slices<ROWS, SPLIT>(p, part, q.column, q.row);
            if (p.gates) {
                const float4 up = add_slices<ROWS, SPLIT>(p, part, q.column, q.row + ROWS / 2);
                sum = {gated(sum.x, up.x), gated(sum.y, up.y), gated(sum.z, up.z),
                       gated(sum.w, up.w)};
            }
            if (f.bias != nullptr) {
                sum = add4(sum, *reinterpret_cast<const float4 *>(f.bias + at.row + q.row));
            }
            write4(f.y, q.y, f.residual != nullptr ? add4(sum, q.residual) : sum);
        }
        i += blocks * block;
        q = quad_at<ROWS, COLUMNS>(p, at, i);
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

static __device__ turn turn_at(const operands &p, const place &at, int column)
{
    const rf_cuda_heads &heads = p.heads;
    turn t = {nullptr, {1.0F, 1.0F, 1.0F, 1.0F}, {}, {}};
    const int width = static_cast<int>(heads.head_dim),
              element = static_cast<int>(threadIdx.x) % WARP * 4;
    const int64_t row = at.column + column;
    if (row >= p.n || at.row + element >= p.of[at.which].out) {
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

/* A warp a column: 128 rows are one head or two. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void finish_heads(const operands &p, const place &at, const float *part)
{
    const int width = static_cast<int>(p.heads.head_dim), lanes = width / 4;
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    const int warps = static_cast<int>(blockDim.x) / WARP, blocks = SPLIT ? p.slices : 1;
    const int count = min(COLUMNS, p.n - at.column), out = at.row + lane * 4;
    const float *bias = p.of[at.which].bias;
    int column = (SPLIT ? static_cast<int>(blockIdx.x) * warps : 0) + warp;
    turn t = turn_at(p, at, column); /* on its way while the others end */
    all_stored<SPLIT>();
    for (; column < count; column += blocks * warps) {
        float4 x = add_slices<ROWS, SPLIT>(p, part, column, lane * 4);
        if (bias != nullptr && t.to != nullptr) {
            x = add4(x, read4(bias + out));
        }
        if (at.which < 2) {
            const float *gain = at.which == 0 ? p.heads.q_gain : p.heads.k_gain;
            const float squares = fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, x.x * x.x)));
            const float mean = head_sum(squares, lanes) / static_cast<float>(width);
            if (gain != nullptr) {
                const float r = 1.0F / sqrtf(mean + p.heads.eps);
                x = {x.x * r * t.gain.x, x.y * r * t.gain.y, x.z * r * t.gain.z,
                     x.w * r * t.gain.w};
            }
            const float4 y = opposite(x, lanes), c = t.cosine;
            const float sign = lane % lanes < lanes / 2 ? -1.0F : 1.0F;
            const float4 s = {sign * t.sine.x, sign * t.sine.y, sign * t.sine.z, sign * t.sine.w};
            x = {x.x * c.x + y.x * s.x, x.y * c.y + y.y * s.y, x.z * c.z + y.z * s.z,
                 x.w * c.w + y.w * s.w};
        }
        if (t.to != nullptr) {
            write4({t.to, RF_CUDA_BF16}, 0, x);
        }
        t = turn_at(p, at, column + blocks * warps);
    }
}

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

template <int ROWS, int COLUMNS>
static __device__ x_piece x_piece_at(const ring<ROWS, COLUMNS> &r, const place &at, char *tiles,
                                     int i)
{
    enum { PIECES = TILE_COLUMNS / PIECE };
    const int number = i % PIECES, row = i / PIECES % COLUMNS, chunk = i / (PIECES * COLUMNS);
    return {row, at.begin + chunk * TILE_COLUMNS + number * PIECE,
            tiles + (r.stage(chunk) - r.tiles) + r.weights + row * TILE_ROW +
                (number ^ row % 8) * 16};
}

/* Puts the norm of the rows of the stream where bulk copies would have put x. */
template <int ROWS, int COLUMNS>
static __device__ void norm_rows(const ring<ROWS, COLUMNS> &r, const operands &p, const place &at,
                                 char *tiles)
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
    for (int i = thread; i < at.chunks * COLUMNS * (TILE_COLUMNS / PIECE); i += THREADS) {
        const x_piece to = x_piece_at(r, at, tiles, i);
        uint4 words = {};
        if (to.row < p.n && to.column < p.in) {
            const piece x = read_piece(p.stream + static_cast<int64_t>(to.row) * p.in + to.column);
            words = normed(x, rate_of(sum[to.row], p.in, p.eps), p.gain + to.column);
        }
        *static_cast<uint4 *>(to.to) = words;
    }
    fence_async();
    groups_wait(THREADS);
}

template <int ROWS, int COLUMNS, bool SPLIT, bool NORMED, bool HEADS>
static __global__ void __launch_bounds__(ROWS / 64 * GROUP + WARP, 1)
    multiply_few(const __grid_constant__ operands p)
{
    extern __shared__ char shared[];
    enum { GROUPS = ROWS / 64, MEMORY = COLUMNS * (ROWS + PAD) * 4 };
    typedef ring<ROWS, COLUMNS> own_ring;
    const place at = place_of<ROWS, COLUMNS, SPLIT>(p);
    const unsigned skip = (ALIGNMENT - shared_address(shared) % ALIGNMENT) % ALIGNMENT;
    char *tiles = shared + skip;
    const unsigned bytes = max(static_cast<unsigned>(p.stages) * own_ring::bytes, unsigned{MEMORY});
    const unsigned full = shared_address(tiles) + bytes;
    const own_ring r = {shared_address(tiles), full, full + static_cast<unsigned>(p.stages) * 8U};
    float *part = reinterpret_cast<float *>(tiles);
    if (threadIdx.x == 0) {
        prefetch_map(&p.x);
        for (int s = 0; s < p.stages; s++) {
            barrier_init(r.full_at(s), 1);
            barrier_init(r.empty_at(s), GROUPS);
        }
        barriers_are_initialised();
    }
    __syncthreads();
    if (threadIdx.x >= GROUPS * GROUP) {
        if (threadIdx.x == GROUPS * GROUP) {
            load_all(r, p, at, !NORMED);
        }
        __syncwarp();
        wait_for_previous();
        __syncthreads();
    } else {
        float total[COLUMNS / 2];
        if (NORMED && threadIdx.x < 8) {
            prefetch(p.gain + min(at.begin + static_cast<int>(threadIdx.x) * 32, p.in - 1));
        }
        wait_for_previous();
        if constexpr (NORMED) {
            norm_rows(r, p, at, tiles);
        }
        multiply_all<ROWS, COLUMNS, SPLIT>(total, r, p, at);
        __syncthreads(); /* the other group has read the ring */
        store_sums<ROWS, COLUMNS>(part, total);
    }
    if constexpr (HEADS) {
        finish_heads<ROWS, COLUMNS, SPLIT>(p, at, part);
    } else {
        finish<ROWS, COLUMNS, SPLIT>(p, at, part);
    }
    if constexpr (SPLIT) { /* nobody's memory goes before all have read it */
        cluster_arrive();
        cluster_wait();
    }
}

/* --- Launches -------------------------------------------------------------------------------- */

static int encode(CUtensorMap *map, const void *data, int64_t rows, int64_t columns,
                  int64_t box_rows)
{
    typedef decltype(&cuTensorMapEncodeTiled) encoder;
    static encoder encode_tiled;
    if (encode_tiled == nullptr) {
        void *entry = nullptr;
        cudaDriverEntryPointQueryResult found;
        const cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                                  12000, cudaEnableDefault, &found);
        if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) {
            return code != cudaSuccess ? code : cudaErrorNotSupported;
        }
        encode_tiled = reinterpret_cast<encoder>(entry);
    }
    const cuuint64_t size[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
    const cuuint64_t stride[] = {static_cast<cuuint64_t>(columns) * 2};
    const cuuint32_t box[] = {TILE_COLUMNS, static_cast<cuuint32_t>(box_rows)}, step[] = {1, 1};
    const CUresult code =
        encode_tiled(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void *>(data), size,
                     stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return code == CUDA_SUCCESS ? 0 : cudaErrorInvalidValue;
}

/* Which kernel; what does not show in bits. */
typedef struct shape {
    int rows, columns;
    bool splits;
} shape;

static int64_t row_tiles(const rf_cuda_few *p, int rows)
{
    int64_t tiles = 0;
    for (int i = 0; i < (p->gates ? 1 : p->count); i++) {
        tiles += blocks_for(p->of[i].out, p->gates ? rows / 2 : rows);
    }
    return tiles;
}

static shape shape_for(const rf_cuda_few *p)
{
    enum { MULTIPROCESSORS = 132, MOST_COLUMNS = 128, WIDE = 64 };
    shape s = {64, 8, true};
    while (s.columns < MOST_COLUMNS && s.columns < p->n) {
        s.columns *= 2;
    }
    const int64_t across = blocks_for(p->n, s.columns);
    if (p->heads != nullptr || /* whole heads */
        (s.columns >= WIDE && row_tiles(p, 128) * across * slices_of(p->in) >= MULTIPROCESSORS)) {
        s.rows = 128;
    }
    s.splits = p->stream != nullptr || row_tiles(p, s.rows) * across < 2 * MULTIPROCESSORS;
    return s;
}

static int fill(operands *to, const rf_cuda_few *p, const shape &s)
{
    const int rows = p->gates ? s.rows / 2 : s.rows;
    int code = p->stream != nullptr ? 0 : encode(&to->x, p->x, p->n, p->in, s.columns);
    int tiles = 0;
    for (int i = 0; i < p->count && code == 0; i++) {
        const rf_cuda_factor &f = p->of[i];
        code = encode(&to->w[i], f.w, f.out, p->in, rows);
        tiles += static_cast<int>(blocks_for(f.out, rows));
        to->of[i] = {f.bias, f.residual, f.y, static_cast<int>(f.out), tiles};
    }
    to->n = static_cast<int>(p->n);
    to->in = static_cast<int>(p->in);
    to->slice = static_cast<int>(slice_of(p->in));
    to->slices = static_cast<int>(slices_of(p->in));
    to->gates = p->gates;
    to->stream = p->stream;
    to->gain = p->gain;
    to->eps = p->eps;
    if (p->heads != nullptr) {
        to->heads = *p->heads;
    }
    return code;
}

template <int ROWS, int COLUMNS, bool SPLIT, bool NORMED, bool HEADS>
static int launch(rf_cuda_stream stream, operands *p, int64_t tiles)
{
    typedef ring<ROWS, COLUMNS> own_ring;
    /* two blocks share a multiprocessor's memory, but where registers allow only one */
    enum {
        MOST = SPLIT || COLUMNS < 128 ? 104 << 10 : 196 << 10,
        PART = COLUMNS * (ROWS + PAD) * 4
    };
    const int chunks = (SPLIT ? p->slice : p->in + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const int fit = !NORMED ? min(static_cast<int>(MOST / own_ring::bytes), int{MOST_STAGES})
                            : int{MOST_STAGES}; /* all of x at once */
    p->stages = min(chunks, fit);
    const size_t tile_bytes = static_cast<size_t>(p->stages) * own_ring::bytes, part = PART;
    const unsigned across = blocks_for(p->n, COLUMNS), down = static_cast<unsigned>(tiles);
    const unsigned slices = static_cast<unsigned>(p->slices);
    cudaLaunchAttribute attribute[2] = {};
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    attribute[1].id = cudaLaunchAttributeClusterDimension;
    attribute[1].val.clusterDim.x = slices;
    attribute[1].val.clusterDim.y = attribute[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = SPLIT ? dim3(slices, down, across) : dim3(down, across);
    config.blockDim = dim3(ROWS / 64 * GROUP + WARP);
    config.dynamicSmemBytes =
        ALIGNMENT + max(tile_bytes, part) + static_cast<size_t>(p->stages) * 2 * sizeof(uint64_t);
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = SPLIT ? 2 : 1;
    const auto kernel = multiply_few<ROWS, COLUMNS, SPLIT, NORMED, HEADS>;
    const int code = allow_memory(kernel, config.dynamicSmemBytes);
    return code != 0 ? code : cudaLaunchKernelEx(&config, kernel, *p);
}

template <int ROWS, int COLUMNS, bool HEADS>
static int launch_as(rf_cuda_stream stream, operands *p, const shape &s, int64_t tiles)
{
    return s.splits ? launch<ROWS, COLUMNS, true, false, HEADS>(stream, p, tiles)
                    : launch<ROWS, COLUMNS, false, false, HEADS>(stream, p, tiles);
}

static int launch_heads(rf_cuda_stream stream, operands *p, const shape &s, int64_t tiles)
{
    switch (s.columns) {
    case 8:
        return launch_as<128, 8, true>(stream, p, s, tiles);
    case 16:
        return launch_as<128, 16, true>(stream, p, s, tiles);
    case 32:
        return launch_as<128, 32, true>(stream, p, s, tiles);
    case 64:
        return launch_as<128, 64, true>(stream, p, s, tiles);
    default:
        return launch_as<128, 128, true>(stream, p, s, tiles);
    }
}

static int launch_plain(rf_cuda_stream stream, operands *p, const shape &s, int64_t tiles)
{
    switch (s.columns) {
    case 8:
        return launch_as<64, 8, false>(stream, p, s, tiles);
    case 16:
        return launch_as<64, 16, false>(stream, p, s, tiles);
    case 32:
        return launch_as<64, 32, false>(stream, p, s, tiles);
    case 64:
        return s.rows == 64 ? launch_as<64, 64, false>(stream, p, s, tiles)
                            : launch_as<128, 64, false>(stream, p, s, tiles);
    default:
        return s.rows == 64 ? launch_as<64, 128, false>(stream, p, s, tiles)
                            : launch_as<128, 128, false>(stream, p, s, tiles);
    }
}

bool rf_cuda_few_norms(int64_t in)
{
    return slice_of(in) <= MOST_STAGES * TILE_COLUMNS;
}

int rf_cuda_multiply_few(rf_cuda_stream stream, const rf_cuda_few *p)
{
    if (p->n == 0 || p->count == 0) {
        return 0;
    }
    operands own = {};
    const shape s = shape_for(p);
    const int code = fill(&own, p, s);
    const int64_t tiles = row_tiles(p, s.rows);
    if (code != 0) {
        return code;
    }
    if (p->stream != nullptr) {
        return p->heads != nullptr ? launch<128, 8, true, true, true>(stream, &own, tiles)
                                   : launch<64, 8, true, true, false>(stream, &own, tiles);
    }
    return p->heads != nullptr ? launch_heads(stream, &own, s, tiles)
                               : launch_plain(stream, &own, s, tiles);
}
