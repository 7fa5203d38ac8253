/* task_rules.h: the tasks, and what their generators and checkers share.       all local
 *
 * Only the table in task.c and the task_*.c files include this; the contract is in task.h.
 */
#ifndef RF_DATA_TASKS_TASK_RULES_H
#define RF_DATA_TASKS_TASK_RULES_H

#include "data/tasks/task.h"

struct json_t;

extern const rf_task rf_task_arithmetic, rf_task_sort, rf_task_sudoku4, rf_task_sudoku9,
    rf_task_countdown, rf_task_gsm8k, rf_task_math, rf_task_arc, rf_task_arc_likelihood,
    rf_task_mmlu_pro, rf_task_mmlu_pro_likelihood, rf_task_humaneval, rf_task_mbpp;

/* Appends to a string in a buffer of `size` bytes. What does not fit is RF_ERR_USAGE: the options
 * ask for a question that is too long. */
RF_MUST_CHECK int rf_task_append(char *text, size_t size, rf_error *err, const char *format, ...)
    RF_PRINTF(4, 5);
/* Decimal digits of value >= 0. */
int rf_task_digits(int64_t value);

/* Reads, moving *text behind it: a number of at most 18 digits with an optional minus sign, or one
 * given character; blanks before it are skipped. false (and *text anywhere): it is not there. */
bool rf_task_read_number(int64_t *value, const char **text);
bool rf_task_read_char(const char **text, char c);
bool rf_task_at_end(const char *text); /* only blanks are left */
/* A list of numbers parted by commas and nothing else, at most `most`; -1: it is something else. */
int64_t rf_task_read_list(int64_t *x, int64_t most, const char *text);

/* A string of a record, which holds it; NULL where there is none. One with a zero character, which
 * would end it for all who read it, is RF_ERR. */
RF_MUST_CHECK int rf_task_field(const char **out, const struct json_t *record, const char *field,
                                rf_error *err);
/* Are both there and equal? Frees both. */
bool rf_task_same(char *a, char *b);

#endif
