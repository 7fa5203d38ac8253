/* Products of inference: bf16 or int8 weights times bf16 rows, summed in f32 by tensor cores.
 *
 * y [n,out] = x [n,in] w [out,in]^T. The weights are the operand of 64 rows, so that one row of x costs
 * 8 columns and not 64. The inner dimension is cut into slices, whose number depends on its length alone
 * (slices_of); a slice is one chain of wgmma over 16 terms each (of int8 weights a group is, and groups, scaled, are a
 * chain of fma: int8.cuh), and slices are added in order. So an element's bits depend neither on n nor on its place,
 * although with few tiles each slice has a block of its own (a cluster of them adds up in shared memory), and
 * with many one block makes all.
 *
 * A block: a warp that has tiles copied into a ring, and one or two groups of four warps that multiply
 * them, 64 rows of weights each. Its first weights are on their way before the kernel that makes x has
 * ended. */
#include "common/kernels/cuda/infer/ends.cuh"
#include "common/kernels/cuda/infer/int8.cuh"
#include "common/kernels/cuda/infer/normed.cuh"
#include "common/kernels/cuda/infer/pass.h"
#include "common/kernels/cuda/map.cuh"
#include "common/kernels/cuda/wgmma.cuh"

enum { MOST_STAGES = 8, ALIGNMENT = 1024 };

/* A group's sums over all chunks of its 64 rows. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void multiply_all(float (&total)[COLUMNS / 2],
                                    const ring<ROWS, COLUMNS, uint16_t> &r, const operands &p,
                                    const place &at)
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

/* Waits for chunk c, and what the thread has of its weights. */
template <int ROWS, int COLUMNS>
static __device__ int8_rows wait_int8(const ring<ROWS, COLUMNS, int8_t> &r, const operands &p,
                                      int c)
{
    const int s = c % p.stages;
    barrier_wait(r.full_at(s), static_cast<unsigned>(c / p.stages) & 1U);
    return read_int8(r.stage(s) + threadIdx.x / GROUP * 64U * TILE_ROW);
}

/* A half of a chunk's steps. */
template <int COLUMNS>
static __device__ void multiply_half(float (&sum)[COLUMNS / 2], int8_left &left,
                                     const int8_rows &rows, unsigned x, int half)
{
    convert(left, rows, half);
    mma_fence();
#pragma unroll
    for (int step = 0; step < INT8_HALF; step++) {
        multiply_left<COLUMNS>(sum, left[step],
                               descriptor(x + static_cast<unsigned>(step) * TILE_STEP * 2U),
                               half > 0 || step > 0);
    }
    mma_commit();
}

/* The same of int8 weights. A chunk's are fetched while the one before is multiplied. */
template <int ROWS, int COLUMNS, bool SPLIT>
static __device__ void multiply_all(float (&total)[COLUMNS / 2],
                                    const ring<ROWS, COLUMNS, int8_t> &r, const operands &p,
                                    const place &at, int8_scales<ROWS> scales)
{
    float sum[COLUMNS / 2], group[COLUMNS / 2];
    int8_left left[2];
    int8_rows rows = wait_int8(r, p, 0);
    for (int c = 0, end = 0; c < at.chunks; c++) {
        const bool begins = c == end;
        const unsigned x = r.stage(c % p.stages) + r.weights;
        end += begins ? min(at.slice_chunks, at.chunks - c) : 0;
        multiply_half<COLUMNS>(group, left[0], rows, x, 0);
        multiply_half<COLUMNS>(group, left[1], rows, x + r.x_bytes, 1);
        if (c + 1 < at.chunks) {
            rows = wait_int8(r, p, c + 1);
        }
        const float2 scale = scales.of(at.begin + c * r.columns);
        mma_wait<0>();
        hold(left[0]);
        hold(left[1]);
        barrier_arrive_warp(r.empty_at(c % p.stages), static_cast<int>(threadIdx.x) % WARP);
#pragma unroll
        for (int e = 0; e < COLUMNS / 2; e++) {
            sum[e] = fmaf(e / 2 % 2 == 0 ? scale.x : scale.y, group[e], begins ? 0.0F : sum[e]);
        }
        if (c + 1 == end) {
#pragma unroll
            for (int e = 0; e < COLUMNS / 2; e++) {
                total[e] = SPLIT || end <= at.slice_chunks ? sum[e] : total[e] + sum[e];
            }
        }
    }
}

template <int ROWS, int COLUMNS, bool SPLIT, bool NORMED, bool HEADS, typename WEIGHT>
static __global__ void __launch_bounds__(ROWS / 64 * GROUP + WARP, 1)
    multiply_few(const __grid_constant__ operands p)
{
    extern __shared__ char shared[];
    enum { GROUPS = ROWS / 64 };
    typedef exchange<ROWS, COLUMNS, SPLIT> own_exchange;
    typedef ring<ROWS, COLUMNS, WEIGHT> own_ring;
    const place at = place_of<ROWS, COLUMNS, SPLIT, WEIGHT>(p);
    const unsigned skip = (ALIGNMENT - shared_address(shared) % ALIGNMENT) % ALIGNMENT;
    char *tiles = shared + skip;
    const unsigned bytes =
        max(static_cast<unsigned>(p.stages) * own_ring::bytes, unsigned{own_exchange::bytes});
    const unsigned full = shared_address(tiles) + bytes;
    const own_ring r = {shared_address(tiles), full, full + static_cast<unsigned>(p.stages) * 8U};
    own_exchange x = {reinterpret_cast<float *>(tiles),
                      full + static_cast<unsigned>(p.stages) * 16U,
                      own_columns<COLUMNS, SPLIT>(p, at)};
    if (threadIdx.x == 0) {
        prefetch_map(&p.x);
        begin_exchange(p, x);
        for (int s = 0; s < p.stages; s++) {
            barrier_init(r.full_at(s), 1);
            barrier_init(r.empty_at(s), GROUPS * own_ring::readers);
        }
        barriers_are_initialised();
    }
    __syncthreads();
    first_turns<COLUMNS, SPLIT, WEIGHT> turns;
    if (threadIdx.x >= GROUPS * GROUP) {
        if (threadIdx.x == GROUPS * GROUP) {
            load_all(r, p, at, !NORMED);
        }
        __syncwarp();
        if constexpr (HEADS && turns.is_early) {
            turns.begin(p, at, x.own);
        }
        wait_for_previous();
        tiles_are_free(x);
    } else {
        float total[COLUMNS / 2];
        if constexpr (HEADS && turns.is_early) {
            turns.begin(p, at, x.own);
        }
        int8_scales<ROWS> scales = {};
        if constexpr (sizeof(WEIGHT) == 1) {
            scales.begin(p, at);
        }
        if (NORMED && threadIdx.x < 8) {
            prefetch(p.gain + min(at.begin + static_cast<int>(threadIdx.x) * 32, p.in - 1));
        }
        wait_for_previous();
        if constexpr (NORMED) {
            norm_rows(r, p, at, tiles);
        }
        if constexpr (sizeof(WEIGHT) == 1) {
            multiply_all<ROWS, COLUMNS, SPLIT>(total, r, p, at, scales);
        } else {
            multiply_all<ROWS, COLUMNS, SPLIT>(total, r, p, at);
        }
        tiles_are_free(x);
        store_sums<ROWS, COLUMNS>(x.part, total);
        if constexpr (x.sends) {
            fence_async();
        }
    }
    x.own = own_columns<COLUMNS, SPLIT>(p, at); /* found again, and not kept meanwhile */
    if constexpr (HEADS) {
        finish_heads(p, at, x, turns);
    } else {
        finish(p, at, x);
    }
    if constexpr (SPLIT) {
        /* nobody's memory goes before all have got what is in it, or read and used it */
        if constexpr (!own_exchange::sends) {
            cluster_arrive_relaxed();
        }
        cluster_wait();
    }
}

/* --- Launches -------------------------------------------------------------------------------- */

/* Columns of a tile: rows of x. From WIDE on a tile may have 128 rows of weights. */
enum { WIDE = 64, MOST_COLUMNS = 128 };

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

/* Whole groups of int8 weights. */
static int64_t slice_of(const rf_cuda_few *p)
{
    const int64_t slice = rf_cuda_slice_of(p->in), group = RF_QUANTIZE_GROUP;
    return p->int8 ? (slice + group - 1) / group * group : slice;
}

static int64_t slices_of(const rf_cuda_few *p)
{
    return (p->in + slice_of(p) - 1) / slice_of(p);
}

static shape shape_for(const rf_cuda_few *p)
{
    enum { MULTIPROCESSORS = 132, MANY_TALL = 128, MANY_ROWS = 512 };
    /* with so many tiles one block makes all slices of each; those of wide tiles are long to add */
    enum { MANY_TILES = 2 * MULTIPROCESSORS, MANY_WIDE_TILES = 96, MANY_OF_MANY_ROWS = 48 };
    /* two blocks to a multiprocessor; of int8 registers hold the sums of a group too */
    const int most = p->int8 || p->n >= MANY_ROWS ? WIDE : MOST_COLUMNS;
    shape s = {64, 8, true};
    while (s.columns < most && s.columns < p->n) {
        s.columns *= 2;
    }
    const int64_t across = blocks_for(p->n, s.columns);
    const bool sliced = p->n <= WIDE || s.columns > WIDE;
    const int64_t tall = row_tiles(p, 128) * across * (sliced ? slices_of(p) : 1);
    if (p->heads != nullptr || /* whole heads */
        (s.columns >= WIDE && tall >= MANY_TALL)) {
        s.rows = 128;
    }
    const int64_t many = p->n <= WIDE       ? MANY_TILES
                         : p->n < MANY_ROWS ? MANY_WIDE_TILES
                                            : MANY_OF_MANY_ROWS;
    s.splits = p->stream != nullptr || row_tiles(p, s.rows) * across < many;
    return s;
}

static int fill(operands *to, const rf_cuda_few *p, const shape &s)
{
    const int rows = p->gates ? s.rows / 2 : s.rows;
    int code = p->stream != nullptr ? 0 : encode(&to->x, p->x, p->n, p->in, s.columns);
    int tiles = 0;
    for (int i = 0; i < p->count && code == 0; i++) {
        const rf_cuda_factor &f = p->of[i];
        code = p->int8 ? encode_int8(&to->w[i], f.w, f.out, p->in, rows)
                       : encode(&to->w[i], f.w, f.out, p->in, rows);
        to->int8[i] = static_cast<const char *>(f.w);
        tiles += static_cast<int>(blocks_for(f.out, rows));
        to->of[i] = {f.bias, f.residual, f.y, static_cast<int>(f.out), tiles};
    }
    to->n = static_cast<int>(p->n);
    to->in = static_cast<int>(p->in);
    to->slice = static_cast<int>(slice_of(p));
    to->slices = static_cast<int>(slices_of(p));
    to->gates = p->gates;
    to->stream = p->stream;
    to->gain = p->gain;
    to->eps = p->eps;
    if (p->heads != nullptr) {
        to->heads = *p->heads;
    }
    return code;
}

template <int ROWS, int COLUMNS, bool SPLIT, bool NORMED, bool HEADS, typename WEIGHT>
static int launch(rf_cuda_stream stream, operands *p, int64_t tiles)
{
    typedef ring<ROWS, COLUMNS, WEIGHT> own_ring;
    /* Two blocks share a multiprocessor's memory, three where int8 weights are converted for few columns, but
     * where registers allow only one. */
    enum {
        THREE = sizeof(WEIGHT) == 1 && COLUMNS < WIDE,
        MOST = THREE                    ? 72 << 10
               : SPLIT || COLUMNS < 128 ? 104 << 10
                                        : 196 << 10,
        PART = exchange<ROWS, COLUMNS, SPLIT>::bytes
    };
    /* int8 weights of a chunk are fetched before the chunk before it is let go */
    static_assert(sizeof(WEIGHT) > 1 || MOST / own_ring::bytes >= 2, "two stages");
    const int columns = own_ring::columns;
    const int chunks = (SPLIT ? p->slice : p->in + columns - 1) / columns;
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
    /* columns before rows: those that read the same weights run together, and memory gives these once */
    config.gridDim = SPLIT ? dim3(slices, across, down) : dim3(across, down);
    config.blockDim = dim3(ROWS / 64 * GROUP + WARP);
    config.dynamicSmemBytes = ALIGNMENT + max(tile_bytes, part) +
                              static_cast<size_t>(p->stages * 2 + 1) * sizeof(uint64_t);
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = SPLIT ? 2 : 1;
    const auto kernel = multiply_few<ROWS, COLUMNS, SPLIT, NORMED, HEADS, WEIGHT>;
    const int code = allow_memory(kernel, config.dynamicSmemBytes);
    return code != 0 ? code : cudaLaunchKernelEx(&config, kernel, *p);
}

template <int ROWS, int COLUMNS, bool HEADS, typename WEIGHT>
static int launch_as(rf_cuda_stream stream, operands *p, const shape &s, int64_t tiles)
{
    return s.splits ? launch<ROWS, COLUMNS, true, false, HEADS, WEIGHT>(stream, p, tiles)
                    : launch<ROWS, COLUMNS, false, false, HEADS, WEIGHT>(stream, p, tiles);
}

/* Whole heads have 128 rows, as have many wide tiles. */
template <int COLUMNS, typename WEIGHT>
static int launch_columns(rf_cuda_stream stream, operands *p, const shape &s, int64_t tiles,
                          bool heads)
{
    if (heads) {
        return launch_as<128, COLUMNS, true, WEIGHT>(stream, p, s, tiles);
    }
    if constexpr (COLUMNS >= WIDE) {
        if (s.rows == 128) {
            return launch_as<128, COLUMNS, false, WEIGHT>(stream, p, s, tiles);
        }
    }
    return launch_as<64, COLUMNS, false, WEIGHT>(stream, p, s, tiles);
}

template <typename WEIGHT>
static int launch_shape(rf_cuda_stream stream, operands *p, const shape &s, int64_t tiles,
                        bool heads)
{
    if (p->stream != nullptr) {
        return heads ? launch<128, 8, true, true, true, WEIGHT>(stream, p, tiles)
                     : launch<64, 8, true, true, false, WEIGHT>(stream, p, tiles);
    }
    switch (s.columns) {
    case 8:
        return launch_columns<8, WEIGHT>(stream, p, s, tiles, heads);
    case 16:
        return launch_columns<16, WEIGHT>(stream, p, s, tiles, heads);
    case 32:
        return launch_columns<32, WEIGHT>(stream, p, s, tiles, heads);
    case WIDE:
        return launch_columns<WIDE, WEIGHT>(stream, p, s, tiles, heads);
    default:
        if constexpr (sizeof(WEIGHT) > 1) {
            return launch_columns<MOST_COLUMNS, WEIGHT>(stream, p, s, tiles, heads);
        }
        return cudaErrorInvalidValue;
    }
}

/* Every block of threads norms all of x: of more a kernel for that is faster. */
bool rf_cuda_few_norms(int64_t n, int64_t in)
{
    enum { MOST = 2048 };
    static_assert(int{MOST} / RF_CUDA_MOST_SLICES <= int{MOST_STAGES} * int{TILE_COLUMNS},
                  "the ring holds a slice");
    return n <= RF_CUDA_NORMED && n * in <= MOST;
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
    const bool heads = p->heads != nullptr;
    return p->int8 ? launch_shape<int8_t>(stream, &own, s, tiles, heads)
                   : launch_shape<uint16_t>(stream, &own, s, tiles, heads);
}
