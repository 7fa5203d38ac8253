/* The packed formats by their values: rows, rounded. Products take them as they take any rows. */
#include "common/kernels/ref/ref.h"

#include "common/kernels/quantize.h"

size_t RF_REF(pack_bytes)(rf_layout layout, int64_t in, int64_t out)
{
    (void)layout;
    return (size_t)(in * out) * sizeof(real);
}

static void round_bf16(real *to, const real *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        to[i] = (real)rf_quantize_float((uint32_t)rf_quantize_bf16((float)from[i]) << 16);
    }
}

static void round_int8(real *to, const real *from, int64_t n)
{
    float group[RF_QUANTIZE_GROUP];
    int8_t q[RF_QUANTIZE_GROUP];
    for (int64_t begin = 0; begin < n; begin += RF_QUANTIZE_GROUP) {
        int64_t length = n - begin < RF_QUANTIZE_GROUP ? n - begin : RF_QUANTIZE_GROUP;
        for (int64_t i = 0; i < length; i++) {
            group[i] = (float)from[begin + i];
        }
        float scale = rf_quantize(q, group, length);
        for (int64_t i = 0; i < length; i++) {
            to[begin + i] = (real)(scale * (float)q[i]);
        }
    }
}

void RF_REF(pack)(rf_ctx *ctx, void *packed_, rf_layout layout, const void *w_, int64_t first,
                  int64_t n, int64_t in, int64_t out)
{
    (void)ctx;
    RF_ASSERT(layout != RF_ROWS && first % RF_PACK_ROWS == 0 && first + n <= out);
    real *packed = (real *)packed_ + first * in;
    const real *w = w_;
    for (int64_t o = 0; o < n; o++, packed += in, w += in) {
        if (layout == RF_PACKED_BF16) {
            round_bf16(packed, w, in);
        } else if (layout == RF_PACKED_INT8) {
            round_int8(packed, w, in);
        } else {
            memcpy(packed, w, (size_t)in * sizeof(real));
        }
    }
}
