/* pass_merge.cuh: the merge of the parts of attention in a pass (pass.cu). */
#ifndef RF_KERNELS_CUDA_INFER_PASS_MERGE_CUH
#define RF_KERNELS_CUDA_INFER_PASS_MERGE_CUH

#include "common/kernels/cuda/infer/merge.cuh"
#include "common/kernels/cuda/infer/pass_mail.cuh"

/* As read_parts, of letters; columns column and column + 1. */
static __device__ void receive_parts(some_parts<2> *to, const own_pass &p, const rf_cuda_parts &at,
                                     int head, int begin, int end, int column, uint32_t number)
{
    enum { AT_ONCE = some_parts<2>::AT_ONCE };
    const letter *from = first_part(p) + part_letters(p, at.row + begin * at.step, head);
    const int step = part_letters(p, at.step, 0), last = end - begin - 1;
    const int own = min(part_of_lane(), last) * step + WIDTH;
    letter seen[AT_ONCE + 1][2];
    receive(seen, number, [&](int i) {
        return i == AT_ONCE ? pair_place{true, from + own}
                            : pair_place{i <= last, from + i * step + column};
    });
    to->state = {word_of(seen[AT_ONCE][0]), word_of(seen[AT_ONCE][1])};
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
        to->o[i][0] = word_of(seen[i][0]);
        to->o[i][1] = word_of(seen[i][1]);
    }
}

/* The merge: a group takes half a head of a query, two columns a lane, a letter; a warp of it a section of
 * parts, and the first adds them up. */
static __device__ inline int first_merge()
{
    return static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) * group_number();
}

static __device__ inline int merges(const own_pass &p)
{
    return 2 * p.n * static_cast<int>(p.attention.h);
}

static __device__ inline own_merge merge_of(const own_pass &p, int job)
{
    const int h = static_cast<int>(p.attention.h), number = job / 2;
    return {number, number % h, p.attention.table[number / h]};
}

static __device__ void merge_all(const room &r, const mail &m)
{
    enum { SECTION = RF_CUDA_SECTION, SIDE = GROUP / WARP };
    static_assert(
        GROUPS * GROUP * sizeof(row_state<2>) <= sizeof r.tiles->q + sizeof r.tiles->score, "room");
    const own_pass &p = r.p;
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) % GROUP / WARP;
    row_state<2> *found = reinterpret_cast<row_state<2> *>(r.tiles->q) + group_number() * GROUP;
#pragma unroll 1
    for (int job = first_merge(); job < merges(p); job += static_cast<int>(gridDim.x) * GROUPS) {
        const own_merge own =
            job == first_merge() ? r.share.merge[group_number()] : merge_of(p, job);
        const rf_cuda_parts &at = own.parts;
        const int column = (job % 2 * WARP + lane) * 2;
        const int front = (at.front + SECTION - 1) / SECTION, count = at.front + at.back;
        const int sections = front + (at.back + SECTION - 1) / SECTION;
        row_state<2> total = {-INFINITY, 0.0F, {}};
#pragma unroll 1
        for (int first = 0; first < sections; first += SIDE) {
            const int section = first + warp;
            if (job != first_merge() || first > 0) {
                group_meets(); /* the last ones have been read */
            }
            if (section < sections) {
                const bool is_front = section < front;
                const int begin =
                    is_front ? section * SECTION : at.front + (section - front) * SECTION;
                const int end = min(begin + SECTION, is_front ? at.front : count);
                some_parts<2> some;
                receive_parts(&some, p, at, own.head, begin, end, column, m.number);
                found[warp * WARP + lane] = merge_section(some, end - begin);
            }
            group_meets();
            if (warp == 0) {
                for (int i = 0; i < min(sections - first, int{SIDE}); i++) {
                    const row_state<2> some = found[i * WARP + lane];
                    total.add(some.most, some.sum, some.o);
                }
            }
        }
        if (warp == 0) {
            float o[2];
            divide(o, total);
            send(m.slot + p.slot.found + (own.number * WIDTH + column) / 2, pack_pair(o[0], o[1]),
                 m.number);
        }
    } /* `found` is free when the workers have met in put_rows */
}

#endif
