#include "common/base/alloc.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void *or_end(void *memory, size_t count, size_t bytes)
{
    if (memory == NULL) {
        rf_error_out_of_memory(count, bytes);
    }
    return memory;
}

/* Their product, 1 at least. */
static size_t total(size_t count, size_t bytes)
{
    size_t n;
    if (__builtin_mul_overflow(count, bytes, &n)) {
        rf_error_out_of_memory(count, bytes);
    }
    return n > 0 ? n : 1;
}

void *rf_alloc(size_t count, size_t bytes)
{
    return or_end(calloc(total(count, bytes), 1), count, bytes);
}

void *rf_realloc(void *memory, size_t count, size_t bytes)
{
    return or_end(realloc(memory, total(count, bytes)), count, bytes);
}

char *rf_alloc_string(const char *text)
{
    return text != NULL ? rf_alloc_copy(text, strlen(text)) : NULL;
}

void *rf_alloc_copy(const void *data, size_t bytes)
{
    char *copy = or_end(bytes < SIZE_MAX ? malloc(bytes + 1) : NULL, bytes, 1);
    if (bytes > 0) {
        memcpy(copy, data, bytes);
    }
    copy[bytes] = '\0';
    return copy;
}

void rf_free_all(void *const *memory, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(memory[i]);
    }
}

void rf_free_strings(char **string, int64_t n)
{
    for (int64_t i = 0; i < n && string != NULL; i++) {
        free(string[i]);
    }
    free(string);
}

char *rf_alloc_format_list(const char *format, va_list arguments)
{
    char *text = NULL;
    const int n = vasprintf(&text, format, arguments);
    return or_end(n >= 0 ? text : NULL, 1, 1);
}

char *rf_alloc_format(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = rf_alloc_format_list(format, arguments);
    va_end(arguments);
    return text;
}

void *rf_alloc_grow(void *memory, size_t *capacity, size_t needed, size_t bytes)
{
    if (needed <= *capacity) {
        return memory;
    }
    size_t doubled = *capacity <= SIZE_MAX / 2 ? 2 * *capacity : needed;
    *capacity = doubled > needed ? doubled : needed;
    return rf_realloc(memory, *capacity, bytes);
}

void *rf_alloc_huge(size_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, RF_HUGE_PAGE, bytes) != 0) {
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}
