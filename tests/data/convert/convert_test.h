/* convert_test.h: what the tests of import and export share. */
#ifndef RF_TESTS_DATA_CONVERT_CONVERT_TEST_H
#define RF_TESTS_DATA_CONVERT_CONVERT_TEST_H

#include "data/convert/convert.h"
#include "tests/data/data_test.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char program[1024];
static char notes[4000];

/* The program lies beside the folder of the tests that this one is in. */
static inline void begin_convert(void)
{
    begin_folder();
    char self[900];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    cr_assert(n > 0);
    self[n] = '\0';
    for (int i = 0; i < 4; i++) {
        char *slash = strrchr(self, '/');
        cr_assert_not_null(slash);
        *slash = '\0';
    }
    snprintf(program, sizeof program, "%s/refusion-convert", self);
}

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

static char errors[4096];

static inline int run(const char *format, ...) RF_PRINTF(1, 2);
static inline int run(const char *format, ...)
{
    char arguments[2000], command[4000];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    snprintf(command, sizeof command, "'%s' %s >'%s/out.txt' 2>'%s/err.txt'", program, arguments,
             folder, folder);
    int status = system(command);
    char *text = NULL;
    size_t bytes = 0;
    MUST(rf_file_read(&text, &bytes, in_folder("err.txt"), 1 << 20, &error));
    snprintf(errors, sizeof errors, "%s", text);
    free(text);
    cr_assert(WIFEXITED(status), "%s", command);
    return WEXITSTATUS(status);
}

#define ASSERT_FAILS(status, part, ...)                                                            \
    do {                                                                                           \
        cr_assert_eq(run(__VA_ARGS__), status, "%s", errors);                                      \
        cr_assert_eq(strncmp(errors, "refusion-convert: ", 18), 0, "%s", errors);                  \
        cr_assert_not_null(strstr(errors, part), "\"%s\" is not in \"%s\"", part, errors);         \
        cr_assert_eq(strchr(errors, '\n'), errors + strlen(errors) - 1, "%s", errors);             \
    } while (0)

#endif
