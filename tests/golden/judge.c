/* How tasks judge answers, for the programs of this folder: JSON lines from stdin, {"task", "query",
 * "expected", "answer"}, or {"task", "record"} with a record of the task's official file, whose own
 * answer is judged. For each a line [right, right by the second rule, what is extracted]; programs
 * run isolated. */
#include "data/tasks/judge.h"

#include "common/base/alloc.h"
#include "common/base/log.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static char *field(const json_t *record, const char *name)
{
    const char *text = json_string_value(json_object_get(record, name));
    return rf_alloc_string(text != NULL ? text : "");
}

static int read_item(rf_task_item *out, char **answer, const rf_task *task, const json_t *line,
                     rf_error *err)
{
    const json_t *record = json_object_get(line, "record");
    if (record == NULL) {
        out->query = field(line, "query");
        out->expected = field(line, "expected");
        *answer = field(line, "answer");
        return RF_OK;
    }
    RF_TRY(task->read(out, record, false, err));
    *answer = out->expected != NULL ? rf_alloc_string(out->expected) : NULL;
    return *answer != NULL ? RF_OK : rf_error_set(err, RF_ERR, "a record of another form");
}

static int judge(const json_t *line, rf_error *err)
{
    char *name = field(line, "task"), *answer = NULL, *extracted = NULL;
    const rf_judge judge = {.task = rf_task_find(name), .code = RF_CODE_ISOLATED, .seconds = 10};
    rf_task_item item = {0};
    rf_verdict verdict;
    int rc = judge.task != NULL ? RF_OK : rf_error_set(err, RF_ERR, "no task %s", name);
    free(name);
    RF_TRY(rc);
    RF_TRY_OUT(read_item(&item, &answer, judge.task, line, err));
    RF_TRY_OUT(rf_judge_answer(&verdict, &judge, &item, answer, 0, 0, err));
    extracted = judge.task->extract != NULL ? judge.task->extract(answer) : NULL;
    json_t *out = json_pack("[b, b, s?]", verdict.right, verdict.also, extracted);
    json_dumpf(out, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(out);
out:
    rf_task_item_free(&item);
    free(answer);
    free(extracted);
    return rc;
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    rf_error err = {0};
    int rc = RF_OK;
    while (rc == RF_OK && getline(&line, &capacity, stdin) > 0) {
        json_t *object = json_loads(line, JSON_ALLOW_NUL, NULL);
        rc = judge(object, &err);
        json_decref(object);
    }
    free(line);
    if (rc != RF_OK) {
        rf_log_error(&err);
    }
    return rf_error_exit_status(rc);
}
