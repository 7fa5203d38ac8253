/* sweep_table.h: rows of a sweep: which is the best, and how they are shown.   all local
 *
 * A row is an object of report.json (README.md): model, settings, and what they gave.
 */
#ifndef RF_INFER_EVAL_SWEEP_TABLE_H
#define RF_INFER_EVAL_SWEEP_TABLE_H

#include "common/base/error.h"

#include <stdio.h>

struct json_t;

/* Sets "best" of each row: true of one for each model and decoder. Of the rows whose accuracy is at
 * most `within` points (percent) below the highest, the one with the most tokens/s; of equals the
 * first. Rows without an accuracy (no task) are never the best. Returns how many are. */
size_t rf_sweep_mark_best(struct json_t *rows, double within);
/* Keys of the rows' settings that are not the same wherever they are, as keys of an object. Caller
 * releases. */
struct json_t *rf_sweep_keys(const struct json_t *rows);
/* What a row found, as a line of the log, with its settings of these keys. number, n: of the row,
 * and of rows. */
void rf_sweep_log(const struct json_t *row, const struct json_t *keys, size_t number, size_t n);
/* Table of a report: the rows, behind them those of the questions to pick on. */
void rf_sweep_print(FILE *out, const struct json_t *report);
/* All rows and fields as comma-separated values, written atomically: "set" ("rows" or "sweep"),
 * then every field of any row, those of settings as "decode.<key>". */
RF_MUST_CHECK int rf_sweep_csv(const char *path, const struct json_t *report, rf_error *err);

#endif
