/* Attention over spans, forward: online softmax (arXiv:1805.02867, 2205.14135). */
#include "common/kernels/cuda/attention/attention.cuh"

int64_t rf_cuda_widest_head(void)
{
    enum { MOST_ARRAYS = 4 }; /* of attention_keys */
    return MOST_SHARED / (MOST_ARRAYS * static_cast<int64_t>(sizeof(float))) - 1;
}

/* What a row has met so far; the same in each of the LANES threads that make it. */
typedef struct state {
    float most, sum; /* the largest score; the sum of exp(score - most) */
} state;

/* Takes a tile's scores, of which this row sees the first `count`. weight: exp(score - most); returns
 * what the sums so far are to be multiplied by. */
static __device__ float take_scores(state *s, float *weight, const float score[SCORES], float scale,
                                    int64_t count)
{
    const int lane = static_cast<int>(threadIdx.x) % LANES;
    float most = s->most, sum = 0.0F;
#pragma unroll
    for (int j = 0; j < SCORES; j++) {
        most = lane + j * LANES < count ? fmaxf(most, score[j] * scale) : most;
    }
    for (int step = LANES / 2; step > 0; step /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, step));
    }
#pragma unroll
    for (int j = 0; j < SCORES; j++) {
        const bool seen = lane + j * LANES < count;
        const float x = seen ? expf(score[j] * scale - most) : 0.0F;
        weight[lane + j * LANES] = x;
        sum += x;
    }
    for (int step = LANES / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(0xffffffffU, sum, step);
    }
    const float factor = most == s->most ? 1.0F : expf(s->most - most);
    s->sum = s->sum * factor + sum;
    s->most = most;
    return factor;
}

/* A block takes up to `most` queries of a run and a head. */
static __global__ void __launch_bounds__(BLOCK, RESIDENT)
    forward(const rf_cuda_attention a, int most, int parts, float scale)
{
    extern __shared__ float own[];
    __shared__ float chunk[TILE][PITCH], weight[TILE][PITCH], factor[TILE];
    __shared__ unsigned seen[TILE];
    const auto [run, first, head, kv, n] = queries_of_block(a, most, parts);
    const int width = static_cast<int>(a.head_dim);
    if (n <= 0) {
        return;
    }
    float *q = own, *o = own + most * (width + 1);
    const int row = static_cast<int>(threadIdx.x) / LANES;
    const bool leads = row < n && threadIdx.x % LANES == 0;
    state s = {-INFINITY, 0.0F};

    load_rows(q, rows_of(a.q, first, head, a.h, width, n), width);
    clear_rows(o, n, width);
    for (int span = 0; span < 2; span++) {
        const int64_t end = row < n ? a.spans.span[4 * (first + row) + 2 * span + 1] : 0;
        const int64_t last = run[SPAN_END + 2 * span];
        for (int64_t at = run[SPAN_BEGIN + 2 * span]; at < last; at += TILE) {
            const int64_t keys = min(last - at, static_cast<int64_t>(TILE));
            float score[SCORES];
            make_scores(score, q, n, chunk, rows_of(a.k, at, kv, a.g, width, keys), width);
            const float f = take_scores(&s, weight[row], score, scale, end - at);
            if (leads) {
                factor[row] = f;
                seen[row] = first_bits(end - at);
            }
            add_rows(o, n, weight, seen, factor, chunk, rows_of(a.v, at, kv, a.g, width, keys),
                     width);
        }
    }
    __syncthreads(); /* the last factors have been read */
    if (leads) {
        a.lse[(first + row) * a.h + head] = s.most + logf(s.sum);
        factor[row] = s.sum;
    }
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < n * width; e += BLOCK) {
        const float sum = factor[e / width]; /* 0: a query without keys */
        float *x = o + e / width * (width + 1) + e % width;
        *x = sum == 0.0F ? 0.0F : *x / sum;
    }
    __syncthreads();
    store_rows(rows_of(a.o, first, head, a.h, width, n), o, width);
}

int rf_cuda_attention_forward(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    enum { ARRAYS = 2 };
    if (a->spans.n_runs == 0 || a->h == 0 || a->head_dim == 0) {
        return 0;
    }
    const int most = own_rows(ARRAYS, a->head_dim), parts = (TILE + most - 1) / most;
    const int64_t bytes = ARRAYS * most * (a->head_dim + 1) * static_cast<int64_t>(sizeof(float));
    const float scale = static_cast<float>(1.0 / sqrt(static_cast<double>(a->head_dim)));
    const int code = allow_shared(forward, bytes);
    if (code != 0) {
        return code;
    }
    const dim3 grid(blocks_for(a->spans.n_runs * parts, 1), blocks_for(a->h, 1));
    forward<<<grid, BLOCK, static_cast<size_t>(bytes), stream>>>(*a, most, parts, scale);
    return cudaGetLastError();
}
