/* save.h: a whole checkpoint in one call, for tests: all phases of checkpoint.h without a buffer.   collective */
#ifndef RF_TESTS_STORE_SAVE_H
#define RF_TESTS_STORE_SAVE_H

#include "common/store/checkpoint.h"

/* dist NULL: this process alone. All ranks return the same code. */
static inline int save_checkpoint(const char *path, rf_dist *dist, rf_model *model,
                                  const void *adam_m, const void *adam_v,
                                  const rf_checkpoint_info *info, rf_error *err)
{
    rf_checkpoint_writer *w = NULL;
    RF_TRY(rf_checkpoint_snapshot(&w, path, dist, model, adam_m, adam_v, info, NULL, err));
    rf_checkpoint_writer_write(w);
    int rc;
    RF_TRY_OUT(rf_checkpoint_writer_collect(w, err));
    rc = rf_checkpoint_writer_commit(w, err);
    rc = dist != NULL ? rf_dist_agree(dist, rc, err) : rc;
out:
    rf_checkpoint_writer_free(w);
    return rc;
}

#endif
