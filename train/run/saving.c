#include "common/base/alloc.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "train/run/run_folder_private.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>

/* A save under way. */
typedef struct rf_save {
    char path[RF_PATH_BYTES];
    int64_t step;
    bool is_best;
    double begin, pause; /* when; for how long training stood still, so far */
    rf_checkpoint_writer *writer;
    bool has_thread;
    pthread_t thread;
    atomic_bool written; /* the thread is through */
} rf_save;

static void *write_beside(void *argument)
{
    rf_save *save = argument;
    rf_checkpoint_writer_write(save->writer);
    atomic_store(&save->written, true);
    return NULL;
}

/* Without a copy, or without a thread, it is written now. A lack of threads is no reason to fail. */
static void start_writing(rf_save *save, bool copy)
{
    rf_error err = {0};
    save->has_thread = copy && rf_thread_start(&save->thread, write_beside, save,
                                               "the thread that writes checkpoints", &err) == RF_OK;
    if (copy && !save->has_thread) {
        rf_log_warn("%s: training waits while checkpoints are written", err.message);
    }
    if (!save->has_thread) {
        write_beside(save);
    }
}

static void join(rf_save *save)
{
    if (save->has_thread) {
        pthread_join(save->thread, NULL);
        save->has_thread = false;
    }
}

int rf_run_save_begin(rf_run *run, rf_model *model, const void *adam_m, const void *adam_v,
                      const rf_checkpoint_info *info, bool is_best, bool copy, rf_error *err)
{
    RF_ASSERT(run->save == NULL);
    if (run->saved_step == info->progress.step && !is_best) {
        return RF_OK;
    }
    rf_save *save = rf_alloc(1, sizeof *save);
    save->step = info->progress.step;
    save->is_best = is_best;
    save->begin = rf_log_seconds();
    atomic_init(&save->written, false);
    rf_checkpoint_path(save->path, sizeof save->path, run->folder, save->step);
    int rc = rf_checkpoint_snapshot(&save->writer, save->path, run->dist, model, adam_m, adam_v,
                                    info, copy ? &run->copy : NULL, err);
    if (rc != RF_OK) {
        free(save);
        return rc;
    }
    start_writing(save, copy);
    save->pause = rf_log_seconds() - save->begin;
    run->save = save;
    return RF_OK;
}

bool rf_run_save_writes(const rf_run *run)
{
    return run->save != NULL && !atomic_load(&run->save->written);
}

static int publish(rf_run *run, const rf_save *save, rf_error *err)
{
    if (save->is_best) {
        snprintf(run->best, sizeof run->best, "%s", rf_path_name(save->path));
        RF_TRY(rf_failpoint_visit("best", err));
        RF_TRY(rf_run_write_best(run, err));
    }
    rf_checkpoint_keep keep = run->keep;
    keep.best = run->best[0] != '\0' ? run->best : NULL;
    return rf_checkpoint_publish(save->path, &keep, err);
}

static void report(const rf_run *run, const rf_save *save, bool beside)
{
    double seconds = rf_log_seconds() - save->begin;
    rf_metrics_event(run->metrics, "checkpoint", save->step,
                     json_pack("{s:s,s:b,s:f,s:f,s:b,s:I}", "path", save->path, "best",
                               (int)save->is_best, "seconds", seconds, "pause_seconds", save->pause,
                               "async", (int)beside, "bytes",
                               (json_int_t)rf_checkpoint_writer_bytes(save->writer)));
    rf_metrics_sync(run->metrics);
    rf_log_info("checkpoint %s (%.2f s, of which training waited %.2f s)%s", save->path, seconds,
                save->pause, save->is_best ? ", the best so far" : "");
}

static int finish(rf_run *run, rf_save *save, rf_error *err)
{
    const double begin = rf_log_seconds();
    const bool beside = save->has_thread;
    join(save);
    RF_TRY(rf_checkpoint_writer_finish(save->writer, err));
    run->saved_step = save->step;
    int rc = rf_dist_rank(run->dist) == 0 ? publish(run, save, err) : RF_OK;
    RF_TRY(rf_dist_agree(run->dist, rc, err));
    save->pause += rf_log_seconds() - begin;
    report(run, save, beside);
    return RF_OK;
}

int rf_run_save_end(rf_run *run, rf_error *err)
{
    int rc = run->save != NULL ? finish(run, run->save, err) : RF_OK;
    rf_run_save_abandon(run);
    return rc;
}

void rf_run_save_abandon(rf_run *run)
{
    if (run->save != NULL) {
        join(run->save);
        rf_checkpoint_writer_free(run->save->writer);
        free(run->save);
        run->save = NULL;
    }
}
