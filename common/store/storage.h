/* storage.h: the types in which values lie in files.                           all local
 *
 * Little-endian, as on every machine that this program runs on. bf16 is the upper half of an f32;
 * f16 is IEEE 754 binary16.
 */
#ifndef RF_STORE_STORAGE_H
#define RF_STORE_STORAGE_H

#include "common/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef enum rf_storage {
    RF_STORAGE_F32,
    RF_STORAGE_F64,
    RF_STORAGE_BF16,
    RF_STORAGE_F16,
    RF_STORAGE_INT8, /* with scales: quantize.h. Not for the functions on arrays below */
    RF_N_STORAGES
} rf_storage;

size_t rf_storage_bytes(rf_storage type);
const char *rf_storage_name(rf_storage type); /* "f32", "f64", "bf16", "f16", "int8" */
/* RF_N_STORAGES for an unknown name. */
rf_storage rf_storage_find(const char *name);

/* n stored values to f32; exact but for f64, which is rounded. Any alignment of `in`; no overlap.
 */
void rf_storage_decode(float *out, const void *in, rf_storage type, int64_t n);
/* n values of f32 to stored ones, rounded to the nearest, ties to even; beyond the range they
 * become infinite. NaN stays NaN. Any alignment of `out`; no overlap. Returns the first index whose
 * stored value is not finite, or -1. */
int64_t rf_storage_encode(void *out, rf_storage type, const float *in, int64_t n);

#endif
