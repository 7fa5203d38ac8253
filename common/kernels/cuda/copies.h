/* copies.h: copies between the host and the GPU (copies.c).                        all local */
#ifndef RF_KERNELS_CUDA_COPIES_H
#define RF_KERNELS_CUDA_COPIES_H

#include "common/kernels/cuda/internal.h"

/* A context's pinned memory, and the small copies that wait in it. */
typedef struct rf_cuda_copies rf_cuda_copies;
/* The runtime's code; *out is NULL or to be freed in any case. */
int rf_cuda_copies_new(rf_cuda_copies **out);
void rf_cuda_copies_free(rf_cuda_copies *copies); /* NULL is fine */
rf_cuda_copies *rf_cuda_copies_of(const rf_ctx *ctx);

/* Gives the small copies that wait to the stream; rf_cuda_stream_of does so, and with it every launch. */
void rf_cuda_flush(rf_ctx *ctx, rf_cuda_stream stream);
/* Has anything been downloaded that is not where it goes? */
bool rf_cuda_has_arrivals(const rf_ctx *ctx);
/* Puts it there; the stream has been waited for. */
void rf_cuda_settle(rf_ctx *ctx);

/* upload and download of rf_memory. */
void rf_cuda_upload(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                    int64_t n);
void rf_cuda_download(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                      int64_t n);

#endif
