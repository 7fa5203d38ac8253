#include "common/kernels/backend.h"

#include "common/base/alloc.h"
#include "common/base/options.h"
#include "common/kernels/apart/apart.h"
#include "common/kernels/cpu/cpu.h"
#include "common/kernels/host.h"
#include "common/kernels/kernels.h"
#include "common/kernels/machine.h"
#if defined(RF_CUDA)
#include "common/kernels/cuda/cuda.h"
#endif

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* --- Choice ---------------------------------------------------------------------------------- */

#define TYPES(activation, product, weight, real)                                                   \
    {                                                                                              \
        [RF_ACTIVATION] = (activation), [RF_RESIDUAL] = (real), [RF_PRODUCT] = (product),          \
        [RF_STATISTIC] = (real), [RF_WEIGHT] = (weight), [RF_MASTER] = (real), [RF_SUM] = RF_F64,  \
        [RF_WIRE] = RF_BF16, [RF_INDEX] = RF_I32                                                   \
    }

/* For each what it is with compute f32, then with bf16, where activations are of type `half`, weights and
 * products of type `other`. Best first. */
#define BOTH(name, isa, half, other, real, kernels, memory, int8)                                  \
    {                                                                                              \
        {name, isa, TYPES(real, real, real, real), kernels, memory, int8},                         \
        {                                                                                          \
            name, isa, TYPES(half, other, other, real), kernels, memory, int8                      \
        }                                                                                          \
    }
#define CPU(isa)                                                                                   \
    BOTH("cpu", #isa, RF_BF16, RF_F32, RF_F32, &rf_cpu_##isa##_kernels, &rf_host_memory,           \
         RF_COMPUTE_F32)
#define APART(isa)                                                                                 \
    BOTH("apart", #isa, RF_BF16, RF_F32, RF_F32, &rf_apart_##isa##_kernels, &rf_apart_memory,      \
         RF_COMPUTE_F32)
static const rf_backend backends[][2] = {
#if defined(__x86_64__)
    CPU(amx),
    CPU(avx512bf16),
    CPU(avx512),
    CPU(avx2),
    APART(amx),
    APART(avx512bf16),
    APART(avx512),
    APART(avx2),
#endif
    CPU(portable),
    APART(portable),
#if defined(RF_CUDA)
    BOTH("cuda", "sm_90a", RF_BF16, RF_BF16, RF_F32, &rf_cuda_kernels, &rf_cuda_memory,
         RF_COMPUTE_BF16),
#endif
    BOTH("ref32", "", RF_F32, RF_F32, RF_F32, &rf_ref32_kernels, &rf_host_memory, RF_COMPUTE_F32),
    BOTH("ref64", "", RF_F64, RF_F64, RF_F64, &rf_ref64_kernels, &rf_host_memory, RF_COMPUTE_F32),
};

enum { N_BACKENDS = sizeof backends / sizeof backends[0], MAX_THREADS = 4096 };

#if !defined(RF_CUDA)
static int rf_cuda_find(rf_error *err)
{
    return rf_error_set(err, RF_ERR_USAGE,
                        "backend cuda is not part of this program: build it with `make CUDA=1`");
}
#endif

/* A setting of the environment; NULL where it is absent or empty. */
static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

static bool backend_exists(const char *name)
{
    for (int i = 0; i < N_BACKENDS; i++) {
        if (strcmp(backends[i][0].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Instruction sets of CPUs, which RF_ISA chooses. */
static bool isa_exists(const char *isa)
{
    return rf_options_choice("portable|avx2|avx512|avx512bf16|amx", isa) >= 0;
}

static int check_isa(const char *isa, rf_error *err)
{
    if (!isa_exists(isa)) {
        return rf_error_set(
            err, RF_ERR_USAGE,
            "RF_ISA=%s is unknown: use portable, avx2, avx512, avx512bf16 or amx, or "
            "unset it",
            isa);
    }
    if (!rf_machine_has_isa(isa)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "RF_ISA=%s: this machine or its operating system lacks it: unset "
                            "RF_ISA to have the best one chosen",
                            isa);
    }
    return RF_OK;
}

/* Why the best backend is not cuda, once it was asked for. */
static rf_error passed_over;

/* cuda where a GPU can be used. One that RF_DEVICE names and is not there, or that another try may find
 * well, is not replaced. */
static int best_backend(const char **out, rf_error *err)
{
    const int rc = rf_cuda_find(&passed_over);
    *out = rc == RF_OK ? "cuda" : "cpu";
    return rc == RF_OK || rc == RF_ERR || !RF_HAS_CUDA ? RF_OK : rf_error_pass(err, &passed_over);
}

static int check_name(const char *name, const char *from, rf_error *err)
{
    if (strcmp(name, "cuda") == 0) {
        return rf_cuda_find(err);
    }
    if (!backend_exists(name)) {
        return rf_error_set(err, RF_ERR_USAGE, "%sbackend %s is unknown: use cpu, %sref32 or ref64",
                            from, name, RF_HAS_CUDA ? "cuda, " : "");
    }
    return RF_OK;
}

int rf_backend_choose(const rf_backend **out, const char *name, rf_error *err)
{
    const char *chosen = setting("RF_BACKEND");
    const char *isa = setting("RF_ISA");
    bool is_default = name == NULL || name[0] == '\0' || strcmp(name, "auto") == 0;
    *out = NULL;
    if (is_default && chosen == NULL) {
        RF_TRY(best_backend(&name, err));
    } else if (is_default) {
        name = chosen;
    }
    RF_TRY(check_name(name, is_default ? "RF_BACKEND: " : "", err));
    RF_TRY(isa != NULL ? check_isa(isa, err) : RF_OK);
    for (int i = 0; i < N_BACKENDS && *out == NULL; i++) {
        const rf_backend *b = &backends[i][0];
        bool has_isa = isa_exists(b->isa);
        if (strcmp(b->name, name) == 0 &&
            (!has_isa ||
             (rf_machine_has_isa(b->isa) && (isa == NULL || strcmp(b->isa, isa) == 0)))) {
            *out = b;
        }
    }
    RF_ASSERT(*out != NULL); /* every cpu has "portable", and check_isa knows what is compiled */
    return RF_OK;
}

static int own_seat = 0;

void rf_backend_set_seat(int seat)
{
    own_seat = seat;
}

int rf_backend_seat(void)
{
    return own_seat;
}

const rf_backend *rf_backend_with(const rf_backend *backend, rf_compute compute)
{
    for (int i = 0; i < N_BACKENDS; i++) {
        if (backend == &backends[i][0] || backend == &backends[i][1]) {
            return &backends[i][compute == RF_COMPUTE_BF16];
        }
    }
    return backend; /* somebody's own */
}

rf_compute rf_backend_compute(const rf_backend *backend, rf_layout weights, rf_compute compute)
{
    return weights == RF_PACKED_BF16   ? RF_COMPUTE_BF16
           : weights == RF_PACKED_INT8 ? backend->int8
                                       : compute;
}

void rf_backend_describe(const rf_ctx *ctx, char *text, size_t bytes)
{
    const rf_backend *b = ctx->backend;
    char features[512];
    rf_machine_features(features, sizeof features);
    bool has_isa = b->isa[0] != '\0', has_device = b->memory->device != NULL;
    bool says_why = RF_HAS_CUDA && passed_over.code != RF_OK && strcmp(b->name, "cpu") == 0;
    snprintf(text, bytes, "%s%s%s%s%s%s, %d thread%s%s%s; CPU features: %s", b->name,
             has_isa ? " (" : "", b->isa, has_device ? ", " : "",
             has_device ? b->memory->device(ctx) : "", has_isa ? ")" : "", ctx->n_threads,
             ctx->n_threads == 1 ? "" : "s", says_why ? "; not " : "",
             says_why ? passed_over.message : "", features);
}

/* --- Context --------------------------------------------------------------------------------- */

int rf_backend_threads(int *n, rf_error *err)
{
    const char *text = setting("OMP_NUM_THREADS");
    *n = 0;
    if (text == NULL) {
        return RF_OK;
    }
    char *end = NULL;
    errno = 0;
    const long number = strtol(text, &end, 10);
    /* OpenMP allows a list, one number for each level of nesting: ours is the first. */
    if (errno != 0 || end == text || (*end != '\0' && *end != ',') || number < 1 ||
        number > MAX_THREADS) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "OMP_NUM_THREADS=%s is not a number from 1 to %d: correct or unset it",
                            text, (int)MAX_THREADS);
    }
    *n = (int)number;
    return RF_OK;
}

static int resolve_threads(int *out, int n_threads, rf_error *err)
{
    *out = n_threads;
    if (n_threads == 0) {
        RF_TRY(rf_backend_threads(out, err));
        if (*out == 0) {
            const int n_cores = rf_machine_cores();
            *out = n_cores < MAX_THREADS ? n_cores : MAX_THREADS;
        }
    } else if (n_threads < 0 || n_threads > MAX_THREADS) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%d threads: ask for 1 to %d, or 0 for the cores of this process",
                            n_threads, (int)MAX_THREADS);
    }
    return RF_OK;
}

/* Every size is bounded so that no product in a kernel's scratch formula can overflow. */
static int check_limits(const rf_limits *limits, rf_error *err)
{
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {{"places", limits->places, INT32_MAX},
                 {"keys", limits->keys, INT32_MAX},
                 {"width", limits->width, INT32_MAX},
                 {"n_heads", limits->n_heads, INT32_MAX},
                 {"n_kv_heads", limits->n_kv_heads, INT32_MAX},
                 {"head_dim", limits->head_dim, INT32_MAX},
                 {"ffn", limits->ffn, INT32_MAX},
                 {"vocab", limits->vocab, INT32_MAX},
                 {"head_bytes", limits->head_bytes, INT64_C(1) << 40}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].value < 0 || sizes[i].value > sizes[i].most) {
            return rf_error_set(err, RF_ERR,
                                "kernel limit %s is %" PRId64 ": it must be from 0 to %" PRId64
                                ": choose smaller sizes or fewer rows at once",
                                sizes[i].name, sizes[i].value, sizes[i].most);
        }
    }
    if (limits->n_heads > 0 && limits->head_dim > INT32_MAX / limits->n_heads) {
        return rf_error_set(err, RF_ERR,
                            "kernel limits: %" PRId64 " heads of width %" PRId64
                            " are too wide: n_heads x head_dim must be below 2^31",
                            limits->n_heads, limits->head_dim);
    }
    if (limits->n_kv_heads > 0 ? limits->n_heads % limits->n_kv_heads != 0 : limits->n_heads != 0) {
        return rf_error_set(err, RF_ERR,
                            "kernel limits: %" PRId64 " query heads cannot share %" PRId64
                            " key/value heads: choose a divisor",
                            limits->n_heads, limits->n_kv_heads);
    }
    return RF_OK;
}

int rf_ctx_new(rf_ctx **out, const rf_backend *backend, int n_threads, const rf_limits *limits,
               rf_error *err)
{
    int n_resolved = 0, rc = RF_OK;
    *out = NULL;
    RF_TRY(check_limits(limits, err));
    RF_TRY(resolve_threads(&n_resolved, n_threads, err));
    rf_ctx *ctx = rf_alloc(1, sizeof *ctx);
    ctx->backend = rf_backend_with(backend, limits->compute);
    ctx->n_threads = n_resolved;
    ctx->limits = *limits;
    ctx->scratch_bytes = backend->kernels->scratch_bytes(n_resolved, limits);
    rc = backend->memory->open(ctx, err);
    if (rc != RF_OK) {
        free(ctx);
        return rc;
    }
    rc = rf_backend_alloc(&ctx->scratch, ctx, ctx->scratch_bytes, err);
    if (rc != RF_OK) {
        rf_error_prefix(err, "scratch of the kernels");
        rf_ctx_free(ctx);
        return rc;
    }
    *out = ctx;
    return RF_OK;
}

void rf_ctx_free(rf_ctx *ctx)
{
    if (ctx != NULL) {
        rf_backend_free(ctx, ctx->scratch);
        ctx->backend->memory->close(ctx);
        free(ctx);
    }
}

size_t rf_ctx_scratch_bytes(const rf_backend *backend, int n_threads, const rf_limits *limits)
{
    int n_resolved = 0;
    if (check_limits(limits, NULL) != RF_OK || resolve_threads(&n_resolved, n_threads, NULL)) {
        return 0;
    }
    return backend->kernels->scratch_bytes(n_resolved, limits);
}

int rf_ctx_sync(rf_ctx *ctx, rf_error *err)
{
    if (ctx->backend->memory->sync != NULL) {
        ctx->backend->memory->sync(ctx);
    }
    return rf_error_pass(err, &ctx->error);
}

/* --- Memory ---------------------------------------------------------------------------------- */

static const char *const layout_names[RF_N_LAYOUTS] = {
    [RF_ROWS] = "rows",
    [RF_PACKED_F32] = "f32",
    [RF_PACKED_BF16] = "bf16",
    [RF_PACKED_INT8] = "int8",
};

const char *rf_layout_name(rf_layout layout)
{
    return layout_names[layout];
}

rf_layout rf_layout_find(const char *name)
{
    int layout = 0;
    while (layout < RF_N_LAYOUTS && strcmp(layout_names[layout], name) != 0) {
        layout++;
    }
    return (rf_layout)layout;
}

static const struct {
    const char *name;
    size_t bytes;
} types[RF_N_TYPES] = {
    [RF_F32] = {"f32", 4},   [RF_F64] = {"f64", 8}, [RF_I32] = {"i32", 4},
    [RF_BF16] = {"bf16", 2}, [RF_F16] = {"f16", 2}, [RF_I8] = {"int8", 1},
};

size_t rf_type_bytes(rf_type type)
{
    return types[type].bytes;
}

const char *rf_type_name(rf_type type)
{
    return types[type].name;
}

rf_type rf_type_find(const char *name)
{
    int type = 0;
    while (type < RF_N_TYPES && strcmp(types[type].name, name) != 0) {
        type++;
    }
    return (rf_type)type;
}

size_t rf_backend_bytes(const rf_backend *backend, rf_class cls, int64_t n)
{
    RF_ASSERT(n >= 0 && n <= PTRDIFF_MAX / (int64_t)sizeof(double));
    return (size_t)n * rf_type_bytes(backend->type[cls]);
}

void *rf_backend_at(const rf_backend *backend, rf_class cls, const void *base, int64_t i)
{
    return (char *)(uintptr_t)base + i * (int64_t)rf_type_bytes(backend->type[cls]);
}

size_t rf_backend_available(const rf_backend *backend)
{
    return backend->memory->available != NULL ? backend->memory->available() : 0;
}

int rf_backend_alloc(void **out, rf_ctx *ctx, size_t bytes, rf_error *err)
{
    *out = NULL;
    return ctx->backend->memory->alloc(ctx, out, bytes, err);
}

void rf_backend_free(rf_ctx *ctx, void *memory)
{
    if (memory != NULL) {
        ctx->backend->memory->free(ctx, memory);
    }
}

/* Index types convert to nothing else. */
static bool converts(rf_type a, rf_type b)
{
    return (a == RF_I32) == (b == RF_I32);
}

void rf_backend_upload(rf_ctx *ctx, void *dst, rf_class cls, const void *src, rf_type host,
                       int64_t n)
{
    const rf_backend *backend = ctx->backend;
    RF_ASSERT(converts(backend->type[cls], host));
    if (n > 0) {
        backend->memory->upload(ctx, dst, backend->type[cls], src, host, n);
    }
}

void rf_backend_download_later(rf_ctx *ctx, void *dst, rf_type host, const void *src, rf_class cls,
                               int64_t n)
{
    const rf_backend *backend = ctx->backend;
    RF_ASSERT(converts(backend->type[cls], host));
    if (n > 0) {
        backend->memory->download(ctx, dst, host, src, backend->type[cls], n);
    }
}

void rf_backend_download(rf_ctx *ctx, void *dst, rf_type host, const void *src, rf_class cls,
                         int64_t n)
{
    rf_backend_download_later(ctx, dst, host, src, cls, n);
    rf_backend_wait(ctx, rf_backend_record(ctx));
}

void rf_backend_copy(rf_ctx *ctx, void *dst, const void *src, rf_class cls, int64_t n)
{
    if (n > 0) {
        ctx->backend->memory->copy(ctx, dst, src, rf_backend_bytes(ctx->backend, cls, n));
    }
}

void rf_backend_convert(rf_ctx *ctx, void *dst, rf_class to, const void *src, rf_class from,
                        int64_t n)
{
    const rf_type *type = ctx->backend->type;
    if (n > 0) {
        ctx->backend->memory->convert(ctx, dst, type[to], src, type[from], n);
    }
}

void rf_backend_zero(rf_ctx *ctx, void *dst, rf_class cls, int64_t n)
{
    if (n > 0) {
        ctx->backend->memory->zero(ctx, dst, rf_backend_bytes(ctx->backend, cls, n));
    }
}

bool rf_backend_replay(rf_ctx *ctx, const int64_t key[RF_SERIES_KEY])
{
    const rf_memory *memory = ctx->backend->memory;
    return memory->replay != NULL && memory->replay(ctx, key);
}

void rf_backend_keep(rf_ctx *ctx)
{
    if (ctx->backend->memory->keep != NULL) {
        ctx->backend->memory->keep(ctx);
    }
}

rf_event rf_backend_record(rf_ctx *ctx)
{
    const rf_memory *memory = ctx->backend->memory;
    return memory->record != NULL ? memory->record(ctx) : 0;
}

void rf_backend_wait(rf_ctx *ctx, rf_event event)
{
    if (ctx->backend->memory->wait != NULL) {
        ctx->backend->memory->wait(ctx, event);
    }
}
