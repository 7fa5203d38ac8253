/* Fuzz target of tasks: the first byte chooses one, the rest is a record of its official file, a line
 * "%%", an answer. Records are read in both forms; an answer is compared with the record's text and
 * with what was read of it. Extracting is a pure function, and what is equal is equal both ways. */
#include "data/tasks/math_answer.h"
#include "data/tasks/task.h"
#include "tests/fuzz/fuzz.h"

#include <jansson.h>

static void judge(const rf_task *task, const rf_task_item *item, const char *answer)
{
    const char *expected = item->expected != NULL ? item->expected : "";
    RF_ASSERT(rf_task_cut(task, answer) <= (int64_t)strlen(answer));
    if (task->check != NULL) {
        bool right = task->check(item->query, expected, answer);
        RF_ASSERT(right == task->check(item->query, expected, answer));
    }
    if (task->check_also != NULL) {
        (void)task->check_also(item->query, expected, answer);
    }
    if (task->extract != NULL) {
        char *a = task->extract(answer), *b = task->extract(answer);
        RF_ASSERT((a == NULL) == (b == NULL) && (a == NULL || strcmp(a, b) == 0));
        free(a);
        free(b);
    }
    if (task->program != NULL && item->tests != NULL) {
        free(task->program(item, answer));
    }
}

static void read_record(const rf_task *task, const json_t *record, bool raw, const char *answer)
{
    rf_task_item item = {0};
    rf_error err = {0};
    int rc = task->read(&item, record, raw, &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK && item.query != NULL) {
        RF_ASSERT(item.n_choices == 0 || (item.right >= 0 && item.right < item.n_choices));
        judge(task, &item, answer);
    }
    rf_task_item_free(&item);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int n = 0;
    while (rf_tasks[n] != NULL) {
        n++;
    }
    if (size < 1) {
        return 0;
    }
    const rf_task *task = rf_tasks[data[0] % n];
    char *text = fuzz_text(data + 1, size - 1), *cut = fuzz_cut(text);
    const char *answer = cut != NULL ? cut : text;
    const rf_task_item plain = {.query = text, .expected = text};
    judge(task, &plain, answer);
    RF_ASSERT(rf_math_same(text, answer) == rf_math_same(answer, text));
    json_t *record = json_loads(text, JSON_ALLOW_NUL, NULL);
    for (int raw = 0; raw < 2 && json_is_object(record) && task->read != NULL; raw++) {
        read_record(task, record, raw, answer);
    }
    json_decref(record);
    free(text);
    return 0;
}
