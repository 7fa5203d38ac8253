/* Rows of logits, a block each: cross-entropy with its gradient. */
#include "common/kernels/cuda/real.cuh"

/* The largest logit of a row, and the sum of exp(logit - largest). */
static __device__ void soften(float *largest, float *sum, const float *row, int64_t v)
{
    float most = -INFINITY, part = 0.0F;
    for (int64_t j = threadIdx.x; j < v; j += BLOCK) {
        most = fmaxf(most, row[j]);
    }
    *largest = join_all(most, [](float a, float b) { return fmaxf(a, b); });
    for (int64_t j = threadIdx.x; j < v; j += BLOCK) {
        part += expf(row[j] - *largest);
    }
    *sum = join_all(part, [](float a, float b) { return a + b; });
}

static __global__ void __launch_bounds__(BLOCK)
    head_loss(float *loss, float *logits, const int32_t *target, const float *weight,
              const int32_t *place, int64_t v, bool gradient)
{
    float *row = logits + blockIdx.x * v, largest, sum;
    const int64_t at = place[blockIdx.x];
    const int32_t own = target[at];
    soften(&largest, &sum, row, v);
    if (threadIdx.x == 0) {
        loss[at] = logf(sum) - (row[own] - largest);
    }
    __syncthreads(); /* before row[own] changes */
    for (int64_t j = threadIdx.x; gradient && j < v; j += BLOCK) {
        row[j] = weight[at] * (expf(row[j] - largest) / sum - (j == own ? 1.0F : 0.0F));
    }
}

int rf_cuda_head_loss(rf_cuda_stream stream, float *loss, float *logits, const int32_t *target,
                      const float *weight, const int32_t *place, int64_t m, int64_t v,
                      bool gradient)
{
    if (m == 0) {
        return 0;
    }
    head_loss<<<blocks_for(m, 1), BLOCK, 0, stream>>>(loss, logits, target, weight, place, v,
                                                      gradient);
    return cudaGetLastError();
}
