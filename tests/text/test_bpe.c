/* Byte-level BPE: against what Hugging Face's tokenizers gave (tests/golden), and bad files. */
#include "common/text/unicode.h"
#include "tests/text/bpe_test.h"

#include "common/text/bpe_train.h"

#include <jansson.h>
#include <pthread.h>

TestSuite(bpe, .init = begin_folder, .fini = end_folder);

/* --- Golden ----------------------------------------------------------------------------------- */

Test(bpe, golden_ids_and_texts)
{
    rf_tokenizer *t = bpe_load(bpe_small);
    json_t *cases = bpe_read_json("tests/golden/tokenizer_vectors.json"), *item;
    size_t i;
    json_array_foreach(cases, i, item)
    {
        const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
        cr_expect(bpe_encodes(t, text, ids), "case %zu: %s", i, json_string_value(text));
        cr_expect(bpe_decodes(t, ids, false, json_object_get(item, "decoded")), "case %zu", i);
        cr_expect(bpe_decodes(t, ids, true, json_object_get(item, "skipped")), "case %zu", i);
    }
    cr_assert_geq(i, 20);
    json_decref(cases);
    rf_tokenizer_free(t);
}

/* Llama-3's shape: its pattern, ignore_merges with words that no merge makes, a post-processor. */
Test(bpe, golden_vectors_of_llama3)
{
    const char *path = "tests/golden/tokenizer_llama3.json";
    rf_tokenizer *t = bpe_load(path);
    json_t *cases = bpe_read_json("tests/golden/tokenizer_llama3_vectors.json"), *item;
    size_t i;
    json_array_foreach(cases, i, item)
    {
        const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
        const char *category = json_string_value(json_object_get(item, "cat"));
        cr_expect(bpe_encodes(t, text, ids), "case %zu (%s): %s", i, category,
                  json_string_value(text));
        cr_expect(bpe_decodes(t, ids, false, json_object_get(item, "decoded")), "case %zu", i);
        cr_expect(bpe_decodes(t, ids, true, json_object_get(item, "skipped")), "case %zu", i);
    }
    cr_assert_geq(i, 400);
    const rf_specials *s = rf_tokenizer_specials(t);
    cr_assert_eq(s->n_eos, 1);
    cr_assert_str_eq(rf_tokenizer_special_name(t, s->eos[0]), "<|eot_id|>");
    rf_tokenizer_free(t);
    json_decref(cases);
}

Test(bpe, specials)
{
    rf_tokenizer *t = bpe_load(bpe_small);
    const rf_specials *s = rf_tokenizer_specials(t);
    const int64_t n = rf_tokenizer_size(t);
    cr_assert_eq(s->begin, n - 2);
    cr_assert_eq(s->mask, n - 1);
    cr_assert_eq(s->n_eos, 1);
    cr_assert_str_eq(rf_tokenizer_special_name(t, s->eos[0]), "<|endoftext|>");
    cr_assert_str_eq(rf_tokenizer_special_name(t, s->mask), "<|mask|>");
    cr_assert_null(rf_tokenizer_special_name(t, 5));
    cr_assert_null(rf_tokenizer_special_name(t, (int32_t)n));
    /* No text forges the mask, and none is written for it. */
    rf_ids ids = {0};
    rf_error err;
    cr_assert_eq(rf_tokenizer_encode(t, &ids, "<|mask|><|beginoftext|>", 23, &err), RF_OK);
    for (int64_t i = 0; i < ids.n; i++) {
        cr_assert(ids.id[i] != s->mask && ids.id[i] != s->begin);
    }
    size_t bytes;
    const int32_t hidden[] = {s->mask, s->begin, -1, INT32_MAX};
    char *text = rf_tokenizer_decode(t, &bytes, hidden, 4, false);
    cr_assert_eq(bytes, 0);
    free(text);
    const int64_t before = ids.n;
    cr_assert_eq(rf_tokenizer_encode(t, &ids, "ab\xFF", 3, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "byte 3"), "%s", err.message);
    cr_assert_eq(ids.n, before);
    rf_ids_free(&ids);
    rf_tokenizer_free(t);
}

Test(bpe, stored_text_and_export_keep_the_tokenizer)
{
    rf_tokenizer *t = bpe_load(bpe_small), *stored;
    size_t bytes;
    rf_error err;
    const char *text = rf_tokenizer_text(t, &bytes);
    cr_assert_eq(rf_tokenizer_parse(&stored, text, bytes, "x.h5", &err), RF_OK, "%s", err.message);
    cr_assert_eq(rf_tokenizer_hash(t), rf_tokenizer_hash(stored));
    cr_assert_eq(rf_tokenizer_export(t, folder, &err), RF_OK, "%s", err.message);
    rf_tokenizer *exported = bpe_load(folder);
    cr_assert_eq(rf_tokenizer_hash(t), rf_tokenizer_hash(exported));
    cr_assert_eq(rf_tokenizer_size(t), rf_tokenizer_size(exported));
    rf_tokenizer *byte;
    cr_assert_eq(rf_tokenizer_load(&byte, "byte", &err), RF_OK);
    cr_assert_eq(rf_tokenizer_export(byte, folder, &err), RF_ERR);
    cr_assert_neq(rf_tokenizer_hash(byte), rf_tokenizer_hash(t));
    /* Damaged in places that JSON allows. */
    json_t *root = json_loadb(text, bytes, 0, NULL);
    static const char *const fields[] = {"template", "eos", "mask", "begin", "tokenizer"};
    for (int i = 0; i < 5; i++) {
        json_t *copy = json_copy(root);
        json_object_set_new(copy, fields[i], json_integer(1 << 30));
        char *bad = json_dumps(copy, JSON_COMPACT);
        rf_tokenizer *none;
        cr_expect_eq(rf_tokenizer_parse(&none, bad, strlen(bad), "x.h5", &err), RF_ERR);
        cr_expect_eq(strncmp(err.message, "x.h5: ", 6), 0, "%s", err.message);
        free(bad);
        json_decref(copy);
    }
    json_decref(root);
    rf_tokenizer_free(t);
    rf_tokenizer_free(stored);
    rf_tokenizer_free(exported);
    rf_tokenizer_free(byte);
}

static void *encode_much(void *argument)
{
    const rf_tokenizer *t = argument;
    rf_error err;
    for (int i = 0; i < 300; i++) {
        rf_ids ids = {0};
        cr_assert_eq(
            rf_tokenizer_encode(t, &ids, "the slots, e\xCC\x81t\xC3\xA9 <|end|>", 24, &err), RF_OK);
        cr_assert_gt(ids.n, 4);
        rf_ids_free(&ids);
    }
    return NULL;
}

Test(bpe, many_threads_use_one_tokenizer)
{
    rf_tokenizer *t = bpe_load(bpe_small);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(pthread_create(&thread[i], NULL, encode_much, t), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
    }
    rf_tokenizer_free(t);
}

/* --- Files ------------------------------------------------------------------------------------ */

/* tokenizer_small.json with one value replaced; where: keys parted by "/"; NULL removes it. */
static void assert_change_refused(const char *where, const char *value, const char *part)
{
    json_t *root = bpe_read_json(bpe_small), *at = root;
    char keys[128], *save = NULL;
    snprintf(keys, sizeof keys, "%s", where);
    char *key = strtok_r(keys, "/", &save), *next;
    while ((next = strtok_r(NULL, "/", &save)) != NULL) {
        at = json_is_array(at) ? json_array_get(at, strtoul(key, NULL, 10))
                               : json_object_get(at, key);
        key = next;
    }
    json_t *new = value != NULL ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    cr_assert(value == NULL || new != NULL, "%s", value);
    if (json_is_array(at)) {
        cr_assert_eq(value != NULL ? json_array_set_new(at, strtoul(key, NULL, 10), new)
                                   : json_array_remove(at, strtoul(key, NULL, 10)),
                     0);
    } else {
        cr_assert_eq(value != NULL ? json_object_set_new(at, key, new) : json_object_del(at, key),
                     0);
    }
    bpe_put_json("bad.json", root);
    json_decref(root);
    bpe_assert_refused("bad.json", part);
}

Test(bpe, bad_files_are_refused_by_field)
{
    assert_change_refused("model", NULL, "model is missing");
    assert_change_refused("model/type", "\"Unigram\"", "Unigram");
    assert_change_refused("model/vocab", NULL, "model.vocab");
    assert_change_refused("model/merges", NULL, "model.merges");
    assert_change_refused("model/dropout", "0.1", "dropout");
    assert_change_refused("model/byte_fallback", "true", "byte_fallback");
    assert_change_refused("model/end_of_word_suffix", "\"</w>\"", "end_of_word_suffix");
    assert_change_refused("model/vocab/!", NULL, "byte 0x21");
    assert_change_refused("model/vocab/!", "5", "both have id 5");
    assert_change_refused("model/vocab/!", "1e3", "whole number");
    assert_change_refused("model/vocab/!", "-1", "without holes");
    assert_change_refused("model/vocab/!", "2000000000", "without holes");
    assert_change_refused("model/merges/3", NULL, "none makes token");
    assert_change_refused("model/merges/3", "[\"\", \"a\"]", "cycle");
    assert_change_refused("model/merges/3", "[\"a\", \"\"]", "cycle");
    assert_change_refused("model/merges/3", "[\"\xE6\x97\xA5\", \"a\"]", "left part");
    assert_change_refused("model/merges/3", "[\"!\", \"!\"]", "product");
    assert_change_refused("model/merges/3", "\"abc\"", "merges[3]");
    assert_change_refused("model/merges/3", "\"a b c\"", "merges[3]");
    assert_change_refused("model/merges/3", "7", "merges[3]");
    assert_change_refused("normalizer", "{\"type\": \"NFKC\"}", "normalizer of type \"NFKC\"");
    assert_change_refused("normalizer", "3", "normalizer");
    assert_change_refused("pre_tokenizer", "{\"type\": \"Metaspace\"}", "Metaspace");
    assert_change_refused("pre_tokenizer", "null", "pre_tokenizer");
    assert_change_refused("pre_tokenizer/pretokenizers/0/behavior", "\"Removed\"", "behavior");
    assert_change_refused("pre_tokenizer/pretokenizers/0/invert", "true", "invert");
    assert_change_refused("pre_tokenizer/pretokenizers/0/pattern", "{\"String\": \" \"}", "Regex");
    assert_change_refused("pre_tokenizer/pretokenizers/0/pattern/Regex", "\"(\"", "PCRE2");
    assert_change_refused("pre_tokenizer/pretokenizers/0/pattern/Regex", "\"a*\"",
                          "nothing at all");
    assert_change_refused("pre_tokenizer/pretokenizers/1/use_regex", "true", "twice");
    assert_change_refused("pre_tokenizer/pretokenizers/1/add_prefix_space", "true", "prefix_space");
    assert_change_refused("decoder", "{\"type\": \"WordPiece\"}", "decoder of type \"WordPiece\"");
    assert_change_refused("decoder", "null", "decoder");
    assert_change_refused("pre_tokenizer/pretokenizers/1", "{\"type\": \"Digits\"}", "come first");
    assert_change_refused("added_tokens", "{}", "added_tokens");
    assert_change_refused("added_tokens/1/content", "\"\"", "added_tokens[1]");
    assert_change_refused("added_tokens/1/id", "7", "both have id 7");
    assert_change_refused("added_tokens/1/id", "382", "without holes");
    assert_change_refused("added_tokens/1/single_word", "true", "single_word");
    assert_change_refused("added_tokens/1/lstrip", "1", "lstrip");
    assert_change_refused("added_tokens/2/content", "\"<|end|>\"", "\"<|end|>\"");
}

/* The small tokenizer with other fields, from their JSON. */
static rf_tokenizer *load_changed(const char *changes)
{
    json_t *root = bpe_read_json(bpe_small), *more = json_loads(changes, 0, NULL);
    cr_assert(more != NULL && json_object_update(root, more) == 0);
    bpe_put_json("changed.json", root);
    json_decref(more);
    json_decref(root);
    return bpe_load(in_folder("changed.json"));
}

static rf_ids ids_of(const rf_tokenizer *t, const char *text)
{
    rf_ids ids = {0};
    rf_error err;
    cr_assert_eq(rf_tokenizer_encode(t, &ids, text, strlen(text), &err), RF_OK, "%s", err.message);
    return ids;
}

/* A tokenizer that was used before it was saved: neither is part of its ids. */
Test(bpe, truncation_and_padding_are_left_out)
{
    rf_tokenizer *t = bpe_load(bpe_small);
    rf_tokenizer *cut =
        load_changed("{\"truncation\": {\"max_length\": 2}, \"padding\": {\"length\": 9}}");
    rf_ids a = ids_of(t, "some words, more than two"), b = ids_of(cut, "some words, more than two");
    cr_assert(a.n == b.n && a.n > 2 && memcmp(a.id, b.id, (size_t)a.n * sizeof *a.id) == 0);
    rf_ids_free(&a);
    rf_ids_free(&b);
    rf_tokenizer_free(cut);
    rf_tokenizer_free(t);
}

/* The words that Hugging Face's Digits and ByteLevel make of "ab 12  3 c't  4\u00bd". */
static void assert_words(const char *each, const char *const *word)
{
    char changes[256];
    snprintf(changes, sizeof changes,
             "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
             "\"Digits\", \"individual_digits\": %s}, {\"type\": \"ByteLevel\"}]}}",
             each);
    rf_tokenizer *t = load_changed(changes);
    rf_ids all = ids_of(t, "ab 12  3 c't  4\xC2\xBD");
    int64_t n = 0;
    for (; *word != NULL; word++) {
        rf_ids part = ids_of(t, *word);
        cr_assert(n + part.n <= all.n &&
                      memcmp(all.id + n, part.id, (size_t)part.n * sizeof *part.id) == 0,
                  "\"%s\"", *word);
        n += part.n;
        rf_ids_free(&part);
    }
    cr_assert_eq(n, all.n);
    rf_ids_free(&all);
    rf_tokenizer_free(t);
}

Test(bpe, digits_are_words_of_their_own)
{
    assert_words("true", (const char *[]){"ab", " ", "1", "2", "  ", "3", " c", "'t", "  ", "4",
                                          "\xC2\xBD", NULL});
    assert_words("false",
                 (const char *[]){"ab", " ", "12", "  ", "3", " c", "'t", "  ", "4\xC2\xBD", NULL});
}

/* Marks are ordered by their classes, and by nothing else, however many there are. */
Test(bpe, many_marks_on_one_letter)
{
    enum { N = 40000 };
    rf_text text = {0}, normal = {0}, wanted = {0};
    rf_text_add_string(&text, "a");
    rf_text_add_string(&wanted, "\xE1\xBA\xA1"); /* a with a dot below, U+1EA1 */
    for (int i = 0; i < N; i++) {
        rf_text_add_string(&text, "\xCC\x81\xCC\xA3"); /* acute above, 230; dot below, 220 */
        rf_text_add_string(&wanted, i > 0 ? "\xCC\xA3" : "");
    }
    for (int i = 0; i < N; i++) {
        rf_text_add_string(&wanted, "\xCC\x81");
    }
    rf_unicode_nfc(&normal, text.data, text.bytes);
    cr_assert(normal.bytes == wanted.bytes && memcmp(normal.data, wanted.data, wanted.bytes) == 0);
    rf_text_free(&text);
    rf_text_free(&normal);
    rf_text_free(&wanted);
}

/* Words without merges are fine only where merges are ignored. */
Test(bpe, missing_merges_are_refused)
{
    json_t *root = bpe_read_json("tests/golden/tokenizer_llama3.json");
    json_object_set_new(json_object_get(root, "model"), "ignore_merges", json_false());
    bpe_put_json("tokenizer.json", root);
    bpe_assert_refused("tokenizer.json", "none makes token");
    json_decref(root);
}

Test(bpe, files_that_are_no_json_are_refused)
{
    bpe_put("a.json", "{\"model\": ", 10);
    bpe_assert_refused("a.json", "is not JSON");
    bpe_put("b.json", "{\"a\": \"\xFF\"}", 10);
    bpe_assert_refused("b.json", "decode byte");
    bpe_put("c.json", "{\"a\": 1, \"a\": 2}", 16);
    bpe_assert_refused("c.json", "duplicate");
    bpe_put("d.json", "[]", 2);
    bpe_assert_refused("d.json", "object");
    bpe_put("e.json", "", 0);
    bpe_assert_refused("e.json", "JSON");
    bpe_assert_refused(".", "no tokenizer.json");
    rf_tokenizer *t;
    rf_error err;
    cr_assert_eq(rf_tokenizer_load(&t, "/no/such/place", &err), RF_ERR_USAGE);
}

/* --- Training --------------------------------------------------------------------------------- */

static char *train(const char *const *text, int n, int64_t vocab_size, int64_t *size)
{
    rf_bpe_counter *counter;
    rf_error err;
    char *json;
    cr_assert_eq(rf_bpe_counter_new(&counter, &err), RF_OK);
    for (int i = 0; i < n; i++) {
        cr_assert_eq(rf_bpe_counter_add(counter, text[i], strlen(text[i]), &err), RF_OK);
    }
    cr_assert_eq(rf_bpe_counter_add(counter, "\xFF", 1, &err), RF_ERR);
    cr_assert_eq(rf_bpe_train(&json, size, counter, vocab_size, 2, &err), RF_OK, "%s", err.message);
    rf_bpe_counter_free(counter);
    return json;
}

Test(bpe, a_trained_tokenizer_loads_and_is_lossless)
{
    const char *const text[] = {"low low low low low lower lower newest newest newest newest",
                                "newest newest widest widest widest aaaaaaaaaaa aaaaaaa\xC3\xA9"};
    const char *const swapped[] = {text[1], text[0]};
    int64_t size, size_swapped;
    char *json = train(text, 2, 280, &size), *same = train(swapped, 2, 280, &size_swapped);
    cr_assert_str_eq(json, same);
    cr_assert(size <= 280 && size > 270, "%lld", (long long)size);
    bpe_put("t.json", json, strlen(json));
    rf_tokenizer *t = bpe_load(in_folder("t.json"));
    cr_assert_eq(rf_tokenizer_size(t), size + 2);
    for (int i = 0; i < 2; i++) {
        rf_ids ids = {0};
        rf_error err;
        size_t bytes;
        cr_assert_eq(rf_tokenizer_encode(t, &ids, text[i], strlen(text[i]), &err), RF_OK);
        cr_assert_lt(ids.n, (int64_t)strlen(text[i]) / 2);
        char *back = rf_tokenizer_decode(t, &bytes, ids.id, ids.n, false);
        cr_assert_str_eq(back, text[i]);
        free(back);
        rf_ids_free(&ids);
    }
    rf_tokenizer_free(t);
    free(json);
    free(same);
    json = train(text, 0, 300, &size);
    cr_assert_eq(size, RF_BPE_TRAIN_MIN);
    free(json);
}
