/* Programs: HumanEval (Chen et al., arXiv:2107.03374) and MBPP (Austin et al., arXiv:2108.07732). */
#include "data/tasks/task_rules.h"

#include "common/base/alloc.h"
#include "common/text/ids.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_SHIFT = 3 }; /* of the end of a block against its begin, as in CommonMark */

/* --- The code of an answer -------------------------------------------------------------------- */

/* A line of a text, without its end. */
typedef struct line_span {
    const char *begin;
    size_t bytes;
} line_span;

/* The line at *text, which moves behind it; false: there is none. */
static bool next_line(line_span *line, const char **text)
{
    size_t bytes = strcspn(*text, "\n");
    *line = (line_span){*text, bytes};
    bool is_there = **text != '\0';
    *text += bytes + ((*text)[bytes] == '\n');
    while (line->bytes > 0 && line->begin[line->bytes - 1] == '\r') {
        line->bytes--;
    }
    return is_there;
}

/* Bytes at the beginning that are all among these characters. */
static size_t span_of(line_span line, const char *characters)
{
    size_t n = 0;
    while (n < line.bytes && strchr(characters, line.begin[n]) != NULL) {
        n++;
    }
    return n;
}

/* Where a block begins: "```python", perhaps behind blanks, the mark of a list or words. */
typedef struct fence {
    size_t ticks;  /* how many there are: a block ends at as many */
    size_t indent; /* of the block */
    bool is_first; /* in its line, but for blanks and the mark of a list */
    bool is_python;
} fence;

static line_span without(line_span line, size_t bytes)
{
    return (line_span){line.begin + bytes, line.bytes - bytes};
}

static bool names_python(line_span word)
{
    static const char *const names[] = {"py", "python", "python3"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (word.bytes == strlen(names[i]) && strncasecmp(word.begin, names[i], word.bytes) == 0) {
            return true;
        }
    }
    return false;
}

/* Does the line open a block? What stands in ticks within a line does not, nor do ticks between
 * words. */
static bool opens(fence *out, line_span line)
{
    const char *ticks = memmem(line.begin, line.bytes, "```", 3);
    if (ticks == NULL) {
        return false;
    }
    const size_t at = (size_t)(ticks - line.begin);
    out->is_first = span_of(line, " \t-*+>.)0123456789") == at;
    line_span info = without(line, at);
    out->ticks = span_of(info, "`");
    info = without(info, out->ticks);
    info = without(info, span_of(info, " \t"));
    line_span word = info;
    word.bytes = 0;
    while (word.bytes < info.bytes && strchr(" \t,{", info.begin[word.bytes]) == NULL) {
        word.bytes++;
    }
    out->indent = out->is_first ? at : span_of(line, " \t");
    out->is_python = names_python(word);
    line_span rest = without(info, word.bytes);
    return memchr(info.begin, '`', info.bytes) == NULL &&
           (out->is_first || span_of(rest, " \t") == rest.bytes);
}

/* Does the line end a block? Its ticks stand at the block's margin, or (*code bytes are before them)
 * right behind the last code; those further in are of a text in the code. */
static bool closes(size_t *code, line_span line, const fence *f)
{
    size_t end = line.bytes, ticks = 0;
    while (end > 0 && strchr(" \t", line.begin[end - 1]) != NULL) {
        end--;
    }
    while (ticks < end && line.begin[end - ticks - 1] == '`') {
        ticks++;
    }
    const size_t before = end - ticks, blanks = span_of(line, " \t");
    *code = blanks < before ? before : 0;
    return ticks >= f->ticks && (*code > 0 ? memmem(line.begin, before, "```", 3) == NULL
                                           : blanks <= f->indent + MAX_SHIFT);
}

/* Does a block of Python begin there, at the margin of one that was not closed, or that a stray fence
 * opened? Not where it is shown within a longer fence of Python. */
static bool begins_anew(line_span line, const fence *f)
{
    fence next;
    return opens(&next, line) && next.is_python && next.is_first &&
           span_of(line, " \t") <= f->indent + MAX_SHIFT &&
           (!f->is_python || next.ticks >= f->ticks);
}

/* The lines of a block up to its end, the next one of Python or the end of the text, which moves
 * behind them, without the indent of the block and carriage returns. */
static char *read_block(const char **text, const fence *f)
{
    rf_text code = {0};
    line_span line;
    bool is_last = false;
    rf_text_add_string(&code, "");
    while (!is_last && next_line(&line, text)) {
        size_t indent = span_of(line, " \t"), bytes;
        if (begins_anew(line, f)) {
            *text = line.begin;
            break;
        }
        is_last = closes(&bytes, line, f);
        if (!is_last || bytes > 0) {
            line.bytes = is_last ? bytes : line.bytes;
            line = without(line, indent < f->indent ? indent : f->indent);
            rf_text_print(&code, "%.*s\n", (int)line.bytes, line.begin);
        }
    }
    return code.data;
}

/* The first block of Python, else the first block; NULL: there is none. */
static char *find_block(const char *text)
{
    char *first = NULL;
    line_span line;
    fence f;
    while (next_line(&line, &text)) {
        if (!opens(&f, line)) {
            continue;
        }
        char *code = read_block(&text, &f);
        if (f.is_python) {
            free(first);
            return code;
        }
        if (first == NULL) {
            first = code;
        } else {
            free(code);
        }
    }
    return first;
}

/* Does it begin at the left margin, and define a function? Else it goes on with one. */
static bool is_whole_code(const char *text)
{
    text += strspn(text, "\n");
    return text[0] != ' ' && text[0] != '\t' &&
           (strncmp(text, "def ", 4) == 0 || strstr(text, "\ndef ") != NULL);
}

/* The code of a block, else the answer itself. *is_whole: it stands by itself. */
static char *find_code(bool *is_whole, const char *answer)
{
    char *code = find_block(answer);
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

/* {"query": "... Your code should pass these tests:\n\nassert ...", "response"}: each line that begins
 * with assert is a test. */
static int read_mbpp_pair(rf_task_item *out, const json_t *record, rf_error *err)
{
    static const char test[] = "assert ";
    const char *query, *response;
    rf_text tests = {0};
    line_span line;
    RF_TRY(rf_task_field(&query, record, "query", err));
    RF_TRY(rf_task_field(&response, record, "response", err));
    for (const char *at = query != NULL ? query : ""; next_line(&line, &at);) {
        if (line.bytes >= strlen(test) && memcmp(line.begin, test, strlen(test)) == 0) {
            rf_text_print(&tests, "%.*s\n", (int)line.bytes, line.begin);
        }
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
                                   .glue = "", /* its solutions bring their blanks */
                                   .program = humaneval_program};
const rf_task rf_task_mbpp = {.name = "mbpp",
                              .help = "MBPP: the function passes its tests; --run-code",
                              .read = read_mbpp,
                              .stops = mbpp_stops,
                              .shots = 3,
                              .glue = "",
                              .program = mbpp_program};
