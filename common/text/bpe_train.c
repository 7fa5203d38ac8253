#include "common/text/bpe_train.h"

#include "common/base/alloc.h"
#include "common/base/utf8.h"
#include "common/text/bpe_count.h"
#include "common/text/bpe_private.h"

#include <stdlib.h>
#include <string.h>

/* Again and again the most frequent pair of neighbouring tokens becomes a token of its own.
 *
 * Each different word is held once, with the number of times that it occurs. Each pair knows its count
 * over all words, and the words that held it at some time (they may have lost it in a merge). A heap
 * gives the most frequent pair. Its entries are not kept up to date: a pair whose count grew is put on
 * it once more, and an entry that comes to the top with a count that the pair no longer has goes back
 * with the present one. */

typedef struct pair {
    uint64_t key;          /* left << 32 | right; UINT64_MAX: empty slot */
    int64_t count, pushed; /* pushed: the highest count with which it lies on the heap */
    uint32_t *word;        /* [n_words], owned */
    size_t n_words, capacity;
} pair;

typedef struct entry {
    int64_t count;
    uint64_t key;
} entry;

typedef struct trainer {
    int32_t *id;     /* the ids of all words, one after the other */
    size_t *begin;   /* [n_words] */
    uint32_t *n_ids; /* [n_words] */
    int64_t *count;  /* [n_words] */
    size_t n_words;
    pair *slot;
    size_t n_slots, n_pairs;
    entry *heap;
    size_t n_heap, heap_capacity;
    uint64_t *changed; /* pairs whose counts grew in a merge */
    size_t n_changed, changed_capacity;
    char **token; /* [n_tokens] their bytes */
    uint32_t *token_bytes;
    int64_t n_tokens;
    rf_bpe_names names; /* of the tokens */
    uint64_t *merge;
    size_t n_merges, merge_capacity;
} trainer;

/* --- Pairs ------------------------------------------------------------------------------------ */

static size_t slot_of(const trainer *t, uint64_t key)
{
    uint64_t hash = key * UINT64_C(0x9E3779B97F4A7C15);
    size_t i = (hash ^ hash >> 32) & (t->n_slots - 1);
    while (t->slot[i].key != key && t->slot[i].key != UINT64_MAX) {
        i = (i + 1) & (t->n_slots - 1);
    }
    return i;
}

static void new_slots(trainer *t, size_t n)
{
    pair *old = t->slot;
    const size_t n_old = t->n_slots;
    t->slot = rf_alloc(n, sizeof *t->slot);
    t->n_slots = n;
    for (size_t i = 0; i < n; i++) {
        t->slot[i] = (pair){.key = UINT64_MAX};
    }
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].key != UINT64_MAX) {
            t->slot[slot_of(t, old[i].key)] = old[i];
        }
    }
    free(old);
}

/* Adds to the count of a pair, which word w holds. */
static void add_pair(trainer *t, uint64_t key, int64_t count, uint32_t w, bool is_change)
{
    if (2 * t->n_pairs >= t->n_slots) {
        new_slots(t, 2 * t->n_slots);
    }
    pair *p = &t->slot[slot_of(t, key)];
    if (p->key == UINT64_MAX) {
        p->key = key;
        t->n_pairs++;
    }
    p->count += count;
    if (p->n_words > 0 && p->word[p->n_words - 1] == w) {
        return; /* word w is the last of the pair's list, and the pair among the changed */
    }
    p->word = rf_alloc_grow(p->word, &p->capacity, p->n_words + 1, sizeof *p->word);
    p->word[p->n_words++] = w;
    if (is_change) {
        t->changed =
            rf_alloc_grow(t->changed, &t->changed_capacity, t->n_changed + 1, sizeof *t->changed);
        t->changed[t->n_changed++] = key;
    }
}

/* --- The heap: most frequent first, then lowest ids ------------------------------------------- */

static bool is_before(entry a, entry b)
{
    return a.count != b.count ? a.count > b.count : a.key < b.key;
}

static void push(trainer *t, entry e)
{
    t->heap = rf_alloc_grow(t->heap, &t->heap_capacity, t->n_heap + 1, sizeof *t->heap);
    size_t i = t->n_heap++;
    for (; i > 0 && is_before(e, t->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        t->heap[i] = t->heap[(i - 1) / 2];
    }
    t->heap[i] = e;
}

static entry pop(trainer *t)
{
    const entry top = t->heap[0], last = t->heap[--t->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < t->n_heap) {
        child += child + 1 < t->n_heap && is_before(t->heap[child + 1], t->heap[child]);
        if (!is_before(t->heap[child], last)) {
            break;
        }
        t->heap[i] = t->heap[child];
        i = child;
    }
    t->heap[i] = last;
    return top;
}

/* --- Merging ---------------------------------------------------------------------------------- */

/* Replaces the pair by `product` in word w, and counts the neighbours anew. */
static void merge_in_word(trainer *t, uint32_t w, int32_t left, int32_t right, int32_t product)
{
    int32_t *id = t->id + t->begin[w];
    const int64_t count = t->count[w];
    uint32_t n = t->n_ids[w], to = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i + 1 >= n || id[i] != left || id[i + 1] != right) {
            id[to++] = id[i];
            continue;
        }
        if (to > 0) {
            t->slot[slot_of(t, rf_bpe_pair(id[to - 1], left))].count -= count;
            add_pair(t, rf_bpe_pair(id[to - 1], product), count, w, true);
        }
        if (i + 2 < n) {
            t->slot[slot_of(t, rf_bpe_pair(right, id[i + 2]))].count -= count;
            add_pair(t, rf_bpe_pair(product, id[i + 2]), count, w, true);
        }
        id[to++] = product;
        i++;
    }
    t->n_ids[w] = to;
}

/* A token of these bytes, which the trainer takes over; its id. */
static int32_t add_token(trainer *t, char *text, uint32_t bytes)
{
    const int32_t id = (int32_t)t->n_tokens++;
    t->token[id] = text;
    t->token_bytes[id] = bytes;
    (void)rf_bpe_names_add(&t->names, text, bytes, id);
    return id;
}

/* Notes the merge of a pair; its product is a new token, or one that another merge makes too. */
static int32_t add_merge(trainer *t, int32_t left, int32_t right)
{
    const uint32_t a = t->token_bytes[left], b = t->token_bytes[right];
    t->merge = rf_alloc_grow(t->merge, &t->merge_capacity, t->n_merges + 1, sizeof *t->merge);
    t->merge[t->n_merges++] = rf_bpe_pair(left, right);
    char *text = rf_alloc((size_t)a + b, 1);
    memcpy(text, t->token[left], a);
    memcpy(text + a, t->token[right], b);
    const int32_t known = rf_bpe_names_find(&t->names, text, (size_t)a + b);
    if (known >= 0) {
        free(text);
        return known;
    }
    return add_token(t, text, a + b);
}

static void merge_pair(trainer *t, uint64_t key)
{
    const int32_t left = (int32_t)(key >> 32), right = (int32_t)(uint32_t)key;
    const int32_t product = add_merge(t, left, right);
    pair *p = &t->slot[slot_of(t, key)];
    uint32_t *word = p->word;
    const size_t n_words = p->n_words;
    p->word = NULL;
    p->n_words = p->capacity = 0;
    p->count = 0;
    t->n_changed = 0;
    for (size_t i = 0; i < n_words; i++) {
        merge_in_word(t, word[i], left, right, product);
    }
    free(word);
    for (size_t i = 0; i < t->n_changed; i++) {
        pair *grown = &t->slot[slot_of(t, t->changed[i])];
        if (grown->count > grown->pushed) {
            grown->pushed = grown->count;
            push(t, (entry){grown->count, grown->key});
        }
    }
}

static void merge_all(trainer *t, int64_t n_tokens, int64_t min_count)
{
    while (t->n_tokens < n_tokens && t->n_heap > 0) {
        entry top = pop(t);
        const int64_t count = t->slot[slot_of(t, top.key)].count;
        if (count == top.count && count >= min_count) {
            merge_pair(t, top.key);
        } else if (count < top.count) {
            t->slot[slot_of(t, top.key)].pushed = count;
            if (count >= min_count) {
                push(t, (entry){count, top.key});
            }
        }
    }
}

/* --- Set-up and result ------------------------------------------------------------------------ */

/* Bytes have the ids of GPT-2's: in the order of the characters that stand for them. */
static void add_bytes(trainer *t, int32_t id_of[256])
{
    for (int32_t c = 0; c < 0x200; c++) {
        int byte = rf_unicode_byte_of(c);
        if (byte >= 0) {
            const char text = (char)(unsigned char)byte;
            id_of[byte] = add_token(t, rf_alloc_copy(&text, 1), 1);
        }
    }
    RF_ASSERT(t->n_tokens == 256);
}

static void add_words(trainer *t, const rf_bpe_word *word, const char *memory,
                      const int32_t id_of[256])
{
    size_t used = 0;
    new_slots(t, 1 << 16);
    for (size_t w = 0; w < t->n_words; w++) {
        t->begin[w] = used;
        t->n_ids[w] = word[w].bytes;
        t->count[w] = word[w].count;
        for (size_t i = 0; i < word[w].bytes; i++) {
            t->id[used++] = id_of[(unsigned char)memory[word[w].begin + i]];
            if (i > 0) {
                add_pair(t, rf_bpe_pair(t->id[used - 2], t->id[used - 1]), word[w].count,
                         (uint32_t)w, false);
            }
        }
    }
    for (size_t i = 0; i < t->n_slots; i++) {
        if (t->slot[i].key != UINT64_MAX) {
            t->slot[i].pushed = t->slot[i].count;
            push(t, (entry){t->slot[i].count, t->slot[i].key});
        }
    }
}

/* A token as tokenizer.json writes it. */
static json_t *name_of(const trainer *t, int64_t id)
{
    rf_text name = {0};
    for (uint32_t i = 0; i < t->token_bytes[id]; i++) {
        char c[4];
        size_t n = rf_utf8_put(c, rf_unicode_of_byte((unsigned char)t->token[id][i]));
        rf_text_add(&name, c, n);
    }
    json_t *out = json_stringn(name.data, name.bytes);
    rf_text_free(&name);
    return out;
}

static char *write_json(const trainer *t)
{
    json_t *vocab = json_object(), *merges = json_array();
    for (int64_t id = 0; id < t->n_tokens; id++) {
        json_t *name = name_of(t, id);
        json_object_set_new_nocheck(vocab, json_string_value(name), json_integer(id));
        json_decref(name);
    }
    for (size_t i = 0; i < t->n_merges; i++) {
        json_array_append_new(merges, json_pack("[o, o]", name_of(t, (int64_t)(t->merge[i] >> 32)),
                                                name_of(t, (int64_t)(uint32_t)t->merge[i])));
    }
    json_t *root = json_pack(
        "{s:s, s:n, s:n, s:[{s:I, s:s, s:b, s:b, s:b, s:b, s:b}], s:n, s:{s:s, s:[{s:s, "
        "s:{s:s}, s:s, s:b}, {s:s, s:b, s:b, "
        "s:b}]}, "
        "s:n, s:{s:s, s:b, s:b, s:b}, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}}",
        "version", "1.0", "truncation", "padding", "added_tokens", "id", (json_int_t)t->n_tokens,
        "content", "<|endoftext|>", "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0,
        "special", 1, "normalizer", "pre_tokenizer", "type", "Sequence", "pretokenizers", "type",
        "Split", "pattern", "Regex", rf_bpe_pattern_qwen, "behavior", "Isolated", "invert", 0,
        "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 0,
        "post_processor", "decoder", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0,
        "use_regex", 0, "model", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix",
        "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab,
        "merges", merges);
    char *text = json_dumps(root, JSON_INDENT(1));
    RF_ASSERT(text != NULL);
    json_decref(root);
    return text;
}

static void trainer_free(trainer *t)
{
    for (size_t i = 0; i < t->n_slots; i++) {
        free(t->slot[i].word);
    }
    for (int64_t i = 0; i < t->n_tokens; i++) {
        free(t->token[i]);
    }
    RF_FREE(t->slot, t->heap, t->changed, t->id, t->begin, t->n_ids, t->count, t->token,
            t->token_bytes, t->merge);
    rf_bpe_names_free(&t->names);
}

int rf_bpe_train(char **text, int64_t *size, const rf_bpe_counter *counter, int64_t vocab_size,
                 int64_t min_count, rf_error *err)
{
    RF_ASSERT(vocab_size >= RF_BPE_TRAIN_MIN && vocab_size <= INT32_MAX / 4);
    trainer t = {.n_words = (size_t)rf_bpe_counter_words(counter)};
    const char *memory;
    int32_t id_of[256];
    size_t n_bytes = 0;
    *text = NULL;
    if (t.n_words > UINT32_MAX) {
        return rf_error_set(err, RF_ERR, "%zu different words are too many: give fewer texts",
                            t.n_words);
    }
    rf_bpe_word *word = rf_bpe_counter_sorted(&memory, counter);
    for (size_t w = 0; w < t.n_words; w++) {
        n_bytes += word[w].bytes;
    }
    t.id = rf_alloc(n_bytes, sizeof *t.id);
    t.begin = rf_alloc(t.n_words, sizeof *t.begin);
    t.n_ids = rf_alloc(t.n_words, sizeof *t.n_ids);
    t.count = rf_alloc(t.n_words, sizeof *t.count);
    t.token = rf_alloc((size_t)vocab_size, sizeof *t.token);
    t.token_bytes = rf_alloc((size_t)vocab_size, sizeof *t.token_bytes);
    rf_bpe_names_new(&t.names, (size_t)vocab_size);
    add_bytes(&t, id_of);
    add_words(&t, word, memory, id_of);
    free(word);
    merge_all(&t, vocab_size - 1, min_count > 1 ? min_count : 1);
    *text = write_json(&t);
    *size = t.n_tokens + 1;
    trainer_free(&t);
    return RF_OK;
}
