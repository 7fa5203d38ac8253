/* Rows of logits: cross-entropy, with the gradient in the logits' place. */
#include "common/kernels/cuda/hopper.cuh"

static __device__ inline float power_of_e(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634F));
    return y;
}

/* The largest of some logits, and the sum of exp(logit - largest). */
typedef struct softened {
    float most, sum;
} softened;

static __device__ inline softened join(softened a, softened b)
{
    const float most = fmaxf(a.most, b.most);
    const float base = most == -INFINITY ? 0.0F : most;
    return {most, a.sum * power_of_e(a.most - base) + b.sum * power_of_e(b.most - base)};
}

/* One more run of logits. */
template <int EACH> static __device__ inline void soften(softened *own, const float x[EACH])
{
    float most = own->most;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        most = fmaxf(most, x[e]);
    }
    if (most > own->most) {
        own->sum *= power_of_e(own->most - most);
        own->most = most;
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        own->sum += power_of_e(x[e] - most);
    }
}

/* What the gradient of a row's logits is made of: factor e^(x - most), less `all` at the target. */
typedef struct slope {
    float most, factor, all;
    int64_t target;
} slope;

static __device__ inline slope slope_of(const softened &s, int64_t target, float weight)
{
    return {s.most, weight / s.sum, weight, target};
}

/* Of logits [j, j + EACH) of the row. */
template <int EACH>
static __device__ inline void take_slopes(float x[EACH], const slope &s, int64_t j)
{
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        x[e] = s.factor * power_of_e(x[e] - s.most) - (j + e == s.target ? s.all : 0.0F);
    }
}

/* --- Rows of any length: a block each, which reads its row twice ------------------------------- */

static __global__ void __launch_bounds__(BLOCK)
    head_loss(float *loss, float *logits, bool half, const int32_t *target, const float *weight,
              const int32_t *place, int64_t v, bool gradient)
{
    float *row = logits + blockIdx.x * v;
    const int64_t at = place[blockIdx.x];
    softened own = {-INFINITY, 0.0F};
    for (int64_t j = threadIdx.x; j < v; j += BLOCK) {
        soften<1>(&own, row + j);
    }
    const softened s = join_all(own, join);
    if (threadIdx.x == 0) {
        loss[at] = logf(s.sum) - (row[target[at]] - s.most);
    }
    __syncthreads(); /* before the logits change */
    if (gradient) {
        const slope slopes = slope_of(s, target[at], weight[at]);
        const rf_cuda_real to = {row, half ? RF_CUDA_BF16 : RF_CUDA_F32};
        for (int64_t begin = 0; begin < v; begin += BLOCK) {
            const int64_t j = begin + threadIdx.x;
            float x = j < v ? row[j] : 0.0F;
            take_slopes<1>(&x, slopes, j);
            __syncthreads(); /* bf16 takes the place of logits that have been read, now or before */
            if (j < v) {
                write(to, j, x);
            }
        }
    }
}

/* --- Rows that the blocks of a cluster hold in their shared memory: read once ------------------ */

/* PIECE logits come together. One, two, four or eight blocks: as few as have at most FEW bytes each, which leaves two of
 * them room on a multiprocessor (one's logits come while the other makes its slopes), or eight with up to 200 KB. */
enum { PIECE = BLOCK * RUN, MOST_BLOCKS = 8, FEW = 76 << 10 };
enum { HELD = MOST_BLOCKS * 51200, MOST_PIECES = HELD / MOST_BLOCKS / PIECE };
static_assert(HELD == MOST_BLOCKS * MOST_PIECES * PIECE, "whole pieces");

/* A block's part of a row. */
typedef struct held_part {
    int64_t row, first; /* which row of the chunk; its first logit */
    int n;
} held_part;

static __device__ inline held_part part_of(int64_t v, int blocks, int each)
{
    const int64_t rank = blockIdx.x % static_cast<unsigned>(blocks), first = rank * each;
    return {blockIdx.x / static_cast<unsigned>(blocks), first,
            static_cast<int>(max(min(v - first, static_cast<int64_t>(each)), int64_t{0}))};
}

/* The part's logits, into shared memory; soft-maximised as they come. All threads of the block together. */
static __device__ softened fetch_part(float *held, const float *from, int n)
{
    __shared__ uint64_t arrived[MOST_PIECES];
    const unsigned barrier = shared_address(arrived);
    if (threadIdx.x == 0) {
        for (int i = 0; i * PIECE < n; i++) {
            barrier_init(barrier + static_cast<unsigned>(i) * 8U, 1);
        }
        barriers_are_initialised();
        for (int i = 0; i * PIECE < n; i++) {
            const unsigned own = barrier + static_cast<unsigned>(i) * 8U,
                           bytes = static_cast<unsigned>(min(n - i * PIECE, int{PIECE})) * 4U;
            barrier_expect(own, bytes);
            load_bytes(shared_address(held + i * PIECE), from + i * PIECE, bytes, own);
        }
    }
    __syncthreads();
    softened own = {-INFINITY, 0.0F};
    for (int i = 0; i * PIECE < n; i++) {
        const int j = i * PIECE + static_cast<int>(threadIdx.x) * RUN;
        barrier_wait(barrier + static_cast<unsigned>(i) * 8U, 0);
        if (j < n) {
            float x[RUN];
            read_run<RUN>(x, {held, RF_CUDA_F32}, j);
            soften<RUN>(&own, x);
        }
    }
    return join_all(own, join);
}

/* Of all blocks of the cluster, in order; then each may end after cluster_wait. */
static __device__ softened join_cluster(softened own, int blocks)
{
    __shared__ __align__(sizeof(float2)) softened part;
    static_assert(sizeof(softened) == sizeof(float2), "read as a pair");
    if (threadIdx.x == 0) {
        part = own;
    }
    cluster_arrive();
    cluster_wait();
    for (int rank = 0; rank < blocks; rank++) {
        const float2 x = read_cluster_pair(shared_address(&part), static_cast<unsigned>(rank));
        own = rank == 0 ? softened{x.x, x.y} : join(own, {x.x, x.y});
    }
    cluster_arrive();
    return own;
}

/* half: slopes are bf16, in the first half of their row's memory. */
static __global__ void __launch_bounds__(BLOCK)
    head_loss_held(float *loss, float *logits, bool half, const int32_t *target,
                   const float *weight, const int32_t *place, int64_t v, int blocks, int each,
                   bool gradient)
{
    extern __shared__ __align__(16) float held[];
    const held_part p = part_of(v, blocks, each);
    float *row = logits + p.row * v;
    const int64_t at = place[p.row], own = target[at];
    const softened s = join_cluster(fetch_part(held, row + p.first, p.n), blocks);
    if (threadIdx.x == 0 && own >= p.first && own < p.first + p.n) {
        loss[at] = logf(s.sum) - (held[own - p.first] - s.most);
    }
    if (gradient) { /* all of the row has been read */
        const slope slopes = slope_of(s, own, weight[at]);
        const rf_cuda_real to = {row, half ? RF_CUDA_BF16 : RF_CUDA_F32};
        for (int j = static_cast<int>(threadIdx.x) * RUN; j < p.n; j += PIECE) {
            float x[RUN];
            read_run<RUN>(x, {held, RF_CUDA_F32}, j);
            take_slopes<RUN>(x, slopes, p.first + j);
            write_run<RUN>(to, p.first + j, x);
        }
    }
    cluster_wait();
}

static int launch_held(rf_cuda_stream stream, float *loss, float *logits, bool half,
                       const int32_t *target, const float *weight, const int32_t *place, int64_t m,
                       int64_t v, bool gradient)
{
    int blocks = 1;
    while (blocks < MOST_BLOCKS && v * 4 > int64_t{blocks} * FEW) {
        blocks *= 2;
    }
    const int each = static_cast<int>((v / RUN + blocks - 1) / blocks * RUN);
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(m * blocks));
    config.blockDim = dim3(BLOCK);
    config.dynamicSmemBytes = static_cast<size_t>(each) * sizeof(float);
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    const int code = allow_memory(head_loss_held, config.dynamicSmemBytes);
    return code != 0 ? code
                     : cudaLaunchKernelEx(&config, head_loss_held, loss, logits, half, target,
                                          weight, place, v, blocks, each, gradient);
}

int rf_cuda_head_loss(rf_cuda_stream stream, float *loss, float *logits, bool half,
                      const int32_t *target, const float *weight, const int32_t *place, int64_t m,
                      int64_t v, bool gradient)
{
    if (m == 0) {
        return 0;
    }
    if (v % RUN == 0 && v <= HELD) {
        return launch_held(stream, loss, logits, half, target, weight, place, m, v, gradient);
    }
    head_loss<<<blocks_for(m, 1), BLOCK, 0, stream>>>(loss, logits, half, target, weight, place, v,
                                                      gradient);
    return cudaGetLastError();
}
