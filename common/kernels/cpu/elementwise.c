/* Kernels without a sum over an inner dimension: rows moved, scaled. */
#include "common/kernels/cpu/internal.h"

#include "common/kernels/gumbel.h"

#include <omp.h>

/* Each thread owns columns and takes all places in order: two places of one token never meet. */
void RF_CPU(embedding_backward)(rf_ctx *ctx, void *dtable, const void *dx, const int32_t *token,
                                int64_t n, int64_t d)
{
    float *to = dtable;
    const float *from = dx;
#pragma omp parallel num_threads(threads_for(ctx, 3 * n * d))
    {
        int64_t begin, end;
        part_of_lines(&begin, &end, d, omp_get_thread_num(), omp_get_num_threads());
        for (int64_t i = 0; i < n; i++) {
            float *row = to + token[i] * d;
            for (int64_t c = begin; c < end; c += VL) {
                vf a = v_add(v_load_n(row + c, end - c), v_load_n(from + i * d + c, end - c));
                v_store_n(row + c, a, end - c);
            }
        }
    }
}

void RF_CPU(exp)(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL) {
        v_store_n(y + i, v_exp(v_load_n(x + i, n - i)), n - i);
    }
}

void RF_CPU(scale_dropout)(rf_ctx *ctx, rf_array y, const void *x, double factor, double rate,
                           uint64_t key, int64_t count, bool accumulate)
{
    const rf_type from = type_of(ctx, RF_ACTIVATION), to = type_of(ctx, y.cls);
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 8 * count))
    for (int64_t i = 0; i < count; i += VL) {
        const int64_t lanes = min_of(VL, count - i);
        float keep[VL];
        for (int64_t j = 0; j < lanes; j++) {
            keep[j] = rate <= 0.0 || rf_gumbel_uniform(key, i + j) >= rate;
        }
        vf value = v_mul(v_set((float)factor), load_as(from, x, i, lanes));
        value = v_where_less(v_zero(), v_load_n(keep, lanes), value, v_zero());
        value = accumulate ? v_add(load_as(to, y.data, i, lanes), value) : value;
        store_as(to, y.data, i, value, lanes);
    }
}

void RF_CPU(scatter_rows)(rf_ctx *ctx, void *y, const void *x, const int32_t *place, int64_t n,
                          int64_t d)
{
    const size_t row = rf_backend_bytes(ctx->backend, RF_ACTIVATION, d);
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * n * d))
    for (int64_t i = 0; i < n; i++) {
        memcpy((char *)y + (size_t)place[i] * row, (const char *)x + (size_t)i * row, row);
    }
}
