#include "data/tasks/judge.h"

#include "common/base/alloc.h"
#include "common/base/files/output.h"
#include "data/tasks/run.h"

#include <ftw.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* --- Programs --------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about;
    (void)kind;
    (void)place;
    return remove(path);
}

static int make_folder(char *out, size_t bytes, rf_error *err)
{
    const char *parent;
    RF_TRY(rf_output_temporary_folder(&parent, err));
    snprintf(out, bytes, "%s/refusion-code-XXXXXX", parent);
    return mkdtemp(out) != NULL
               ? RF_OK
               : rf_error_set(err, RF_ERR, "%s: cannot make a folder for a program: %m", out);
}

static int run_python(rf_run_result *out, const rf_judge *judge, const char *program,
                      double seconds, rf_error *err)
{
    static const char *const argv[] = {"python3", "-s", "-", NULL};
    char folder[4096];
    rf_run_request request = {.argv = argv,
                              .input = program,
                              .input_bytes = strlen(program),
                              .isolated = judge->code == RF_CODE_ISOLATED,
                              .limited = true,
                              .seconds = seconds};
    if (request.isolated) {
        return rf_run(out, &request, err);
    }
    RF_TRY(make_folder(folder, sizeof folder, err));
    request.folder = folder;
    int rc = rf_run(out, &request, err);
    (void)nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return rc;
}

/* The last line of a text that is not blank begins with this word. */
static bool ends_with_line(const char *text, const char *word)
{
    const char *line = text, *last = text;
    for (; *line != '\0'; line += strcspn(line, "\n"), line += *line == '\n') {
        last = *line != '\n' ? line : last;
    }
    return strncmp(last, word, strlen(word)) == 0;
}

/* Runs the code with its tests and one more, which compares two numbers, and fails where it is told
 * to. *reached: the program went on to its last line, which writes a word drawn anew, and ended well. */
static int run_tests(rf_run_result *out, bool *reached, const rf_judge *judge, const char *code,
                     bool must_fail, rf_error *err)
{
    uint64_t drawn[2];
    char word[32];
    if (getrandom(drawn, sizeof drawn, 0) != sizeof drawn) {
        return rf_error_set(err, RF_ERR, "no randomness from the system: %m");
    }
    snprintf(word, sizeof word, "done-%016" PRIx64, drawn[0]);
    char *program = rf_alloc_format("%s\nassert 0x%016" PRIx64 " != 0x%016" PRIx64
                                    "\nimport os\nos.write(1, b'%s')\n",
                                    code, drawn[1], must_fail ? drawn[1] : ~drawn[1], word);
    int rc = run_python(out, judge, program, judge->seconds, err);
    *reached = rc == RF_OK && out->end == RF_RUN_EXITED && out->status == 0 &&
               memmem(out->output, out->n_output, word, strlen(word)) != NULL;
    free(program);
    return rc;
}

/* Right is what reaches its last line where all tests hold, so that an exit before them is not taken
 * for their success, and does not reach it where one fails: code and tests share a process, in which
 * nothing is hidden from the code, which could read the word and write it, turn assertions off or
 * jump over them. That it does so whatever the tests are is found by the second run; that it finds
 * out first whether they hold, or returns what is equal to everything, only tests in a process of
 * their own would find. */
static int judge_program(rf_verdict *out, const rf_judge *judge, const rf_task_item *item,
                         const char *answer, rf_error *err)
{
    rf_run_result result = {0}, control = {0};
    bool reached, reached_anyway = false;
    char *code = judge->task->program(item, answer);
    int rc = run_tests(&result, &reached, judge, code, false, err);
    if (rc == RF_OK && reached) {
        rc = run_tests(&control, &reached_anyway, judge, code, true, err);
    }
    if (rc == RF_OK) {
        out->right = reached && !reached_anyway;
        out->end = out->right || ends_with_line(result.messages, "AssertionError") ? RF_JUDGE_DONE
                   : result.end == RF_RUN_TIMEOUT ? RF_JUDGE_TIMEOUT
                                                  : RF_JUDGE_ERROR;
    }
    rf_run_result_free(&result);
    rf_run_result_free(&control);
    free(code);
    return rc;
}

/* --- Commands --------------------------------------------------------------------------------- */

/* true: the text is a verdict. */
static bool read_verdict(bool *right, const char *text)
{
    json_t *root = json_loads(text, JSON_DECODE_ANY, NULL);
    const json_t *verdict = json_is_object(root) ? json_object_get(root, "correct") : root;
    bool known = json_is_boolean(verdict) ||
                 (json_is_integer(verdict) && (json_integer_value(verdict) | 1) == 1);
    *right = json_is_true(verdict) || (known && json_integer_value(verdict) == 1);
    json_decref(root);
    return known;
}

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t\r\n")] == '\0';
}

/* What is wrong with how the command ended; NULL: it has judged. Python ends with status 1 after an
 * exception, which is no verdict: then there are messages. */
static const char *read_end(bool *right, const rf_run_result *result)
{
    if (result->end == RF_RUN_TIMEOUT) {
        return "took too long";
    }
    if (result->end == RF_RUN_KILLED) {
        return "was killed by a signal";
    }
    if (result->end == RF_RUN_FLOODED) {
        return "wrote too much";
    }
    if (!is_blank(result->output)) {
        return result->status != 0                    ? "failed"
               : !read_verdict(right, result->output) ? "wrote something else than true, false or "
                                                        "{\"correct\": true}"
                                                      : NULL;
    }
    *right = result->status == 0;
    return result->status <= 1 && (*right || is_blank(result->messages)) ? NULL : "failed";
}

static char *describe_answer(const rf_task_item *item, const char *answer, int64_t index,
                             int64_t sample)
{
    json_t *object = json_pack("{s:I, s:I, s:s, s:s?, s:s}", "index", (json_int_t)index, "sample",
                               (json_int_t)sample, "query", item->query, "expected", item->expected,
                               "answer", answer);
    char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    return text;
}

static int judge_by_command(rf_verdict *out, const rf_judge *judge, const rf_task_item *item,
                            const char *answer, int64_t index, int64_t sample, rf_error *err)
{
    const char *const argv[] = {"/bin/sh", "-c", judge->command, NULL};
    char *input = describe_answer(item, answer, index, sample);
    rf_run_result result = {0};
    if (input == NULL) {
        return rf_error_set(err, RF_ERR, "question %" PRId64 ": its answer is no UTF-8", index + 1);
    }
    const rf_run_request request = {
        .argv = argv, .input = input, .input_bytes = strlen(input), .seconds = judge->seconds};
    int rc = rf_run(&result, &request, err);
    const char *problem = rc == RF_OK ? read_end(&out->right, &result) : NULL;
    if (problem != NULL) {
        const char *said = is_blank(result.messages) ? result.output : result.messages;
        const size_t n = strlen(said);
        rc = rf_error_set(err, RF_ERR,
                          "question %" PRId64 ", sample %" PRId64 ": --check %s %s (status %d)%s%s",
                          index + 1, sample + 1, judge->command, problem, result.status,
                          is_blank(said) ? ""
                          : n > 200      ? ": ..."
                                         : ": ",
                          is_blank(said) ? "" : said + (n > 200 ? n - 200 : 0));
    }
    rf_run_result_free(&result);
    free(input);
    return rc;
}

const rf_task rf_task_check = {.name = "check", .help = "a command judges"};

/* --- Any answer ------------------------------------------------------------------------------- */

int rf_judge_check(const rf_judge *judge, rf_error *err)
{
    rf_run_result result = {0};
    if (judge->command != NULL || judge->task->program == NULL) {
        return RF_OK;
    }
    if (judge->code == RF_CODE_OFF) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--task %s runs programs that the model wrote: --run-code allows it",
                            judge->task->name);
    }
    const double seconds = 30.0; /* the first time, perhaps from a disk of another host */
    int rc = run_python(&result, judge, "", seconds, err);
    if (rc != RF_OK && judge->code == RF_CODE_ISOLATED) {
        rc = rf_error_prefix(err, "--run-code (--unsafe-run runs programs without isolation)");
    } else if (rc == RF_OK && result.end == RF_RUN_TIMEOUT) {
        rc = rf_error_set(err, RF_ERR, "python3 does not end an empty program within %g seconds",
                          seconds);
    } else if (rc == RF_OK && (result.end != RF_RUN_EXITED || result.status != 0)) {
        rc = rf_error_set(err, RF_ERR, "python3 does not run (status %d): %.300s", result.status,
                          result.messages);
    }
    rf_run_result_free(&result);
    return rc;
}

int rf_judge_answer(rf_verdict *out, const rf_judge *judge, const rf_task_item *item,
                    const char *answer, int64_t index, int64_t sample, rf_error *err)
{
    const rf_task *task = judge->task;
    const char *expected = item->expected != NULL ? item->expected : "";
    char *cut = rf_alloc_copy(answer, (size_t)rf_task_cut(task, answer));
    int rc = RF_OK;
    *out = (rf_verdict){0};
    if (judge->command != NULL) {
        rc = judge_by_command(out, judge, item, cut, index, sample, err);
    } else if (task->program != NULL) {
        rc = judge_program(out, judge, item, cut, err);
    } else {
        out->right = task->check(item->query, expected, cut);
        out->also = task->check_also != NULL && task->check_also(item->query, expected, cut);
    }
    free(cut);
    return rc;
}
