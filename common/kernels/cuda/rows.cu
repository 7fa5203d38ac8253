/* Rows of tables: moved, and added where places share a token. */
#include "common/kernels/cuda/real.cuh"

static __global__ void __launch_bounds__(BLOCK)
    move_rows(rf_cuda_real to, const int32_t *to_place, rf_cuda_real from,
              const int32_t *from_place, int64_t n, int64_t d)
{
    const int64_t i = thread_number() / d, j = thread_number() % d;
    if (i < n) {
        const int64_t source = from_place != nullptr ? from_place[i] : i;
        const int64_t target = to_place != nullptr ? to_place[i] : i;
        write(to, target * d + j, read_row(from, source, j, d, 1, d));
    }
}

int rf_cuda_move_rows(rf_cuda_stream stream, rf_cuda_real to, const int32_t *to_place,
                      rf_cuda_real from, const int32_t *from_place, int64_t n, int64_t d)
{
    if (n == 0 || d == 0) {
        return 0;
    }
    move_rows<<<blocks_for(n * d, BLOCK), BLOCK, 0, stream>>>(to, to_place, from, from_place, n, d);
    return cudaGetLastError();
}

/* Place i goes behind all places of lower tokens and the lower places of its own: counted, not moved
 * about, so that no thread waits for another. n^2 comparisons, a few milliseconds at 128 Ki places. */
static __global__ void __launch_bounds__(BLOCK)
    sort_places(int32_t *order, const int32_t *token, int64_t n)
{
    __shared__ int32_t other[BLOCK];
    const int64_t i = thread_number();
    const int32_t own = i < n ? token[i] : 0;
    int32_t before = 0;
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        const int count = static_cast<int>(min(n - begin, static_cast<int64_t>(BLOCK)));
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < count) {
            other[threadIdx.x] = token[begin + threadIdx.x];
        }
        __syncthreads();
        for (int j = 0; j < count; j++) {
            before += other[j] < own || (other[j] == own && begin + j < i) ? 1 : 0;
        }
    }
    if (i < n) {
        order[before] = static_cast<int32_t>(i);
    }
}

/* A block of 32 columns by WARPS rows takes the first of a token's places, in the order above, and adds
 * up all of them: warp w those with numbers w, w + WARPS, ...; then the warps in order. */
static __global__ void __launch_bounds__(BLOCK)
    add_places(float *dtable, rf_cuda_real dx, const int32_t *token, const int32_t *order,
               int64_t n, int64_t d)
{
    __shared__ float sums[WARPS][WARP];
    const int64_t at = blockIdx.x, j = static_cast<int64_t>(blockIdx.y) * WARP + threadIdx.x % WARP;
    const unsigned warp = threadIdx.x / WARP;
    const int32_t own = token[order[at]];
    if (at > 0 && token[order[at - 1]] == own) {
        return;
    }
    float sum = 0.0F;
    for (int64_t i = at + warp; i < n && token[order[i]] == own; i += WARPS) {
        sum += j < d ? read(dx, order[i] * d + j) : 0.0F;
    }
    sums[warp][threadIdx.x % WARP] = sum;
    __syncthreads();
    if (warp == 0 && j < d) {
        for (int w = 1; w < WARPS; w++) {
            sum += sums[w][threadIdx.x];
        }
        dtable[own * d + j] += sum;
    }
}

int rf_cuda_add_by_token(rf_cuda_stream stream, float *dtable, rf_cuda_real dx,
                         const int32_t *token, int32_t *order, int64_t n, int64_t d)
{
    if (n == 0 || d == 0) {
        return 0;
    }
    sort_places<<<blocks_for(n, BLOCK), BLOCK, 0, stream>>>(order, token, n);
    const dim3 grid(blocks_for(n, 1), blocks_for(d, WARP));
    add_places<<<grid, BLOCK, 0, stream>>>(dtable, dx, token, order, n, d);
    return cudaGetLastError();
}
