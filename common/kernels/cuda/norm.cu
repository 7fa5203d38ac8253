/* RMSNorm, and sums over rows. */
#include "common/kernels/cuda/real.cuh"

/* A warp takes a row. */
static __global__ void __launch_bounds__(BLOCK)
    norm(rf_cuda_real y, float *rstd, rf_cuda_real x, rf_cuda_real gain, int64_t n, int64_t d,
         float eps)
{
    const int64_t row = thread_number() / WARP, lane = threadIdx.x % WARP, at = row * d;
    if (row >= n) {
        return;
    }
    float sum = 0.0F;
    for (int64_t j = lane; j < d; j += WARP) {
        const float value = read(x, at + j);
        sum = fmaf(value, value, sum);
    }
    const float mean = d > 0 ? warp_sum(sum) / static_cast<float>(d) : 0.0F;
    const float r = 1.0F / sqrtf(mean + eps);
    for (int64_t j = lane; j < d; j += WARP) {
        write(y, at + j, read(x, at + j) * r * read(gain, j));
    }
    if (lane == 0) {
        rstd[row] = r;
    }
}

int rf_cuda_norm(rf_cuda_stream stream, rf_cuda_real y, float *rstd, rf_cuda_real x,
                 rf_cuda_real gain, int64_t n, int64_t d, float eps)
{
    if (n == 0) {
        return 0;
    }
    norm<<<blocks_for(n, WARPS), BLOCK, 0, stream>>>(y, rstd, x, gain, n, d, eps);
    return cudaGetLastError();
}

/* dx = r (dy gain - x c), c = r^2 / D sum_j dy_j gain_j x_j: derived in ref/norm.c. dx may be dy. */
static __global__ void __launch_bounds__(BLOCK)
    norm_backward(rf_cuda_real dx, rf_cuda_real dy, rf_cuda_real x, rf_cuda_real gain,
                  const float *rstd, int64_t n, int64_t d, bool accumulates)
{
    const int64_t row = thread_number() / WARP, lane = threadIdx.x % WARP, at = row * d;
    if (row >= n) {
        return;
    }
    float sum = 0.0F;
    for (int64_t j = lane; j < d; j += WARP) {
        sum = fmaf(read(dy, at + j) * read(gain, j), read(x, at + j), sum);
    }
    const float r = rstd[row], c = r * r * warp_sum(sum) / static_cast<float>(d);
    for (int64_t j = lane; j < d; j += WARP) {
        const float slope = r * (read(dy, at + j) * read(gain, j) - read(x, at + j) * c);
        write(dx, at + j, accumulates ? read(dx, at + j) + slope : slope);
    }
}

int rf_cuda_norm_backward(rf_cuda_stream stream, rf_cuda_real dx, rf_cuda_real dy, rf_cuda_real x,
                          rf_cuda_real gain, const float *rstd, int64_t n, int64_t d,
                          bool accumulates)
{
    if (n == 0 || d == 0) {
        return 0;
    }
    norm_backward<<<blocks_for(n, WARPS), BLOCK, 0, stream>>>(dx, dy, x, gain, rstd, n, d,
                                                              accumulates);
    return cudaGetLastError();
}

/* part[piece][j] = the sum of column j over the piece's rows, in ascending order. */
static __global__ void __launch_bounds__(BLOCK)
    sum_piece(float *part, rf_cuda_real x, rf_cuda_real with, const float *factor, int64_t n,
              int64_t d)
{
    const int64_t j = thread_number() % d, piece = thread_number() / d;
    const int64_t begin = piece * RF_CUDA_ROWS, end = min(begin + RF_CUDA_ROWS, n);
    float sum = 0.0F;
    for (int64_t i = begin; i < end; i++) {
        const float value = read(x, i * d + j);
        sum += with.data != nullptr ? value * read(with, i * d + j) * factor[i] : value;
    }
    if (begin < n) {
        part[piece * d + j] = sum;
    }
}

static __global__ void __launch_bounds__(BLOCK)
    sum_pieces(float *sums, const float *part, int64_t pieces, int64_t d)
{
    const int64_t j = thread_number();
    float sum = 0.0F;
    for (int64_t piece = 0; j < d && piece < pieces; piece++) {
        sum += part[piece * d + j];
    }
    if (j < d) {
        sums[j] += sum;
    }
}

int rf_cuda_sum_columns(rf_cuda_stream stream, float *sums, float *part, rf_cuda_real x,
                        rf_cuda_real with, const float *factor, int64_t n, int64_t d)
{
    const int64_t pieces = rf_cuda_pieces(n);
    if (n == 0 || d == 0) {
        return 0;
    }
    sum_piece<<<blocks_for(pieces * d, BLOCK), BLOCK, 0, stream>>>(part, x, with, factor, n, d);
    sum_pieces<<<blocks_for(d, BLOCK), BLOCK, 0, stream>>>(sums, part, pieces, d);
    return cudaGetLastError();
}
