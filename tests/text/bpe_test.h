/* bpe_test.h: tokenizers in files, for the tests of this folder. */
#ifndef RF_TESTS_TEXT_BPE_TEST_H
#define RF_TESTS_TEXT_BPE_TEST_H

#include "common/base/files/file.h"
#include "common/text/tokenizer.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char bpe_small[] = "tests/golden/tokenizer_small.json";

static inline void bpe_put(const char *name, const char *text, size_t bytes)
{
    rf_error err;
    cr_assert_eq(rf_file_write(in_folder(name), text, bytes, &err), RF_OK, "%s", err.message);
}

static inline void bpe_put_json(const char *name, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    cr_assert_not_null(text);
    bpe_put(name, text, strlen(text));
    free(text);
}

static inline json_t *bpe_read_json(const char *path)
{
    json_error_t why;
    json_t *value = json_load_file(path, JSON_ALLOW_NUL, &why);
    cr_assert_not_null(value, "%s: %s", path, why.text);
    return value;
}

static inline rf_tokenizer *bpe_load(const char *path)
{
    rf_tokenizer *tokenizer;
    rf_error err;
    cr_assert_eq(rf_tokenizer_load(&tokenizer, path, &err), RF_OK, "%s", err.message);
    return tokenizer;
}

static inline void bpe_assert_refused(const char *file, const char *part)
{
    rf_tokenizer *t;
    rf_error err = {0};
    cr_assert_eq(rf_tokenizer_load(&t, in_folder(file), &err), RF_ERR, "%s: should name %s", file,
                 part);
    cr_assert_null(t);
    cr_assert_eq(strncmp(err.message, folder, strlen(folder)), 0, "%s", err.message);
    cr_assert_not_null(strstr(err.message, part), "\"%s\" should name \"%s\"", err.message, part);
}

/* Whether a text has these ids. */
static inline bool bpe_encodes(const rf_tokenizer *tokenizer, const json_t *text, const json_t *ids)
{
    rf_ids got = {0};
    rf_error err;
    cr_assert_eq(rf_tokenizer_encode(tokenizer, &got, json_string_value(text),
                                     json_string_length(text), &err),
                 RF_OK, "%s", err.message);
    bool same = (size_t)got.n == json_array_size(ids);
    for (int64_t i = 0; same && i < got.n; i++) {
        same = got.id[i] == json_integer_value(json_array_get(ids, (size_t)i));
    }
    rf_ids_free(&got);
    return same;
}

static inline bool bpe_decodes(const rf_tokenizer *tokenizer, const json_t *ids, bool skip,
                               const json_t *expected)
{
    rf_ids id = {0};
    size_t bytes;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        rf_ids_push(&id, (int32_t)json_integer_value(json_array_get(ids, i)));
    }
    char *text = rf_tokenizer_decode(tokenizer, &bytes, id.id, id.n, skip);
    bool same = bytes == json_string_length(expected) &&
                memcmp(text, json_string_value(expected), bytes) == 0;
    free(text);
    rf_ids_free(&id);
    return same;
}

static inline rf_thinking bpe_thinking(const json_t *value)
{
    return json_is_true(value)    ? RF_THINKING_ON
           : json_is_false(value) ? RF_THINKING_OFF
                                  : RF_THINKING_UNSET;
}

#endif
