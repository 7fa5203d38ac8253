/* report.h: what an evaluation found, for people and for programs. */
#ifndef RF_INFER_EVAL_REPORT_H
#define RF_INFER_EVAL_REPORT_H

#include "infer/eval/subject.h"

#include <stdio.h>

struct json_t;

/* What the numbers belong to. */
typedef struct rf_report_context {
    const rf_subject *subject; /* asked with its first setting */
    const char *data;
    const rf_layout *weights; /* [n_results] that the results were made with */
    int n_results;            /* 1; more: likelihoods side by side */
    int n_ranks;
} rf_report_context;

/* local. Warns where nothing was scored or decoded, for a model of so many positions. */
void rf_report_warn(const rf_eval_options *options, const rf_eval_result *result,
                    int64_t positions);
/* local. Aligned table. result [context->n_results]; all but the comparison is of the first. */
void rf_report_print(FILE *out, const rf_eval_result *result, const rf_report_context *context);
/* local. report.json (schema: README.md). Caller releases. */
struct json_t *rf_report_json(const rf_eval_result *result, const rf_report_context *context);
/* local. One of many evaluations: subject, settings, and what they gave for its questions. Caller
 * releases. */
struct json_t *rf_report_row(const rf_eval_result *result, const rf_question *questions,
                             const rf_eval_options *options, const rf_subject *subject,
                             struct json_t *settings);
/* local. A path as JSON: it may hold any bytes, JSON may not. Caller releases. */
struct json_t *rf_report_path(const char *path);
/* local. Writes a report atomically. */
RF_MUST_CHECK int rf_report_save(const char *path, const struct json_t *report, rf_error *err);
/* local. The answers as JSON lines (schema: infer/README.md), in the order of the questions.
 * Written atomically. */
RF_MUST_CHECK int rf_report_answers(const char *path, const rf_eval_result *result,
                                    const rf_question *questions, rf_error *err);

#endif
