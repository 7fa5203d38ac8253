/* simd.h: one vector of f32, written once for each instruction set.             all local
 *
 * `vf` holds VL floats. Kernels of this folder use nothing but these functions, so that one source
 * serves AVX-512, AVX2+FMA and a portable form (GNU vectors of 4 floats: SSE2, NEON, ...).
 * v_fma is one rounding where the ISA has it and two in the portable form; nowhere does the
 * compiler contract on its own. Partial vectors (`_n`) touch the first n lanes of memory only.
 */
#ifndef RF_KERNELS_CPU_SIMD_H
#define RF_KERNELS_CPU_SIMD_H

/* Each level has what lies below it; a file compiled for none is portable. */
#if defined(RF_ISA_amx)
#define RF_ISA_avx512bf16 1
#endif
#if defined(RF_ISA_avx512bf16)
#define RF_ISA_avx512 1
#endif
#if !defined(RF_ISA_avx512) && !defined(RF_ISA_avx2) && !defined(RF_ISA_portable)
#define RF_ISA_portable 1
#endif

#include <stdint.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline, unused))

/* One of them: vf, its VL lanes, and a product's register tile of TILE_ROWS x TILE_VECTORS vectors;
 * then what differs between instruction sets. */
#include "common/kernels/cpu/simd_avx2.h"
#include "common/kernels/cpu/simd_avx512.h"
#include "common/kernels/cpu/simd_portable.h"

enum { PANEL = VL * TILE_VECTORS };

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
