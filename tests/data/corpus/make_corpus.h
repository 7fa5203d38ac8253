/* make_corpus.h: small corpora for tests, of samples of given lengths, with the byte tokenizer. */
#ifndef RF_TESTS_DATA_CORPUS_MAKE_CORPUS_H
#define RF_TESTS_DATA_CORPUS_MAKE_CORPUS_H

#include "common/base/files/file.h"
#include "data/corpus/corpus.h"
#include "data/corpus/corpus_writer.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A prompt of at least 2 tokens, or 0: plain text, to which the begin token is added as its prompt.
 * The response counts its end-of-text token. */
typedef struct test_length {
    int64_t n_prompt, n_response;
} test_length;

/* Token `index` of a sample made with `salt`: the same for everybody who asks. */
static inline int32_t made_token(const rf_tokenizer *tokenizer, test_length length, uint64_t salt,
                                 int64_t sample, int64_t index)
{
    int64_t n_prompt = length.n_prompt > 0 ? length.n_prompt : 1;
    if (length.n_prompt == 0 && index == 0) {
        return rf_tokenizer_specials(tokenizer)->begin;
    }
    if (index == n_prompt + length.n_response - 1) {
        return rf_tokenizer_specials(tokenizer)->eos[0];
    }
    return (int32_t)((salt * 31 + (uint64_t)sample * 17 + (uint64_t)index * 3) % 251);
}

static inline void write_samples(rf_corpus_writer *writer, const rf_tokenizer *tokenizer,
                                 const test_length *length, int64_t n, uint64_t salt)
{
    rf_error err;
    for (int64_t i = 0; i < n; i++) {
        int64_t n_prompt = length[i].n_prompt > 0 ? length[i].n_prompt : 1;
        for (int64_t k = 0; k < n_prompt + length[i].n_response; k++) {
            int32_t token = made_token(tokenizer, length[i], salt, i, k);
            cr_assert_eq(rf_corpus_writer_tokens(writer, &token, 1, &err), RF_OK, "%s",
                         err.message);
        }
        cr_assert_eq(rf_corpus_writer_end_turns(writer, (int64_t[]){0, n_prompt}, 2, &err), RF_OK,
                     "%s", err.message);
    }
}

/* Overwrites the tokens of a sample, wherever they lie in the file, by ids that do not exist. The
 * sample's tokens must not occur elsewhere in the same order. */
static inline void damage_sample(const char *path, const rf_tokenizer *tokenizer,
                                 test_length length, uint64_t salt, int64_t sample)
{
    rf_error err;
    char *data;
    size_t bytes;
    cr_assert_eq(rf_file_read(&data, &bytes, path, (size_t)1 << 26, &err), RF_OK, "%s",
                 err.message);
    int64_t n = (length.n_prompt > 0 ? length.n_prompt : 1) + length.n_response;
    int32_t *token = malloc((size_t)n * sizeof *token);
    for (int64_t k = 0; k < n; k++) {
        token[k] = made_token(tokenizer, length, salt, sample, k);
    }
    void *found = memmem(data, bytes, token, (size_t)n * sizeof *token);
    cr_assert_not_null(found);
    memset(found, 0xFF, (size_t)n * sizeof *token);
    cr_assert_eq(rf_file_write(path, data, bytes, &err), RF_OK, "%s", err.message);
    free(token);
    free(data);
}

/* An open corpus of n samples from one source of weight `weight`; its file is gone already.
 * damaged: a sample whose tokens cannot be read, or -1. */
static inline rf_corpus *make_damaged_corpus(const test_length *length, int64_t n, double weight,
                                             uint64_t salt, int64_t damaged)
{
    static int n_made;
    const char *folder = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/rf-test-%ld-%d.h5", folder != NULL ? folder : "/tmp",
             (long)getpid(), n_made++);
    rf_error err;
    rf_tokenizer *tokenizer;
    rf_corpus_writer *writer;
    rf_corpus *corpus;
    cr_assert_eq(rf_tokenizer_load(&tokenizer, "byte", &err), RF_OK, "%s", err.message);
    cr_assert_eq(rf_corpus_writer_new(&writer, path, tokenizer, false, &err), RF_OK, "%s",
                 err.message);
    cr_assert_eq(rf_corpus_writer_begin_source(writer, "made", weight, &err), RF_OK, "%s",
                 err.message);
    write_samples(writer, tokenizer, length, n, salt);
    rf_corpus_writer_end_source(writer, 0, (uint32_t)salt);
    cr_assert_eq(rf_corpus_writer_commit(writer, &err), RF_OK, "%s", err.message);
    rf_corpus_writer_free(writer);
    if (damaged >= 0) {
        damage_sample(path, tokenizer, length[damaged], salt, damaged);
    }
    cr_assert_eq(rf_corpus_open(&corpus, path, &err), RF_OK, "%s", err.message);
    unlink(path);
    rf_tokenizer_free(tokenizer);
    return corpus;
}

static inline rf_corpus *make_corpus(const test_length *length, int64_t n, double weight,
                                     uint64_t salt)
{
    return make_damaged_corpus(length, n, weight, salt, -1);
}

#endif
