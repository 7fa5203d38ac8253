/* The memory of the backend: a stream, events and a ring of pinned memory for each context. */
#include "common/kernels/cuda/infer/block.h"
#include "common/kernels/cuda/internal.h"
#include "common/kernels/cuda/link/nccl.h"
#include "common/kernels/cuda/series.h"

#include "common/base/alloc.h"
#include "common/kernels/host.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* N_SLOTS: pieces of an upload that may be on their way at once. N_EVENTS: how many records back an
 * event is told from later ones; an older one waits for one of these, which is never too early. */
enum { SLOT_BYTES = 1 << 20, N_SLOTS = 8, N_EVENTS = 64, ARCHITECTURE = 90 };

typedef struct cuda_state {
    cudaStream_t stream;
    void *ring; /* pinned, N_SLOTS x SLOT_BYTES */
    cudaEvent_t slot_event[N_SLOTS];
    int64_t n_slots; /* given out so far: slot n_slots % N_SLOTS is next */
    cudaEvent_t event[N_EVENTS];
    rf_event n_events;
    rf_cuda_series *series;
    rf_cuda_blas *blas;
    rf_cuda_copy copy;
    rf_cuda_pass *pass;
    char name[256];
} cuda_state;

/* --- Errors ---------------------------------------------------------------------------------- */

/* A GPU or its link that failed may do better on another try; anything else will not. */
static int error_code(cudaError_t code)
{
    switch (code) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown:
        return RF_ERR_RETRY;
    default:
        return RF_ERR;
    }
}

int rf_cuda_check(int code, const char *what, rf_error *err)
{
    const cudaError_t error = (cudaError_t)code;
    return error == cudaSuccess
               ? RF_OK
               : rf_error_set(err, error_code(error),
                              "cuda: %s: %s (%s): the GPU's state is lost: begin again from the "
                              "last checkpoint; compute-sanitizer finds a kernel that is at fault",
                              what, cudaGetErrorString(error), cudaGetErrorName(error));
}

static void take(rf_ctx *ctx, cudaError_t code, const char *what)
{
    if (code != cudaSuccess && ctx->error.code == RF_OK) {
        const int rc = rf_cuda_check((int)code, what, &ctx->error);
        (void)rc; /* it stays there */
    }
}

void rf_cuda_take(rf_ctx *ctx, int code, const char *what)
{
    take(ctx, (cudaError_t)code, what);
}

/* --- Which GPU ------------------------------------------------------------------------------- */

/* Of this process; find decides. */
static int own_device = 0;

/* The one that RF_DEVICE names, of the n that the driver shows; NULL: it names none. */
static const char *named_device(void)
{
    const char *name = getenv("RF_DEVICE");
    return name != NULL && name[0] != '\0' ? name : NULL;
}

static int choose_device(int n, rf_error *err)
{
    const char *name = named_device();
    char *end = NULL;
    if (name == NULL) {
        own_device = rf_backend_seat() % n;
        return RF_OK;
    }
    const long chosen = strtol(name, &end, 10);
    if (*end != '\0' || chosen < 0 || chosen >= n) {
        return rf_error_set(
            err, RF_ERR_USAGE,
            "RF_DEVICE=%s: there is no such GPU: choose 0 to %d, or unset it to have "
            "each rank of a host take its own",
            name, n - 1);
    }
    own_device = (int)chosen;
    return RF_OK;
}

static int find(rf_error *err)
{
    int n = 0, major = 0, minor = 0, driver = 0, runtime = 0;
    cudaError_t code = cudaGetDeviceCount(&n);
    if (code == cudaErrorInsufficientDriver) {
        (void)cudaDriverGetVersion(&driver);
        (void)cudaRuntimeGetVersion(&runtime);
        return rf_error_set(err, RF_ERR,
                            "cuda: %s for CUDA %d.%d: install or update the driver, or choose the "
                            "backend cpu",
                            driver == 0 ? "there is no NVIDIA driver"
                                        : "the NVIDIA driver is too old",
                            runtime / 1000, runtime % 1000 / 10);
    }
    if (code == cudaErrorNoDevice || (code == cudaSuccess && n == 0)) {
        return rf_error_set(err, RF_ERR,
                            "cuda: there is no GPU, or CUDA_VISIBLE_DEVICES hides it: choose the "
                            "backend cpu");
    }
    if (code == cudaSuccess) {
        RF_TRY(choose_device(n, err));
        code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, own_device);
    }
    if (code == cudaSuccess) {
        code = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, own_device);
    }
    if (code != cudaSuccess) {
        return rf_error_set(err, error_code(code),
                            "cuda: %s (%s): see what nvidia-smi says, or choose the backend cpu",
                            cudaGetErrorString(code), cudaGetErrorName(code));
    }
    if (10 * major + minor != ARCHITECTURE) {
        return rf_error_set(err, RF_ERR,
                            "cuda: the GPU has the architecture sm_%d and the kernels are compiled "
                            "for sm_%d: choose another by CUDA_VISIBLE_DEVICES, or the backend cpu",
                            10 * major + minor, ARCHITECTURE);
    }
    return RF_OK;
}

int rf_cuda_find(rf_error *err)
{
    static rf_error found;
    static bool is_known;
    if (!is_known) {
        (void)find(&found);
        is_known = true;
    }
    return rf_error_pass(err, &found);
}

bool rf_cuda_device_id(unsigned char id[RF_DEVICE_ID])
{
    struct cudaDeviceProp properties = {0};
    (void)cudaGetDeviceProperties(&properties, own_device);
    memcpy(id, properties.uuid.bytes, RF_DEVICE_ID);
    return named_device() != NULL;
}

/* --- Context --------------------------------------------------------------------------------- */

static void close_state(rf_ctx *ctx)
{
    cuda_state *s = ctx->state;
    rf_cuda_series_free(s->series);
    rf_cuda_blas_free(s->blas);
    free(s->pass);
    for (int i = 0; i < N_SLOTS; i++) {
        (void)cudaEventDestroy(s->slot_event[i]);
    }
    for (int i = 0; i < N_EVENTS; i++) {
        (void)cudaEventDestroy(s->event[i]);
    }
    (void)cudaFreeHost(s->ring);
    (void)cudaStreamDestroy(s->stream);
    free(s);
}

static int open_state(rf_ctx *ctx, rf_error *err)
{
    RF_TRY(rf_cuda_find(err));
    cuda_state *s = rf_alloc(1, sizeof *s);
    ctx->state = s;
    s->series = rf_cuda_series_new();
    s->pass = rf_alloc(1, sizeof *s->pass);
    struct cudaDeviceProp properties = {0};
    cudaError_t code = cudaSetDevice(own_device);
    if (code == cudaSuccess) {
        code = cudaGetDeviceProperties(&properties, own_device);
        snprintf(s->name, sizeof s->name, "%s", properties.name);
    }
    if (code == cudaSuccess) {
        code = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
    }
    if (code == cudaSuccess) {
        code = cudaMallocHost(&s->ring, (size_t)N_SLOTS * SLOT_BYTES);
    }
    for (int i = 0; i < N_SLOTS && code == cudaSuccess; i++) {
        code = cudaEventCreateWithFlags(&s->slot_event[i], cudaEventDisableTiming);
    }
    for (int i = 0; i < N_EVENTS && code == cudaSuccess; i++) {
        code = cudaEventCreateWithFlags(&s->event[i], cudaEventDisableTiming);
    }
    if (code != cudaSuccess) {
        close_state(ctx);
        return rf_error_set(err, error_code(code),
                            "cuda: the GPU cannot be opened: %s (%s): see what nvidia-smi says",
                            cudaGetErrorString(code), cudaGetErrorName(code));
    }
    return RF_OK;
}

static const char *device_name(const rf_ctx *ctx)
{
    return ((const cuda_state *)ctx->state)->name;
}

static size_t available(void)
{
    size_t unused = 0, all = 0;
    (void)cudaSetDevice(own_device); /* plans ask before there is a context */
    (void)cudaMemGetInfo(&unused, &all);
    return unused;
}

rf_cuda_stream rf_cuda_stream_of(const rf_ctx *ctx)
{
    return ((const cuda_state *)ctx->state)->stream;
}

rf_cuda_series *rf_cuda_series_of(const rf_ctx *ctx)
{
    return ((const cuda_state *)ctx->state)->series;
}

rf_cuda_blas **rf_cuda_blas_of(rf_ctx *ctx)
{
    return &((cuda_state *)ctx->state)->blas;
}

rf_cuda_pass *rf_cuda_pass_of(const rf_ctx *ctx)
{
    return ((const cuda_state *)ctx->state)->pass;
}

rf_cuda_copy *rf_cuda_copy_of(const rf_ctx *ctx)
{
    return &((cuda_state *)ctx->state)->copy;
}

/* --- Allocation ------------------------------------------------------------------------------ */

static int allocate(rf_ctx *ctx, void **out, size_t bytes, rf_error *err)
{
    const size_t asked = bytes > 0 ? bytes : 1;
    rf_cuda_copy_of(ctx)->of = NULL;
    size_t unused = 0, all = 0;
    cudaError_t code =
        asked <= (size_t)PTRDIFF_MAX ? cudaMalloc(out, asked) : cudaErrorMemoryAllocation;
    if (code == cudaSuccess) {
        code = cudaMemsetAsync(*out, 0, asked, rf_cuda_stream_of(ctx));
        take(ctx, code, "clearing new memory");
        return RF_OK;
    }
    *out = NULL;
    (void)cudaGetLastError(); /* a failed allocation leaves the GPU as it was */
    (void)cudaMemGetInfo(&unused, &all);
    return rf_error_set(err, code == cudaErrorMemoryAllocation ? RF_ERR : error_code(code),
                        "out of memory on the GPU: %zu bytes were asked for, %zu of %zu are free: "
                        "choose a smaller model, shorter rows or fewer rows at once (%s)",
                        bytes, unused, all, cudaGetErrorName(code));
}

/* cudaFree waits for the GPU, so that nothing in the stream still uses the memory. */
static void release(rf_ctx *ctx, void *memory)
{
    take(ctx, cudaFree(memory), "freeing memory");
}

/* --- Copies ---------------------------------------------------------------------------------- */

/* The next slot of the ring, once what it held last has arrived. */
static void *take_slot(rf_ctx *ctx, int *index)
{
    cuda_state *s = ctx->state;
    *index = (int)(s->n_slots++ % N_SLOTS);
    take(ctx, cudaEventSynchronize(s->slot_event[*index]), "waiting for an upload");
    return (char *)s->ring + (size_t)*index * SLOT_BYTES;
}

/* What is read has been read when this returns, which is more than the contract asks. */
static void upload(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                   int64_t n)
{
    rf_cuda_copy_of(ctx)->of = NULL;
    const cuda_state *s = ctx->state;
    const size_t to = rf_type_bytes(dst_type), from = rf_type_bytes(src_type);
    const int64_t most = (int64_t)(SLOT_BYTES / to);
    for (int64_t i = 0; i < n; i += most) {
        const int64_t count = n - i < most ? n - i : most;
        int slot;
        void *staged = take_slot(ctx, &slot);
        rf_host_memory.upload(ctx, staged, dst_type, (const char *)src + (size_t)i * from, src_type,
                              count);
        take(ctx,
             cudaMemcpyAsync((char *)dst + (size_t)i * to, staged, (size_t)count * to,
                             cudaMemcpyHostToDevice, s->stream),
             "an upload");
        take(ctx, cudaEventRecord(s->slot_event[slot], s->stream), "an upload");
    }
}

/* Waits for each piece: what is fetched is read at once, after a step or a forward pass. */
static void download(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                     int64_t n)
{
    const cuda_state *s = ctx->state;
    const size_t to = rf_type_bytes(dst_type), from = rf_type_bytes(src_type);
    const int64_t most = (int64_t)(SLOT_BYTES / from);
    for (int64_t i = 0; i < n; i += most) {
        const int64_t count = n - i < most ? n - i : most;
        int slot;
        void *staged = take_slot(ctx, &slot);
        take(ctx,
             cudaMemcpyAsync(staged, (const char *)src + (size_t)i * from, (size_t)count * from,
                             cudaMemcpyDeviceToHost, s->stream),
             "a download");
        take(ctx, cudaStreamSynchronize(s->stream), "a download");
        rf_host_memory.download(ctx, (char *)dst + (size_t)i * to, dst_type, staged, src_type,
                                count);
    }
}

static void copy(rf_ctx *ctx, void *dst, const void *src, size_t bytes)
{
    rf_cuda_copy_of(ctx)->of = NULL;
    take(ctx, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, rf_cuda_stream_of(ctx)),
         "a copy");
}

static rf_cuda_real real_of(const void *data, rf_type type)
{
    RF_ASSERT(type == RF_F32 || type == RF_BF16); /* the real classes but sum, which has one type */
    return (rf_cuda_real){(void *)(uintptr_t)data, type == RF_BF16 ? RF_CUDA_BF16 : RF_CUDA_F32};
}

static void convert(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                    int64_t n)
{
    rf_cuda_copy_of(ctx)->of = NULL;
    rf_cuda_take(
        ctx,
        rf_cuda_convert(rf_cuda_stream_of(ctx), real_of(dst, dst_type), real_of(src, src_type), n),
        "a conversion");
}

static void zero(rf_ctx *ctx, void *dst, size_t bytes)
{
    rf_cuda_copy_of(ctx)->of = NULL;
    take(ctx, cudaMemsetAsync(dst, 0, bytes, rf_cuda_stream_of(ctx)), "clearing memory");
}

/* --- Events ---------------------------------------------------------------------------------- */

static rf_event record(rf_ctx *ctx)
{
    cuda_state *s = ctx->state;
    const rf_event event = ++s->n_events;
    take(ctx, cudaEventRecord(s->event[event % N_EVENTS], s->stream), "an event");
    return event;
}

static void wait_for(rf_ctx *ctx, rf_event event)
{
    const cuda_state *s = ctx->state;
    if (event > 0) {
        take(ctx, cudaEventSynchronize(s->event[event % N_EVENTS]), "kernels");
    }
}

static void sync_all(rf_ctx *ctx)
{
    take(ctx, cudaStreamSynchronize(rf_cuda_stream_of(ctx)), "kernels");
}

const rf_memory rf_cuda_memory = {
    .device = device_name,
    .available = available,
    .open = open_state,
    .close = close_state,
    .alloc = allocate,
    .free = release,
    .upload = upload,
    .download = download,
    .copy = copy,
    .convert = convert,
    .zero = zero,
    .replay = rf_cuda_replay,
    .keep = rf_cuda_keep,
    .record = record,
    .wait = wait_for,
    .sync = sync_all,
    .transport = &rf_cuda_transport,
};
