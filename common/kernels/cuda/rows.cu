/* Rows of tables: moved, and added where places share a token. Small copies to and from the host. */
#include "common/kernels/cuda/real.cuh"

/* Its n elements, by all threads of the block. */
template <typename T> static __device__ void move_parcel(const rf_cuda_parcel &own, int64_t n)
{
    T *to = static_cast<T *>(own.to);
    const T *from = static_cast<const T *>(own.from);
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < n; i += BLOCK) {
        to[i] = from[i];
    }
}

/* A block takes a parcel. */
static __global__ void __launch_bounds__(BLOCK)
    move_parcels(const __grid_constant__ rf_cuda_parcels p)
{
    const rf_cuda_parcel &own = p.parcel[blockIdx.x];
    const uint64_t bits = reinterpret_cast<uint64_t>(own.to) |
                          reinterpret_cast<uint64_t>(own.from) | static_cast<uint64_t>(own.bytes);
    if (bits % sizeof(uint4) == 0) {
        move_parcel<uint4>(own, own.bytes / static_cast<int64_t>(sizeof(uint4)));
    } else if (bits % sizeof(uint32_t) == 0) {
        move_parcel<uint32_t>(own, own.bytes / static_cast<int64_t>(sizeof(uint32_t)));
    } else {
        move_parcel<uint8_t>(own, own.bytes);
    }
}

int rf_cuda_move_parcels(rf_cuda_stream stream, const rf_cuda_parcels *parcels)
{
    if (parcels->n == 0) {
        return 0;
    }
    move_parcels<<<static_cast<unsigned>(parcels->n), BLOCK, 0, stream>>>(*parcels);
    return cudaGetLastError();
}

/* A thread takes EACH elements of a row. */
template <int EACH>
static __global__ void __launch_bounds__(BLOCK)
    move_rows(rf_cuda_real to, const int32_t *to_place, rf_cuda_real from,
              const int32_t *from_place, int64_t n, int64_t d)
{
    const int64_t each = d / EACH, i = thread_number() / each, j = thread_number() % each * EACH;
    if (i < n) {
        const int64_t source = from_place != nullptr ? from_place[i] : i;
        const int64_t target = to_place != nullptr ? to_place[i] : i;
        float value[EACH];
        if (EACH == 1) {
            value[0] = read_row(from, source, j, d, 1, d);
        } else {
            read_run<EACH>(value, from, source * d + j);
        }
        write_run<EACH>(to, target * d + j, value);
    }
}

int rf_cuda_move_rows(rf_cuda_stream stream, rf_cuda_real to, const int32_t *to_place,
                      rf_cuda_real from, const int32_t *from_place, int64_t n, int64_t d)
{
    if (n == 0 || d == 0) {
        return 0;
    }
    if (d % RUN == 0 && in_runs(to) && in_runs(from)) {
        move_rows<RUN><<<blocks_for(n * d / RUN, BLOCK), BLOCK, 0, stream>>>(to, to_place, from,
                                                                             from_place, n, d);
    } else {
        move_rows<1>
            <<<blocks_for(n * d, BLOCK), BLOCK, 0, stream>>>(to, to_place, from, from_place, n, d);
    }
    return cudaGetLastError();
}

/* Place i goes behind all places of lower tokens and the lower places of its own: counted, not moved about,
 * so that no thread waits for another. n^2 comparisons, shared by the blocks of a column of the
 * grid, each with its part of the other places: a tenth of a millisecond at 32 Ki places. */
static __global__ void __launch_bounds__(BLOCK)
    count_before(int32_t *before, const int32_t *token, int64_t n, int64_t part)
{
    __shared__ int32_t other[BLOCK];
    const int64_t i = thread_number(), first = blockIdx.x * static_cast<int64_t>(BLOCK);
    const int32_t own = i < n ? token[i] : 0;
    const int64_t from = blockIdx.y * part, to = min(from + part, n);
    int32_t count = 0;
    for (int64_t begin = from; begin < to; begin += BLOCK) {
        const int m = static_cast<int>(min(to - begin, static_cast<int64_t>(BLOCK)));
        __syncthreads();
        other[threadIdx.x] =
            static_cast<int>(threadIdx.x) < m ? token[begin + threadIdx.x] : INT32_MAX;
        __syncthreads();
        if (begin == first) { /* among themselves */
            for (int j = 0; j < m; j++) {
                count += other[j] < own || (other[j] == own && begin + j < i) ? 1 : 0;
            }
            continue;
        }
        const int32_t limit = begin < first ? own : own - 1;
#pragma unroll 16
        for (int j = 0; j < BLOCK; j++) {
            count += other[j] <= limit ? 1 : 0;
        }
    }
    if (i < n) {
        before[blockIdx.y * n + i] = count;
    }
}

static __global__ void __launch_bounds__(BLOCK)
    sort_places(int32_t *order, const int32_t *before, int64_t n)
{
    const int64_t i = thread_number();
    int32_t at = 0;
    for (int64_t part = 0; i < n && part < RF_CUDA_SORT_PARTS; part++) {
        at += before[part * n + i];
    }
    if (i < n) {
        order[at] = static_cast<int32_t>(i);
    }
}

/* A block takes the first of a token's places, in the order above, and adds up all of them, of 32 EACH
 * columns: warp w those with numbers w, w + WARPS, ...; then the warps in order. */
template <int EACH>
static __global__ void __launch_bounds__(BLOCK)
    add_places(float *dtable, rf_cuda_real dx, const int32_t *token, const int32_t *order,
               int64_t n, int64_t d)
{
    __shared__ float sums[WARPS][WARP * EACH];
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    const int64_t at = blockIdx.x, j = (static_cast<int64_t>(blockIdx.y) * WARP + lane) * EACH;
    const int32_t own = token[order[at]];
    if (at > 0 && token[order[at - 1]] == own) {
        return;
    }
    float sum[EACH] = {};
    for (int64_t i = at + warp; i < n && token[order[i]] == own; i += WARPS) {
        float value[EACH] = {};
        if (j < d) {
            read_run<EACH>(value, dx, order[i] * d + j);
        }
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            sum[e] += value[e];
        }
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        sums[warp][lane * EACH + e] = sum[e];
    }
    __syncthreads();
    const int64_t base = static_cast<int64_t>(blockIdx.y) * WARP * EACH;
    for (int c = static_cast<int>(threadIdx.x); c < WARP * EACH && base + c < d; c += BLOCK) {
        float total = 0.0F;
        for (int w = 0; w < WARPS; w++) {
            total += sums[w][c];
        }
        dtable[own * d + base + c] += total;
    }
}

int rf_cuda_add_by_token(rf_cuda_stream stream, float *dtable, rf_cuda_real dx,
                         const int32_t *token, int32_t *order, int64_t n, int64_t d)
{
    if (n == 0 || d == 0) {
        return 0;
    }
    int32_t *before = order + n;
    const int64_t part = static_cast<int64_t>(blocks_for(n, RF_CUDA_SORT_PARTS * BLOCK)) * BLOCK;
    count_before<<<dim3(blocks_for(n, BLOCK), RF_CUDA_SORT_PARTS), BLOCK, 0, stream>>>(
        before, token, n, part);
    sort_places<<<blocks_for(n, BLOCK), BLOCK, 0, stream>>>(order, before, n);
    if (d % RUN == 0 && in_runs(dx)) {
        const dim3 grid(blocks_for(n, 1), blocks_for(d, WARP * RUN));
        add_places<RUN><<<grid, BLOCK, 0, stream>>>(dtable, dx, token, order, n, d);
    } else {
        const dim3 grid(blocks_for(n, 1), blocks_for(d, WARP));
        add_places<1><<<grid, BLOCK, 0, stream>>>(dtable, dx, token, order, n, d);
    }
    return cudaGetLastError();
}
