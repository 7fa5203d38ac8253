/* Every product of matrices: tiles in shared memory, one chain of fma an element. */
#include "common/kernels/cuda/real.cuh"

/* A block makes `rows` x 64 elements of c, its threads rows/16 x 4 each, DEPTH inner steps at a time.
 * Which tile an element falls into never shows in its bits. */
enum { SIDE = 16, COLUMNS = 64, DEPTH = 16, EACH = COLUMNS / SIDE, PAD = 4 };

/* tile[l][i] = x[first + i, at + l] for i < rows, l < DEPTH; 0 beyond the operand. Neighbouring threads
 * read neighbouring elements, whichever way the operand lies. */
template <int ROWS>
static __device__ void fetch(float tile[DEPTH][ROWS + PAD], const rf_cuda_real &x, int64_t first,
                             int64_t n, int64_t at, int64_t k, int64_t step, int64_t inner)
{
    for (int e = static_cast<int>(threadIdx.x); e < ROWS * DEPTH; e += BLOCK) {
        const int i = inner == 1 ? e / DEPTH : e % ROWS, l = inner == 1 ? e % DEPTH : e / ROWS;
        const bool inside = first + i < n && at + l < k;
        tile[l][i] = inside ? read_row(x, first + i, at + l, step, inner, k) : 0.0F;
    }
}

/* The sums of EACH columns and MINE rows of a thread, over [begin, end) of the inner dimension. */
template <int MINE>
static __device__ void chain(float sum[MINE][EACH], const rf_cuda_product &p, int64_t row,
                             int64_t column, int64_t begin, int64_t end)
{
    __shared__ float a[DEPTH][SIDE * MINE + PAD];
    __shared__ alignas(16) float b[DEPTH][COLUMNS + PAD];
    const int x = static_cast<int>(threadIdx.x) % SIDE, y = static_cast<int>(threadIdx.x) / SIDE;
    for (int64_t at = begin; at < end; at += DEPTH) {
        fetch<SIDE * MINE>(a, p.a, row, p.m, at, p.k, p.a_step, p.a_inner);
        fetch<COLUMNS>(b, p.b, column, p.n, at, p.k, p.b_step, p.b_inner);
        __syncthreads();
#pragma unroll
        for (int l = 0; l < DEPTH; l++) {
            const float4 four = *reinterpret_cast<const float4 *>(&b[l][x * EACH]);
            const float other[EACH] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < MINE; i++) {
                const float own = a[l][y * MINE + i];
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    sum[i][j] = fmaf(own, other[j], sum[i][j]);
                }
            }
        }
        __syncthreads();
    }
}

static __device__ void finish(const rf_cuda_product &p, int64_t row, int64_t column, float sum)
{
    const int64_t at = row * p.n + column;
    if (row < p.m && column < p.n) {
        if (p.bias.data != nullptr) {
            sum += read(p.bias, column);
        }
        if (p.start.data != nullptr) {
            sum += read(p.start, at);
        }
        write(p.c, at, p.accumulates ? read(p.c, at) + sum : sum);
    }
}

template <int MINE>
static __global__ void __launch_bounds__(BLOCK) multiply(const rf_cuda_product p)
{
    const int64_t across = (p.n + COLUMNS - 1) / COLUMNS;
    const int64_t row = blockIdx.x / across * (SIDE * MINE), column = blockIdx.x % across * COLUMNS;
    float total[MINE][EACH] = {};
    for (int64_t begin = 0; begin < p.k; begin += RF_CUDA_CHAIN) {
        float piece[MINE][EACH] = {};
        chain<MINE>(piece, p, row, column, begin, min(begin + RF_CUDA_CHAIN, p.k));
#pragma unroll
        for (int e = 0; e < MINE * EACH; e++) {
            total[e / EACH][e % EACH] += piece[e / EACH][e % EACH];
        }
    }
    const int x = static_cast<int>(threadIdx.x) % SIDE, y = static_cast<int>(threadIdx.x) / SIDE;
#pragma unroll
    for (int e = 0; e < MINE * EACH; e++) {
        finish(p, row + y * MINE + e / EACH, column + x * EACH + e % EACH,
               total[e / EACH][e % EACH]);
    }
}

int rf_cuda_multiply(rf_cuda_stream stream, const rf_cuda_product *p)
{
    enum { FEW = 16, MANY = 64 };
    if (p->m == 0 || p->n == 0) {
        return 0;
    }
    const unsigned across = blocks_for(p->n, COLUMNS);
    if (p->m <= FEW) {
        multiply<FEW / SIDE><<<across, BLOCK, 0, stream>>>(*p);
    } else {
        multiply<MANY / SIDE><<<across * blocks_for(p->m, MANY), BLOCK, 0, stream>>>(*p);
    }
    return cudaGetLastError();
}
