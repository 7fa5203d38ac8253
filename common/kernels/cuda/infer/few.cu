/* Products of inference: bf16 weights times bf16 rows, summed in f32 by tensor cores.
 *
 * y [n,out] = x [n,in] w [out,in]^T. The weights are the operand of 64 rows, so that one row of x costs
 * 8 columns and not 64. The inner dimension is cut into slices, whose number depends on its length alone
 * (rf_cuda_slices_of); a slice is one chain of wgmma over 16 terms each, and slices are added in order. So an
 * element's bits depend neither on n nor on its place, although with few tiles each slice has a block of
 * its own (a cluster of them adds up in shared memory), and with many one block makes all.
 *
 * A block: a warp that has tiles copied into a ring, and one or two groups of four warps that multiply
 * them, 64 rows of weights each. Its first weights are on their way before the kernel that makes x has
 * ended. */
#include "common/kernels/cuda/infer/ends.cuh"
#include "common/kernels/cuda/infer/normed.cuh"
#include "common/kernels/cuda/infer/pass.h"
#include "common/kernels/cuda/map.cuh"
#include "common/kernels/cuda/wgmma.cuh"

enum { MOST_STAGES = 8, ALIGNMENT = 1024 };

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
    /* with so many one block makes all slices; those of wide tiles are long to add */
    enum { MANY_TILES = 2 * MULTIPROCESSORS, MANY_WIDE_TILES = 96 };
    shape s = {64, 8, true};
    while (s.columns < MOST_COLUMNS && s.columns < p->n) {
        s.columns *= 2;
    }
    const int64_t across = blocks_for(p->n, s.columns);
    if (p->heads != nullptr || /* whole heads */
        (s.columns >= WIDE &&
         row_tiles(p, 128) * across * rf_cuda_slices_of(p->in) >= MULTIPROCESSORS)) {
        s.rows = 128;
    }
    s.splits = p->stream != nullptr ||
               row_tiles(p, s.rows) * across < (s.columns > WIDE ? MANY_WIDE_TILES : MANY_TILES);
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
    to->slice = static_cast<int>(rf_cuda_slice_of(p->in));
    to->slices = static_cast<int>(rf_cuda_slices_of(p->in));
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
    return rf_cuda_slice_of(in) <= MOST_STAGES * TILE_COLUMNS;
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
