/* Which tiles of queries and of keys meet: lists for the kernels of tensor_*.cu and
 * persistent_forward.cu; for the latter also the order of the tiles of queries.
 *
 * A list's first element is how many entries follow; an entry is twice the tile's number, plus 1 where
 * every query of the pair sees every key; entries ascend. A list takes as many elements as there
 * are tiles on the other side, and one. */
#include "common/kernels/cuda/real.cuh"

enum { UNSEEN, SEEN_IN_PART, SEEN_WHOLE };

/* How `n` queries see the keys of a tile. */
static __device__ int look(const int4 *span, int n, int64_t tile)
{
    const int begin = static_cast<int>(tile * RF_CUDA_KEYS), end = begin + RF_CUDA_KEYS;
    bool any = false, all = true;
    for (int i = 0; i < n; i++) {
        const int4 s = span[i];
        any = any || (s.x < min(end, s.y) && begin < s.y) || (s.z < min(end, s.w) && begin < s.w);
        all = all && ((s.x <= begin && end <= s.y) || (s.z <= begin && end <= s.w));
    }
    return !any ? UNSEEN : all ? SEEN_WHOLE : SEEN_IN_PART;
}

/* Appends the entries of the block's threads, in their order, behind the `count` that are there; returns how
 * many there are then. */
static __device__ int append(int32_t *list, int count, int64_t tile, int state)
{
    __shared__ int found[WARPS];
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    const unsigned bits = __ballot_sync(0xffffffffU, state != UNSEEN);
    __syncthreads(); /* the last counts have been read */
    if (lane == 0) {
        found[warp] = __popc(bits);
    }
    __syncthreads();
    int at = count + __popc(bits & ((1U << lane) - 1U));
    for (int w = 0; w < WARPS; w++) {
        at += w < warp ? found[w] : 0;
        count += found[w];
    }
    if (state != UNSEEN) {
        list[1 + at] = static_cast<int32_t>(2 * tile + (state == SEEN_WHOLE ? 1 : 0));
    }
    return count;
}

/* A block takes a tile of `queries` queries. */
static __global__ void __launch_bounds__(BLOCK)
    tiles_of_queries(int32_t *lists, const rf_cuda_spans spans, int queries, int64_t width)
{
    __shared__ int4 own[RF_CUDA_MANY_QUERIES];
    const int64_t first = static_cast<int64_t>(blockIdx.x) * queries;
    const int n = static_cast<int>(min(static_cast<int64_t>(queries), spans.n - first));
    int32_t *list = lists + blockIdx.x * width;
    int low = INT32_MAX, high = 0, count = 0;
    if (static_cast<int>(threadIdx.x) < n) {
        const int4 s = reinterpret_cast<const int4 *>(spans.span)[first + threadIdx.x];
        own[threadIdx.x] = s;
        low = min(s.x < s.y ? s.x : low, s.z < s.w ? s.z : low);
        high = max(s.x < s.y ? s.y : 0, s.z < s.w ? s.w : 0);
    }
    low = join_all(low, [](int a, int b) { return min(a, b); });
    high = join_all(high, [](int a, int b) { return max(a, b); });
    for (int64_t base = low / RF_CUDA_KEYS; base * RF_CUDA_KEYS < high; base += BLOCK) {
        const int64_t tile = base + threadIdx.x;
        const int state = tile * RF_CUDA_KEYS < high ? look(own, n, tile) : UNSEEN;
        count = append(list, count, tile, state);
    }
    if (threadIdx.x == 0) {
        list[0] = count;
    }
}

/* The tiles of queries that hold runs [begin, end); empty where there is no run. */
static __device__ int2 tiles_of_runs(const rf_cuda_spans &spans, int begin, int end)
{
    enum { QUERY_BEGIN, QUERY_END, RUN_COLUMNS = 6 };
    if (begin >= end) {
        return make_int2(0, 0);
    }
    const int first = spans.run[begin * RUN_COLUMNS + QUERY_BEGIN];
    const int last = spans.run[(end - 1) * RUN_COLUMNS + QUERY_END] - 1;
    return make_int2(first / RF_CUDA_QUERIES, last / RF_CUDA_QUERIES + 1);
}

/* A block takes a tile of keys: RF_CUDA_KEYS is the host's RF_KEY_TILE. */
static __global__ void __launch_bounds__(BLOCK)
    tiles_of_keys(int32_t *lists, const rf_cuda_spans spans, int64_t width)
{
    const int32_t *range = spans.tile + 4 * static_cast<int64_t>(blockIdx.x);
    const int2 one = tiles_of_runs(spans, range[0], range[1]);
    int2 two = tiles_of_runs(spans, range[2], range[3]);
    two.x = min(max(one.y, two.x), two.y); /* a tile of queries may hold runs of both */
    int32_t *list = lists + blockIdx.x * width;
    const int all = one.y - one.x + two.y - two.x;
    int count = 0;
    for (int base = 0; base < all; base += BLOCK) {
        const int at = base + static_cast<int>(threadIdx.x);
        const int64_t tile = at < one.y - one.x ? one.x + at : two.x + at - (one.y - one.x);
        const int64_t first = tile * RF_CUDA_QUERIES;
        const int64_t n = min(static_cast<int64_t>(RF_CUDA_QUERIES), spans.n - first);
        const int state = at < all ? look(reinterpret_cast<const int4 *>(spans.span) + first,
                                          static_cast<int>(n), blockIdx.x)
                                   : UNSEEN;
        count = append(list, count, tile, state);
    }
    if (threadIdx.x == 0) {
        list[0] = count;
    }
}

/* order: the tiles by the lengths of their lists, longest first, among equals the last first. A thread
 * counts those before its own: there are at most some thousand. */
static __global__ void __launch_bounds__(BLOCK)
    order_tiles(int32_t *order, const int32_t *lists, int64_t width, int tiles)
{
    __shared__ int32_t other[BLOCK];
    const int own = static_cast<int>(thread_number());
    const int32_t length = own < tiles ? lists[own * width] : 0;
    int before = 0;
    for (int base = 0; base < tiles; base += BLOCK) {
        const int mine = base + static_cast<int>(threadIdx.x);
        __syncthreads(); /* the last lengths have been read */
        other[threadIdx.x] = mine < tiles ? lists[mine * width] : -1;
        __syncthreads();
        for (int i = 0; i < BLOCK; i++) {
            before += other[i] > length || (other[i] == length && base + i > own) ? 1 : 0;
        }
    }
    if (own < tiles) {
        order[before] = own;
    }
}

int rf_cuda_tiles_of_queries(rf_cuda_stream stream, int32_t *lists, const rf_cuda_spans *spans,
                             int queries)
{
    if (spans->n == 0) {
        return 0;
    }
    tiles_of_queries<<<blocks_for(spans->n, queries), BLOCK, 0, stream>>>(
        lists, *spans, queries, 1 + rf_cuda_tiles(spans->m, RF_CUDA_KEYS));
    return cudaGetLastError();
}

int rf_cuda_tiles_of_keys(rf_cuda_stream stream, int32_t *lists, const rf_cuda_spans *spans)
{
    if (spans->m == 0) {
        return 0;
    }
    tiles_of_keys<<<blocks_for(spans->m, RF_CUDA_KEYS), BLOCK, 0, stream>>>(
        lists, *spans, 1 + rf_cuda_tiles(spans->n, RF_CUDA_QUERIES));
    return cudaGetLastError();
}

int rf_cuda_order_tiles(rf_cuda_stream stream, int32_t *order, const int32_t *lists,
                        const rf_cuda_spans *spans)
{
    const int tiles = static_cast<int>(rf_cuda_tiles(spans->n, RF_CUDA_MANY_QUERIES));
    if (tiles == 0) {
        return 0;
    }
    order_tiles<<<blocks_for(tiles, BLOCK), BLOCK, 0, stream>>>(
        order, lists, 1 + rf_cuda_tiles(spans->m, RF_CUDA_KEYS), tiles);
    return cudaGetLastError();
}
