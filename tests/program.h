/* program.h: runs the real programs, in the folder of a test.
 *
 * They are those of the build that the test program belongs to (build/<variant>/refusion-*). A
 * command is one of the shell. In it $DATA, $CONVERT, $TRAIN, $INFER, $EVAL and $SERVE name the programs,
 * $LAUNCH train/launch.sh, $RUN what goes before a program with `-n N` behind, and $ROOT the folder
 * in which the test was started. A command has a minute.
 */
#ifndef RF_TESTS_PROGRAM_H
#define RF_TESTS_PROGRAM_H

#include "common/dist/dist.h"
#include "tests/scratch.h"

#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>

static char program_folder[1024];      /* build/<variant> */
static char program_root[1024];        /* $ROOT */
static char program_output[1 << 20];   /* stdout of the last command */
static char program_messages[1 << 20]; /* stderr */

/* Finds the programs and makes the folder; a fixture, as begin_folder. */
static inline void program_begin(void)
{
    char *tests = NULL;
    cr_assert(readlink("/proc/self/exe", program_folder, sizeof program_folder - 1) > 0);
    for (char *at = program_folder; (at = strstr(at, "/tests/")) != NULL; at++) {
        tests = at; /* build/<variant>/tests/... */
    }
    cr_assert_not_null(tests);
    *tests = '\0';
    cr_assert_not_null(getcwd(program_root, sizeof program_root));
    begin_folder();
}

/* The first bytes - 1 bytes of a file as text; "" where there is none. */
static inline void program_read(char *text, size_t bytes, const char *path)
{
    FILE *file = fopen(path, "r");
    size_t n = file != NULL ? fread(text, 1, bytes - 1, file) : 0;
    text[n] = '\0';
    if (file != NULL) {
        fclose(file);
    }
}

static inline void program_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0, "%s", path);
}

/* What makes mpirun work as root, and within a Criterion test. */
#define PROGRAM_MPI                                                                                \
    "env -u BXFI_MAP OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "                   \
    "PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 "

/* Runs a command in the folder; its exit status, 128 + n after signal n, 124 after five minutes. */
static inline int program_shell(const char *command)
{
    /* MPI keeps memory in plugins that are gone when the leak checker of a sanitizer build looks,
     * so that it cannot be told apart from ours; with MPI=0 it is. */
    const bool has_mpi = strcmp(rf_dist_library(), "none") != 0 &&
                         (strstr(command, "$EVAL") != NULL || strstr(command, "$TRAIN") != NULL ||
                          strstr(command, "$LAUNCH") != NULL || strstr(command, "sbatch") != NULL);
    char all[16384], path[300];
    snprintf(path, sizeof path, "%s.sh", folder); /* beside the folder, whose files are counted */
    program_write(path, command);
    snprintf(
        all, sizeof all,
        "cd '%1$s' && " PROGRAM_MPI "ASAN_OPTIONS=detect_leaks=%2$d ROOT='%4$s' "
        "RUN='mpirun --oversubscribe --bind-to none' LAUNCH='%4$s/train/launch.sh' "
        "DATA='%3$s/refusion-data' CONVERT='%3$s/refusion-convert' INFER='%3$s/refusion-infer' "
        "EVAL='%3$s/refusion-eval' SERVE='%3$s/refusion-serve' TRAIN='%3$s/refusion-train' "
        "PROGRAM='%3$s/refusion-train' "
        "timeout -k 5 300 sh '%1$s.sh' >'%1$s.out' 2>'%1$s.err' </dev/null",
        folder, !has_mpi, program_folder, program_root);
    const int status = system(all);
    unlink(path);
    snprintf(path, sizeof path, "%s.out", folder);
    program_read(program_output, sizeof program_output, path);
    unlink(path);
    snprintf(path, sizeof path, "%s.err", folder);
    program_read(program_messages, sizeof program_messages, path);
    unlink(path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The command ends with this status. */
static inline void program_runs(const char *command, int expected)
{
    const int status = program_shell(command);
    cr_assert(status == expected, "%s: exit status %d, not %d\n%s%s", command, status, expected,
              program_output, program_messages);
}

/* The last command, `command`, left nothing on stdout and one line of a program on stderr that
 * holds these words. */
static inline void program_said(const char *command, const char *words)
{
    const char *end = strchr(program_messages, '\n');
    cr_assert(program_output[0] == '\0', "%s: on stdout:\n%s", command, program_output);
    cr_assert(strncmp(program_messages, "refusion-", 9) == 0 &&
                  strstr(program_messages, words) != NULL,
              "%s: \"%s\" is not in:\n%s", command, words, program_messages);
    cr_assert(end != NULL && end[1] == '\0', "%s: not one line:\n%s", command, program_messages);
}

static inline void program_refuses(const char *command, int expected, const char *words)
{
    program_runs(command, expected);
    program_said(command, words);
}

/* A program, as "\"$DATA\"", with these arguments; its exit status. */
static inline int program_run(const char *program, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline int program_run(const char *program, const char *format, ...)
{
    char command[8192];
    va_list list;
    const int n = snprintf(command, sizeof command, "%s ", program);
    va_start(list, format);
    vsnprintf(command + n, sizeof command - (size_t)n, format, list);
    va_end(list);
    return program_shell(command);
}

/* Those of a test that defines `run` by program_run. */
#define ASSERT_RUNS(...) cr_assert_eq(run(__VA_ARGS__), 0, "%s", program_messages)
#define ASSERT_FAILS(status, words, ...)                                                           \
    do {                                                                                           \
        cr_assert_eq(run(__VA_ARGS__), status, "%s", program_messages);                            \
        program_said(#__VA_ARGS__, words);                                                         \
    } while (0)

#endif
