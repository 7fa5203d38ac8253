/* Series of kernels as graphs (rf_backend_replay): what is asked for a second time is recorded, and from
 * then on one launch. */
#include "common/kernels/cuda/series.h"

#include "common/base/alloc.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

enum { N_SERIES = 64 };

typedef struct series {
    int64_t key[RF_SERIES_KEY], used; /* used: when last; 0: never */
    cudaGraphExec_t graph;            /* NULL: asked for once */
} series;

struct rf_cuda_series {
    series of[N_SERIES];
    int64_t now;
    series *recorded; /* is being recorded */
};

rf_cuda_series *rf_cuda_series_new(void)
{
    return rf_alloc(1, sizeof(rf_cuda_series));
}

static void forget(series *s)
{
    if (s->graph != NULL) {
        (void)cudaGraphExecDestroy(s->graph);
    }
    *s = (series){0};
}

void rf_cuda_series_free(rf_cuda_series *all)
{
    for (int i = 0; all != NULL && i < N_SERIES; i++) {
        forget(&all->of[i]);
    }
    free(all);
}

/* The series of that key, or in its place the one that was not used for the longest time. */
static series *find(rf_cuda_series *all, const int64_t *key)
{
    series *oldest = &all->of[0];
    for (int i = 0; i < N_SERIES; i++) {
        series *s = &all->of[i];
        if (s->used > 0 && memcmp(s->key, key, sizeof s->key) == 0) {
            return s;
        }
        oldest = s->used < oldest->used ? s : oldest;
    }
    return oldest;
}

bool rf_cuda_replay(rf_ctx *ctx, const int64_t *key)
{
    rf_cuda_series *all = rf_cuda_series_of(ctx);
    rf_cuda_stream stream = rf_cuda_stream_of(ctx);
    series *s = find(all, key);
    const bool is_known = s->used > 0 && memcmp(s->key, key, sizeof s->key) == 0;
    if (!is_known) {
        forget(s);
        memcpy(s->key, key, sizeof s->key);
    }
    s->used = ++all->now;
    if (s->graph != NULL) {
        rf_cuda_take(ctx, cudaGraphLaunch(s->graph, stream), "a series of kernels");
        return true;
    }
    if (is_known) {
        all->recorded = s;
        rf_cuda_take(ctx, cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                     "recording kernels");
    }
    return false;
}

void rf_cuda_keep(rf_ctx *ctx)
{
    rf_cuda_series *all = rf_cuda_series_of(ctx);
    rf_cuda_stream stream = rf_cuda_stream_of(ctx);
    series *s = all->recorded;
    cudaGraph_t graph = NULL;
    all->recorded = NULL;
    if (s == NULL) {
        return;
    }
    cudaError_t code = cudaStreamEndCapture(stream, &graph);
    if (code == cudaSuccess) {
        code = cudaGraphInstantiate(&s->graph, graph, 0);
    }
    if (code == cudaSuccess) {
        code = cudaGraphLaunch(s->graph, stream);
    }
    if (graph != NULL) {
        (void)cudaGraphDestroy(graph);
    }
    rf_cuda_take(ctx, code, "recording kernels");
}
