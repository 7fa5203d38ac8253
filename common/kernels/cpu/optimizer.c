/* Kernels on flat buffers of masters, gradients and moments. */
#include "common/kernels/cpu/internal.h"
#include "common/kernels/ref/ref.h"

#include <omp.h>

enum { SUM_LANES = 16 };

void RF_CPU(add)(rf_ctx *ctx, void *y, const void *x, int64_t n)
{
    float *to = y;
    const float *from = x;
#pragma omp parallel num_threads(threads_for(ctx, 3 * n))
    {
        int64_t begin, end;
        part_of_lines(&begin, &end, n, omp_get_thread_num(), omp_get_num_threads());
        for (int64_t i = begin; i < end; i += VL) {
            v_store_n(to + i, v_add(v_load_n(to + i, end - i), v_load_n(from + i, end - i)),
                      end - i);
        }
    }
}

/* Lane j takes elements j, j + 16, ...; squares of f32 are exact in f64. */
static double sum_run(const float *x, int64_t n)
{
    double lane[SUM_LANES] = {0.0};
    int64_t i = 0;
    for (; i + SUM_LANES <= n; i += SUM_LANES) {
        for (int j = 0; j < SUM_LANES; j++) {
            lane[j] += (double)x[i + j] * (double)x[i + j];
        }
    }
    for (int j = 0; i + j < n; j++) {
        lane[j] += (double)x[i + j] * (double)x[i + j];
    }
    double sum = 0.0;
    for (int j = 0; j < SUM_LANES; j++) {
        sum += lane[j];
    }
    return sum;
}

void RF_CPU(sum_squares)(rf_ctx *ctx, void *sums, const void *x, int64_t first, int64_t n)
{
    double *to = (double *)sums + first / RF_SUM_RUN;
    const float *from = x;
    const int64_t n_runs = rf_sum_runs(n);
    RF_ASSERT(first % RF_SUM_RUN == 0);
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, n))
    for (int64_t i = 0; i < n_runs; i++) {
        to[i] = sum_run(from + i * RF_SUM_RUN, min_of(RF_SUM_RUN, n - i * RF_SUM_RUN));
    }
}

void RF_CPU(sum_tree)(rf_ctx *ctx, void *sums, int64_t n)
{
    rf_ref32_sum_tree(ctx, sums, n);
}

void RF_CPU(adamw)(rf_ctx *ctx, void *w, void *m, void *v, const void *g, int64_t n,
                   const rf_adamw *step)
{
    const vf scale = v_set((float)step->scale), lr = v_set((float)step->lr);
    const vf beta1 = v_set((float)step->beta1), rest1 = v_set((float)(1.0 - step->beta1));
    const vf beta2 = v_set((float)step->beta2), rest2 = v_set((float)(1.0 - step->beta2));
    const vf mean_scale = v_set((float)(1.0 / step->c1)),
             var_scale = v_set((float)(1.0 / step->c2));
    const vf eps = v_set((float)step->eps), decay = v_set((float)step->decay);
#pragma omp parallel num_threads(threads_for(ctx, 7 * n))
    {
        int64_t begin, end;
        part_of_lines(&begin, &end, n, omp_get_thread_num(), omp_get_num_threads());
        for (int64_t i = begin; i < end; i += VL) {
            float *weight = (float *)w + i, *first = (float *)m + i, *second = (float *)v + i;
            int64_t lanes = end - i;
            vf grad = v_mul(scale, v_load_n((const float *)g + i, lanes));
            vf mean = v_fma(beta1, v_load_n(first, lanes), v_mul(rest1, grad));
            vf var = v_fma(beta2, v_load_n(second, lanes), v_mul(v_mul(rest2, grad), grad));
            vf x = v_load_n(weight, lanes);
            vf root = v_add(v_sqrt(v_mul(var, var_scale)), eps);
            vf move = v_fma(decay, x, v_div(v_mul(mean, mean_scale), root));
            v_store_n(first, mean, lanes);
            v_store_n(second, var, lanes);
            v_store_n(weight, v_fnma(lr, move, x), lanes);
        }
    }
}
