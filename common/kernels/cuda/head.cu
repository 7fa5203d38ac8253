/* Rows of logits, a block each: cross-entropy with its gradient. */
#include "common/kernels/cuda/real.cuh"

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

template <int EACH> static __device__ softened soften_once(const rf_cuda_real &row, int64_t v)
{
    softened own = {-INFINITY, 0.0F};
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * EACH; j < v; j += BLOCK * EACH) {
        float x[EACH], most = own.most;
        read_run<EACH>(x, row, j);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            most = fmaxf(most, x[e]);
        }
        if (most > own.most) {
            own.sum *= power_of_e(own.most - most);
            own.most = most;
        }
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            own.sum += power_of_e(x[e] - most);
        }
    }
    return join_all(own, join);
}

/* EACH: RUN where rows of logits and slopes are runs. */
template <int EACH>
static __global__ void __launch_bounds__(BLOCK)
    head_loss(float *loss, rf_cuda_real slope, const float *logits, const int32_t *target,
              const float *weight, const int32_t *place, int64_t v, bool gradient)
{
    const int64_t begin = blockIdx.x * v, at = place[blockIdx.x];
    const rf_cuda_real row = {const_cast<float *>(logits + begin), RF_CUDA_F32};
    const int32_t own = target[at];
    const softened s = soften_once<EACH>(row, v);
    if (threadIdx.x == 0) {
        loss[at] = logf(s.sum) - (logits[begin + own] - s.most);
    }
    __syncthreads(); /* before the logits change, where slopes are in their place */
    const float factor = gradient ? weight[at] / s.sum : 0.0F, all = gradient ? weight[at] : 0.0F;
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * EACH; gradient && j < v;
         j += BLOCK * EACH) {
        float x[EACH];
        read_run<EACH>(x, row, j);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            x[e] = factor * power_of_e(x[e] - s.most) - (j + e == own ? all : 0.0F);
        }
        write_run<EACH>(slope, begin + j, x);
    }
}

int rf_cuda_head_loss(rf_cuda_stream stream, float *loss, rf_cuda_real slope, const float *logits,
                      const int32_t *target, const float *weight, const int32_t *place, int64_t m,
                      int64_t v, bool gradient)
{
    const rf_cuda_real row = {const_cast<float *>(logits), RF_CUDA_F32};
    if (m == 0) {
        return 0;
    }
    if (v % RUN == 0 && in_runs(row) && in_runs(slope)) {
        head_loss<RUN><<<blocks_for(m, 1), BLOCK, 0, stream>>>(loss, slope, logits, target, weight,
                                                               place, v, gradient);
    } else {
        head_loss<1><<<blocks_for(m, 1), BLOCK, 0, stream>>>(loss, slope, logits, target, weight,
                                                             place, v, gradient);
    }
    return cudaGetLastError();
}
