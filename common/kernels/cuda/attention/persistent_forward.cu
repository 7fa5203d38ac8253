/* Attention over spans on tensor cores, forward, of heads 128 wide: online softmax (arXiv:1805.02867, 2205.14135)
 * by a persistent kernel with warpgroups that fetch and warpgroups that multiply (arXiv:2407.08608). What its
 * blocks work on: persistent.cuh.
 *
 * The scores of a step are begun before the values of the step before are added, so that the tensor cores
 * are busy while the step's exponentials are made. No product is under way at a branch: masked steps and whole
 * ones are two branches in the loop. */
#include "common/kernels/cuda/attention/persistent.cuh"
#include "common/kernels/cuda/map.cuh"

enum { SCORES = STEP_KEYS / COLUMN };
/* Registers of a thread that fetches, and of one that multiplies: together as many as the block begins with. */
enum { REGISTERS = 168, FEW_REGISTERS = 40, MANY_REGISTERS = 232 };
static_assert(FEW_REGISTERS + GROUPS * MANY_REGISTERS == (1 + GROUPS) * REGISTERS, "all registers");

/* --- Softmax --------------------------------------------------------------------------------- */

/* 16 queries of a warp. */
struct rows16 {
    float o[WIDTH / COLUMN][4];
    unsigned weight[STEP_KEYS / INNER][4]; /* of the keys whose values come next */
    float most[2], sum[2];                 /* of a lane's two queries; sum: over this lane's keys */
};

/* What is not seen becomes -INFINITY. query: this lane's first. */
static __device__ inline void mask(float (&score)[SCORES][4], int2 entry,
                                   const rf_cuda_spans &spans, int query)
{
    const int lane = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int4 span = span_of(spans, query + 8 * half);
#pragma unroll
        for (int j = 0; j < SCORES; j++) {
            const int tile = j < SCORES / 2 ? entry.x / 2 : entry.y / 2;
            const int key = tile * KEYS + j % (SCORES / 2) * COLUMN + lane;
#pragma unroll
            for (int e = 0; e < 2; e++) {
                score[j][2 * half + e] = sees(span, key + e) ? score[j][2 * half + e] : -INFINITY;
            }
        }
        asm volatile("" ::: "memory"); /* the other query's spans take the same registers */
    }
}

/* Leaves exp(score - most) in score; factor: what the sums before are to be multiplied by. */
static __device__ inline void soften(rows16 *own, float (&score)[SCORES][4], float (&factor)[2],
                                     float scale)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = own->most[half], odd = -INFINITY; /* even and odd columns: shorter chains */
#pragma unroll
        for (int j = 0; j < SCORES; j++) {
            most = fmaxf(most, score[j][2 * half]);
            odd = fmaxf(odd, score[j][2 * half + 1]);
        }
        most = fmaxf(most, odd);
        most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, 2));
        const float base = most == -INFINITY ? 0.0F : most * scale;
        factor[half] = power_of_2(fmaf(own->most[half], scale, -base));
        float sum = own->sum[half] * factor[half], sum_odd = 0.0F;
#pragma unroll
        for (int j = 0; j < SCORES; j++) {
            score[j][2 * half] = power_of_2(fmaf(score[j][2 * half], scale, -base));
            score[j][2 * half + 1] = power_of_2(fmaf(score[j][2 * half + 1], scale, -base));
            sum += score[j][2 * half];
            sum_odd += score[j][2 * half + 1];
        }
        own->most[half] = most;
        own->sum[half] = sum + sum_odd;
    }
}

/* --- Steps ----------------------------------------------------------------------------------- */

/* Where a warp of a multiplying warpgroup is. */
struct place {
    unsigned q, k, v; /* its warpgroup's queries; the step's keys, the values before */
    unsigned k_free, v_free;
    int lane, query; /* query: this lane's first */
};

/* barrier_arrive_warp once `sum`, which is not negative, is known: else the compiler puts the exponentials that it
 * is made of behind the wait for the values' product, which they are to overlap. */
static __device__ inline void barrier_arrive_behind(unsigned barrier, int lane, float sum)
{
    asm volatile("{\n"
                 ".reg .pred first;\n"
                 "setp.eq.s32 first, %1, 0;\n"
                 "setp.neu.and.f32 first, %2, 0fBF800000, first;\n" /* -1 */
                 "@first mbarrier.arrive.shared::cta.b64 _, [%0];\n"
                 "}" ::"r"(barrier),
                 "r"(lane), "f"(sum)
                 : "memory");
}

/* Adds the values of the step before, makes the weights of this one; FIRST: there is none before. */
template <bool FIRST, bool IN_PART>
static __device__ inline void take_step(const operands &p, const place &at, rows16 *own, int2 entry)
{
    float score[SCORES][4], factor[2];
    hold(own->o);
    if (!FIRST) {
        hold(own->weight);
    }
    mma_fence();
    dot_rows<WIDTH, QUERIES_OF, STEP_KEYS>(score, at.q, at.k, 0);
    mma_commit();
    if (!FIRST) {
        add_wide_rows(own->o, own->weight, at.v);
        mma_commit();
    }
    mma_wait<FIRST ? 0 : 1>();
    hold(score);
    if (IN_PART) {
        mask(score, entry, p.a.spans, at.query);
    }
    soften(own, score, factor, p.scale);
    barrier_arrive_behind(at.k_free, at.lane, own->sum[0] + own->sum[1]);
    if (!FIRST) {
        mma_wait<0>();
        hold(own->o);
        barrier_arrive_warp(at.v_free, at.lane);
#pragma unroll
        for (int j = 0; j < WIDTH / COLUMN; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                own->o[j][e] *= factor[e / 2];
            }
        }
    }
    as_left(own->weight, score);
}

/* The values of an item's last step. */
static __device__ inline void add_last(const place &at, rows16 *own)
{
    hold(own->o);
    hold(own->weight);
    mma_fence();
    add_wide_rows(own->o, own->weight, at.v);
    end_products();
    hold(own->o);
    barrier_arrive_warp(at.v_free, at.lane);
}

/* A warp's 16 rows from `row` on: divides by the sums, sets lse, stores through the tile. item: first query, head. */
static __device__ inline void finish(const rf_cuda_attention &a, const rows16 &own, char *tile,
                                     int lane, int row, int4 item, float scale)
{
    constexpr int PIECES = WIDTH / PIECE, TOGETHER = WARP / PIECES; /* rows */
    const int64_t first = item.x, head = item.y;
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = own.sum[half];
        sum += __shfl_xor_sync(0xffffffffU, sum, 1);
        sum += __shfl_xor_sync(0xffffffffU, sum, 2);
        factor[half] = sum == 0.0F ? 0.0F : 1.0F / sum; /* 0: a query without keys */
        const int64_t query = first + row + lane / 4 + 8 * half;
        if (lane % 4 == 0 && query < a.spans.n) {
            a.lse[query * a.h + head] = LN_2 * (own.most[half] * scale + log2f(sum));
        }
    }
#pragma unroll
    for (int j = 0; j < WIDTH / COLUMN; j++) {
        char *upper = tile + piece_at<QUERIES_OF>(row + lane / 4, j) + lane % 4 * 4;
        *reinterpret_cast<unsigned *>(upper) =
            pack_pair(own.o[j][0] * factor[0], own.o[j][1] * factor[0]);
        *reinterpret_cast<unsigned *>(upper + 8 * ROW_BYTES) =
            pack_pair(own.o[j][2] * factor[1], own.o[j][3] * factor[1]);
    }
    __syncwarp();
    const int begin = row + lane / PIECES, piece = lane % PIECES;
    const int n = static_cast<int>(min(a.spans.n - first, static_cast<int64_t>(QUERIES_OF)));
    const int64_t step = a.h * WIDTH;
    uint16_t *to = head_of(a.o, head, WIDTH) + (first + begin) * step + piece * PIECE;
#pragma unroll
    for (int e = 0; e < 16 / TOGETHER; e++) {
        if (begin + e * TOGETHER < n) {
            *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(
                tile + piece_at<QUERIES_OF>(begin + e * TOGETHER, piece));
        }
        to += TOGETHER * step;
    }
}

/* --- The kernel ------------------------------------------------------------------------------ */

/* A warp of a multiplying warpgroup: its 16 queries of each item. */
static __device__ inline void attend_all(const operands &p, char *memory, barriers *b,
                                         const notes *note)
{
    const int all = p.items.tiles * p.items.heads;
    const int row = 16 * (static_cast<int>(threadIdx.x) / WARP - WARPGROUP / WARP);
    const unsigned base = shared_address(memory);
    place at = {};
    at.lane = static_cast<int>(threadIdx.x) % WARP;
    at.q = base + static_cast<unsigned>(row / BOX_ROWS * BOX_BYTES);
    unsigned step = 0; /* of this block */
    for (int turn = 0; item_at(turn) < all; turn++) {
        barrier_wait(shared_address(&b->own_full), static_cast<unsigned>(turn) & 1U);
        const int4 item = note->item;
        rows16 own = {};
        own.most[0] = own.most[1] = -INFINITY;
        at.query = item.x + row + at.lane / 4;
        for (int i = 0; i < item.z; i++, step++) {
            const unsigned s = stage_of(step);
            barrier_wait(shared_address(&b->k_full[s]), phase_of(step));
            const int2 entry = note->entry[s];
            at.k = base + KEYS_AT + s * STEP_BYTES;
            at.k_free = shared_address(&b->k_free[s]);
            if (i == 0) {
                take_step<true, true>(p, at, &own, entry); /* masked in any case: less code */
                continue;
            }
            const unsigned t = stage_of(step - 1);
            at.v = base + VALUES_AT + t * STEP_BYTES;
            at.v_free = shared_address(&b->v_free[t]);
            barrier_wait(shared_address(&b->v_full[t]), phase_of(step - 1));
            if ((entry.x & entry.y & 1) != 0) {
                take_step<false, false>(p, at, &own, entry);
            } else {
                take_step<false, true>(p, at, &own, entry);
            }
        }
        barrier_arrive_warp(shared_address(&b->own_free), at.lane);
        if (item.z > 0) {
            const unsigned t = stage_of(step - 1);
            at.v = base + VALUES_AT + t * STEP_BYTES;
            at.v_free = shared_address(&b->v_free[t]);
            barrier_wait(shared_address(&b->v_full[t]), phase_of(step - 1));
            add_last(at, &own);
        }
        unsigned lane = static_cast<unsigned>(at.lane);
        asm volatile("" : "+r"(lane)); /* addresses are not kept in registers from item to item */
        __syncwarp();                  /* the last item's rows have been read */
        finish(p.a, own, memory + OUTPUT_AT, static_cast<int>(lane % WARP), row, item, p.scale);
    }
}

static __global__ void __launch_bounds__(THREADS, 1) forward(const __grid_constant__ operands p)
{
    extern __shared__ __align__(1024) char memory[];
    __shared__ barriers b;
    __shared__ notes note;
    if (threadIdx.x == 0) {
        const unsigned warps = GROUPS * WARPGROUP / WARP;
        barrier_init(shared_address(&b.own_full), 1);
        barrier_init(shared_address(&b.own_free), warps);
        for (int s = 0; s < STAGES; s++) {
            barrier_init(shared_address(&b.k_full[s]), 1);
            barrier_init(shared_address(&b.v_full[s]), 1);
            barrier_init(shared_address(&b.k_free[s]), warps);
            barrier_init(shared_address(&b.v_free[s]), warps);
        }
        barriers_are_initialised();
    }
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        keep_registers<FEW_REGISTERS>();
        if (threadIdx.x == 0) {
            fetch_all(p, shared_address(memory), &b, &note);
        }
    } else {
        take_registers<MANY_REGISTERS>();
        attend_all(p, memory, &b, &note);
    }
}

/* --- Launch ---------------------------------------------------------------------------------- */

/* How many heads' keys and values the cache keeps: at least those of the heads that share them. */
static int heads_together(const rf_cuda_attention *a)
{
    const int64_t cache = INT64_C(36) << 20, each = 2 * a->spans.m * WIDTH * 2;
    const int64_t fit = each > 0 ? cache / each : a->g;
    return static_cast<int>((fit < 1 ? 1 : fit > a->g ? a->g : fit) * (a->h / a->g));
}

/* Of rows of heads; of no rows none: nothing is copied by it. */
static int encode_heads(CUtensorMap *map, const rf_cuda_real &x, int64_t rows, int64_t heads)
{
    return rows == 0 ? 0 : encode(map, x.data, rows, heads * WIDTH, BOX_ROWS);
}

int rf_cuda_persistent_forward(rf_cuda_stream stream, const rf_cuda_attention *a)
{
    if (a->spans.n == 0 || a->h == 0) {
        return 0;
    }
    operands p = {};
    const int tiles = static_cast<int>(rf_cuda_tiles(a->spans.n, QUERIES_OF));
    const int heads = static_cast<int>(a->h), items = tiles * heads;
    p.a = *a;
    p.items = {a->order, tiles, heads, heads_together(a)};
    p.list_width = static_cast<int>(1 + rf_cuda_tiles(a->spans.m, KEYS));
    p.scale = score_scale(WIDTH) * LOG2_E;
    int device = 0, processors = 0, code = cudaGetDevice(&device);
    if (code == 0) {
        code = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    }
    code = code != 0 ? code
                     : cudaFuncSetAttribute(forward, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            MEMORY_BYTES);
    code = code != 0 ? code : encode_heads(&p.q, a->q, a->spans.n, a->h);
    code = code != 0 ? code : encode_heads(&p.k, a->k, a->spans.m, a->g);
    code = code != 0 ? code : encode_heads(&p.v, a->v, a->spans.m, a->g);
    if (code != 0) {
        return code;
    }
    const int blocks = processors < items ? processors : items;
    forward<<<static_cast<unsigned>(blocks), THREADS, MEMORY_BYTES, stream>>>(p);
    return cudaGetLastError();
}
