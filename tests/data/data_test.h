/* data_test.h: what the tests of corpora, builds and refusion-data share. */
#ifndef RF_TESTS_DATA_TEST_H
#define RF_TESTS_DATA_TEST_H

#include "common/base/files/file.h"
#include "data/corpus/build.h"
#include "data/corpus/corpus.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

static inline const char *put_bytes(const char *name, const void *data, size_t bytes)
{
    rf_error err;
    const char *path = in_folder(name);
    cr_assert_eq(rf_file_write(path, data, bytes, &err), RF_OK, "%s", err.message);
    return path;
}

static inline const char *put_text(const char *name, const char *text)
{
    return put_bytes(name, text, strlen(text));
}

static inline const char *put_gzip(const char *name, const char *text)
{
    const char *path = in_folder(name);
    gzFile file = gzopen(path, "wb");
    cr_assert_not_null(file);
    cr_assert(gzputs(file, text) >= 0);
    cr_assert_eq(gzclose(file), Z_OK);
    return path;
}

static inline char *get_bytes(const char *path, size_t *bytes)
{
    rf_error err;
    char *data;
    cr_assert_eq(rf_file_read(&data, bytes, path, (size_t)1 << 30, &err), RF_OK, "%s", err.message);
    return data;
}

static inline void assert_same_file(const char *a, const char *b)
{
    size_t n, m;
    char *x = get_bytes(a, &n), *y = get_bytes(b, &m);
    cr_assert_eq(n, m, "%s and %s: %zu and %zu bytes", a, b, n, m);
    cr_assert_eq(memcmp(x, y, n), 0, "%s and %s differ", a, b);
    free(x);
    free(y);
}

static inline rf_tokenizer *byte_tokenizer(void)
{
    rf_tokenizer *tokenizer;
    rf_error err;
    cr_assert_eq(rf_tokenizer_load(&tokenizer, "byte", &err), RF_OK, "%s", err.message);
    return tokenizer;
}

static inline rf_corpus *open_corpus(const char *path)
{
    rf_corpus *corpus;
    rf_error err;
    cr_assert_eq(rf_corpus_open(&corpus, path, &err), RF_OK, "%s", err.message);
    return corpus;
}

/* Sample i as text, special tokens by name, "¦" between prompt and response; caller frees. */
static inline char *sample_text(rf_corpus *corpus, int64_t i)
{
    rf_error err;
    int64_t n = rf_corpus_length(corpus, i), n_prompt = rf_corpus_prompt_length(corpus, i);
    int32_t *id = malloc((size_t)n * sizeof *id);
    char *prompt, *response, *all;
    size_t bytes;
    cr_assert_eq(rf_corpus_read(corpus, id, i, 0, n, &err), RF_OK, "%s", err.message);
    const rf_tokenizer *t = corpus->tokenizer;
    prompt = rf_tokenizer_decode(t, &bytes, id, n_prompt, false);
    response = rf_tokenizer_decode(t, &bytes, id + n_prompt, n - n_prompt, false);
    all = malloc(strlen(prompt) + strlen(response) + 3);
    sprintf(all, "%s\xC2\xA6%s", prompt, response);
    free(prompt);
    free(response);
    free(id);
    return all;
}

static inline void assert_sample(rf_corpus *corpus, int64_t i, const char *expected)
{
    char *text = sample_text(corpus, i);
    cr_assert_str_eq(text, expected);
    free(text);
}

/* One line that begins with `where` and has something behind it. */
static inline void assert_message(const rf_error *err, const char *where, const char *part)
{
    cr_assert_eq(strncmp(err->message, where, strlen(where)), 0, "\"%s\" should begin with \"%s\"",
                 err->message, where);
    cr_assert_not_null(strstr(err->message, part), "\"%s\" should contain \"%s\"", err->message,
                       part);
    cr_assert_null(strchr(err->message, '\n'));
}

#endif
