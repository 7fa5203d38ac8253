/* task.h: tasks: how questions are made or read, and how answers are judged.   all local
 *
 * Generated, with answers that can be checked by the rules:
 *
 *   arithmetic  "12+30,7+5"         "42,12"             sums; every result of every sum
 *   arithmetic  "12+30-7"           "42,35"             a chain: the result after each step
 *   sort        "31,5,77"           "5,31,77"
 *   sudoku4     "1003001001303241"  "1423231441323241"  rows; 0 is blank
 *   sudoku9     81 cells, likewise
 *   countdown   "72,2,78,66"        "72*2=144,144-78=66" numbers, target last; each used once
 *
 * Published, with the form of their official files: gsm8k, math, arc, mmlu-pro,
 * humaneval, mbpp. exact: equal text.
 */
#ifndef RF_DATA_TASKS_TASK_H
#define RF_DATA_TASKS_TASK_H

#include "common/base/error.h"
#include "common/base/rng.h"

#include <stdbool.h>
#include <stdint.h>

struct json_t;

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

/* A question as a task reads it from a record. */
typedef struct rf_task_item {
    char *query;    /* what the model is asked. Owned */
    char *expected; /* a whole right answer; NULL: the file has none. Owned */
    char **choice;  /* [n_choices] what is scored by tasks that go by likelihood. Owned */
    int n_choices, right;
    char *prefix, *tests; /* of programs: what stands before an answer, and behind it. Owned */
} rf_task_item;
void rf_task_item_free(rf_task_item *item); /* zeroes; a zeroed struct is fine */

/* A kind of question, with the protocol by which it is asked and judged. */
typedef struct rf_task {
    const char *name;
    const char *help;
    /* --- Generated tasks --- */
    rf_task_options preset;
    /* Which options the generator takes. max_value 0: none; chain, pad: are they there? */
    rf_task_options least, most;
    /* Of options that rf_task_generate has checked. NULL for tasks that are only checked. */
    int (*generate)(rf_task_text *out, rf_rng *rng, const rf_task_options *options, rf_error *err);
    /* --- Published tasks --- */
    /* Reads a record of the published file; leaves *out as it is where the record has another form
     * ({"query", "response"}). raw: the question as the beginning of a plain text, in the words of
     * lm-evaluation-harness; else as it stands in a conversation. NULL: there is no such file. */
    int (*read)(rf_task_item *out, const struct json_t *record, bool raw, rf_error *err);
    const char *const
        *stops;         /* where an answer ends that goes on; NULL ends them, or there are none */
    int shots;          /* how many are usual (lm-evaluation-harness) */
    const char *glue;   /* between a raw question and its answer; NULL: a blank */
    bool by_likelihood; /* the likeliest choice is the answer, by the second rule the likeliest per
                           byte: nothing is decoded or checked */
    /* --- Judging --- */
    /* Is `answer` right for `query`? `expected` is the reference response (used where the rules
     * alone do not decide). Any 0-terminated bytes; blanks around numbers do not matter. */
    bool (*check)(const char *query, const char *expected, const char *answer);
    /* A Python program that ends without an exception where an answer is right; then `check` is
     * NULL. Of items that have tests. Caller frees. */
    char *(*program)(const rf_task_item *item, const char *answer);
    /* As `check`, by a second, laxer rule, and its name in reports; NULL: there is none. */
    const char *also;
    bool (*check_also)(const char *query, const char *expected, const char *answer);
    /* What of an answer is compared, for votes among answers. Caller frees; NULL: nothing is found.
     * The function is NULL where answers cannot be voted on. */
    char *(*extract)(const char *answer);
} rf_task;

extern const rf_task *const rf_tasks[]; /* NULL ends them */
/* NULL: unknown. */
const rf_task *rf_task_find(const char *name);
/* A question of a task that has a generator: a pure function of the stream and the options. Options
 * out of range, or that the task does not have: RF_ERR_USAGE. */
RF_MUST_CHECK int rf_task_generate(const rf_task *task, rf_task_text *out, rf_rng *rng,
                                   const rf_task_options *options, rf_error *err);
/* Bytes of an answer before the first of the task's stop strings. */
int64_t rf_task_cut(const rf_task *task, const char *answer);

#endif
