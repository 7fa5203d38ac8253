/* pass_heads.cuh: from the sums of q, k and v of a pass (pass.cu) to heads as bf16: their norm and rotation, for
 * attention and for the cache. */
#ifndef RF_KERNELS_CUDA_INFER_PASS_HEADS_CUH
#define RF_KERNELS_CUDA_INFER_PASS_HEADS_CUH

#include "common/kernels/cuda/infer/ends.cuh"
#include "common/kernels/cuda/infer/pass_mail.cuh"

/* A head that is to be made, by a warp: query (which 0), key (1) or value (2) `head` of row i, as bf16. */
struct head_job {
    int which, i, head;
    uint16_t *to;  /* shared memory; NULL: none, or */
    int64_t place; /* in the cache, not below 0 */
};

/* This pass' keys and values go into the cache; how many of them this block of threads writes. They are
 * dealt out from the last one on: the first ones have parts. */
static __device__ inline int cache_jobs(const own_pass &p)
{
    const int blocks = static_cast<int>(gridDim.x),
              first = blocks - 1 - static_cast<int>(blockIdx.x);
    const int all = 2 * p.n * static_cast<int>(p.attention.g);
    return first < all ? (all - first + blocks - 1) / blocks : 0;
}

static __device__ head_job cache_job(const own_pass &p, int number)
{
    const int blocks = static_cast<int>(gridDim.x), g = static_cast<int>(p.attention.g);
    const int job = blocks - 1 - static_cast<int>(blockIdx.x) + blocks * number;
    const int head = job / 2 % g, i = job / 2 / g;
    return {1 + job % 2, i, head, nullptr, p.place != nullptr ? p.place[i] : i};
}

/* A key or value of this pass, where it lies in the part. */
static __device__ head_job new_key_job(const own_pass &p, part_tiles *t, const part_work &w,
                                       int job)
{
    const int i = job / 2, row = (p.place != nullptr ? p.place[i] : i) - w.key;
    const bool is_own = row >= 0 && row < w.keys;
    return {1 + job % 2, i, w.head, !is_own ? nullptr : job % 2 == 0 ? t->k[row] : t->v[row], -1};
}

/* What rows [first, first + 16) of a part need: their queries; with the first rows, the keys and values of
 * this pass; with `cached` of them, what this block of threads writes into the cache. */
static __device__ inline head_jobs jobs_of(const own_pass &p, const part_work &w, int first,
                                           int cached)
{
    return {min(w.rows - first, int{QUERY_ROWS}), first == 0 && w.rows > 0 ? 2 * p.n : 0, cached};
}

static __device__ own_head head_of(const own_pass &p, part_tiles *t, const part_work &w, int first,
                                   const head_jobs &jobs, int job)
{
    const rf_cuda_deal &d = p.deal[HEADS];
    const int shared = static_cast<int>(p.attention.h / p.attention.g);
    head_job own = {-1, 0, 0, nullptr, -1};
    if (job < jobs.queries) {
        own = {0, w.query + (first + job) / shared, w.head * shared + (first + job) % shared,
               t->q[job], -1};
    } else if (job < jobs.queries + jobs.keys) {
        own = new_key_job(p, t, w, job - jobs.queries);
    } else if (job < jobs.count()) {
        own = cache_job(p, job - jobs.queries - jobs.keys);
    }
    if (own.to == nullptr && own.place < 0) {
        return {-1, 0, nullptr, 0, 0};
    }
    const int before = (own.which > 0 ? d.out[0] : 0) + (own.which > 1 ? d.out[1] : 0);
    return {own.which, own.i * p.wide + before + own.head * WIDTH, own.to,
            (own.place * p.attention.g + own.head) * WIDTH,
            static_cast<int64_t>(p.position[own.i]) * (WIDTH / 2)};
}

/* A warp; heads side by side. Gains and rotations are on their way while the sums are waited for. */
template <int COUNT>
static __device__ void put_heads(const own_pass &p, const own_block &b, const mail &m,
                                 const own_head (&head)[COUNT])
{
    const int element = static_cast<int>(threadIdx.x) % WARP * 4;
    const letter *sums = m.slot + p.slot.raw + element;
    turn t[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const own_head &h = head[i];
        const float *gain = h.which == 0 ? b.q_gain : b.k_gain;
        t[i] = {nullptr, {1.0F, 1.0F, 1.0F, 1.0F}, {}, {}};
        if (h.which == 0 || h.which == 1) {
            t[i].cosine = read4(p.cosine + h.angle + element % (WIDTH / 2));
            t[i].sine = read4(p.sine + h.angle + element % (WIDTH / 2));
            t[i].gain = gain != nullptr ? read4(gain + element) : t[i].gain;
        }
    }
    letter seen[2 * COUNT][2];
    receive(seen, m.number, [&](int i) {
        return pair_place{head[i / 2].which >= 0, sums + head[i / 2].sums + i % 2 * 2};
    });
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const own_head &h = head[i];
        float4 x = {word_of(seen[2 * i][0]), word_of(seen[2 * i][1]), word_of(seen[2 * i + 1][0]),
                    word_of(seen[2 * i + 1][1])};
        if (h.which == 0 || h.which == 1) {
            x = turned(x, t[i], (h.which == 0 ? b.q_gain : b.k_gain) != nullptr, p.eps, WIDTH);
        }
        if (h.which >= 0) {
            uint16_t *to = h.to != nullptr ? h.to : (h.which == 1 ? b.keys : b.values) + h.cached;
            write4({to + element, RF_CUDA_BF16}, 0, x);
        }
    }
}

#endif
