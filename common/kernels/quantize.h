/* quantize.h: the 8-bit and 16-bit forms of weights, the same for every backend and file. all local
 *
 * int8: a row is cut into groups of RF_QUANTIZE_GROUP elements (the last may be shorter); element i
 * of a group is scale * q[i] with q in [-127,127], symmetric. The scale is the group's largest
 * magnitude / 127, rounded up to 16 significant bits, which makes scale * q exact in f32: to
 * quantize what was quantized changes nothing, bit for bit.
 */
#ifndef RF_KERNELS_QUANTIZE_H
#define RF_KERNELS_QUANTIZE_H

#include "common/kernels/inline.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { RF_QUANTIZE_GROUP = 128, RF_QUANTIZE_MOST = 127 };

RF_KERNELS_INLINE int64_t rf_quantize_groups(int64_t n)
{
    return (n + RF_QUANTIZE_GROUP - 1) / RF_QUANTIZE_GROUP;
}

RF_KERNELS_INLINE uint32_t rf_quantize_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

RF_KERNELS_INLINE float rf_quantize_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Quantizes one group: q [n] sets, x [n] reads, n <= RF_QUANTIZE_GROUP; returns the scale. Groups
 * whose largest magnitude is below 2^-100 become 0 (no denormal appears); those that hold NaN or
 * infinity get the scale NaN and q = 0. */
RF_KERNELS_INLINE float rf_quantize(int8_t *q, const float *x, int64_t n)
{
    const float shift = 12582912.0F; /* 1.5 * 2^23: adding it rounds to an integer, ties to even */
    uint32_t largest = 0;            /* of magnitudes as integers: NaN above infinity above all */
    for (int64_t i = 0; i < n; i++) {
        uint32_t magnitude = rf_quantize_bits(x[i]) & 0x7FFFFFFFU;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (largest < rf_quantize_bits(0x1p-100F) || largest >= 0x7F800000U) {
        for (int64_t i = 0; i < n; i++) {
            q[i] = 0;
        }
        return largest >= 0x7F800000U ? NAN : 0.0F;
    }
    float scale = rf_quantize_float(largest) / (float)RF_QUANTIZE_MOST;
    scale = rf_quantize_float((rf_quantize_bits(scale) + 0xFFU) & ~0xFFU);
    const float inverse = 1.0F / scale;
    for (int64_t i = 0; i < n; i++) {
        q[i] = (int8_t)((x[i] * inverse + shift) - shift);
    }
    return scale;
}

/* x rounded to bf16, ties to even; NaN stays NaN. */
RF_KERNELS_INLINE uint16_t rf_quantize_bf16(float x)
{
    uint32_t bits = rf_quantize_bits(x);
    uint32_t rounded = bits + 0x7FFFU + (bits >> 16 & 1U);
    return (uint16_t)(((bits & 0x7FFFFFFFU) > 0x7F800000U ? bits | 0x400000U : rounded) >> 16);
}

RF_KERNELS_INLINE float rf_quantize_from_bf16(uint16_t x)
{
    return rf_quantize_float((uint32_t)x << 16);
}

#endif
