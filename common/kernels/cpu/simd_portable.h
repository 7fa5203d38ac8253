/* simd_portable.h: what simd.h, which includes it, wants, in GNU vectors of 4 floats.   all local */
#ifndef RF_KERNELS_CPU_SIMD_PORTABLE_H
#define RF_KERNELS_CPU_SIMD_PORTABLE_H

#include <stdint.h>
#include <string.h>

#if defined(RF_ISA_portable)

V_INLINE vf v_set(float x)
{
    return (vf){x, x, x, x};
}
V_INLINE vf v_load_n(const float *p, int64_t n)
{
    vf a = {0.0F, 0.0F, 0.0F, 0.0F};
    for (int i = 0; i < VL; i++) {
        if (i < n) {
            a[i] = p[i];
        }
    }
    return a;
}
V_INLINE void v_store_n(float *p, vf a, int64_t n)
{
    for (int i = 0; i < VL; i++) {
        if (i < n) {
            p[i] = a[i];
        }
    }
}
V_INLINE vf v_sqrt(vf a)
{
    for (int i = 0; i < VL; i++) {
        a[i] = __builtin_sqrtf(a[i]);
    }
    return a;
}
V_INLINE vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}
V_INLINE vf v_fnma(vf a, vf b, vf c)
{
    return c - a * b;
}
V_INLINE vf v_choose(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}
V_INLINE vf v_where_less(vf x, vf y, vf a, vf b)
{
    return v_choose(x < y, a, b);
}
V_INLINE vf v_max(vf a, vf b)
{
    return v_choose(a > b, a, b);
}
V_INLINE vf v_min(vf a, vf b)
{
    return v_choose(a < b, a, b);
}
V_INLINE vf v_first(int64_t n, vf a, vf b)
{
    int32_t count = n > VL ? VL : n < 0 ? 0 : (int32_t)n;
    return v_choose((vi){0, 1, 2, 3} < (vi){count, count, count, count}, a, b);
}
V_INLINE float v_sum(vf a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}
V_INLINE float v_largest(vf a)
{
    float low = a[0] > a[2] ? a[0] : a[2], high = a[1] > a[3] ? a[1] : a[3];
    return low > high ? low : high;
}
V_INLINE vf v_scale2(vf a, vf n)
{
    vi whole = __builtin_convertvector(n, vi), half = whole >> 1;
    return a * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
}
V_INLINE vf v_scale2_near(vf a, vf n)
{
    return (vf)((vi)a + (__builtin_convertvector(n, vi) << 23));
}

V_INLINE void v_load_transposed(vf out[VL], const float *src, int64_t ld)
{
    for (int c = 0; c < VL; c++) {
        out[c] = (vf){src[c], src[ld + c], src[2 * ld + c], src[3 * ld + c]};
    }
}

V_INLINE vf v_bf16(vf a)
{
    vu x = (vu)a, up = x + ((x >> 16) & 1U) + 0x7fffU;
    return v_upper(v_choose(a == a, (vf)up, (vf)(x | 0x00400000U)));
}
/* Lanes 0 and 2 of each hold the first of a pair. */
V_INLINE vf v_pairs(vf first, vf second)
{
    vf low = v_bf16(first), high = v_bf16(second);
    vf even = {low[0], low[2], high[0], high[2]}, odd = {low[1], low[3], high[1], high[3]};
    return v_or(v_down16(even), odd);
}
V_INLINE vf v_load_half_n(const uint16_t *p, int64_t n)
{
    vi a = {0, 0, 0, 0};
    for (int i = 0; i < VL; i++) {
        if (i < n) {
            a[i] = p[i];
        }
    }
    return v_up16((vf)a);
}
V_INLINE void v_store_half_n(uint16_t *p, vf a, int64_t n)
{
    vi half = (vi)v_down16(v_bf16(a));
    for (int i = 0; i < VL; i++) {
        if (i < n) {
            p[i] = (uint16_t)half[i];
        }
    }
}

#endif

#endif
