/* Copies between the host and the GPU, by way of pinned memory.
 *
 * Large ones are the copy engine's. To it each copy of a forward pass of few places, of some bytes each,
 * would cost five microseconds. So small ones wait until something else goes into the stream, and are then
 * one kernel, which reads or writes pinned memory itself: a pass has one upload and one download. What was
 * downloaded goes to its destination when the stream is next waited for. */
#include "common/kernels/cuda/copies.h"

#include "common/base/alloc.h"
#include "common/kernels/host.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>

/* N_SLOTS: pieces of the ring, of uploads that may be on their way at once. SMALL: the largest copy that
 * waits; ALIGNED: where it begins. */
enum { SLOT_BYTES = 1 << 20, N_SLOTS = 8, SMALL = 1 << 14, ALIGNED = 16 };

struct rf_cuda_copies {
    char *ring;    /* pinned: N_SLOTS of SLOT_BYTES, for uploads and large downloads, */
    char *arrived; /* and SLOT_BYTES for small downloads */
    cudaEvent_t slot_event[N_SLOTS];
    int64_t n_slots; /* given out so far: slot n_slots % N_SLOTS is next */
    /* Small copies that wait, all of one direction; uploads lie in the first `filled` bytes of `slot`. */
    rf_cuda_parcels waiting;
    bool is_down;
    int slot;
    size_t filled;
    /* Small downloads that are not at their destination: in the first n_arrived bytes of `arrived`. */
    struct arrival {
        void *dst;
        rf_type dst_type, type;
        const void *staged;
        int64_t n;
    } arrival[RF_CUDA_PARCELS];
    int n_arrivals;
    size_t n_arrived;
};

int rf_cuda_copies_new(rf_cuda_copies **out)
{
    rf_cuda_copies *c = *out = rf_alloc(1, sizeof *c);
    cudaError_t code = cudaMallocHost((void **)&c->ring, (size_t)(N_SLOTS + 1) * SLOT_BYTES);
    for (int i = 0; i < N_SLOTS && code == cudaSuccess; i++) {
        code = cudaEventCreateWithFlags(&c->slot_event[i], cudaEventDisableTiming);
    }
    c->arrived = code == cudaSuccess ? c->ring + (size_t)N_SLOTS * SLOT_BYTES : NULL;
    return (int)code;
}

void rf_cuda_copies_free(rf_cuda_copies *copies)
{
    for (int i = 0; copies != NULL && i < N_SLOTS; i++) {
        (void)cudaEventDestroy(copies->slot_event[i]);
    }
    if (copies != NULL) {
        (void)cudaFreeHost(copies->ring);
    }
    free(copies);
}

/* The next slot of the ring, once what it held last has arrived. */
static void *take_slot(rf_ctx *ctx, int *index)
{
    rf_cuda_copies *c = rf_cuda_copies_of(ctx);
    *index = (int)(c->n_slots++ % N_SLOTS);
    rf_cuda_take(ctx, (int)cudaEventSynchronize(c->slot_event[*index]), "waiting for an upload");
    return c->ring + (size_t)*index * SLOT_BYTES;
}

/* --- Small ones ------------------------------------------------------------------------------ */

void rf_cuda_flush(rf_ctx *ctx, rf_cuda_stream stream)
{
    rf_cuda_copies *c = rf_cuda_copies_of(ctx);
    if (c->waiting.n > 0) {
        rf_cuda_take(ctx, rf_cuda_move_parcels(stream, &c->waiting), "small copies");
        if (!c->is_down) {
            rf_cuda_take(ctx, (int)cudaEventRecord(c->slot_event[c->slot], stream), "an upload");
        }
        c->waiting.n = 0;
    }
}

/* Does a copy that waits write there? Those of one kernel have no order. */
static bool is_written(const rf_cuda_copies *c, const void *dst, size_t bytes)
{
    const uintptr_t first = (uintptr_t)dst;
    bool found = false;
    for (int i = 0; i < c->waiting.n; i++) {
        const rf_cuda_parcel *other = &c->waiting.parcel[i];
        const uintptr_t begin = (uintptr_t)other->to;
        found = found || (first < begin + (uintptr_t)other->bytes && begin < first + bytes);
    }
    return found;
}

static void add_parcel(rf_cuda_copies *c, void *to, const void *from, size_t bytes, bool is_down)
{
    c->is_down = is_down;
    c->waiting.parcel[c->waiting.n++] = (rf_cuda_parcel){to, from, (int64_t)bytes};
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
}

static void upload_small(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src,
                         rf_type src_type, int64_t n)
{
    rf_cuda_copies *c = rf_cuda_copies_of(ctx);
    const size_t bytes = (size_t)n * rf_type_bytes(dst_type);
    if (c->is_down || c->waiting.n == RF_CUDA_PARCELS || c->filled + bytes > SLOT_BYTES ||
        is_written(c, dst, bytes)) {
        (void)rf_cuda_stream_of(ctx);
    }
    if (c->waiting.n == 0) {
        (void)take_slot(ctx, &c->slot);
        c->filled = 0;
    }
    char *staged = c->ring + (size_t)c->slot * SLOT_BYTES + c->filled;
    rf_host_memory.upload(ctx, staged, dst_type, src, src_type, n);
    add_parcel(c, dst, staged, bytes, false);
    c->filled += aligned(bytes);
}

bool rf_cuda_has_arrivals(const rf_ctx *ctx)
{
    return rf_cuda_copies_of(ctx)->n_arrivals > 0;
}

void rf_cuda_settle(rf_ctx *ctx)
{
    rf_cuda_copies *c = rf_cuda_copies_of(ctx);
    for (int i = 0; i < c->n_arrivals; i++) {
        const struct arrival *a = &c->arrival[i];
        rf_host_memory.download(ctx, a->dst, a->dst_type, a->staged, a->type, a->n);
    }
    c->n_arrivals = 0;
    c->n_arrived = 0;
}

/* Waits for the stream. */
static void settle_now(rf_ctx *ctx)
{
    rf_cuda_take(ctx, (int)cudaStreamSynchronize(rf_cuda_stream_of(ctx)), "a download");
    rf_cuda_settle(ctx);
}

static void download_small(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src,
                           rf_type src_type, int64_t n)
{
    rf_cuda_copies *c = rf_cuda_copies_of(ctx);
    const size_t bytes = (size_t)n * rf_type_bytes(src_type);
    if (c->n_arrivals == RF_CUDA_PARCELS || c->n_arrived + bytes > SLOT_BYTES) {
        settle_now(ctx);
    }
    if (!c->is_down) {
        (void)rf_cuda_stream_of(ctx); /* it may be what is on its way up */
    }
    char *staged = c->arrived + c->n_arrived;
    add_parcel(c, staged, src, bytes, true);
    c->arrival[c->n_arrivals++] = (struct arrival){dst, dst_type, src_type, staged, n};
    c->n_arrived += aligned(bytes);
}

/* --- All ------------------------------------------------------------------------------------- */

/* What is read has been read when this returns, which is more than the contract asks. */
void rf_cuda_upload(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                    int64_t n)
{
    rf_cuda_forget(ctx);
    const size_t to = rf_type_bytes(dst_type), from = rf_type_bytes(src_type);
    const int64_t most = (int64_t)(SLOT_BYTES / to);
    if ((size_t)n * to <= SMALL) {
        upload_small(ctx, dst, dst_type, src, src_type, n);
        return;
    }
    rf_cuda_stream stream = rf_cuda_stream_of(ctx);
    for (int64_t i = 0; i < n; i += most) {
        const int64_t count = min_of(n - i, most);
        int slot;
        void *staged = take_slot(ctx, &slot);
        rf_host_memory.upload(ctx, staged, dst_type, (const char *)src + (size_t)i * from, src_type,
                              count);
        rf_cuda_take(ctx,
                     (int)cudaMemcpyAsync((char *)dst + (size_t)i * to, staged, (size_t)count * to,
                                          cudaMemcpyHostToDevice, stream),
                     "an upload");
        rf_cuda_take(ctx, (int)cudaEventRecord(rf_cuda_copies_of(ctx)->slot_event[slot], stream),
                     "an upload");
    }
}

/* Large ones wait for each piece: what is fetched is read at once, after a step. */
void rf_cuda_download(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                      int64_t n)
{
    const size_t to = rf_type_bytes(dst_type), from = rf_type_bytes(src_type);
    const int64_t most = (int64_t)(SLOT_BYTES / from);
    if ((size_t)n * from <= SMALL) {
        download_small(ctx, dst, dst_type, src, src_type, n);
        return;
    }
    if (rf_cuda_has_arrivals(ctx)) { /* the same destination may be among them */
        settle_now(ctx);
    }
    rf_cuda_stream stream = rf_cuda_stream_of(ctx);
    for (int64_t i = 0; i < n; i += most) {
        const int64_t count = min_of(n - i, most);
        int slot;
        void *staged = take_slot(ctx, &slot);
        rf_cuda_take(ctx,
                     (int)cudaMemcpyAsync(staged, (const char *)src + (size_t)i * from,
                                          (size_t)count * from, cudaMemcpyDeviceToHost, stream),
                     "a download");
        rf_cuda_take(ctx, (int)cudaStreamSynchronize(stream), "a download");
        rf_host_memory.download(ctx, (char *)dst + (size_t)i * to, dst_type, staged, src_type,
                                count);
    }
}
