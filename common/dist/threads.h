/* threads.h: how many threads a rank uses. */
#ifndef RF_DIST_THREADS_H
#define RF_DIST_THREADS_H

#include "common/dist/dist.h"

/* collective. `asked` where it is positive; else OMP_NUM_THREADS (an error where that is no number of
 * threads); else the cores that this process may use, divided among the ranks that may use the very
 * same cores of the same host. At least 1. */
RF_MUST_CHECK int rf_threads_choose(int *n_threads, rf_dist *dist, int64_t asked, rf_error *err);

#endif
