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

/* Columns of up to a section of parts, and what they are weighed by. */
template <int EACH> struct some_parts {
    enum { AT_ONCE = RF_CUDA_SECTION };
    float o[AT_ONCE][EACH];
    float2 state[AT_ONCE];
};

/* Parts [first, end) of a query and head, as attend.cu left them; all on their way before the first is
 * used. A warp, EACH columns a lane. */
template <int EACH> struct parts_in_memory {
    const rf_cuda_attend &p;
    __device__ void read(some_parts<EACH> *to, const rf_cuda_parts &at, int64_t head, int first,
                         int end) const
    {
        const int lane = static_cast<int>(threadIdx.x) % WARP, h = static_cast<int>(p.h);
#pragma unroll
        for (int i = 0; i < some_parts<EACH>::AT_ONCE; i++) {
            const int64_t row = at.row + static_cast<int64_t>(min(first + i, end - 1)) * at.step;
            const float *from = p.part + (row * h + head) * (EACH * WARP + 4);
            to->state[i] = *reinterpret_cast<const float2 *>(from + EACH * WARP);
            read_columns(to->o[i], from + lane * EACH);
        }
    }
};

/* The row of o of a query and head, by its parts: `reader` as above. */
template <int EACH, typename Reader>
static __device__ void merge_row(float (&o)[EACH], const Reader &reader, const rf_cuda_parts &at,
                                 int64_t head)
{
    row_state<EACH> total = {-INFINITY, 0.0F, {}};
    const int count = at.front + at.back;
    for (int first = 0, end; first < count; first = end) {
        end = min(first + at.each, first < at.front ? at.front : count);
        some_parts<EACH> some;
        reader.read(&some, at, head, first, end);
        row_state<EACH> section = {-INFINITY, 0.0F, {}};
#pragma unroll
        for (int i = 0; i < some_parts<EACH>::AT_ONCE; i++) {
            if (first + i < end) {
                section.add(some.state[i].x, some.state[i].y, some.o[i]);
            }
        }
        total.add(section.most, section.sum, section.o);
    }
    const float factor = total.sum > 0.0F ? 1.0F / total.sum : 0.0F;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        o[e] = total.o[e] * factor;
    }
}

#endif
