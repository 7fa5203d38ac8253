#include "common/base/rng.h"

#include "common/base/error.h"

#include <math.h>
#include <string.h>

/* Multipliers and key increments (Weyl constants) of Philox 4x32: Salmon et al., table 2. */
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u

enum { N_ROUNDS = 10 };

void rf_rng_philox(uint32_t *out, const uint32_t *counter, const uint32_t *key)
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < N_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)PHILOX_M0 * c0;
        uint64_t p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The name is hashed to 128 bits as in CBC-MAC, with Philox under the seed as the permutation and
 * the number of words in front, so that no name is the beginning of another. 64 bits of the hash
 * become the stream's key and 64 the upper half of its counter; the lower half counts what is drawn. */
rf_rng rf_rng_make(uint64_t seed, const uint64_t *words, int n_words)
{
    RF_ASSERT(n_words >= 0);
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t hash[4] = {(uint32_t)n_words, 0, 0, 0};
    rf_rng_philox(hash, hash, key);
    for (int i = 0; i < n_words; i++) {
        hash[0] ^= (uint32_t)words[i];
        hash[1] ^= (uint32_t)(words[i] >> 32);
        rf_rng_philox(hash, hash, key);
    }
    rf_rng rng;
    memset(&rng, 0, sizeof rng);
    rng.key[0] = hash[0];
    rng.key[1] = hash[1];
    rng.counter[2] = hash[2];
    rng.counter[3] = hash[3];
    return rng;
}

uint32_t rf_rng_u32(rf_rng *rng)
{
    if (rng->n_left == 0) {
        rf_rng_philox(rng->drawn, rng->counter, rng->key);
        rng->counter[0]++;
        rng->counter[1] += rng->counter[0] == 0;
        rng->n_left = 4;
    }
    return rng->drawn[4 - rng->n_left--];
}

void rf_rng_skip(rf_rng *rng, uint64_t n)
{
    const uint64_t left = (uint64_t)rng->n_left, rest = n > left ? (n - left) % 4 : 0;
    if (n <= left) {
        rng->n_left -= (int)n;
        return;
    }
    const uint64_t blocks = (n - left) / 4,
                   counter = (rng->counter[0] | (uint64_t)rng->counter[1] << 32) + blocks;
    rng->counter[0] = (uint32_t)counter;
    rng->counter[1] = (uint32_t)(counter >> 32);
    rng->n_left = 0;
    for (uint64_t i = 0; i < rest; i++) {
        (void)rf_rng_u32(rng);
    }
}

uint64_t rf_rng_u64(rf_rng *rng)
{
    uint64_t low = rf_rng_u32(rng);
    return low | (uint64_t)rf_rng_u32(rng) << 32;
}

double rf_rng_uniform(rf_rng *rng)
{
    return (double)(rf_rng_u64(rng) >> 11) * 0x1p-53;
}

/* The second number of each Box-Muller pair is not kept, so that a stream's state stays what the
 * header shows. 1 - u is in (0,1]: the logarithm is finite. */
double rf_rng_normal(rf_rng *rng)
{
    const double two_pi = 6.28318530717958647692;
    double radius = sqrt(-2.0 * log(1.0 - rf_rng_uniform(rng)));
    return radius * cos(two_pi * rf_rng_uniform(rng));
}

/* Of the 2^64 values the first 2^64 mod n are drawn again; what is left divides evenly by n. */
uint64_t rf_rng_below(rf_rng *rng, uint64_t n)
{
    RF_ASSERT(n >= 1);
    uint64_t n_refused = (0 - n) % n;
    uint64_t value;
    do {
        value = rf_rng_u64(rng);
    } while (value < n_refused);
    return value % n;
}

void rf_rng_shuffle(rf_rng *rng, void *x, int64_t n, size_t size)
{
    char swap[64];
    RF_ASSERT(size <= sizeof swap);
    for (int64_t i = n - 1; i > 0; i--) {
        char *a = (char *)x + (size_t)i * size;
        char *b = (char *)x + (size_t)rf_rng_below(rng, (uint64_t)i + 1) * size;
        memcpy(swap, a, size);
        memmove(a, b, size); /* which may be the same */
        memcpy(b, swap, size);
    }
}
