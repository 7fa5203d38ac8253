#include "common/base/arena.h"

#include "common/base/error.h"

#include <stdint.h>

void *rf_arena_take(rf_arena *arena, size_t bytes)
{
    RF_ASSERT(bytes <= SIZE_MAX - (RF_ALIGNMENT - 1));
    size_t rounded = (bytes + RF_ALIGNMENT - 1) / RF_ALIGNMENT * RF_ALIGNMENT;
    RF_ASSERT(rounded <= SIZE_MAX - arena->used);
    size_t begin = arena->used;
    if (arena->base != NULL) {
        RF_ASSERT((uintptr_t)arena->base % RF_ALIGNMENT == 0);
        RF_ASSERT(arena->used <= arena->size && rounded <= arena->size - arena->used);
    }
    arena->used += rounded;
    if (arena->used > arena->peak) {
        arena->peak = arena->used;
    }
    return arena->base != NULL && bytes > 0 ? arena->base + begin : NULL;
}

void rf_arena_rewind(rf_arena *arena, size_t mark)
{
    RF_ASSERT(mark <= arena->used && mark % RF_ALIGNMENT == 0);
    arena->used = mark;
}
