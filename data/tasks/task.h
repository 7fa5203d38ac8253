/* task.h: generated tasks with answers that can be checked by the rules.       all local
 *
 *   arithmetic  "12+30,7+5"         "42,12"             sums; every result of every sum
 *   arithmetic  "12+30-7"           "42,35"             a chain: the result after each step
 *   sort        "31,5,77"           "5,31,77"
 *   sudoku4     "1003001001303241"  "1423231441323241"  rows; 0 is blank (81 cells are checked too)
 *   countdown   "72,2,78,66"        "72*2=144,144-78=66" numbers, target last; each used once
 */
#ifndef RF_DATA_TASKS_TASK_H
#define RF_DATA_TASKS_TASK_H

#include "common/base/error.h"
#include "common/base/rng.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rf_task_text {
    char query[1024];
    char response[1024];
} rf_task_text;

/* Options of the generators, from refusion-data synth --option name=value. */
typedef struct rf_task_options {
    int64_t n_parts;   /* arithmetic: sums or steps; sort, countdown: numbers; sudoku4: givens */
    int64_t max_value; /* largest number of the question (countdown: also of the target) */
    bool chain;        /* arithmetic: each step takes the result of the one before */
    bool pad;          /* arithmetic, sort: all numbers with leading zeros to one width, so that the
                          place of a result does not depend on the others */
} rf_task_options;

typedef struct rf_task {
    const char *name;
    const char *help;
    rf_task_options preset;
    /* Which options the generator takes. max_value 0: none; chain, pad: are they there? */
    rf_task_options least, most;
    /* Of options that rf_task_generate has checked. NULL for tasks that are only checked. */
    int (*generate)(rf_task_text *out, rf_rng *rng, const rf_task_options *options, rf_error *err);
    /* Is `answer` right for `query`? `expected` is the reference response (used where the rules
     * alone do not decide). Any 0-terminated bytes; blanks around numbers do not matter. */
    bool (*check)(const char *query, const char *expected, const char *answer);
} rf_task;

extern const rf_task *const rf_tasks[]; /* NULL ends them */
/* NULL: unknown. */
const rf_task *rf_task_find(const char *name);
/* A question of a task that has a generator: a pure function of the stream and the options. Options
 * out of range, or that the task does not have: RF_ERR_USAGE. */
RF_MUST_CHECK int rf_task_generate(const rf_task *task, rf_task_text *out, rf_rng *rng,
                                   const rf_task_options *options, rf_error *err);

#endif
