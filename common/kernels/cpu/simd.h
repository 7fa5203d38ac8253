/* simd.h: one vector of f32, written once for each instruction set.             all local
 *
 * `vf` holds VL floats. Kernels of this folder use nothing but these functions, so that one source
 * serves AVX-512, AVX2+FMA and a portable form (GNU vectors of 4 floats: SSE2, NEON, ...).
 * v_fma is one rounding where the ISA has it and two in the portable form; nowhere does the
 * compiler contract on its own. Partial vectors (`_n`) touch the first n lanes of memory only.
 */
#ifndef RF_KERNELS_CPU_SIMD_H
#define RF_KERNELS_CPU_SIMD_H

/* Each level has what lies below it. */
#if defined(RF_ISA_amx)
#define RF_ISA_avx512bf16 1
#endif
#if defined(RF_ISA_avx512bf16)
#define RF_ISA_avx512 1
#endif

#include <stdint.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline, unused))

/* VL lanes; a register tile of a matrix product is TILE_ROWS x TILE_VECTORS vectors. */
#if defined(RF_ISA_avx512)
#include <immintrin.h>
typedef __m512 vf;
enum { VL = 16, TILE_ROWS = 6, TILE_VECTORS = 4 };
#elif defined(RF_ISA_avx2)
#include <immintrin.h>
typedef __m256 vf;
enum { VL = 8, TILE_ROWS = 6, TILE_VECTORS = 2 };
#else
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
enum { VL = 4, TILE_ROWS = 4, TILE_VECTORS = 2 };
#endif
enum { PANEL = VL * TILE_VECTORS };

/* --- AVX-512 --------------------------------------------------------------------------------- */
#if defined(RF_ISA_avx512)

V_INLINE vf v_set(float x)
{
    return _mm512_set1_ps(x);
}
V_INLINE vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
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
V_INLINE vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
V_INLINE vf v_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
V_INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
V_INLINE vf v_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
V_INLINE vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
V_INLINE vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
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

/* Quarters of four rows are gathered while loading (the load ports are idle here, the shuffle port
 * is not); then 4x4 blocks are transposed within quarters. */
V_INLINE void v_load_transposed(vf out[VL], const float *src, int64_t ld)
{
    for (int c = 0; c < VL; c += 4) {
        vf t[4];
        for (int i = 0; i < 4; i++) {
            const float *p = src + i * ld + c;
            t[i] = _mm512_castps128_ps512(_mm_loadu_ps(p));
            t[i] = _mm512_insertf32x4(t[i], _mm_loadu_ps(p + 4 * ld), 1);
            t[i] = _mm512_insertf32x4(t[i], _mm_loadu_ps(p + 8 * ld), 2);
            t[i] = _mm512_insertf32x4(t[i], _mm_loadu_ps(p + 12 * ld), 3);
        }
        __m512d low = _mm512_castps_pd(_mm512_unpacklo_ps(t[0], t[1]));
        __m512d high = _mm512_castps_pd(_mm512_unpackhi_ps(t[0], t[1]));
        __m512d low2 = _mm512_castps_pd(_mm512_unpacklo_ps(t[2], t[3]));
        __m512d high2 = _mm512_castps_pd(_mm512_unpackhi_ps(t[2], t[3]));
        out[c] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
        out[c + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
        out[c + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
        out[c + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
    }
}

/* bf16 (common part below): bits shifted down or up, both, the upper halves. */
V_INLINE vf v_down16(vf a)
{
    return _mm512_castsi512_ps(_mm512_srli_epi32(_mm512_castps_si512(a), 16));
}
V_INLINE vf v_up16(vf a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 16));
}
V_INLINE vf v_or(vf a, vf b)
{
    return _mm512_or_ps(a, b);
}
V_INLINE vf v_upper(vf a)
{
    return _mm512_and_ps(a, _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)0xffff0000)));
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
    __m256i half = (__m256i)_mm512_cvtneps_pbh(a);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
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
    __m256i low = _mm512_cvtepi32_epi16(_mm512_castps_si512(v_down16(v_bf16(first))));
    __m256i high = _mm512_cvtepi32_epi16(_mm512_castps_si512(v_down16(v_bf16(second))));
    return _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
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

/* --- AVX2 and FMA ----------------------------------------------------------------------------- */
#elif defined(RF_ISA_avx2)

V_INLINE vf v_set(float x)
{
    return _mm256_set1_ps(x);
}
V_INLINE vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
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
V_INLINE vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
V_INLINE vf v_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}
V_INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
V_INLINE vf v_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
V_INLINE vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
V_INLINE vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
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

/* Halves of two rows are gathered while loading; then 4x4 blocks are transposed within halves. */
V_INLINE void v_load_transposed(vf out[VL], const float *src, int64_t ld)
{
    for (int c = 0; c < VL; c += 4) {
        vf t[4];
        for (int i = 0; i < 4; i++) {
            const float *p = src + i * ld + c;
            t[i] = _mm256_castps128_ps256(_mm_loadu_ps(p));
            t[i] = _mm256_insertf128_ps(t[i], _mm_loadu_ps(p + 4 * ld), 1);
        }
        __m256d low = _mm256_castps_pd(_mm256_unpacklo_ps(t[0], t[1]));
        __m256d high = _mm256_castps_pd(_mm256_unpackhi_ps(t[0], t[1]));
        __m256d low2 = _mm256_castps_pd(_mm256_unpacklo_ps(t[2], t[3]));
        __m256d high2 = _mm256_castps_pd(_mm256_unpackhi_ps(t[2], t[3]));
        out[c] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, low2));
        out[c + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, low2));
        out[c + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high, high2));
        out[c + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high, high2));
    }
}

V_INLINE vf v_down16(vf a)
{
    return _mm256_castsi256_ps(_mm256_srli_epi32(_mm256_castps_si256(a), 16));
}
V_INLINE vf v_up16(vf a)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 16));
}
V_INLINE vf v_or(vf a, vf b)
{
    return _mm256_or_ps(a, b);
}
V_INLINE vf v_upper(vf a)
{
    return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)0xffff0000)));
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
        memcpy(part, p, (size_t)n * sizeof(*p));
        p = part;
    }
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
V_INLINE void v_store_half_n(uint16_t *p, vf a, int64_t n)
{
    uint16_t half[2 * VL];
    _mm256_storeu_ps((float *)(void *)half, v_pairs(a, a));
    memcpy(p, half, (size_t)(n < VL ? n : VL) * sizeof(*p));
}

/* --- Portable --------------------------------------------------------------------------------- */
#else

V_INLINE vf v_set(float x)
{
    return (vf){x, x, x, x};
}
V_INLINE vf v_load(const float *p)
{
    vf a;
    memcpy(&a, p, sizeof(a));
    return a;
}
V_INLINE void v_store(float *p, vf a)
{
    memcpy(p, &a, sizeof(a));
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
V_INLINE vf v_add(vf a, vf b)
{
    return a + b;
}
V_INLINE vf v_sub(vf a, vf b)
{
    return a - b;
}
V_INLINE vf v_mul(vf a, vf b)
{
    return a * b;
}
V_INLINE vf v_div(vf a, vf b)
{
    return a / b;
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

V_INLINE vf v_down16(vf a)
{
    typedef uint32_t vu __attribute__((vector_size(16)));
    return (vf)((vu)a >> 16);
}
V_INLINE vf v_up16(vf a)
{
    return (vf)((vi)a << 16);
}
V_INLINE vf v_or(vf a, vf b)
{
    return (vf)((vi)a | (vi)b);
}
V_INLINE vf v_upper(vf a)
{
    return (vf)((vi)a & (int32_t)0xffff0000);
}
V_INLINE vf v_bf16(vf a)
{
    typedef uint32_t vu __attribute__((vector_size(16)));
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

/* --- Common ------------------------------------------------------------------------------------
 * v_max(a, b) and v_min(a, b) give b where either is NaN. v_first(n, a, b): lanes below n of a, the
 * others of b. v_where_less(x, y, a, b): x < y ? a : b. v_scale2(a, n): a * 2^n for integral n.
 * v_scale2_near: the same in fewer steps where a is near 1 and the result a normal number.
 * v_load_transposed: out[c] lane r is src[r*ld + c]. */

/* bf16 is the upper half of an f32. Two of them share a lane, a cell: the first lies in its lower
 * half. v_bf16 rounds to bf16 (to nearest, ties to even; NaN stays NaN); v_pairs(first, second):
 * the 2 VL numbers in order, as VL cells; v_load_half_n, v_store_half_n: n <= VL numbers that lie
 * in memory as bf16, rounded as v_bf16 does; v_zip(a, b): lane i is the cell of a[i] and b[i];
 * v_dot2(a, b, c): c + a.first * b.first + a.second * b.second in f32 (AVX512-BF16: denormals
 * count as 0; else two steps of v_fma). */
#if !defined(RF_ISA_avx512bf16)
V_INLINE vf v_zip(vf a, vf b)
{
    return v_or(v_down16(v_bf16(a)), v_bf16(b));
}
V_INLINE vf v_dot2(vf a, vf b, vf c)
{
    return v_fma(v_upper(a), v_upper(b), v_fma(v_up16(a), v_up16(b), c));
}
#endif

V_INLINE void v_prefetch(const float *p)
{
    __builtin_prefetch(p, 0, 3);
}

/* A moment's rest in a loop that waits for another thread. */
V_INLINE void v_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

V_INLINE vf v_zero(void)
{
    return v_set(0.0F);
}

/* e^x: n = round(x / ln 2), r = x - n ln 2, then 1 + r + r^2 q(r) with q the minimax polynomial of
 * degree 4 (relative error 3e-9 on |r| <= ln2/2), times 2^n. Below 1 unit in the last place; inf
 * above 88.73, NaN for NaN. Results below the least normal number, 2^-126, are 0: processors take a
 * hundred cycles for each vector that holds a denormal, and masked scores would make many. */
V_INLINE vf v_exp(vf x)
{
    const vf shift = v_set(12582912.0F); /* 1.5 * 2^23: adding it rounds to an integer */
    const vf low = v_set(-87.33654F), given = x;
    x = v_max(low, v_min(v_set(89.0F), x));
    vf n = v_sub(v_fma(x, v_set(1.44269504F), shift), shift);
    vf r = v_fnma(n, v_set(0.693359375F), x); /* exact: 9 bits times 8 bits */
    r = v_fnma(n, v_set(-2.12194440e-4F), r);
    vf q = v_set(0.00138145402F);
    q = v_fma(q, r, v_set(0.00836874511F));
    q = v_fma(q, r, v_set(0.0416683908F));
    q = v_fma(q, r, v_set(0.166665204F));
    q = v_fma(q, r, v_set(0.499999934F));
    vf y = v_add(v_fma(v_mul(r, r), q, r), v_set(1.0F));
    return v_where_less(given, low, v_zero(), v_scale2(y, n));
}

/* 2^x for x up to 127, by which attention's probabilities are made from scores in units of ln 2:
 * n = round(x), then the minimax polynomial of degree 5 with value 1 at 0 on |x - n| <= 1/2, times
 * 2^n. Relative error at most 2e-7. Below 2^-126: 0, as v_exp; NaN for NaN. */
V_INLINE vf v_exp2(vf x)
{
    const vf shift = v_set(12582912.0F), low = v_set(-126.0F), given = x;
    x = v_max(low, x);
    vf n = v_sub(v_add(x, shift), shift);
    vf r = v_sub(x, n);
    vf y = v_set(0.00132647273F);
    y = v_fma(y, r, v_set(0.00967151299F));
    y = v_fma(y, r, v_set(0.0555073358F));
    y = v_fma(y, r, v_set(0.240222424F));
    y = v_fma(y, r, v_set(0.693147004F));
    y = v_fma(y, r, v_set(1.0F));
    return v_where_less(given, low, v_zero(), v_scale2_near(y, n));
}

#endif
