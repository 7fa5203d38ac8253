/* MATH (Hendrycks et al., arXiv:2103.03874): answers in boxes. */
#include "data/tasks/math_answer.h"
#include "data/tasks/task_rules.h"

#include "common/base/alloc.h"

#include <jansson.h>
#include <stdlib.h>

/* What a reference says; one without a box is the answer itself. */
static char *reference(const char *expected)
{
    char *answer = rf_math_find(expected);
    return answer != NULL ? answer : rf_alloc_string(expected);
}

static bool check(const char *query, const char *expected, const char *answer)
{
    (void)query;
    char *right = reference(expected), *given = rf_math_find(answer);
    bool same = given != NULL && rf_math_same(right, given);
    free(right);
    free(given);
    return same;
}

/* What is voted with: the benchmark's normal form where there is one. */
static char *extract(const char *text)
{
    char *answer = rf_math_find(text);
    char *normal = answer != NULL ? rf_math_normal_hendrycks(answer) : NULL;
    if (normal == NULL) {
        return answer;
    }
    free(answer);
    return normal;
}

static int read_record(rf_task_item *out, const json_t *record, bool raw, rf_error *err)
{
    const char *problem, *solution;
    RF_TRY(rf_task_field(&problem, record, "problem", err));
    RF_TRY(rf_task_field(&solution, record, "solution", err));
    if (problem != NULL && solution != NULL) {
        out->query =
            raw ? rf_alloc_format("Problem:\n%s\n\nSolution:", problem) : rf_alloc_string(problem);
        out->expected = rf_alloc_string(solution);
    }
    return RF_OK;
}

static const char *const stops[] = {"Problem:", NULL};

const rf_task rf_task_math = {
    .name = "math",
    .help = "the last \\boxed{} or \\fbox{}, equal after normalisation",
    .read = read_record,
    .stops = stops,
    .shots = 4,
    .check = check,
    .extract = extract,
};
