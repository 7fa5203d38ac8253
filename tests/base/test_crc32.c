/* common/base/crc32.h */
#include "common/base/crc32.h"
#include "common/base/rng.h"

#include "tests/base/base_test.h"

#include <zlib.h>

/* The check value of the catalogue of CRCs (CRC-32/ISO-HDLC), and what has no bytes. */
Test(crc32, known_answers)
{
    cr_expect(rf_crc32(0, "123456789", 9) == 0xCBF43926);
    cr_expect(rf_crc32(0, "", 0) == 0);
    cr_expect(rf_crc32(0xCBF43926, "", 0) == 0xCBF43926);
}

/* zlib's values for all lengths, at odd addresses, whole and in two pieces. */
Test(crc32, is_zlibs)
{
    static unsigned char data[5000];
    rf_rng rng = RF_RNG_STREAM(3, RF_RNG_TEST, 32);
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)rf_rng_u32(&rng);
    }
    for (size_t n = 0; n + 16 < sizeof data; n += n < 300 ? 1 : 97) {
        const unsigned char *at = data + n % 16;
        const uint32_t expected = (uint32_t)crc32_z(0, at, n);
        const size_t cut = n > 0 ? rf_rng_below(&rng, n) : 0;
        cr_assert(rf_crc32(0, at, n) == expected, "%zu bytes", n);
        cr_assert(rf_crc32(rf_crc32(0, at, cut), at + cut, n - cut) == expected,
                  "%zu bytes behind %zu", n - cut, cut);
    }
}
