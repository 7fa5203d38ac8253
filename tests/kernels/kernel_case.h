/* kernel_case.h: one run of one kernel on any backend, described by its operands.
 *
 * An operation (kernel_table.h) declares named operands with their class and role and calls the
 * kernel. Everything else is done here for all kernels alike: filling, upload, guards behind each
 * buffer, a check that operands which are only read did not change, download. Values are kept in
 * double on the host; inputs are rounded to float so that f32 and f64 backends see the same ones.
 */
#ifndef TESTS_KERNELS_KERNEL_CASE_H
#define TESTS_KERNELS_KERNEL_CASE_H

#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "common/kernels/quantize.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPERANDS = 12, GUARD = 16 };

/* SETS: holds NaN (or -1) before the kernel runs. CHANGES: in place. */
typedef enum role { READS, SETS, ADDS, CHANGES } role;

/* Variants of an operation. */
enum {
    ACCUMULATE = 1,
    BIAS = 2,
    RESIDUAL = 4,
    GRADIENTS = 8,
    HOT = 32,
    ALIASED = 64,
    WIDE_IN = 128,  /* an operand that may be of either class is of class residual: what is read, */
    WIDE_OUT = 256, /* or what is set */
    ALONE = 512,    /* answers that one call could give are asked one by one */
    NORM = 1024,    /* heads are normed */
    IN_A_ROW = 2048 /* a kernel that is two in a row is called as these */
};

/* Sizes of a case; an operation uses those it has. */
typedef struct kernel_shape {
    int64_t n, d, out;  /* rows, inner and outer width */
    int64_t m, h, g;    /* keys, heads, key/value heads; d is the head width */
    int64_t v;          /* vocabulary or table */
    int64_t head_bytes; /* rf_limits.head_bytes */
    int spans;          /* span pattern of attention (span_patterns.h) */
    rf_compute compute; /* rf_limits.compute */
} kernel_shape;

typedef struct operand {
    const char *name;
    rf_class cls;
    role kind;
    int64_t n;
    double *before, *after; /* host values */
    int32_t *index;         /* RF_INDEX: `before` as integers */
    void *memory;           /* on the backend while the kernel runs */
} operand;

typedef struct kernel_case {
    kernel_shape shape;
    int flags;
    const int32_t *spans; /* [n,2,2] instead of shape.spans, or NULL. Borrowed */
    rf_rng rng;
    operand operand[MAX_OPERANDS];
    int n_operands;
} kernel_case;

typedef struct operation {
    const char *name;
    void (*declare)(kernel_case *c);
    void (*run)(kernel_case *c, rf_ctx *ctx);
    int flags;                         /* variants to try: every subset of these */
    const char *forward;               /* of a backward: the operation whose operands it reads */
    const char *alias_out;             /* this operand may share memory ... */
    const char *alias_in;              /* ... with this one (not with ACCUMULATE) */
    const kernel_shape *small, *large; /* ended by a shape with n < 0; gradients: small only */
} operation;

static inline operand *case_find(kernel_case *c, const char *name)
{
    for (int i = 0; i < c->n_operands; i++) {
        if (strcmp(c->operand[i].name, name) == 0) {
            return &c->operand[i];
        }
    }
    return NULL;
}

static inline void *case_memory(kernel_case *c, const char *name)
{
    operand *found = case_find(c, name);
    return found != NULL ? found->memory : NULL;
}

static inline void *case_allocate(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    cr_assert(memory != NULL, "out of memory");
    return memory;
}

/* About a normal number: four uniform ones added. rf_rng_normal would be most of the tests' time.
 */
static inline double case_noise(rf_rng *rng)
{
    uint64_t bits = rf_rng_u64(rng);
    double sum = 0;
    for (int i = 0; i < 4; i++, bits >>= 16) {
        sum += ((double)(bits & 0xffff) + 0.5) / 65536 - 0.5;
    }
    return sum * sqrt(3);
}

/* What every backend can hold: with compute bf16 `cpu` keeps activations so, `cuda` weights and products
 * too. */
static inline double case_round(const kernel_case *c, rf_class cls, double x)
{
    bool half = c->shape.compute == RF_COMPUTE_BF16 &&
                (cls == RF_ACTIVATION || cls == RF_WEIGHT || cls == RF_PRODUCT);
    return half ? (double)rf_quantize_from_bf16(rf_quantize_bf16((float)x)) : (double)(float)x;
}

/* Of an operand that may be of either class. */
static inline rf_class case_class(const kernel_case *c, int flag)
{
    return c->flags & flag ? RF_RESIDUAL : RF_ACTIVATION;
}

/* A new operand; real values are about normal numbers times `scale` plus `offset`. Returns the
 * values, which may be overwritten (indices must be). */
static inline double *case_declare(kernel_case *c, const char *name, rf_class cls, role kind,
                                   int64_t n, double scale, double offset)
{
    cr_assert(c->n_operands < MAX_OPERANDS);
    operand *o = &c->operand[c->n_operands++];
    *o = (operand){.name = name, .cls = cls, .kind = kind, .n = n};
    o->before = case_allocate((size_t)n, sizeof(double));
    o->after = case_allocate((size_t)n, sizeof(double));
    o->index = case_allocate((size_t)n, sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) {
        if (kind == SETS) {
            o->before[i] = cls == RF_INDEX ? -1 : (double)NAN;
        } else if (cls != RF_INDEX) {
            o->before[i] = case_round(c, cls, scale * case_noise(&c->rng) + offset);
        }
    }
    return o->before;
}

static inline void case_declare_index(kernel_case *c, const char *name, int64_t n, int64_t below)
{
    double *value = case_declare(c, name, RF_INDEX, READS, n, 0, 0);
    for (int64_t i = 0; i < n; i++) {
        value[i] = (double)rf_rng_below(&c->rng, (uint64_t)below);
    }
}

/* Distinct numbers below `below`, in random order. */
static inline void case_declare_places(kernel_case *c, const char *name, int64_t n, int64_t below)
{
    double *value = case_declare(c, name, RF_INDEX, READS, n, 0, 0);
    int64_t *order = case_allocate((size_t)below, sizeof(int64_t));
    for (int64_t i = 0; i < below; i++) {
        order[i] = i;
    }
    rf_rng_shuffle(&c->rng, order, below, sizeof *order);
    for (int64_t i = 0; i < n; i++) {
        value[i] = (double)order[i];
    }
    free(order);
}

/* Backend memory with these indices; freed by rf_backend_free. */
static inline void *case_index_memory(rf_ctx *ctx, const int32_t *index, int64_t n)
{
    void *memory = NULL;
    rf_error err = {0};
    int rc = rf_backend_alloc(&memory, ctx, rf_backend_bytes(ctx->backend, RF_INDEX, n), &err);
    cr_assert(rc == RF_OK, "%s", err.message);
    rf_backend_upload(ctx, memory, RF_INDEX, index, RF_I32, n);
    rf_backend_wait(ctx, rf_backend_record(ctx)); /* the caller may free its list */
    return memory;
}

static inline void case_make(kernel_case *c, const operation *op, kernel_shape shape, int flags)
{
    *c = (kernel_case){.shape = shape, .flags = flags};
    c->rng = RF_RNG_STREAM(20, RF_RNG_TEST, (uint64_t)shape.n, (uint64_t)shape.d, (uint64_t)flags);
    op->declare(c);
}

/* A case as it was before its runs. */
static inline void case_copy(kernel_case *c, const kernel_case *from)
{
    *c = *from;
    for (int i = 0; i < c->n_operands; i++) {
        operand *o = &c->operand[i];
        const double *before = o->before;
        o->before = case_allocate((size_t)o->n, sizeof(double));
        o->after = case_allocate((size_t)o->n, sizeof(double));
        o->index = case_allocate((size_t)o->n, sizeof(int32_t));
        memcpy(o->before, before, (size_t)o->n * sizeof(double));
    }
}

static inline void case_free(kernel_case *c)
{
    for (int i = 0; i < c->n_operands; i++) {
        free(c->operand[i].before);
        free(c->operand[i].after);
        free(c->operand[i].index);
    }
}

static inline rf_ctx *case_context(const rf_backend *backend, int n_threads, const kernel_shape *s)
{
    int64_t width = s->d > s->out ? s->d : s->out;
    rf_limits limits = {.places = s->n,
                        .keys = s->m,
                        .width = width,
                        .n_heads = s->h,
                        .n_kv_heads = s->g,
                        .head_dim = s->h > 0 ? s->d : 0,
                        .ffn = width,
                        .vocab = s->v,
                        .head_bytes = s->head_bytes,
                        .backward = 1,
                        .compute = s->compute};
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    int rc = rf_ctx_new(&ctx, backend, n_threads, &limits, &err);
    cr_assert(rc == RF_OK, "rf_ctx_new: %s", err.message);
    return ctx;
}

/* Bytes behind an operand, by which a kernel that writes too far is caught. */
static const int32_t guard[GUARD / sizeof(int32_t)] = {0x5a5a5a5a, 0x5a5a5a5a, 0x5a5a5a5a,
                                                       0x5a5a5a5a};

static inline bool guard_is_whole(const operand *o, rf_ctx *ctx)
{
    int32_t found[GUARD / sizeof(int32_t)];
    rf_backend_download(ctx, found, RF_I32, rf_backend_at(ctx->backend, o->cls, o->memory, o->n),
                        RF_INDEX, GUARD / sizeof(int32_t));
    return memcmp(found, guard, sizeof(guard)) == 0;
}

static inline void operand_upload(operand *o, rf_ctx *ctx)
{
    rf_error err = {0};
    size_t bytes = rf_backend_bytes(ctx->backend, o->cls, o->n);
    int rc = rf_backend_alloc(&o->memory, ctx, bytes + GUARD, &err);
    cr_assert(rc == RF_OK, "%s", err.message);
    rf_backend_upload(ctx, (char *)o->memory + bytes, RF_INDEX, guard, RF_I32,
                      GUARD / sizeof(int32_t));
    if (o->cls == RF_INDEX) {
        for (int64_t i = 0; i < o->n; i++) {
            o->index[i] = (int32_t)o->before[i];
        }
        rf_backend_upload(ctx, o->memory, o->cls, o->index, RF_I32, o->n);
    } else {
        rf_backend_upload(ctx, o->memory, o->cls, o->before, RF_F64, o->n);
    }
}

static inline void operand_download(operand *o, rf_ctx *ctx)
{
    if (o->cls != RF_INDEX) {
        rf_backend_download(ctx, o->after, RF_F64, o->memory, o->cls, o->n);
        return;
    }
    int32_t *value = case_allocate((size_t)o->n, sizeof *value);
    rf_backend_download(ctx, value, RF_I32, o->memory, o->cls, o->n);
    for (int64_t i = 0; i < o->n; i++) {
        o->after[i] = (double)value[i];
    }
    free(value);
}

/* Runs the operation on `backend`; results are in operand.after. */
static inline void case_run(kernel_case *c, const operation *op, const rf_backend *backend,
                            int n_threads)
{
    rf_ctx *ctx = case_context(backend, n_threads, &c->shape);
    for (int i = 0; i < c->n_operands; i++) {
        operand_upload(&c->operand[i], ctx);
    }
    operand *out = NULL;
    void *own = NULL;
    if (c->flags & ALIASED) {
        out = case_find(c, op->alias_out);
        own = out->memory;
        out->memory = case_memory(c, op->alias_in);
    }
    op->run(c, ctx);
    rf_error err = {0};
    cr_assert(rf_ctx_sync(ctx, &err) == RF_OK, "%s: %s", op->name, err.message);
    for (int i = 0; i < c->n_operands; i++) {
        operand *o = &c->operand[i];
        cr_assert(guard_is_whole(o, ctx), "%s on %s %s writes behind %s", op->name, backend->name,
                  backend->isa, o->name);
        operand_download(o, ctx);
    }
    for (int i = 0; i < c->n_operands; i++) {
        operand *o = &c->operand[i];
        bool is_target = out != NULL && strcmp(o->name, op->alias_in) == 0;
        for (int64_t j = 0; o->kind == READS && !is_target && j < o->n; j++) {
            float as_float = (float)o->before[j];
            double expected = backend->type[o->cls] == RF_F32 ? (double)as_float : o->before[j];
            if (!(o->after[j] == expected)) {
                cr_assert_fail("%s on %s %s changes %s", op->name, backend->name, backend->isa,
                               o->name);
            }
        }
        if (o != out) {
            rf_backend_free(ctx, o->memory);
        }
        o->memory = NULL;
    }
    rf_backend_free(ctx, own);
    rf_ctx_free(ctx);
}

/* What `backward` reads and `forward` (already run) has is copied over: inputs as they were,
 * outputs as they became. */
static inline void case_link(kernel_case *backward, kernel_case *forward, bool round)
{
    for (int i = 0; i < backward->n_operands; i++) {
        operand *to = &backward->operand[i], *from = case_find(forward, to->name);
        if (to->kind != READS || from == NULL) {
            continue;
        }
        cr_assert(to->n == from->n, "%s differs in size", to->name);
        const double *value = from->kind == READS ? from->before : from->after;
        for (int64_t j = 0; j < to->n; j++) {
            to->before[j] = round ? case_round(backward, to->cls, value[j]) : value[j];
        }
    }
}

/* max|a-b| / max|b|. A denominator below `least` counts as `least`: a gradient that cancels to
 * nearly nothing is judged by the size of what cancelled. NaN where a or b is NaN anywhere. */
static inline double relative_error(const double *a, const double *b, int64_t n, double least)
{
    double worst = 0, largest = least;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(a[i]) || isnan(b[i])) {
            return (double)NAN;
        }
        if (a[i] == b[i]) { /* also both -inf */
            continue;
        }
        worst = fmax(worst, fabs(a[i] - b[i]));
    }
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(b[i])) {
            largest = fmax(largest, fabs(b[i]));
        }
    }
    return worst / largest;
}

#endif
