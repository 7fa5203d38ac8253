/* hash.h: FNV-1a of 64 bits, for what must be the same in every run and on every machine.
 *
 * Not against somebody who looks for collisions. A hash of several things begins with RF_HASH_BEGIN
 * and goes through one call after the other. Source: Fowler, Noll, Vo, draft-eastlake-fnv.
 */
#ifndef RF_BASE_HASH_H
#define RF_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define RF_HASH_BEGIN UINT64_C(0xCBF29CE484222325)

/* Takes in one value: a byte in FNV-1a; a whole word where that is how a hash was once defined. */
static inline uint64_t rf_hash_step(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * UINT64_C(0x100000001B3);
}

static inline uint64_t rf_hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *byte = data;
    for (size_t i = 0; i < bytes; i++) {
        hash = rf_hash_step(hash, byte[i]);
    }
    return hash;
}

/* The 8 bytes of a number, the lowest first, whatever the machine. */
static inline uint64_t rf_hash_number(uint64_t hash, uint64_t number)
{
    for (int shift = 0; shift < 64; shift += 8) {
        hash = rf_hash_step(hash, number >> shift & 0xFF);
    }
    return hash;
}

#endif
