#include "train/saves.h"

#include "common/base/log.h"
#include "train/plan.h"
#include "train/run/room.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* collective. checkpoint.async=auto: the copies take at most half of the memory that every host, and
 * every process, has left now, when all that training takes is in use. Those of a save before have their
 * memory already. */
static int choose_copy(const rf_setup *s, bool *copy, rf_error *err)
{
    const size_t of_rank = rf_plan_checkpoint_bytes(s) / (size_t)rf_dist_size(s->dist);
    const size_t needed = of_rank * (size_t)rf_dist_local_size(s->dist);
    rf_room room;
    RF_TRY(rf_room_find(&room, s->dist, err));
    const bool fits =
        s->run.copy.bytes > 0 || (needed <= room.host / 2 && of_rank <= room.process / 2);
    int64_t lacks = s->set.checkpoint_async == RF_ASYNC_NO ||
                    (s->set.checkpoint_async == RF_ASYNC_AUTO && !fits);
    RF_TRY(rf_dist_max_i64(s->dist, &lacks, 1, err));
    *copy = lacks == 0;
    return RF_OK;
}

int64_t rf_saves_rollback_step(const rf_trainer *t)
{
    const int64_t every = t->setup->set.checkpoint_every;
    return every > 0 ? (t->progress.step - t->setup->spikes.in_a_row) / every * every : 0;
}

static int begin(rf_trainer *t, bool *copy, rf_error *err)
{
    rf_setup *s = t->setup;
    rf_checkpoint_info info = {.model = s->shape,
                               .progress = t->progress,
                               .has_optimizer = true,
                               .run_config = rf_config_text(s->config, false),
                               .corpora = rf_sources_json(&s->sources),
                               .state = rf_spikes_text(&s->spikes),
                               /* the corpus's own; saving reads it only */
                               .tokenizer = (rf_tokenizer *)s->sources.tokenizer};
    snprintf(info.isa, sizeof info.isa, "%s", s->backend->isa);
    snprintf(info.written_by, sizeof info.written_by, "refusion-train %s", RF_VERSION);
    s->run.keep.step = s->set.spikes.rollback > 0 ? rf_saves_rollback_step(t) : 0;
    int rc;
    RF_TRY_OUT(rf_gather_settle(&t->gather, err));
    RF_TRY_OUT(t->save.is_last ? RF_OK : choose_copy(s, copy, err));
    rc = rf_run_save_begin(&s->run, t->model, t->optimizer.m, t->optimizer.v, &info,
                           t->save.is_best, *copy, err);
out:
    free(info.run_config);
    free(info.corpora);
    free(info.state);
    return rc;
}

/* What the save came to, or a part of it. One that is skipped and would have been the best leaves the place of the best
 * to the next that is better than the one that was saved last, unless a better one has come meanwhile. */
static int judge(rf_trainer *t, int rc, rf_error *err)
{
    rf_setup *s = t->setup;
    const rf_save_of *of = &t->save;
    if (rc == RF_OK && of->is_best && s->run.save == NULL) { /* it is over */
        t->saved_best_loss = of->loss;
    }
    if (rc == RF_OK || of->is_last || !s->set.warn_when_full) {
        return rc;
    }
    if (of->is_best && t->progress.best_valid_loss == of->loss) {
        t->progress.best_valid_loss = t->saved_best_loss;
    }
    if (rf_dist_rank(s->dist) == 0) { /* all ranks know why: one says it */
        rf_log_warn("no checkpoint of step %" PRId64 ", training goes on (checkpoint.on_full): %s",
                    of->step, err->message);
    }
    rf_metrics_event(s->run.metrics, "no_checkpoint", of->step,
                     json_pack("{s:s}", "why", err->message));
    *err = (rf_error){0};
    return RF_OK;
}

int rf_saves_advance(rf_trainer *t, rf_error *err)
{
    if (t->setup->run.save == NULL) {
        return RF_OK;
    }
    rf_watchdog_enter(t->watchdog, "save", t->save.step);
    return judge(t, rf_run_save_advance(&t->setup->run, err), err);
}

int rf_saves_end(rf_trainer *t, rf_error *err)
{
    while (t->setup->run.save != NULL) {
        RF_TRY(rf_saves_advance(t, err));
    }
    return RF_OK;
}

int rf_saves_begin(rf_trainer *t, const rf_save_of *of, rf_error *err)
{
    bool copy = false;
    RF_TRY(rf_saves_end(t, err));
    rf_watchdog_enter(t->watchdog, "save", of->step);
    t->save = *of;
    RF_TRY(judge(t, begin(t, &copy, err), err));
    return copy ? RF_OK : rf_saves_end(t, err);
}
