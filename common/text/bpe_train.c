#include "common/text/bpe_train.h"

#include "common/base/utf8.h"
#include "common/text/bpe_count.h"
#include "common/text/bpe_private.h"

#include <stdlib.h>
#include <string.h>

/* Every pair knows its count and the words that hold it (some may have lost it since). The most
 * frequent one lies on top of a heap whose entries may be out of date. A pair whose count grows is
 * put there anew; one whose count fell is checked, and put back, when it comes to the top. */

typedef struct pair {
    uint64_t key;          /* left << 32 | right; UINT64_MAX: empty slot */
    int64_t count, pushed; /* pushed: the highest count with which it lies on the heap */
    uint32_t *word;        /* [n_words], owned */
    uint32_t n_words, capacity;
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
    rf_error *err;
} trainer;

static int no_memory(trainer *t)
{
    return rf_error_set(t->err, RF_ERR, "no memory to train a tokenizer on %zu different words",
                        t->n_words);
}

static uint64_t key_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

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

static int new_slots(trainer *t, size_t n)
{
    pair *old = t->slot;
    const size_t n_old = t->n_slots;
    t->slot = malloc(n * sizeof *t->slot);
    if (t->slot == NULL) {
        t->slot = old;
        return no_memory(t);
    }
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
    return RF_OK;
}

/* Adds to the count of a pair, which word w holds. */
static int add_pair(trainer *t, uint64_t key, int64_t count, uint32_t w, bool is_change)
{
    if (2 * t->n_pairs >= t->n_slots && new_slots(t, 2 * t->n_slots) != RF_OK) {
        return RF_ERR;
    }
    pair *p = &t->slot[slot_of(t, key)];
    if (p->key == UINT64_MAX) {
        p->key = key;
        t->n_pairs++;
    }
    p->count += count;
    if (p->n_words > 0 && p->word[p->n_words - 1] == w) {
        return RF_OK; /* known, and noted as changed when it came */
    }
    if (p->n_words == p->capacity) {
        uint32_t capacity = p->capacity == 0 ? 4 : 2 * p->capacity;
        uint32_t *grown = realloc(p->word, capacity * sizeof *grown);
        if (grown == NULL) {
            return no_memory(t);
        }
        p->word = grown;
        p->capacity = capacity;
    }
    p->word[p->n_words++] = w;
    if (is_change) {
        if (t->n_changed == t->changed_capacity) {
            size_t capacity = t->changed_capacity == 0 ? 256 : 2 * t->changed_capacity;
            uint64_t *grown = realloc(t->changed, capacity * sizeof *grown);
            if (grown == NULL) {
                return no_memory(t);
            }
            t->changed = grown;
            t->changed_capacity = capacity;
        }
        t->changed[t->n_changed++] = key;
    }
    return RF_OK;
}

/* --- The heap: most frequent first, then lowest ids ------------------------------------------- */

static bool is_before(entry a, entry b)
{
    return a.count != b.count ? a.count > b.count : a.key < b.key;
}

static int push(trainer *t, entry e)
{
    if (t->n_heap == t->heap_capacity) {
        size_t capacity = t->heap_capacity == 0 ? 1024 : 2 * t->heap_capacity;
        entry *grown = realloc(t->heap, capacity * sizeof *grown);
        if (grown == NULL) {
            return no_memory(t);
        }
        t->heap = grown;
        t->heap_capacity = capacity;
    }
    size_t i = t->n_heap++;
    for (; i > 0 && is_before(e, t->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        t->heap[i] = t->heap[(i - 1) / 2];
    }
    t->heap[i] = e;
    return RF_OK;
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
static int merge_in_word(trainer *t, uint32_t w, int32_t left, int32_t right, int32_t product)
{
    int32_t *id = t->id + t->begin[w];
    const int64_t count = t->count[w];
    uint32_t n = t->n_ids[w], to = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i + 1 >= n || id[i] != left || id[i + 1] != right) {
            id[to++] = id[i];
            continue;
        }
        int rc = RF_OK;
        if (to > 0) {
            t->slot[slot_of(t, key_of(id[to - 1], left))].count -= count;
            rc = add_pair(t, key_of(id[to - 1], product), count, w, true);
        }
        if (rc == RF_OK && i + 2 < n) {
            t->slot[slot_of(t, key_of(right, id[i + 2]))].count -= count;
            rc = add_pair(t, key_of(product, id[i + 2]), count, w, true);
        }
        if (rc != RF_OK) {
            return rc;
        }
        id[to++] = product;
        i++;
    }
    t->n_ids[w] = to;
    return RF_OK;
}

/* Notes the merge of a pair; its product is a new token, or one that another merge makes too. */
static int add_merge(trainer *t, int32_t *product, int32_t left, int32_t right)
{
    const uint32_t a = t->token_bytes[left], b = t->token_bytes[right];
    if (t->n_merges == t->merge_capacity) {
        size_t capacity = t->merge_capacity == 0 ? 1024 : 2 * t->merge_capacity;
        uint64_t *grown = realloc(t->merge, capacity * sizeof *grown);
        if (grown == NULL) {
            return no_memory(t);
        }
        t->merge = grown;
        t->merge_capacity = capacity;
    }
    char *text = malloc((size_t)a + b);
    if (text == NULL) {
        return no_memory(t);
    }
    t->merge[t->n_merges++] = key_of(left, right);
    memcpy(text, t->token[left], a);
    memcpy(text + a, t->token[right], b);
    *product = rf_bpe_names_find(&t->names, text, (size_t)a + b);
    if (*product >= 0) {
        free(text);
        return RF_OK;
    }
    *product = (int32_t)t->n_tokens;
    t->token_bytes[t->n_tokens] = a + b;
    t->token[t->n_tokens++] = text;
    (void)rf_bpe_names_add(&t->names, text, (size_t)a + b, *product);
    return RF_OK;
}

static int merge_pair(trainer *t, uint64_t key)
{
    const int32_t left = (int32_t)(key >> 32), right = (int32_t)(uint32_t)key;
    int32_t product = -1;
    int rc = add_merge(t, &product, left, right);
    pair *p = &t->slot[slot_of(t, key)];
    uint32_t *word = p->word, n_words = p->n_words;
    p->word = NULL;
    p->n_words = p->capacity = 0;
    p->count = 0;
    t->n_changed = 0;
    for (uint32_t i = 0; i < n_words && rc == RF_OK; i++) {
        rc = merge_in_word(t, word[i], left, right, product);
    }
    free(word);
    for (size_t i = 0; i < t->n_changed && rc == RF_OK; i++) {
        pair *grown = &t->slot[slot_of(t, t->changed[i])];
        if (grown->count > grown->pushed) {
            grown->pushed = grown->count;
            rc = push(t, (entry){grown->count, grown->key});
        }
    }
    return rc;
}

static int merge_all(trainer *t, int64_t n_tokens, int64_t min_count)
{
    int rc = RF_OK;
    while (rc == RF_OK && t->n_tokens < n_tokens && t->n_heap > 0) {
        entry top = pop(t);
        const int64_t count = t->slot[slot_of(t, top.key)].count;
        if (count == top.count && count >= min_count) {
            rc = merge_pair(t, top.key);
        } else if (count < top.count) {
            t->slot[slot_of(t, top.key)].pushed = count;
            rc = count >= min_count ? push(t, (entry){count, top.key}) : RF_OK;
        }
    }
    return rc;
}

/* --- Set-up and result ------------------------------------------------------------------------ */

/* Bytes have the ids of GPT-2's: in the order of the characters that stand for them. */
static int add_bytes(trainer *t, int32_t id_of[256])
{
    for (int32_t c = 0; c < 0x200; c++) {
        int byte = rf_unicode_byte_of(c);
        if (byte >= 0) {
            char *text = malloc(1);
            if (text == NULL) {
                return no_memory(t);
            }
            text[0] = (char)(unsigned char)byte;
            id_of[byte] = (int32_t)t->n_tokens;
            t->token_bytes[t->n_tokens] = 1;
            t->token[t->n_tokens++] = text;
            (void)rf_bpe_names_add(&t->names, text, 1, id_of[byte]);
        }
    }
    RF_ASSERT(t->n_tokens == 256);
    return RF_OK;
}

static int add_words(trainer *t, const rf_bpe_word *word, const char *memory,
                     const int32_t id_of[256])
{
    size_t used = 0;
    int rc = new_slots(t, 1 << 16);
    for (size_t w = 0; w < t->n_words && rc == RF_OK; w++) {
        t->begin[w] = used;
        t->n_ids[w] = word[w].bytes;
        t->count[w] = word[w].count;
        for (size_t i = 0; i < word[w].bytes && rc == RF_OK; i++) {
            t->id[used++] = id_of[(unsigned char)memory[word[w].begin + i]];
            if (i > 0) {
                rc = add_pair(t, key_of(t->id[used - 2], t->id[used - 1]), word[w].count,
                              (uint32_t)w, false);
            }
        }
    }
    for (size_t i = 0; i < t->n_slots && rc == RF_OK; i++) {
        if (t->slot[i].key != UINT64_MAX) {
            t->slot[i].pushed = t->slot[i].count;
            rc = push(t, (entry){t->slot[i].count, t->slot[i].key});
        }
    }
    return rc;
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

static int write_json(char **text, trainer *t)
{
    json_t *vocab = json_object(), *merges = json_array();
    int bad = vocab == NULL || merges == NULL;
    for (int64_t id = 0; id < t->n_tokens && bad == 0; id++) {
        json_t *name = name_of(t, id);
        bad |= name == NULL || json_object_set_new_nocheck(vocab, json_string_value(name),
                                                           json_integer((json_int_t)id)) != 0;
        json_decref(name);
    }
    for (size_t i = 0; i < t->n_merges && bad == 0; i++) {
        json_t *left = name_of(t, (int64_t)(t->merge[i] >> 32));
        json_t *right = name_of(t, (int64_t)(uint32_t)t->merge[i]);
        bad |= json_array_append_new(merges, json_pack("[o, o]", left, right)) != 0;
    }
    json_t *root = NULL;
    if (bad == 0) {
        root = json_pack(
            "{s:s, s:n, s:n, s:[{s:I, s:s, s:b, s:b, s:b, s:b, s:b}], s:n, s:{s:s, s:[{s:s, "
            "s:{s:s}, s:s, s:b}, {s:s, s:b, s:b, "
            "s:b}]}, "
            "s:n, s:{s:s, s:b, s:b, s:b}, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:O}}",
            "version", "1.0", "truncation", "padding", "added_tokens", "id",
            (json_int_t)t->n_tokens, "content", "<|endoftext|>", "single_word", 0, "lstrip", 0,
            "rstrip", 0, "normalized", 0, "special", 1, "normalizer", "pre_tokenizer", "type",
            "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex", rf_bpe_pattern_qwen,
            "behavior", "Isolated", "invert", 0, "type", "ByteLevel", "add_prefix_space", 0,
            "trim_offsets", 0, "use_regex", 0, "post_processor", "decoder", "type", "ByteLevel",
            "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 0, "model", "type", "BPE",
            "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
            0, "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges", merges);
    }
    *text = root != NULL ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    json_decref(vocab);
    json_decref(merges);
    return *text != NULL ? RF_OK : no_memory(t);
}

static void trainer_free(trainer *t)
{
    for (size_t i = 0; i < t->n_slots; i++) {
        free(t->slot[i].word);
    }
    for (int64_t i = 0; i < t->n_tokens; i++) {
        free(t->token[i]);
    }
    free(t->slot);
    free(t->heap);
    free(t->changed);
    free(t->id);
    free(t->begin);
    free(t->n_ids);
    free(t->count);
    free(t->token);
    free(t->token_bytes);
    free(t->merge);
    rf_bpe_names_free(&t->names);
}

static int allocate(trainer *t, size_t n_bytes, size_t n_tokens)
{
    t->id = malloc((n_bytes + 1) * sizeof *t->id);
    t->begin = malloc((t->n_words + 1) * sizeof *t->begin);
    t->n_ids = malloc((t->n_words + 1) * sizeof *t->n_ids);
    t->count = malloc((t->n_words + 1) * sizeof *t->count);
    t->token = calloc(n_tokens, sizeof *t->token);
    t->token_bytes = calloc(n_tokens, sizeof *t->token_bytes);
    if (rf_bpe_names_new(&t->names, n_tokens, t->err) != RF_OK) {
        return RF_ERR;
    }
    return t->id != NULL && t->begin != NULL && t->n_ids != NULL && t->count != NULL &&
                   t->token != NULL && t->token_bytes != NULL
               ? RF_OK
               : no_memory(t);
}

int rf_bpe_train(char **text, int64_t *size, const rf_bpe_counter *counter, int64_t vocab_size,
                 int64_t min_count, rf_error *err)
{
    RF_ASSERT(vocab_size >= RF_BPE_TRAIN_MIN && vocab_size <= INT32_MAX / 4);
    rf_error unused;
    trainer t = {.err = err != NULL ? err : &unused,
                 .n_words = (size_t)rf_bpe_counter_words(counter)};
    rf_bpe_word *word = NULL;
    const char *memory;
    int32_t id_of[256];
    size_t n_bytes = 0;
    *text = NULL;
    int rc = rf_bpe_counter_sorted(&word, &memory, counter, t.err);
    for (size_t w = 0; rc == RF_OK && w < t.n_words; w++) {
        n_bytes += word[w].bytes;
    }
    rc = rc == RF_OK && t.n_words > UINT32_MAX ? no_memory(&t) : rc;
    rc = rc == RF_OK ? allocate(&t, n_bytes, (size_t)vocab_size) : rc;
    rc = rc == RF_OK ? add_bytes(&t, id_of) : rc;
    rc = rc == RF_OK ? add_words(&t, word, memory, id_of) : rc;
    rc = rc == RF_OK ? merge_all(&t, vocab_size - 1, min_count > 1 ? min_count : 1) : rc;
    rc = rc == RF_OK ? write_json(text, &t) : rc;
    *size = t.n_tokens + 1;
    trainer_free(&t);
    free(word);
    return rc;
}
