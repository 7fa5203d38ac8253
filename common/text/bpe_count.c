#include "common/text/bpe_count.h"

#include "common/base/alloc.h"
#include "common/text/bpe_private.h"

#include <stdlib.h>
#include <string.h>

struct rf_bpe_counter {
    rf_bpe_pattern pattern;
    rf_bpe_matcher matcher;
    rf_bpe_word *slot; /* [n_slots], a power of two; bytes 0: empty */
    size_t n_slots, n_words;
    rf_text memory; /* the words, one after the other */
};

int rf_bpe_counter_new(rf_bpe_counter **out, rf_error *err)
{
    rf_bpe_counter *c = rf_alloc(1, sizeof *c);
    c->n_slots = 1 << 12;
    c->slot = rf_alloc(c->n_slots, sizeof *c->slot);
    *out = c;
    RF_TRY(rf_bpe_pattern_new(&c->pattern, rf_bpe_pattern_qwen, "built-in", err));
    rf_bpe_matcher_new(&c->matcher, &c->pattern);
    return RF_OK;
}

void rf_bpe_counter_free(rf_bpe_counter *c)
{
    if (c != NULL) {
        rf_bpe_matcher_free(&c->matcher);
        rf_bpe_pattern_free(&c->pattern);
        rf_text_free(&c->memory);
        free(c->slot);
        free(c);
    }
}

static size_t slot_of(const rf_bpe_counter *c, const char *word, size_t bytes, uint64_t hash)
{
    size_t i = hash & (c->n_slots - 1);
    while (c->slot[i].bytes != 0 && (c->slot[i].hash != hash || c->slot[i].bytes != bytes ||
                                     memcmp(c->memory.data + c->slot[i].begin, word, bytes) != 0)) {
        i = (i + 1) & (c->n_slots - 1);
    }
    return i;
}

static void grow(rf_bpe_counter *c)
{
    const size_t n = 2 * c->n_slots;
    rf_bpe_word *slot = rf_alloc(n, sizeof *slot);
    for (size_t i = 0; i < c->n_slots; i++) {
        if (c->slot[i].bytes != 0) {
            size_t k = c->slot[i].hash & (n - 1);
            while (slot[k].bytes != 0) {
                k = (k + 1) & (n - 1);
            }
            slot[k] = c->slot[i];
        }
    }
    free(c->slot);
    c->slot = slot;
    c->n_slots = n;
}

static void count_word(rf_bpe_counter *c, const char *word, size_t bytes, int64_t times)
{
    const uint64_t hash = rf_bpe_mix(word, bytes);
    if (2 * c->n_words >= c->n_slots) {
        grow(c);
    }
    rf_bpe_word *slot = &c->slot[slot_of(c, word, bytes, hash)];
    if (slot->bytes == 0) {
        *slot = (rf_bpe_word){.hash = hash, .begin = c->memory.bytes, .bytes = (uint32_t)bytes};
        rf_text_add(&c->memory, word, bytes);
        c->n_words++;
    }
    slot->count += times;
}

int rf_bpe_counter_add(rf_bpe_counter *c, const char *text, size_t bytes, rf_error *err)
{
    rf_unicode_traits traits;
    RF_TRY(rf_unicode_scan(&traits, text, bytes, err));
    for (size_t begin = 0, end; begin < bytes; begin = end) {
        RF_TRY(rf_bpe_next_word(&end, &c->pattern, &c->matcher, traits.is_new, text, begin, bytes,
                                err));
        count_word(c, text + begin, end - begin, 1);
    }
    return RF_OK;
}

void rf_bpe_counter_merge(rf_bpe_counter *c, const rf_bpe_counter *other)
{
    for (size_t i = 0; i < other->n_slots; i++) {
        const rf_bpe_word *word = &other->slot[i];
        if (word->bytes != 0) {
            count_word(c, other->memory.data + word->begin, word->bytes, word->count);
        }
    }
}

int64_t rf_bpe_counter_words(const rf_bpe_counter *c)
{
    return (int64_t)c->n_words;
}

static int compare_words(const void *left, const void *right, void *memory)
{
    const rf_bpe_word *a = left, *b = right;
    const char *text = memory;
    int order = memcmp(text + a->begin, text + b->begin, a->bytes < b->bytes ? a->bytes : b->bytes);
    return order != 0 ? order : a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

rf_bpe_word *rf_bpe_counter_sorted(const char **memory, const rf_bpe_counter *c)
{
    rf_bpe_word *word = rf_alloc(c->n_words, sizeof *word);
    size_t n = 0;
    for (size_t i = 0; i < c->n_slots; i++) {
        if (c->slot[i].bytes != 0) {
            word[n++] = c->slot[i];
        }
    }
    *memory = c->memory.data;
    qsort_r(word, n, sizeof *word, compare_words, c->memory.data);
    return word;
}
