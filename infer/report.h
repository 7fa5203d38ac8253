/* report.h: what an evaluation found, for people and for programs.             all local */
#ifndef RF_INFER_REPORT_H
#define RF_INFER_REPORT_H

#include "infer/eval.h"

#include <stdio.h>

/* What the numbers belong to. */
typedef struct rf_report_context {
    const char *model, *data;
    const rf_loaded *loaded;
    int n_ranks, n_threads;
} rf_report_context;

/* Aligned table. */
void rf_report_print(FILE *out, const rf_eval_result *result, const rf_eval_options *options,
                     const rf_report_context *context);
/* report.json (schema: infer/README.md), written atomically. */
RF_MUST_CHECK int rf_report_write(const char *path, const rf_eval_result *result,
                                  const rf_eval_options *options, const rf_report_context *context,
                                  rf_error *err);

#endif
