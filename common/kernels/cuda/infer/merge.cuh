/* merge.cuh: two states of a row of attention become one (arXiv:1805.02867). `most` is in units of
 * log 2. */
#ifndef RF_KERNELS_CUDA_INFER_MERGE_CUH
#define RF_KERNELS_CUDA_INFER_MERGE_CUH

#include "common/kernels/cuda/infer/few.h"
#include "common/kernels/cuda/real.cuh"

/* How much of each stays. One without keys changes nothing. */
typedef struct shares {
    float old, added;
} shares;

static __device__ inline shares merge(float *most, float *sum, float added_most, float added_sum)
{
    if (!(added_most > -INFINITY)) {
        return {1.0F, 0.0F};
    }
    const float largest = fmaxf(*most, added_most);
    const shares s = {exp2f(*most - largest), exp2f(added_most - largest)};
    *sum = fmaf(*sum, s.old, added_sum * s.added);
    *most = largest;
    return s;
}

static __device__ inline float join(float old, float added, const shares &s)
{
    return fmaf(old, s.old, added * s.added);
}

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

/* The parts of a query and head become its row of o. A warp, WIDTH / WARP columns a lane. */
template <int WIDTH>
static __device__ void merge_row(const rf_cuda_attend &p, const rf_cuda_parts &at, int64_t query,
                                 int64_t head)
{
    enum { EACH = WIDTH / WARP, AT_ONCE = RF_CUDA_SECTION };
    const int lane = static_cast<int>(threadIdx.x) % WARP, h = static_cast<int>(p.h);
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

#endif
