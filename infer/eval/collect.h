/* collect.h: the parts of a result that ranks have found, put together. */
#ifndef RF_INFER_EVAL_COLLECT_H
#define RF_INFER_EVAL_COLLECT_H

#include "infer/eval/eval.h"

/* collective. Question i was worked on by rank i mod ranks: its record, texts and verdicts come from
 * there, and all ranks hold the same then, with sums and latencies. Texts that are not there become
 * "". */
RF_MUST_CHECK int rf_eval_collect(rf_eval_result *result, rf_dist *dist, rf_error *err);

#endif
