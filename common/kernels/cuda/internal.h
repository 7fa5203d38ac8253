/* internal.h: what the C sources of this folder share.                             all local */
#ifndef RF_KERNELS_CUDA_INTERNAL_H
#define RF_KERNELS_CUDA_INTERNAL_H

#include "common/kernels/cuda/cuda.h"
#include "common/kernels/cuda/launch.h"
#include "common/kernels/kernels.h"

/* The context's stream, with all copies in it that were asked for so far. */
rf_cuda_stream rf_cuda_stream_of(rf_ctx *ctx);
/* code: what the runtime said of `what`. The first failure stays in ctx->error, where rf_ctx_sync
 * finds it. */
void rf_cuda_take(rf_ctx *ctx, int code, const char *what);

/* The launches of launch.h on the context's stream: LAUNCH(convert, to, from, n). */
#define LAUNCH(kernel, ...)                                                                        \
    rf_cuda_take(ctx, rf_cuda_##kernel(rf_cuda_stream_of(ctx), __VA_ARGS__), #kernel)

/* The kernels of kernels.h, which table.c collects: RF_CUDA_KERNEL(add) is an rf_add_fn. */
#define RF_CUDA_KERNEL(name) rf_cuda_kernel_##name
#define DECLARE(name)        rf_##name##_fn RF_CUDA_KERNEL(name);
RF_KERNELS(DECLARE)
#undef DECLARE

static inline int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* RF_OK, or the error that this code of the runtime means. */
RF_MUST_CHECK int rf_cuda_check(int code, const char *what, rf_error *err);

/* What bf16 copy of a residual operand the scratch holds: of n elements at `of`, until memory of that class
 * changes. `of` NULL: none. */
typedef struct rf_cuda_copy {
    const void *of;
    int64_t n;
} rf_cuda_copy;
rf_cuda_copy *rf_cuda_copy_of(const rf_ctx *ctx);
/* Of which spans the scratch holds lists of tiles, those of the forward or those of the backward pass, until memory
 * is moved. All 0: none. */
rf_cuda_spans *rf_cuda_listed_of(const rf_ctx *ctx, bool forward);
/* Memory has moved: neither holds any more. */
void rf_cuda_forget(rf_ctx *ctx);

/* --- Operands -------------------------------------------------------------------------------- */

static inline rf_cuda_real operand(const rf_ctx *ctx, rf_class cls, const void *data)
{
    const bool is_half = ctx->backend->type[cls] == RF_BF16;
    return (rf_cuda_real){(void *)(uintptr_t)data, is_half ? RF_CUDA_BF16 : RF_CUDA_F32};
}

/* Of what a kernel changes: a copy of residual memory is old then. */
static inline rf_cuda_real changed(const rf_ctx *ctx, rf_class cls, void *data)
{
    if (cls == RF_RESIDUAL) {
        rf_cuda_copy_of(ctx)->of = NULL;
    }
    return operand(ctx, cls, data);
}

static inline rf_cuda_real array(const rf_ctx *ctx, rf_array x)
{
    return changed(ctx, x.cls, x.data);
}

static inline rf_cuda_real const_array(const rf_ctx *ctx, rf_const_array x)
{
    return operand(ctx, x.cls, x.data);
}

static inline rf_cuda_real matrix(const rf_ctx *ctx, rf_matrix w)
{
    void *data = (void *)(uintptr_t)w.data;
    switch (w.layout) {
    case RF_PACKED_F32:
        return (rf_cuda_real){data, RF_CUDA_F32};
    case RF_PACKED_BF16:
        return (rf_cuda_real){data, RF_CUDA_BF16};
    case RF_PACKED_INT8:
        return (rf_cuda_real){data, RF_CUDA_INT8};
    default:
        return operand(ctx, RF_WEIGHT, data);
    }
}

/* As a product takes it: with compute bf16 rounded to that. */
static inline rf_cuda_real factor(const rf_ctx *ctx, rf_cuda_real x)
{
    if (x.type == RF_CUDA_F32 && ctx->limits.compute == RF_COMPUTE_BF16) {
        x.type = RF_CUDA_F32_AS_BF16;
    }
    return x;
}

/* --- blas.c ---------------------------------------------------------------------------------- */

/* cuBLASLt, opened by the first product that it takes. */
typedef struct rf_cuda_blas rf_cuda_blas;
enum { RF_CUDA_BLAS_BYTES = 32 << 20 }; /* workspace */
/* Where the context keeps it; *... NULL: not yet. */
rf_cuda_blas **rf_cuda_blas_of(rf_ctx *ctx);
void rf_cuda_blas_free(rf_cuda_blas *blas); /* NULL is fine */
/* Can the library make this product? bf16 operands, c f32 or bf16, rows of 16-byte pieces, no bias. */
bool rf_cuda_blas_takes(const rf_cuda_product *product);
/* workspace: RF_CUDA_BLAS_BYTES of scratch. */
void rf_cuda_blas_multiply(rf_ctx *ctx, const rf_cuda_product *product, void *workspace);

/* --- products.c ------------------------------------------------------------------------------ */

/* Rows that begin `step` elements apart. */
typedef struct rf_cuda_rows {
    rf_cuda_real real;
    int64_t step;
} rf_cuda_rows;

/* dx = dy w, or dx += dy w. */
void rf_cuda_backward_input(rf_ctx *ctx, rf_cuda_real dx, rf_cuda_rows dy, const void *w, int64_t n,
                            int64_t in, int64_t out, bool accumulate);
/* dw += dy^T x */
void rf_cuda_backward_weight(rf_ctx *ctx, void *dw, rf_cuda_rows dy, const void *x, int64_t n,
                             int64_t in, int64_t out);

#endif
