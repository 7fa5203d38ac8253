/* simd_avx2.h: what simd.h, which includes it, wants, in AVX2 and FMA.             all local */
#ifndef RF_KERNELS_CPU_SIMD_AVX2_H
#define RF_KERNELS_CPU_SIMD_AVX2_H

#include <stdint.h>
#include <string.h>

#if defined(RF_ISA_avx2)

V_INLINE __m256i v_mask(int64_t n)
{
    static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(const void *)(window + VL - n));
}
V_INLINE vf v_load_n(const float *p, int64_t n)
{
    return n >= VL ? v_load(p) : _mm256_maskload_ps(p, v_mask(n));
}
V_INLINE void v_store_n(float *p, vf a, int64_t n)
{
    if (n >= VL) {
        v_store(p, a);
    } else {
        _mm256_maskstore_ps(p, v_mask(n), a);
    }
}
V_INLINE vf v_first(int64_t n, vf a, vf b)
{
    return n >= VL ? a : n <= 0 ? b : _mm256_blendv_ps(b, a, _mm256_castsi256_ps(v_mask(n)));
}
V_INLINE vf v_where_less(vf x, vf y, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}
V_INLINE float v_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
V_INLINE float v_largest(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
/* Two factors, since 2^n may lie outside the range of f32 where a * 2^n does not. */
V_INLINE vf v_scale2(vf a, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    __m256i p = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i q = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return v_mul(v_mul(a, _mm256_castsi256_ps(p)), _mm256_castsi256_ps(q));
}
V_INLINE vf v_scale2_near(vf a, vf n)
{
    __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
}

V_INLINE vf v_load_fours(const float *p, int64_t ld)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * ld),
                                1);
}

V_INLINE vf v_bf16(vf a)
{
    __m256i x = _mm256_castps_si256(a), one = _mm256_set1_epi32(1);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), one);
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(x, odd), _mm256_set1_epi32(0x7fff));
    vf quiet = v_or(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x00400000)));
    vf nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    return v_upper(_mm256_blendv_ps(_mm256_castsi256_ps(up), quiet, nan));
}
V_INLINE vf v_pairs(vf first, vf second)
{
    __m256i low = _mm256_castps_si256(v_down16(v_bf16(first)));
    __m256i high = _mm256_castps_si256(v_down16(v_bf16(second)));
    return _mm256_castsi256_ps(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8));
}
V_INLINE vf v_load_half_n(const uint16_t *p, int64_t n)
{
    uint16_t part[VL] = {0};
    if (n < VL) {
        memcpy(part, p, (size_t)n * sizeof *p);
        p = part;
    }
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
V_INLINE void v_store_half_n(uint16_t *p, vf a, int64_t n)
{
    uint16_t half[2 * VL];
    _mm256_storeu_ps((float *)(void *)half, v_pairs(a, a));
    memcpy(p, half, (size_t)(n < VL ? n : VL) * sizeof *p);
}

#endif

#endif
