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
    _Alignas(16) char data[]; /* [size]; of texts [2 * size]: behind them which bytes are said */
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

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* n bytes of the first chunk of `all`, or of a new one of at least `least` bytes, each of which has
 * `copies` in memory. */
static char *take_from(job *j, pool_chunk **all, size_t bytes, size_t least, size_t copies)
{
    pool_chunk *c = *all;
    const size_t n = (bytes + 15) & ~(size_t)15;
    if (c == NULL || c->size - c->used < n) {
        const size_t size = larger(n, least), rest = (JINJA_MOST_BYTES - j->bytes) / copies;
        if (n < bytes || size > rest || (c = malloc(sizeof *c + copies * size)) == NULL) {
            rf_jinja_fail(j, "needs more than %zu MiB of memory", JINJA_MOST_BYTES >> 20);
        }
        j->bytes += copies * size;
        *c = (pool_chunk){.next = *all, .size = size};
        *all = c;
    }
    c->used += n;
    return c->data + c->used - n;
}

enum { CHUNK = 1 << 16 };

void *rf_jinja_take(job *j, size_t bytes)
{
    return memset(take_from(j, &j->chunk, bytes, CHUNK, 1), 0, bytes);
}

/* Chunks of texts grow with their sum, so that a few hold all: rf_jinja_said looks through them. */
char *rf_jinja_take_text(job *j, size_t bytes)
{
    const size_t rest = (JINJA_MOST_BYTES - j->bytes) / 4;
    const size_t least = larger(CHUNK, rest < j->text_bytes ? rest : j->text_bytes);
    const pool_chunk *before = j->texts;
    char *taken = take_from(j, &j->texts, bytes, least, 2);
    j->text_bytes += j->texts != before ? j->texts->size : 0;
    memset(taken + j->texts->size, 0, bytes);
    return memset(taken, 0, bytes);
}

char *rf_jinja_said(const job *j, const char *at)
{
    for (pool_chunk *c = j->texts; c != NULL; c = c->next) {
        if (at >= c->data && at < c->data + c->used) {
            return c->data + c->size + (at - c->data);
        }
    }
    return NULL;
}

static void free_chunks(pool_chunk *all)
{
    while (all != NULL) {
        pool_chunk *next = all->next;
        free(all);
        all = next;
    }
}

void rf_jinja_end(job *j)
{
    free_chunks(j->chunk);
    free_chunks(j->texts);
    j->chunk = j->texts = NULL;
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
