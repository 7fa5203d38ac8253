/* eval_test.h: nine questions and a model for tests of refusion-eval as a program. */
#ifndef RF_TESTS_INFER_EVAL_TEST_H
#define RF_TESTS_INFER_EVAL_TEST_H

#include "tests/infer/program_test.h"

#include <jansson.h>

enum { N_QUESTIONS = 9 };

static const char *const questions[N_QUESTIONS] = {"12+30,7+5", "1+2,3+4",  "90+9,8+8",
                                                   "5+5,60+6",  "7+70,1+1", "20+2,3+33",
                                                   "4+4,5+50",  "11+1,2+2", "0+9,9+0"};
static const char *const answers[N_QUESTIONS] = {"42,12", "3,7",  "99,16", "10,66", "77,2",
                                                 "22,36", "8,55", "12,4",  "9,9"};

/* A folder with model.h5 and q.jsonl. */
static void begin(void)
{
    program_begin_model();
    FILE *out = fopen("q.jsonl", "w");
    cr_assert_not_null(out);
    for (int i = 0; i < N_QUESTIONS; i++) {
        fprintf(out, "{\"query\": \"%s\", \"response\": \"%s\"}\n", questions[i], answers[i]);
    }
    cr_assert(fclose(out) == 0);
}

#define TO   "\"$EVAL\" --model model.h5 --data q.jsonl --out "
#define EVAL TO "r.json "

/* A number of the report, NaN where it is null or missing. */
static double number(const json_t *report, const char *part, const char *field)
{
    const json_t *value = json_object_get(part ? json_object_get(report, part) : report, field);
    return json_is_number(value) ? json_number_value(value) : strtod("nan", NULL);
}

#endif
