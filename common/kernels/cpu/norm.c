/* RMSNorm (arXiv:1910.07467), forward and backward, each in one pass over the rows; of heads with
 * their rotation. */
#include "common/kernels/cpu/internal.h"

#include <math.h>
#include <omp.h>

/* dgain is summed over groups of so many rows, and then over the groups in order. */
enum { GAIN_ROWS = 128 };

static float sum_of_squares(rf_type type, const void *x, int64_t at, int64_t d)
{
    vf sum = v_zero();
    for (int64_t c = 0; c < d; c += VL) {
        vf a = load_as(type, x, at + c, d - c);
        sum = v_fma(a, a, sum);
    }
    return v_sum(sum);
}

/* y[at...] = x[at...] normed; returns rstd. y may be x. */
static float norm_row(rf_type to, void *y, rf_type from, const void *x, int64_t at,
                      const float *gain, int64_t d, double eps)
{
    float mean = sum_of_squares(from, x, at, d) / (float)d;
    float r = 1.0F / sqrtf(mean + (float)eps);
    for (int64_t c = 0; c < d; c += VL) {
        vf a = v_mul(load_as(from, x, at + c, d - c), v_set(r));
        store_as(to, y, at + c, v_mul(a, v_load_n(gain + c, d - c)), d - c);
    }
    return r;
}

void RF_CPU(rmsnorm_forward)(rf_ctx *ctx, void *y, void *rstd, rf_const_array x, const void *gain,
                             int64_t n, int64_t d, double eps)
{
    const rf_type from = type_of(ctx, x.cls), to = type_of(ctx, RF_ACTIVATION);
    float *statistic = rstd;
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 3 * n * d))
    for (int64_t i = 0; i < n; i++) {
        statistic[i] = norm_row(to, y, from, x.data, i * d, gain, d, eps);
    }
}

/* With u = dy * gain and z = x * rstd (so y = z * gain):
 *   dgain = sum over rows of dy * z,   dx = rstd * (u - z * mean(u * z)),
 * the second term because rstd depends on every x of the row. dx may be dy: a row is read before it
 * is written. `part` [d] = the part of dgain of these rows. */
static void backward_rows(float *dx, float *part, const float *dy, rf_type type, const void *x,
                          int64_t at, const float *gain, const float *rstd, int64_t rows, int64_t d,
                          bool accumulate)
{
    for (int64_t c = 0; c < d; c += VL) {
        v_store_n(part + c, v_zero(), d - c);
    }
    for (int64_t i = 0; i < rows; i++, dx += d, dy += d, at += d) {
        vf r = v_set(rstd[i]), dot = v_zero();
        for (int64_t c = 0; c < d; c += VL) {
            vf z = v_mul(load_as(type, x, at + c, d - c), r), grad = v_load_n(dy + c, d - c);
            dot = v_fma(v_mul(grad, v_load_n(gain + c, d - c)), z, dot);
            v_store_n(part + c, v_fma(grad, z, v_load_n(part + c, d - c)), d - c);
        }
        vf mean = v_set(v_sum(dot) / (float)d);
        for (int64_t c = 0; c < d; c += VL) {
            vf z = v_mul(load_as(type, x, at + c, d - c), r);
            vf u = v_mul(v_load_n(dy + c, d - c), v_load_n(gain + c, d - c));
            vf out = v_mul(r, v_fnma(z, mean, u));
            if (accumulate) {
                out = v_add(v_load_n(dx + c, d - c), out);
            }
            v_store_n(dx + c, out, d - c);
        }
    }
}

void RF_CPU(rmsnorm_backward)(rf_ctx *ctx, rf_array dx, void *dgain, rf_const_array dy,
                              rf_const_array x, const void *gain, const void *rstd, int64_t n,
                              int64_t d, bool accumulate)
{
    int64_t groups = ceil_div(n, GAIN_ROWS), ld = line_floats(d);
    float *part = ctx->scratch;
    RF_ASSERT((size_t)(groups * ld) * sizeof(float) <= ctx->scratch_bytes);
#pragma omp parallel num_threads(threads_for(ctx, 5 * n * d))
    {
#pragma omp for schedule(static)
        for (int64_t b = 0; b < groups; b++) {
            int64_t i = b * GAIN_ROWS;
            backward_rows((float *)dx.data + i * d, part + b * ld, (const float *)dy.data + i * d,
                          type_of(ctx, x.cls), x.data, i * d, gain, (const float *)rstd + i,
                          min_of(GAIN_ROWS, n - i), d, accumulate);
        }
        int64_t begin, end;
        part_of_lines(&begin, &end, d, omp_get_thread_num(), omp_get_num_threads());
        float *sum = dgain;
        for (int64_t b = 0; sum != NULL && b < groups; b++) {
            for (int64_t c = begin; c < end; c += VL) {
                vf a = v_add(v_load_n(sum + c, end - c), v_load_n(part + b * ld + c, end - c));
                v_store_n(sum + c, a, end - c);
            }
        }
    }
}

/* (a, b) -> (a cos - b sin, b cos + a sin), a and b half a head apart, in the h heads of place i. The
 * inverse rotation is the transpose, hence the backward pass. to may be from. */
static void turn_place(rf_type type, void *to, const void *from, const rf_angles *angles, int64_t i,
                       int64_t h, int64_t k, bool back)
{
    const int64_t half = k / 2;
    const float *cosine = (const float *)angles->cos + angles->position[i] * half;
    const float *sine = (const float *)angles->sin + angles->position[i] * half;
    for (int64_t c = 0; c < half; c += VL) {
        vf co = v_load_n(cosine + c, half - c);
        vf si = v_mul(v_set(back ? -1.0F : 1.0F), v_load_n(sine + c, half - c));
        for (int64_t j = 0; j < h; j++) {
            const int64_t low = (i * h + j) * k + c, high = low + half;
            vf a = load_as(type, from, low, half - c), b = load_as(type, from, high, half - c);
            store_as(type, to, low, v_fnma(b, si, v_mul(a, co)), half - c);
            store_as(type, to, high, v_fma(a, si, v_mul(b, co)), half - c);
        }
    }
}

void RF_CPU(heads_forward)(rf_ctx *ctx, void *out, void *rstd, const void *raw, const void *gain,
                           const rf_angles *angles, int64_t n, int64_t h, int64_t k, double eps)
{
    const rf_type type = type_of(ctx, RF_ACTIVATION);
    float *statistic = rstd;
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 5 * n * h * k))
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i * h; gain != NULL && j < (i + 1) * h; j++) {
            statistic[j] = norm_row(type, out, type, raw, j * k, gain, k, eps);
        }
        turn_place(type, out, gain != NULL ? out : raw, angles, i, h, k, false);
    }
}

void RF_CPU(heads_backward)(rf_ctx *ctx, void *dy, void *dgain, const void *raw, const void *gain,
                            const void *rstd, const rf_angles *angles, int64_t n, int64_t h,
                            int64_t k)
{
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * n * h * k))
    for (int64_t i = 0; i < n; i++) {
        turn_place(type_of(ctx, RF_PRODUCT), dy, dy, angles, i, h, k, true);
    }
    if (gain != NULL) {
        RF_CPU(rmsnorm_backward)
        (ctx, (rf_array){dy, RF_PRODUCT}, dgain, (rf_const_array){dy, RF_PRODUCT},
         (rf_const_array){raw, RF_ACTIVATION}, gain, rstd, n * h, k, false);
    }
}

size_t RF_CPU(norm_bytes)(const rf_limits *limits)
{
    if (!limits->backward) {
        return 0;
    }
    /* N rows of D, N*H rows of K, or N*G rows of K. */
    int64_t heads = max_of(limits->n_heads, limits->n_kv_heads);
    int64_t groups = ceil_div(limits->places, GAIN_ROWS);
    int64_t head_groups = ceil_div(limits->places * heads, GAIN_ROWS);
    int64_t floats =
        max_of(groups * line_floats(limits->width), head_groups * line_floats(limits->head_dim));
    return (size_t)floats * sizeof(float);
}
