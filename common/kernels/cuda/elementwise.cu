/* A thread an element: SwiGLU, dropout, flat buffers, packing. */
#include "common/kernels/cuda/real.cuh"
#include "common/kernels/gumbel.h"

static __device__ inline float sigmoid(float x)
{
    return 1.0F / (1.0F + expf(-x));
}

template <int EACH>
static __global__ void __launch_bounds__(BLOCK)
    swiglu(rf_cuda_real h, rf_cuda_real gate, rf_cuda_real up, int64_t count)
{
    const int64_t i = thread_number() * EACH;
    if (i < count) {
        float g[EACH], u[EACH];
        read_run<EACH>(g, gate, i);
        read_run<EACH>(u, up, i);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            g[e] = g[e] * sigmoid(g[e]) * u[e];
        }
        write_run<EACH>(h, i, g);
    }
}

int rf_cuda_swiglu(rf_cuda_stream stream, rf_cuda_real h, rf_cuda_real gate, rf_cuda_real up,
                   int64_t count)
{
    if (count == 0) {
        return 0;
    }
    if (count % RUN == 0 && in_runs(h) && in_runs(gate) && in_runs(up)) {
        swiglu<RUN><<<blocks_for(count / RUN, BLOCK), BLOCK, 0, stream>>>(h, gate, up, count);
    } else {
        swiglu<1><<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(h, gate, up, count);
    }
    return cudaGetLastError();
}

/* Derived in ref/swiglu.c. dup may be dh. h: made again, or no data. */
template <int EACH>
static __global__ void __launch_bounds__(BLOCK)
    swiglu_backward(rf_cuda_real dgate, rf_cuda_real dup, rf_cuda_real h, rf_cuda_real dh,
                    rf_cuda_real gate, rf_cuda_real up, int64_t count)
{
    const int64_t i = thread_number() * EACH;
    if (i >= count) {
        return;
    }
    float g[EACH], u[EACH], slope[EACH], again[EACH];
    read_run<EACH>(g, gate, i);
    read_run<EACH>(u, up, i);
    read_run<EACH>(slope, dh, i);
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const float s = sigmoid(g[e]), silu = g[e] * s;
        again[e] = silu * u[e];
        u[e] = slope[e] * u[e] * s * (1.0F + g[e] * (1.0F - s));
        slope[e] = slope[e] * silu;
    }
    write_run<EACH>(dgate, i, u);
    write_run<EACH>(dup, i, slope);
    if (h.data != nullptr) {
        write_run<EACH>(h, i, again);
    }
}

int rf_cuda_swiglu_again(rf_cuda_stream stream, rf_cuda_real dgate, rf_cuda_real dup,
                         rf_cuda_real h, rf_cuda_real dh, rf_cuda_real gate, rf_cuda_real up,
                         int64_t count)
{
    if (count == 0) {
        return 0;
    }
    if (count % RUN == 0 && in_runs(dgate) && in_runs(dup) && in_runs(h) && in_runs(dh) &&
        in_runs(gate) && in_runs(up)) {
        swiglu_backward<RUN><<<blocks_for(count / RUN, BLOCK), BLOCK, 0, stream>>>(
            dgate, dup, h, dh, gate, up, count);
    } else {
        swiglu_backward<1>
            <<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(dgate, dup, h, dh, gate, up, count);
    }
    return cudaGetLastError();
}

int rf_cuda_swiglu_backward(rf_cuda_stream stream, rf_cuda_real dgate, rf_cuda_real dup,
                            rf_cuda_real dh, rf_cuda_real gate, rf_cuda_real up, int64_t count)
{
    return rf_cuda_swiglu_again(stream, dgate, dup, {nullptr, RF_CUDA_F32}, dh, gate, up, count);
}

static __global__ void __launch_bounds__(BLOCK)
    scale_dropout(rf_cuda_real y, rf_cuda_real x, float factor, double rate, uint64_t key,
                  int64_t count, bool accumulates)
{
    const int64_t i = thread_number();
    if (i < count) {
        const bool keep = rate <= 0.0 || rf_gumbel_uniform(key, i) >= rate;
        const float value = keep ? factor * read(x, i) : 0.0F;
        write(y, i, accumulates ? read(y, i) + value : value);
    }
}

int rf_cuda_scale_dropout(rf_cuda_stream stream, rf_cuda_real y, rf_cuda_real x, float factor,
                          double rate, uint64_t key, int64_t count, bool accumulates)
{
    if (count == 0) {
        return 0;
    }
    scale_dropout<<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(y, x, factor, rate, key, count,
                                                                  accumulates);
    return cudaGetLastError();
}

/* --- Packing --------------------------------------------------------------------------------- */

template <int EACH>
static __global__ void __launch_bounds__(BLOCK)
    convert(rf_cuda_real to, rf_cuda_real from, int64_t count)
{
    const int64_t i = thread_number() * EACH;
    if (i < count) {
        float value[EACH];
        read_run<EACH>(value, from, i);
        write_run<EACH>(to, i, value);
    }
}

int rf_cuda_convert(rf_cuda_stream stream, rf_cuda_real to, rf_cuda_real from, int64_t count)
{
    if (count == 0) {
        return 0;
    }
    if (count % RUN == 0 && in_runs(to) && in_runs(from)) {
        convert<RUN><<<blocks_for(count / RUN, BLOCK), BLOCK, 0, stream>>>(to, from, count);
    } else {
        convert<1><<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(to, from, count);
    }
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(BLOCK)
    add_bias(rf_cuda_real y, rf_cuda_real bias, rf_cuda_real start, int64_t count, int64_t d)
{
    const int64_t i = thread_number();
    if (i < count) {
        const float value = read(bias, i % d);
        write(y, i, start.data != nullptr ? value + read(start, i) : value);
    }
}

int rf_cuda_add_bias(rf_cuda_stream stream, rf_cuda_real y, rf_cuda_real bias, rf_cuda_real start,
                     int64_t n, int64_t d)
{
    if (n * d == 0) {
        return 0;
    }
    add_bias<<<blocks_for(n * d, BLOCK), BLOCK, 0, stream>>>(y, bias, start, n * d, d);
    return cudaGetLastError();
}

/* The elements of a chunk, from their order to that of rf_cuda_int8_at. */
static __device__ void reorder(uint4 *chunk)
{
    enum { WORDS = RF_CUDA_INT8_CHUNK / 4, LANES = 4, STEPS = RF_CUDA_INT8_CHUNK / 16 };
    uint32_t word[WORDS];
#pragma unroll
    for (int i = 0; i < WORDS / 4; i++) {
        const uint4 four = chunk[i];
        word[4 * i] = four.x, word[4 * i + 1] = four.y, word[4 * i + 2] = four.z;
        word[4 * i + 3] = four.w;
    }
#pragma unroll
    for (int lane = 0; lane < LANES; lane++) {
        uint32_t own[STEPS];
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            own[step] = __byte_perm(word[4 * step + lane / 2], word[4 * step + 2 + lane / 2],
                                    lane % 2 == 0 ? 0x5410 : 0x7632);
        }
#pragma unroll
        for (int i = 0; i < STEPS; i += 4) {
            chunk[(lane * STEPS + i) / 4] = make_uint4(own[i], own[i + 1], own[i + 2], own[i + 3]);
        }
    }
}

/* A thread takes a group. */
static __global__ void __launch_bounds__(BLOCK)
    quantize(char *to, const float *from, int64_t rows, int64_t width, int64_t groups)
{
    const int64_t row = thread_number() / groups, group = thread_number() % groups;
    const int64_t begin = group * RF_QUANTIZE_GROUP, rest = width - begin;
    if (row < rows) {
        char *own = to + row * rf_cuda_int8_row(width);
        float *scale = reinterpret_cast<float *>(own + rf_cuda_int8_scales(width));
        scale[group] =
            rf_quantize(reinterpret_cast<int8_t *>(own + begin), from + row * width + begin,
                        min(rest, static_cast<int64_t>(RF_QUANTIZE_GROUP)));
        const int64_t end = min(begin + RF_QUANTIZE_GROUP, rf_cuda_int8_scales(width));
        for (int64_t i = width; i < end; i++) {
            own[i] = 0;
        }
        for (int64_t chunk = begin; chunk < end; chunk += RF_CUDA_INT8_CHUNK) {
            reorder(reinterpret_cast<uint4 *>(own + chunk));
        }
    }
}

int rf_cuda_quantize(rf_cuda_stream stream, void *to, const float *from, int64_t rows,
                     int64_t width)
{
    const int64_t groups = rf_quantize_groups(width);
    if (rows * groups == 0) {
        return 0;
    }
    quantize<<<blocks_for(rows * groups, BLOCK), BLOCK, 0, stream>>>(static_cast<char *>(to), from,
                                                                     rows, width, groups);
    return cudaGetLastError();
}

/* --- Flat buffers ---------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(BLOCK) add(float *y, const float *x, int64_t n)
{
    const int64_t i = thread_number();
    if (i < n) {
        y[i] += x[i];
    }
}

int rf_cuda_add(rf_cuda_stream stream, float *y, const float *x, int64_t n)
{
    if (n == 0) {
        return 0;
    }
    add<<<blocks_for(n, BLOCK), BLOCK, 0, stream>>>(y, x, n);
    return cudaGetLastError();
}

/* A block sums a run: thread t elements t, t + BLOCK, ...; then a tree. Squares of f32 are exact in
 * f64. */
static __global__ void __launch_bounds__(BLOCK)
    sum_squares(double *sums, const float *x, int64_t n, int64_t run)
{
    __shared__ double part[BLOCK];
    const int64_t begin = blockIdx.x * run, end = min(begin + run, n);
    double sum = 0.0;
    for (int64_t i = begin + threadIdx.x; i < end; i += BLOCK) {
        const double value = static_cast<double>(x[i]);
        sum += value * value;
    }
    part[threadIdx.x] = sum;
    for (unsigned step = BLOCK / 2; step > 0; step /= 2) {
        __syncthreads();
        if (threadIdx.x < step) {
            part[threadIdx.x] += part[threadIdx.x + step];
        }
    }
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = part[0];
    }
}

int rf_cuda_sum_squares(rf_cuda_stream stream, double *sums, const float *x, int64_t n, int64_t run)
{
    if (n == 0) {
        return 0;
    }
    sum_squares<<<blocks_for(n, run), BLOCK, 0, stream>>>(sums, x, n, run);
    return cudaGetLastError();
}

/* One block: there is a sum for 64 Ki elements. */
static __global__ void __launch_bounds__(BLOCK) sum_tree(double *sums, int64_t n)
{
    for (int64_t step = 1; step < n; step *= 2) {
        for (int64_t i = 2 * step * threadIdx.x; i + step < n; i += 2 * step * BLOCK) {
            sums[i] += sums[i + step];
        }
        __syncthreads();
    }
    if (n == 0 && threadIdx.x == 0) {
        sums[0] = 0.0;
    }
}

int rf_cuda_sum_tree(rf_cuda_stream stream, double *sums, int64_t n)
{
    sum_tree<<<1, BLOCK, 0, stream>>>(sums, n);
    return cudaGetLastError();
}

/* A thread takes EACH elements. */
template <int EACH>
static __global__ void __launch_bounds__(BLOCK)
    adamw(float *w, float *m, float *v, const float *g, int64_t n, const rf_cuda_step s)
{
    const int64_t i = thread_number() * EACH;
    if (i >= n) {
        return;
    }
    float grad[EACH], mean[EACH], square[EACH], weight[EACH];
    const rf_cuda_real to_w = {w, RF_CUDA_F32}, to_m = {m, RF_CUDA_F32}, to_v = {v, RF_CUDA_F32};
    read_run<EACH>(grad, {const_cast<float *>(g), RF_CUDA_F32}, i);
    read_run<EACH>(mean, to_m, i);
    read_run<EACH>(square, to_v, i);
    read_run<EACH>(weight, to_w, i);
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const float own = s.scale * grad[e];
        mean[e] = s.beta1 * mean[e] + s.rest1 * own;
        square[e] = s.beta2 * square[e] + s.rest2 * own * own;
        weight[e] -=
            s.lr * ((mean[e] / s.c1) / (sqrtf(square[e] / s.c2) + s.eps) + s.decay * weight[e]);
    }
    write_run<EACH>(to_m, i, mean);
    write_run<EACH>(to_v, i, square);
    write_run<EACH>(to_w, i, weight);
}

int rf_cuda_adamw(rf_cuda_stream stream, float *w, float *m, float *v, const float *g, int64_t n,
                  const rf_cuda_step *step)
{
    const uintptr_t ends = reinterpret_cast<uintptr_t>(w) | reinterpret_cast<uintptr_t>(m) |
                           reinterpret_cast<uintptr_t>(v) | reinterpret_cast<uintptr_t>(g);
    if (n == 0) {
        return 0;
    }
    if (n % RUN == 0 && ends % 16 == 0) {
        adamw<RUN><<<blocks_for(n / RUN, BLOCK), BLOCK, 0, stream>>>(w, m, v, g, n, *step);
    } else {
        adamw<1><<<blocks_for(n, BLOCK), BLOCK, 0, stream>>>(w, m, v, g, n, *step);
    }
    return cudaGetLastError();
}
