/* attention.cuh: what the three passes of attention share.
 *
 * A block has up to TILE own rows (queries of a run, or keys) whole in shared memory and meets the
 * other rows TILE at a time, CHUNK columns of them at a time, so that heads of any width fit. An
 * element's sum is one chain over the other rows in ascending order, without those that are not
 * seen: neither the tiles' ends nor the rows beside it show in its bits.
 */
#ifndef RF_KERNELS_CUDA_ATTENTION_CUH
#define RF_KERNELS_CUDA_ATTENTION_CUH

#include "common/kernels/cuda/real.cuh"

enum { TILE = RF_CUDA_RUN, CHUNK = 32, PITCH = CHUNK + 1 };
/* A row of the scores is made by LANES threads, SCORES each. */
enum { LANES = BLOCK / TILE, SCORES = TILE / LANES };
/* Shared memory that a block may have. */
enum { MOST_SHARED = 200 << 10 };

/* Columns of rf_spans.run. */
enum { QUERY_BEGIN, QUERY_END, SPAN_BEGIN, SPAN_END, RUN_COLUMNS = 6 };

/* Rows of one head of q, k, v and their like: row i is elements [at + i*step, + width). */
typedef struct rows {
    rf_cuda_real x;
    int64_t at, step;
    int n;
} rows;

/* Rows [first, first + n) of head `head` of x [*,heads,width]. */
static __device__ inline rows rows_of(const rf_cuda_real &x, int64_t first, int64_t head,
                                      int64_t heads, int64_t width, int64_t n)
{
    return {x, (first * heads + head) * width, heads * width, static_cast<int>(n)};
}

/* All of the rows into shared memory [n][width + 1]. */
static __device__ inline void load_rows(float *to, const rows &from, int width)
{
    for (int e = static_cast<int>(threadIdx.x); e < from.n * width; e += BLOCK) {
        const int i = e / width, c = e % width;
        to[i * (width + 1) + c] = read(from.x, from.at + i * from.step + c);
    }
}

static __device__ inline void clear_rows(float *to, int n, int width)
{
    for (int e = static_cast<int>(threadIdx.x); e < n * (width + 1); e += BLOCK) {
        to[e] = 0.0F;
    }
}

static __device__ inline void store_rows(const rows &to, const float *from, int width)
{
    for (int e = static_cast<int>(threadIdx.x); e < to.n * width; e += BLOCK) {
        const int i = e / width, c = e % width;
        write(to.x, to.at + i * to.step + c, from[i * (width + 1) + c]);
    }
}

/* Columns [c, c + CHUNK) of the other rows; 0 where there are none. */
static __device__ inline void load_chunk(float chunk[TILE][PITCH], const rows &other, int c,
                                         int width)
{
    const int column = static_cast<int>(threadIdx.x) % CHUNK;
    __syncthreads(); /* the last chunk has been read */
    for (int i = static_cast<int>(threadIdx.x) / CHUNK; i < TILE; i += BLOCK / CHUNK) {
        const bool inside = i < other.n && c + column < width;
        chunk[i][column] = inside ? read(other.x, other.at + i * other.step + c + column) : 0.0F;
    }
    __syncthreads();
}

/* score[j] = own row threadIdx.x / LANES . other row threadIdx.x % LANES + j LANES. */
static __device__ inline void make_scores(float score[SCORES], const float *own, int n_own,
                                          float chunk[TILE][PITCH], const rows &other, int width)
{
    const int lane = static_cast<int>(threadIdx.x) % LANES;
    const int row = min(static_cast<int>(threadIdx.x) / LANES, n_own - 1);
#pragma unroll
    for (int j = 0; j < SCORES; j++) {
        score[j] = 0.0F;
    }
    for (int c = 0; c < width; c += CHUNK) {
        load_chunk(chunk, other, c, width);
        const int columns = min(CHUNK, width - c);
        for (int l = 0; l < columns; l++) {
            const float x = own[row * (width + 1) + c + l];
#pragma unroll
            for (int j = 0; j < SCORES; j++) {
                score[j] = fmaf(x, chunk[lane + j * LANES][l], score[j]);
            }
        }
    }
}

/* sum[i] = factor[i] sum[i] (factor NULL: sum[i]) + the sum over the other rows b that i sees (bit b of
 * seen[i]) of weight[i][b] other_b. */
static __device__ inline void add_rows(float *sum, int n_own, const float weight[TILE][PITCH],
                                       const unsigned seen[TILE], const float *factor,
                                       float chunk[TILE][PITCH], const rows &other, int width)
{
    const int column = static_cast<int>(threadIdx.x) % CHUNK;
    for (int c = 0; c < width; c += CHUNK) {
        load_chunk(chunk, other, c, width);
        for (int i = static_cast<int>(threadIdx.x) / CHUNK; i < n_own && c + column < width;
             i += BLOCK / CHUNK) {
            float *own = sum + i * (width + 1) + c + column;
            float total = factor != nullptr ? *own * factor[i] : *own;
            const unsigned bits = seen[i];
            for (int b = 0; b < other.n; b++) {
                if ((bits >> b & 1U) != 0U) {
                    total = fmaf(weight[i][b], chunk[b][column], total);
                }
            }
            *own = total;
        }
    }
}

/* The first `count` bits; count may lie outside [0,32]. */
static __device__ inline unsigned first_bits(int64_t count)
{
    return count >= 32 ? 0xffffffffU : count <= 0 ? 0U : (1U << count) - 1U;
}

/* How many own rows of `arrays` arrays fit into shared memory. */
static inline int own_rows(int64_t arrays, int64_t width)
{
    const int64_t bytes = arrays * (width + 1) * static_cast<int64_t>(sizeof(float));
    const int64_t fit = MOST_SHARED / bytes, tile = TILE;
    return static_cast<int>(fit < tile ? fit : tile);
}

/* A kernel that needs so many bytes of dynamic shared memory may have them. */
template <typename Kernel> static inline int allow_shared(Kernel *kernel, int64_t bytes)
{
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(bytes));
}

/* Which queries a block takes: up to `most` of a run, n of them from `first` on, and of a head. A run is cut
 * into `parts`; n of one that lies behind its end is 0 or less. */
struct block_queries {
    const int32_t *run;
    int64_t first, head, kv;
    int n;
};

static __device__ inline block_queries queries_of_block(const rf_cuda_attention &a, int most,
                                                        int parts)
{
    const unsigned each = static_cast<unsigned>(parts);
    const int32_t *run = a.spans.run + blockIdx.x / each * RUN_COLUMNS;
    const int64_t first = run[QUERY_BEGIN] + blockIdx.x % each * most, head = blockIdx.y;
    return {run, first, head, head / (a.h / a.g),
            min(most, static_cast<int>(run[QUERY_END] - first))};
}

#endif
