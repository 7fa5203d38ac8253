#include "train/run_folder.h"

#include "common/base/failpoint.h"
#include "common/base/file.h"
#include "common/base/log.h"

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

static int64_t step_of(const char *name)
{
    int64_t step = -1;
    int end = 0;
    bool matches = sscanf(name, "step-%" SCNd64 ".h5%n", &step, &end) == 1 && end > 0;
    return matches && name[end] == '\0' ? step : -1;
}

/* Renames the checkpoints of steps after `step` where asked to. */
static int64_t look_at_newer(const char *folder, int64_t step, bool rename_them)
{
    int64_t n = 0;
    DIR *entries = opendir(folder);
    const struct dirent *entry;
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        if (step_of(entry->d_name) <= step) {
            continue;
        }
        n++;
        if (rename_them) {
            char from[RF_TRAINER_PATH + 300], to[RF_TRAINER_PATH + 320];
            snprintf(from, sizeof from, "%s/%s", folder, entry->d_name);
            snprintf(to, sizeof to, "%s.damaged", from);
            rf_log_warn("%s: renamed to %s.damaged", from, entry->d_name);
            if (rename(from, to) != 0) {
                rf_log_warn("%s: cannot be renamed: %s", from, strerror(errno));
            }
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
    return n;
}

static bool is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* Does path name a file in this very folder? */
static bool is_inside(const char *path, const char *folder)
{
    char parent[RF_TRAINER_PATH];
    const char *slash = strrchr(path, '/');
    struct stat a, b;
    snprintf(parent, sizeof parent, "%.*s", slash != NULL ? (int)(slash - path) : 1,
             slash != NULL ? path : ".");
    return stat(parent[0] != '\0' ? parent : "/", &a) == 0 && stat(folder, &b) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* --- Resume ----------------------------------------------------------------------------------- */

static int find_given(rf_trainer *t, const char *path, rf_error *err)
{
    const char *folder = t->set.folder;
    if (is_folder(path)) {
        int rc = rf_checkpoint_find(t->resume, sizeof t->resume, path, err);
        if (rc == RF_OK && t->resume[0] == '\0') {
            rc = rf_error_set(err, RF_ERR_USAGE, "--resume %s: the folder has no checkpoint", path);
        }
        return rc;
    }
    if (!rf_file_exists(path) || strlen(path) >= sizeof t->resume) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--resume %s: there is no such file: name a checkpoint, or use "
                            "--resume auto",
                            path);
    }
    snprintf(t->resume, sizeof t->resume, "%s", path);
    rf_checkpoint_info info = {0};
    int rc = rf_checkpoint_info_read(&info, path, err);
    bool newer =
        rc == RF_OK &&
        look_at_newer(folder, is_inside(path, folder) ? info.progress.step : -1, false) > 0;
    rf_checkpoint_info_free(&info);
    if (rc == RF_OK && newer) {
        rc = rf_error_set(err, RF_ERR_USAGE,
                          "--resume %s: the run folder %s holds other checkpoints that the run "
                          "would overwrite: name another log.dir, or move them away",
                          path, folder);
    }
    return rc;
}

int rf_run_folder_find(rf_trainer *t, rf_resume resume, const char *path, rf_error *err)
{
    int rc = RF_OK;
    t->resume[0] = '\0';
    if (rf_dist_rank(t->dist) == 0) {
        if (resume == RF_RESUME_AUTO) {
            rc = rf_checkpoint_find(t->resume, sizeof t->resume, t->set.folder, err);
        } else if (resume == RF_RESUME_PATH) {
            rc = find_given(t, path, err);
        } else if (look_at_newer(t->set.folder, -1, false) > 0) {
            rc = rf_error_set(err, RF_ERR_USAGE,
                              "%s holds checkpoints of a run: go on with --resume auto, or name "
                              "another log.dir",
                              t->set.folder);
        }
    }
    rc = rf_dist_agree(t->dist, rc, err);
    return rc != RF_OK ? rc : rf_dist_broadcast(t->dist, t->resume, sizeof t->resume, 0, err);
}

static int check_config(const rf_trainer *t, const char *text, rf_error *err)
{
    static const rf_config_key *const tables[] = {rf_model_keys, rf_data_keys,   rf_objective_keys,
                                                  rf_train_keys, rf_decode_keys, NULL};
    rf_config *then = rf_config_new(tables);
    int rc = rf_config_load_text(then, text, t->resume, err);
    if (rc != RF_OK) {
        rf_error_prefix(err, "the configuration in the checkpoint");
        goto out;
    }
    const char *key = rf_config_conflict(then, t->config);
    if (key != NULL) {
        rc = rf_error_set(err, RF_ERR_USAGE,
                          "%s: %s is not what the checkpoint %s was trained with: set it back (the "
                          "run's config.yaml has it), or begin a new run with model.init",
                          rf_config_origin(t->config, key), key, t->resume);
    }
out:
    rf_config_free(then);
    return rc;
}

int rf_run_folder_check(rf_trainer *t, rf_error *err)
{
    rf_checkpoint_info info = {0};
    t->progress = (rf_progress){.seed = (int64_t)t->set.seed, .best_valid_loss = (double)INFINITY};
    if (t->resume[0] == '\0') {
        return RF_OK;
    }
    int rc = rf_checkpoint_info_read(&info, t->resume, err);
    if (rc != RF_OK) {
        return rc;
    }
    if (!info.has_optimizer) {
        rc = rf_error_set(err, RF_ERR,
                          "%s holds a model without the optimizer's state: begin a new run with "
                          "model.init=%s",
                          t->resume, t->resume);
        goto out;
    }
    rc = check_config(t, info.run_config, err);
    if (rc == RF_OK) {
        rc = rf_sources_match(&t->sources, info.corpora, t->resume, err);
    }
    if (rc != RF_OK) {
        goto out;
    }
    t->progress = info.progress;
    if (strcmp(info.isa, t->backend->isa) != 0) {
        rf_log_info("%s was written with %s kernels and this machine uses %s: the last bits will "
                    "differ from those of an uninterrupted run",
                    t->resume, info.isa, t->backend->isa);
    }
out:
    rf_checkpoint_info_free(&info);
    return rc;
}

/* --- The folder's own files ------------------------------------------------------------------- */

/* The name in <folder>/best, where that file is of a step that this run has reached. */
static void read_best(rf_trainer *t)
{
    char path[RF_TRAINER_PATH + 16], *text = NULL;
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/%s", t->set.folder, best_name);
    t->best[0] = '\0';
    if (rf_file_exists(path) && rf_file_read(&text, &bytes, path, 256, NULL) == RF_OK) {
        text[strcspn(text, "\n")] = '\0';
        int64_t step = step_of(text);
        if (step >= 0 && step <= t->progress.step && strlen(text) < sizeof t->best) {
            snprintf(t->best, sizeof t->best, "%s", text);
        }
    }
    free(text);
}

static int write_best(const rf_trainer *t, rf_error *err)
{
    char path[RF_TRAINER_PATH + 16], line[80];
    snprintf(path, sizeof path, "%s/%s", t->set.folder, best_name);
    int n = snprintf(line, sizeof line, "%s\n", t->best);
    return rf_file_write(path, line, (size_t)n, err);
}

/* The validation loss that the checkpoint in t->best was the best with; infinity without one. */
static double marked_loss(const rf_trainer *t)
{
    char path[RF_TRAINER_PATH + 80];
    rf_checkpoint_info info = {0};
    double loss = (double)INFINITY;
    snprintf(path, sizeof path, "%s/%s", t->set.folder, t->best);
    if (t->best[0] != '\0' && rf_checkpoint_info_read(&info, path, NULL) == RF_OK) {
        loss = info.progress.best_valid_loss;
    }
    rf_checkpoint_info_free(&info);
    return loss;
}

/* A run that was killed between a best checkpoint and its mark has validated at that very step,
 * with a lower loss than the marked one's, and will not do so again. */
static int mend_best(rf_trainer *t, rf_error *err)
{
    const char *slash = strrchr(t->resume, '/'), *name = slash != NULL ? slash + 1 : t->resume;
    if (!t->set.checkpoint_best || !rf_metrics_had(t->metrics, "valid") || step_of(name) < 0 ||
        !(t->progress.best_valid_loss < marked_loss(t))) {
        return RF_OK;
    }
    snprintf(t->best, sizeof t->best, "%s", name);
    return write_best(t, err);
}

static int write_config(const rf_trainer *t, rf_error *err)
{
    char path[RF_TRAINER_PATH + 16];
    char *text = rf_config_text(t->config, true);
    snprintf(path, sizeof path, "%s/config.yaml", t->set.folder);
    if (text == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for %s", path);
    }
    int rc = rf_file_write(path, text, strlen(text), err);
    free(text);
    return rc;
}

/* One process at a time: a job that was started again while the first still runs would mix with it.
 * File systems without locks go unguarded. */
static int lock_folder(rf_trainer *t, rf_error *err)
{
    t->folder_lock = open(t->set.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->folder_lock >= 0 && flock(t->folder_lock, LOCK_EX | LOCK_NB) != 0 &&
        errno == EWOULDBLOCK) {
        return rf_error_set(err, RF_ERR,
                            "%s: another process trains in this folder: wait for it or stop it",
                            t->set.folder);
    }
    return RF_OK;
}

static int begin_alone(rf_trainer *t, rf_error *err)
{
    const char *folder = t->set.folder;
    int rc = rf_file_make_folder(folder, err);
    if (rc == RF_OK) {
        rc = lock_folder(t, err);
    }
    bool here = t->resume[0] != '\0' && is_inside(t->resume, folder);
    if (rc == RF_OK && here) {
        look_at_newer(folder, t->progress.step, true);
        read_best(t);
    }
    if (rc == RF_OK) {
        rc = write_config(t, err);
    }
    if (rc == RF_OK) {
        rc = rf_metrics_open(&t->metrics, folder, t->progress.step, err);
    }
    if (rc == RF_OK && here) {
        rc = mend_best(t, err);
    }
    return rc != RF_OK ? rf_error_prefix(err, "the run folder") : RF_OK;
}

int rf_run_folder_begin(rf_trainer *t, rf_error *err)
{
    int rc = rf_dist_rank(t->dist) == 0 ? begin_alone(t, err) : RF_OK;
    bool here = t->resume[0] != '\0' && is_inside(t->resume, t->set.folder);
    t->saved_step = here ? t->progress.step : -1;
    return rf_dist_agree(t->dist, rc, err);
}

/* --- Saving ----------------------------------------------------------------------------------- */

static int publish(rf_trainer *t, const char *path, bool is_best, rf_error *err)
{
    const char *slash = strrchr(path, '/');
    int rc = RF_OK;
    if (is_best) {
        snprintf(t->best, sizeof t->best, "%s", slash + 1);
        rc = rf_failpoint_visit("best", err);
        rc = rc == RF_OK ? write_best(t, err) : rc;
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_publish(path, t->set.checkpoint_keep,
                                   t->best[0] != '\0' ? t->best : NULL, err);
    }
    return rc;
}

static int save(rf_trainer *t, const char *path, rf_error *err)
{
    rf_checkpoint_info info = {.model = t->shape, .progress = t->progress, .has_optimizer = true};
    /* The tokenizer belongs to the corpus; saving reads it only. */
    info.tokenizer = (rf_tokenizer *)t->sources.tokenizer;
    info.corpora = t->corpora;
    info.run_config = rf_config_text(t->config, false);
    snprintf(info.isa, sizeof info.isa, "%s", t->backend->isa);
    snprintf(info.written_by, sizeof info.written_by, "refusion-train %s", RF_VERSION);
    int rc = info.run_config != NULL
                 ? RF_OK
                 : rf_error_set(err, RF_ERR, "no memory for the run's configuration");
    rc = rf_dist_agree(t->dist, rc, err);
    if (rc == RF_OK) {
        rc =
            rf_checkpoint_save(path, t->dist, t->model, t->optimizer.m, t->optimizer.v, &info, err);
    }
    free(info.run_config);
    return rc;
}

int rf_run_folder_save(rf_trainer *t, bool is_best, rf_error *err)
{
    char path[RF_TRAINER_PATH + 64];
    double begin = rf_log_seconds();
    int rc = RF_OK;
    rf_checkpoint_path(path, sizeof path, t->set.folder, t->progress.step);
    if (t->saved_step == t->progress.step && !is_best) {
        return RF_OK;
    }
    rf_watchdog_enter(t->watchdog, "save", t->progress.step);
    t->progress.seconds = t->seconds_before + (begin - t->begin);
    rc = save(t, path, err);
    if (rc != RF_OK) {
        return rc;
    }
    t->saved_step = t->progress.step;
    rc = rf_dist_rank(t->dist) == 0 ? publish(t, path, is_best, err) : RF_OK;
    rc = rf_dist_agree(t->dist, rc, err);
    if (rc != RF_OK) {
        return rc;
    }
    rf_metrics_event(t->metrics, "checkpoint", t->progress.step,
                     json_pack("{s:s,s:b,s:f}", "path", path, "best", (int)is_best, "seconds",
                               rf_log_seconds() - begin));
    rf_metrics_sync(t->metrics);
    rf_log_info("checkpoint %s (%.2f s)%s", path, rf_log_seconds() - begin,
                is_best ? ", the best so far" : "");
    return RF_OK;
}
