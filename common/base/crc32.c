#include "common/base/crc32.h"

#include <zlib.h>

#if defined __x86_64__
#include <immintrin.h>

/* A message is a polynomial over GF(2), its checksum the remainder by P. 16 bytes that stand d bits ahead
 * of others may be added to those once they are multiplied by x^d modulo P: by two products of 64 bits
 * without carries, of their lower half with x^(d+32) and of their upper half with x^(d-32), both
 * bit-reflected as the data are. Source: Gopal et al., Fast CRC Computation for Generic Polynomials Using
 * PCLMULQDQ Instruction, Intel 2009. */
enum { LANE = 16, LANES = 4, STRIDE = LANE * LANES };

__attribute__((target("pclmul,sse2"))) static __m128i ahead(__m128i x, __m128i factors)
{
    return _mm_xor_si128(_mm_clmulepi64_si128(x, factors, 0x00),
                         _mm_clmulepi64_si128(x, factors, 0x11));
}

__attribute__((target("pclmul,sse2"))) static __m128i lane(const unsigned char *at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}

/* bytes: a multiple of STRIDE, and not 0. */
__attribute__((target("pclmul,sse2"))) static uint32_t fold(uint32_t crc, const unsigned char *at,
                                                            size_t bytes)
{
    const __m128i by_stride = _mm_set_epi64x(0x1C6E41596, 0x154442BD4); /* d = 512 */
    const __m128i by_lane = _mm_set_epi64x(0x0CCAA009E, 0x1751997D0);   /* d = 128 */
    __m128i x[LANES];
    unsigned char rest[LANE];
    for (int i = 0; i < LANES; i++) {
        x[i] = lane(at + i * LANE);
    }
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)~crc));
    for (const unsigned char *end = at + bytes; (at += STRIDE) < end;) {
        for (int i = 0; i < LANES; i++) {
            x[i] = _mm_xor_si128(ahead(x[i], by_stride), lane(at + i * LANE));
        }
    }
    for (int i = 1; i < LANES; i++) {
        x[i] = _mm_xor_si128(ahead(x[i - 1], by_lane), x[i]);
    }
    _mm_storeu_si128((__m128i *)(void *)rest, x[LANES - 1]);
    /* 16 bytes with the same remainder; zlib inverts before and behind, and here nothing is before. */
    return (uint32_t)crc32_z(0xFFFFFFFF, rest, LANE);
}

static size_t fold_most(uint32_t *crc, const unsigned char *at, size_t bytes)
{
    const size_t n = bytes / STRIDE * STRIDE;
    if (n == 0 || !__builtin_cpu_supports("pclmul")) {
        return 0;
    }
    *crc = fold(*crc, at, n);
    return n;
}
#else
static size_t fold_most(uint32_t *crc, const unsigned char *at, size_t bytes)
{
    (void)crc, (void)at, (void)bytes;
    return 0;
}
#endif

uint32_t rf_crc32(uint32_t crc, const void *data, size_t bytes)
{
    const size_t done = fold_most(&crc, data, bytes);
    return (uint32_t)crc32_z(crc, (const unsigned char *)data + done, bytes - done);
}
