/* Attention over spans, backward, in two passes that each own what they write (derived in
 * ref/attention.c): of queries, dq; of keys, dk and dv. */
#include "common/kernels/cuda/attention/attention.cuh"

/* --- delta ----------------------------------------------------------------------------------- */

/* A warp takes a row: do . o. */
static __global__ void __launch_bounds__(BLOCK)
    make_delta(float *delta, rf_cuda_real d_o, rf_cuda_real o, int64_t n_rows, int64_t width)
{
    const int64_t row = thread_number() / WARP;
    float sum = 0.0F;
    for (int64_t c = threadIdx.x % WARP; row < n_rows && c < width; c += WARP) {
        sum = fmaf(read(d_o, row * width + c), read(o, row * width + c), sum);
    }
    sum = warp_sum(sum);
    if (row < n_rows && threadIdx.x % WARP == 0) {
        delta[row] = sum;
    }
}

int rf_cuda_attention_delta(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    const int64_t n_rows = a->spans.n * a->h;
    if (n_rows == 0) {
        return 0;
    }
    make_delta<<<blocks_for(n_rows, WARPS), BLOCK, 0, stream>>>(a->delta, a->d_o, a->o, n_rows,
                                                                a->head_dim);
    return cudaGetLastError();
}

/* --- Both passes ----------------------------------------------------------------------------- */

/* From the two products of a pair of a query and a key: p, and ds times the scale of the scores. */
static __device__ inline void make_slope(float *p, float *ds, float score, float dp, float lse,
                                         float delta, float scale)
{
    *p = expf(score * scale - lse);
    *ds = *p * (dp - delta) * scale;
}

template <typename Kernel>
static int launch(Kernel *kernel, rf_cuda_stream stream, const rf_cuda_attention *a, int64_t arrays,
                  int64_t groups, int64_t group, int64_t heads)
{
    if (groups == 0 || heads == 0 || a->head_dim == 0) {
        return 0;
    }
    const int most = own_rows(arrays, a->head_dim);
    const int parts = static_cast<int>((group + most - 1) / most);
    const int64_t bytes = arrays * most * (a->head_dim + 1) * static_cast<int64_t>(sizeof(float));
    const float scale = static_cast<float>(1.0 / sqrt(static_cast<double>(a->head_dim)));
    const int code = allow_shared(kernel, bytes);
    if (code != 0) {
        return code;
    }
    const dim3 grid(blocks_for(groups * parts, 1), blocks_for(heads, 1));
    kernel<<<grid, BLOCK, static_cast<size_t>(bytes), stream>>>(*a, most, parts, scale);
    return cudaGetLastError();
}

/* --- dq -------------------------------------------------------------------------------------- */

/* A block takes up to `most` queries of a run and a head. */
static __global__ void __launch_bounds__(BLOCK, RESIDENT)
    queries(const rf_cuda_attention a, int most, int parts, float scale)
{
    extern __shared__ float own[];
    __shared__ float chunk[TILE][PITCH], weight[TILE][PITCH];
    __shared__ unsigned seen[TILE];
    const auto [run, first, head, kv, n] = queries_of_block(a, most, parts);
    const int width = static_cast<int>(a.head_dim);
    if (n <= 0) {
        return;
    }
    float *q = own, *d_o = q + most * (width + 1), *dq = d_o + most * (width + 1);
    const int row = static_cast<int>(threadIdx.x) / LANES,
              lane = static_cast<int>(threadIdx.x) % LANES;
    const int64_t own_row = (first + min(row, n - 1)) * a.h + head;
    const float lse = a.lse[own_row], delta = a.delta[own_row];

    load_rows(q, rows_of(a.q, first, head, a.h, width, n), width);
    load_rows(d_o, rows_of(a.d_o, first, head, a.h, width, n), width);
    clear_rows(dq, n, width);
    for (int span = 0; span < 2; span++) {
        const int64_t end = row < n ? a.spans.span[4 * (first + row) + 2 * span + 1] : 0;
        const int64_t last = run[SPAN_END + 2 * span];
        for (int64_t at = run[SPAN_BEGIN + 2 * span]; at < last; at += TILE) {
            const rows k =
                rows_of(a.k, at, kv, a.g, width, min(last - at, static_cast<int64_t>(TILE)));
            float score[SCORES], dp[SCORES], p;
            make_scores(score, q, n, chunk, k, width);
            make_scores(dp, d_o, n, chunk, rows_of(a.v, at, kv, a.g, width, k.n), width);
#pragma unroll
            for (int j = 0; j < SCORES; j++) {
                make_slope(&p, &weight[row][lane + j * LANES], score[j], dp[j], lse, delta, scale);
            }
            if (lane == 0) {
                seen[row] = first_bits(end - at);
            }
            add_rows(dq, n, weight, seen, nullptr, chunk, k, width);
        }
    }
    __syncthreads();
    store_rows(rows_of(a.dq, first, head, a.h, width, n), dq, width);
}

int rf_cuda_attention_queries(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    enum { ARRAYS = 3 };
    return launch(queries, stream, a, ARRAYS, a->spans.n_runs, TILE, a->h);
}

/* --- dk, dv ---------------------------------------------------------------------------------- */

/* Bit b of seen[i]: query first + b, of n, sees key `keys` + i. A warp takes rows, a lane a query. */
static __device__ void make_seen(unsigned seen[TILE], const int32_t *span, int64_t first, int n,
                                 int64_t keys)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int32_t *own = span + 4 * (first + min(lane, n - 1));
    const int64_t begin = own[0], end = own[1], then = own[2], last = own[3];
    for (int i = static_cast<int>(threadIdx.x) / WARP; i < TILE; i += WARPS) {
        const int64_t key = keys + i;
        const bool sees = (begin <= key && key < end) || (then <= key && key < last);
        const unsigned bits = __ballot_sync(0xffffffffU, lane < n && sees);
        if (lane == 0) {
            seen[i] = bits;
        }
    }
}

/* Does any query of the run see one of the keys [begin, end)? */
static __device__ bool touches(const int32_t *run, int64_t begin, int64_t end)
{
    const int32_t *one = run + SPAN_BEGIN, *two = one + 2;
    return (one[0] < end && begin < one[1]) || (two[0] < end && begin < two[1]);
}

/* What a block of keys has in shared memory. */
typedef struct key_tile {
    float *k, *v, *dk, *dv; /* [n][width + 1] */
    int64_t first;
    int n;
} key_tile;

/* Adds what the queries of a run, of one head, leave to the keys' gradients. */
static __device__ void take_run(const rf_cuda_attention &a, const key_tile &t, const int32_t *run,
                                int64_t head, float scale)
{
    __shared__ float chunk[TILE][PITCH], weight[TILE][PITCH], slope[TILE][PITCH];
    __shared__ unsigned seen[TILE];
    const int width = static_cast<int>(a.head_dim);
    const int64_t first = run[QUERY_BEGIN];
    const int n = run[QUERY_END] - run[QUERY_BEGIN];
    const int row = static_cast<int>(threadIdx.x) / LANES,
              lane = static_cast<int>(threadIdx.x) % LANES;
    const rows q = rows_of(a.q, first, head, a.h, width, n);
    const rows d_o = rows_of(a.d_o, first, head, a.h, width, n);
    float score[SCORES], dp[SCORES];

    make_scores(score, t.k, t.n, chunk, q, width);
    make_scores(dp, t.v, t.n, chunk, d_o, width);
    make_seen(seen, a.spans.span, first, n, t.first);
#pragma unroll
    for (int j = 0; j < SCORES; j++) {
        const int b = lane + j * LANES;
        const int64_t query = (first + min(b, n - 1)) * a.h + head;
        make_slope(&weight[row][b], &slope[row][b], score[j], dp[j], a.lse[query], a.delta[query],
                   scale);
    }
    add_rows(t.dv, t.n, weight, seen, nullptr, chunk, d_o, width);
    add_rows(t.dk, t.n, slope, seen, nullptr, chunk, q, width);
}

/* A block takes up to `most` keys of a tile and a key/value head. */
static __global__ void __launch_bounds__(BLOCK, RESIDENT)
    keys(const rf_cuda_attention a, int most, int parts, float scale)
{
    extern __shared__ float own[];
    const int64_t number = blockIdx.x / static_cast<unsigned>(parts), kv = blockIdx.y;
    const int64_t part = blockIdx.x % static_cast<unsigned>(parts) * most;
    const int64_t first = number * a.spans.tile_keys + part, rest = a.spans.tile_keys - part;
    const int64_t end = min(first + min(rest, static_cast<int64_t>(most)), a.spans.m);
    const int width = static_cast<int>(a.head_dim);
    const int step = most * (width + 1);
    const int n = static_cast<int>(end - first);
    const key_tile t = {own, own + step, own + 2 * step, own + 3 * step, first, n};
    if (n <= 0) {
        return;
    }
    load_rows(t.k, rows_of(a.k, first, kv, a.g, width, n), width);
    load_rows(t.v, rows_of(a.v, first, kv, a.g, width, n), width);
    clear_rows(t.dk, n, width);
    clear_rows(t.dv, n, width);
    const int32_t *range = a.spans.tile + 4 * number;
    for (int64_t head = kv * (a.h / a.g); head < (kv + 1) * (a.h / a.g); head++) {
        for (int side = 0; side < 4; side += 2) {
            for (int64_t r = range[side]; r < range[side + 1]; r++) {
                const int32_t *run = a.spans.run + r * RUN_COLUMNS;
                if (touches(run, first, end)) {
                    take_run(a, t, run, head, scale);
                }
            }
        }
    }
    __syncthreads();
    store_rows(rows_of(a.dk, first, kv, a.g, width, n), t.dk, width);
    store_rows(rows_of(a.dv, first, kv, a.g, width, n), t.dv, width);
}

int rf_cuda_attention_keys(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    enum { ARRAYS = 4 };
    return launch(keys, stream, a, ARRAYS, a->spans.n_tiles, a->spans.tile_keys, a->g);
}
