/* bpe_merge.c: the tables of an encoder, by hash with open addressing, and the merging of a word. */
#include "common/base/alloc.h"
#include "common/text/bpe_private.h"

#include <stdlib.h>
#include <string.h>

/* --- A fast hash ------------------------------------------------------------------------------ */

static uint64_t fold(uint64_t x)
{
    x ^= x >> 32;
    x *= UINT64_C(0xD6E8FEB86659FD93);
    x ^= x >> 32;
    return x;
}

uint64_t rf_bpe_mix(const char *text, size_t bytes)
{
    uint64_t hash = bytes * UINT64_C(0x9E3779B97F4A7C15), part = 0;
    for (; bytes >= 8; bytes -= 8, text += 8) {
        memcpy(&part, text, 8);
        hash = (hash ^ part) * UINT64_C(0xD6E8FEB86659FD93);
        hash ^= hash >> 29;
    }
    part = 0;
    for (size_t i = 0; i < bytes; i++) {
        part = part << 8 | (unsigned char)text[i];
    }
    return fold(hash ^ part);
}

/* Slots for n entries: a power of two, at least twice as many. */
static size_t slots_for(size_t n)
{
    RF_ASSERT(n < SIZE_MAX / 4);
    size_t slots = 16;
    while (slots < 2 * n) {
        slots *= 2;
    }
    return slots;
}

/* --- Names ------------------------------------------------------------------------------------ */

void rf_bpe_names_new(rf_bpe_names *names, size_t n)
{
    names->n_slots = slots_for(n);
    names->slot = rf_alloc(names->n_slots, sizeof *names->slot);
}

static size_t slot_of_name(const rf_bpe_names *names, const char *text, size_t bytes)
{
    size_t i = rf_bpe_mix(text, bytes) & (names->n_slots - 1);
    while (names->slot[i].text != NULL &&
           (names->slot[i].bytes != bytes || memcmp(names->slot[i].text, text, bytes) != 0)) {
        i = (i + 1) & (names->n_slots - 1);
    }
    return i;
}

bool rf_bpe_names_add(rf_bpe_names *names, const char *text, size_t bytes, int32_t value)
{
    RF_ASSERT(bytes <= UINT32_MAX);
    size_t i = slot_of_name(names, text, bytes);
    if (names->slot[i].text != NULL) {
        return false;
    }
    names->slot[i].text = text;
    names->slot[i].bytes = (uint32_t)bytes;
    names->slot[i].value = value;
    return true;
}

int32_t rf_bpe_names_find(const rf_bpe_names *names, const char *text, size_t bytes)
{
    if (names->slot == NULL) {
        return -1;
    }
    size_t i = slot_of_name(names, text, bytes);
    return names->slot[i].text != NULL ? names->slot[i].value : -1;
}

void rf_bpe_names_free(rf_bpe_names *names)
{
    free(names->slot);
    *names = (rf_bpe_names){0};
}

/* --- The table of merges ---------------------------------------------------------------------- */

void rf_bpe_merges_new(rf_bpe_merges *merges, size_t n)
{
    merges->n = 0;
    merges->n_slots = slots_for(n);
    merges->slot = rf_alloc(merges->n_slots, sizeof *merges->slot);
    for (size_t i = 0; i < merges->n_slots; i++) {
        merges->slot[i].pair = UINT64_MAX;
    }
}

static rf_bpe_merge *slot_of_pair(const rf_bpe_merges *merges, uint64_t pair)
{
    size_t i = fold(pair * UINT64_C(0x9E3779B97F4A7C15)) & (merges->n_slots - 1);
    while (merges->slot[i].pair != pair && merges->slot[i].pair != UINT64_MAX) {
        i = (i + 1) & (merges->n_slots - 1);
    }
    return &merges->slot[i];
}

/* NULL: no such pair. */
static const rf_bpe_merge *find(const rf_bpe_merges *merges, int32_t left, int32_t right)
{
    const rf_bpe_merge *slot = slot_of_pair(merges, rf_bpe_pair(left, right));
    return slot->pair != UINT64_MAX ? slot : NULL;
}

bool rf_bpe_merges_add(rf_bpe_merges *merges, int32_t left, int32_t right, int32_t product)
{
    rf_bpe_merge *slot = slot_of_pair(merges, rf_bpe_pair(left, right));
    if (slot->pair != UINT64_MAX) {
        return false;
    }
    *slot = (rf_bpe_merge){rf_bpe_pair(left, right), (uint32_t)merges->n++, product};
    return true;
}

void rf_bpe_merges_free(rf_bpe_merges *merges)
{
    free(merges->slot);
    *merges = (rf_bpe_merges){0};
}

/* --- Merging a word: always the lowest rank, of equal ranks the leftmost ---------------------- */

enum { SHORT_WORD = 40 };

static uint32_t rank_of(const rf_bpe_merges *merges, int32_t left, int32_t right)
{
    const rf_bpe_merge *merge = find(merges, left, right);
    return merge != NULL ? merge->rank : UINT32_MAX;
}

/* Looks at every pair of the word for each merge. Quadratic, but nothing is quicker for words of a
 * few bytes, which nearly all are. */
static size_t merge_short(const rf_bpe_merges *merges, int32_t *id, size_t n)
{
    uint32_t rank[SHORT_WORD];
    for (size_t i = 0; i + 1 < n; i++) {
        rank[i] = rank_of(merges, id[i], id[i + 1]);
    }
    for (;;) {
        size_t best = 0;
        uint32_t lowest = UINT32_MAX;
        for (size_t i = 0; i + 1 < n; i++) {
            if (rank[i] < lowest) {
                lowest = rank[i];
                best = i;
            }
        }
        if (lowest == UINT32_MAX) {
            return n;
        }
        id[best] = find(merges, id[best], id[best + 1])->product;
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (n > best + 1) {
            memmove(rank + best, rank + best + 1, (n - 1 - best) * sizeof *rank);
            rank[best] = rank_of(merges, id[best], id[best + 1]);
        }
        if (best > 0) {
            rank[best - 1] = rank_of(merges, id[best - 1], id[best]);
        }
    }
}

static void work_reserve(rf_bpe_work *work, size_t n)
{
    if (n > work->capacity) {
        rf_bpe_work_free(work);
        /* A merge takes one entry from the heap and puts at most two on it. */
        work->heap = rf_alloc(n, 2 * sizeof *work->heap);
        work->rank = rf_alloc(n, sizeof *work->rank);
        work->id = rf_alloc(n, sizeof *work->id);
        work->next = rf_alloc(n, sizeof *work->next);
        work->previous = rf_alloc(n, sizeof *work->previous);
        work->capacity = n;
    }
}

void rf_bpe_work_free(rf_bpe_work *work)
{
    RF_FREE(work->heap, work->rank, work->id, work->next, work->previous);
    *work = (rf_bpe_work){0};
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t value)
{
    size_t i = (*n)++;
    while (i > 0 && heap[(i - 1) / 2] > value) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = value;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    uint64_t top = heap[0], last = heap[--*n];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < *n) {
        child += child + 1 < *n && heap[child + 1] < heap[child];
        if (heap[child] >= last) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* Ranks the pair that begins at place i, and puts it on the heap. */
static void rank_pair(const rf_bpe_merges *merges, rf_bpe_work *w, size_t *n_heap, int32_t i)
{
    int32_t next = w->next[i];
    w->rank[i] = next >= 0 ? rank_of(merges, w->id[i], w->id[next]) : UINT32_MAX;
    if (w->rank[i] != UINT32_MAX) {
        heap_push(w->heap, n_heap, (uint64_t)w->rank[i] << 32 | (uint32_t)i);
    }
}

/* For long words: n log n. The ids form a linked list, and a heap holds (rank, place of the left id)
 * of each pair, the lowest on top. Pairs that a merge ended stay on the heap: when such an entry comes
 * to the top, its rank is not that of the pair which begins there now, since no two pairs have the
 * same rank. */
static size_t merge_long(const rf_bpe_merges *merges, int32_t *id, size_t n, rf_bpe_work *w)
{
    size_t n_heap = 0;
    memcpy(w->id, id, n * sizeof *id);
    for (size_t i = 0; i < n; i++) {
        w->previous[i] = (int32_t)i - 1;
        w->next[i] = i + 1 < n ? (int32_t)i + 1 : -1;
        rank_pair(merges, w, &n_heap, (int32_t)i);
    }
    while (n_heap > 0) {
        uint64_t top = heap_pop(w->heap, &n_heap);
        int32_t i = (int32_t)(uint32_t)top;
        if (w->rank[i] != (uint32_t)(top >> 32)) {
            continue;
        }
        int32_t gone = w->next[i];
        w->id[i] = find(merges, w->id[i], w->id[gone])->product;
        w->rank[gone] = UINT32_MAX;
        w->next[i] = w->next[gone];
        if (w->next[i] >= 0) {
            w->previous[w->next[i]] = i;
        }
        rank_pair(merges, w, &n_heap, i);
        if (w->previous[i] >= 0) {
            rank_pair(merges, w, &n_heap, w->previous[i]);
        }
    }
    size_t left = 0;
    for (int32_t i = 0; i >= 0; i = w->next[i]) {
        id[left++] = w->id[i];
    }
    return left;
}

size_t rf_bpe_merge_word(const rf_bpe_merges *merges, int32_t *id, size_t n, rf_bpe_work *work)
{
    if (n <= SHORT_WORD) {
        return merge_short(merges, id, n);
    }
    work_reserve(work, n);
    return merge_long(merges, id, n, work);
}
