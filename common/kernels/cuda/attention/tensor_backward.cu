/* Attention over spans on tensor cores, backward, in two passes that each own what they write (derived in
 * ref/attention.c): of queries, dq; of keys, dk and dv. */
#include "common/kernels/cuda/attention/tensor.cuh"

enum { ROWS = 64, THREADS = WARPGROUP }; /* a block is a warpgroup with its 64 rows */

/* --- delta ----------------------------------------------------------------------------------- */

/* The dot product of two pieces: eight products, in order. */
static __device__ inline float dot_piece(const uint16_t *x, const uint16_t *y)
{
    const uint4 a = *reinterpret_cast<const uint4 *>(x), b = *reinterpret_cast<const uint4 *>(y);
    const unsigned left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum = fmaf(__uint_as_float(left[i] << 16), __uint_as_float(right[i] << 16), sum);
        sum = fmaf(__uint_as_float(left[i] & 0xffff0000U), __uint_as_float(right[i] & 0xffff0000U),
                   sum);
    }
    return sum;
}

/* A row of a head by as many lanes as it has pieces: do . o. */
template <int WIDTH>
static __global__ void __launch_bounds__(BLOCK)
    make_delta(float *delta, const uint16_t *d_o, const uint16_t *o, int64_t n_rows)
{
    constexpr int PIECES = WIDTH / PIECE;
    const int64_t row = thread_number() / PIECES, at = min(row, n_rows - 1) * WIDTH;
    const int lane = static_cast<int>(threadIdx.x) % PIECES;
    float sum = dot_piece(d_o + at + lane * PIECE, o + at + lane * PIECE);
#pragma unroll
    for (int step = PIECES / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(0xffffffffU, sum, step);
    }
    if (lane == 0 && row < n_rows) {
        delta[row] = sum;
    }
}

int rf_cuda_tensor_delta(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    const int64_t n_rows = a->spans.n * a->h;
    const uint16_t *d_o = static_cast<const uint16_t *>(a->d_o.data),
                   *o = static_cast<const uint16_t *>(a->o.data);
    if (n_rows == 0) {
        return 0;
    }
    if (a->head_dim == 64) {
        make_delta<64>
            <<<blocks_for(n_rows * 8, BLOCK), BLOCK, 0, stream>>>(a->delta, d_o, o, n_rows);
    } else {
        make_delta<128>
            <<<blocks_for(n_rows * 16, BLOCK), BLOCK, 0, stream>>>(a->delta, d_o, o, n_rows);
    }
    return cudaGetLastError();
}

/* --- Both passes ----------------------------------------------------------------------------- */

template <int N> static __device__ inline void clear(float (&sum)[N][4])
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0.0F;
    }
}

/* Shared memory: two tiles of the block's own, then two places for two tiles of the others. */
template <int WIDTH> struct layout {
    static constexpr unsigned TILE = ROWS * WIDTH * 2, BYTES = 6 * TILE;
};

template <typename Kernel>
static int launch(Kernel *kernel, rf_cuda_stream stream, const rf_cuda_attention *a, int bytes,
                  int64_t own, int64_t other, int64_t heads)
{
    const int code =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (own == 0 || heads == 0 || code != 0) {
        return code;
    }
    const dim3 grid(blocks_for(own, ROWS), blocks_for(heads, 1));
    kernel<<<grid, THREADS, static_cast<size_t>(bytes), stream>>>(
        *a, 1 + rf_cuda_tiles(other, ROWS), score_scale(a->head_dim));
    return cudaGetLastError();
}

/* --- dq -------------------------------------------------------------------------------------- */

/* From scores and dp of 16 queries by N keys to their slopes, in place of the scores. lse, delta: of a lane's
 * two queries. */
template <int N>
static __device__ inline void make_slopes(float (&score)[N][4], const float (&dp)[N][4],
                                          const float *lse, const float *delta, float scale)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float p = power_of_2(fmaf(score[j][e], scale * LOG2_E, -lse[e / 2]));
            score[j][e] = p * (dp[j][e] - delta[e / 2]);
        }
    }
}

/* What is not seen has no slope. key: of this lane's first column. */
template <int N> static __device__ inline void hide(float (&slope)[N][4], const int4 *span, int key)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const bool seen = sees(span[e / 2], key + j * COLUMN + e % 2);
            slope[j][e] = seen ? slope[j][e] : 0.0F;
        }
    }
}

/* A block takes a tile of queries of a head; rows of the products are queries, columns PART keys at once. */
template <int WIDTH, int PART, int BLOCKS>
static __global__ void __launch_bounds__(THREADS, BLOCKS)
    queries(const rf_cuda_attention a, int64_t list_width, float scale)
{
    constexpr unsigned TILE = layout<WIDTH>::TILE;
    extern __shared__ __align__(1024) char memory[];
    const int64_t number = gridDim.x - 1 - blockIdx.x, head = blockIdx.y;
    const int64_t first = number * ROWS, kv = head / (a.h / a.g);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int row = static_cast<int>(threadIdx.x) / WARP * 16;
    const int64_t step = a.g * WIDTH, own_step = a.h * WIDTH;
    const unsigned q = shared_address(memory), d_o = q + TILE, tiles = q + 2 * TILE;
    const uint16_t *k = head_of(a.k, kv, WIDTH), *v = head_of(a.v, kv, WIDTH);
    const int32_t *list = a.by_query + number * list_width;
    const int count = list[0];
    float dq[WIDTH / COLUMN][4], lse[2], delta[2];
    int4 span[2];

    copy_tile<WIDTH, ROWS, THREADS>(q, head_of(a.q, head, WIDTH), own_step, first, a.spans.n);
    copy_tile<WIDTH, ROWS, THREADS>(d_o, head_of(a.d_o, head, WIDTH), own_step, first, a.spans.n);
    /* Entries are read a step before their tiles are. */
    int coming = count > 0 ? list[1] : 0, later = count > 1 ? list[2] : 0;
    if (count > 0) {
        fetch_keys<WIDTH, THREADS>(tiles, k, v, step, coming, a.spans.m);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t query = first + row + lane / 4 + 8 * half;
        const int64_t at = min(query, a.spans.n - 1) * a.h + head;
        span[half] = span_of(a.spans, query);
        lse[half] = LOG2_E * a.lse[at];
        delta[half] = a.delta[at];
    }
    clear(dq);
    for (int i = 0; i < count; i++) {
        const int entry = coming;
        const unsigned key_tile = tiles + static_cast<unsigned>(i % 2) * 2 * TILE,
                       other = tiles + static_cast<unsigned>((i + 1) % 2) * 2 * TILE;
        wait_copies();
        __syncthreads(); /* the tile is here, and everyone is done with the other place */
        coming = later;
        if (i + 1 < count) {
            fetch_keys<WIDTH, THREADS>(other, k, v, step, coming, a.spans.m);
        }
        later = i + 2 < count ? list[3 + i] : 0;
#pragma unroll 1
        for (int part = 0; part < KEYS; part += PART) {
            float score[PART / COLUMN][4], dp[PART / COLUMN][4];
            unsigned left[PART / INNER][4];
            const int key = entry / 2 * KEYS + part + lane % 4 * 2;
            mma_fence();
            dot_rows<WIDTH, ROWS, KEYS>(score, q, key_tile, part);
            dot_rows<WIDTH, ROWS, KEYS>(dp, d_o, key_tile + TILE, part);
            end_products();
            hold(score);
            hold(dp);
            make_slopes(score, dp, lse, delta, scale);
            if (entry % 2 == 0) {
                hide(score, span, key);
            }
            as_left(left, score);
            hold(dq);
            mma_fence();
            add_rows<WIDTH, KEYS>(dq, left, key_tile, part);
            end_products();
            hold(dq);
        }
    }
    wait_copies();
    __syncthreads();
    put_sums<WIDTH, ROWS>(memory, row, dq, scale);
    store_rows<WIDTH, ROWS>(head_of(a.dq, head, WIDTH) + first * own_step, own_step, memory, row,
                            a.spans.n - first);
}

int rf_cuda_tensor_queries(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    if (a->head_dim == 64) {
        return launch(queries<64, 64, 4>, stream, a, layout<64>::BYTES, a->spans.n, a->spans.m,
                      a->h);
    }
    return launch(queries<128, 64, 2>, stream, a, layout<128>::BYTES, a->spans.n, a->spans.m, a->h);
}

/* --- dk, dv ---------------------------------------------------------------------------------- */

/* What a block of keys has in shared memory of the queries that it meets. */
struct query_rows {
    int4 span[QUERIES];
    float lse[QUERIES], delta[QUERIES];
};

/* Begins to copy them, from query `first` on. */
static __device__ inline void fetch_rows(query_rows *to, const rf_cuda_attention &a, int64_t first,
                                         int64_t head)
{
    const unsigned i = threadIdx.x;
    if (i < QUERIES) {
        const bool exists = first + i < a.spans.n;
        const int64_t own = exists ? first + i : 0, at = exists ? own * a.h + head : 0;
        copy_piece(shared_address(&to->span[i]), a.spans.span + 4 * own, exists);
        copy_word(shared_address(&to->lse[i]), a.lse + at, exists);
        copy_word(shared_address(&to->delta[i]), a.delta + at, exists);
    }
}

/* From scores and dp of 16 keys by N queries to their weights and slopes, in place. own: this lane's first
 * query of the tile. */
template <int N>
static __device__ inline void weigh(float (&p)[N][4], float (&ds)[N][4], const query_rows *met,
                                    int own, float scale)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int at = own + j * COLUMN;
        const float2 lse = *reinterpret_cast<const float2 *>(&met->lse[at]),
                     delta = *reinterpret_cast<const float2 *>(&met->delta[at]);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float base = -LOG2_E * (e % 2 == 0 ? lse.x : lse.y);
            p[j][e] = power_of_2(fmaf(p[j][e], scale * LOG2_E, base));
            ds[j][e] = p[j][e] * (ds[j][e] - (e % 2 == 0 ? delta.x : delta.y));
        }
    }
}

/* What does not see a key has neither. */
template <int N>
static __device__ inline void hide_queries(float (&p)[N][4], float (&ds)[N][4],
                                           const query_rows *met, int own, int key)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const bool seen = sees(met->span[own + j * COLUMN + e % 2], key + e / 2 * 8);
            p[j][e] = seen ? p[j][e] : 0.0F;
            ds[j][e] = seen ? ds[j][e] : 0.0F;
        }
    }
}

/* A block takes a tile of keys of a key/value head; rows of the products are keys, columns PART queries at
 * once. */
template <int WIDTH, int PART, int BLOCKS>
static __global__ void __launch_bounds__(THREADS, BLOCKS)
    keys(const rf_cuda_attention a, int64_t list_width, float scale)
{
    constexpr unsigned TILE = layout<WIDTH>::TILE;
    extern __shared__ __align__(1024) char memory[];
    __shared__ query_rows rows[2];
    const int64_t number = blockIdx.x, kv = blockIdx.y, first = number * ROWS;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int row = static_cast<int>(threadIdx.x) / WARP * 16;
    const int64_t step = a.g * WIDTH, query_step = a.h * WIDTH, group = a.h / a.g;
    const unsigned k = shared_address(memory), v = k + TILE, tiles = k + 2 * TILE;
    const int32_t *list = a.by_key + number * list_width;
    const int each = list[0], count = each * static_cast<int>(group);
    const int key = static_cast<int>(first) + row + lane / 4;
    int next = 0, coming = 0; /* of the list; an entry is read a step before its tile is */
    int64_t head = kv * group;
    float dk[WIDTH / COLUMN][4], dv[WIDTH / COLUMN][4];
    /* The next tile of the list, for one head of the group after the other. */
    const auto fetch = [&](int i) {
        const int entry = coming;
        const int64_t query = static_cast<int64_t>(entry / 2) * QUERIES;
        const unsigned to = tiles + static_cast<unsigned>(i % 2) * 2 * TILE;
        copy_tile<WIDTH, QUERIES, THREADS>(to, head_of(a.q, head, WIDTH), query_step, query,
                                           a.spans.n);
        copy_tile<WIDTH, QUERIES, THREADS>(to + TILE, head_of(a.d_o, head, WIDTH), query_step,
                                           query, a.spans.n);
        fetch_rows(&rows[i % 2], a, query, head);
        next = next + 1 == each ? 0 : next + 1;
        head += next == 0 ? 1 : 0;
        coming = list[1 + next];
        return entry % 2 == 1;
    };

    copy_tile<WIDTH, ROWS, THREADS>(k, head_of(a.k, kv, WIDTH), step, first, a.spans.m);
    copy_tile<WIDTH, ROWS, THREADS>(v, head_of(a.v, kv, WIDTH), step, first, a.spans.m);
    coming = count > 0 ? list[1] : 0;
    bool next_whole = count > 0 && fetch(0); /* is seen whole */
    clear(dk);
    clear(dv);
    for (int i = 0; i < count; i++) {
        const bool whole = next_whole;
        const unsigned q = tiles + static_cast<unsigned>(i % 2) * 2 * TILE, d_o = q + TILE;
        const query_rows *met = &rows[i % 2];
        wait_copies();
        __syncthreads(); /* the tile is here, and everyone is done with the other place */
        next_whole = i + 1 < count && fetch(i + 1);
#pragma unroll 1
        for (int part = 0; part < QUERIES; part += PART) {
            float p[PART / COLUMN][4], ds[PART / COLUMN][4];
            unsigned left_p[PART / INNER][4], left_ds[PART / INNER][4];
            mma_fence();
            dot_rows<WIDTH, ROWS, QUERIES>(p, k, q, part);
            dot_rows<WIDTH, ROWS, QUERIES>(ds, v, d_o, part);
            end_products();
            hold(p);
            hold(ds);
            weigh(p, ds, met, part + lane % 4 * 2, scale);
            if (!whole) {
                hide_queries(p, ds, met, part + lane % 4 * 2, key);
            }
            as_left(left_p, p);
            as_left(left_ds, ds);
            hold(dk);
            hold(dv);
            mma_fence();
            add_rows<WIDTH, QUERIES>(dv, left_p, d_o, part);
            add_rows<WIDTH, QUERIES>(dk, left_ds, q, part);
            end_products();
            hold(dk);
            hold(dv);
        }
    }
    wait_copies();
    __syncthreads();
    put_sums<WIDTH, ROWS>(memory, row, dk, scale);
    put_sums<WIDTH, ROWS>(memory + TILE, row, dv, 1.0F);
    store_rows<WIDTH, ROWS>(head_of(a.dk, kv, WIDTH) + first * step, step, memory, row,
                            a.spans.m - first);
    store_rows<WIDTH, ROWS>(head_of(a.dv, kv, WIDTH) + first * step, step, memory + TILE, row,
                            a.spans.m - first);
}

int rf_cuda_tensor_keys(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    if (a->head_dim == 64) {
        return launch(keys<64, 32, 3>, stream, a, layout<64>::BYTES, a->spans.m, a->spans.n, a->g);
    }
    return launch(keys<128, 32, 2>, stream, a, layout<128>::BYTES, a->spans.m, a->spans.n, a->g);
}
