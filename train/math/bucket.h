/* bucket.h: the pieces in which gradients travel.                              all local
 *
 * A bucket is a run of whole layers of at least RF_BUCKET_BYTES: complete, in the backward pass, as
 * soon as its first layer is. Buckets follow from the model and the type of its gradients, never
 * from the number of ranks, and no bit of a sum depends on them.
 */
#ifndef RF_TRAIN_MATH_BUCKET_H
#define RF_TRAIN_MATH_BUCKET_H

#include "common/model/table.h"

#include <stddef.h>

enum { RF_BUCKET_BYTES = 25 << 20 };

/* Cuts the trainable space into buckets, by offset: they cover it. A last run of layers that is too short
 * joins the one before. element_bytes: of a gradient's element. Returns their number; bucket: an array
 * of that many, which the caller frees. */
int64_t rf_bucket_cut(rf_range **bucket, const rf_table *table, size_t element_bytes);

#endif
