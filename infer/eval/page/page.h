/* page.h: report.html, one self-contained page for reports and runs.            all local
 *
 * What is shown is data in a script tag of the page; page.html, page.css and page.js (part of the
 * program) draw it in a browser, from disk, without a network.
 */
#ifndef RF_INFER_EVAL_PAGE_PAGE_H
#define RF_INFER_EVAL_PAGE_PAGE_H

#include "common/base/error.h"

struct json_t;

/* Nothing but a title. Caller releases with json_decref. */
struct json_t *rf_page_new(const char *title);
/* Adds a report (README.md); of a sweep's rows only the best keep how their answers came about. */
void rf_page_add_report(struct json_t *page, const struct json_t *report);
/* Adds what a path holds: a report.json, or the metrics.jsonl of a run or of its folder, its curves
 * as means of neighbours: a page of `files` such files (> 0) stays below 2 MB. */
RF_MUST_CHECK int rf_page_add_file(struct json_t *page, const char *path, int files, rf_error *err);
/* Writes the page atomically. */
RF_MUST_CHECK int rf_page_save(const char *path, const struct json_t *page, rf_error *err);

#endif
