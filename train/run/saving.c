#include "common/base/alloc.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "train/run/run_folder_private.h"

#include <jansson.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

/* What is done beside training, one after the other: */
typedef enum save_phase {
    WRITING,   /* every rank: its values are copied, then written */
    COMMITTING /* rank 0: the file is completed and gets its name; the others have nothing to do */
} save_phase;

/* A save under way. */
typedef struct rf_save {
    const rf_run *run;
    char path[RF_PATH_BYTES];
    int64_t step;
    bool is_best;
    double begin, pause; /* when; for how long training stood still, so far */
    rf_checkpoint_writer *writer;
    save_phase phase;
    char best[64];      /* name of the best checkpoint once this one is there */
    rf_error committed; /* rank 0: what that came to */
    bool beside;        /* where threads can be had */
    bool has_thread;
    pthread_t thread;
    atomic_bool through; /* the phase */
    sem_t copied;        /* posted when the values may change */
    bool is_settled;     /* that has been waited for */
} rf_save;

/* Rank 0, when the file has its name. Where the rest fails `best` goes back to the one that is kept. */
static int publish(const rf_save *save, rf_error *err)
{
    const rf_run *run = save->run;
    if (save->is_best) {
        RF_TRY(rf_failpoint_visit("best", err));
        RF_TRY(rf_run_write_best(run, save->best, err));
    }
    rf_checkpoint_keep keep = run->keep;
    keep.best = save->best[0] != '\0' ? save->best : NULL;
    const int rc = rf_checkpoint_publish(save->path, &keep, err);
    if (rc != RF_OK && save->is_best) {
        const int back = rf_run_write_best(run, run->best, NULL);
        (void)back; /* what has failed is told */
    }
    return rc;
}

static int commit(const rf_save *save, rf_error *err)
{
    RF_TRY(rf_checkpoint_writer_commit(save->writer, err));
    return rf_dist_rank(save->run->dist) == 0 ? publish(save, err) : RF_OK;
}

static void *run_phase(void *argument)
{
    rf_save *save = argument;
    if (save->phase == WRITING) {
        rf_checkpoint_writer_copy(save->writer);
        sem_post(&save->copied);
        rf_checkpoint_writer_write(save->writer);
    } else if (commit(save, &save->committed) == RF_OK) {
        save->committed = (rf_error){0};
    }
    atomic_store(&save->through, true);
    return NULL;
}

/* Without a copy, or without a thread, it is done now. A lack of threads is no reason to fail. */
static void start(rf_save *save, save_phase phase)
{
    rf_error err = {0};
    save->phase = phase;
    atomic_store(&save->through, false);
    save->has_thread =
        save->beside && rf_thread_start(&save->thread, run_phase, save,
                                        "the thread that writes checkpoints", &err) == RF_OK;
    if (save->beside && !save->has_thread) {
        rf_log_warn("%s: training waits while checkpoints are written", err.message);
    }
    if (!save->has_thread) {
        run_phase(save);
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
    *save = (rf_save){.run = run,
                      .step = info->progress.step,
                      .is_best = is_best,
                      .begin = rf_log_seconds(),
                      .beside = copy};
    rf_checkpoint_path(save->path, sizeof save->path, run->folder, save->step);
    snprintf(save->best, sizeof save->best, "%s", is_best ? rf_path_name(save->path) : run->best);
    int rc = rf_checkpoint_snapshot(&save->writer, save->path, run->dist, model, adam_m, adam_v,
                                    info, copy ? &run->copy : NULL, err);
    if (rc != RF_OK) {
        free(save);
        return rc;
    }
    sem_init(&save->copied, 0, 0);
    start(save, WRITING);
    save->pause = rf_log_seconds() - save->begin;
    run->save = save;
    return RF_OK;
}

void rf_run_save_settle(rf_run *run)
{
    rf_save *save = run->save;
    if (save == NULL || save->is_settled) {
        return;
    }
    const double begin = rf_log_seconds();
    while (sem_wait(&save->copied) != 0) {
        /* a signal came */
    }
    save->is_settled = true;
    save->pause += rf_log_seconds() - begin;
}

bool rf_run_save_is_busy(const rf_run *run)
{
    return run->save != NULL && !atomic_load(&run->save->through);
}

static void report(const rf_run *run, const rf_save *save)
{
    double seconds = rf_log_seconds() - save->begin;
    rf_metrics_event(run->metrics, "checkpoint", save->step,
                     json_pack("{s:s,s:b,s:f,s:f,s:b,s:I}", "path", save->path, "best",
                               (int)save->is_best, "seconds", seconds, "pause_seconds", save->pause,
                               "async", (int)save->beside, "bytes",
                               (json_int_t)rf_checkpoint_writer_bytes(save->writer)));
    rf_metrics_sync(run->metrics);
    rf_log_info("checkpoint %s (%.2f s, of which training waited %.2f s)%s", save->path, seconds,
                save->pause, save->is_best ? ", the best so far" : "");
}

static int end_phase(rf_run *run, rf_save *save, bool *is_over, rf_error *err)
{
    const double begin = rf_log_seconds();
    join(save);
    *is_over = save->phase == COMMITTING;
    if (!*is_over) {
        RF_TRY(rf_checkpoint_writer_collect(save->writer, err));
        start(save, COMMITTING);
        save->pause += rf_log_seconds() - begin;
        return RF_OK;
    }
    RF_TRY(rf_dist_agree(run->dist, rf_error_pass(err, &save->committed), err));
    run->saved_step = save->step;
    snprintf(run->best, sizeof run->best, "%s", save->best);
    save->pause += rf_log_seconds() - begin;
    report(run, save);
    return RF_OK;
}

int rf_run_save_advance(rf_run *run, rf_error *err)
{
    bool is_over = true;
    const int rc = run->save != NULL ? end_phase(run, run->save, &is_over, err) : RF_OK;
    if (rc != RF_OK || is_over) {
        rf_run_save_abandon(run);
    }
    return rc;
}

void rf_run_save_abandon(rf_run *run)
{
    if (run->save != NULL) {
        join(run->save);
        sem_destroy(&run->save->copied);
        rf_checkpoint_writer_free(run->save->writer);
        free(run->save);
        run->save = NULL;
    }
}
