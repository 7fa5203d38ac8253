/* number.h: numbers as people write and read them.                             all local */
#ifndef RF_BASE_NUMBER_H
#define RF_BASE_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* The whole of a text as a number; false: it is none, *out is as before. Decimal only, with a power
 * of ten ("1.5e3"), no blanks. An integer may end with K, M or G (powers of 1000), is exact and
 * never passes through a double: "0.3e1" is one, "1e-1" is not. A real that is too large for a
 * double, or too small to be told from 0, is refused, as are "inf", "nan" and "0x1p3". */
bool rf_number_integer(int64_t *out, const char *text);
bool rf_number_real(double *out, const char *text);
/* A number of bytes from 0 on: "2000", "5G", "1.5GB", "5 gib", with any of the units k, M, G, T in
 * either case. Powers of 1000, or of 1024 where an i stands behind ("GiB"); rounded down. */
bool rf_number_bytes(int64_t *out, const char *text);

enum { RF_NUMBER_BYTES = 40 }; /* room for what the next two print */
/* The fewest digits that read back as the same number, as people write them: "10000", "1e8", "1e-6". */
void rf_number_print_real(char out[RF_NUMBER_BYTES], double value);
/* "0:01:05", "123:00:00": hours, minutes, seconds; at most 100000 hours. */
void rf_number_print_duration(char out[RF_NUMBER_BYTES], double seconds);
/* How many significant digits it takes until a real reads back as the same number: 1 to 17. */
int rf_number_digits(double value);

#endif
