/* simd.h: one vector of f32, written once for each instruction set.             all local
 *
 * A vf holds VL floats. The kernels of this folder use only these functions, so that one source
 * serves AVX-512, AVX2 with FMA, and a portable form (GNU vectors of 4 floats: SSE2, NEON, ...).
 * v_fma rounds once where the instruction set has it, and twice in the portable form; the compiler
 * never makes one of its own (Makefile). Functions with `_n` touch the first n lanes of memory only.
 */
#ifndef RF_KERNELS_CPU_SIMD_H
#define RF_KERNELS_CPU_SIMD_H

#include <stdint.h>
#include <string.h>

/* Each instruction set includes those named below it; a file compiled for none is portable. vf is
 * VL floats; a product's register tile is TILE_ROWS x TILE_VECTORS vectors (product.c). */
#if defined(RF_ISA_amx)
#define RF_ISA_avx512bf16 1
#endif
#if defined(RF_ISA_avx512bf16)
#define RF_ISA_avx512 1
#endif
#if defined(RF_ISA_avx512)
#include <immintrin.h>
typedef __m512 vf;
typedef __m512d vd;
#define V_MM(name) _mm512_##name
enum { VL = 16, TILE_ROWS = 6, TILE_VECTORS = 4 };
#elif defined(RF_ISA_avx2)
#include <immintrin.h>
typedef __m256 vf;
typedef __m256d vd;
#define V_MM(name) _mm256_##name
enum { VL = 8, TILE_ROWS = 6, TILE_VECTORS = 2 };
#else
#if !defined(RF_ISA_portable)
#define RF_ISA_portable 1
#endif
typedef float vf __attribute__((vector_size(16)));
enum { VL = 4, TILE_ROWS = 4, TILE_VECTORS = 2 };
#endif

/* Columns of a register tile: how wide panels of right operands are packed. */
enum { PANEL = VL * TILE_VECTORS };

/* The bits of a vf as integers. */
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));

#define V_INLINE static inline __attribute__((always_inline, unused))

/* --- What GNU vectors say alike on all ---------------------------------------------------------*/

V_INLINE vf v_load(const float *p)
{
    vf a;
    memcpy(&a, p, sizeof a);
    return a;
}
V_INLINE void v_store(float *p, vf a)
{
    memcpy(p, &a, sizeof a);
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
V_INLINE vf v_or(vf a, vf b)
{
    return (vf)((vu)a | (vu)b);
}
/* The bits of each lane shifted down and up by 16, and without their lower 16. */
V_INLINE vf v_down16(vf a)
{
    return (vf)((vu)a >> 16);
}
V_INLINE vf v_up16(vf a)
{
    return (vf)((vu)a << 16);
}
V_INLINE vf v_upper(vf a)
{
    return (vf)((vu)a & 0xffff0000U);
}

/* --- What each instruction set says for itself --------------------------------------------------
 *
 * v_set(x)                  x in all lanes
 * v_load_n, v_store_n       the first n lanes; others of a load are 0
 * v_sqrt, v_fma(a, b, c)    a*b + c; v_fnma: c - a*b
 * v_max(a, b), v_min(a, b)  b where either is NaN
 * v_first(n, a, b)          a in the lanes below n, b in the others
 * v_where_less(x, y, a, b)  x < y ? a : b
 * v_sum, v_largest          over the lanes of one vector
 * v_scale2(a, n)            a * 2^n for integral n; v_scale2_near: in fewer steps, where a is near
 *                           1 and the result a normal number
 * v_load_transposed         out[c] lane r is src[r*ld + c]
 *
 * bf16 is the upper half of an f32. Two of them share a lane, a cell: the first in its lower half.
 *
 * v_bf16(a)                 a rounded to bf16, as f32: to nearest, ties to even; NaN stays NaN
 * v_pairs(first, second)    2 VL numbers, in order, as VL cells
 * v_load_half_n             n <= VL numbers that lie in memory as bf16; v_store_half_n: rounds
 * v_zip(a, b)               lane i is the cell of a[i] and b[i]
 * v_dot2(a, b, c)           c + a.first * b.first + a.second * b.second in f32; with AVX512-BF16
 *                           denormals count as 0, elsewhere it is two steps of v_fma
 *
 * AVX2 and AVX-512 share what only the width in the name tells apart (V_MM).
 * v_load_fours(p, ld)       the 4 numbers at p, at p + 4 ld, and so on */
#if !defined(RF_ISA_portable)
V_INLINE vf v_set(float x)
{
    return V_MM(set1_ps)(x);
}
V_INLINE vf v_sqrt(vf a)
{
    return V_MM(sqrt_ps)(a);
}
V_INLINE vf v_fma(vf a, vf b, vf c)
{
    return V_MM(fmadd_ps)(a, b, c);
}
V_INLINE vf v_fnma(vf a, vf b, vf c)
{
    return V_MM(fnmadd_ps)(a, b, c);
}
V_INLINE vf v_max(vf a, vf b)
{
    return V_MM(max_ps)(a, b);
}
V_INLINE vf v_min(vf a, vf b)
{
    return V_MM(min_ps)(a, b);
}
#endif
#include "common/kernels/cpu/simd_avx2.h"
#include "common/kernels/cpu/simd_avx512.h"
#include "common/kernels/cpu/simd_portable.h"

#if !defined(RF_ISA_portable)
/* Fours of 2 or 4 rows are gathered while loading (the load ports are idle here, the shuffle port is
 * not); then squares of 4x4 are transposed within them. */
V_INLINE void v_load_transposed(vf out[VL], const float *src, int64_t ld)
{
    for (int c = 0; c < VL; c += 4) {
        vf t[4];
        for (int i = 0; i < 4; i++) {
            t[i] = v_load_fours(src + i * ld + c, ld);
        }
        vd low = V_MM(castps_pd)(V_MM(unpacklo_ps)(t[0], t[1]));
        vd high = V_MM(castps_pd)(V_MM(unpackhi_ps)(t[0], t[1]));
        vd low2 = V_MM(castps_pd)(V_MM(unpacklo_ps)(t[2], t[3]));
        vd high2 = V_MM(castps_pd)(V_MM(unpackhi_ps)(t[2], t[3]));
        out[c] = V_MM(castpd_ps)(V_MM(unpacklo_pd)(low, low2));
        out[c + 1] = V_MM(castpd_ps)(V_MM(unpackhi_pd)(low, low2));
        out[c + 2] = V_MM(castpd_ps)(V_MM(unpacklo_pd)(high, high2));
        out[c + 3] = V_MM(castpd_ps)(V_MM(unpackhi_pd)(high, high2));
    }
}
#endif

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
/* Into the L2 cache only. */
V_INLINE void v_prefetch_far(const float *p)
{
    __builtin_prefetch(p, 0, 2);
}

/* For loops that wait for another thread: leaves the core's units to its other hyperthread. */
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
 * degree 4 (relative error 3e-9 on |r| <= ln2/2), times 2^n. The error is below 1 unit in the last
 * place; inf above 88.73, NaN for NaN. Results below 2^-126, the least normal number, are 0: a
 * vector with a denormal costs processors a hundred cycles, and hidden scores would make many. */
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

/* 2^x for x up to 127 (attention): n = round(x), then the minimax polynomial of degree 5 with value
 * 1 at 0 on |x - n| <= 1/2, times 2^n. Relative error at most 2e-7. Results below 2^-126 are 0, as
 * v_exp's; NaN for NaN. */
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
