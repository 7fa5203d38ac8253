/* The pool of a job, its bounds and its failure. */
#include "common/text/jinja/jinja_private.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct pool_chunk {
    struct pool_chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
} pool_chunk;

_Noreturn void rf_jinja_fail(job *j, const char *format, ...)
{
    char what[1024];
    va_list rest;
    va_start(rest, format);
    vsnprintf(what, sizeof what, format, rest);
    va_end(rest);
    rf_error_set(j->err, RF_ERR, "%s, line %d: %s", j->origin, j->line, what);
    longjmp(j->failed, 1);
}

void *rf_jinja_take(job *j, size_t bytes)
{
    pool_chunk *c = j->chunk;
    const size_t n = (bytes + 15) & ~(size_t)15;
    if (c == NULL || c->size - c->used < n) {
        const size_t size = n > (size_t)1 << 16 ? n : (size_t)1 << 16;
        const bool fits = n >= bytes && size <= j->most && j->bytes <= j->most - size;
        if (!fits || (c = malloc(sizeof *c + size)) == NULL) {
            rf_jinja_fail(j, "needs more than %zu MiB of memory", j->bytes >> 20);
        }
        j->bytes += size;
        *c = (pool_chunk){.next = j->chunk, .size = size};
        j->chunk = c;
    }
    void *memory = memset(c->data + c->used, 0, n);
    c->used += n;
    return memory;
}

void rf_jinja_end(job *j)
{
    while (j->chunk != NULL) {
        pool_chunk *next = j->chunk->next;
        free(j->chunk);
        j->chunk = next;
    }
}

void rf_jinja_step(job *j, size_t n)
{
    j->steps += (int64_t)n;
    if (j->steps > JINJA_MOST_STEPS) {
        rf_jinja_fail(j, "does not end within %" PRId64 " steps", JINJA_MOST_STEPS);
    }
}

void rf_jinja_enter(job *j)
{
    if (++j->depth > JINJA_MOST_DEPTH) {
        rf_jinja_fail(j, "nested more than %d deep", JINJA_MOST_DEPTH);
    }
}
