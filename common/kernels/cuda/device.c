/* The memory of the backend: a stream and events for each context. */
#include "common/kernels/cuda/copies.h"
#include "common/kernels/cuda/infer/block.h"
#include "common/kernels/cuda/internal.h"
#include "common/kernels/cuda/link/nccl.h"
#include "common/kernels/cuda/series.h"

#include "common/base/alloc.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* N_EVENTS: how many records back an event is told from later ones; an older one waits for one of these,
 * which is never too early. */
enum { N_EVENTS = 64, ARCHITECTURE = 90 };

typedef struct cuda_state {
    cudaStream_t stream;
    rf_cuda_copies *copies;
    cudaEvent_t event[N_EVENTS];
    rf_event n_events;
    rf_cuda_series *series;
    rf_cuda_blas *blas;
    rf_cuda_copy copy;
    rf_cuda_spans listed[2]; /* backward, forward */
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
    const int none = named_device() != NULL ? RF_ERR_USAGE : RF_ERR;
    cudaError_t code = cudaGetDeviceCount(&n);
    if (code == cudaErrorInsufficientDriver) {
        (void)cudaDriverGetVersion(&driver);
        (void)cudaRuntimeGetVersion(&runtime);
        return rf_error_set(err, none,
                            "cuda: %s for CUDA %d.%d: install or update the driver, or choose the "
                            "backend cpu",
                            driver == 0 ? "there is no NVIDIA driver"
                                        : "the NVIDIA driver is too old",
                            runtime / 1000, runtime % 1000 / 10);
    }
    if (code == cudaErrorNoDevice || (code == cudaSuccess && n == 0)) {
        return rf_error_set(err, none,
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
    rf_cuda_copies_free(s->copies);
    for (int i = 0; i < N_EVENTS; i++) {
        (void)cudaEventDestroy(s->event[i]);
    }
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
        code = (cudaError_t)rf_cuda_copies_new(&s->copies);
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

rf_cuda_stream rf_cuda_stream_of(rf_ctx *ctx)
{
    rf_cuda_stream stream = ((const cuda_state *)ctx->state)->stream;
    rf_cuda_flush(ctx, stream);
    return stream;
}

rf_cuda_copies *rf_cuda_copies_of(const rf_ctx *ctx)
{
    return ((const cuda_state *)ctx->state)->copies;
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

rf_cuda_spans *rf_cuda_listed_of(const rf_ctx *ctx, bool forward)
{
    return &((cuda_state *)ctx->state)->listed[forward];
}

void rf_cuda_forget(rf_ctx *ctx)
{
    cuda_state *s = ctx->state;
    s->copy = (rf_cuda_copy){0};
    s->listed[0] = s->listed[1] = (rf_cuda_spans){0};
}

/* --- Allocation ------------------------------------------------------------------------------ */

static int allocate(rf_ctx *ctx, void **out, size_t bytes, rf_error *err)
{
    const size_t asked = bytes > 0 ? bytes : 1;
    rf_cuda_forget(ctx);
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
    (void)rf_cuda_stream_of(ctx); /* copies that waited are in it then */
    take(ctx, cudaFree(memory), "freeing memory");
}

/* --- Copies ---------------------------------------------------------------------------------- */

static void copy(rf_ctx *ctx, void *dst, const void *src, size_t bytes)
{
    rf_cuda_forget(ctx);
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
    rf_cuda_forget(ctx);
    rf_cuda_take(
        ctx,
        rf_cuda_convert(rf_cuda_stream_of(ctx), real_of(dst, dst_type), real_of(src, src_type), n),
        "a conversion");
}

static void zero(rf_ctx *ctx, void *dst, size_t bytes)
{
    rf_cuda_forget(ctx);
    take(ctx, cudaMemsetAsync(dst, 0, bytes, rf_cuda_stream_of(ctx)), "clearing memory");
}

/* --- Events ---------------------------------------------------------------------------------- */

static rf_event record(rf_ctx *ctx)
{
    cuda_state *s = ctx->state;
    const rf_event event = ++s->n_events;
    take(ctx, cudaEventRecord(s->event[event % N_EVENTS], rf_cuda_stream_of(ctx)), "an event");
    return event;
}

static void sync_all(rf_ctx *ctx)
{
    take(ctx, cudaStreamSynchronize(rf_cuda_stream_of(ctx)), "kernels");
    rf_cuda_settle(ctx);
}

static void wait_for(rf_ctx *ctx, rf_event event)
{
    const cuda_state *s = ctx->state;
    if (rf_cuda_has_arrivals(ctx)) { /* some of them may be behind the event: no harm */
        sync_all(ctx);
    } else if (event > 0) {
        take(ctx, cudaEventSynchronize(s->event[event % N_EVENTS]), "kernels");
    }
}

const rf_memory rf_cuda_memory = {
    .device = device_name,
    .available = available,
    .open = open_state,
    .close = close_state,
    .alloc = allocate,
    .free = release,
    .upload = rf_cuda_upload,
    .download = rf_cuda_download,
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
