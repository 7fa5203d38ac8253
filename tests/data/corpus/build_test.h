/* build_test.h: corpora built of files, for the tests of builds. */
#ifndef RF_TESTS_DATA_CORPUS_BUILD_TEST_H
#define RF_TESTS_DATA_CORPUS_BUILD_TEST_H

#include "tests/data/data_test.h"

#define USER(content)      "{\"role\": \"user\", \"content\": " content "}"
#define ASSISTANT(content) "{\"role\": \"assistant\", \"content\": " content "}"
#define GOOD               "{\"query\": \"q\", \"response\": \"r\"}\n"

/* Builds with one or two sources into out.h5. */
static inline int build_with(rf_build_statistics *statistics, rf_build_settings settings,
                             rf_error *err)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    int rc = rf_build(statistics, tokenizer, &settings, err);
    rf_tokenizer_free(tokenizer);
    return rc;
}

static inline rf_build_settings settings_of(const rf_build_source *source, int64_t n)
{
    return (rf_build_settings){
        .source = source, .n_sources = n, .out_path = in_folder("out.h5"), .n_jobs = 2};
}

static inline rf_corpus *build_one(const char *path, rf_build_settings changes)
{
    rf_build_source source = {path, 1, false};
    rf_build_settings s = settings_of(&source, 1);
    rf_build_statistics statistics;
    rf_error err;
    s.format = changes.format;
    s.split_paragraphs = changes.split_paragraphs;
    s.skip_bad = changes.skip_bad;
    cr_assert_eq(build_with(&statistics, s, &err), RF_OK, "%s", err.message);
    rf_build_statistics_free(&statistics);
    rf_corpus *corpus = open_corpus(in_folder("out.h5"));
    cr_assert_eq(rf_corpus_verify(corpus, &err), RF_OK, "%s", err.message);
    return corpus;
}

#endif
