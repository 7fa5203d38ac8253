#include "train/run/run_folder.h"

#include "common/base/failpoint.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "train/run/run_folder_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char best_name[] = "best";

/* --- What the folder holds -------------------------------------------------------------------- */

/* How many checkpoints there are of steps after `step`; does `what` with each, where it is not NULL. */
static int64_t look_at_newer(const char *folder, int64_t step, void (*what)(const char *path))
{
    int64_t n = 0;
    DIR *entries = opendir(folder);
    const struct dirent *entry;
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        char path[RF_PATH_BYTES + 300];
        if (rf_checkpoint_step(entry->d_name) <= step) {
            continue;
        }
        n++;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (what != NULL) {
            what(path);
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
    return n;
}

/* Does `latest` name a file that is there? Of any name: one that the run went on from, with nothing saved
 * since. */
static bool has_latest(const char *folder)
{
    char latest[RF_PATH_BYTES], path[RF_PATH_BYTES];
    return rf_path_join(latest, sizeof latest, folder, "latest", NULL) == RF_OK &&
           rf_checkpoint_follow(path, sizeof path, latest);
}

static void call_damaged(const char *path)
{
    char to[RF_PATH_BYTES + 320];
    snprintf(to, sizeof to, "%s.damaged", path);
    rf_log_warn("%s: renamed to %s.damaged", path, rf_path_name(path));
    if (rename(path, to) != 0) {
        rf_log_warn("%s: cannot be renamed: %s", path, strerror(errno));
    }
}

static void take_away(const char *path)
{
    if (unlink(path) != 0 && errno != ENOENT) {
        rf_log_warn("%s: cannot be removed: %s", path, strerror(errno));
    }
}

/* Does path name a file in this very folder? */
static bool is_inside(const char *path, const char *folder)
{
    char parent[RF_PATH_BYTES];
    return rf_path_folder(parent, sizeof parent, path, NULL) == RF_OK &&
           rf_path_is_same(parent, folder);
}

/* --- One process at a time --------------------------------------------------------------------- */

/* A job that was started again while the first still runs would mix with it. File systems without locks
 * go unguarded. */
static bool try_lock(rf_run *run)
{
    if (run->lock >= 0) {
        return true;
    }
    run->lock = open(run->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run->lock >= 0 && flock(run->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(run->lock);
        run->lock = -1;
        return false;
    }
    return true;
}

static int lock_folder(rf_run *run, rf_error *err)
{
    return try_lock(run) ? RF_OK
                         : rf_error_set(err, RF_ERR,
                                        "%s: another process trains in this folder: wait for it or "
                                        "stop it",
                                        run->folder);
}

/* Ranks whose mpirun was killed take a moment to end, and may still save. So one looks for what to go
 * on from when they have gone; while they stay, checkpoints come and go, and none can be relied on. */
static int wait_for_lock(rf_run *run, rf_error *err)
{
    if (!rf_path_is_folder(run->folder)) {
        return RF_OK; /* it will be made */
    }
    for (int tries = 0; tries < 50 && !try_lock(run); tries++) {
        usleep(100000);
    }
    return lock_folder(run, err);
}

/* --- Resume ----------------------------------------------------------------------------------- */

static int find_given(rf_run *run, const char *path, rf_error *err)
{
    bool any = rf_path_is_folder(path); /* the newest that is not damaged, as with `auto` */
    rf_checkpoint_info info = {0};
    if (any ? rf_path_is_same(path, run->folder) : is_inside(path, run->folder)) {
        RF_TRY(wait_for_lock(run, err));
    }
    if (any) {
        RF_TRY(rf_checkpoint_find(run->resume, sizeof run->resume, path, err));
        if (run->resume[0] == '\0') {
            return rf_error_set(err, RF_ERR_USAGE, "--resume %s: the folder has no checkpoint",
                                path);
        }
    } else if (!rf_path_exists(path) || strlen(path) >= sizeof run->resume) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--resume %s: there is no such file: name a checkpoint, or use "
                            "--resume auto",
                            path);
    } else {
        RF_TRY(rf_checkpoint_choose(run->resume, sizeof run->resume, path, err));
    }
    RF_TRY(rf_checkpoint_info_read(&info, run->resume, err));
    int64_t step = info.progress.step;
    rf_checkpoint_info_free(&info);
    bool here = is_inside(run->resume, run->folder);
    if ((!(any && here) && look_at_newer(run->folder, here ? step : -1, NULL) > 0) ||
        (!here && has_latest(run->folder))) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--resume %s: the run folder %s holds other checkpoints that the run "
                            "would overwrite: name another log.dir, or move them away",
                            path, run->folder);
    }
    return RF_OK;
}

static int find_alone(rf_run *run, rf_resume resume, const char *path, rf_error *err)
{
    if (resume == RF_RESUME_AUTO) {
        RF_TRY(wait_for_lock(run, err));
        RF_TRY(rf_checkpoint_find(run->resume, sizeof run->resume, run->folder, err));
        if (run->resume[0] != '\0' || path == NULL) {
            return RF_OK;
        }
    }
    if (path != NULL) {
        return find_given(run, path, err);
    }
    if (look_at_newer(run->folder, -1, NULL) > 0 || has_latest(run->folder)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%s holds checkpoints of a run: go on with --resume auto, or name "
                            "another log.dir",
                            run->folder);
    }
    return RF_OK;
}

/* Checkpoints of the folder are known by their names: one that has another step's would be taken for newer or
 * older than it is. */
static int check_name(const rf_run *run, rf_error *err)
{
    const int64_t named = rf_checkpoint_step(rf_path_name(run->resume));
    rf_checkpoint_info info = {0};
    if (named < 0 || !is_inside(run->resume, run->folder)) {
        return RF_OK;
    }
    RF_TRY(rf_checkpoint_info_read(&info, run->resume, err));
    const int64_t step = info.progress.step;
    rf_checkpoint_info_free(&info);
    return step == named ? RF_OK
                         : rf_error_set(err, RF_ERR_USAGE,
                                        "%s is of step %" PRId64 ": give it its own name, "
                                        "step-%09" PRId64 ".h5, or move it away",
                                        run->resume, step, step);
}

int rf_run_find(rf_run *run, rf_resume resume, const char *path, rf_error *err)
{
    int rc = RF_OK;
    if (rf_dist_rank(run->dist) == 0) {
        rc = find_alone(run, resume, path, err);
        rc = rc == RF_OK ? check_name(run, err) : rc;
    }
    RF_TRY(rf_dist_agree(run->dist, rc, err));
    return rf_dist_broadcast(run->dist, run->resume, sizeof run->resume, 0, err);
}

/* --- The folder's own files ------------------------------------------------------------------- */

/* The name in <folder>/best, where that file is of a step that this run has reached. */
static void read_best(rf_run *run, int64_t reached)
{
    char path[RF_PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    run->best[0] = '\0';
    if (rf_path_join(path, sizeof path, run->folder, best_name, NULL) == RF_OK &&
        rf_path_exists(path) && rf_file_read(&text, &bytes, path, 256, NULL) == RF_OK) {
        text[strcspn(text, "\n")] = '\0';
        int64_t step = rf_checkpoint_step(text);
        if (step >= 0 && step <= reached && strlen(text) < sizeof run->best) {
            snprintf(run->best, sizeof run->best, "%s", text);
        }
    }
    free(text);
}

int rf_run_write_best(const rf_run *run, const char *best, rf_error *err)
{
    char path[RF_PATH_BYTES], line[80];
    RF_TRY(rf_path_join(path, sizeof path, run->folder, best_name, err));
    if (best[0] == '\0') {
        return unlink(path) == 0 || errno == ENOENT
                   ? RF_OK
                   : rf_error_system(err, errno, path, "cannot remove it");
    }
    int n = snprintf(line, sizeof line, "%s\n", best);
    return rf_file_write_own(path, line, (size_t)n, err);
}

/* With checkpoint.best=false the run no longer says which is its best: the folder stands for the latest. */
static int forget_best(rf_run *run, rf_error *err)
{
    if (run->best[0] != '\0') {
        rf_log_info("checkpoint.best=false: %s, the best so far, is kept no longer than others",
                    run->best);
    }
    run->best[0] = '\0';
    return rf_run_write_best(run, "", err);
}

/* The validation loss that the checkpoint in run->best was the best with; infinity without one. */
static double marked_loss(const rf_run *run)
{
    char path[RF_PATH_BYTES];
    rf_checkpoint_info info = {0};
    double loss = (double)INFINITY;
    if (run->best[0] != '\0' &&
        rf_path_join(path, sizeof path, run->folder, run->best, NULL) == RF_OK &&
        rf_checkpoint_info_read(&info, path, NULL) == RF_OK) {
        loss = info.progress.best_valid_loss;
    }
    rf_checkpoint_info_free(&info);
    return loss;
}

/* A run that was killed between a best checkpoint and its mark has validated at that very step, with
 * another best loss than the marked one's, and will not do so again. A lower one, as a rule; a higher one
 * is of other rows than those that the mark was set for. Infinity: none is of the rows of now. */
static int mend_best(rf_run *run, double best_loss, rf_error *err)
{
    const char *name = rf_path_name(run->resume);
    const double marked = marked_loss(run);
    size_t bytes = strlen(name) + 1;
    if (bytes > sizeof run->best || !run->keeps_best || !rf_metrics_had(run->metrics, "valid") ||
        rf_checkpoint_step(name) < 0 || !isfinite(best_loss) ||
        !(best_loss < marked || best_loss > marked)) {
        return RF_OK;
    }
    memcpy(run->best, name, bytes);
    return rf_run_write_best(run, run->best, err);
}

static int write_config(const rf_run *run, const rf_config *config, rf_error *err)
{
    char path[RF_PATH_BYTES];
    RF_TRY(rf_path_join(path, sizeof path, run->folder, "config.yaml", err));
    char *text = rf_config_text(config, true);
    int rc = rf_file_write_own(path, text, strlen(text), err);
    free(text);
    return rc;
}

static int open_metrics(rf_run *run, int64_t step, rf_error *err)
{
    return rf_metrics_open(&run->metrics, run->folder, step, run->trained, run->tensorboard, err);
}

static int begin_alone(rf_run *run, const rf_config *config, const rf_progress *progress, bool here,
                       rf_error *err)
{
    char behind[RF_PATH_BYTES]; /* a link may name a folder that is not there yet */
    RF_TRY(rf_output_resolve_folder(behind, run->folder, err));
    RF_TRY(rf_file_make_folder(behind, err));
    RF_TRY(lock_folder(run, err));
    if (here) {
        look_at_newer(run->folder, progress->step, call_damaged);
        read_best(run, progress->step);
        RF_TRY(run->keeps_best ? RF_OK : forget_best(run, err));
    }
    RF_TRY(write_config(run, config, err));
    RF_TRY(open_metrics(run, progress->step, err));
    if (!here) {
        return RF_OK;
    }
    RF_TRY(mend_best(run, progress->best_valid_loss, err));
    /* `latest` may be an older one, where a kill came between */
    return rf_checkpoint_publish(run->resume, &(rf_checkpoint_keep){0}, err);
}

/* Is the file there that rank 0 has just made in the folder? */
static int find_mark(const rf_run *run, const char *mark, rf_error *err)
{
    for (int tries = 0; access(mark, F_OK) != 0; tries++) {
        if (tries == 20) { /* a file system of several hosts may take a moment */
            return rf_error_set(err, RF_ERR,
                                "the run folder %s, which rank 0 has made, is not here: name a "
                                "log.dir on a file system that all ranks share",
                                run->folder);
        }
        usleep(100000);
    }
    return RF_OK;
}

/* collective. A folder of that name may be there and be another one, such as a copy on a disk of its
 * own: so rank 0 leaves a file for a moment, named as one that a killed process left behind. */
static int see_folder(const rf_run *run, rf_error *err)
{
    const bool marks = rf_dist_rank(run->dist) == 0;
    char mark[RF_PATH_BYTES + 64];
    int64_t pid = getpid();
    int rc = RF_OK;
    if (rf_dist_size(run->dist) == 1) {
        return RF_OK;
    }
    RF_TRY(rf_dist_broadcast(run->dist, &pid, sizeof pid, 0, err));
    snprintf(mark, sizeof mark, "%s/config.yaml.tmp-%" PRId64, run->folder, pid);
    if (marks) {
        rc = rf_file_write(mark, "", 0, err);
    }
    rc = rf_dist_agree(run->dist, rc, err);
    rc = rc == RF_OK ? rf_dist_agree(run->dist, find_mark(run, mark, err), err) : rc;
    if (marks) {
        unlink(mark);
    }
    return rc;
}

int rf_run_check(const rf_run *run, rf_error *err)
{
    char path[RF_PATH_BYTES], parent[RF_PATH_BYTES];
    RF_TRY(rf_output_resolve_folder(path, run->folder, err));
    struct stat status;
    while (lstat(path, &status) != 0 && (errno == ENOENT || errno == ENOTDIR)) {
        RF_TRY(rf_path_folder(parent, sizeof parent, path, err));
        memcpy(path, parent, sizeof path);
    }
    return rf_output_try_folder(path, err) == RF_OK
               ? RF_OK
               : rf_error_prefix(err, "the run folder %s cannot be made", run->folder);
}

int rf_run_begin(rf_run *run, const rf_config *config, const rf_progress *progress, rf_error *err)
{
    bool here = run->resume[0] != '\0' && is_inside(run->resume, run->folder);
    int rc = RF_OK;
    run->saved_step = here ? progress->step : -1;
    if (rf_dist_rank(run->dist) == 0) {
        rc = begin_alone(run, config, progress, here, err);
        rc = rc != RF_OK ? rf_error_prefix(err, "the run folder") : RF_OK;
    }
    RF_TRY(rf_dist_agree(run->dist, rc, err));
    return see_folder(run, err);
}

static int go_back_alone(rf_run *run, int64_t step, rf_error *err)
{
    RF_TRY(rf_failpoint_visit("rollback", err));
    look_at_newer(run->folder, step, take_away);
    RF_TRY(rf_failpoint_visit("rollback", err));
    read_best(run, step);
    rf_metrics_close(run->metrics);
    run->metrics = NULL;
    RF_TRY(open_metrics(run, step, err));
    return rf_failpoint_visit("rollback", err);
}

int rf_run_go_back(rf_run *run, int64_t step, rf_error *err)
{
    int rc = rf_dist_rank(run->dist) == 0 ? go_back_alone(run, step, err) : RF_OK;
    run->saved_step = -1;
    return rf_dist_agree(run->dist, rc, err);
}

void rf_run_close(rf_run *run)
{
    rf_run_save_abandon(run);
    rf_checkpoint_buffer_free(&run->copy);
    rf_metrics_close(run->metrics);
    if (run->lock >= 0) {
        close(run->lock);
    }
    *run = (rf_run){.lock = -1};
}
