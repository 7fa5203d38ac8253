/* task_rules.h: generators and checkers, one pair a task, and what they share.  all local
 *
 * Only the table in task.c and the task_*.c files include this; the contract is in task.h.
 */
#ifndef RF_DATA_TASKS_TASK_RULES_H
#define RF_DATA_TASKS_TASK_RULES_H

#include "data/tasks/task.h"

RF_MUST_CHECK int rf_task_arithmetic_generate(rf_task_text *out, rf_rng *rng,
                                              const rf_task_options *options, rf_error *err);
bool rf_task_arithmetic_check(const char *query, const char *expected, const char *answer);
RF_MUST_CHECK int rf_task_sort_generate(rf_task_text *out, rf_rng *rng,
                                        const rf_task_options *options, rf_error *err);
bool rf_task_sort_check(const char *query, const char *expected, const char *answer);
RF_MUST_CHECK int rf_task_sudoku_generate(rf_task_text *out, rf_rng *rng,
                                          const rf_task_options *options, rf_error *err);
bool rf_task_sudoku_check(const char *query, const char *expected, const char *answer);
RF_MUST_CHECK int rf_task_countdown_generate(rf_task_text *out, rf_rng *rng,
                                             const rf_task_options *options, rf_error *err);
bool rf_task_countdown_check(const char *query, const char *expected, const char *answer);

/* Appends to a string in a buffer of `size` bytes. What does not fit is RF_ERR_USAGE: the options
 * ask for a question that is too long. */
RF_MUST_CHECK int rf_task_append(char *text, size_t size, rf_error *err, const char *format, ...)
    RF_PRINTF(4, 5);
/* Is option `name` in [min, max]? RF_ERR_USAGE if not. */
RF_MUST_CHECK int rf_task_range(const char *name, int64_t value, int64_t min, int64_t max,
                                rf_error *err);
/* RF_ERR_USAGE if an option is switched on that the task does not have. */
RF_MUST_CHECK int rf_task_refuse(const char *name, bool value, rf_error *err);
/* Decimal digits of value >= 0. */
int rf_task_digits(int64_t value);

/* Reads, moving *text behind it: a number of at most 18 digits with an optional minus sign, or one
 * given character; blanks before it are skipped. false (and *text anywhere): it is not there. */
bool rf_task_read_number(int64_t *value, const char **text);
bool rf_task_read_char(const char **text, char c);
bool rf_task_at_end(const char *text); /* only blanks are left */

#endif
