/* What lies between the products of inference, where they do not do it themselves: the norm of the stream,
 * and the merge of what attention made of the parts of the keys. */
#include "common/kernels/cuda/infer/few.h"
#include "common/kernels/cuda/infer/merge.cuh"
#include "common/kernels/cuda/infer/stream.cuh"

/* Of many rows the product behind fetches its first weights beside the kernel before this one; of few the blocks
 * that do so would be in that one's way. */
static __device__ inline void wait_and_let_begin(int64_t rows)
{
    enum { MANY_ROWS = 64 };
    if (rows > MANY_ROWS) {
        let_next_begin();
    }
    wait_for_previous();
    if (rows <= MANY_ROWS) {
        let_next_begin();
    }
}

/* --- The stream ------------------------------------------------------------------------------ */

/* A block a row. */
static __global__ void __launch_bounds__(GROUP)
    norm_stream(uint16_t *y, const float *x, const float *gain, int d, float eps)
{
    __shared__ float sum[NORM_WARPS];
    const int64_t at = static_cast<int64_t>(blockIdx.x) * d;
    wait_and_let_begin(gridDim.x);
    const float own = sum_of_warp(x + at, d);
    if (threadIdx.x % WARP == 0) {
        sum[threadIdx.x / WARP] = own;
    }
    __syncthreads();
    const float rate = rate_of(sum, d, eps);
    for (int j = static_cast<int>(threadIdx.x) * PIECE; j < d; j += GROUP * PIECE) {
        *reinterpret_cast<uint4 *>(y + at + j) =
            normed(read_piece(x + at + j), rate, read_piece(gain + j));
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

/* A warp a query and head. */
template <int WIDTH>
static __global__ void __launch_bounds__(GROUP) merge_parts(const rf_cuda_attend p)
{
    const int64_t number = thread_number() / WARP, query = number / p.h, head = number % p.h;
    const rf_cuda_parts at = p.table[query < p.n ? query : 0];
    wait_and_let_begin(p.n);
    if (query < p.n && at.front >= 0) { /* or the result is there */
        enum { EACH = WIDTH / WARP };
        float o[EACH];
        merge_row(o, p, at, head);
        uint16_t *to = p.o + (query * p.h + head) * WIDTH + threadIdx.x % WARP * EACH;
#pragma unroll
        for (int e = 0; e < EACH; e += 2) {
            *reinterpret_cast<uint32_t *>(to + e) = pack_pair(o[e], o[e + 1]);
        }
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
