/* Answers of published tasks: where they stand in a text, which are the same, and the records that
 * the questions come from. tests/golden/compare_tasks.py has the released functions beside these. */
#include "data/tasks/math_answer.h"
#include "data/tasks/task.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static bool check(const char *task, const char *expected, const char *answer)
{
    return rf_task_find(task)->check("", expected, answer);
}

static bool check_also(const char *task, const char *expected, const char *answer)
{
    return rf_task_find(task)->check_also("", expected, answer);
}

/* What is extracted; NULL expects that nothing is. */
static void extracts(const char *task, const char *answer, const char *expected)
{
    char *text = rf_task_find(task)->extract(answer);
    cr_assert((text == NULL) == (expected == NULL) && (text == NULL || strcmp(text, expected) == 0),
              "%s: %s, not %s", answer, text, expected);
    free(text);
}

Test(answers, gsm8k_strict)
{
    const char *expected = "16-3=13\n#### 1,234";
    cr_assert(check("gsm8k", expected, "so #### 1234"));
    cr_assert(check("gsm8k", expected, "#### $1,234.00 dollars\n#### 5"));
    cr_assert(check("gsm8k", expected, "####1234."));
    cr_assert(check("gsm8k", expected, "#### $ 01234"));
    cr_assert(!check("gsm8k", expected, "#### 5\n#### 1234")); /* the first counts */
    cr_assert(!check("gsm8k", expected, "1234"));
    cr_assert(!check("gsm8k", expected, "#### -1234"));
    cr_assert(!check("gsm8k", expected, "#### 12345"));
    cr_assert(!check("gsm8k", expected, "#### 123.4"));
    cr_assert(!check("gsm8k", expected, "####"));
    cr_assert(!check("gsm8k", expected, "#### $"));
    cr_assert(check("gsm8k", "#### 0.50", "#### .5"));
    cr_assert(check("gsm8k", "#### 0", "#### -0.0"));
    cr_assert(check("gsm8k", "#### -7", "#### $-7"));
    cr_assert(!check("gsm8k", "no number", "no number"));
}

Test(answers, gsm8k_flexible)
{
    cr_assert(check_also("gsm8k", "#### 18", "She makes $18.00 a day..."));
    cr_assert(check_also("gsm8k", "#### 1234", "in all 1,234."));
    cr_assert(check_also("gsm8k", "#### -3", "that is -$3"));
    cr_assert(check_also("gsm8k", "#### 40", "40%"));
    cr_assert(!check_also("gsm8k", "#### 18", "18 or 19"));
    cr_assert(!check_also("gsm8k", "#### 18", "none"));
    char digits[300];
    memset(digits, '7', sizeof digits - 1);
    digits[sizeof digits - 1] = '\0';
    cr_assert(!check_also("gsm8k", "#### 7", digits));
    extracts("gsm8k", "5 and #### 6, no 7", "6");
    extracts("gsm8k", "5 and 6, no 7.50", "7.5");
    extracts("gsm8k", "nothing", NULL);
}

Test(answers, math_boxes)
{
    static const char *const rows[][2] = {
        {"so $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"},
        {"\\boxed{1} or \\boxed{2{3}}", "2{3}"},
        {"\\fbox{7}", "7"},
        {"$\\boxed 5$ it is", "5"},
        {"Final Answer: The final answer is $5$. I hope it is "
         "correct.",
         "5"},
        {"The answer is: 12.\nThat is all.", "12"},
        {"The answer is 1,000. That is all.", "1,000"},
        {"The answer is $12.50$. It is\nmore. I hope so.", "12.50"},
        {"The answer is 7.\r\nThat is all.", "7"},
        {"The answer is 1/2", "1/2"},
        {"The final answer is $\\text{e.g. x}$. I hope", "\\text{e.g. x}"},
        {"The final answer is e.g. x. I hope it is correct. Or so.", "e.g. x"},
        {"The answer is $x = \\text{e.g. y}$ or $z$. So. I hope this helps.",
         "x = \\text{e.g. y}$ or $z"},
        {"The answer is $ \\text{e.g. x} $. More", " \\text{e.g. x} "},
        {"The answer is $$\\text{e.g. x}$$. More", "$\\text{e.g. x}$"},
        {"The answer is (1. 2). More", "(1. 2)"},
        {"The answer is \\(\\text{e.g. x}\\). More", "\\(\\text{e.g. x}\\)"},
        {"The answer is a) 5. More (of it)", "a) 5"},
        {"The answer is ]2, 5[. More text. And (more", "]2, 5["}, /* never closes */
        {"The answer is [2, 5). More", "[2, 5)"},
        {"The answer is $5. That costs $3 more. So", "$5"},
        {"The answer is \\$5. That costs \\$3. So", "\\$5"},
        {"The answer is $5. That is all", "$5"},
        {"The answer is $\\$5. 0$. So", "\\$5. 0"},
        {"The answer is\n5. I hope so.", NULL},
        {"\\boxed{1} but \\boxed{2", NULL},
        {"\\boxed", NULL},
        {"12", NULL}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *found = rf_math_find(rows[i][0]);
        cr_assert((found == NULL) == (rows[i][1] == NULL) &&
                      (found == NULL || strcmp(found, rows[i][1]) == 0),
                  "%s: %s", rows[i][0], found);
        free(found);
    }
}

Test(answers, math_equivalence)
{
    static const char *const same[][2] = {{"\\frac{1}{2}", "\\dfrac12"},
                                          {"0.5", "1/2"},
                                          {"10\\%", "10"},
                                          {"30^\\circ", "30"},
                                          {"x = 5", "5"},
                                          {"\\$10", "10"},
                                          {"10\\text{ units}", "10"},
                                          {"\\sqrt3", "\\sqrt{3}"},
                                          {"\\left(1,2\\right)", "(1, 2)"},
                                          {"100,000", "100000"},
                                          {".5", "0.5"},
                                          {"\\text{Monday}", "Monday"},
                                          {"12 square feet", "12"},
                                          {"\\frac", "\\frac"}};
    static const char *const other[][2] = {{"1", "2"},
                                           {"10,4,2", "4,10,2"},
                                           {"\\sqrt{8}", "2\\sqrt{2}"},
                                           {"units", "inches"}, /* nothing is left of both */
                                           {"\\frac", "frac"},
                                           {"", "x"}};
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        cr_assert(rf_math_same(same[i][0], same[i][1]), "%s %s", same[i][0], same[i][1]);
        cr_assert(rf_math_same(same[i][1], same[i][0]));
    }
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        cr_assert(!rf_math_same(other[i][0], other[i][1]), "%s %s", other[i][0], other[i][1]);
    }
    /* Texts that are cut, or no UTF-8. */
    char *normal = rf_math_normal_minerva("frac2\x8f");
    cr_assert_str_eq(normal, "frac2\x8f");
    free(normal);
    cr_assert(rf_math_same("\\sqrt\xCF\x80", "\\sqrt{\xCF\x80}"));
    cr_assert(rf_math_same("\\frac\xCF\x80"
                           "2",
                           "\\frac{\xCF\x80}{2}"));
    cr_assert(check("math", "we get \\boxed{\\tfrac83}.", "\\boxed{8/3}"));
    cr_assert(check("math", "8/3", "The answer is $\\frac{8}{3}$."));
    cr_assert(!check("math", "8/3", "8/3")); /* in no box */
    extracts("math", "\\boxed{1/2} ", "\\frac{1}{2}");
}

Test(answers, letters)
{
    extracts("mmlu-pro", "... The answer is (C).", "C");
    extracts("mmlu-pro", "the answer is: **J**", "J");
    extracts("mmlu-pro", "The answer is a planet. Answer: B", "B");
    extracts("mmlu-pro", "A planet", NULL);
    extracts("mmlu-pro", "A projectile leaves the ground.", NULL);
    extracts("mmlu-pro", "I think it is the third.", NULL);
    extracts("mmlu-pro", "A magnet attracts iron. Thus: B", NULL);
    extracts("mmlu-pro", "A magnet attracts iron.\nAnswer: B", "B");
    extracts("mmlu-pro", "A", "A");
    extracts("mmlu-pro", " A \nfor it is", "A");
    extracts("mmlu-pro", "I, for it is", "I");
    extracts("mmlu-pro", "A) ice", "A");
    extracts("mmlu-pro", "**A**: ice", "A");
    extracts("mmlu-pro", "Option A: ice", "A");
    extracts("mmlu-pro", "A; ice", "A");
    extracts("mmlu-pro", "A - ice", "A");
    extracts("mmlu-pro", "A\tice", "A");
    extracts("mmlu-pro", "A</s>", "A");
    extracts("mmlu-pro", "A-frames and A* are", NULL);
    extracts("mmlu-pro", "A* is a search", NULL);
    extracts("mmlu-pro", "$A = 5$ holds", NULL);
    extracts("mmlu-pro", "**A** ice", "A");
    extracts("mmlu-pro", "**I** (ice)", "I");
    extracts("mmlu-pro", "(A - ice)", "A");
    extracts("mmlu-pro", "Option A is right", "A");
    extracts("mmlu-pro", "$\\boxed{A}$ is right", "A");
    extracts("mmlu-pro", "The correct answer is option C, as", "C");
    extracts("mmlu-pro", "The answer is Option (C)", "C");
    extracts("mmlu-pro", "The answer is optional. Answer: choice D", "D");
    extracts("mmlu-pro", "so the answer is $\\boxed{\\text{C}}$.", "C");
    extracts("mmlu-pro", "A magnet has \\boxed{2} poles, so $\\boxed{C}$.", "C");
    extracts("mmlu-pro", "\\boxed{B} or rather \\boxed{(C) ice}, \\boxed{}", "C");
    extracts("mmlu-pro", "C. The force is $\\boxed{F = ma}$.", "C");
    extracts("mmlu-pro", "(C) dry palms. \\boxed{N=5}", "C");
    extracts("mmlu-pro", "A planet has \\boxed{F = ma}", NULL);
    extracts("mmlu-pro", "\\boxed{$C$} and \\boxed{F^2}, \\boxed{N > 0}", "C");
    extracts("mmlu-pro", "So: \\boxed{ \\textbf{C} }", "C");
    extracts("mmlu-pro", "So: \\boxed{C. dry palms}", "C");
    extracts("mmlu-pro", "So: \\boxed{C", "C"); /* cut */
    extracts("mmlu-pro", "Planets", NULL);
    extracts("arc", "C. dry palms", "C");
    extracts("arc", "(D)", "D");
    static const char *const begun[] = {
        "C is correct.", "**C** dry palms", "**C** (dry)", "C - dry palms",
        "C; dry",        "C! yes",          "C?",          "C dry palms",
        "C because",     "C\tdry palms",    "C</s>",       "C</s> A."};
    for (size_t i = 0; i < sizeof begun / sizeof begun[0]; i++) {
        extracts("arc", begun[i], "C");
    }
    extracts("arc", "I'd say B", NULL);
    extracts("arc", "", NULL);
    cr_assert(check("arc", "C. dry palms", "The best answer is C"));
    cr_assert(check("arc", "B fire", "B"));
    cr_assert(!check("arc", "C. dry palms", "B"));
    cr_assert(!check("arc", "dry palms", "dry palms")); /* no letter, no answer */
}

/* --- Code ------------------------------------------------------------------------------------- */

static void takes(const char *answer, const char *expected)
{
    const rf_task_item question = {.tests = (char[]){"#"}};
    char *program = rf_task_find("mbpp")->program(&question, answer);
    char *end = strrchr(program, '#');
    cr_assert(end > program && end[-1] == '\n');
    end[-1] = '\0';
    cr_assert_str_eq(program, expected, "%s", answer);
    free(program);
}

Test(answers, code_of_blocks)
{
    takes("f = 1", "f = 1");
    takes("So:\n```python\nf = 1\n```\nIt is 1.", "f = 1\n");
    takes("So:\n```py\nf = 1\n```\nIt is 1.", "f = 1\n");
    takes("```Python\nf = 1\n```\nIt is 1.", "f = 1\n");
    takes("```python3 \nf = 1\n```\nIt is 1.", "f = 1\n");
    takes("``` python title=\"a.py\"\nf = 1\n``` \nIt is 1.", "f = 1\n");
    takes("```\r\nf = 1\r\n\r\ng = 2\r\n```\r\nIt is 1.\r\n", "f = 1\n\ng = 2\n");
    takes("```sh\npip\n```\n```python\nf = 1\n```\n```python\nf = 2\n```", "f = 1\n");
    takes("```sh\npip\n```\n```c\nint f;\n```", "pip\n");
    takes("```pythonic\nf = 1\n```\n```PY\nf = 2\n```", "f = 2\n");
    takes("```python\n```\nNothing.", "");
    takes("```python\nf = 1", "f = 1\n");         /* cut */
    takes("```python\nf = 1```\nIt.", "f = 1\n"); /* behind the code */
    takes("Use ```f``` so:\n```python\nf = 1\n```", "f = 1\n");
    takes("Then: ```python\nif f:\n    g()\n```", "if f:\n    g()\n");
    takes("1. First:\n\n   ```python\n   if f:\n       g()\n\n   h()\n   ```\n2. Then",
          "if f:\n    g()\n\nh()\n");
    takes("- ```python\n  if f:\n      g()\n  ```\n", "if f:\n    g()\n");
    takes("```python\n    return 1\n```", "    return 1\n"); /* of a function */
    takes("````python\nf = 1\n```\n````\nIt is.", "f = 1\n```\n");
    takes("```python\ndef f():\n    \"\"\" As:\n    ```\n    f()\n    ```\n    \"\"\"\n```\nIt is.",
          "def f():\n    \"\"\" As:\n    ```\n    f()\n    ```\n    \"\"\"\n");
    /* Fences that are stray, or missing. */
    takes("```\nHere is the code:\n```python\nf = 1\n```", "f = 1\n");
    takes("```\nSo:\n\n1. ```python\n   f = 1\n   ```\n", "f = 1\n");
    takes("f = 0\n```\nor rather\n```python\nf = 1\n```\nIt is.", "f = 1\n");
    takes("```sh\npip\n```python\nf = 1\n```", "f = 1\n");
    takes("```python\nf = 1\n```python\nf = 2\n```", "f = 1\n");
    takes("````md\n```python\nf = 1\n```\n````", "f = 1\n");
    takes("````python\nf = 1\n```python\n````", "f = 1\n```python\n");
    takes("```\nf = 1\nif f:\n    ```python\n    g()\n    ```\n```",
          "f = 1\nif f:\n    ```python\n    g()\n    ```\n"); /* not at the margin */
    takes("```\nf = '''```python\n```", "f = '''```python\n");
}

/* --- Records ---------------------------------------------------------------------------------- */

static rf_task_item item;
static rf_error err;

static int read_record(const char *task, const char *record, bool raw)
{
    json_t *root = json_loads(record, JSON_ALLOW_NUL, NULL);
    cr_assert(json_is_object(root), "%s", record);
    rf_task_item_free(&item);
    int rc = rf_task_find(task)->read(&item, root, raw, &err);
    json_decref(root);
    return rc;
}

static void reads(const char *task, const char *record, bool raw, const char *query,
                  const char *expected)
{
    cr_assert_eq(read_record(task, record, raw), RF_OK, "%s", err.message);
    cr_assert_not_null(item.query, "%s: not of the published form", record);
    cr_assert_str_eq(item.query, query);
    cr_assert_str_eq(item.expected, expected);
}

static const char gsm8k[] = "{\"question\": \"1+1?\", \"answer\": \"2\\n#### 2\"}";
static const char math[] = "{\"problem\": \"$1+1$?\", \"solution\": \"$\\\\boxed{2}$\", "
                           "\"level\": \"Level 1\", \"type\": \"Algebra\"}";
static const char arc[] =
    "{\"id\": \"a\", \"question\": \"Hot?\", \"choices\": {\"text\": [\"ice\", "
    "\"fire\"], \"label\": [\"1\", \"2\"]}, \"answerKey\": \"2\"}";
static const char ai2[] =
    "{\"id\": \"a\", \"question\": {\"stem\": \"Hot?\", \"choices\": [{\"text\": "
    "\"ice\", \"label\": \"A\"}, {\"text\": \"fire\", \"label\": \"B\"}]}, "
    "\"answerKey\": \"B\"}";
static const char mmlu[] =
    "{\"question_id\": 7, \"question\": \"Hot?\", \"options\": [\"ice\", "
    "\"fire\"], \"answer\": \"B\", \"answer_index\": 1, \"cot_content\": \"\", "
    "\"category\": \"physics\"}";

static const char mmlu_shot[] = "{\"question\": \"Hot?\", \"options\": [\"ice\", \"fire\"], "
                                "\"answer\": \"B\", \"cot_content\": "
                                "\"A: Let's think step by step. Ice is not. The answer is (B).\"}";

Test(answers, records_of_the_published_form)
{
    reads("gsm8k", gsm8k, false, "1+1?", "2\n#### 2");
    reads("gsm8k", gsm8k, true, "Question: 1+1?\nAnswer:", "2\n#### 2");
    reads("math", math, false, "$1+1$?", "$\\boxed{2}$");
    reads("math", math, true, "Problem:\n$1+1$?\n\nSolution:", "$\\boxed{2}$");
    reads("arc", arc, false, "Hot?\nA. ice\nB. fire", "B. fire");
    reads("arc", ai2, true, "Question: Hot?\nA. ice\nB. fire\nAnswer:", "B. fire");
    reads("mmlu-pro", mmlu, false, "Hot?\nOptions:\nA. ice\nB. fire", "The answer is (B).");
    reads("mmlu-pro", mmlu, true,
          "Question:\nHot?\nOptions:\nA. ice\nB. fire\nAnswer: Let's think step by step.",
          "The answer is (B).");
    reads("mmlu-pro", mmlu_shot, false, "Hot?\nOptions:\nA. ice\nB. fire",
          "Let's think step by step. Ice is not. The answer is (B).");
    reads("mmlu-pro", mmlu_shot, true,
          "Question:\nHot?\nOptions:\nA. ice\nB. fire\nAnswer: Let's think step by step.",
          "Ice is not. The answer is (B).");
    reads("mmlu-pro-likelihood", mmlu_shot, true,
          "Question:\nHot?\nOptions:\nA. ice\nB. fire\nAnswer:", "B");
    rf_task_item_free(&item);
}

/* Lines of the query are tests. */
Test(answers, tests_of_pairs)
{
    static const char pair[] =
        "{\"query\": \"assert f(1) == 2\\r\\nassert f(2) == 3\\n assert\\nWrite f.\", "
        "\"response\": \"def f(x): return x + 1\"}";
    cr_assert_eq(read_record("mbpp", pair, false), RF_OK, "%s", err.message);
    cr_assert_not_null(item.tests);
    cr_assert_str_eq(item.tests, "assert f(1) == 2\nassert f(2) == 3\n");
    rf_task_item_free(&item);
}

Test(answers, other_records_are_left_alone)
{
    static const char *const tasks[] = {"gsm8k", "math", "arc", "mmlu-pro"};
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++) {
        cr_assert_eq(read_record(tasks[i], "{\"query\": \"a\", \"response\": \"b\"}", false),
                     RF_OK);
        cr_assert_null(item.query);
    }
}

Test(answers, broken_records_are_refused)
{
    static const char *const rows[][3] = {
        {"gsm8k", "{\"question\": \"a\\u0000b\", \"answer\": \"c\"}", "zero character"},
        {"arc",
         "{\"question\": \"q\", \"choices\": {\"text\": [\"a\"], \"label\": [\"A\"]}, "
         "\"answerKey\": \"B\"}",
         "none of the 1 choices"},
        {"arc",
         "{\"question\": \"q\", \"choices\": {\"text\": [\"a\"], \"label\": []}, "
         "\"answerKey\": \"A\"}",
         "0 labels"},
        {"arc", "{\"question\": \"q\", \"choices\": {\"text\": [7], \"label\": [\"A\"]}}",
         "is no string"},
        {"arc", "{\"question\": \"q\", \"choices\": {\"text\": [\"a\"], \"label\": [\"A\"]}}",
         "no answer"},
        {"mmlu-pro",
         "{\"question\": \"q\", \"options\": [\"a\", \"b\"], \"answer\": \"A\", \"answer_index\": "
         "1}",
         "does not fit"},
        {"mmlu-pro",
         "{\"question\": \"q\", \"options\": [\"a\", \"b\"], \"answer\": \"A\", \"cot_content\": "
         "\"A: Let's think step by step. The answer is (B).\"}",
         "\"cot_content\" answers B, but \"answer\" is A"},
        {"mmlu-pro",
         "{\"question\": \"q\", \"options\": [\"a\", \"b\"], \"answer\": \"A\", \"cot_content\": "
         "\"A: Let's think step by step.\"}",
         "\"cot_content\" names no answer"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert_eq(read_record(rows[i][0], rows[i][1], false), RF_ERR, "%s", rows[i][1]);
        cr_assert_not_null(strstr(err.message, rows[i][2]), "%s", err.message);
    }
}

Test(answers, stop_strings_cut)
{
    cr_assert_eq(rf_task_cut(rf_task_find("gsm8k"), "#### 5\nQuestion: more"), 7);
    cr_assert_eq(rf_task_cut(rf_task_find("gsm8k"), "#### 5"), 6);
    cr_assert_eq(rf_task_cut(rf_task_find("exact"), "Question:"), 9);
}
