/* Rows of logits, a block each: cross-entropy with its gradient, and probabilities. */
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

/* log(sum) - sum_j p_j (logit_j - largest); an id of no probability adds nothing, however far below it
 * is. */
static __device__ float entropy_of(const float *row, float largest, float sum, int64_t v)
{
    float part = 0.0F;
    for (int64_t j = threadIdx.x; j < v; j += BLOCK) {
        const float below = row[j] - largest, e = expf(below);
        part += e > 0.0F ? e * below : 0.0F;
    }
    part = join_all(part, [](float a, float b) { return a + b; });
    const float entropy = logf(sum) - part / sum;
    return entropy < 0.0F ? 0.0F : entropy;
}

/* The largest logit of the ids that may be drawn, but for `token`; -INFINITY: there is none. */
static __device__ float runner_up(const float *row, const float *own, int64_t token, int64_t n)
{
    float most = -INFINITY;
    for (int64_t j = threadIdx.x; j < n; j += BLOCK) {
        most = j != token && own[j] > -INFINITY ? fmaxf(most, row[j]) : most;
    }
    return join_all(most, [](float a, float b) { return fmaxf(a, b); });
}

static __global__ void __launch_bounds__(BLOCK)
    head_answer(const rf_cuda_query query, const float *logits, int64_t v)
{
    const float *row = logits + blockIdx.x * v;
    const int64_t i = blockIdx.x;
    float largest, sum;
    soften(&largest, &sum, row, v);
    if (query.logprob != nullptr && threadIdx.x == 0) {
        const int32_t target = query.target[i];
        query.logprob[i] = target < 0 ? 0.0F : (row[target] - largest) - logf(sum);
    }
    if (query.entropy != nullptr) {
        const float entropy = entropy_of(row, largest, sum, v);
        if (threadIdx.x == 0) {
            query.entropy[i] = entropy;
        }
    }
    if (query.token != nullptr) {
        const int64_t token = query.token[i];
        if (threadIdx.x == 0) {
            query.score[i] = expf(row[token] - largest) / sum;
        }
        if (query.second != nullptr) {
            const float next = runner_up(row, query.own + i * v, token, query.n_usable);
            if (threadIdx.x == 0) {
                query.second[i] = expf(next - largest) / sum;
            }
        }
    }
}

int rf_cuda_head_answer(rf_cuda_stream stream, const rf_cuda_query *query, const float *logits,
                        int64_t m, int64_t v)
{
    if (m == 0) {
        return 0;
    }
    head_answer<<<blocks_for(m, 1), BLOCK, 0, stream>>>(*query, logits, v);
    return cudaGetLastError();
}
