/* program_test.h: runs refusion-data in the folder of a test. */
#ifndef RF_TESTS_DATA_PROGRAM_TEST_H
#define RF_TESTS_DATA_PROGRAM_TEST_H

#include "tests/data/data_test.h"

#include <stdarg.h>
#include <sys/wait.h>

static char program[1024];

/* The program lies beside the folder of the tests that this one is in. */
static inline void begin_program(void)
{
    begin_folder();
    char self[900];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    cr_assert(n > 0);
    self[n] = '\0';
    for (int i = 0; i < 3; i++) {
        char *slash = strrchr(self, '/');
        cr_assert_not_null(slash);
        *slash = '\0';
    }
    snprintf(program, sizeof program, "%s/refusion-data", self);
    cr_assert_eq(access(program, X_OK), 0, "%s is not built", program);
}

static char *output, *errors; /* of the last run; owned here until the next */

/* Runs the program in the folder with these arguments (shell syntax); its exit status. */
static inline int run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline int run(const char *format, ...)
{
    char arguments[2048], command[4096];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    /* Not in the folder, so that nobody counts them. */
    snprintf(command, sizeof command, "(cd '%s' && '%s' %s) >'%s.out' 2>'%s.err' </dev/null",
             folder, program, arguments, folder, folder);
    int status = system(command);
    char path[300];
    size_t bytes;
    free(output);
    free(errors);
    snprintf(path, sizeof path, "%s.out", folder);
    output = get_bytes(path, &bytes);
    unlink(path);
    snprintf(path, sizeof path, "%s.err", folder);
    errors = get_bytes(path, &bytes);
    unlink(path);
    cr_assert(WIFEXITED(status), "%s", command);
    return WEXITSTATUS(status);
}

/* One line on stderr that contains `part`, nothing on stdout. */
static inline void assert_fails(const char *part)
{
    cr_assert_str_empty(output);
    cr_assert_eq(strncmp(errors, "refusion-data: ", 15), 0, "%s", errors);
    cr_assert_not_null(strstr(errors, part), "\"%s\" should contain \"%s\"", errors, part);
    cr_assert_eq(strchr(errors, '\n'), errors + strlen(errors) - 1, "%s", errors);
}

#define ASSERT_FAILS(status, part, ...)                                                            \
    do {                                                                                           \
        cr_assert_eq(run(__VA_ARGS__), status, "%s", errors);                                      \
        assert_fails(part);                                                                        \
    } while (0)

#define ASSERT_RUNS(...) cr_assert_eq(run(__VA_ARGS__), 0, "%s", errors)

#endif
