#include "common/model/shard.h"

#include "common/base/alloc.h"
#include "common/dist/dist.h"

#include <stdlib.h>

/* Cuts the trainable space, or what is frozen, into runs of layers of at least `least` elements; a
 * last one that is too short joins the one before. */
static void cut(rf_shards *s, const rf_table *table, bool trainable, int64_t least)
{
    const int64_t first = s->n_parts, stop = trainable ? table->n_elements : table->n_stored;
    int64_t begin = trainable ? 0 : table->n_elements;
    for (int64_t layer = 0; layer <= table->n_layers + 1; layer++) {
        const int64_t end = s->layer[(trainable ? 0 : s->n_layers + 2) + layer].end;
        if (end - begin >= least || (end == stop && end > begin && s->n_parts == first)) {
            s->part[s->n_parts++] = (rf_range){begin, end};
            begin = end;
        }
    }
    if (begin < stop) {
        s->part[s->n_parts - 1].end = stop;
    }
}

void rf_shards_new(rf_shards *out, const rf_table *table, size_t element_bytes, rf_shard kind,
                   int64_t rank, int64_t n_ranks)
{
    const bool alone = n_ranks == 1 || kind == RF_SHARD_NONE;
    const size_t most = 2 * ((size_t)table->n_layers + 2);
    *out = (rf_shards){.kind = alone ? RF_SHARD_NONE : kind,
                       .rank = alone ? 0 : rank,
                       .n_ranks = alone ? 1 : n_ranks,
                       .n_layers = table->n_layers};
    out->layer = rf_alloc(most, sizeof *out->layer);
    for (int64_t i = 0; i < table->n_layers + 2; i++) {
        out->layer[i] = rf_table_range(table, i, true);
        out->layer[table->n_layers + 2 + i] = rf_table_range(table, i, false);
    }
    const int64_t least =
        out->kind == RF_SHARD_WEIGHTS ? 1 : (int64_t)(RF_PART_BYTES / element_bytes);
    out->part = rf_alloc(most, sizeof *out->part);
    out->at = rf_alloc(most + 1, sizeof *out->at);
    cut(out, table, true, least);
    out->n_trained = out->n_parts;
    cut(out, table, false, least);
    for (int64_t i = 0; i < out->n_parts; i++) {
        const rf_range held = rf_shards_held(out, out->part[i], out->rank);
        out->at[i + 1] = out->at[i] + rf_range_length(held);
    }
}

void rf_shards_free(rf_shards *shards)
{
    free(shards->layer);
    free(shards->part);
    free(shards->at);
    *shards = (rf_shards){0};
}

int64_t rf_shards_elements(const rf_shards *shards)
{
    return shards->n_trained > 0 ? shards->part[shards->n_trained - 1].end : 0;
}

int64_t rf_shards_trained(const rf_shards *shards)
{
    return shards->at[shards->n_trained];
}

int64_t rf_shards_stored(const rf_shards *shards)
{
    return shards->at[shards->n_parts];
}

int64_t rf_shards_find(const rf_shards *shards, int64_t element)
{
    int64_t i = 0;
    while (element >= shards->part[i].end) {
        i++;
        RF_ASSERT(i < shards->n_parts);
    }
    return i;
}

rf_range rf_shards_held(const rf_shards *shards, rf_range range, int64_t rank)
{
    if (range.begin == range.end) {
        return range;
    }
    const rf_range *part = &shards->part[rf_shards_find(shards, range.begin)];
    const int64_t n = part->end - part->begin;
    const int64_t begin = part->begin + rf_slice_begin(n, rank, shards->n_ranks);
    const int64_t end = part->begin + rf_slice_begin(n, rank + 1, shards->n_ranks);
    RF_ASSERT(range.end <= part->end);
    if (end <= range.begin || begin >= range.end) {
        const int64_t nowhere = end <= range.begin ? range.begin : range.end;
        return (rf_range){nowhere, nowhere};
    }
    return (rf_range){begin > range.begin ? begin : range.begin, end < range.end ? end : range.end};
}

int64_t rf_shards_at(const rf_shards *shards, int64_t element)
{
    const int64_t i = rf_shards_find(shards, element);
    const rf_range held = rf_shards_held(shards, shards->part[i], shards->rank);
    RF_ASSERT(element >= held.begin && element <= held.end);
    return shards->at[i] + (element - held.begin);
}
