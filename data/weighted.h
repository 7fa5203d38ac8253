/* weighted.h: a file, and how often its samples are seen.                        all local */
#ifndef RF_DATA_WEIGHTED_H
#define RF_DATA_WEIGHTED_H

#include "common/base/error.h"

/* "path" or "path:weight", as refusion-data build and data.train take files. The weight is what stands
 * behind the last colon, a decimal number above 0 and up to 1e6; 1 where there is none. What names a
 * file that is there is a path as a whole, and so is what no number ends. Caller frees *path; NULL after
 * RF_ERR_USAGE: a weight that is no such number, or nothing on one side of the colon. */
RF_MUST_CHECK int rf_weighted_read(char **path, double *weight, const char *text, rf_error *err);

#endif
