/* convert_test.h: what the tests of import and export share. */
#ifndef RF_TESTS_DATA_CONVERT_CONVERT_TEST_H
#define RF_TESTS_DATA_CONVERT_CONVERT_TEST_H

#include "data/convert/convert.h"
#include "tests/data/data_test.h"
#include "tests/program.h"

#include <sys/stat.h>

static char notes[4000];

static inline void take_note(const char *line)
{
    size_t used = strlen(notes);
    snprintf(notes + used, sizeof notes - used, "%s\n", line);
}

static inline rf_convert_options options_of(rf_type type)
{
    notes[0] = '\0';
    return (rf_convert_options){.type = type, .tokenizer = "byte", .note = take_note};
}

#define MUST(call) cr_assert((call) == RF_OK, "%s: %s", #call, error.message)

static rf_error error;

static inline void import(const char *from, const char *to, rf_type type)
{
    rf_convert_options options = options_of(type);
    MUST(rf_convert_import(from, to, &options, &error));
}

static inline void export_sharded(const char *from, const char *to, rf_type type, int64_t shard)
{
    rf_convert_options options = options_of(type);
    options.max_shard_bytes = shard;
    MUST(rf_convert_export(from, to, &options, &error));
}

static inline void expect_same_files(const char *a, const char *b)
{
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    MUST(rf_file_read(&x, &n, a, (size_t)1 << 30, &error));
    MUST(rf_file_read(&y, &m, b, (size_t)1 << 30, &error));
    cr_expect(n == m && memcmp(x, y, n) == 0, "%s and %s differ", a, b);
    free(x);
    free(y);
}

/* refusion-convert with these arguments, where the test was started; its exit status. */
#define run(...) program_run("cd \"$ROOT\" && \"$CONVERT\"", __VA_ARGS__)

#endif
