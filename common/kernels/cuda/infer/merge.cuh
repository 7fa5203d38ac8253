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

/* Up to a section of parts: columns of all, and the state (most, sum) of the one that is the lane's. */
template <int EACH> struct some_parts {
    enum { AT_ONCE = RF_CUDA_SECTION };
    float o[AT_ONCE][EACH];
    float2 state;
};

/* The part whose state a lane has. */
static __device__ inline int part_of_lane()
{
    return static_cast<int>(threadIdx.x) % RF_CUDA_SECTION;
}

/* The first `count` of them as one, added one after the other. What stays at each depends only on the largest
 * so far: the lanes find that side by side. A warp. */
template <int EACH>
static __device__ row_state<EACH> merge_section(const some_parts<EACH> &some, int count)
{
    enum { AT_ONCE = some_parts<EACH>::AT_ONCE };
    const unsigned all = 0xffffffffU;
    const int part = part_of_lane();
    const float own = part < count ? some.state.x : -INFINITY;
    float most = own;
#pragma unroll
    for (int step = 1; step < AT_ONCE; step *= 2) {
        const float other = __shfl_up_sync(all, most, step, AT_ONCE);
        most = part >= step ? fmaxf(most, other) : most;
    }
    float before = __shfl_up_sync(all, most, 1, AT_ONCE), unused = 0.0F;
    before = part > 0 ? before : -INFINITY;
    const shares share = merge(&before, &unused, own, 0.0F);
    row_state<EACH> total = {__shfl_sync(all, most, count - 1, AT_ONCE), 0.0F, {}};
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
        const shares s = {__shfl_sync(all, share.old, i, AT_ONCE),
                          __shfl_sync(all, share.added, i, AT_ONCE)};
        const float added = __shfl_sync(all, some.state.y, i, AT_ONCE);
        if (i < count) {
            total.sum = join(total.sum, added, s);
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                total.o[e] = join(total.o[e], some.o[i][e], s);
            }
        }
    }
    return total;
}

/* Parts [begin, end) of a query and head, as attend.cu left them; all on their way before the first is used. A
 * warp, EACH columns a lane. */
template <int EACH>
static __device__ void read_parts(some_parts<EACH> *to, const rf_cuda_attend &p,
                                  const rf_cuda_parts &at, int64_t head, int begin, int end)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int64_t step = p.h * (EACH * WARP + 4);
    const float *from =
        p.part + (at.row + static_cast<int64_t>(begin) * at.step) * step + head * (EACH * WARP + 4);
#pragma unroll
    for (int i = 0; i < some_parts<EACH>::AT_ONCE; i++) {
        read_columns(to->o[i], from + min(i, end - begin - 1) * at.step * step + lane * EACH);
    }
    to->state = *reinterpret_cast<const float2 *>(
        from + min(part_of_lane(), end - begin - 1) * at.step * step + EACH * WARP);
}

/* What the parts of a row found. */
template <int EACH>
static __device__ inline void divide(float (&o)[EACH], const row_state<EACH> &total)
{
    const float factor = total.sum > 0.0F ? 1.0F / total.sum : 0.0F;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        o[e] = total.o[e] * factor;
    }
}

/* The row of o of a query and head, by its parts: those of the next section are on their way while one is merged. */
template <int EACH>
static __device__ void merge_row(float (&o)[EACH], const rf_cuda_attend &p, const rf_cuda_parts &at,
                                 int64_t head)
{
    row_state<EACH> total = {-INFINITY, 0.0F, {}};
    const int count = at.front + at.back;
    some_parts<EACH> some, next;
    int first = 0, end = min(at.each, at.front > 0 ? at.front : count);
    if (count > 0) {
        read_parts(&some, p, at, head, first, end);
    }
#pragma unroll 1
    while (first < count) {
        const int behind = min(end + at.each, end < at.front ? at.front : count);
        if (end < count) {
            read_parts(&next, p, at, head, end, behind);
        }
        const row_state<EACH> section = merge_section(some, end - first);
        total.add(section.most, section.sum, section.o);
        if (end < count) {
            some = next;
        }
        first = end;
        end = behind;
    }
    divide(o, total);
}

#endif
