/* series.h: series of kernels as graphs (series.c).                               all local */
#ifndef RF_KERNELS_CUDA_SERIES_H
#define RF_KERNELS_CUDA_SERIES_H

#include "common/kernels/cuda/internal.h"

/* A context's recorded series. */
typedef struct rf_cuda_series rf_cuda_series;
rf_cuda_series *rf_cuda_series_new(void);
void rf_cuda_series_free(rf_cuda_series *series); /* NULL is fine */
rf_cuda_series *rf_cuda_series_of(const rf_ctx *ctx);

/* replay and keep of rf_memory. */
bool rf_cuda_replay(rf_ctx *ctx, const int64_t *key);
void rf_cuda_keep(rf_ctx *ctx);

#endif
