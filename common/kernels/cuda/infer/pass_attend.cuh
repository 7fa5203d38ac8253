/* pass_attend.cuh: attention of a pass (pass.cu) by parts of keys, the cache, and the merge of the parts.
 */
#ifndef RF_KERNELS_CUDA_INFER_PASS_ATTEND_CUH
#define RF_KERNELS_CUDA_INFER_PASS_ATTEND_CUH

#include "common/kernels/cuda/infer/ends.cuh"
#include "common/kernels/cuda/infer/merge.cuh"
#include "common/kernels/cuda/infer/pass_mail.cuh"

/* A part of a run's keys with a key head. */
struct part_work {
    int query, rows, head, span, key, keys, row; /* query: the first; rows: queries times heads */
};

static __device__ inline part_work work_at(const own_pass &p, int number)
{
    const int g = static_cast<int>(p.attention.g), shared = static_cast<int>(p.attention.h) / g;
    const rf_cuda_unit unit = p.attention.unit[number / g];
    const int32_t *run = p.attention.run + unit.run * RUN_COLUMNS;
    const int key = run[SPAN_BEGIN + 2 * unit.span] + unit.first * RF_CUDA_PART;
    return {run[QUERY_BEGIN],
            (run[QUERY_END] - run[QUERY_BEGIN]) * shared,
            number % g,
            unit.span,
            key,
            min(run[SPAN_END + 2 * unit.span] - key, int{RF_CUDA_PART}),
            unit.row};
}

/* Keys and values of a part; those of this pass may be old ones, and are put in their places later. */
static __device__ void fetch_keys(const own_pass &p, const own_block &b, part_tiles *t,
                                  const part_work &w)
{
    enum { PIECES = WIDTH / PIECE };
    const int64_t step = p.attention.g * WIDTH, first = w.key * step + w.head * WIDTH;
    for (int i = static_cast<int>(threadIdx.x); i < PART * PIECES; i += WORKERS) {
        const int row = i / PIECES, column = i % PIECES * PIECE;
        const bool is_there = row < w.keys;
        const int64_t from = first + (is_there ? row * step + column : 0);
        copy_piece(&t->k[row][column], b.keys + from, is_there);
        copy_piece(&t->v[row][column], b.values + from, is_there);
    }
    commit_pieces();
}

static __device__ inline float4 receive4(const letter *from, uint32_t number)
{
    uint32_t word[4];
    receive(word, from, number);
    return {__uint_as_float(word[0]), __uint_as_float(word[1]), __uint_as_float(word[2]),
            __uint_as_float(word[3])};
}

/* Query (which 0), key (1) or value (2) of a head, as bf16: a warp. Its norm and rotation are on their way
 * while the sums are waited for. */
static __device__ void put_head(const own_pass &p, const own_block &b, const mail &m, int which,
                                int i, int head, uint16_t *to)
{
    const rf_cuda_deal &d = p.deal[HEADS];
    const int element = static_cast<int>(threadIdx.x) % WARP * 4;
    const int before = (which > 0 ? d.out[0] : 0) + (which > 1 ? d.out[1] : 0);
    const letter *sums =
        m.slot + p.slot.raw + static_cast<int64_t>(i) * p.wide + before + head * WIDTH + element;
    const float *gain = which == 0 ? b.q_gain : b.k_gain;
    turn t = {nullptr, {1.0F, 1.0F, 1.0F, 1.0F}, {}, {}};
    if (which < 2) {
        const int64_t angle =
            static_cast<int64_t>(p.position[i]) * (WIDTH / 2) + element % (WIDTH / 2);
        t.cosine = read4(p.cosine + angle);
        t.sine = read4(p.sine + angle);
        t.gain = gain != nullptr ? read4(gain + element) : t.gain;
    }
    float4 x = receive4(sums, m.number);
    if (which < 2) {
        x = turned(x, t, gain != nullptr, p.eps, WIDTH);
    }
    write4({to + element, RF_CUDA_BF16}, 0, x);
}

static __device__ inline int place_of_row(const own_pass &p, int i)
{
    return p.place != nullptr ? p.place[i] : i;
}

/* This pass' keys and values into the cache, dealt out from the last block of threads on: the first ones
 * have parts. */
static __device__ void write_cache(const own_pass &p, const own_block &b, const mail &m)
{
    const int warp = static_cast<int>(threadIdx.x) / WARP, g = static_cast<int>(p.attention.g);
    const int blocks = static_cast<int>(gridDim.x);
    for (int job = blocks - 1 - static_cast<int>(blockIdx.x) + blocks * warp; job < 2 * p.n * g;
         job += blocks * WORKER_WARPS) {
        const int which = 1 + job % 2, head = job / 2 % g, i = job / 2 / g;
        uint16_t *cache = which == 1 ? b.keys : b.values;
        put_head(p, b, m, which, i, head,
                 cache + (static_cast<int64_t>(place_of_row(p, i)) * g + head) * WIDTH);
    }
}

/* Those that lie in this part. From the last warp on: the first ones have queries. */
static __device__ void put_new_keys(const own_pass &p, const own_block &b, const mail &m,
                                    part_tiles *t, const part_work &w)
{
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    for (int job = WORKER_WARPS - 1 - warp; job < 2 * p.n; job += WORKER_WARPS) {
        const int row = place_of_row(p, job / 2) - w.key;
        if (row >= 0 && row < w.keys) {
            put_head(p, b, m, 1 + job % 2, job / 2, w.head, job % 2 == 0 ? t->k[row] : t->v[row]);
        }
    }
}

/* What attention made of part `row` and a head: WIDTH letters of o, then the state. */
static __device__ inline letter *part_letters(const own_pass &p, int row, int head)
{
    const int h = static_cast<int>(p.attention.h);
    return p.attention.mail.letter + RF_CUDA_PASS_SLOTS * p.slot.letters +
           (row * h + head) * int{RF_CUDA_PART_LETTERS};
}

/* Scores of 16 rows, 16 keys a warp. */
static __device__ void make_scores(part_tiles *t)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              key = static_cast<int>(threadIdx.x) / WARP * 16;
    float score[2][4] = {};
#pragma unroll
    for (int c = 0; c < WIDTH; c += 16) {
        uint32_t a[4], b[4];
        load_four(a, &t->q[lane % 16][c + lane / 16 * 8]);
        load_four(b, &t->k[key + lane / 16 * 8 + lane % 8][c + lane / 8 % 2 * 8]);
        multiply_add(score[0], a, b[0], b[1]);
        multiply_add(score[1], a, b[2], b[3]);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            *reinterpret_cast<float2 *>(
                &t->score[lane / 4 + half * 8][key + j * 8 + lane % 4 * 2]) = {
                score[j][half * 2], score[j][half * 2 + 1]};
        }
    }
}

/* Rows [first, first + 16) of a part: their scores in shared memory, then a quarter of the values' columns a
 * warp. The first group. */
static __device__ void attend_rows(const own_pass &p, part_tiles *t, const part_work &w, int first,
                                   uint32_t number)
{
    enum { COLUMNS = WIDTH / 4 };
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    const int shared = static_cast<int>(p.attention.h / p.attention.g);
    float score[PART / 8][4], most[2], sum[2], o[COLUMNS / 8][4] = {};
    uint32_t weight[PART / 8][2];
    make_scores(t);
    group_meets();
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int j = 0; j < PART / 8; j++) {
            const float2 pair = *reinterpret_cast<const float2 *>(
                &t->score[lane / 4 + half * 8][j * 8 + lane % 4 * 2]);
            score[j][half * 2] = pair.x;
            score[j][half * 2 + 1] = pair.y;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = w.query + min(first + lane / 4 + half * 8, w.rows - 1) / shared;
        const int count = p.attention.span[4 * query + 2 * w.span + 1] - w.key;
        weigh(weight, &most[half], &sum[half], score, half, count, p.scale);
    }
#pragma unroll
    for (int key = 0; key < PART / 8; key += 2) {
        const uint32_t a[4] = {weight[key][0], weight[key][1], weight[key + 1][0],
                               weight[key + 1][1]};
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j += 2) {
            uint32_t b[4];
            load_four_turned(b, &t->v[key * 8 + lane % 16][warp * COLUMNS + j * 8 + lane / 16 * 8]);
            multiply_add(o[j], a, b[0], b[1]);
            multiply_add(o[j + 1], a, b[2], b[3]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + lane / 4 + half * 8;
        float all_most = -INFINITY, all_sum = 0.0F; /* a state without keys, joined by the part */
        const shares m = merge(&all_most, &all_sum, most[half], sum[half]);
        if (row < w.rows) {
            letter *to = part_letters(p, w.row + row / shared, w.head * shared + row % shared);
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++) {
                send_two(to + warp * COLUMNS + j * 8 + lane % 4 * 2,
                         __float_as_uint(join(0.0F, o[j][half * 2], m)),
                         __float_as_uint(join(0.0F, o[j][half * 2 + 1], m)), number);
            }
            if (warp == 0 && lane % 4 == 0) {
                send_two(to + WIDTH, __float_as_uint(all_most), __float_as_uint(all_sum), number);
            }
        }
    }
}

static __device__ void attend_part(const own_pass &p, const own_block &b, const mail &m,
                                   part_tiles *t, const part_work &w)
{
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int shared = static_cast<int>(p.attention.h / p.attention.g);
    wait_pieces<0>();
    workers_meet();
    put_new_keys(p, b, m, t, w);
    for (int first = 0; first < w.rows; first += QUERY_ROWS) {
        for (int row = warp; row < min(w.rows - first, int{QUERY_ROWS}); row += WORKER_WARPS) {
            const int number = first + row;
            put_head(p, b, m, 0, w.query + number / shared, w.head * shared + number % shared,
                     t->q[row]);
        }
        workers_meet();
        if (threadIdx.x < GROUP) {
            attend_rows(p, t, w, first, m.number);
        }
        workers_meet(); /* queries, keys and values have been read */
    }
}

/* The first part's keys are on their way while the products are waited for. Ends with a meeting of the
 * workers where there was a part. */
static __device__ void attend(const own_pass &p, const own_block &b, const mail &m, part_tiles *t)
{
    const int count = *p.attention.units * static_cast<int>(p.attention.g);
    int number = static_cast<int>(blockIdx.x);
    part_work w = {};
    if (number < count) {
        w = work_at(p, number);
        fetch_keys(p, b, t, w);
    }
    write_cache(p, b, m);
    while (number < count) {
        attend_part(p, b, m, t, w);
        number += static_cast<int>(gridDim.x);
        if (number < count) {
            w = work_at(p, number);
            fetch_keys(p, b, t, w);
        }
    }
}

/* As parts_in_memory, of letters; columns column and column + 1. */
struct parts_in_mail {
    const own_pass &p;
    int column;
    uint32_t number;
    __device__ void read(some_parts<2> *to, const rf_cuda_parts &at, int64_t head, int first,
                         int end) const
    {
        enum { AT_ONCE = some_parts<2>::AT_ONCE };
        const letter *from = part_letters(p, at.row + first * at.step, static_cast<int>(head));
        const int step = at.step * static_cast<int>(p.attention.h) * int{RF_CUDA_PART_LETTERS};
        letter seen[AT_ONCE][2][2];
        bool is_here;
        do {
            is_here = true;
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const letter *own = from + min(i, end - first - 1) * step;
                look(seen[i][0], own + column);
                look(seen[i][1], own + WIDTH);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                is_here =
                    is_here && has_number(seen[i][0], number) && has_number(seen[i][1], number);
            }
        } while (!is_here);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            to->o[i][0] = word_of(seen[i][0][0]);
            to->o[i][1] = word_of(seen[i][0][1]);
            to->state[i] = {word_of(seen[i][1][0]), word_of(seen[i][1][1])};
        }
    }
};

/* A warp half a head of a query: two columns a lane, a letter. */
static __device__ void merge_all(const own_pass &p, const mail &m)
{
    const int blocks = static_cast<int>(gridDim.x), h = static_cast<int>(p.attention.h);
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    for (int job = static_cast<int>(blockIdx.x) + blocks * warp; job < 2 * p.n * h;
         job += blocks * WORKER_WARPS) {
        const int number = job / 2, column = (job % 2 * WARP + lane) * 2;
        float o[2];
        merge_row(o, parts_in_mail{p, column, m.number}, p.attention.table[number / h], number % h);
        send(m.slot + p.slot.found + (static_cast<int64_t>(number) * WIDTH + column) / 2,
             pair_of(o[0], o[1]), m.number);
    }
}

#endif
