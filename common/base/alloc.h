/* alloc.h: small host memory that is always there.                             all local
 *
 * For memory whose size the program itself decides: names, tables, states. Where the system has none
 * left the program ends through the panic hook (error.h), for no caller could do anything else.
 * Memory whose size comes from input or from a model (arenas, backend memory, whole files) is asked
 * for with malloc or rf_backend_alloc, and its lack is an ordinary error.
 */
#ifndef RF_BASE_ALLOC_H
#define RF_BASE_ALLOC_H

#include "common/base/error.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* count elements of `bytes` bytes, cleared; never NULL, also for 0. A product that overflows is a
 * lack of memory. Caller frees with free(). */
void *rf_alloc(size_t count, size_t bytes);
/* realloc to count elements; what is new is not cleared. Never NULL. memory may be NULL. */
void *rf_realloc(void *memory, size_t count, size_t bytes);
/* Copies; NULL gives NULL. Caller frees. rf_alloc_copy: bytes of data and a 0 byte behind them. */
char *rf_alloc_string(const char *text);
void *rf_alloc_copy(const void *data, size_t bytes);
/* Frees n strings and their array; NULL is fine. */
void rf_free_strings(char **string, int64_t n);
/* Frees each of the pointers; NULL is fine. */
#define RF_FREE(...)                                                                               \
    rf_free_all((void *const[]){__VA_ARGS__}, sizeof((void *const[]){__VA_ARGS__}) / sizeof(void *))
void rf_free_all(void *const *memory, size_t n);
/* A string printed into memory of its own. Caller frees. */
char *rf_alloc_format(const char *format, ...) RF_PRINTF(1, 2);
char *rf_alloc_format_list(const char *format, va_list arguments) RF_PRINTF(1, 0);

/* Room for `needed` elements in a growing array: doubles *capacity where it is too small.
 *   array = rf_alloc_grow(array, &capacity, n + 1, sizeof *array); */
void *rf_alloc_grow(void *memory, size_t *capacity, size_t needed, size_t bytes);

/* Memory for bulk data, which lies on huge pages where the system has any (a wish: without them it is slower,
 * not wrong): fewer are to be given while it is first written. Not cleared, aligned to RF_HUGE_PAGE; NULL:
 * there is not so much. Caller frees with free(). */
#define RF_HUGE_PAGE ((size_t)2 << 20)
void *rf_alloc_huge(size_t bytes);

#endif
