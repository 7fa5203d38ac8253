/* grid.h: the settings of a sweep, from the assignments of a command line.     all local
 *
 *   decode.kind=ar,refusion decode.slot_threshold=0.5:0.95:0.05 decode.gen_length=64
 *
 * is every combination of two decoders and ten thresholds. A list, or a range from:to:step (both
 * ends belong to it), may stand for the value of any key of decode.* that takes one number or one
 * word; a list may hold ranges.
 */
#ifndef RF_INFER_EVAL_GRID_H
#define RF_INFER_EVAL_GRID_H

#include "common/base/error.h"

#include <stdint.h>

enum { RF_GRID_MOST = 10000 }; /* combinations */

typedef struct rf_grid {
    int64_t n; /* combinations; 1 where nothing is swept */
    int n_assignments;
    char **assignment; /* [n][n_assignments] "section.key=value". Owned, and so are the texts */
} rf_grid;

/* The combinations, the last assignment's values changing fastest. Assignments that sweep nothing
 * are in each of them as they are; values are judged by the configuration that they go to, not
 * here. RF_ERR_USAGE: a range without end, or too many combinations. Caller frees. */
RF_MUST_CHECK int rf_grid_new(rf_grid *out, char *const *assignment, int n, rf_error *err);
void rf_grid_free(rf_grid *grid); /* a zeroed struct is fine */
/* [n_assignments] of combination i; belongs to the grid. */
char **rf_grid_setting(const rf_grid *grid, int64_t i);

#endif
