/* A thread an element: RoPE, SwiGLU, dropout, flat buffers, packing. */
#include "common/kernels/cuda/real.cuh"
#include "common/kernels/gumbel.h"

static __global__ void __launch_bounds__(BLOCK)
    rope(rf_cuda_real x, const float *cosine, const float *sine, const int32_t *position, int64_t n,
         int64_t h, int64_t half, bool inverse)
{
    const int64_t j = thread_number() % half, row = thread_number() / half, i = row / h;
    if (i < n) {
        const int64_t angle = position[i] * half + j, at = row * 2 * half + j;
        const float c = cosine[angle], s = inverse ? -sine[angle] : sine[angle];
        const float a = read(x, at), b = read(x, at + half);
        write(x, at, a * c - b * s);
        write(x, at + half, b * c + a * s);
    }
}

int rf_cuda_rope(rf_cuda_stream stream, rf_cuda_real x, const float *cosine, const float *sine,
                 const int32_t *position, int64_t n, int64_t h, int64_t k, bool inverse)
{
    const int64_t half = k / 2, count = n * h * half;
    if (count == 0) {
        return 0;
    }
    rope<<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(x, cosine, sine, position, n, h, half,
                                                         inverse);
    return cudaGetLastError();
}

static __device__ inline float sigmoid(float x)
{
    return 1.0F / (1.0F + expf(-x));
}

static __global__ void __launch_bounds__(BLOCK)
    swiglu(rf_cuda_real h, rf_cuda_real gate, rf_cuda_real up, int64_t count)
{
    const int64_t i = thread_number();
    if (i < count) {
        const float g = read(gate, i);
        write(h, i, g * sigmoid(g) * read(up, i));
    }
}

int rf_cuda_swiglu(rf_cuda_stream stream, rf_cuda_real h, rf_cuda_real gate, rf_cuda_real up,
                   int64_t count)
{
    if (count == 0) {
        return 0;
    }
    swiglu<<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(h, gate, up, count);
    return cudaGetLastError();
}

/* Derived in ref/swiglu.c. dup may be dh. */
static __global__ void __launch_bounds__(BLOCK)
    swiglu_backward(rf_cuda_real dgate, rf_cuda_real dup, rf_cuda_real dh, rf_cuda_real gate,
                    rf_cuda_real up, int64_t count)
{
    const int64_t i = thread_number();
    if (i < count) {
        const float g = read(gate, i), s = sigmoid(g), slope = read(dh, i);
        write(dgate, i, slope * read(up, i) * s * (1.0F + g * (1.0F - s)));
        write(dup, i, slope * g * s);
    }
}

int rf_cuda_swiglu_backward(rf_cuda_stream stream, rf_cuda_real dgate, rf_cuda_real dup,
                            rf_cuda_real dh, rf_cuda_real gate, rf_cuda_real up, int64_t count)
{
    if (count == 0) {
        return 0;
    }
    swiglu_backward<<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(dgate, dup, dh, gate, up,
                                                                    count);
    return cudaGetLastError();
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

static __global__ void __launch_bounds__(BLOCK)
    convert(rf_cuda_real to, rf_cuda_real from, int64_t count)
{
    const int64_t i = thread_number();
    if (i < count) {
        write(to, i, read(from, i));
    }
}

int rf_cuda_convert(rf_cuda_stream stream, rf_cuda_real to, rf_cuda_real from, int64_t count)
{
    if (count == 0) {
        return 0;
    }
    convert<<<blocks_for(count, BLOCK), BLOCK, 0, stream>>>(to, from, count);
    return cudaGetLastError();
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

static __global__ void __launch_bounds__(BLOCK)
    adamw(float *w, float *m, float *v, const float *g, int64_t n, const rf_cuda_step s)
{
    const int64_t i = thread_number();
    if (i < n) {
        const float grad = s.scale * g[i];
        const float mean = s.beta1 * m[i] + s.rest1 * grad;
        const float square = s.beta2 * v[i] + s.rest2 * grad * grad;
        m[i] = mean;
        v[i] = square;
        w[i] -= s.lr * ((mean / s.c1) / (sqrtf(square / s.c2) + s.eps) + s.decay * w[i]);
    }
}

int rf_cuda_adamw(rf_cuda_stream stream, float *w, float *m, float *v, const float *g, int64_t n,
                  const rf_cuda_step *step)
{
    if (n == 0) {
        return 0;
    }
    adamw<<<blocks_for(n, BLOCK), BLOCK, 0, stream>>>(w, m, v, g, n, *step);
    return cudaGetLastError();
}
