#include "common/store/checkpoint_private.h"

#include "common/base/alloc.h"
#include "common/base/failpoint.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "common/base/thread.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- Names ------------------------------------------------------------------------------------ */

void rf_checkpoint_path(char *path, size_t bytes, const char *folder, int64_t step)
{
    int n = snprintf(path, bytes, "%s/step-%09" PRId64 ".h5", folder, step);
    if ((n < 0 || (size_t)n >= bytes) && bytes > 0) {
        path[0] = '\0';
    }
}

int64_t rf_checkpoint_step(const char *name)
{
    char again[64];
    if (strncmp(name, "step-", 5) != 0) {
        return -1;
    }
    errno = 0;
    int64_t step = strtoll(name + 5, NULL, 10);
    snprintf(again, sizeof again, "step-%09" PRId64 ".h5", step);
    return errno == 0 && step >= 0 && strcmp(again, name) == 0 ? step : -1;
}

/* Is `name` a left-over of a checkpoint or of `latest`? */
static bool is_left_over(const char *name)
{
    char base[64];
    const char *mark = strstr(name, ".tmp-");
    if (mark == NULL || (size_t)(mark - name) >= sizeof base) {
        return false;
    }
    snprintf(base, sizeof base, "%.*s", (int)(mark - name), name);
    return (rf_checkpoint_step(base) >= 0 || strcmp(base, "latest") == 0) &&
           rf_output_is_left_over(name, base);
}

/* --- Listing ---------------------------------------------------------------------------------- */

typedef struct listing {
    int64_t *step; /* newest first */
    int64_t n;
    size_t capacity;
} listing;

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Lists the checkpoints of a folder; a folder that does not exist has none. Removes left-overs
 * where asked to. */
static int list_folder(listing *list, const char *folder, bool clean, rf_error *err)
{
    DIR *entries = opendir(folder);
    if (entries == NULL) {
        return errno == ENOENT ? RF_OK
                               : rf_error_system(err, errno, folder, "cannot open the folder");
    }
    int rc = RF_OK;
    const struct dirent *entry;
    errno = 0;
    while ((entry = readdir(entries)) != NULL) {
        int64_t step = rf_checkpoint_step(entry->d_name);
        if (step >= 0) {
            list->step =
                rf_alloc_grow(list->step, &list->capacity, (size_t)list->n + 1, sizeof *list->step);
            list->step[list->n++] = step;
        } else if (clean && is_left_over(entry->d_name)) {
            unlinkat(dirfd(entries), entry->d_name, 0);
        }
        errno = 0;
    }
    if (errno != 0) {
        rc = rf_error_system(err, errno, folder, "cannot list the folder");
    }
    closedir(entries);
    if (list->n > 0) {
        qsort(list->step, (size_t)list->n, sizeof *list->step, newest_first);
    }
    return rc;
}

/* --- Publish ---------------------------------------------------------------------------------- */

static int write_latest(const char *folder, const char *name, rf_error *err)
{
    char latest[RF_PATH_BYTES + 16], line[300];
    snprintf(latest, sizeof latest, "%s/latest", folder);
    int n = snprintf(line, sizeof line, "%s\n", name);
    if (n < 0 || (size_t)n >= sizeof line) {
        return rf_error_set(err, RF_ERR, "%s: the name of the checkpoint is too long", name);
    }
    return rf_file_write_own(latest, line, (size_t)n, err);
}

/* Is the i-th newest kept? path: the one that has just been saved. */
static bool is_kept(const rf_checkpoint_keep *keep, const char *path, const char *name, int64_t i,
                    int64_t step)
{
    return i < keep->newest || strcmp(name, rf_path_name(path)) == 0 || step == keep->step ||
           (keep->every > 0 && step % keep->every == 0) ||
           (keep->best != NULL && strcmp(name, keep->best) == 0);
}

static void *close_beside(void *descriptor)
{
    close((int)(intptr_t)descriptor);
    return NULL;
}

/* Gone at once, while a thread waits for the file system to free its blocks, which it does at the last close:
 * a third of a second for a gigabyte, for which nobody else needs to wait. */
static int remove_file(const char *path)
{
    pthread_t thread;
    const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    const int rc = unlink(path), reason = errno;
    if (fd >= 0 && rf_thread_start(&thread, close_beside, (void *)(intptr_t)fd,
                                   "the thread that frees old checkpoints", NULL) == RF_OK) {
        pthread_detach(thread);
    } else if (fd >= 0) {
        close(fd);
    }
    errno = reason;
    return rc;
}

/* One that cannot be removed costs space, not the run: a warning. */
static void prune(const listing *list, const char *folder, const rf_checkpoint_keep *keep,
                  const char *path)
{
    for (int64_t i = 0; i < list->n; i++) {
        char old[RF_PATH_BYTES + 64];
        rf_checkpoint_path(old, sizeof old, folder, list->step[i]);
        if (!is_kept(keep, path, rf_path_name(old), i, list->step[i]) && remove_file(old) != 0 &&
            errno != ENOENT) {
            rf_log_warn("%s: cannot remove the old checkpoint: %s", old, strerror(errno));
        }
    }
}

int rf_checkpoint_publish(const char *path, const rf_checkpoint_keep *keep, rf_error *err)
{
    char folder[RF_PATH_BYTES];
    const char *name = rf_path_name(path);
    listing list = {0};
    int rc = RF_OK;
    RF_TRY(rf_path_folder(folder, sizeof folder, path, err));
    if (name[0] == '\0') {
        return rf_error_set(err, RF_ERR, "\"%.64s\": not the path of a checkpoint", path);
    }
    if (!rf_path_exists(path)) {
        return rf_error_set(err, RF_ERR, "%s: there is no such checkpoint to publish", path);
    }
    RF_TRY(rf_failpoint_visit("latest", err));
    RF_TRY(write_latest(folder, name, err));
    RF_TRY(rf_failpoint_visit("prune", err));
    RF_TRY_OUT(list_folder(&list, folder, true, err));
    if (keep->newest > 0) {
        prune(&list, folder, keep, path);
    }
out:
    free(list.step);
    return rc;
}

/* --- Pointers --------------------------------------------------------------------------------- */

/* Is there a file that the text file <folder>/<pointer> names? Sets path. Of any name, for a run may be
 * gone on with from a file of the user's. */
static bool follow(char *path, size_t bytes, const char *folder, const char *pointer)
{
    char file[RF_PATH_BYTES + 16], *text = NULL;
    size_t n = 0;
    snprintf(file, sizeof file, "%s/%s", folder, pointer);
    if (rf_file_read(&text, &n, file, 4096, NULL) != RF_OK) {
        return false;
    }
    text[strcspn(text, "\r\n")] = '\0';
    const bool is_there = text[0] != '\0' && strchr(text, '/') == NULL &&
                          rf_path_join(path, bytes, folder, text, NULL) == RF_OK &&
                          rf_path_exists(path) && !rf_path_is_folder(path) &&
                          !rf_path_is_same(path, file);
    free(text);
    return is_there;
}

/* --- Find ------------------------------------------------------------------------------------- */

/* What may be gone on from: the checkpoints of a folder, and a file of another name that `latest` names,
 * which comes before those of lower steps. */
typedef struct candidates {
    listing list;
    char named[RF_PATH_BYTES]; /* "": there is none */
    int64_t before;            /* it comes before this one of the list */
} candidates;

static int find_candidates(candidates *out, const char *folder, rf_error *err)
{
    rf_checkpoint_info info = {0};
    *out = (candidates){0};
    RF_TRY(list_folder(&out->list, folder, false, err));
    if (!follow(out->named, sizeof out->named, folder, "latest") ||
        rf_checkpoint_step(rf_path_name(out->named)) >= 0) {
        out->named[0] = '\0';
        return RF_OK;
    }
    if (rf_checkpoint_info_read(&info, out->named, NULL) == RF_OK) { /* else it comes first */
        while (out->before < out->list.n && out->list.step[out->before] >= info.progress.step) {
            out->before++;
        }
    }
    rf_checkpoint_info_free(&info);
    return RF_OK;
}

/* The i-th path to try; "" where it is too long. */
static void name_candidate(char *path, size_t bytes, const candidates *may, const char *folder,
                           int64_t i)
{
    const bool has_named = may->named[0] != '\0';
    if (has_named && i == may->before) {
        snprintf(path, bytes, "%s", strlen(may->named) < bytes ? may->named : "");
    } else {
        rf_checkpoint_path(path, bytes, folder,
                           may->list.step[has_named && i > may->before ? i - 1 : i]);
    }
}

int rf_checkpoint_find(char *path, size_t bytes, const char *folder, rf_error *err)
{
    candidates may = {0};
    rf_error cause = {0};
    RF_ASSERT(bytes > 0);
    path[0] = '\0';
    int rc = find_candidates(&may, folder, err);
    const int64_t n = rc == RF_OK ? may.list.n + (may.named[0] != '\0') : 0;
    for (int64_t i = 0; i < n; i++) {
        bool is_damaged = false;
        name_candidate(path, bytes, &may, folder, i);
        rc = path[0] != '\0' ? rf_checkpoint_examine(&is_damaged, path, &cause)
                             : rf_error_set(&cause, RF_ERR, "%s: the path is too long", folder);
        if (rc == RF_OK) {
            goto out;
        }
        path[0] = '\0';
        if (!is_damaged) { /* an older one would throw away what was trained since */
            rf_error_set(err, rc,
                         "%s: no older checkpoint is taken in its place, for it may be sound: try "
                         "again when it can be read, or move it away",
                         cause.message);
            goto out;
        }
        rf_log_warn("%s; trying an older one", cause.message);
    }
    if (n > 0) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: none of its %" PRId64 " checkpoints can be used (the last: %s): "
                          "restore one, or move them away to begin again",
                          folder, n, cause.message);
    }
out:
    free(may.list.step);
    return rc;
}

/* --- Choose ----------------------------------------------------------------------------------- */

/* path: "" where the folder has none. */
static int find_newest(char *path, size_t bytes, const char *folder, rf_error *err)
{
    listing list = {0};
    int rc = list_folder(&list, folder, false, err);
    path[0] = '\0';
    if (rc == RF_OK && list.n > 0) {
        rf_checkpoint_path(path, bytes, folder, list.step[0]);
    }
    free(list.step);
    return rc;
}

int rf_checkpoint_refuse_folder(const char *folder, rf_error *err)
{
    static const struct {
        const char *file, *what;
    } others[] = {
        {"adapter_config.json", "holds adapters of PEFT: make an adapter file of it with "
                                "refusion-convert import FOLDER ADAPTER.h5 --base BASE.h5"},
        {"config.json", "holds a model of Hugging Face: make a checkpoint of it with "
                        "refusion-convert import FOLDER MODEL.h5"},
        {"metrics.jsonl", "is the folder of a run that has no checkpoint yet"},
    };
    char file[RF_PATH_BYTES] = "";
    if (find_newest(file, sizeof file, folder, NULL) == RF_OK && file[0] != '\0') {
        return rf_error_set(err, RF_ERR, "%s: is a folder: name one checkpoint of it, as %s",
                            folder, file);
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (rf_path_join(file, sizeof file, folder, others[i].file, NULL) == RF_OK &&
            rf_path_exists(file)) {
            return rf_error_set(err, RF_ERR, "%s: %s", folder, others[i].what);
        }
    }
    return rf_error_set(err, RF_ERR,
                        "%s: is a folder without a checkpoint (best, latest or step-*.h5): name a "
                        "checkpoint file, or the folder of a run where one may stand for it",
                        folder);
}

bool rf_checkpoint_follow(char *path, size_t bytes, const char *name)
{
    char folder[RF_PATH_BYTES];
    const char *last = rf_path_name(name);
    return (strcmp(last, "latest") == 0 || strcmp(last, "best") == 0) &&
           rf_path_folder(folder, sizeof folder, name, NULL) == RF_OK &&
           follow(path, bytes, folder, last);
}

int rf_checkpoint_choose(char *path, size_t bytes, const char *name, rf_error *err)
{
    char folder[RF_PATH_BYTES];
    size_t n = strlen(name);
    if (n >= bytes || n >= sizeof folder) {
        return rf_error_set(err, RF_ERR, "%.64s...: the path is too long", name);
    }
    if (!rf_path_is_folder(name)) {
        if (rf_checkpoint_follow(path, bytes, name)) {
            rf_log_info("%s names the checkpoint %s", name, path);
        } else {
            memcpy(path, name, n + 1);
        }
        return RF_OK;
    }
    memcpy(folder, name, n + 1);
    rf_path_trim(folder);
    const char *what = "best";
    if (!follow(path, bytes, folder, what) && !follow(path, bytes, folder, what = "latest")) {
        what = "newest";
        RF_TRY(find_newest(path, bytes, folder, err));
        RF_TRY(path[0] != '\0' ? RF_OK : rf_checkpoint_refuse_folder(folder, err));
    }
    rf_log_info("%s is a folder: its %s checkpoint is %s", folder, what, path);
    return RF_OK;
}
