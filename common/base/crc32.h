/* crc32.h: the CRC-32 of gzip and zlib, as fast as memory gives the bytes.               all local
 *
 * The value is zlib's crc32 (the polynomial 0x04C11DB7, reflected), which takes 0.8 ns a byte where it
 * comes without an instruction for it; checksums of gigabytes would then take longer than their disk.
 */
#ifndef RF_BASE_CRC32_H
#define RF_BASE_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Of the bytes that gave `crc` (0 before the first) and these behind them. */
uint32_t rf_crc32(uint32_t crc, const void *data, size_t bytes);

#endif
