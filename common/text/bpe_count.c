#include "common/text/bpe_count.h"

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
    rf_bpe_counter *c = calloc(1, sizeof *c);
    *out = NULL;
    if (c == NULL || (c->slot = calloc(1 << 12, sizeof *c->slot)) == NULL) {
        free(c);
        return rf_error_set(err, RF_ERR, "no memory to count words");
    }
    c->n_slots = 1 << 12;
    int rc = rf_bpe_pattern_new(&c->pattern, rf_bpe_pattern_qwen, "built-in", err);
    if (rc == RF_OK) {
        rc = rf_bpe_matcher_new(&c->matcher, &c->pattern, err);
    }
    if (rc != RF_OK) {
        rf_bpe_counter_free(c);
        return rc;
    }
    *out = c;
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

static int grow(rf_bpe_counter *c, rf_error *err)
{
    const size_t n = 2 * c->n_slots;
    rf_bpe_word *slot = calloc(n, sizeof *slot);
    if (slot == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for %zu words", n);
    }
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
    return RF_OK;
}

static int count_word(rf_bpe_counter *c, const char *word, size_t bytes, int64_t times,
                      rf_error *err)
{
    const uint64_t hash = rf_bpe_mix(word, bytes);
    if (2 * c->n_words >= c->n_slots) {
        int rc = grow(c, err);
        if (rc != RF_OK) {
            return rc;
        }
    }
    rf_bpe_word *slot = &c->slot[slot_of(c, word, bytes, hash)];
    if (slot->bytes == 0) {
        *slot = (rf_bpe_word){.hash = hash, .begin = c->memory.bytes, .bytes = (uint32_t)bytes};
        rf_text_add(&c->memory, word, bytes);
        c->n_words++;
    }
    slot->count += times;
    return RF_OK;
}

int rf_bpe_counter_add(rf_bpe_counter *c, const char *text, size_t bytes, rf_error *err)
{
    rf_unicode_traits traits;
    size_t bad;
    if (bytes > INT32_MAX) {
        return rf_error_set(err, RF_ERR, "a text of %zu bytes is too long: cut it", bytes);
    }
    if (!rf_unicode_scan(&traits, &bad, text, bytes)) {
        return rf_error_set(err, RF_ERR, "the text is not UTF-8 at byte %zu: convert it", bad + 1);
    }
    for (size_t begin = 0, end; begin < bytes; begin = end) {
        int rc = rf_bpe_next_word(&end, &c->pattern, &c->matcher, traits.is_new, text, begin, bytes,
                                  err);
        if (rc == RF_OK) {
            rc = count_word(c, text + begin, end - begin, 1, err);
        }
        if (rc != RF_OK) {
            return rc;
        }
    }
    return RF_OK;
}

int rf_bpe_counter_merge(rf_bpe_counter *c, const rf_bpe_counter *other, rf_error *err)
{
    int rc = RF_OK;
    for (size_t i = 0; i < other->n_slots && rc == RF_OK; i++) {
        const rf_bpe_word *word = &other->slot[i];
        if (word->bytes != 0) {
            rc = count_word(c, other->memory.data + word->begin, word->bytes, word->count, err);
        }
    }
    return rc;
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

int rf_bpe_counter_sorted(rf_bpe_word **out, const char **memory, const rf_bpe_counter *c,
                          rf_error *err)
{
    rf_bpe_word *word = malloc((c->n_words + 1) * sizeof *word);
    if (word == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for %zu words", c->n_words);
    }
    size_t n = 0;
    for (size_t i = 0; i < c->n_slots; i++) {
        if (c->slot[i].bytes != 0) {
            word[n++] = c->slot[i];
        }
    }
    *memory = c->memory.data;
    qsort_r(word, n, sizeof *word, compare_words, c->memory.data);
    *out = word;
    return RF_OK;
}
