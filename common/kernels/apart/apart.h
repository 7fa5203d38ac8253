/* apart.h: the backend `apart`, for tests.                                      all local
 *
 * The kernels of `cpu` on memory that nobody can read or write but kernels and the functions of
 * rf_memory: whoever else touches backend memory is ended by SIGSEGV. What passes the tests with
 * RF_BACKEND=apart finds its memory on a device as well. Nor may the source of an upload change before
 * an event behind it, or rf_ctx_sync, is over; and until then what a download brings is not there.
 *
 * Where RF_APART_TALLY names a file, a process that makes a context of this backend appends a line
 * with the value of RF_APART_TEST (tests/run.sh counts the tests that used it).
 */
#ifndef RF_KERNELS_APART_APART_H
#define RF_KERNELS_APART_APART_H

#include "common/kernels/kernels.h"

extern const rf_memory rf_apart_memory;
extern const rf_kernels rf_apart_portable_kernels;
#if defined(__x86_64__)
extern const rf_kernels rf_apart_avx2_kernels, rf_apart_avx512_kernels, rf_apart_avx512bf16_kernels,
    rf_apart_amx_kernels;
#endif

#endif
