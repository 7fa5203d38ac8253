/* What lies between the products of inference, where they do not do it themselves: the norm of the stream,
 * and the merge of what attention made of the parts of the keys. */
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
    wait_for_previous();
    let_next_begin();
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
    const int code = allow_memory(kernel, 0);
    return code != 0 ? code
                     : cudaLaunchKernelEx(&config, kernel, static_cast<Values>(arguments)...);
}

int rf_cuda_norm_stream(rf_cuda_stream stream, uint16_t *y, const float *x, const float *gain,
                        int64_t n, int64_t d, float eps)
{
    return n == 0 ? 0 : launch(stream, blocks_for(n, 1), GROUP, norm_stream, y, x, gain, d, eps);
}

/* --- Attention's parts ----------------------------------------------------------------------- */

/* Some columns of a row. */
template <int EACH> struct row_state {
    float most, sum, o[EACH];
    __device__ void add(float added_most, float added_sum, const float (&added)[EACH])
    {
        const shares s = merge(&most, &sum, added_most, added_sum);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            o[e] = join(o[e], added[e], s);
        }
    }
};

static __device__ inline void read_columns(float (&to)[4], const float *from)
{
    const float4 x = *reinterpret_cast<const float4 *>(from);
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}

static __device__ inline void read_columns(float (&to)[2], const float *from)
{
    const float2 x = *reinterpret_cast<const float2 *>(from);
    to[0] = x.x, to[1] = x.y;
}

/* A warp a query and head, WIDTH / WARP columns a lane. */
template <int WIDTH>
static __global__ void __launch_bounds__(GROUP) merge_parts(const rf_cuda_attend p)
{
    enum { EACH = WIDTH / WARP, AT_ONCE = RF_CUDA_SECTION };
    const int lane = static_cast<int>(threadIdx.x) % WARP, h = static_cast<int>(p.h);
    const int64_t number = thread_number() / WARP, query = number / h, head = number % h;
    const rf_cuda_parts at = p.table[query < p.n ? query : 0];
    wait_for_previous();
    let_next_begin();
    if (query >= p.n || at.front < 0) { /* or the result is there */
        return;
    }
    row_state<EACH> total = {-INFINITY, 0.0F, {}};
    const int count = at.front + at.back;
    for (int first = 0, end; first < count; first = end) {
        end = min(first + at.each, first < at.front ? at.front : count);
        float own[AT_ONCE][EACH];
        float2 state[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) { /* all on their way before the first is merged */
            const int64_t row = at.row + static_cast<int64_t>(min(first + i, end - 1)) * at.step;
            const float *from = p.part + (row * h + head) * (WIDTH + 4);
            state[i] = *reinterpret_cast<const float2 *>(from + WIDTH);
            read_columns(own[i], from + lane * EACH);
        }
        row_state<EACH> section = {-INFINITY, 0.0F, {}};
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i < end) {
                section.add(state[i].x, state[i].y, own[i]);
            }
        }
        total.add(section.most, section.sum, section.o);
    }
    const float factor = total.sum > 0.0F ? 1.0F / total.sum : 0.0F;
    uint16_t *to = p.o + (query * h + head) * WIDTH + lane * EACH;
#pragma unroll
    for (int e = 0; e < EACH; e += 2) {
        *reinterpret_cast<uint32_t *>(to + e) =
            rf_quantize_bf16(total.o[e] * factor) |
            static_cast<uint32_t>(rf_quantize_bf16(total.o[e + 1] * factor)) << 16;
    }
}

int rf_cuda_merge_parts(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    const unsigned blocks = blocks_for(p->n * p->h, GROUP / WARP);
    return p->n == 0 || p->n_runs > RF_CUDA_PLANNED /* each by one block */
               ? 0
               : launch(stream, blocks, GROUP,
                        p->head_dim == 64 ? merge_parts<64> : merge_parts<128>, *p);
}
