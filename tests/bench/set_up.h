/* set_up.h: memory, contexts and comparison for benchmarks of kernels. */
#ifndef TESTS_BENCH_SET_UP_H
#define TESTS_BENCH_SET_UP_H

#include "tests/bench/limits.h"

#include "common/kernels/kernels.h"

static inline void fail(const char *what)
{
    fprintf(stderr, "benchmark: %s\n", what);
    exit(1);
}

static inline void *take(size_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 4096, bytes + 64) != 0) {
        fail("out of memory: close other programs");
    }
    memset(memory, 0, bytes + 64);
    return memory;
}

static inline float *random_floats(int64_t n)
{
    float *x = take((size_t)n * sizeof(float));
    uint64_t state = UINT64_C(88172645463325252);
    for (int64_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        x[i] = (float)(int32_t)(state >> 32) * 0x1p-31F;
    }
    return x;
}

static inline rf_ctx *open_context(const char *name, const rf_limits *limits)
{
    rf_error err = {0};
    const rf_backend *backend = NULL;
    rf_ctx *ctx = NULL;
    if (rf_backend_choose(&backend, name, &err) != RF_OK ||
        rf_ctx_new(&ctx, backend, 0, limits, &err) != RF_OK) {
        fail(err.message);
    }
    return ctx;
}

static inline void *random_operand(rf_ctx *ctx, rf_class cls, int64_t n)
{
    float *x = random_floats(n);
    void *operand = take(rf_backend_bytes(ctx->backend, cls, n));
    rf_backend_upload(ctx, operand, cls, x, RF_F32, n);
    free(x);
    return operand;
}

/* A report over the packed layouts, of which `time_layout` adds one each: of the matrix w, and of what
 * holds `filter` in its name. */
static inline void bench_layouts(void (*time_layout)(bench *report, rf_layout layout,
                                                     const float *w, const char *filter),
                                 const float *w, const char *filter)
{
    const rf_limits none = {0};
    rf_ctx *ctx = open_context(NULL, &none);
    omp_set_num_threads(ctx->n_threads);
    bench report = {0};
    bench_begin(&report, ctx->n_threads);
    for (int layout = RF_PACKED_F32; layout <= RF_PACKED_INT8; layout++) {
        time_layout(&report, (rf_layout)layout, w, filter);
    }
    bench_end(&report);
    rf_ctx_free(ctx);
}

/* Largest difference, in parts of the largest number. */
static inline void expect_near(const float *a, const float *b, int64_t n, double allowed,
                               const char *what)
{
    double error = 0.0, largest = 0.0;
    for (int64_t i = 0; i < n; i++) {
        error = fmax(error, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)b[i]));
        if (isnan(a[i])) {
            error = HUGE_VAL;
            break;
        }
    }
    if (!(error <= allowed * largest)) {
        fprintf(stderr, "benchmark: %s differs from ref by %g of %g: nothing was timed\n", what,
                error, largest);
        exit(1);
    }
}

static inline void expect_close(const float *a, const float *b, int64_t n, const char *what)
{
    expect_near(a, b, n, 1e-4, what);
}

/* The same for an operand of two contexts, the second of ref. bf16 rounds what it stores and what
 * it makes itself. */
static inline void expect_close_operands(rf_ctx *const ctx[2], void *const operand[2], rf_class cls,
                                         int64_t n, const char *what)
{
    const bool rounds = ctx[0]->limits.compute == RF_COMPUTE_BF16;
    float *x[2];
    for (int i = 0; i < 2; i++) {
        x[i] = take((size_t)n * sizeof(float));
        rf_backend_download(ctx[i], x[i], RF_F32, operand[i], cls, n);
    }
    expect_near(x[0], x[1], n, rounds ? 0.02 : 1e-4, what);
    free(x[0]);
    free(x[1]);
}

#endif
