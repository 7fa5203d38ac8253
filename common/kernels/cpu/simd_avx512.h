/* simd_avx512.h: what simd.h, which includes it, wants, in AVX-512, with AVX512-BF16 where the
 * instruction set has it.                                                          all local */
#ifndef RF_KERNELS_CPU_SIMD_AVX512_H
#define RF_KERNELS_CPU_SIMD_AVX512_H

#include <stdint.h>
#include <string.h>

#if defined(RF_ISA_avx512)

V_INLINE __mmask16 v_mask(int64_t n)
{
    return (__mmask16)((1U << n) - 1U);
}
V_INLINE vf v_load_n(const float *p, int64_t n)
{
    return n >= VL ? v_load(p) : _mm512_maskz_loadu_ps(v_mask(n), p);
}
V_INLINE void v_store_n(float *p, vf a, int64_t n)
{
    if (n >= VL) {
        v_store(p, a);
    } else {
        _mm512_mask_storeu_ps(p, v_mask(n), a);
    }
}
V_INLINE vf v_first(int64_t n, vf a, vf b)
{
    return n >= VL ? a : n <= 0 ? b : _mm512_mask_blend_ps(v_mask(n), b, a);
}
V_INLINE vf v_where_less(vf x, vf y, vf a, vf b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}
V_INLINE float v_sum(vf a)
{
    return _mm512_reduce_add_ps(a);
}
V_INLINE float v_largest(vf a)
{
    return _mm512_reduce_max_ps(a);
}
V_INLINE vf v_scale2(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}
V_INLINE vf v_scale2_near(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}

V_INLINE vf v_load_fours(const float *p, int64_t ld)
{
    vf a = _mm512_castps128_ps512(_mm_loadu_ps(p));
    a = _mm512_insertf32x4(a, _mm_loadu_ps(p + 4 * ld), 1);
    a = _mm512_insertf32x4(a, _mm_loadu_ps(p + 8 * ld), 2);
    return _mm512_insertf32x4(a, _mm_loadu_ps(p + 12 * ld), 3);
}

V_INLINE vf v_widen(__m256i half)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
V_INLINE vf v_load_half_n(const uint16_t *p, int64_t n)
{
    return v_widen(n >= VL ? _mm256_loadu_si256((const __m256i *)(const void *)p)
                           : _mm256_maskz_loadu_epi16(v_mask(n), p));
}
#if defined(RF_ISA_avx512bf16)
V_INLINE __m256i v_narrow(vf a)
{
    return (__m256i)_mm512_cvtneps_pbh(a);
}
V_INLINE vf v_bf16(vf a)
{
    return v_widen(v_narrow(a));
}
V_INLINE vf v_pairs(vf first, vf second)
{
    return (vf)_mm512_cvtne2ps_pbh(second, first);
}
V_INLINE vf v_zip(vf a, vf b)
{
    const __m512i high = _mm512_set1_epi32(0x00100000); /* lane i of a, then lane i of b */
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i order =
        _mm512_or_si512(_mm512_add_epi32(_mm512_slli_epi32(lane, 16), lane), high);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a)));
}
V_INLINE vf v_dot2(vf a, vf b, vf c)
{
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
}
#else
V_INLINE vf v_bf16(vf a)
{
    __m512i x = _mm512_castps_si512(a), one = _mm512_set1_epi32(1);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), one);
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(x, odd), _mm512_set1_epi32(0x7fff));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return v_upper(
        _mm512_castsi512_ps(_mm512_mask_or_epi32(up, nan, x, _mm512_set1_epi32(0x00400000))));
}
V_INLINE __m256i v_narrow(vf a)
{
    return _mm512_cvtepi32_epi16(_mm512_castps_si512(v_down16(v_bf16(a))));
}
V_INLINE vf v_pairs(vf first, vf second)
{
    __m512i low = _mm512_castsi256_si512(v_narrow(first));
    return _mm512_castsi512_ps(_mm512_inserti64x4(low, v_narrow(second), 1));
}
#endif
V_INLINE void v_store_half_n(uint16_t *p, vf a, int64_t n)
{
    if (n >= VL) {
        _mm256_storeu_si256((__m256i *)(void *)p, v_narrow(a));
    } else {
        _mm256_mask_storeu_epi16(p, v_mask(n), v_narrow(a));
    }
}

#endif

#endif
