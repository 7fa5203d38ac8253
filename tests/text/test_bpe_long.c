/* Words that are merged in windows: the same tokens as from one merge of the whole word. */
#include "common/base/alloc.h"
#include "common/base/rng.h"
#include "common/base/utf8.h"
#include "common/text/unicode.h"
#include "tests/text/bpe_test.h"

TestSuite(bpe_long, .init = begin_folder, .fini = end_folder);

/* Merges, each of tokens that are there before it, so that each has a higher rank than those that
 * make its parts. Tokens 0 to 255 are the bytes, 256 + k is the product of merge k. */
enum { MOST = 2000 };
typedef struct table {
    int n;
    int32_t left[MOST], right[MOST];
    char *name[256 + MOST]; /* in the alphabet of GPT-2's files. Owned */
} table;

static void table_begin(table *t)
{
    *t = (table){0};
    for (int byte = 0; byte < 256; byte++) {
        t->name[byte] = rf_alloc(8, 1);
        rf_utf8_put(t->name[byte], rf_unicode_of_byte(byte));
    }
}

static int32_t add_merge(table *t, int32_t left, int32_t right)
{
    const int k = t->n++;
    cr_assert(k < MOST);
    t->left[k] = left;
    t->right[k] = right;
    t->name[256 + k] = rf_alloc_format("%s%s", t->name[left], t->name[right]);
    return 256 + k;
}

/* A tokenizer whose words are stretches of letters. */
static rf_tokenizer *table_tokenizer(const table *t)
{
    json_t *vocab = json_object(), *merges = json_array();
    for (int i = 0; i < 256 + t->n; i++) {
        json_object_set_new(vocab, t->name[i], json_integer(i));
    }
    for (int k = 0; k < t->n; k++) {
        json_array_append_new(merges,
                              json_pack("[s, s]", t->name[t->left[k]], t->name[t->right[k]]));
    }
    json_t *root =
        json_pack("{s:{s:s, s:o, s:o}, s:[{s:i, s:s, s:b}], s:{s:s, s:b, s:b}, s:{s:s}}", "model",
                  "type", "BPE", "vocab", vocab, "merges", merges, "added_tokens", "id", 256 + t->n,
                  "content", "<|endoftext|>", "special", 1, "pre_tokenizer", "type", "ByteLevel",
                  "add_prefix_space", 0, "use_regex", 1, "decoder", "type", "ByteLevel");
    cr_assert_not_null(root);
    bpe_put_json("tokenizer.json", root);
    json_decref(root);
    return bpe_load(in_folder("tokenizer.json"));
}

/* The merges one after the other, each wherever it applies, from left to right. */
static rf_ids merge_whole(const table *t, const rf_text *word)
{
    rf_ids ids = {0};
    for (size_t i = 0; i < word->bytes; i++) {
        rf_ids_push(&ids, (unsigned char)word->data[i]);
    }
    for (int k = 0; k < t->n; k++) {
        int64_t n = 0;
        for (int64_t i = 0; i < ids.n; i++) {
            const bool applies =
                i + 1 < ids.n && ids.id[i] == t->left[k] && ids.id[i + 1] == t->right[k];
            ids.id[n++] = applies ? 256 + k : ids.id[i];
            i += applies;
        }
        ids.n = n;
    }
    return ids;
}

static void expect_same(table *t, rf_text *word, const char *what)
{
    rf_tokenizer *tokenizer = table_tokenizer(t);
    rf_ids whole = merge_whole(t, word), got = {0};
    rf_error err;
    cr_assert_gt(word->bytes, 1 << 16);
    rf_ids_push(&got, -1); /* what stands there before stays */
    cr_assert_eq(rf_tokenizer_encode(tokenizer, &got, word->data, word->bytes, &err), RF_OK, "%s",
                 err.message);
    cr_assert_eq(got.n - 1, whole.n, "%s: %d tokens, not %d", what, (int)got.n - 1, (int)whole.n);
    for (int64_t i = 0; i < whole.n; i++) {
        cr_assert(got.id[0] == -1 && got.id[i + 1] == whole.id[i], "%s: token %d", what, (int)i);
    }
    rf_ids_free(&whole);
    rf_ids_free(&got);
    rf_tokenizer_free(tokenizer);
    for (int i = 0; i < 256 + t->n; i++) {
        free(t->name[i]);
    }
    rf_text_free(word);
}

static void repeat(rf_text *word, const char *text, int n)
{
    for (int i = 0; i < n; i++) {
        rf_text_add_string(word, text);
    }
}

/* Tokens of 2, 4, 8, ... bytes: up to some that are longer than any window. */
Test(bpe_long, one_letter)
{
    static table t;
    for (int doublings = 0; doublings <= 17; doublings += doublings < 16 ? 4 : 1) {
        rf_text word = {0};
        int32_t id = 'a';
        table_begin(&t);
        for (int k = 0; k < doublings; k++) {
            id = add_merge(&t, id, id);
        }
        repeat(&word, "a", 300001);
        expect_same(&t, &word, "one letter");
    }
}

Test(bpe_long, random_letters)
{
    static table t;
    for (uint64_t trial = 0; trial < 4; trial++) {
        rf_rng rng = RF_RNG_STREAM(5, RF_RNG_TEST, trial);
        rf_text word = {0};
        const uint64_t n_letters = 2 + 4 * trial;
        table_begin(&t);
        while (t.n < 200) {
            int32_t part[2];
            for (int j = 0; j < 2; j++) {
                const uint64_t i = rf_rng_below(&rng, n_letters + (uint64_t)t.n);
                part[j] = (int32_t)(i < n_letters ? 'a' + i : 256 + i - n_letters);
            }
            char *name = rf_alloc_format("%s%s", t.name[part[0]], t.name[part[1]]);
            bool is_new = strlen(name) < 40;
            for (int k = 0; k < t.n && is_new; k++) {
                is_new = strcmp(t.name[256 + k], name) != 0;
            }
            free(name);
            if (is_new) {
                add_merge(&t, part[0], part[1]);
            }
        }
        for (int i = 0; i < 150000; i++) {
            const char letter = (char)('a' + rf_rng_below(&rng, n_letters));
            rf_text_add(&word, &letter, 1);
        }
        expect_same(&t, &word, "random letters");
    }
}

/* A row of long tokens s0 s1 s2 ..., of which any two that are neighbours merge, those further to the
 * right first: who merges with whom depends on how many follow. A window that ends within the row may
 * come out one token off, from its end to its beginning. */
Test(bpe_long, windows_that_do_not_fit_are_made_longer)
{
    enum { N = 120, BYTES = 96 };
    static table t;
    for (int shift = 0; shift < 3; shift++) {
        rf_text word = {0};
        int32_t s[N], shared = -1;
        table_begin(&t);
        repeat(&word, "a", 57000 + shift * BYTES / 2);
        for (int i = 0; i < N; i++) {
            char letter[5] = "";
            rf_utf8_put(letter, 0x4E00 + i);
            const unsigned char *byte = (const unsigned char *)letter;
            /* The first two bytes are those of 64 characters. */
            shared = i % 64 == 0 ? add_merge(&t, byte[0], byte[1]) : shared;
            s[i] = add_merge(&t, shared, byte[2]);
            for (int bytes = 3; bytes < BYTES; bytes *= 2) {
                s[i] = add_merge(&t, s[i], s[i]);
            }
            repeat(&word, letter, BYTES / 3);
        }
        for (int i = N - 2; i >= 0; i--) {
            add_merge(&t, s[i], s[i + 1]);
        }
        repeat(&word, "a", 20000);
        expect_same(&t, &word, "a row");
    }
}
