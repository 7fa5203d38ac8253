/* Attention over spans on tensor cores, forward, of heads 64 wide: online softmax (arXiv:1805.02867, 2205.14135).
 * Two blocks share a multiprocessor: while one waits the other works. */
#include "common/kernels/cuda/attention/tensor.cuh"

/* A block has two warpgroups of 64 queries, which share tiles of keys. */
enum { WIDTH = 64, QUERIES_OF = RF_CUDA_MANY_QUERIES, THREADS = QUERIES_OF / 64 * WARPGROUP };

/* 16 queries of a warp. */
struct rows16 {
    float o[WIDTH / COLUMN][4];
    float most[2], sum[2]; /* of a lane's two queries; sum: over this lane's keys */
};

/* score: 16 queries by KEYS keys. Leaves exp(score - most) there, of what is seen. */
static __device__ inline void soften(rows16 *own, float (&score)[KEYS / COLUMN][4], float scale)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = own->most[half];
#pragma unroll
        for (int j = 0; j < KEYS / COLUMN; j++) {
            most = fmaxf(most, fmaxf(score[j][2 * half], score[j][2 * half + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, 2));
        const float base = most == -INFINITY ? 0.0F : most * scale;
        const float factor = power_of_2(fmaf(own->most[half], scale, -base));
        float sum = own->sum[half] * factor;
#pragma unroll
        for (int j = 0; j < KEYS / COLUMN; j++) {
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                score[j][e] = power_of_2(fmaf(score[j][e], scale, -base));
                sum += score[j][e];
            }
        }
#pragma unroll
        for (int j = 0; j < WIDTH / COLUMN; j++) {
            own->o[j][2 * half] *= factor;
            own->o[j][2 * half + 1] *= factor;
        }
        own->most[half] = most;
        own->sum[half] = sum;
    }
}

/* What is not seen becomes -INFINITY. row: this lane's first query in the block. */
static __device__ inline void mask(float (&score)[KEYS / COLUMN][4], const int4 *span, int row,
                                   int key)
{
    const int column = key + static_cast<int>(threadIdx.x) % 4 * 2;
    const int4 upper = span[row], lower = span[row + 8];
#pragma unroll
    for (int j = 0; j < KEYS / COLUMN; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int own = column + j * COLUMN + e;
            score[j][e] = sees(upper, own) ? score[j][e] : -INFINITY;
            score[j][2 + e] = sees(lower, own) ? score[j][2 + e] : -INFINITY;
        }
    }
}

/* Divides by the sums, into the tile; sets lse. first: the block's first query. */
static __device__ inline void finish(const rf_cuda_attention &a, rows16 *own, char *tile, int row,
                                     int64_t first, int64_t head, float scale)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = own->sum[half];
        sum += __shfl_xor_sync(0xffffffffU, sum, 1);
        sum += __shfl_xor_sync(0xffffffffU, sum, 2);
        const float factor = sum == 0.0F ? 0.0F : 1.0F / sum; /* 0: a query without keys */
#pragma unroll
        for (int j = 0; j < WIDTH / COLUMN; j++) {
            own->o[j][2 * half] *= factor;
            own->o[j][2 * half + 1] *= factor;
        }
        const int64_t query = first + row + lane / 4 + 8 * half;
        if (lane % 4 == 0 && query < a.spans.n) {
            a.lse[query * a.h + head] = LN_2 * (own->most[half] * scale + log2f(sum));
        }
    }
    put_sums<WIDTH, QUERIES_OF>(tile, row, own->o, 1.0F);
}

/* Shared memory: the block's queries, then two places for a tile of keys and one of values. */
enum { OWN = QUERIES_OF * WIDTH * 2, TILE = KEYS * WIDTH * 2, BYTES = OWN + 4 * TILE };

static __global__ void __launch_bounds__(THREADS, RESIDENT)
    forward(const rf_cuda_attention a, int64_t list_width, float scale)
{
    extern __shared__ __align__(1024) char memory[];
    __shared__ int4 span[QUERIES_OF];
    const int64_t number = gridDim.x - 1 - blockIdx.x, head = blockIdx.y;
    const int64_t first = number * QUERIES_OF, kv = head / (a.h / a.g);
    const int row = static_cast<int>(threadIdx.x) / WARP * 16;
    const int64_t step = a.g * WIDTH, own_step = a.h * WIDTH;
    const unsigned q = shared_address(memory), tiles = q + OWN;
    const unsigned own_q = q + static_cast<unsigned>(row / 64 * 64 * ROW_BYTES);
    const uint16_t *k = head_of(a.k, kv, WIDTH), *v = head_of(a.v, kv, WIDTH);
    const int32_t *list = a.by_query + number * list_width;
    const int count = list[0];
    rows16 own = {};
    own.most[0] = own.most[1] = -INFINITY;

    copy_tile<WIDTH, QUERIES_OF, THREADS>(q, head_of(a.q, head, WIDTH), own_step, first, a.spans.n);
    for (int i = static_cast<int>(threadIdx.x); i < QUERIES_OF; i += THREADS) {
        span[i] = span_of(a.spans, first + i);
    }
    /* Entries are read a step before their tiles are. */
    int coming = count > 0 ? list[1] : 0, later = count > 1 ? list[2] : 0;
    if (count > 0) {
        fetch_keys<WIDTH, THREADS>(tiles, k, v, step, coming, a.spans.m);
    }
    for (int i = 0; i < count; i++) {
        const int entry = coming;
        const unsigned tile = tiles + static_cast<unsigned>(i % 2) * 2 * TILE,
                       other = tiles + static_cast<unsigned>((i + 1) % 2) * 2 * TILE;
        float score[KEYS / COLUMN][4];
        unsigned weight[KEYS / INNER][4];
        wait_copies();
        __syncthreads(); /* the tile is here, and everyone is done with the other place */
        coming = later;
        if (i + 1 < count) {
            fetch_keys<WIDTH, THREADS>(other, k, v, step, coming, a.spans.m);
        }
        later = i + 2 < count ? list[3 + i] : 0;
        mma_fence();
        dot_rows<WIDTH, QUERIES_OF, KEYS>(score, own_q, tile, 0);
        end_products();
        hold(score);
        if (entry % 2 == 0) {
            mask(score, span, row + static_cast<int>(threadIdx.x) % WARP / 4, entry / 2 * KEYS);
        }
        soften(&own, score, scale);
        as_left(weight, score);
        hold(own.o);
        mma_fence();
        add_rows<WIDTH, KEYS>(own.o, weight, tile + TILE, 0);
        end_products();
        hold(own.o);
    }
    wait_copies();
    __syncthreads();
    finish(a, &own, memory, row, first, head, scale);
    store_rows<WIDTH, QUERIES_OF>(head_of(a.o, head, WIDTH) + first * own_step, own_step, memory,
                                  row, a.spans.n - first);
}

int rf_cuda_tensor_forward(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    if (a->spans.n == 0 || a->h == 0) {
        return 0;
    }
    const int code =
        cudaFuncSetAttribute(forward, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    const dim3 grid(blocks_for(a->spans.n, QUERIES_OF), blocks_for(a->h, 1));
    if (code != 0) {
        return code;
    }
    forward<<<grid, THREADS, BYTES, stream>>>(*a, 1 + rf_cuda_tiles(a->spans.m, KEYS),
                                              score_scale(WIDTH) * LOG2_E);
    return cudaGetLastError();
}
