/* cpu_exact.h: a small attention problem that can be laid out anywhere, for test_cpu_exact.c. */
#ifndef TESTS_KERNELS_CPU_EXACT_H
#define TESTS_KERNELS_CPU_EXACT_H

#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "tests/kernels/backends.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CPU = MAX_BACKENDS };

/* The cpu backends of this machine. */
static inline int cpu_backends(const rf_backend *list[MAX_CPU])
{
    const rf_backend *all[MAX_BACKENDS];
    int n = backends_available(all), found = 0;
    for (int i = 0; i < n; i++) {
        if (strcmp(all[i]->name, "cpu") == 0) {
            list[found++] = all[i];
        }
    }
    return found;
}

static inline void *exact_take(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes / 64 + 1) * 64);
    cr_assert(memory != NULL, "out of memory");
    return memory;
}

static inline void exact_fill(float *x, int64_t n, uint64_t stream, double scale)
{
    rf_rng rng = RF_RNG_STREAM(7, RF_RNG_TEST, stream);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(scale * rf_rng_normal(&rng));
    }
}

static inline float *exact_random(int64_t n, uint64_t stream)
{
    float *x = exact_take((size_t)n * sizeof(float));
    exact_fill(x, n, stream, 1.0);
    return x;
}

static inline rf_ctx *exact_context(const rf_backend *backend, int n_threads,
                                    const rf_limits *limits)
{
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    int rc = rf_ctx_new(&ctx, backend, n_threads, limits, &err);
    cr_assert(rc == RF_OK, "%s", err.message);
    return ctx;
}

#define EXPECT_SAME(a, b, count, ...)                                                              \
    cr_assert(memcmp((a), (b), (size_t)(count) * sizeof(float)) == 0, __VA_ARGS__)

/* n numbers as an operand of `cls`; given back as numbers by exact_download, which frees it. */
static inline void *exact_upload(rf_ctx *ctx, rf_class cls, const float *x, int64_t n)
{
    void *memory = exact_take(rf_backend_bytes(ctx->backend, cls, n));
    rf_backend_upload(ctx, memory, cls, x, RF_F32, n);
    return memory;
}
static inline void exact_download(rf_ctx *ctx, float *x, rf_class cls, void *memory, int64_t n)
{
    rf_backend_download(ctx, x, RF_F32, memory, cls, n);
    free(memory);
}

/* --- Attention -------------------------------------------------------------------------------- */

/* Buffers of n places; queries and keys share places. Everything starts as NaN. */
typedef struct exact_attention {
    int64_t n, h, g, k;
    rf_compute compute;
    float *q, *key, *v, *o, *lse, *do_, *dq, *dk, *dv, *delta;
    int32_t *span;
} exact_attention;

static inline float *exact_nan(int64_t n)
{
    float *x = exact_take((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        x[i] = NAN;
    }
    return x;
}

static inline exact_attention exact_attention_new(rf_compute compute, int64_t n, int64_t h,
                                                  int64_t g, int64_t k)
{
    exact_attention a = {.compute = compute, .n = n, .h = h, .g = g, .k = k};
    a.q = exact_nan(n * h * k);
    a.o = exact_nan(n * h * k);
    a.do_ = exact_nan(n * h * k);
    a.dq = exact_nan(n * h * k);
    a.key = exact_nan(n * g * k);
    a.v = exact_nan(n * g * k);
    a.dk = exact_nan(n * g * k);
    a.dv = exact_nan(n * g * k);
    a.lse = exact_nan(n * h);
    a.delta = exact_nan(n * h);
    a.span = exact_take((size_t)(4 * n) * sizeof(int32_t));
    memset(a.span, 0, (size_t)(4 * n) * sizeof(int32_t));
    return a;
}

static inline void exact_attention_free(exact_attention *a)
{
    void *all[] = {a->q,  a->o,  a->do_, a->dq,    a->key, a->v,
                   a->dk, a->dv, a->lse, a->delta, a->span};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
}

/* What a sample's places may see. */
enum { CAUSAL, BIDIRECTIONAL, TWO_SPANS, N_PATTERNS };

/* Places [at, at + length) become a sample with its own numbers (drawn from `stream`) and spans. */
static inline void exact_place_sample(exact_attention *a, int64_t at, int64_t length, int pattern,
                                      uint64_t stream)
{
    exact_fill(a->q + at * a->h * a->k, length * a->h * a->k, stream, 1.0);
    exact_fill(a->key + at * a->g * a->k, length * a->g * a->k, stream + 1, 1.0);
    exact_fill(a->v + at * a->g * a->k, length * a->g * a->k, stream + 2, 1.0);
    exact_fill(a->do_ + at * a->h * a->k, length * a->h * a->k, stream + 3, 1.0);
    int32_t begin = (int32_t)at, size = (int32_t)length, prefix = size / 3;
    for (int32_t i = 0; i < size; i++) {
        int32_t *span = a->span + 4 * (begin + i);
        span[0] = begin;
        span[1] = pattern == BIDIRECTIONAL ? begin + size : begin + i + 1;
        span[2] = span[3] = 0;
        if (pattern == TWO_SPANS && i >= 2 * prefix) { /* a prefix, and what follows 2 prefixes */
            span[1] = begin + prefix;
            span[2] = begin + 2 * prefix;
            span[3] = begin + i + 1;
        }
    }
}

static inline void exact_attention_run(exact_attention *a, const rf_backend *backend, int n_threads)
{
    const rf_limits limits = {.places = a->n,
                              .keys = a->n,
                              .width = a->h * a->k,
                              .n_heads = a->h,
                              .n_kv_heads = a->g,
                              .head_dim = a->k,
                              .backward = 1,
                              .compute = a->compute};
    rf_ctx *ctx = exact_context(backend, n_threads, &limits);
    rf_spans spans;
    rf_error err = {0};
    const int64_t size = rf_spans_size(a->n, a->n, true);
    void *memory = exact_take((size_t)size * sizeof(int32_t));
    int32_t *host = exact_take((size_t)size * sizeof *host);
    int rc = rf_spans_build(&spans, ctx, memory, host, size, a->span, a->n, a->n, true, &err);
    cr_assert(rc == RF_OK, "%s", err.message);
    const rf_kernels *kernels = backend->kernels;
    const int64_t wide = a->n * a->h * a->k, narrow = a->n * a->g * a->k;
    void *q = exact_upload(ctx, RF_ACTIVATION, a->q, wide);
    void *k = exact_upload(ctx, RF_ACTIVATION, a->key, narrow);
    void *v = exact_upload(ctx, RF_ACTIVATION, a->v, narrow);
    void *o = exact_upload(ctx, RF_ACTIVATION, a->o, wide);
    void *d_o = exact_upload(ctx, RF_ACTIVATION, a->do_, wide);
    kernels->attention_forward(ctx, o, a->lse, q, k, v, &spans, a->h, a->g, a->k);
    kernels->attention_backward(ctx, a->dq, a->dk, a->dv, a->delta, d_o, q, k, v, o, a->lse, &spans,
                                a->h, a->g, a->k);
    exact_download(ctx, a->o, RF_ACTIVATION, o, wide);
    void *read_only[] = {q, k, v, d_o};
    for (size_t i = 0; i < sizeof(read_only) / sizeof(read_only[0]); i++) {
        free(read_only[i]);
    }
    free(memory);
    free(host);
    rf_ctx_free(ctx);
}

/* Are results of places [at, at + length) of a those of places [from, ...) of b, bit for bit? */
static inline void exact_attention_compare(const exact_attention *a, int64_t at,
                                           const exact_attention *b, int64_t from, int64_t length,
                                           const char *what)
{
    const int64_t wide = a->h * a->k, narrow = a->g * a->k;
    EXPECT_SAME(a->o + at * wide, b->o + from * wide, length * wide, "%s: o", what);
    EXPECT_SAME(a->lse + at * a->h, b->lse + from * a->h, length * a->h, "%s: lse", what);
    EXPECT_SAME(a->delta + at * a->h, b->delta + from * a->h, length * a->h, "%s: delta", what);
    EXPECT_SAME(a->dq + at * wide, b->dq + from * wide, length * wide, "%s: dq", what);
    EXPECT_SAME(a->dk + at * narrow, b->dk + from * narrow, length * narrow, "%s: dk", what);
    EXPECT_SAME(a->dv + at * narrow, b->dv + from * narrow, length * narrow, "%s: dv", what);
    for (int64_t i = 0; i < length * narrow; i++) {
        cr_assert(isfinite(a->dk[at * narrow + i]) && isfinite(a->dv[at * narrow + i]), "%s: NaN",
                  what);
    }
}

#endif
