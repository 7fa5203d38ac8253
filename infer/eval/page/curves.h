/* curves.h: what a run's metrics.jsonl says, as few points.                     all local */
#ifndef RF_INFER_EVAL_PAGE_CURVES_H
#define RF_INFER_EVAL_PAGE_CURVES_H

#include "common/base/error.h"

struct json_t;

/* *out: {"name", "begin", "step", "valid"}. begin: the run's first event. step, valid: {"columns",
 * "rows"}, each row the mean of neighbouring events (the step: of the last); null where none of
 * them has a value, as the loss of a part without targets; at most `points` (> 0) rows each. name:
 * the folder of the file. Lines that are no event (the last one of a run that is being written)
 * are skipped; a file without an event is an error. Caller releases. */
RF_MUST_CHECK int rf_curves_read(struct json_t **out, const char *path, int points, rf_error *err);

#endif
