#include "common/model/batch.h"

#include "common/base/arena.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Run twice: to measure, then to bind (arena.h). */
static void lay_out(rf_batch *batch, rf_arena *arena, int64_t capacity)
{
    size_t n = (size_t)capacity;
    batch->token = rf_arena_take(arena, n * sizeof(int32_t));
    batch->position = rf_arena_take(arena, n * sizeof(int32_t));
    batch->target = rf_arena_take(arena, n * sizeof(int32_t));
    batch->weight = rf_arena_take(arena, n * sizeof(float));
    batch->span = rf_arena_take(arena, 4 * n * sizeof(int32_t));
    batch->place = rf_arena_take(arena, n * sizeof(int32_t));
    batch->part = rf_arena_take(arena, n * sizeof(uint8_t));
}

int rf_batch_new(rf_batch *out, int64_t capacity, rf_error *err)
{
    *out = (rf_batch){0};
    if (capacity < 1 || capacity > INT32_MAX) {
        return rf_error_set(err, RF_ERR,
                            "a batch of %" PRId64 " places: choose between 1 and %" PRId32,
                            capacity, INT32_MAX);
    }
    rf_arena arena = {0};
    lay_out(out, &arena, capacity);
    arena = (rf_arena){.size = arena.peak};
    arena.base = aligned_alloc(RF_ALIGNMENT, arena.size);
    if (arena.base == NULL) {
        return rf_error_set(
            err, RF_ERR, "no memory for a batch of %" PRId64 " places: use shorter rows", capacity);
    }
    memset(arena.base, 0, arena.size);
    lay_out(out, &arena, capacity);
    out->capacity = capacity;
    for (int64_t i = 0; i < capacity; i++) {
        out->target[i] = -1;
    }
    return RF_OK;
}

void rf_batch_free(rf_batch *batch)
{
    free(batch->token); /* first of the one allocation */
    *batch = (rf_batch){0};
}

void rf_batch_clear(rf_batch *batch)
{
    batch->n = 0;
}

int64_t rf_batch_add(rf_batch *batch, int32_t token, int32_t position, int64_t place,
                     int64_t begin0, int64_t end0, int64_t begin1, int64_t end1)
{
    RF_ASSERT(batch->n < batch->capacity);
    int64_t i = batch->n++;
    batch->token[i] = token;
    batch->position[i] = position;
    batch->target[i] = -1;
    batch->weight[i] = 0;
    batch->span[4 * i] = (int32_t)begin0;
    batch->span[4 * i + 1] = (int32_t)end0;
    batch->span[4 * i + 2] = (int32_t)begin1;
    batch->span[4 * i + 3] = (int32_t)end1;
    batch->place[i] = (int32_t)place;
    batch->part[i] = RF_PART_NONE;
    return i;
}
