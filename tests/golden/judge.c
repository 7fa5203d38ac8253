/* How tasks judge answers, for the programs of this folder: JSON lines {"task", "query",
 * "expected", "answer"} from stdin; for each a line [check, check_also, extract]. */
#include "data/tasks/task.h"

#include <stdio.h>
#include <stdlib.h>

static const char *field(const json_t *record, const char *name)
{
    const char *text = json_string_value(json_object_get(record, name));
    return text != NULL ? text : "";
}

static int judge(const json_t *record)
{
    const rf_task *task = rf_task_find(field(record, "task"));
    const char *query = field(record, "query"), *expected = field(record, "expected");
    const char *answer = field(record, "answer");
    if (task == NULL) {
        return 1;
    }
    char *extracted = task->extract != NULL ? task->extract(answer) : NULL;
    json_t *line =
        json_pack("[b, b, s?]", task->check(query, expected, answer),
                  task->check_also != NULL && task->check_also(query, expected, answer), extracted);
    int failed = line == NULL || json_dumpf(line, stdout, JSON_COMPACT) != 0;
    putchar('\n');
    json_decref(line);
    free(extracted);
    return failed;
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    int failed = 0;
    while (!failed && getline(&line, &capacity, stdin) > 0) {
        json_t *record = json_loads(line, JSON_ALLOW_NUL, NULL);
        failed = record == NULL || judge(record);
        json_decref(record);
    }
    free(line);
    return failed;
}
