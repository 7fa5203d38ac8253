/* sweep.h: several models, or one with several settings, side by side.
 *
 * Every subject is asked with each of its settings. Where questions to pick on are given, settings
 * are tried on those, and the best of each model and decoder alone on the questions proper, so that
 * what is reported was not chosen on the questions it is reported for.
 */
#ifndef RF_INFER_EVAL_SWEEP_H
#define RF_INFER_EVAL_SWEEP_H

#include "infer/eval/command.h"

struct json_t;

/* collective. Evaluates the subjects of the command's models, prints a table, writes `out` (schema:
 * README.md) after each setting and goes on from what it holds: a file there that another sweep or
 * evaluation has written is RF_ERR. *report: what `out` holds; caller releases, NULL after an error.
 * inputs: what results follow from (rf_subjects_describe). */
RF_MUST_CHECK int rf_sweep_run(struct json_t **report, rf_subject *subject, const char *inputs,
                               const rf_command *command, rf_dist *dist, rf_error *err);

/* local. Refuses a path whose file holds rows of a sweep: another report in its place would lose them.
 * NULL, and a path without a file, are fine. */
RF_MUST_CHECK int rf_sweep_spare(const char *path, rf_error *err);

#endif
