/* program_test.h: runs the real refusion-infer and refusion-eval on a small random checkpoint, in a
 * folder of its own.
 *
 * The programs are those beside the test programs (build/<variant>/). Every run has a time limit.
 */
#ifndef RF_TESTS_INFER_PROGRAM_TEST_H
#define RF_TESTS_INFER_PROGRAM_TEST_H

#include "common/base/file.h"
#include "common/dist/dist.h"
#include "common/store/checkpoint.h"
#include "tests/infer/infer_test.h"
#include "tests/scratch.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static char program_path[1024];        /* build/<variant> */
static char program_output[1 << 16];   /* stdout of the last command */
static char program_messages[1 << 16]; /* stderr */

static inline void program_write(const char *path, const char *text)
{
    TINY_MUST(rf_file_write(path, text, strlen(text), tiny_error()));
}

/* A checkpoint as the trainer leaves it, of a model that answers: slots of 4, 12 tokens at most. */
static inline void program_save_model(const char *path, uint64_t seed, double sharpness,
                                      const char *run_config)
{
    char config[512];
    rf_model *model = sharp_model(backend_named("cpu", ""), 1, seed, sharpness);
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_checkpoint_info info = {.model = model->config,
                               .progress = {.step = 7},
                               .run_config = config,
                               .corpora = (char[]){"[]"},
                               .isa = "portable",
                               .written_by = "a test",
                               .tokenizer = tokenizer};
    snprintf(config, sizeof config, "%s", run_config);
    TINY_MUST(rf_checkpoint_save(path, NULL, model, NULL, NULL, &info, tiny_error()));
    rf_tokenizer_free(tokenizer);
    rf_model_free(model);
}

static inline void program_begin(void)
{
    cr_assert(readlink("/proc/self/exe", program_path, sizeof program_path - 64) > 0);
    for (int i = 0; i < 3; i++) { /* build/<variant>/tests/infer/<test> */
        char *slash = strrchr(program_path, '/');
        cr_assert_not_null(slash);
        *slash = '\0';
    }
    enter_folder();
    program_save_model("model.h5", 48, 1.4,
                       "decode:\n  slot_size: 4\n  gen_length: 12\n  slot_threshold: 0.3\n"
                       "objective:\n  slot_sizes: [2, 4]\ntrain:\n  steps: 9\n");
}

static inline void program_read(char *text, size_t bytes, const char *path)
{
    int file = open(path, O_RDONLY);
    ssize_t n = file >= 0 ? read(file, text, bytes - 1) : 0;
    text[n > 0 ? n : 0] = '\0';
    close(file);
}

/* A command of the shell, in the folder; its exit status. $INFER and $EVAL are the programs, $RUN
 * what goes before them with `-n N` behind. */
static inline int program_shell(const char *command)
{
    char all[8192];
    /* In a sanitizer build, what MPI keeps cannot be told apart from leaks of refusion-eval; with
     * MPI=0 it is searched for them, as refusion-infer always is. */
    bool leaks = strcmp(rf_dist_library(), "none") == 0 || strstr(command, "$EVAL") == NULL;
    program_write("command.sh", command);
    snprintf(all, sizeof all,
             "env -u BXFI_MAP OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 "
             "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
             "PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
             "ASAN_OPTIONS=detect_leaks=%d "
             "RUN='mpirun --oversubscribe --bind-to none' INFER='%s/refusion-infer' "
             "EVAL='%s/refusion-eval' timeout -k 5 60 sh command.sh >output 2>messages </dev/null",
             leaks, program_path, program_path);
    int status = system(all);
    program_read(program_output, sizeof program_output, "output");
    program_read(program_messages, sizeof program_messages, "messages");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The command ends with this status. */
static inline void program_runs(const char *command, int expected)
{
    int status = program_shell(command);
    cr_assert(status == expected, "%s: exit status %d, not %d\n%s%s", command, status, expected,
              program_output, program_messages);
}

/* It fails with this status, nothing on stdout, and one line that holds these words. */
static inline void program_refuses(const char *command, int expected, const char *words)
{
    program_runs(command, expected);
    cr_assert(program_output[0] == '\0', "%s: on stdout:\n%s", command, program_output);
    cr_assert(strstr(program_messages, words) != NULL, "%s: \"%s\" is not in:\n%s", command, words,
              program_messages);
    const char *end = strchr(program_messages, '\n');
    cr_assert(end != NULL && end[1] == '\0', "%s: not one line:\n%s", command, program_messages);
}

/* A copy of what the last command wrote to stdout; caller frees. */
static inline char *program_keep(void)
{
    char *copy = strdup(program_output);
    cr_assert_not_null(copy);
    return copy;
}

/* Line i of a text of JSON lines; the caller releases it. */
static inline json_t *program_json(const char *text, int i)
{
    json_error_t problem;
    for (; i > 0; i--) {
        text = strchr(text, '\n');
        cr_assert_not_null(text);
        text++;
    }
    json_t *object = json_loadb(text, strcspn(text, "\n"), 0, &problem);
    cr_assert(json_is_object(object), "%s: %s", problem.text, text);
    return object;
}

static inline int program_count_lines(const char *text)
{
    int n = 0;
    for (; *text; text++) {
        n += *text == '\n';
    }
    return n;
}

#endif
