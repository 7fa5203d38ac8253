/* RMSNorm; sums over rows. */
#include "common/kernels/cuda/row.cuh"

/* Two kinds of kernels. Where rows are runs of 8 elements, at most WIDEST of them, LANES lanes take a row,
 * STEPS runs each, and keep it in registers; the backward kernel then sums the gain's gradient as it
 * goes. For other rows a warp takes a row and reads it twice. */
enum { MOST_STEPS = 4, WIDEST = WARP * RUN * MOST_STEPS };

/* --- Any width ------------------------------------------------------------------------------- */

/* A warp takes a row. */
static __global__ void __launch_bounds__(BLOCK)
    norm(rf_cuda_real y, float *rstd, rf_cuda_real x, rf_cuda_real gain, int64_t n, int64_t d,
         float eps)
{
    const int64_t row = thread_number() / WARP, lane = threadIdx.x % WARP, at = row * d;
    if (row >= n) {
        return;
    }
    float sum = 0.0F;
#pragma unroll 8
    for (int64_t j = lane; j < d; j += WARP) {
        const float value = read(x, at + j);
        sum = fmaf(value, value, sum);
    }
    const float mean = d > 0 ? warp_sum(sum) / static_cast<float>(d) : 0.0F;
    const float r = 1.0F / sqrtf(mean + eps);
#pragma unroll 8
    for (int64_t j = lane; j < d; j += WARP) {
        write(y, at + j, read(x, at + j) * r * read(gain, j));
    }
    if (lane == 0) {
        rstd[row] = r;
    }
}

/* dx = r (dy gain - x c), c = r^2 / D sum_j dy_j gain_j x_j: derived in ref/norm.c. dx may be dy. */
static __global__ void __launch_bounds__(BLOCK)
    norm_backward(rf_cuda_real dx, rf_cuda_real dy, rf_cuda_real x, rf_cuda_real gain,
                  const float *rstd, int64_t n, int64_t d, bool accumulates)
{
    const int64_t row = thread_number() / WARP, lane = threadIdx.x % WARP, at = row * d;
    if (row >= n) {
        return;
    }
    float sum = 0.0F;
    for (int64_t j = lane; j < d; j += WARP) {
        sum = fmaf(read(dy, at + j) * read(gain, j), read(x, at + j), sum);
    }
    const float r = rstd[row], c = r * r * warp_sum(sum) / static_cast<float>(d);
    for (int64_t j = lane; j < d; j += WARP) {
        const float slope = r * (read(dy, at + j) * read(gain, j) - read(x, at + j) * c);
        write(dx, at + j, accumulates ? read(dx, at + j) + slope : slope);
    }
}

/* part[piece][j] = the sum of column j over the piece's rows, in ascending order. */
static __global__ void __launch_bounds__(BLOCK)
    sum_piece(float *part, rf_cuda_real x, rf_cuda_real with, const float *factor, int64_t n,
              int64_t d)
{
    const int64_t j = thread_number() % d, piece = thread_number() / d;
    const int64_t begin = piece * RF_CUDA_ROWS, end = min(begin + RF_CUDA_ROWS, n);
    float sum = 0.0F;
    for (int64_t i = begin; i < end; i++) {
        const float value = read(x, i * d + j);
        sum += with.data != nullptr ? value * read(with, i * d + j) * factor[i] : value;
    }
    if (begin < n) {
        part[piece * d + j] = sum;
    }
}

/* sums[j] += the sum over pieces: a warp takes every SUMMERS-th piece, then the warps in order. */
enum { SUMMERS = 32 };
static __global__ void __launch_bounds__(SUMMERS *WARP)
    sum_pieces(float *sums, const float *part, int64_t pieces, int64_t d)
{
    __shared__ float each[SUMMERS][WARP];
    const int lane = static_cast<int>(threadIdx.x) % WARP,
              warp = static_cast<int>(threadIdx.x) / WARP;
    const int64_t j = static_cast<int64_t>(blockIdx.x) * WARP + lane;
    float sum = 0.0F;
#pragma unroll 8
    for (int64_t piece = warp; piece < pieces; piece += SUMMERS) {
        sum += j < d ? part[piece * d + j] : 0.0F;
    }
    each[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && j < d) {
        for (int w = 1; w < SUMMERS; w++) {
            sum += each[w][lane];
        }
        sums[j] += sum;
    }
}

int rf_cuda_sum_pieces(rf_cuda_stream stream, float *sums, const float *part, int64_t pieces,
                       int64_t d)
{
    sum_pieces<<<blocks_for(d, WARP), SUMMERS * WARP, 0, stream>>>(sums, part, pieces, d);
    return cudaGetLastError();
}

int rf_cuda_sum_columns(rf_cuda_stream stream, float *sums, float *part, rf_cuda_real x,
                        rf_cuda_real with, const float *factor, int64_t n, int64_t d)
{
    const int64_t pieces = rf_cuda_pieces(n);
    if (n == 0 || d == 0) {
        return 0;
    }
    sum_piece<<<blocks_for(pieces * d, BLOCK), BLOCK, 0, stream>>>(part, x, with, factor, n, d);
    return rf_cuda_sum_pieces(stream, sums, part, pieces, d);
}

/* --- Rows of runs ---------------------------------------------------------------------------- */

/* This lane's runs of a row that begins at `at`; 0 beyond the row's end. */
template <int LANES, int STEPS>
static __device__ inline void read_row_runs(float value[STEPS][RUN], const rf_cuda_real &x,
                                            int64_t at, int d, bool exists)
{
    const int lane = static_cast<int>(threadIdx.x) % LANES;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int j = (s * LANES + lane) * RUN;
        if (exists && j < d) {
            read_run<RUN>(value[s], x, at + j);
        } else {
#pragma unroll
            for (int e = 0; e < RUN; e++) {
                value[s][e] = 0.0F;
            }
        }
    }
}

template <int LANES, int STEPS>
static __global__ void __launch_bounds__(BLOCK)
    norm_runs(rf_cuda_real y, float *rstd, rf_cuda_real x, rf_cuda_real gain, int64_t n, int d,
              float eps)
{
    const int64_t row = thread_number() / LANES;
    const int lane = static_cast<int>(threadIdx.x) % LANES;
    float own[STEPS][RUN], sum = 0.0F;
    read_row_runs<LANES, STEPS>(own, x, row * d, d, row < n);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
#pragma unroll
        for (int e = 0; e < RUN; e++) {
            sum = fmaf(own[s][e], own[s][e], sum);
        }
    }
    const float r = 1.0F / sqrtf(row_sum<LANES>(sum) / static_cast<float>(d) + eps);
    if (row >= n) {
        return;
    }
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int j = (s * LANES + lane) * RUN;
        if (j < d) {
            float factor[RUN];
            read_run<RUN>(factor, gain, j);
#pragma unroll
            for (int e = 0; e < RUN; e++) {
                own[s][e] = own[s][e] * r * factor[e];
            }
        }
        if (j < d) {
            write_run<RUN>(y, row * d + j, own[s]);
        }
    }
    if (lane == 0) {
        rstd[row] = r;
    }
}

/* A block takes `rows` rows: each of its groups of LANES lanes every BLOCK / LANES-th. part: a row of d sums
 * for each block, or NULL; half: dx as bf16, or NULL. Of one run a lane four blocks share the registers. */
template <int LANES, int STEPS>
static __global__ void __launch_bounds__(BLOCK, STEPS == 1 ? 4 : 0)
    norm_backward_runs(rf_cuda_real dx, rf_cuda_real half, float *part, rf_cuda_real dy,
                       rf_cuda_real x, rf_cuda_real gain, const float *rstd, int64_t n, int d,
                       int rows, bool accumulates)
{
    constexpr int GROUPS = BLOCK / LANES;
    const int lane = static_cast<int>(threadIdx.x) % LANES;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * rows;
    float dgain[STEPS][RUN] = {};
    for (int i = static_cast<int>(threadIdx.x) / LANES; i < rows; i += GROUPS) {
        const int64_t row = first + i, at = row * d;
        const float r = row < n ? rstd[row] : 0.0F;
        float slope[STEPS][RUN], own[STEPS][RUN], sum = 0.0F;
        read_row_runs<LANES, STEPS>(slope, dy, at, d, row < n);
        read_row_runs<LANES, STEPS>(own, x, at, d, row < n);
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int j = (s * LANES + lane) * RUN;
            float factor[RUN] = {};
            if (j < d) {
                read_run<RUN>(factor, gain, j);
            }
#pragma unroll
            for (int e = 0; e < RUN; e++) {
                dgain[s][e] = fmaf(slope[s][e] * own[s][e], r, dgain[s][e]);
                slope[s][e] *= factor[e];
                sum = fmaf(slope[s][e], own[s][e], sum);
            }
        }
        const float c = r * r * row_sum<LANES>(sum) / static_cast<float>(d);
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int j = (s * LANES + lane) * RUN;
            if (row >= n || j >= d) {
                continue;
            }
            float old[RUN] = {};
            if (accumulates) {
                read_run<RUN>(old, dx, at + j);
            }
#pragma unroll
            for (int e = 0; e < RUN; e++) {
                old[e] += r * (slope[s][e] - own[s][e] * c);
            }
            write_run<RUN>(dx, at + j, old);
            if (half.data != nullptr) {
                write_run<RUN>(half, at + j, old);
            }
        }
    }
    if (part != nullptr) {
        join_rows<LANES, STEPS>(part + blockIdx.x * static_cast<int64_t>(d), dgain, d);
    }
}

/* --- Which ----------------------------------------------------------------------------------- */

static bool has_runs(int64_t d, const rf_cuda_real &a, const rf_cuda_real &b, const rf_cuda_real &c)
{
    return d % RUN == 0 && d > 0 && d <= WIDEST && in_runs(a) && in_runs(b) && in_runs(c);
}

template <int LANES, int STEPS>
static void launch_norm(rf_cuda_stream stream, rf_cuda_real y, float *rstd, rf_cuda_real x,
                        rf_cuda_real gain, int64_t n, int64_t d, float eps)
{
    norm_runs<LANES, STEPS><<<blocks_for(n, BLOCK / LANES), BLOCK, 0, stream>>>(
        y, rstd, x, gain, n, static_cast<int>(d), eps);
}

int rf_cuda_norm(rf_cuda_stream stream, rf_cuda_real y, float *rstd, rf_cuda_real x,
                 rf_cuda_real gain, int64_t n, int64_t d, float eps)
{
    if (n == 0) {
        return 0;
    }
    if (!has_runs(d, y, x, gain)) {
        norm<<<blocks_for(n, WARPS), BLOCK, 0, stream>>>(y, rstd, x, gain, n, d, eps);
    } else if (d <= 8 * RUN) {
        launch_norm<8, 1>(stream, y, rstd, x, gain, n, d, eps);
    } else if (d <= 16 * RUN) {
        launch_norm<16, 1>(stream, y, rstd, x, gain, n, d, eps);
    } else if (d <= WARP * RUN) {
        launch_norm<WARP, 1>(stream, y, rstd, x, gain, n, d, eps);
    } else if (d <= 2 * WARP * RUN) {
        launch_norm<WARP, 2>(stream, y, rstd, x, gain, n, d, eps);
    } else if (d <= 3 * WARP * RUN) {
        launch_norm<WARP, 3>(stream, y, rstd, x, gain, n, d, eps);
    } else {
        launch_norm<WARP, MOST_STEPS>(stream, y, rstd, x, gain, n, d, eps);
    }
    return cudaGetLastError();
}

template <int LANES, int STEPS>
static int launch_backward(rf_cuda_stream stream, const rf_cuda_norm_slopes *s)
{
    constexpr int rows = BLOCK / LANES * 8;
    static_assert(rows >= RF_CUDA_ROWS, "`part` has room for a piece of so many rows");
    const unsigned blocks = blocks_for(s->n, rows);
    norm_backward_runs<LANES, STEPS><<<blocks, BLOCK, 0, stream>>>(
        s->dx, s->half, s->dgain != nullptr ? s->part : nullptr, s->dy, s->x, s->gain, s->rstd,
        s->n, static_cast<int>(s->d), rows, s->accumulates);
    return sum_gain(stream, s, blocks);
}

int rf_cuda_norm_backward(rf_cuda_stream stream, const rf_cuda_norm_slopes *s)
{
    if (s->n == 0 || s->d == 0) {
        return 0;
    }
    if (!has_runs(s->d, s->dx, s->dy, s->x) || !in_runs(s->gain)) {
        if (s->dgain != nullptr) { /* first: dx may be dy */
            const int code =
                rf_cuda_sum_columns(stream, s->dgain, s->part, s->dy, s->x, s->rstd, s->n, s->d);
            if (code != 0) {
                return code;
            }
        }
        norm_backward<<<blocks_for(s->n, WARPS), BLOCK, 0, stream>>>(
            s->dx, s->dy, s->x, s->gain, s->rstd, s->n, s->d, s->accumulates);
        return s->half.data != nullptr ? rf_cuda_convert(stream, s->half, s->dx, s->n * s->d)
                                       : cudaGetLastError();
    }
    if (s->d <= 8 * RUN) {
        return launch_backward<8, 1>(stream, s);
    }
    if (s->d <= 16 * RUN) {
        return launch_backward<16, 1>(stream, s);
    }
    if (s->d <= WARP * RUN) {
        return launch_backward<WARP, 1>(stream, s);
    }
    if (s->d <= 2 * WARP * RUN) {
        return launch_backward<WARP, 2>(stream, s);
    }
    return s->d <= 3 * WARP * RUN ? launch_backward<WARP, 3>(stream, s)
                                  : launch_backward<WARP, MOST_STEPS>(stream, s);
}
