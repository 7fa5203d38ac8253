/* Norms of heads and their rotations, one after the other or in one kernel. */
#include "common/kernels/cuda/row.cuh"

/* --- Rotations alone ------------------------------------------------------------------------- */

/* A thread turns EACH pairs of row `row` of n: elements that are half a row apart. */
template <int EACH>
static __global__ void __launch_bounds__(BLOCK)
    turn(rf_cuda_real y, rf_cuda_real x, rf_cuda_angles angles, int64_t n, int64_t d, bool back)
{
    const int64_t half = d / 2, each = half / EACH, j = thread_number() % each * EACH,
                  row = thread_number() / each;
    if (row < n) {
        const int64_t angle = angles.position[row / angles.h] * half + j, at = row * d + j;
        float c[EACH], s[EACH], a[EACH], b[EACH];
        read_run<EACH>(c, {const_cast<float *>(angles.cosine), RF_CUDA_F32}, angle);
        read_run<EACH>(s, {const_cast<float *>(angles.sine), RF_CUDA_F32}, angle);
        read_run<EACH>(a, x, at);
        read_run<EACH>(b, x, at + half);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const float sine = back ? -s[e] : s[e], first = a[e];
            a[e] = first * c[e] - b[e] * sine;
            b[e] = b[e] * c[e] + first * sine;
        }
        write_run<EACH>(y, at, a);
        write_run<EACH>(y, at + half, b);
    }
}

int rf_cuda_turn(rf_cuda_stream stream, rf_cuda_real y, rf_cuda_real x,
                 const rf_cuda_angles *angles, int64_t n, int64_t d, bool back)
{
    const int64_t count = n * (d / 2);
    if (count == 0) {
        return 0;
    }
    if (d / 2 % RUN == 0 && in_runs(y) && in_runs(x)) {
        turn<RUN><<<blocks_for(count / RUN, BLOCK), BLOCK, 0, stream>>>(y, x, *angles, n, d, back);
    } else {
        turn<1><<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(y, x, *angles, n, d, back);
    }
    return cudaGetLastError();
}

/* --- Norms and rotations: LANES lanes take heads of one place that turn alike, a run a lane ---- */

/* How this lane's run of a row turns, in rows of one run a lane: the other elements of its pairs are another
 * lane's. */
struct lane_turn {
    float cosine[RUN], sine[RUN]; /* the sine with the sign that it has for this half of the row */
    int other;
};

template <int LANES>
static __device__ inline lane_turn turn_of(const rf_cuda_angles &angles, int64_t row, int d,
                                           bool exists, bool back)
{
    const int lane = static_cast<int>(threadIdx.x) % LANES, lanes = d / 2 / RUN; /* of half a row */
    const bool is_first = lane < lanes;
    lane_turn t = {{}, {}, is_first ? lane + lanes : lane - lanes};
    if (exists && lane < 2 * lanes) {
        const int64_t place = static_cast<unsigned>(row) / static_cast<unsigned>(angles.h);
        const int64_t at = static_cast<int64_t>(angles.position[place]) * (d / 2) +
                           (is_first ? lane : lane - lanes) * RUN;
        read_run<RUN>(t.cosine, {const_cast<float *>(angles.cosine), RF_CUDA_F32}, at);
        read_run<RUN>(t.sine, {const_cast<float *>(angles.sine), RF_CUDA_F32}, at);
#pragma unroll
        for (int e = 0; e < RUN; e++) {
            t.sine[e] = is_first == back ? t.sine[e] : -t.sine[e];
        }
    }
    return t;
}

/* All lanes of a warp together. */
template <int LANES> static __device__ inline void turn_run(float own[RUN], const lane_turn &t)
{
#pragma unroll
    for (int e = 0; e < RUN; e++) {
        const float pair = __shfl_sync(0xffffffffU, own[e], t.other, LANES);
        own[e] = own[e] * t.cosine[e] + pair * t.sine[e];
    }
}

/* As memory of this type keeps them: what two kernels in a row would hand on. */
static __device__ inline void round_run(float value[RUN], const rf_cuda_real &memory)
{
    if (memory.type == RF_CUDA_BF16) {
#pragma unroll
        for (int e = 0; e < RUN; e++) {
            value[e] = __uint_as_float(pack_pair(0.0F, value[e]));
        }
    }
}

/* A run as it lies in memory. Several are fetched before the first is looked at, so that they come together. */
typedef struct raw_run {
    uint4 first, second; /* of bf16 the first alone */
} raw_run;

static __device__ inline raw_run fetch_run(const rf_cuda_real &x, int64_t i)
{
    const bool half = x.type == RF_CUDA_BF16;
    const uint4 *from =
        reinterpret_cast<const uint4 *>(static_cast<const char *>(x.data) + i * (half ? 2 : 4));
    return {from[0], half ? uint4{} : from[1]};
}

static __device__ inline void values_of(float value[RUN], const raw_run &run, rf_cuda_type type)
{
    const unsigned word[RUN] = {run.first.x,  run.first.y,  run.first.z,  run.first.w,
                                run.second.x, run.second.y, run.second.z, run.second.w};
    const bool half = type == RF_CUDA_BF16;
#pragma unroll
    for (int e = 0; e < RUN; e++) {
        const unsigned two = word[e / 2];
        value[e] = __uint_as_float(!half ? word[e] : e % 2 == 0 ? two << 16 : two & 0xffff0000U);
    }
}

/* Heads in a row that lanes take at once: SOME of bf16 where that goes into those of a place, else one. x: with a type
 * that the compiler knows where it is known. */
enum { SOME = 4 };
template <int HEADS> static __device__ inline rf_cuda_real typed(const rf_cuda_real &x)
{
    return HEADS > 1 ? rf_cuda_real{x.data, RF_CUDA_BF16} : x;
}

static bool takes_some(const rf_cuda_angles &angles, const rf_cuda_real &a, const rf_cuda_real &b)
{
    return angles.h % SOME == 0 && a.type == RF_CUDA_BF16 && b.type == RF_CUDA_BF16;
}

/* This lane's run of a row that begins at `at`; 0 beyond the row's end. */
template <int LANES>
static __device__ inline raw_run fetch_own(const rf_cuda_real &x, int64_t at, int d, bool exists)
{
    const int j = static_cast<int>(threadIdx.x) % LANES * RUN;
    return exists && j < d ? fetch_run(x, at + j) : raw_run{};
}

template <int LANES>
static __device__ inline void read_gain(float factor[RUN], const rf_cuda_real &gain, int d)
{
    values_of(factor, fetch_own<LANES>(gain, 0, d, true), gain.type);
}

/* What is normed is rounded as y keeps it, then turned. */
template <int LANES, int HEADS>
static __global__ void __launch_bounds__(BLOCK)
    norm_heads(rf_cuda_real to, float *rstd, rf_cuda_real from, rf_cuda_real gain,
               rf_cuda_angles angles, int64_t n, int d, float eps)
{
    const rf_cuda_real x = typed<HEADS>(from), y = typed<HEADS>(to);
    const int64_t first = thread_number() / LANES * HEADS;
    const int lane = static_cast<int>(threadIdx.x) % LANES, j = lane * RUN;
    const bool exists = first < n; /* all of them, or none */
    raw_run run[HEADS];
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        run[i] = fetch_own<LANES>(x, (first + i) * d, d, exists);
    }
    const lane_turn turned = turn_of<LANES>(angles, first, d, exists, false);
    float factor[RUN];
    read_gain<LANES>(factor, gain, d);
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        const int64_t row = first + i;
        float own[RUN], sum = 0.0F;
        values_of(own, run[i], x.type);
#pragma unroll
        for (int e = 0; e < RUN; e++) {
            sum = fmaf(own[e], own[e], sum);
        }
        const float r = 1.0F / sqrtf(row_sum<LANES>(sum) / static_cast<float>(d) + eps);
#pragma unroll
        for (int e = 0; e < RUN; e++) {
            own[e] = own[e] * r * factor[e];
        }
        round_run(own, y);
        turn_run<LANES>(own, turned);
        if (exists && j < d) {
            write_run<RUN>(y, row * d + j, own);
        }
        if (exists && lane == 0) {
            rstd[row] = r;
        }
    }
}

/* The gradient of a head, which is added to that of the gain. */
template <int LANES>
static __device__ inline void take_head(float dgain[RUN], const rf_cuda_norm_slopes &p, int64_t row,
                                        const raw_run &dy, const raw_run &x, float r,
                                        const float factor[RUN], const lane_turn &turned)
{
    const int d = static_cast<int>(p.d), j = static_cast<int>(threadIdx.x) % LANES * RUN;
    float slope[RUN], own[RUN], out[RUN], sum = 0.0F;
    values_of(slope, dy, p.dy.type);
    values_of(own, x, p.x.type);
    turn_run<LANES>(slope, turned);
    round_run(slope, p.dy);
#pragma unroll
    for (int e = 0; e < RUN; e++) {
        dgain[e] = fmaf(slope[e] * own[e], r, dgain[e]);
        slope[e] *= factor[e];
        sum = fmaf(slope[e], own[e], sum);
    }
    const float c = r * r * row_sum<LANES>(sum) / static_cast<float>(d);
#pragma unroll
    for (int e = 0; e < RUN; e++) {
        out[e] = 0.0F + r * (slope[e] - own[e] * c); /* never -0, as where norms add */
    }
    if (row < p.n && j < d) {
        write_run<RUN>(p.dx, row * d + j, out);
    }
}

/* A block takes `rows` rows, which are turned back first, and rounded as they are kept. p.part: a row of d sums for
 * each block, where there is p.dgain. */
template <int LANES, int HEADS>
static __global__ void __launch_bounds__(BLOCK, 2)
    norm_heads_backward(const __grid_constant__ rf_cuda_norm_slopes all, int rows)
{
    rf_cuda_norm_slopes p = all;
    p.dx = typed<HEADS>(all.dx), p.dy = typed<HEADS>(all.dy), p.x = typed<HEADS>(all.x);
    const int d = static_cast<int>(p.d);
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * rows;
    float dgain[1][RUN] = {}, factor[RUN];
    read_gain<LANES>(factor, p.gain, d);
    for (int i = static_cast<int>(threadIdx.x) / LANES * HEADS; i < rows;
         i += BLOCK / LANES * HEADS) {
        const int64_t first = begin + i;
        const bool exists = first < p.n;
        raw_run dy[HEADS], x[HEADS];
        float r[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            dy[h] = fetch_own<LANES>(p.dy, (first + h) * d, d, first + h < p.n);
            x[h] = fetch_own<LANES>(p.x, (first + h) * d, d, first + h < p.n);
            r[h] = first + h < p.n ? p.rstd[first + h] : 0.0F;
        }
        const lane_turn turned = turn_of<LANES>(p.angles, first, d, exists, true);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            take_head<LANES>(dgain[0], p, first + h, dy[h], x[h], r[h], factor, turned);
        }
    }
    if (p.dgain != nullptr) {
        join_rows<LANES, 1>(p.part + blockIdx.x * static_cast<int64_t>(d), dgain, d);
    }
}

/* --- Which ----------------------------------------------------------------------------------- */

/* Rows of one run a lane, half a row in runs. */
static bool has_lanes(int64_t n, int64_t d, const rf_cuda_real &a, const rf_cuda_real &b,
                      const rf_cuda_real &c, const rf_cuda_real &gain)
{
    return d > 0 && d % (2 * RUN) == 0 && d <= WARP * RUN && n <= UINT32_MAX && in_runs(a) &&
           in_runs(b) && in_runs(c) && in_runs(gain);
}

template <int LANES>
static void launch_heads(rf_cuda_stream stream, rf_cuda_real y, float *rstd, rf_cuda_real x,
                         rf_cuda_real gain, const rf_cuda_angles &angles, int64_t n, int64_t d,
                         float eps)
{
    const bool some = takes_some(angles, x, y);
    const auto kernel = some ? norm_heads<LANES, SOME> : norm_heads<LANES, 1>;
    const unsigned blocks = blocks_for(n, BLOCK / LANES * (some ? SOME : 1));
    kernel<<<blocks, BLOCK, 0, stream>>>(y, rstd, x, gain, angles, n, static_cast<int>(d), eps);
}

int rf_cuda_norm_heads(rf_cuda_stream stream, rf_cuda_real y, float *rstd, rf_cuda_real x,
                       rf_cuda_real gain, const rf_cuda_angles *angles, int64_t n, int64_t d,
                       float eps)
{
    if (n == 0 || gain.data == nullptr) {
        return rf_cuda_turn(stream, y, x, angles, n, d, false);
    }
    if (!has_lanes(n, d, y, x, x, gain)) {
        const int code = rf_cuda_norm(stream, y, rstd, x, gain, n, d, eps);
        return code != 0 ? code : rf_cuda_turn(stream, y, y, angles, n, d, false);
    }
    if (d <= 8 * RUN) {
        launch_heads<8>(stream, y, rstd, x, gain, *angles, n, d, eps);
    } else if (d <= 16 * RUN) {
        launch_heads<16>(stream, y, rstd, x, gain, *angles, n, d, eps);
    } else {
        launch_heads<WARP>(stream, y, rstd, x, gain, *angles, n, d, eps);
    }
    return cudaGetLastError();
}

template <int LANES> static int launch_backward(rf_cuda_stream stream, const rf_cuda_norm_slopes *s)
{
    const bool some = takes_some(s->angles, s->dx, s->dy) && s->x.type == RF_CUDA_BF16;
    const auto kernel = some ? norm_heads_backward<LANES, SOME> : norm_heads_backward<LANES, 1>;
    const int rows = BLOCK / LANES * (some ? 4 * SOME : 8);
    static_assert(BLOCK / WARP * 8 >= RF_CUDA_ROWS, "`part` has room for a piece of so many rows");
    const unsigned blocks = blocks_for(s->n, rows);
    kernel<<<blocks, BLOCK, 0, stream>>>(*s, rows);
    return sum_gain(stream, s, blocks);
}

int rf_cuda_norm_heads_backward(rf_cuda_stream stream, const rf_cuda_norm_slopes *s)
{
    if (s->n == 0 || s->d == 0) {
        return 0;
    }
    if (!has_lanes(s->n, s->d, s->dx, s->dy, s->x, s->gain)) {
        const int code = rf_cuda_turn(stream, s->dy, s->dy, &s->angles, s->n, s->d, true);
        return code != 0 ? code : rf_cuda_norm_backward(stream, s);
    }
    if (s->d <= 8 * RUN) {
        return launch_backward<8>(stream, s);
    }
    return s->d <= 16 * RUN ? launch_backward<16>(stream, s) : launch_backward<WARP>(stream, s);
}
