/* common/base/arena.h */
#include "common/base/arena.h"

#include "common/base/error.h"
#include "tests/base/base_test.h"

#include <signal.h>
#include <stdint.h>

static void lay_out(rf_arena *arena, char **parts)
{
    parts[0] = rf_arena_take(arena, 1);
    parts[1] = rf_arena_take(arena, 64);
    size_t mark = arena->used;
    parts[2] = rf_arena_take(arena, 1000);
    rf_arena_rewind(arena, mark);
    parts[3] = rf_arena_take(arena, 65);
}

Test(arena, measure_then_bind)
{
    char *parts[4];
    rf_arena measure = {0};
    lay_out(&measure, parts);
    for (int i = 0; i < 4; i++) {
        cr_expect(parts[i] == NULL);
    }
    cr_expect(measure.used == 64 + 64 + 128);
    cr_expect(measure.peak == 64 + 64 + 1024);

    rf_arena bind = {.base = aligned_alloc(RF_ALIGNMENT, measure.peak), .size = measure.peak};
    cr_assert(bind.base != NULL);
    lay_out(&bind, parts);
    cr_expect(bind.used == measure.used && bind.peak == measure.peak);
    cr_expect(parts[0] == bind.base && parts[1] == bind.base + 64);
    cr_expect(parts[2] == bind.base + 128 && parts[3] == parts[2]);
    for (int i = 0; i < 4; i++) {
        cr_expect((uintptr_t)parts[i] % RF_ALIGNMENT == 0);
    }
    free(bind.base);
}

Test(arena, nothing_takes_nothing)
{
    _Alignas(64) char memory[64];
    rf_arena arena = {.base = memory, .size = sizeof memory};
    cr_expect(rf_arena_take(&arena, 0) == NULL);
    cr_expect(arena.used == 0);
    cr_expect(rf_arena_take(&arena, 64) == memory);
    cr_expect(rf_arena_take(&arena, 0) == NULL);
}

Test(arena, too_small, .signal = SIGABRT)
{
    _Alignas(64) char memory[128];
    rf_arena arena = {.base = memory, .size = sizeof memory};
    rf_arena_take(&arena, 65);
    rf_arena_take(&arena, 1);
}

Test(arena, size_that_overflows, .signal = SIGABRT)
{
    rf_arena arena = {0};
    rf_arena_take(&arena, SIZE_MAX - 3);
}

Test(arena, sum_that_overflows, .signal = SIGABRT)
{
    rf_arena arena = {0};
    rf_arena_take(&arena, SIZE_MAX / 2);
    rf_arena_take(&arena, SIZE_MAX / 2);
    rf_arena_take(&arena, SIZE_MAX / 2);
}

Test(arena, misaligned_base, .signal = SIGABRT)
{
    _Alignas(64) char memory[128];
    rf_arena arena = {.base = memory + 8, .size = 64};
    rf_arena_take(&arena, 8);
}

Test(arena, rewind_forward, .signal = SIGABRT)
{
    rf_arena arena = {0};
    rf_arena_rewind(&arena, 64);
}
