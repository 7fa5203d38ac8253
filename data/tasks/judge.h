/* judge.h: is an answer right? By the task's rules, its tests, or a user's command.  all local */
#ifndef RF_DATA_TASKS_JUDGE_H
#define RF_DATA_TASKS_JUDGE_H

#include "data/tasks/task.h"

/* How programs that a model wrote are run. */
typedef enum rf_judge_code {
    RF_CODE_OFF,      /* not at all */
    RF_CODE_ISOLATED, /* run.h */
    RF_CODE_UNSAFE    /* as any program of the user, but for limits and a folder of its own */
} rf_judge_code;

typedef struct rf_judge {
    const rf_task *task;
    /* A command of the shell that judges instead of the task. It gets a JSON object on standard
     * input: {"index", "sample", "query", "expected", "answer"}. Its verdict is a line on standard
     * output, true, false or {"correct": true or false}; or, where it writes nothing at all, its exit
     * status, 0 or 1. NULL: none. */
    const char *command;
    rf_judge_code code;
    double seconds; /* wall time of a program or command */
} rf_judge;

typedef enum rf_judge_end { RF_JUDGE_DONE, RF_JUDGE_TIMEOUT, RF_JUDGE_ERROR } rf_judge_end;

typedef struct rf_verdict {
    bool right;
    bool also; /* by the task's second rule */
    rf_judge_end
        end; /* of a program that was not right: it failed its tests, was too slow, or ended
                         otherwise (a syntax error, another exception, a limit) */
} rf_verdict;

/* Stands for the task of questions that only a command judges. */
extern const rf_task rf_task_check;

/* Can it judge at all? Programs that may not run, a system that denies to isolate them or that has
 * no python3: RF_ERR_USAGE or RF_ERR, with what to do. */
RF_MUST_CHECK int rf_judge_check(const rf_judge *judge, rf_error *err);

/* Judges an answer, cut at the task's stop strings. index and sample (from 0) name it for the
 * command. A command that fails, is too slow or says something else than a verdict is RF_ERR that
 * names question and sample, in words from 1, and the command: never a wrong answer. */
RF_MUST_CHECK int rf_judge_answer(rf_verdict *out, const rf_judge *judge, const rf_task_item *item,
                                  const char *answer, int64_t index, int64_t sample, rf_error *err);

#endif
