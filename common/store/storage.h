/* storage.h: values of files as f32, and back.                                  all local
 *
 * For f32, f64, bf16 and f16. bf16 is the upper half of an f32; f16 is IEEE 754 binary16.
 */
#ifndef RF_STORE_STORAGE_H
#define RF_STORE_STORAGE_H

#include "common/kernels/backend.h"

/* n stored values to f32; exact but for f64, which is rounded. Any alignment of `in`; no overlap. */
void rf_storage_decode(float *out, const void *in, rf_type type, int64_t n);
/* n values of f32 to stored ones, rounded to the nearest, ties to even; beyond the range they
 * become infinite. NaN stays NaN. Any alignment of `out`; no overlap. Returns the first index whose
 * stored value is not finite, or -1. */
int64_t rf_storage_encode(void *out, rf_type type, const float *in, int64_t n);

#endif
