/* Programs: HumanEval (Chen et al., arXiv:2107.03374) and MBPP (Austin et al., arXiv:2108.07732). */
#include "data/tasks/task_rules.h"

#include "common/base/alloc.h"
#include "common/text/ids.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* --- The code of an answer -------------------------------------------------------------------- */

/* What stands behind the mark up to the next fence; NULL: the mark is not there. */
static char *fenced(const char *answer, const char *mark)
{
    const char *begin = strstr(answer, mark);
    if (begin == NULL) {
        return NULL;
    }
    begin += strlen(mark);
    const char *end = strstr(begin, "```");
    return rf_alloc_copy(begin, end != NULL ? (size_t)(end - begin) : strlen(begin));
}

/* Does it begin at the left margin, and define a function? Else it goes on with one. */
static bool is_whole_code(const char *text)
{
    text += strspn(text, "\n");
    return text[0] != ' ' && text[0] != '\t' &&
           (strncmp(text, "def ", 4) == 0 || strstr(text, "\ndef ") != NULL);
}

/* The first block of Python, else the first block, else the answer itself. *is_whole: it stands by
 * itself. */
static char *find_code(bool *is_whole, const char *answer)
{
    char *code = fenced(answer, "```python\n");
    code = code != NULL ? code : fenced(answer, "```\n");
    *is_whole = code != NULL || is_whole_code(answer);
    return code != NULL ? code : rf_alloc_string(answer);
}

/* A completion of a function ends where the next thing at the left begins. */
static void cut_completion(char *code)
{
    static const char *const ends[] = {"\nclass", "\ndef", "\n#", "\nif", "\nprint"};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        char *at = strstr(code, ends[i]);
        if (at != NULL) {
            *at = '\0';
        }
    }
}

/* A whole function stands behind the prompt too: it brings the imports, and the prompt's function
 * has a docstring for a body, until it is defined anew. */
static char *humaneval_program(const rf_task_item *item, const char *answer)
{
    bool is_whole;
    char *code = find_code(&is_whole, answer);
    if (!is_whole) {
        cut_completion(code);
    }
    char *program = rf_alloc_format("%s%s\n%s", item->prefix, code, item->tests);
    free(code);
    return program;
}

static char *mbpp_program(const rf_task_item *item, const char *answer)
{
    bool is_whole;
    char *code = find_code(&is_whole, answer);
    char *program = rf_alloc_format("%s\n%s", code, item->tests);
    free(code);
    return program;
}

/* --- Records ---------------------------------------------------------------------------------- */

static int read_humaneval(rf_task_item *out, const json_t *record, bool raw, rf_error *err)
{
    const char *prompt, *solution, *test, *entry;
    RF_TRY(rf_task_field(&prompt, record, "prompt", err));
    RF_TRY(rf_task_field(&solution, record, "canonical_solution", err));
    RF_TRY(rf_task_field(&test, record, "test", err));
    RF_TRY(rf_task_field(&entry, record, "entry_point", err));
    if (prompt == NULL || test == NULL || entry == NULL) {
        return RF_OK;
    }
    out->query = raw ? rf_alloc_string(prompt)
                     : rf_alloc_format(
                           "Complete the following Python function.\n\n```python\n%s```", prompt);
    out->expected = solution == NULL ? NULL
                    : raw            ? rf_alloc_string(solution)
                                     : rf_alloc_format("```python\n%s%s```", prompt, solution);
    out->prefix = rf_alloc_string(prompt);
    out->tests = rf_alloc_format("%s\ncheck(%s)\n", test, entry);
    return RF_OK;
}

/* Lines of a list of strings. */
static int add_lines(rf_text *text, const json_t *record, const char *field, rf_error *err)
{
    const json_t *list = json_object_get(record, field);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *line = json_string_value(json_array_get(list, i));
        if (line == NULL) {
            return rf_error_set(err, RF_ERR, "\"%s\"[%zu] is no string", field, i);
        }
        rf_text_print(text, "%s\n", line);
    }
    return RF_OK;
}

/* {"query": "... Your code should pass these tests:\n\nassert ...", "response"} */
static int read_mbpp_pair(rf_task_item *out, const json_t *record, rf_error *err)
{
    const char *query, *response;
    rf_text tests = {0};
    RF_TRY(rf_task_field(&query, record, "query", err));
    RF_TRY(rf_task_field(&response, record, "response", err));
    for (const char *at = query; at != NULL && (at = strstr(at, "\nassert ")) != NULL;) {
        at++;
        rf_text_print(&tests, "%.*s\n", (int)strcspn(at, "\n"), at);
    }
    if (tests.data != NULL) {
        out->query = rf_alloc_string(query);
        out->expected = rf_alloc_string(response);
        out->tests = tests.data;
    }
    return RF_OK;
}

static void set_mbpp(rf_task_item *out, const char *task, const char *asserts, const char *code,
                     bool raw)
{
    out->query = rf_alloc_format("You are an expert Python programmer, and here is your task: %s "
                                 "Your code should pass these tests:\n\n%.*s%s",
                                 task, (int)strlen(asserts) - 1, asserts, raw ? "\n[BEGIN]\n" : "");
    out->expected = code == NULL ? NULL
                    : raw        ? rf_alloc_format("%s\n[DONE]", code)
                                 : rf_alloc_format("```python\n%s\n```", code);
}

/* {"text" or, of the sanitized file, "prompt", "code", "test_setup_code" or "test_imports",
 * "test_list"} */
static int read_mbpp(rf_task_item *out, const json_t *record, bool raw, rf_error *err)
{
    const char *task, *code, *setup;
    rf_text asserts = {0}, tests = {0};
    int rc;
    RF_TRY(rf_task_field(&task, record, "text", err));
    if (task == NULL) {
        RF_TRY(rf_task_field(&task, record, "prompt", err));
    }
    RF_TRY(rf_task_field(&code, record, "code", err));
    RF_TRY(rf_task_field(&setup, record, "test_setup_code", err));
    RF_TRY_OUT(add_lines(&asserts, record, "test_list", err));
    if (task == NULL || asserts.data == NULL) {
        rc = read_mbpp_pair(out, record, err);
        goto out;
    }
    RF_TRY_OUT(add_lines(&tests, record, "test_imports", err));
    rf_text_print(&tests, "%s\n%s", setup != NULL ? setup : "", asserts.data);
    set_mbpp(out, task, asserts.data, code, raw);
    out->tests = rf_alloc_string(tests.data);
out:
    rf_text_free(&asserts);
    rf_text_free(&tests);
    return rc;
}

static const char *const humaneval_stops[] = {"\nassert", "\n# Test", NULL};
static const char *const mbpp_stops[] = {"[DONE]", NULL};

const rf_task rf_task_humaneval = {.name = "humaneval",
                                   .help = "HumanEval: the function passes its tests; --run-code",
                                   .read = read_humaneval,
                                   .stops = humaneval_stops,
                                   .program = humaneval_program};
const rf_task rf_task_mbpp = {.name = "mbpp",
                              .help = "MBPP: the function passes its tests; --run-code",
                              .read = read_mbpp,
                              .stops = mbpp_stops,
                              .shots = 3,
                              .glue = "",
                              .program = mbpp_program};
