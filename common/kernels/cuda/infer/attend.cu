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

/* Shared memory of a block. */
template <int WIDTH> struct tiles {
    uint16_t k[ROWS][WIDTH + PAD], v[ROWS][WIDTH + PAD], q[ROWS][WIDTH + PAD];
};

/* The same of one that may make all of a run: sums of values over sections. */
template <int WIDTH> struct tiles_and_totals {
    tiles<WIDTH> part;
    float total[ROWS][WIDTH + PAD_TOTAL];
};

/* Rows [0,n) of a tile, row i from from + i*step. A thread has pieces of one column. */
template <int WIDTH>
static __device__ void copy_rows(uint16_t (&rows)[ROWS][WIDTH + PAD], const uint16_t *from,
                                 int step, int n)
{
    enum { PIECE = 8, PIECES = WIDTH / PIECE, APART = THREADS / PIECES };
    const int row = static_cast<int>(threadIdx.x / PIECES),
              column = static_cast<int>(threadIdx.x % PIECES) * PIECE;
#pragma unroll
    for (int e = 0; e < ROWS / APART; e++) {
        const int own = row + e * APART;
        copy_piece(&rows[own][column], from + min(own, n - 1) * step + column, own < n);
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

/* The first of the thread's two rows; the other is 8 further. */
static __device__ inline int row_of_thread()
{
    const int lane = static_cast<int>(threadIdx.x % WARP),
              warp = static_cast<int>(threadIdx.x / WARP);
    return warp * TILE_ROWS + lane / 4;
}

/* score[j]: keys 8 j + 2 (lane % 4) + {0,1}, of both rows. */
template <int WIDTH>
static __device__ void make_scores(float (&score)[ROWS / 8][4], const tiles<WIDTH> &t)
{
    const int lane = static_cast<int>(threadIdx.x % WARP),
              warp = static_cast<int>(threadIdx.x / WARP);
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

/* Columns a step of values, so that registers hold both these sums and those so far. */
enum { STEP = 64 };

/* o = weights times values, of columns [column, column + STEP). */
template <int WIDTH>
static __device__ void sum_values(float (&o)[STEP / 8][4], const uint32_t (&weight)[ROWS / 8][2],
                                  const tiles<WIDTH> &t, int column)
{
    const int lane = static_cast<int>(threadIdx.x % WARP);
#pragma unroll
    for (int j = 0; j < STEP / 8; j++) {
        o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.0F;
    }
#pragma unroll
    for (int key = 0; key < ROWS / 8; key += 2) {
        const uint32_t a[4] = {weight[key][0], weight[key][1], weight[key + 1][0],
                               weight[key + 1][1]};
#pragma unroll
        for (int j = 0; j < STEP / 8; j += 2) {
            uint32_t b[4];
            load_four_turned(b, &t.v[key * 8 + lane % 16][column + j * 8 + lane / 16 * 8]);
            multiply_add(o[j], a, b[0], b[1]);
            multiply_add(o[j + 1], a, b[2], b[3]);
        }
    }
}

/* --- A block --------------------------------------------------------------------------------- */

/* What a block works at: `rows` rows of a run's, which are queries times `shared` heads, and keys of one span at a
 * time. What is read once more where it is needed takes no registers meanwhile. */
typedef struct work {
    int number, run, rows; /* number: of the unit, where there is no plan of the run */
    int2 keys;             /* of the span, */
    int2 sees;             /* and where what the thread's two rows see of them ends */
} work;

/* The head of the keys; the first of the run's rows. */
static __device__ inline int own_head()
{
    return static_cast<int>(blockIdx.y);
}

static __device__ inline int first_row()
{
    return static_cast<int>(blockIdx.z) * ROWS;
}

static __device__ inline int64_t first_query(const rf_cuda_attend &p, const work &w)
{
    return run_at(p, w.run).queries.x;
}

/* Divides numbers below 2^16 / shared. */
typedef struct divisor {
    int shared;
    unsigned factor; /* 2^16 / shared, rounded up */
} divisor;

/* A row's query, counted in the run. */
static __device__ inline int query_of(divisor by, int row)
{
    return static_cast<int>(static_cast<unsigned>(first_row() + row) * by.factor >> 16);
}

/* Where a row is among the run's queries times all heads. */
static __device__ inline int place_of_row(const rf_cuda_attend &p, divisor by, int row)
{
    const int query = query_of(by, row), head = first_row() + row - query * by.shared;
    return query * static_cast<int>(p.h) + own_head() * by.shared + head;
}

template <int WIDTH>
static __device__ void fetch_queries(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w,
                                     divisor by)
{
    enum { PIECE = 8, PIECES = WIDTH / PIECE, APART = THREADS / PIECES };
    const int first = static_cast<int>(threadIdx.x / PIECES),
              column = static_cast<int>(threadIdx.x % PIECES) * PIECE;
    const uint16_t *from = p.q + first_query(p, w) * p.h * WIDTH + column;
#pragma unroll
    for (int e = 0; e < ROWS / APART; e++) {
        const int row = first + e * APART;
        const int at = place_of_row(p, by, min(row, w.rows - 1));
        copy_piece(&t->q[row][column], from + at * WIDTH, row < w.rows);
    }
}

/* Begins to copy rows `own` of keys or values, which are all that a group of copies has; none where there are
 * none. */
template <int WIDTH>
static __device__ void fetch(uint16_t (&rows)[ROWS][WIDTH + PAD], const uint16_t *from,
                             const rf_cuda_attend &p, int2 own)
{
    const int step = static_cast<int>(p.g) * WIDTH;
    if (own.x < own.y) {
        copy_rows<WIDTH>(rows, from + static_cast<int64_t>(own.x) * step + own_head() * WIDTH, step,
                         own.y - own.x);
    }
    commit_pieces();
}

/* A part's keys and values. */
template <int WIDTH>
static __device__ void fetch_part(tiles<WIDTH> *t, const rf_cuda_attend &p, int2 own)
{
    fetch<WIDTH>(t->k, p.k, p, own);
    fetch<WIDTH>(t->v, p.v, p, own);
}

/* Adds a part to the warp's rows, whose keys and values are on their way, and asks for those of the next (no keys:
 * there is none) as soon as there is room. */
template <int WIDTH>
static __device__ void add_part(state<WIDTH> *s, tiles<WIDTH> *t, const rf_cuda_attend &p,
                                const work &w, int2 own, int2 next, float scale)
{
    const bool has_rows = static_cast<int>(threadIdx.x / WARP) * TILE_ROWS < w.rows;
    uint32_t weight[ROWS / 8][2];
    float most[2], sum[2];
    shares share[2];
    wait_pieces<1>();
    __syncthreads();
    if (has_rows) {
        float score[ROWS / 8][4];
        make_scores(score, *t);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            weigh(weight, &most[half], &sum[half], score, half,
                  (half == 0 ? w.sees.x : w.sees.y) - own.x, scale);
        }
    }
    __syncthreads(); /* the keys have been read */
    fetch<WIDTH>(t->k, p.k, p, next);
    wait_pieces<1>();
    __syncthreads();
    if (has_rows) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            share[half] = merge(&s->most[half], &s->sum[half], most[half], sum[half]);
        }
    }
#pragma unroll
    for (int column = 0; column < WIDTH; column += STEP) {
        if (has_rows) { /* a branch each: one of all columns would take more registers than there are */
            float o[STEP / 8][4];
            sum_values<WIDTH>(o, weight, *t, column);
#pragma unroll
            for (int e = 0; e < STEP / 2; e++) {
                float *total = &s->o[column / 8 + e / 4][e % 4];
                *total = join(*total, o[e / 4][e % 4], share[e / 2 % 2]);
            }
        }
    }
    __syncthreads(); /* the values have been read */
    fetch<WIDTH>(t->v, p.v, p, next);
}

/* A unit's rows, for the merge: by way of shared memory, where nothing is needed any more, so that a warp writes a row
 * at a time. */
template <int WIDTH>
static __device__ void store_unit(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w,
                                  divisor by, const state<WIDTH> &s)
{
    const int lane = static_cast<int>(threadIdx.x % WARP),
              warp = static_cast<int>(threadIdx.x / WARP);
    enum { PITCH = WIDTH + PAD }; /* without conflicts of banks */
    float(*stage)[PITCH] = reinterpret_cast<float(*)[PITCH]>(t);
    static_assert(sizeof(float[ROWS][PITCH]) <= sizeof(t->k) + sizeof(t->v), "all rows find room");
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float *own = stage[row_of_thread() + half * 8];
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++) {
            *reinterpret_cast<float2 *>(own + j * 8 + lane % 4 * 2) = {s.o[j][half * 2],
                                                                       s.o[j][half * 2 + 1]};
        }
        if (lane % 4 == 0) {
            *reinterpret_cast<float2 *>(own + WIDTH) = {s.most[half], s.sum[half]};
        }
    }
    __syncwarp();
    float *to = p.part + p.unit[w.number].row * p.h * (WIDTH + 4);
#pragma unroll 4
    for (int i = 0; i < min(w.rows - warp * TILE_ROWS, int{TILE_ROWS}); i++) {
        const int row = warp * TILE_ROWS + i, at = place_of_row(p, by, row) * (WIDTH + 4);
        if (lane * 4 < WIDTH) {
            *reinterpret_cast<float4 *>(to + at + lane * 4) =
                *reinterpret_cast<const float4 *>(stage[row] + lane * 4);
        }
        if (lane == 0) {
            *reinterpret_cast<float2 *>(to + at + WIDTH) =
                *reinterpret_cast<const float2 *>(stage[row] + WIDTH);
        }
    }
    __syncthreads(); /* the next unit's queries and keys come there */
}

/* Sections are merged in shared memory, each thread its own elements. */
template <int WIDTH>
static __device__ void add_section(tiles_and_totals<WIDTH> *t, float (&most)[2], float (&sum)[2],
                                   const state<WIDTH> &s)
{
    const int lane = static_cast<int>(threadIdx.x % WARP);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const shares m = merge(&most[half], &sum[half], s.most[half], s.sum[half]);
        float *own = &t->total[row_of_thread() + half * 8][lane % 4 * 2];
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++) {
            own[j * 8] = join(own[j * 8], s.o[j][half * 2], m);
            own[j * 8 + 1] = join(own[j * 8 + 1], s.o[j][half * 2 + 1], m);
        }
    }
}

template <int WIDTH>
static __device__ void store_total(const tiles_and_totals<WIDTH> &t, const rf_cuda_attend &p,
                                   const work &w, divisor by, const float (&sum)[2])
{
    const int lane = static_cast<int>(threadIdx.x % WARP);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = row_of_thread() + half * 8;
        if (row < w.rows) {
            const float factor = sum[half] > 0.0F ? 1.0F / sum[half] : 0.0F;
            const float *own = &t.total[row][lane % 4 * 2];
            uint16_t *to =
                p.o + (first_query(p, w) * p.h + place_of_row(p, by, row)) * WIDTH + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++) {
                *reinterpret_cast<uint32_t *>(to + j * 8) =
                    pack_pair(own[j * 8] * factor, own[j * 8 + 1] * factor);
            }
        }
    }
}

/* From here on the work is at that span. */
static __device__ inline void take_span(work *w, const rf_cuda_attend &p, divisor by, int span)
{
    const int row = row_of_thread();
    const int32_t *ends = p.span + 4 * first_query(p, *w) + 2 * span + 1;
    w->keys = run_at(p, w->run).span[span];
    w->sees = make_int2(ends[4 * query_of(by, min(row, w->rows - 1))],
                        ends[4 * query_of(by, min(row + 8, w->rows - 1))]);
}

template <int WIDTH>
static __device__ void attend_all(tiles_and_totals<WIDTH> *t, const rf_cuda_attend &p, work w,
                                  divisor by, float scale)
{
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    const int2 front = run_at(p, w.run).span[0], back = run_at(p, w.run).span[1];
    fetch_part(&t->part, p, part_of(parts_of(front) > 0 ? front : back, 0));
    for (int i = static_cast<int>(threadIdx.x); i < ROWS * WIDTH; i += THREADS) {
        t->total[i / WIDTH][i % WIDTH] = 0.0F;
    }
    __syncthreads();
    for (int span = 0; span < 2; span++) {
        take_span(&w, p, by, span);
        const int parts = parts_of(w.keys);
        for (int first = 0; first < parts; first += RF_CUDA_SECTION) {
            state<WIDTH> s;
            s.clear();
            for (int part = first; part < min(first + RF_CUDA_SECTION, parts); part++) {
                const int2 behind = part + 1 < parts ? part_of(w.keys, part + 1)
                                    : span == 0      ? part_of(back, 0)
                                                     : int2{};
                add_part(&s, &t->part, p, w, part_of(w.keys, part), behind, scale);
            }
            add_section(t, most, sum, s);
        }
    }
    wait_pieces<0>(); /* of queries, where there was no part */
    store_total(*t, p, w, by, sum);
    __syncthreads();
}

/* is_coming: the keys and values of the first part have been asked for, before the queries. */
template <int WIDTH>
static __device__ void attend_unit(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w,
                                   divisor by, float scale, bool is_coming)
{
    const int first = p.unit[w.number].first, last = p.unit[w.number].last;
    state<WIDTH> s;
    s.clear();
    if (is_coming) {
        commit_pieces(); /* of queries */
        commit_pieces();
    } else {
        fetch_part(t, p, part_of(w.keys, first));
    }
    for (int part = first; part < last; part++) {
        const int2 behind = part + 1 < last ? part_of(w.keys, part + 1) : int2{};
        add_part(&s, t, p, w, part_of(w.keys, part), behind, scale);
    }
    store_unit(t, p, w, by, s);
}

/* Is the unit all of a run? */
static __device__ inline bool is_all(const rf_cuda_attend &p, int number)
{
    return p.n_runs > RF_CUDA_PLANNED || p.unit[number].span == RF_CUDA_ALL_SPANS;
}

/* No rows: there is nothing to do. Where the unit is all of a run, no span is taken yet. */
static __device__ inline work work_at(const rf_cuda_attend &p, divisor by, int number)
{
    work w = {number, number};
    if (p.n_runs <= RF_CUDA_PLANNED) {
        w.run = p.unit[number].run;
    }
    const int2 queries = run_at(p, w.run).queries;
    w.rows = min((queries.y - queries.x) * by.shared - first_row(), int{ROWS});
    if (w.rows > 0 && !is_all(p, number)) {
        take_span(&w, p, by, p.unit[number].span);
    }
    return w;
}

/* Before the kernel before has ended: what of the block's first unit the pass does not write. */
template <int WIDTH>
static __device__ bool fetch_early(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w)
{
    if (w.rows <= 0 || is_all(p, w.number)) {
        return false;
    }
    const int2 own = part_of(w.keys, p.unit[w.number].first);
    const bool is_old = own.y <= p.units[1];
    if (is_old) {
        fetch_part(t, p, own);
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

static __device__ inline int units_of(const rf_cuda_attend &p)
{
    return p.n_runs <= RF_CUDA_PLANNED ? *p.units : static_cast<int>(p.n_runs);
}

/* TOTALS: a unit may be all of a run. */
template <int WIDTH, bool TOTALS>
static __global__ void __launch_bounds__(THREADS, TOTALS ? 2 : 3)
    attend(const rf_cuda_attend p, divisor by, float scale)
{
    extern __shared__ char memory[];
    tiles<WIDTH> *t = reinterpret_cast<tiles<WIDTH> *>(memory);
    if (number_at(0) >= units_of(p)) {
        if (blockIdx.x == 0) {
            wait_for_previous(); /* one block waits for all */
        }
        return;
    }
    /* neither runs nor the plan are written by the kernel before */
    work w = work_at(p, by, number_at(0));
    bool is_coming = fetch_early(t, p, w);
    wait_for_previous();
    let_next_begin();
    for (int turn = 1;; turn++) {
        const int2 queries = run_at(p, w.run).queries;
        if (queries.x >= queries.y) {
            break; /* the last are empty */
        }
        if (w.rows > 0) { /* not a run of fewer rows than others */
            fetch_queries(t, p, w, by);
            if (!is_all(p, w.number)) {
                attend_unit(t, p, w, by, scale, is_coming);
            } else if constexpr (TOTALS) {
                attend_all(reinterpret_cast<tiles_and_totals<WIDTH> *>(memory), p, w, by, scale);
            } else {
                __trap(); /* see most_sections */
            }
            is_coming = false;
        }
        const int number = number_at(turn);
        if (number >= units_of(p)) {
            break;
        }
        w = work_at(p, by, number);
    }
}

/* May a block have to make all of a run? Not where the plan finds room for the sections of all rows. */
static bool may_take_all(const rf_cuda_attend *p)
{
    return p->n_runs > RF_CUDA_PLANNED || p->n * most_sections(p->keys) > p->part_rows;
}

template <int WIDTH, bool TOTALS> static int launch(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    enum {
        MULTIPROCESSORS = 132,
        TOGETHER = TOTALS ? 2 : 3, /* blocks of a multiprocessor */
        BYTES = TOTALS ? sizeof(tiles_and_totals<WIDTH>) : sizeof(tiles<WIDTH>)
    };
    const int64_t shared = p->h / p->g, groups = (shared * RF_CUDA_RUN + ROWS - 1) / ROWS;
    const bool is_planned = p->n_runs <= RF_CUDA_PLANNED;
    const int64_t most = is_planned ? p->n_runs * (p->keys / RF_CUDA_PART + 2) : p->n_runs;
    /* resident at once; the runs of a planned pass are seldom so long that there is a second group of rows */
    const int64_t wide =
        max(TOGETHER * MULTIPROCESSORS / (p->g * (is_planned ? 1 : groups)), int64_t{1});
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(min(most, wide)), static_cast<unsigned>(p->g),
                          static_cast<unsigned>(groups));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = BYTES;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const double log2_e = 1.4426950408889634;
    const float scale = static_cast<float>(log2_e / sqrt(static_cast<double>(WIDTH)));
    const divisor by = {static_cast<int>(shared), 65535U / static_cast<unsigned>(shared) + 1U};
    const int code = allow_memory(attend<WIDTH, TOTALS>, BYTES);
    return code != 0 ? code : cudaLaunchKernelEx(&config, attend<WIDTH, TOTALS>, *p, by, scale);
}

template <int WIDTH> static int launch_width(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    return may_take_all(p) ? launch<WIDTH, true>(stream, p) : launch<WIDTH, false>(stream, p);
}

int rf_cuda_attend_few(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    if (p->n == 0) {
        return 0;
    }
    return p->head_dim == 64 ? launch_width<64>(stream, p) : launch_width<128>(stream, p);
}
