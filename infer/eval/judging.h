/* judging.h: answers of an evaluation, judged one by one and together.         all local */
#ifndef RF_INFER_EVAL_JUDGING_H
#define RF_INFER_EVAL_JUDGING_H

#include "infer/eval/eval.h"

/* Judges the decoded answers of questions first, first + step, ...: fills `correct` of each and, in
 * the records, correct, also, majority, timeouts and failures. An answer that is not there counts as
 * wrong. Errors: rf_judge_answer. */
RF_MUST_CHECK int rf_eval_judge(rf_eval_result *result, const rf_question *question,
                                const rf_judge *judge, int64_t first, int64_t step, rf_error *err);

/* The chance that one of k answers is right, where c of n are: 1 - C(n-c, k)/C(n, k), without bias
 * (Chen et al., arXiv:2107.03374). 1 <= k <= n. */
double rf_pass_at(int64_t n, int64_t c, int64_t k);

#endif
