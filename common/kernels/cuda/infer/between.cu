/* What lies between the products of inference: the stream's norm, and queries, keys and values on their
 * way to attention: the norm of each head, the rotation by its position, and for keys and values the
 * place in the cache; and what attention made of the parts of the keys becomes one. */
#include "common/kernels/cuda/infer/few.h"
#include "common/kernels/cuda/infer/merge.cuh"
#include "common/kernels/cuda/infer/stream.cuh"

/* --- The stream ------------------------------------------------------------------------------ */

/* A block a row. */
static __global__ void __launch_bounds__(GROUP)
    norm_stream(uint16_t *y, const float *x, const float *gain, int d, float eps)
{
    __shared__ float sum[NORM_WARPS];
    const int64_t at = static_cast<int64_t>(blockIdx.x) * d;
    let_next_begin();
    wait_for_previous();
    const float own = sum_of_warp(x + at, d);
    if (threadIdx.x % WARP == 0) {
        sum[threadIdx.x / WARP] = own;
    }
    __syncthreads();
    const float rate = rate_of(sum, d, eps);
    for (int j = static_cast<int>(threadIdx.x) * PIECE; j < d; j += GROUP * PIECE) {
        *reinterpret_cast<uint4 *>(y + at + j) = normed(read_piece(x + at + j), rate, gain + j);
    }
}

/* The launch of a kernel that lets the next begin, and waits for the previous, itself. */
template <typename... Values, typename... Arguments>
static int launch(rf_cuda_stream stream, unsigned blocks, unsigned threads,
                  void (*kernel)(Values...), Arguments... arguments)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Values>(arguments)...);
}

int rf_cuda_norm_stream(rf_cuda_stream stream, uint16_t *y, const float *x, const float *gain,
                        int64_t n, int64_t d, float eps)
{
    return n == 0 ? 0 : launch(stream, blocks_for(n, 1), GROUP, norm_stream, y, x, gain, d, eps);
}

/* --- Heads ----------------------------------------------------------------------------------- */

/* WIDTH of a head; a lane has pairs (i, i + WIDTH/2) of elements that rotate together. */
template <int WIDTH>
static __global__ void __launch_bounds__(BLOCK) turn_heads(const rf_cuda_heads p)
{
    enum { EACH = WIDTH / WARP, PAIRS = EACH / 2 };
    const int all = static_cast<int>(p.h + 2 * p.g), lane = static_cast<int>(threadIdx.x) % WARP;
    const int64_t number = thread_number() / WARP, i = number / all;
    const int head = static_cast<int>(number % all), key = head - static_cast<int>(p.h);
    const int value = key - static_cast<int>(p.g);
    let_next_begin();
    wait_for_previous();
    if (i >= p.n) {
        return;
    }
    const int64_t place = p.place != nullptr ? p.place[i] : i, heads = key < 0 ? p.h : p.g;
    const int64_t own = (i * heads + (value >= 0 ? value : key >= 0 ? key : head)) * WIDTH;
    const int64_t cached = (place * p.g + (value >= 0 ? value : key)) * WIDTH;
    const uint16_t *from = value >= 0 ? p.v : key >= 0 ? p.k : p.q;
    if (value >= 0) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            p.cache_v[cached + lane + e * WARP] = from[own + lane + e * WARP];
        }
        return;
    }
    float x[EACH];
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        x[e] = rf_quantize_from_bf16(from[own + lane + e * WARP]);
    }
    const float *gain = key >= 0 ? p.k_gain : p.q_gain;
    if (gain != nullptr) {
        float sum = 0.0F;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            sum = fmaf(x[e], x[e], sum);
        }
        const float r = 1.0F / sqrtf(warp_sum(sum) / static_cast<float>(WIDTH) + p.eps);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            x[e] = x[e] * r * gain[lane + e * WARP];
        }
    }
    const int64_t angle = p.position[i] * static_cast<int64_t>(WIDTH / 2) + lane;
    uint16_t *to = key >= 0 ? p.cache_k + cached : p.q + own;
#pragma unroll
    for (int e = 0; e < PAIRS; e++) {
        const float c = p.cosine[angle + e * WARP], s = p.sine[angle + e * WARP];
        to[lane + e * WARP] = rf_quantize_bf16(x[e] * c - x[e + PAIRS] * s);
        to[lane + (e + PAIRS) * WARP] = rf_quantize_bf16(x[e + PAIRS] * c + x[e] * s);
    }
}

int rf_cuda_turn_heads(rf_cuda_stream stream, const rf_cuda_heads *p)
{
    const unsigned blocks = blocks_for(p->n * (p->h + 2 * p->g), WARPS);
    return p->n == 0 ? 0
                     : launch(stream, blocks, BLOCK,
                              p->head_dim == 64 ? turn_heads<64> : turn_heads<128>, *p);
}

/* --- Attention's parts ----------------------------------------------------------------------- */

/* A warp a query and head, WIDTH / WARP columns a lane. */
template <int WIDTH>
static __global__ void __launch_bounds__(GROUP) merge_parts(const rf_cuda_attend p)
{
    enum { EACH = WIDTH / WARP, AT_ONCE = 8 };
    const int lane = static_cast<int>(threadIdx.x) % WARP, h = static_cast<int>(p.h);
    const int64_t number = thread_number() / WARP, query = number / h, head = number % h;
    let_next_begin();
    wait_for_previous();
    if (query >= p.n) {
        return;
    }
    const rf_cuda_parts at = p.table[query];
    float most = -INFINITY, sum = 0.0F, o[EACH] = {};
    for (int first = 0; first < at.count; first += AT_ONCE) {
        float own[AT_ONCE][EACH];
        float2 state[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int part = min(first + i, at.count - 1);
            const float *from =
                p.part + ((at.row + static_cast<int64_t>(part) * at.step) * h + head) * (WIDTH + 4);
            state[i] = *reinterpret_cast<const float2 *>(from + WIDTH);
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                own[i][e] = from[lane * EACH + e];
            }
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i < at.count) {
                const shares s = merge(&most, &sum, state[i].x, state[i].y);
#pragma unroll
                for (int e = 0; e < EACH; e++) {
                    o[e] = join(o[e], own[i][e], s);
                }
            }
        }
    }
    if (at.count > 0) { /* else the result is there */
        const float factor = sum > 0.0F ? 1.0F / sum : 0.0F;
        uint16_t *to = p.o + (query * h + head) * WIDTH + lane * EACH;
#pragma unroll
        for (int e = 0; e < EACH; e += 2) {
            *reinterpret_cast<uint32_t *>(to + e) =
                rf_quantize_bf16(o[e] * factor) |
                static_cast<uint32_t>(rf_quantize_bf16(o[e + 1] * factor)) << 16;
        }
    }
}

int rf_cuda_merge_parts(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    const unsigned blocks = blocks_for(p->n * p->h, GROUP / WARP);
    return p->n == 0 ? 0
                     : launch(stream, blocks, GROUP,
                              p->head_dim == 64 ? merge_parts<64> : merge_parts<128>, *p);
}
