/* Attention of inference: few queries, keys in the cache (arXiv:2205.14135; parts of the keys side by
 * side: "Flash-Decoding").
 *
 * A block takes up to 64 rows, which are queries of a run times the heads that share a key head, and a
 * part of the keys, or all parts one after the other. Scores: a warp a quarter of the part's keys; sums of
 * values: a warp a quarter of the width. What a row gets of a part depends on nothing but itself; parts
 * are merged in order, by the block that makes all, or by merge_parts (between.cu). */
#include "common/kernels/cuda/infer/few.h"
#include "common/kernels/cuda/infer/hopper.cuh"
#include "common/kernels/cuda/infer/merge.cuh"

enum {
    KEYS = RF_CUDA_PART,
    TILE_ROWS = 16,
    TILES = 4,
    MOST_ROWS = TILES * TILE_ROWS,
    THREADS = 128
};
enum { TEAM = THREADS / WARP, OWN_KEYS = KEYS / TEAM, PAD = 8 };
enum { QUERY_BEGIN, QUERY_END, SPAN_BEGIN, SPAN_END, RUN_COLUMNS = 6 };

/* --- Which run, which parts ------------------------------------------------------------------ */

typedef struct work {
    int run, first, last; /* parts [first, last) of the run's */
    int parts, queries;   /* of the run */
    int64_t slot;         /* of part's rows: the first of the run's */
    bool is_whole;        /* one block makes all parts */
} work;

static __device__ int parts_of(const int32_t *run, int span)
{
    return (run[SPAN_END + 2 * span] - run[SPAN_BEGIN + 2 * span] + KEYS - 1) / KEYS;
}

static __device__ int scan(int x)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    for (int step = 1; step < WARP; step *= 2) {
        const int below = __shfl_up_sync(0xffffffffU, x, static_cast<unsigned>(step));
        x += lane >= step ? below : 0;
    }
    return x;
}

/* The part of that number, counted over all runs; one warp. run below 0: there is none. */
static __device__ work find_part(const rf_cuda_attend &p, int number)
{
    work found = {-1, 0, 0, 0, 0, 0, false};
    int parts_before = 0, rows_before = 0;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    for (int first = 0; first < p.n_runs; first += WARP) {
        int parts = 0, queries = 0;
        if (first + lane < p.n_runs) {
            const int32_t *run = p.run + (first + lane) * RUN_COLUMNS;
            queries = run[QUERY_END] - run[QUERY_BEGIN];
            parts = queries > 0 ? max(parts_of(run, 0) + parts_of(run, 1), 1) : 0;
        }
        const int parts_here = scan(parts), rows_here = scan(parts * queries);
        const int end = parts_before + parts_here, begin = end - parts;
        const unsigned mine = __ballot_sync(0xffffffffU, number >= begin && number < end);
        if (mine != 0U && found.run < 0) {
            const int who = __ffs(static_cast<int>(mine)) - 1;
            found.run = first + who;
            found.first = number - __shfl_sync(0xffffffffU, begin, who);
            found.parts = __shfl_sync(0xffffffffU, parts, who);
            found.queries = __shfl_sync(0xffffffffU, queries, who);
            found.slot = rows_before + __shfl_sync(0xffffffffU, rows_here - parts * queries, who);
        }
        parts_before += __shfl_sync(0xffffffffU, parts_here, WARP - 1);
        rows_before += __shfl_sync(0xffffffffU, rows_here, WARP - 1);
    }
    found.last = found.first + 1;
    found.is_whole = rows_before > p.part_rows;
    return found;
}

static __device__ work whole_run(const rf_cuda_attend &p, int number)
{
    work found = {-1, 0, 0, 0, 0, 0, true};
    if (number < p.n_runs) {
        const int32_t *run = p.run + number * RUN_COLUMNS;
        found.run = number;
        found.queries = run[QUERY_END] - run[QUERY_BEGIN];
        found.parts = found.last = max(parts_of(run, 0) + parts_of(run, 1), 1);
    }
    return found;
}

/* The block's work of that number: a part, where they all fit, else a run. */
static __device__ work find_work(const rf_cuda_attend &p, int number)
{
    __shared__ work found;
    if (threadIdx.x < WARP) {
        work own = p.n_runs <= RF_CUDA_PART_RUNS ? find_part(p, number) : whole_run(p, number);
        if (own.is_whole) {
            own = whole_run(p, number);
        }
        if (threadIdx.x == 0) {
            found = own;
        }
    }
    __syncthreads();
    const work own = found;
    __syncthreads();
    return own;
}

/* --- A part ---------------------------------------------------------------------------------- */

/* Shared memory of a block. */
template <int WIDTH> struct tiles {
    uint16_t k[KEYS][WIDTH + PAD], v[KEYS][WIDTH + PAD], q[MOST_ROWS][WIDTH + PAD];
    uint16_t weight[TILE_ROWS][KEYS + PAD];
    float most[TEAM][TILE_ROWS], sum[TEAM][TILE_ROWS];
};

/* 16 bytes; zeros where there are none. */
static __device__ inline void copy_piece(void *to, const void *from, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}

template <int PENDING> static __device__ inline void wait_pieces()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

static __device__ inline void commit_pieces()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Rows [0,n) of `rows`, row i from from + i*step. */
template <int WIDTH, int ROWS>
static __device__ void copy_rows(uint16_t (&rows)[ROWS][WIDTH + PAD], const uint16_t *from,
                                 int64_t step, int n)
{
    enum { PIECE = 8, PIECES = WIDTH / PIECE };
    for (int i = static_cast<int>(threadIdx.x); i < ROWS * PIECES; i += THREADS) {
        const int row = i / PIECES, column = i % PIECES * PIECE;
        const bool is_there = row < n;
        copy_piece(&rows[row][column], from + (is_there ? row * step + column : 0), is_there);
    }
}

static __device__ inline void load_four(uint32_t (&x)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row)));
}

static __device__ inline void load_four_turned(uint32_t (&x)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row)));
}

/* sum (16 x 8) += a (16 x 16) b (16 x 8). */
static __device__ inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Of 16 rows a thread has two, lane / 4 and 8 more; what they got so far. */
template <int WIDTH> struct sums {
    float most[2], sum[2], o[WIDTH / TEAM / 8][4];
};

/* score[j]: keys 8 j + 2 (lane % 4) + {0,1} of the warp's own, of both rows. */
template <int WIDTH>
static __device__ void make_scores(float (&score)[OWN_KEYS / 8][4], const tiles<WIDTH> &t,
                                   int first_row)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int j = 0; j < OWN_KEYS / 8; j++) {
        score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0.0F;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c += 16) {
        uint32_t a[4], b[4];
        load_four(a, &t.q[first_row + lane % 16][c + lane / 16 * 8]);
#pragma unroll
        for (int j = 0; j < OWN_KEYS / 8; j += 2) {
            load_four(
                b, &t.k[warp * OWN_KEYS + j * 8 + lane / 16 * 8 + lane % 8][c + lane / 8 % 2 * 8]);
            multiply_add(score[j], a, b[0], b[1]);
            multiply_add(score[j + 1], a, b[2], b[3]);
        }
    }
}

/* The largest, or the sum, over the four lanes that share a row. */
static __device__ inline float quad_most(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffU, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffU, x, 2));
}

static __device__ inline float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffU, x, 1);
    return x + __shfl_xor_sync(0xffffffffU, x, 2);
}

/* From scores to weights in shared memory; `count`: how many of the part's keys each row sees. Sets the
 * rows' largest scores and sums. */
template <int WIDTH>
static __device__ void weigh(float (&most)[2], float (&sum)[2], tiles<WIDTH> *t,
                             float (&score)[OWN_KEYS / 8][4], const int (&count)[2], float scale)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    const int row = lane / 4, key = warp * OWN_KEYS + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = -INFINITY;
#pragma unroll
        for (int e = 0; e < OWN_KEYS / 4; e++) {
            float &x = score[e / 2][half * 2 + e % 2];
            x = key + e / 2 * 8 + e % 2 < count[half] ? x * scale : -INFINITY;
            largest = fmaxf(largest, x);
        }
        largest = quad_most(largest);
        if (lane % 4 == 0) {
            t->most[warp][row + half * 8] = largest;
        }
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int own = row + half * 8;
        most[half] =
            fmaxf(fmaxf(t->most[0][own], t->most[1][own]), fmaxf(t->most[2][own], t->most[3][own]));
        const float base = most[half] > -INFINITY ? most[half] : 0.0F;
        float total = 0.0F;
#pragma unroll
        for (int j = 0; j < OWN_KEYS / 8; j++) {
            const float a = expf(score[j][half * 2] - base),
                        b = expf(score[j][half * 2 + 1] - base);
            total += a + b;
            *reinterpret_cast<uint32_t *>(&t->weight[own][key + j * 8]) =
                rf_quantize_bf16(a) | static_cast<uint32_t>(rf_quantize_bf16(b)) << 16;
        }
        total = quad_sum(total);
        if (lane % 4 == 0) {
            t->sum[warp][own] = total;
        }
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int own = row + half * 8;
        sum[half] = t->sum[0][own] + t->sum[1][own] + t->sum[2][own] + t->sum[3][own];
    }
}

/* o = weights times the warp's columns of the values. */
template <int WIDTH>
static __device__ void sum_values(float (&o)[WIDTH / TEAM / 8][4], const tiles<WIDTH> &t)
{
    enum { OWN = WIDTH / TEAM };
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int j = 0; j < OWN / 8; j++) {
        o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.0F;
    }
#pragma unroll
    for (int key = 0; key < KEYS; key += 16) {
        uint32_t a[4], b[4];
        load_four(a, &t.weight[lane % 16][key + lane / 16 * 8]);
#pragma unroll
        for (int j = 0; j < OWN / 8; j += 2) {
            load_four_turned(b, &t.v[key + lane % 16][warp * OWN + j * 8 + lane / 16 * 8]);
            multiply_add(o[j], a, b[0], b[1]);
            multiply_add(o[j + 1], a, b[2], b[3]);
        }
    }
}

/* --- A block --------------------------------------------------------------------------------- */

/* Row i of the rows of a run: a query, and one of the heads that share the key head. */
typedef struct row_place {
    int query, head; /* query: of the run */
} row_place;

static __device__ inline row_place place_of(int row, int shared)
{
    return {row / shared, row % shared};
}

/* Fetches the part's keys and values, and q with the first. */
template <int WIDTH>
static __device__ void fetch(tiles<WIDTH> *t, const rf_cuda_attend &p, int64_t key, int keys,
                             int head)
{
    const int64_t step = p.g * WIDTH, at = key * step + head * WIDTH;
    copy_rows<WIDTH, KEYS>(t->k, p.k + at, step, keys);
    commit_pieces();
    copy_rows<WIDTH, KEYS>(t->v, p.v + at, step, keys);
    commit_pieces();
}

template <int WIDTH>
static __device__ void fetch_queries(tiles<WIDTH> *t, const rf_cuda_attend &p, const int32_t *run,
                                     int first, int n, int head, int shared)
{
    enum { PIECE = 8, PIECES = WIDTH / PIECE };
    for (int i = static_cast<int>(threadIdx.x); i < MOST_ROWS * PIECES; i += THREADS) {
        const int row = i / PIECES, column = i % PIECES * PIECE;
        const row_place at = place_of(first + min(row, n - 1), shared);
        const int64_t query = run[QUERY_BEGIN] + at.query;
        copy_piece(&t->q[row][column],
                   p.q + (query * p.h + head * shared + at.head) * WIDTH + column, row < n);
    }
}

/* Where row `row` of a part's partial results lies. */
static __device__ inline int64_t part_row(const rf_cuda_attend &p, const work &w, int part,
                                          int head, const row_place &at, int shared)
{
    return (w.slot + static_cast<int64_t>(part) * w.queries + at.query) * p.h + head * shared +
           at.head;
}

/* A tile's rows: the result where the block made all parts, else what the merge needs. */
template <int WIDTH>
static __device__ void store_tile(const rf_cuda_attend &p, const work &w, const int32_t *run,
                                  const sums<WIDTH> &s, int first, int end, int head, int shared)
{
    enum { OWN = WIDTH / TEAM };
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + lane / 4 + half * 8;
        if (row >= end) {
            continue;
        }
        const row_place at = place_of(row, shared);
        const int column = warp * OWN + lane % 4 * 2;
        if (w.last - w.first == w.parts) {
            const float factor = s.sum[half] > 0.0F ? 1.0F / s.sum[half] : 0.0F;
            uint16_t *to = p.o +
                           ((run[QUERY_BEGIN] + at.query) * p.h + head * shared + at.head) * WIDTH +
                           column;
#pragma unroll
            for (int j = 0; j < OWN / 8; j++) {
                *reinterpret_cast<uint32_t *>(to + j * 8) =
                    rf_quantize_bf16(s.o[j][half * 2] * factor) |
                    static_cast<uint32_t>(rf_quantize_bf16(s.o[j][half * 2 + 1] * factor)) << 16;
            }
        } else {
            float *to = p.part + part_row(p, w, w.first, head, at, shared) * (WIDTH + 2 * 2);
#pragma unroll
            for (int j = 0; j < OWN / 8; j++) {
                *reinterpret_cast<float2 *>(to + column + j * 8) = {s.o[j][half * 2],
                                                                    s.o[j][half * 2 + 1]};
            }
            if (warp == 0 && lane % 4 == 0) {
                *reinterpret_cast<float2 *>(to + WIDTH) = {s.most[half], s.sum[half]};
            }
        }
    }
}

/* Where the merge finds the parts of the run's queries; none, where the result is there. */
static __device__ void note_parts(const rf_cuda_attend &p, const work &w, const int32_t *run)
{
    const bool is_done = w.last - w.first == w.parts;
    for (int i = static_cast<int>(threadIdx.x); i < w.queries; i += THREADS) {
        p.table[run[QUERY_BEGIN] + i] = {static_cast<int32_t>(w.slot) + i, w.queries,
                                         is_done ? 0 : w.parts};
    }
}

/* Rows of group `group` (64 of them) of the run. */
template <int WIDTH>
static __device__ void attend_rows(tiles<WIDTH> *t, const rf_cuda_attend &p, const work &w,
                                   int head, int group, float scale)
{
    const int shared = static_cast<int>(p.h / p.g), lane = static_cast<int>(threadIdx.x) % WARP;
    const int32_t *run = p.run + w.run * RUN_COLUMNS;
    const int first = group * MOST_ROWS, n = min(w.queries * shared - first, int{MOST_ROWS});
    const int front = parts_of(run, 0);
    sums<WIDTH> state[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        state[tile] = {};
        state[tile].most[0] = state[tile].most[1] = -INFINITY;
    }
    fetch_queries(t, p, run, first, n, head, shared);
    for (int part = w.first; part < w.last; part++) {
        const int span = part < front ? 0 : 1;
        const int key = run[SPAN_BEGIN + 2 * span] + (span == 0 ? part : part - front) * KEYS;
        fetch<WIDTH>(t, p, key, max(min(run[SPAN_END + 2 * span] - key, int{KEYS}), 0), head);
        wait_pieces<1>();
        __syncthreads();
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            if (tile * TILE_ROWS >= n) {
                continue;
            }
            float score[OWN_KEYS / 8][4], most[2], sum[2], o[WIDTH / TEAM / 8][4];
            int count[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = min(tile * TILE_ROWS + lane / 4 + half * 8, n - 1);
                const int64_t query = run[QUERY_BEGIN] + place_of(first + row, shared).query;
                count[half] = p.span[4 * query + 2 * span + 1] - key;
            }
            make_scores(score, *t, tile * TILE_ROWS);
            weigh(most, sum, t, score, count, scale);
            wait_pieces<0>();
            __syncthreads();
            sum_values<WIDTH>(o, *t);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                sums<WIDTH> &own = state[tile];
                const shares s = merge(&own.most[half], &own.sum[half], most[half], sum[half]);
#pragma unroll
                for (int j = 0; j < WIDTH / TEAM / 8; j++) {
                    own.o[j][half * 2] = join(own.o[j][half * 2], o[j][half * 2], s);
                    own.o[j][half * 2 + 1] = join(own.o[j][half * 2 + 1], o[j][half * 2 + 1], s);
                }
            }
            __syncthreads(); /* the weights have been read */
        }
    }
    wait_pieces<0>();
    __syncthreads();
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile * TILE_ROWS < n) {
            store_tile<WIDTH>(p, w, run, state[tile], first + tile * TILE_ROWS, first + n, head,
                              shared);
        }
    }
    if (w.first == 0 && head == 0 && group == 0) {
        note_parts(p, w, run);
    }
}

template <int WIDTH>
static __global__ void __launch_bounds__(THREADS, 2) attend(const rf_cuda_attend p, float scale)
{
    extern __shared__ char shared[];
    tiles<WIDTH> *t = reinterpret_cast<tiles<WIDTH> *>(shared);
    const int head = static_cast<int>(blockIdx.y), group = static_cast<int>(blockIdx.z);
    const int heads = static_cast<int>(p.h / p.g);
    let_next_begin();
    int number = static_cast<int>(blockIdx.x);
    work w = find_work(p, number);
    if (w.run < 0 && number > 0) {
        return; /* the first block waits for all */
    }
    wait_for_previous();
    while (w.run >= 0) {
        if (group * MOST_ROWS < w.queries * heads) {
            attend_rows(t, p, w, head, group, scale);
        }
        number += static_cast<int>(gridDim.x);
        w = find_work(p, number);
    }
}

template <int WIDTH> static int launch(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    const int64_t shared = p->h / p->g, groups = (shared * RF_CUDA_RUN + MOST_ROWS - 1) / MOST_ROWS;
    const int64_t most =
        p->n_runs <= RF_CUDA_PART_RUNS ? p->n_runs * (p->keys / KEYS + 2) : p->n_runs;
    const int64_t wide = 2 * 132 / p->g > 0 ? 2 * 132 / p->g : 1; /* resident at once */
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim =
        dim3(static_cast<unsigned>(p->n_runs <= RF_CUDA_PART_RUNS && most > wide ? wide : most),
             static_cast<unsigned>(p->g), static_cast<unsigned>(groups));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = sizeof(tiles<WIDTH>);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const float scale = static_cast<float>(1.0 / sqrt(static_cast<double>(WIDTH)));
    const cudaError_t code =
        cudaFuncSetAttribute(attend<WIDTH>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(sizeof(tiles<WIDTH>)));
    return code != cudaSuccess ? code : cudaLaunchKernelEx(&config, attend<WIDTH>, *p, scale);
}

int rf_cuda_attend_few(rf_cuda_stream stream, const rf_cuda_attend *p)
{
    if (p->n == 0) {
        return 0;
    }
    const int code = p->head_dim == 64 ? launch<64>(stream, p) : launch<128>(stream, p);
    return code != 0 ? code : rf_cuda_merge_parts(stream, p);
}
