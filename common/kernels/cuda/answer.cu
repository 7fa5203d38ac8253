/* What rows of logits say (rf_head_answer): first parts of a row side by side, a block each, then the parts
 * of a row in order. A row that draws by nothing but a temperature is drawn here too; what top-k, top-p,
 * min-p and penalties need is in draw.cu. */
#include "common/kernels/cuda/real.cuh"
#include "common/kernels/gumbel.h"

enum { EACH = RF_CUDA_ANSWER_PART / BLOCK };

/* The likeliest ids of a part that may be drawn; the lower id among equals. id below 0: none. */
typedef struct leaders {
    float first, second; /* logits; -INFINITY: none */
    int id;
} leaders;

static __device__ inline leaders join(leaders a, leaders b)
{
    const bool swaps =
        b.id >= 0 && (a.id < 0 || b.first > a.first || (b.first == a.first && b.id < a.id));
    const leaders one = swaps ? b : a, other = swaps ? a : b;
    return {one.first, fmaxf(one.second, other.first), one.id};
}

/* One more id, higher than those so far. */
static __device__ inline void take(leaders *a, float logit, int id)
{
    if (logit > a->first) {
        *a = {logit, a->first, id};
    } else {
        a->second = fmaxf(a->second, logit);
    }
}

/* Of two draws the one with the larger value; the lower id among equals. */
typedef struct drawn {
    double value;
    int id; /* below 0: none */
} drawn;

static __device__ inline drawn join(drawn a, drawn b)
{
    const bool swaps =
        b.id >= 0 && (a.id < 0 || b.value > a.value || (b.value == a.value && b.id < a.id));
    return swaps ? b : a;
}

/* What a first look at a part finds: the largest logit of all ids, and the likeliest of those that may be drawn. */
typedef struct look {
    float most;
    leaders lead;
} look;

static __device__ inline look join(look a, look b)
{
    return {fmaxf(a.most, b.most), join(a.lead, b.lead)};
}

/* And a second one: see part. */
typedef struct sums {
    float sum, entropy;
} sums;

/* What is known of a part of a row. */
typedef struct rf_cuda_answer_part {
    leaders lead;
    drawn draw;
    float most;         /* of all ids, as are: */
    float sum, entropy; /* of e = exp(logit - most), and of e (logit - most) */
} part;
static_assert(sizeof(part) <= RF_CUDA_ANSWER_BYTES, "the scratch that table.c takes");

static __device__ inline rf_cuda_rule rule_of(const rf_cuda_query &query, int64_t row)
{
    return query.draw != nullptr ? query.draw[row] : rf_cuda_rule{};
}

static __global__ void __launch_bounds__(BLOCK)
    answer_parts(part *parts, const rf_cuda_query query, const float *logits, int64_t v)
{
    __shared__ unsigned banned[RF_CUDA_ANSWER_PART / 32];
    const int64_t row = blockIdx.x, begin = static_cast<int64_t>(blockIdx.y) * RF_CUDA_ANSWER_PART;
    const float *own = logits + row * v;
    const rf_cuda_rule rule = rule_of(query, row);
    const bool samples = rule.temperature > 0.0 && rf_cuda_rule_is_plain(&rule);
    for (int i = static_cast<int>(threadIdx.x); i < RF_CUDA_ANSWER_PART / 32; i += BLOCK) {
        banned[i] = 0U;
    }
    __syncthreads();
    bool excludes = begin + RF_CUDA_ANSWER_PART > query.n_usable;
    for (int64_t b = threadIdx.x; b < query.n_banned; b += BLOCK) {
        const int64_t id = query.banned[b] - begin;
        if (id >= 0 && id < RF_CUDA_ANSWER_PART) {
            atomicOr(&banned[id / 32], 1U << id % 32);
            excludes = true;
        }
    }
    const bool all_may = __syncthreads_or(excludes) == 0;
    float z[EACH];
    look first = {-INFINITY, {-INFINITY, -INFINITY, -1}};
    drawn best = {0.0, -1};
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int64_t id = begin + e * BLOCK + threadIdx.x;
        z[e] = id < v ? own[id] : -INFINITY;
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int at = e * BLOCK + static_cast<int>(threadIdx.x);
        const int64_t id = begin + at;
        first.most = fmaxf(first.most, z[e]);
        if (all_may || (id < query.n_usable && (banned[at / 32] >> at % 32 & 1U) == 0U)) {
            take(&first.lead, z[e], static_cast<int>(id));
            if (samples && z[e] > -INFINITY) {
                const double value =
                    static_cast<double>(z[e]) / rule.temperature + rf_gumbel(rule.key, id);
                best = join(best, {value, static_cast<int>(id)});
            }
        }
    }
    first = join_all(first, [](look a, look b) { return join(a, b); });
    sums total = {0.0F, 0.0F};
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const float below = z[e] - first.most, x = expf(below);
        total.sum += x > 0.0F ? x : 0.0F; /* not where all are -INFINITY */
        if (query.entropy != nullptr) {
            total.entropy += x > 0.0F ? x * below : 0.0F;
        }
    }
    total = join_all(total, [](sums a, sums b) {
        return sums{a.sum + b.sum, a.entropy + b.entropy};
    });
    if (samples) {
        best = join_all(best, [](drawn a, drawn b) { return join(a, b); });
    }
    if (threadIdx.x == 0) {
        parts[row * gridDim.y + blockIdx.y] = {first.lead, best, first.most, total.sum,
                                               total.entropy};
    }
}

/* The lowest id that is not banned. */
static __device__ int first_allowed(const rf_cuda_query &query)
{
    int id = 0;
    for (int64_t b = 0; b < query.n_banned; b++) {
        if (query.banned[b] == id) {
            id++;
            b = -1;
        }
    }
    return id;
}

/* Joins the parts of a row; most, sum and entropy as those of the row. The likeliest are the same in any order;
 * the sums are added in the order of parts, by the first lane, whose they are. A warp; changes the parts. */
static __device__ part join_parts(part *parts, int count)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    part all = {{-INFINITY, -INFINITY, -1}, {0.0, -1}, -INFINITY, 0.0F, 0.0F};
    for (int i = lane; i < count; i += WARP) {
        all.lead = join(all.lead, parts[i].lead);
        all.draw = join(all.draw, parts[i].draw);
        all.most = fmaxf(all.most, parts[i].most);
    }
    all.lead = join_lanes(all.lead, [](leaders a, leaders b) { return join(a, b); });
    all.draw = join_lanes(all.draw, [](drawn a, drawn b) { return join(a, b); });
    all.most = join_lanes(all.most, [](float a, float b) { return fmaxf(a, b); });
    for (int i = lane; i < count; i += WARP) { /* most: now the factor of the part */
        const float below = parts[i].most - all.most, factor = expf(below);
        parts[i].entropy = (parts[i].entropy + parts[i].sum * below) * factor;
        parts[i].most = factor;
    }
    __syncwarp();
    for (int i = 0; i < count && lane == 0; i++) {
        if (parts[i].most > 0.0F) {
            all.sum = fmaf(parts[i].sum, parts[i].most, all.sum);
            all.entropy += parts[i].entropy;
        }
    }
    return all;
}

/* A warp a row. */
static __global__ void __launch_bounds__(WARP)
    answer_rows(const part *parts, int count, const rf_cuda_query query, const float *logits,
                int64_t v)
{
    extern __shared__ double memory[];
    part *own = reinterpret_cast<part *>(memory);
    const int64_t row = blockIdx.x;
    const float *z = logits + row * v;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += WARP) {
        own[i] = parts[row * count + i];
    }
    __syncwarp();
    const part all = join_parts(own, count);
    if (threadIdx.x != 0) {
        return;
    }
    if (query.logprob != nullptr) {
        const int32_t target = query.target[row];
        query.logprob[row] = target < 0 ? 0.0F : (z[target] - all.most) - logf(all.sum);
    }
    if (query.entropy != nullptr) {
        query.entropy[row] = fmaxf(logf(all.sum) - all.entropy / all.sum, 0.0F);
    }
    if (query.token != nullptr) {
        const rf_cuda_rule rule = rule_of(query, row);
        int token = query.token[row];
        if (rf_cuda_rule_is_plain(&rule)) {
            token = all.lead.id < 0                              ? first_allowed(query)
                    : rule.temperature > 0.0 && all.draw.id >= 0 ? all.draw.id
                                                                 : all.lead.id;
            query.token[row] = token;
        }
        query.score[row] = expf(z[token] - all.most) / all.sum;
        if (query.second != nullptr) {
            const float next = token == all.lead.id ? all.lead.second : all.lead.first;
            query.second[row] = expf(next - all.most) / all.sum;
        }
    }
}

int rf_cuda_answer(rf_cuda_stream stream, const rf_cuda_query *query, void *scratch,
                   const float *logits, int64_t m, int64_t v)
{
    const unsigned count = blocks_for(v, RF_CUDA_ANSWER_PART);
    part *parts = static_cast<part *>(scratch);
    if (m == 0 || v == 0) {
        return 0;
    }
    answer_parts<<<dim3(blocks_for(m, 1), count), BLOCK, 0, stream>>>(parts, *query, logits, v);
    answer_rows<<<blocks_for(m, 1), WARP, count * sizeof(part), stream>>>(
        parts, static_cast<int>(count), *query, logits, v);
    return cudaGetLastError();
}
