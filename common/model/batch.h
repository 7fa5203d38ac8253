/* batch.h: flat arrays of places, all that a model ever sees.                  all local
 *
 * Rows, samples, slots and objectives live in how a batch is built (data/objective.h, infer/);
 * the model only knows places. Host memory.
 */
#ifndef RF_MODEL_BATCH_H
#define RF_MODEL_BATCH_H

#include "common/base/error.h"

#include <stdint.h>

enum { RF_PART_NONE = UINT8_MAX };

typedef struct rf_batch {
    int64_t n;         /* N places in use */
    int64_t capacity;  /* places that fit */
    int32_t *token;    /* [N] in [0,V) */
    int32_t *position; /* [N] index in the original order prompt‖response; RoPE uses it */
    int32_t *target;   /* [N] token to predict here, -1: none */
    float *weight;     /* [N] of the cross-entropy at this place; 0 where target is -1 */
    int32_t *span;     /* [N,2,2] begin and end of the key spans: of this batch's own places, or of
                          the cache's slab where a cache is given */
    int32_t *place;    /* [N] slab index at which the place's key and value are written; read only
                          where a cache is given. Distinct within a batch */
    uint8_t *part;     /* [N] to which part of the objective the target belongs (data/objective.h),
                          RF_PART_NONE without one; the model ignores it */
} rf_batch;

/* One allocation of `capacity` places, n = 0, target -1, all else 0. */
RF_MUST_CHECK int rf_batch_new(rf_batch *out, int64_t capacity, rf_error *err);
void rf_batch_free(rf_batch *batch); /* zeroes the struct; a zeroed struct is fine */
/* n = 0. */
void rf_batch_clear(rf_batch *batch);
/* Appends a place without target and returns its index; capacity is an invariant. The spans are
 * [begin0,end0) and [begin1,end1). */
int64_t rf_batch_add(rf_batch *batch, int32_t token, int32_t position, int64_t place,
                     int64_t begin0, int64_t end0, int64_t begin1, int64_t end1);

#endif
