/* Attention of inference: few queries, keys in the cache (arXiv:2205.14135; keys in parts side by side:
 * "Flash-Decoding").
 *
 * A span's keys are cut from its begin into parts of 64, these into sections of RF_CUDA_SECTION parts. What
 * a row gets of a part depends on nothing but itself. Parts are merged in order to sections, sections to
 * the result. That shows in no bit whether blocks make parts, sections, or all of a run: the plan decides
 * it for a pass, by how much there is.
 *
 * A block has up to 64 rows, which are queries of a run times the heads that share a key head, 16 a warp. */
#include "common/kernels/cuda/hopper.cuh"
#include "common/kernels/cuda/infer/merge.cuh"
#include "common/kernels/cuda/infer/part.cuh"
#include "common/kernels/cuda/infer/parts.cuh"

enum {
    ROWS = RF_CUDA_PART,
    TILE_ROWS = 16,
    THREADS = ROWS / TILE_ROWS * WARP,
    PAD = 8,
    PAD_TOTAL = 4
};
static_assert(RF_CUDA_PART == 64, "rows of queries and of keys have tiles of one size");

/* --- A part ---------------------------------------------------------------------------------- */

/* Shared memory of a block. total: sums of values over sections, where the block makes all of a run. */
template <int WIDTH> struct tiles {
    uint16_t k[ROWS][WIDTH + PAD], v[ROWS][WIDTH + PAD], q[ROWS][WIDTH + PAD];
    float total[ROWS][WIDTH + PAD_TOTAL];
};

/* Rows [0,n) of a tile, row i from from + i*step. A thread has pieces of one column. */
template <int WIDTH>
static __device__ void copy_rows(uint16_t (&rows)[ROWS][WIDTH + PAD], const uint16_t *from,
                                 int64_t step, int n)
{
    enum { PIECE = 8, PIECES = WIDTH / PIECE, APART = THREADS / PIECES };
    const int row = static_cast<int>(threadIdx.x) / PIECES,
              column = static_cast<int>(threadIdx.x) % PIECES * PIECE;
    const uint16_t *own = from + row * step + column;
#pragma unroll
    for (int e = 0; e < ROWS / APART; e++) {
        const bool is_there = row + e * APART < n;
        copy_piece(&rows[row + e * APART][column], is_there ? own : from, is_there);
        own += APART * step;
    }
}

/* Of 16 rows a thread has two, lane / 4 and 8 more: the largest score, the sum of weights, the sums of
 * values (columns 8 j + 2 (lane % 4) + {0,1}). */
template <int WIDTH> struct state {
    float most[2], sum[2], o[WIDTH / 8][4];
    __device__ void clear()
    {
        most[0] = most[1] = -INFINITY;
        sum[0] = sum[1] = 0.0F;
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++) {
            o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.0F;
        }
    }
};

/* score[j]: keys 8 j + 2 (lane % 4) + {0,1}, of both rows. */
template <int WIDTH>
static __device__ void make_scores(float (&score)[ROWS / 8][4], const tiles<WIDTH> &t)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int j = 0; j < ROWS / 8; j++) {
        score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0.0F;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c += 16) {
        uint32_t a[4], b[4];
        load_four(a, &t.q[warp * TILE_ROWS + lane % 16][c + lane / 16 * 8]);
#pragma unroll
        for (int j = 0; j < ROWS / 8; j += 2) {
            load_four(b, &t.k[j * 8 + lane / 16 * 8 + lane % 8][c + lane / 8 % 2 * 8]);
            multiply_add(score[j], a, b[0], b[1]);
            multiply_add(score[j + 1], a, b[2], b[3]);
        }
    }
}

/* o = weights times values. */
template <int WIDTH>
static __device__ void sum_values(float (&o)[WIDTH / 8][4], const uint32_t (&weight)[ROWS / 8][2],
                                  const tiles<WIDTH> &t)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++) {
        o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.0F;
    }
#pragma unroll
    for (int key = 0; key < ROWS / 8; key += 2) {
        const uint32_t a[4] = {weight[key][0], weight[key][1], weight[key + 1][0],
                               weight[key + 1][1]};
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j += 2) {
            uint32_t b[4];
            load_four_turned(b, &t.v[key * 8 + lane % 16][j * 8 + lane / 16 * 8]);
            multiply_add(o[j], a, b[0], b[1]);
            multiply_add(o[j + 1], a, b[2], b[3]);
        }
    }
}

/* --- A block --------------------------------------------------------------------------------- */

/* What a block works at: rows [first, first + n) of a run's, which are queries times `shared` heads. */
typedef struct work {
    const int32_t *run, *seen[2]; /* seen: the spans of the thread's two rows */
    int first, n, head, shared;
} work;

/* A row's query, and its number among all rows of queries and heads. */
static __device__ inline int64_t query_of(const work &w, int row)
{
    return w.run[QUERY_BEGIN] + (w.first + min(row, w.n - 1)) / w.shared;
}

static __device__ inline int head_of(const work &w, int row)
{
    return w.head * w.shared + (w.first + row) % w.shared;
}

template <int WIDTH>
static __device__ void fetch_queries(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w)
{
    enum { PIECE = 8, PIECES = WIDTH / PIECE };
    for (int i = static_cast<int>(threadIdx.x); i < ROWS * PIECES; i += THREADS) {
        const int row = i / PIECES, column = i % PIECES * PIECE;
        const int64_t from =
            row < w.n ? (query_of(w, row) * p.h + head_of(w, row)) * WIDTH + column : 0;
        copy_piece(&t->q[row][column], p.q + from, row < w.n);
    }
}

/* Keys [begin, end) of a part. */
static __device__ inline int2 keys_of(const work &w, int span, int part)
{
    const int begin = w.run[SPAN_BEGIN + 2 * span] + part * RF_CUDA_PART;
    return make_int2(begin, min(w.run[SPAN_END + 2 * span], begin + int{RF_CUDA_PART}));
}

/* Begins to copy rows of them, which are all that a group of copies has; none where there are no keys. */
template <int WIDTH>
static __device__ void fetch(uint16_t (&rows)[ROWS][WIDTH + PAD], const uint16_t *from,
                             const rf_cuda_attend &p, const work &w, int2 own)
{
    const int64_t step = p.g * WIDTH;
    if (own.x < own.y) {
        copy_rows<WIDTH>(rows, from + own.x * step + w.head * WIDTH, step, own.y - own.x);
    }
    commit_pieces();
}

/* A part's keys and values. */
template <int WIDTH>
static __device__ void fetch_part(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w, int2 own)
{
    fetch<WIDTH>(t->k, p.k, p, w, own);
    fetch<WIDTH>(t->v, p.v, p, w, own);
}

/* Adds a part to the warp's rows, whose keys and values are on their way, and asks for those of the next (no keys:
 * there is none) as soon as there is room. */
template <int WIDTH>
static __device__ void add_part(state<WIDTH> *s, tiles<WIDTH> *t, const rf_cuda_attend &p,
                                const work &w, int span, int2 own, int2 next, float scale)
{
    const bool has_rows = static_cast<int>(threadIdx.x) / WARP * TILE_ROWS < w.n;
    uint32_t weight[ROWS / 8][2];
    float most[2], sum[2], score[ROWS / 8][4];
    int count[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        count[half] = w.seen[half][2 * span + 1] - own.x;
    }
    wait_pieces<1>();
    __syncthreads();
    if (has_rows) {
        make_scores(score, *t);
    }
    __syncthreads(); /* the keys have been read */
    fetch<WIDTH>(t->k, p.k, p, w, next);
    if (has_rows) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            weigh(weight, &most[half], &sum[half], score, half, count[half], scale);
        }
    }
    wait_pieces<1>();
    __syncthreads();
    if (has_rows) {
        float o[WIDTH / 8][4];
        sum_values<WIDTH>(o, weight, *t);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const shares m = merge(&s->most[half], &s->sum[half], most[half], sum[half]);
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++) {
                s->o[j][half * 2] = join(s->o[j][half * 2], o[j][half * 2], m);
                s->o[j][half * 2 + 1] = join(s->o[j][half * 2 + 1], o[j][half * 2 + 1], m);
            }
        }
    }
    __syncthreads(); /* the values have been read */
    fetch<WIDTH>(t->v, p.v, p, w, next);
}

/* A unit's rows, for the merge. */
template <int WIDTH>
static __device__ void store_unit(const rf_cuda_attend &p, const work &w, const state<WIDTH> &s,
                                  const rf_cuda_unit &unit)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = warp * TILE_ROWS + lane / 4 + half * 8;
        if (row < w.n) {
            const int64_t at = unit.row + query_of(w, row) - w.run[QUERY_BEGIN];
            float *to = p.part + (at * p.h + head_of(w, row)) * (WIDTH + 4);
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++) {
                *reinterpret_cast<float2 *>(to + j * 8 + lane % 4 * 2) = {s.o[j][half * 2],
                                                                          s.o[j][half * 2 + 1]};
            }
            if (lane % 4 == 0) {
                *reinterpret_cast<float2 *>(to + WIDTH) = {s.most[half], s.sum[half]};
            }
        }
    }
}

/* Sections are merged in shared memory, each thread its own elements. */
template <int WIDTH>
static __device__ void add_section(tiles<WIDTH> *t, float (&most)[2], float (&sum)[2],
                                   const state<WIDTH> &s)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const shares m = merge(&most[half], &sum[half], s.most[half], s.sum[half]);
        float *own = &t->total[warp * TILE_ROWS + lane / 4 + half * 8][lane % 4 * 2];
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++) {
            own[j * 8] = join(own[j * 8], s.o[j][half * 2], m);
            own[j * 8 + 1] = join(own[j * 8 + 1], s.o[j][half * 2 + 1], m);
        }
    }
}

template <int WIDTH>
static __device__ void store_total(const tiles<WIDTH> &t, const rf_cuda_attend &p, const work &w,
                                   const float (&sum)[2])
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = warp * TILE_ROWS + lane / 4 + half * 8;
        if (row < w.n) {
            const float factor = sum[half] > 0.0F ? 1.0F / sum[half] : 0.0F;
            const float *own = &t.total[row][lane % 4 * 2];
            uint16_t *to = p.o + (query_of(w, row) * p.h + head_of(w, row)) * WIDTH + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++) {
                *reinterpret_cast<uint32_t *>(to + j * 8) =
                    pack_pair(own[j * 8] * factor, own[j * 8 + 1] * factor);
            }
        }
    }
}

/* The keys of the part behind part `part` of a span, or of the first of the other span; or none. */
static __device__ inline int2 keys_behind(const work &w, int span, int part)
{
    if (part + 1 < parts_of(w.run, span)) {
        return keys_of(w, span, part + 1);
    }
    return span == 0 && parts_of(w.run, 1) > 0 ? keys_of(w, 1, 0) : make_int2(0, 0);
}

template <int WIDTH>
static __device__ void attend_all(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w,
                                  float scale)
{
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    fetch_part(t, p, w, keys_behind(w, 0, -1));
    for (int i = static_cast<int>(threadIdx.x); i < ROWS * WIDTH; i += THREADS) {
        t->total[i / WIDTH][i % WIDTH] = 0.0F;
    }
    __syncthreads();
    for (int span = 0; span < 2; span++) {
        const int parts = parts_of(w.run, span);
        for (int first = 0; first < parts; first += RF_CUDA_SECTION) {
            state<WIDTH> s;
            s.clear();
            for (int part = first; part < min(first + RF_CUDA_SECTION, parts); part++) {
                add_part(&s, t, p, w, span, keys_of(w, span, part), keys_behind(w, span, part),
                         scale);
            }
            add_section(t, most, sum, s);
        }
    }
    wait_pieces<0>(); /* of queries, where there was no part */
    store_total(*t, p, w, sum);
    __syncthreads();
}

/* is_coming: the keys and values of the first part have been asked for, before the queries. */
template <int WIDTH>
static __device__ void attend_unit(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w,
                                   const rf_cuda_unit &unit, float scale, bool is_coming)
{
    state<WIDTH> s;
    s.clear();
    if (is_coming) {
        commit_pieces(); /* of queries */
        commit_pieces();
    } else {
        fetch_part(t, p, w, keys_of(w, unit.span, unit.first));
    }
    for (int part = unit.first; part < unit.last; part++) {
        const int2 next = part + 1 < unit.last ? keys_of(w, unit.span, part + 1) : make_int2(0, 0);
        add_part(&s, t, p, w, unit.span, keys_of(w, unit.span, part), next, scale);
    }
    store_unit(p, w, s, unit);
}

static __device__ inline work work_of(const rf_cuda_attend &p, const rf_cuda_unit &unit)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    work w = {p.run + unit.run * RUN_COLUMNS,      {},
              static_cast<int>(blockIdx.z) * ROWS, 0,
              static_cast<int>(blockIdx.y),        static_cast<int>(p.h / p.g)};
    w.n = min((w.run[QUERY_END] - w.run[QUERY_BEGIN]) * w.shared - w.first, int{ROWS});
    for (int half = 0; half < 2 && w.n > 0; half++) {
        w.seen[half] = p.span + 4 * query_of(w, warp * TILE_ROWS + lane / 4 + half * 8);
    }
    return w;
}

/* Before the kernel before has ended: what of the block's first unit the pass does not write. */
template <int WIDTH>
static __device__ bool fetch_early(tiles<WIDTH> *t, const rf_cuda_attend &p, int units)
{
    const int number = static_cast<int>(blockIdx.x);
    if (p.n_runs > RF_CUDA_PLANNED || number >= units || p.unit[number].span == RF_CUDA_ALL_SPANS) {
        return false;
    }
    const rf_cuda_unit unit = p.unit[number];
    const work w = work_of(p, unit);
    const int2 own = keys_of(w, unit.span, unit.first);
    const bool is_old = w.n > 0 && own.y <= p.units[1];
    if (is_old) {
        fetch_part(t, p, w, own);
    }
    return is_old;
}

/* Which unit is this block's at that turn. Every other turn goes backwards, so that blocks get like sums of
 * lengths where every run is longer than the one before. */
static __device__ inline int number_at(int turn)
{
    const int blocks = static_cast<int>(gridDim.x), own = static_cast<int>(blockIdx.x);
    return turn * blocks + (turn % 2 == 0 ? own : blocks - 1 - own);
}

template <int WIDTH>
static __global__ void __launch_bounds__(THREADS, 2) attend(const rf_cuda_attend p, float scale)
{
    extern __shared__ char memory[];
    tiles<WIDTH> *t = reinterpret_cast<tiles<WIDTH> *>(memory);
    const bool is_planned = p.n_runs <= RF_CUDA_PLANNED;
    const int units = is_planned ? *p.units : static_cast<int>(p.n_runs);
    if (blockIdx.x > 0 && number_at(0) >= units) {
        return; /* the first block waits for all */
    }
    bool is_coming = fetch_early(t, p, units);
    wait_for_previous();
    let_next_begin();
    for (int turn = 0, number = 0; (number = number_at(turn)) < units; turn++) {
        const rf_cuda_unit unit =
            is_planned ? p.unit[number] : rf_cuda_unit{number, RF_CUDA_ALL_SPANS, 0, 0, 0};
        const work w = work_of(p, unit);
        if (w.run[QUERY_BEGIN] >= w.run[QUERY_END]) {
            break; /* the last are empty */
        }
        if (w.n <= 0) {
            continue;
        }
        fetch_queries(t, p, w);
        if (unit.span == RF_CUDA_ALL_SPANS) {
            attend_all(t, p, w, scale);
        } else {
            attend_unit(t, p, w, unit, scale, is_coming);
        }
        is_coming = false;
    }
}

template <int WIDTH> static int launch(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    const int64_t shared = p->h / p->g, groups = (shared * RF_CUDA_RUN + ROWS - 1) / ROWS;
    const bool is_planned = p->n_runs <= RF_CUDA_PLANNED;
    const int64_t most = is_planned ? p->n_runs * (p->keys / RF_CUDA_PART + 2) : p->n_runs;
    /* resident at once; the runs of a planned pass are seldom so long that there is a second group of rows */
    const int64_t wide = max(2 * 132 / (p->g * (is_planned ? 1 : groups)), int64_t{1});
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(min(most, wide)), static_cast<unsigned>(p->g),
                          static_cast<unsigned>(groups));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = sizeof(tiles<WIDTH>);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const double log2_e = 1.4426950408889634;
    const float scale = static_cast<float>(log2_e / sqrt(static_cast<double>(WIDTH)));
    const int code = allow_memory(attend<WIDTH>, sizeof(tiles<WIDTH>));
    return code != 0 ? code : cudaLaunchKernelEx(&config, attend<WIDTH>, *p, scale);
}

int rf_cuda_attend_few(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    if (p->n == 0) {
        return 0;
    }
    return p->head_dim == 64 ? launch<64>(stream, p) : launch<128>(stream, p);
}
