/* head.h: what the loss and the queries of the head share.                all local
 *
 * Both work on chunks of places: rows of x are gathered, their logits live in scratch, and a row's
 * maximum and sum of exponentials come from one function.
 */
#ifndef RF_KERNELS_CPU_HEAD_H
#define RF_KERNELS_CPU_HEAD_H

#include "common/kernels/cpu/internal.h"

typedef struct head_scratch {
    int64_t rows;  /* places of a chunk */
    float *logits; /* [rows,V], rows ld floats apart */
    float *spare;  /* [threads,2,V], ld apart: two other rows for each thread (draw.c) */
    int64_t ld;
    void *x;   /* [rows,D] activations: gathered rows of x, */
    float *dx; /* and their gradients */
} head_scratch;

/* Pieces of the context's scratch behind what gemm uses. */
head_scratch RF_CPU(head_take)(rf_ctx *ctx, int64_t d, int64_t v);

/* x[i] = from[place[i]], activations. */
void RF_CPU(head_gather)(rf_ctx *ctx, void *x, const void *from, const int32_t *place, int64_t n,
                         int64_t d);

/* Largest logit of a row, and the sum of exp(logit - largest). Where e is not NULL the terms go
 * there (it may be the row itself). */
void RF_CPU(head_row_sum)(float *largest, float *sum, float *e, const float *row, int64_t v);

/* Of n logits, 1 or more. */
float RF_CPU(head_largest)(const float *z, int64_t n);

/* The token that `how` draws from logits row [n_usable], banned ones -INFINITY; `first` where no
 * other is above. own and edge [n_usable] are scratch. */
int32_t RF_CPU(draw)(float *own, float *edge, const float *row, int32_t first,
                     const rf_head_query *query, const rf_draw *how);

#endif
