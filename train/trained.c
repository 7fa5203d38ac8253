#include "train/trained.h"

#include "common/base/alloc.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* all [ranks, most]: of each rank, as many as it has behind a record whose `row` is their number. */
static json_t *list_json(const rf_loader_piece *all, int n_ranks, int64_t most)
{
    json_t *list = json_array();
    for (int r = 0; r < n_ranks; r++) {
        const rf_loader_piece *mine = &all[r * most];
        for (int64_t i = 1; i <= mine[0].row; i++) {
            const rf_loader_piece *p = &mine[i];
            json_array_append_new(list, json_pack("[I,i,I,I,I,I,I]", (json_int_t)p->row, r,
                                                  (json_int_t)p->epoch, (json_int_t)p->corpus,
                                                  (json_int_t)p->sample, (json_int_t)p->occurrence,
                                                  (json_int_t)p->piece));
        }
    }
    return list;
}

int rf_trained_write(rf_trainer *t, const rf_step_result *result, rf_error *err)
{
    const rf_setup *s = t->setup;
    const int n_ranks = rf_dist_size(s->dist);
    const rf_loader_share *share = result->share;
    rf_loader_piece *all = NULL, *mine = NULL;
    int64_t most = share->n_listed + 1;
    int rc;
    if (!s->set.log_samples) {
        return RF_OK;
    }
    RF_TRY_OUT(rf_dist_max_i64(s->dist, &most, 1, err));
    const size_t bytes = (size_t)most * sizeof *mine;
    mine = rf_alloc((size_t)most, sizeof *mine);
    all = rf_alloc((size_t)n_ranks * (size_t)most, sizeof *all);
    mine[0].row = share->n_listed;
    if (share->n_listed > 0) {
        memcpy(mine + 1, share->list, (size_t)share->n_listed * sizeof *mine);
    }
    RF_TRY_OUT(rf_dist_allgather_bytes(s->dist, all, mine, bytes, err));
    rf_metrics_write(s->run.metrics, RF_METRICS_TRAINED,
                     json_pack("{s:I,s:b,s:o}", "step", (json_int_t)t->progress.step, "taken",
                               result->verdict == RF_STEP_TAKE, "samples",
                               list_json(all, n_ranks, most)));
out:
    free(mine);
    free(all);
    return rc;
}
