/* pass_attend.cuh: attention of a pass (pass.cu) by parts of keys. */
#ifndef RF_KERNELS_CUDA_INFER_PASS_ATTEND_CUH
#define RF_KERNELS_CUDA_INFER_PASS_ATTEND_CUH

#include "common/kernels/cuda/infer/merge.cuh"
#include "common/kernels/cuda/infer/pass_heads.cuh"

static __device__ inline part_work work_at(const own_pass &p, int number)
{
    const int g = static_cast<int>(p.attention.g), shared = static_cast<int>(p.attention.h) / g;
    const rf_cuda_unit unit = p.attention.unit[number / g];
    const own_run &run = run_at(p.attention, unit.run);
    const int2 keys = part_of(run.span[unit.span], unit.first);
    return {run.queries.x, (run.queries.y - run.queries.x) * shared,
            number % g,    unit.span,
            keys.x,        keys.y - keys.x,
            unit.row};
}

/* Begins to copy keys and values of a part; those of this pass may be old ones, and are put in their places
 * later. */
static __device__ void fetch_keys(const own_pass &p, const own_block &b, part_tiles *t,
                                  const part_work &w)
{
    enum { PIECES = WIDTH / PIECE };
    const int64_t step = p.attention.g * WIDTH, first = w.key * step + w.head * WIDTH;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < PART * PIECES; i += WORKERS) {
        const int row = i / PIECES, column = i % PIECES * PIECE;
        const bool is_there = row < w.keys;
        const int64_t from = first + (is_there ? row * step + column : 0);
        copy_piece(&t->k[row][column], b.keys + from, is_there);
        copy_piece(&t->v[row][column], b.values + from, is_there);
    }
    commit_pieces();
}

static __device__ own_row row_at(const own_pass &p, const part_work &w, int row)
{
    const int shared = static_cast<int>(p.attention.h / p.attention.g);
    const int query = w.query + row / shared;
    return row < w.rows
               ? own_row{p.attention.span[4 * query + 2 * w.span + 1] - w.key,
                         part_letters(p, w.row + row / shared, w.head * shared + row % shared)}
               : own_row{0, -1};
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

/* Rows of a part: their scores in shared memory, then a quarter of the values' columns a warp. The first
 * group. `halves`: of 8 rows each, those that there are. */
static __device__ void attend_rows(const own_pass &p, part_tiles *t, const own_row (&own)[2],
                                   int halves, uint32_t number)
{
    enum { COLUMNS = WIDTH / 4 };
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {}, o[COLUMNS / 8][4] = {};
    uint32_t weight[PART / 8][2] = {};
    make_scores(t);
    group_meets();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (half < halves) {
            float score[PART / 8][4];
#pragma unroll
            for (int j = 0; j < PART / 8; j++) {
                const float2 pair = *reinterpret_cast<const float2 *>(
                    &t->score[lane / 4 + half * 8][j * 8 + lane % 4 * 2]);
                score[j][half * 2] = pair.x;
                score[j][half * 2 + 1] = pair.y;
            }
            weigh(weight, &most[half], &sum[half], score, half, own[half].count, p.scale);
        }
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
        float all_most = -INFINITY, all_sum = 0.0F; /* a state without keys, joined by the part */
        const shares m = merge(&all_most, &all_sum, most[half], sum[half]);
        if (own[half].to >= 0) {
            letter *to = first_part(p) + own[half].to;
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

/* The parts of this block of threads, for block i of the launch. The first one's keys are there. Ends with a
 * meeting of the workers, before which all have done with block i - 1: what this one sends in block i + 1 lies
 * where they read. */
template <int ROWS>
static __device__ void attend(const room &r, const own_block &b, const mail &m, int i)
{
    enum {
        SIDE = ROWS == 4 ? 2 : 1
    }; /* heads of a warp; with 8 rows more were no gain worth their code */
    const own_pass &p = r.p;
    part_tiles *t = r.tiles;
    const int warp = static_cast<int>(threadIdx.x) / WARP,
              lane = static_cast<int>(threadIdx.x) % WARP;
    int number = static_cast<int>(blockIdx.x);
    bool is_first = true;
    do {
        if (!is_first) {
            if (threadIdx.x == 0) {
                t->work = work_at(p, number);
            }
            workers_meet();
            fetch_keys(p, b, t, t->work);
            wait_pieces<0>();
            workers_meet();
        }
        const part_work &w = is_first ? r.share.part : t->work;
        const int rows = w.rows; /* the next part's may come before all have met again */
        int first = 0;
        do {
            const bool is_known = is_first && first == 0;
            const head_jobs jobs = is_known ? r.share.jobs : jobs_of(p, w, first, 0);
#pragma unroll 1
            for (int job = warp; job < jobs.count(); job += SIDE * WORKER_WARPS) {
                own_head head[SIDE];
#pragma unroll
                for (int s = 0; s < SIDE; s++) {
                    const int own = job + s * WORKER_WARPS;
                    head[s] = is_known && own < HEAD_TURNS * WORKER_WARPS
                                  ? r.share.head[own]
                                  : head_of(p, t, w, first, jobs, own);
                }
                put_heads(p, b, m, head);
            }
            workers_meet();
            if (is_known) {
                wait_for_all(p, i - 1);
            }
            if (threadIdx.x < GROUP && rows > 0) {
                own_row own[2] = {r.share.row[lane / 4], r.share.row[lane / 4 + 8]};
                if (!is_known) {
                    own[0] = row_at(p, w, first + lane / 4);
                    own[1] = row_at(p, w, first + lane / 4 + 8);
                }
                attend_rows(p, t, own, rows - first > 8 ? 2 : 1, m.number);
            }
            workers_meet(); /* queries, keys and values have been read */
            first += QUERY_ROWS;
        } while (first < rows);
        number += static_cast<int>(gridDim.x);
        is_first = false;
    } while (number < r.share.parts);
}

#endif
