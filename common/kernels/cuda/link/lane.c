/* Lanes: the part of links that calls CUDA. */
#include "common/kernels/cuda/internal.h"
#include "common/kernels/cuda/link/nccl.h"

#include "common/base/alloc.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>

enum { N_MARKS = 64 };

struct rf_cuda_lane {
    cudaStream_t stream;
    cudaEvent_t begin; /* where a context stood when the lane last followed it */
    cudaEvent_t mark[N_MARKS];
    int64_t n_marks;
    void *memory;
};

int rf_cuda_lane_new(rf_cuda_lane **out, size_t bytes, rf_error *err)
{
    rf_cuda_lane *lane = rf_alloc(1, sizeof *lane);
    int least = 0, most = 0;
    /* Before kernels that wait for room: what travels is waited for by all ranks. */
    cudaError_t code = cudaDeviceGetStreamPriorityRange(&least, &most);
    if (code == cudaSuccess) {
        code = cudaStreamCreateWithPriority(&lane->stream, cudaStreamNonBlocking, most);
    }
    if (code == cudaSuccess) {
        code = cudaEventCreateWithFlags(&lane->begin, cudaEventDisableTiming);
    }
    for (int i = 0; i < N_MARKS && code == cudaSuccess; i++) {
        code = cudaEventCreateWithFlags(&lane->mark[i], cudaEventDisableTiming);
    }
    if (code == cudaSuccess) {
        code = cudaMalloc(&lane->memory, bytes);
    }
    if (code == cudaSuccess) {
        code = cudaMemsetAsync(lane->memory, 0, bytes, lane->stream);
    }
    if (code != cudaSuccess) {
        rf_cuda_lane_free(lane);
        lane = NULL;
    }
    *out = lane;
    return rf_cuda_check((int)code, "opening a link", err);
}

void rf_cuda_lane_free(rf_cuda_lane *lane)
{
    if (lane == NULL) {
        return;
    }
    for (int i = 0; i < N_MARKS; i++) {
        (void)cudaEventDestroy(lane->mark[i]);
    }
    (void)cudaEventDestroy(lane->begin);
    (void)cudaFree(lane->memory);
    (void)cudaStreamDestroy(lane->stream);
    free(lane);
}

rf_cuda_stream rf_cuda_lane_stream(const rf_cuda_lane *lane)
{
    return lane->stream;
}

void *rf_cuda_lane_memory(const rf_cuda_lane *lane)
{
    return lane->memory;
}

int rf_cuda_lane_follow(rf_cuda_lane *lane, rf_ctx *ctx, rf_error *err)
{
    cudaError_t code = cudaEventRecord(lane->begin, rf_cuda_stream_of(ctx));
    if (code == cudaSuccess) {
        code = cudaStreamWaitEvent(lane->stream, lane->begin, 0);
    }
    return rf_cuda_check((int)code, "beginning an exchange", err);
}

int rf_cuda_lane_copy(rf_cuda_lane *lane, void *dst, const void *src, size_t bytes, rf_error *err)
{
    return rf_cuda_check(
        (int)cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, lane->stream),
        "an exchange", err);
}

int rf_cuda_lane_mark(rf_cuda_lane *lane, int64_t *mark, rf_error *err)
{
    *mark = ++lane->n_marks;
    return rf_cuda_check((int)cudaEventRecord(lane->mark[*mark % N_MARKS], lane->stream),
                         "an exchange", err);
}

int rf_cuda_lane_passed(const rf_cuda_lane *lane, int64_t mark, bool *passed, rf_error *err)
{
    const cudaError_t code = cudaEventQuery(lane->mark[mark % N_MARKS]);
    *passed = code == cudaSuccess;
    return code == cudaErrorNotReady ? RF_OK : rf_cuda_check((int)code, "an exchange", err);
}
