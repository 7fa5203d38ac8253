/* arena.h: one block of memory, laid out once.                                 all local
 *
 * A layout function is run twice: with an arena without memory (base NULL) to measure, then with
 * one of the measured size to bind. While measuring, rf_arena_take returns NULL and only counts.
 */
#ifndef RF_BASE_ARENA_H
#define RF_BASE_ARENA_H

#include <stddef.h>

#define RF_ALIGNMENT ((size_t)64)

typedef struct rf_arena {
    char *base;  /* NULL: measuring. Owned by whoever made it (often backend memory) */
    size_t size; /* bytes at base */
    size_t used; /* bytes taken; a multiple of RF_ALIGNMENT */
    size_t peak; /* the most that was ever in use; what a binding arena must hold */
} rf_arena;

/* The next `bytes` bytes, aligned to 64; NULL while measuring or for 0 bytes. Not cleared.
 * Taking more than the arena holds is a broken invariant (measure and bind disagree). */
void *rf_arena_take(rf_arena *arena, size_t bytes);

/* Everything taken after `mark` (an earlier value of arena->used) is free again. */
void rf_arena_rewind(rf_arena *arena, size_t mark);

#endif
