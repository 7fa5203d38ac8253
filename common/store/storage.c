#include "common/store/storage.h"

#include "common/kernels/quantize.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* --- f16 -------------------------------------------------------------------------------------- */

static float decode_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000U) << 16;
    uint32_t exponent = (half >> 10) & 0x1FU, mantissa = half & 0x3FFU;
    if (exponent == 0x1F) {
        return rf_quantize_float(sign | 0x7F800000U | mantissa << 13);
    }
    if (exponent > 0) {
        return rf_quantize_float(sign | (exponent + 112U) << 23 | mantissa << 13);
    }
    float value = (float)mantissa * 0x1p-24F;
    return sign != 0 ? -value : value;
}

static uint16_t encode_f16(float value)
{
    uint32_t bits = rf_quantize_bits(value), sign = bits >> 16 & 0x8000U,
             magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) {
        return (uint16_t)(sign | 0x7E00U);
    }
    if (magnitude >= 0x477FF000U) { /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7C00U);
    }
    if (magnitude < 0x38800000U) { /* subnormal: the unit is 2^-24; rint rounds ties to even */
        return (uint16_t)(sign | (uint32_t)rintf(rf_quantize_float(magnitude) * 0x1p24F));
    }
    uint32_t rounded = magnitude + 0xFFFU + (magnitude >> 13 & 1U);
    return (uint16_t)(sign | (rounded - (112U << 23)) >> 13);
}

/* --- Arrays ----------------------------------------------------------------------------------- */

static float decode_one(const char *in, rf_type type)
{
    uint16_t half;
    float single;
    double real;
    switch (type) {
    case RF_F64:
        memcpy(&real, in, sizeof real);
        return (float)real;
    case RF_BF16:
        memcpy(&half, in, sizeof half);
        return rf_quantize_from_bf16(half);
    case RF_F16:
        memcpy(&half, in, sizeof half);
        return decode_f16(half);
    default:
        memcpy(&single, in, sizeof single);
        return single;
    }
}

void rf_storage_decode(float *out, const void *in, rf_type type, int64_t n)
{
    RF_ASSERT(type != RF_I32 && type != RF_I8);
    size_t bytes = rf_type_bytes(type);
    if (type == RF_F32) {
        memcpy(out, in, (size_t)n * bytes);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        out[i] = decode_one((const char *)in + (size_t)i * bytes, type);
    }
}

int64_t rf_storage_encode(void *out, rf_type type, const float *in, int64_t n)
{
    RF_ASSERT(type != RF_I32 && type != RF_I8);
    size_t bytes = rf_type_bytes(type);
    int64_t bad = -1;
    for (int64_t i = n - 1; i >= 0; i--) {
        double real = (double)in[i];
        uint16_t half = type == RF_F16 ? encode_f16(in[i]) : rf_quantize_bf16(in[i]);
        const void *from = type == RF_F32   ? (const void *)&in[i]
                           : type == RF_F64 ? (const void *)&real
                                            : (const void *)&half;
        memcpy((char *)out + (size_t)i * bytes, from, bytes);
        /* The exponent is all ones, in the type that was stored. */
        bool overflows = type == RF_F16    ? (half & 0x7C00U) == 0x7C00U
                         : type == RF_BF16 ? (half & 0x7F80U) == 0x7F80U
                                           : !isfinite(in[i]);
        bad = overflows ? i : bad;
    }
    return bad;
}
