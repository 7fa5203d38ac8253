/* arena.h: one piece of memory, laid out once.                                 all local
 *
 * A layout function is run twice: with an arena without memory (base NULL) to measure, then with
 * one of the measured size to bind. While measuring, rf_arena_take returns NULL and only counts.
 */
#ifndef RF_BASE_ARENA_H
#define RF_BASE_ARENA_H

#include "common/base/error.h"

#include <stddef.h>
#include <stdint.h>

#define RF_ALIGNMENT ((size_t)64)

typedef struct rf_arena {
    char *base;  /* NULL: measuring. Owned by whoever made it (often backend memory) */
    size_t size; /* bytes at base */
    size_t used; /* bytes taken; a multiple of RF_ALIGNMENT */
    size_t peak; /* the most that was ever in use; what a binding arena must hold */
} rf_arena;

/* The next `bytes` bytes, aligned to 64; NULL while measuring or for 0 bytes. Not cleared.
 * Taking more than the arena holds is a broken invariant (measure and bind disagree). */
static inline void *rf_arena_take(rf_arena *arena, size_t bytes)
{
    RF_ASSERT(bytes <= SIZE_MAX - (RF_ALIGNMENT - 1));
    const size_t rounded = (bytes + RF_ALIGNMENT - 1) / RF_ALIGNMENT * RF_ALIGNMENT;
    const size_t begin = arena->used;
    RF_ASSERT(rounded <= SIZE_MAX - begin);
    if (arena->base != NULL) {
        RF_ASSERT((uintptr_t)arena->base % RF_ALIGNMENT == 0);
        RF_ASSERT(begin <= arena->size && rounded <= arena->size - begin);
    }
    arena->used += rounded;
    arena->peak = arena->peak > arena->used ? arena->peak : arena->used;
    return arena->base != NULL && bytes > 0 ? arena->base + begin : NULL;
}

/* Everything taken after `mark` (an earlier value of arena->used) is free again. */
static inline void rf_arena_rewind(rf_arena *arena, size_t mark)
{
    RF_ASSERT(mark <= arena->used && mark % RF_ALIGNMENT == 0);
    arena->used = mark;
}

#endif
