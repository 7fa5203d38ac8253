#include "common/base/files/output.h"

#include "common/base/alloc.h"
#include "common/base/files/path.h"
#include "common/base/number.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- Links, devices --------------------------------------------------------------------------- */

/* /dev/stdout and the like are links into /proc, whose targets need not be the name of any file. */
static bool is_in_proc(const char *path)
{
    struct stat link, proc;
    return lstat(path, &link) == 0 && stat("/proc", &proc) == 0 && link.st_dev == proc.st_dev;
}

static int follow_links(char *out, bool *in_place, const char *path, rf_error *err)
{
    enum { MAX_LINKS = 40 };
    char target[RF_PATH_BYTES], folder[RF_PATH_BYTES];
    ssize_t n = 0;
    *in_place = false;
    if (snprintf(out, RF_PATH_BYTES, "%s", path) >= RF_PATH_BYTES) {
        return rf_error_set(err, RF_ERR, "%.64s...: the path is longer than %d bytes", path,
                            RF_PATH_BYTES - 1);
    }
    for (int i = 0; !*in_place && (n = readlink(out, target, sizeof target - 1)) > 0; i++) {
        target[n] = '\0';
        if (i == MAX_LINKS) {
            return rf_error_system(err, ELOOP, path, "cannot follow the link");
        }
        if (is_in_proc(out)) {
            *in_place = true;
        } else if (target[0] == '/') {
            memcpy(out, target, (size_t)n + 1);
        } else {
            RF_TRY(rf_path_folder(folder, sizeof folder, out, err));
            RF_TRY(rf_path_join(out, RF_PATH_BYTES, folder, target, err));
        }
    }
    return RF_OK;
}

int rf_output_resolve(char *out, bool *in_place, const char *path, rf_error *err)
{
    struct stat status;
    RF_TRY(follow_links(out, in_place, path, err));
    if (stat(out, &status) == 0 && S_ISDIR(status.st_mode)) {
        return rf_error_set(err, RF_ERR, "%s: is a folder, not a file: choose another name", path);
    }
    *in_place = *in_place || (stat(out, &status) == 0 && !S_ISREG(status.st_mode));
    return RF_OK;
}

/* Slashes at the end and parts "." there go. */
static void trim(char *path)
{
    rf_path_trim(path);
    for (size_t n; (n = strlen(path)) > 1 && path[n - 1] == '.' && path[n - 2] == '/';) {
        path[n - 1] = '\0';
        rf_path_trim(path);
    }
}

int rf_output_resolve_folder(char *out, const char *path, rf_error *err)
{
    char name[RF_PATH_BYTES];
    bool in_place;
    if (snprintf(name, sizeof name, "%s", path) >= (int)sizeof name) {
        return rf_error_set(err, RF_ERR, "%.64s...: the path is too long", path);
    }
    trim(name);
    RF_TRY(follow_links(out, &in_place, name, err));
    trim(out);
    if (strcmp(rf_path_name(out), ".") != 0 && strcmp(rf_path_name(out), "..") != 0) {
        return RF_OK;
    }
    /* no entry of a folder can be called so */
    if (realpath(out, name) == NULL) {
        return rf_error_system(err, errno, path, "cannot find the folder");
    }
    memcpy(out, name, sizeof name);
    return RF_OK;
}

static int write_fully(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno != EINTR) {
            return -1;
        }
        data += n > 0 ? n : 0;
        bytes -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* A descriptor to write to. Where path is the file that standard output or error goes to, writing goes
 * on behind what is there already, as theirs does. */
static int open_in_place(const char *path)
{
    struct stat there, ours;
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) {
        if (stat(path, &there) == 0 && fstat(fd, &ours) == 0 && there.st_dev == ours.st_dev &&
            there.st_ino == ours.st_ino) {
            fflush(stdout);
            return dup(fd);
        }
    }
    return open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
}

int rf_output_pour(const char *path, const char *from, rf_error *err)
{
    char data[1 << 16];
    ssize_t n = 0;
    int rc = RF_OK;
    int to = -1, fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (to = open_in_place(path)) < 0) {
        rc = rf_error_system(err, errno, fd < 0 ? from : path, "cannot open");
        goto out;
    }
    while ((n = read(fd, data, sizeof data)) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0 && write_fully(to, data, (size_t)n) != 0) {
            rc = rf_error_system(err, errno, path, "cannot write");
            goto out;
        }
    }
    rc = n < 0 ? rf_error_system(err, errno, from, "cannot read") : RF_OK;
out:
    if (fd >= 0) {
        close(fd);
    }
    if (to >= 0 && close(to) != 0 && rc == RF_OK && errno != EINTR) {
        rc = rf_error_system(err, errno, path, "cannot write");
    }
    return rc;
}

/* --- Outputs that are inputs ------------------------------------------------------------------ */

static bool is_node(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
           (S_ISREG(a->st_mode) || S_ISDIR(a->st_mode));
}

/* Does the folder hold that file, under any name? */
static bool holds(const char *folder, const struct stat *file)
{
    DIR *entries = opendir(folder);
    const struct dirent *entry;
    bool found = false;
    while (entries != NULL && !found && (entry = readdir(entries)) != NULL) {
        struct stat status;
        found = fstatat(dirfd(entries), entry->d_name, &status, 0) == 0 &&
                S_ISREG(status.st_mode) && is_node(&status, file);
    }
    if (entries != NULL) {
        closedir(entries);
    }
    return found;
}

bool rf_output_is_same_place(const char *a, const char *b)
{
    char path[2][RF_PATH_BYTES], folder[RF_PATH_BYTES];
    struct stat status[2];
    const char *const given[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        bool in_place;
        if (rf_output_resolve(path[i], &in_place, given[i], NULL) != RF_OK ||
            rf_path_folder(folder, sizeof folder, path[i], NULL) != RF_OK ||
            stat(folder, &status[i]) != 0) {
            return false;
        }
    }
    return is_node(&status[0], &status[1]) &&
           strcmp(rf_path_name(path[0]), rf_path_name(path[1])) == 0;
}

/* "-" as an input is standard input, which may come from a file. */
static bool is_same(const char *output, const char *other)
{
    struct stat x, y;
    other = strcmp(other, "-") == 0 ? "/dev/stdin" : other;
    bool has_x = stat(output, &x) == 0, has_y = stat(other, &y) == 0;
    if (has_x && has_y) {
        return is_node(&x, &y) || (S_ISREG(x.st_mode) && S_ISDIR(y.st_mode) && holds(other, &x));
    }
    return !has_x && !has_y && rf_output_is_same_place(output, other);
}

static bool is_path(const char *path)
{
    return path != NULL && strcmp(path, "-") != 0;
}

int rf_output_check(const char *const *outputs, int n_outputs, const char *const *inputs,
                    int n_inputs, rf_error *err)
{
    for (int i = 0; i < n_outputs; i++) {
        for (int k = 0; k < i; k++) {
            if (is_path(outputs[i]) && is_path(outputs[k]) && is_same(outputs[i], outputs[k])) {
                return rf_error_set(err, RF_ERR_USAGE,
                                    "%s: two outputs are this file: choose two names", outputs[i]);
            }
        }
        for (int k = 0; k < n_inputs; k++) {
            if (is_path(outputs[i]) && inputs[k] != NULL && is_same(outputs[i], inputs[k])) {
                return rf_error_set(err, RF_ERR_USAGE,
                                    "%s: would be written over an input (%s): choose another "
                                    "output",
                                    outputs[i], inputs[k]);
            }
        }
    }
    return RF_OK;
}

/* --- Temporary files and folders -------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char **remembered; /* [n_remembered] */
static size_t n_remembered, capacity;

void rf_output_remember(const char *temporary)
{
    pthread_mutex_lock(&lock);
    remembered = rf_alloc_grow(remembered, &capacity, n_remembered + 1, sizeof *remembered);
    remembered[n_remembered++] = rf_alloc_string(temporary);
    pthread_mutex_unlock(&lock);
}

void rf_output_forget(const char *temporary)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_remembered; i++) {
        if (strcmp(remembered[i], temporary) == 0) {
            free(remembered[i]);
            remembered[i] = remembered[--n_remembered];
            break;
        }
    }
    if (n_remembered == 0) {
        free(remembered);
        remembered = NULL;
        capacity = 0;
    }
    pthread_mutex_unlock(&lock);
}

void rf_output_remove(const char *path)
{
    if (unlink(path) == 0 || errno == ENOENT) {
        return;
    }
    DIR *entries = opendir(path);
    const struct dirent *entry;
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        unlinkat(dirfd(entries), entry->d_name, 0);
    }
    if (entries != NULL) {
        closedir(entries);
        rmdir(path);
    }
}

/* A process that has ended and that nobody has waited for yet is a zombie, state Z of Linux's
 * /proc/PID/stat: "PID (name) state ...". */
static bool is_alive(pid_t pid)
{
    char path[64], text[256] = "";
    if (kill(pid, 0) != 0 && errno == ESRCH) {
        return false;
    }
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *file = fopen(path, "r");
    size_t n = file != NULL ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file != NULL) {
        fclose(file);
    }
    text[n] = '\0';
    const char *end = strrchr(text, ')');
    return end == NULL || end[1] == '\0' || end[2] != 'Z';
}

bool rf_output_is_left_over(const char *name, const char *base)
{
    const size_t n = strlen(base);
    int64_t pid;
    if (strncmp(name, base, n) != 0 || strncmp(name + n, ".tmp-", 5) != 0 ||
        strspn(name + n + 5, "0123456789") != strlen(name + n + 5) ||
        !rf_number_integer(&pid, name + n + 5) || pid <= 0 || pid != (int64_t)(pid_t)pid) {
        return false;
    }
    return pid == getpid() || !is_alive((pid_t)pid);
}

int rf_output_temporary_folder(const char **folder, rf_error *err)
{
    const char *named = getenv("TMPDIR");
    *folder = named != NULL && named[0] != '\0' ? named : "/tmp";
    if (rf_path_is_folder(*folder) && access(*folder, W_OK | X_OK) == 0) {
        return RF_OK;
    }
    return rf_error_set(err, RF_ERR,
                        "no temporary file can be made in %s (%s): let TMPDIR name a folder that "
                        "may be written",
                        *folder, *folder == named ? "from TMPDIR" : "TMPDIR is not set");
}

int rf_output_try_folder(const char *folder, rf_error *err)
{
    char probe[RF_PATH_BYTES + 32];
    if (!rf_path_is_folder(folder)) {
        return rf_error_set(err, RF_ERR, "%s is no folder", folder);
    }
    snprintf(probe, sizeof probe, "%s/.refusion-XXXXXX", folder);
    if (mkdtemp(probe) == NULL) {
        return rf_error_set(err, RF_ERR, "nothing can be made in %s: %s", folder, strerror(errno));
    }
    return rmdir(probe) == 0 ? RF_OK : rf_error_system(err, errno, probe, "cannot be removed");
}

int rf_output_clean(const char *path, rf_error *err)
{
    char folder[RF_PATH_BYTES];
    RF_TRY(rf_path_folder(folder, sizeof folder, path, err));
    DIR *entries = opendir(folder);
    if (entries == NULL) {
        /* A folder that may be written but not listed is fine. */
        return errno == EACCES ? RF_OK
                               : rf_error_system(err, errno, folder, "cannot open the folder");
    }
    const struct dirent *entry;
    while ((entry = readdir(entries)) != NULL) {
        char left_over[RF_PATH_BYTES];
        if (rf_output_is_left_over(entry->d_name, rf_path_name(path)) &&
            rf_path_join(left_over, sizeof left_over, folder, entry->d_name, NULL) == RF_OK) {
            rf_output_remove(left_over);
        }
    }
    closedir(entries);
    return RF_OK;
}

/* --- Signals ---------------------------------------------------------------------------------- */

static bool (*_Atomic takes_signal)(int number);

void rf_output_on_signal(bool (*takes)(int number))
{
    atomic_store(&takes_signal, takes);
}

static bool is_taken(int number)
{
    bool (*const takes)(int) = atomic_load(&takes_signal);
    return takes != NULL && takes(number);
}

/* A thread that waits for the signals can call what a handler must not. It never gives the lock back,
 * so that nothing new is begun. Folders are removed more than once: another thread may put a file into
 * one while it is being emptied. */
static void *wait_for_signal(void *user)
{
    sigset_t *set = user;
    int number = 0;
    while (sigwait(set, &number) != 0 || is_taken(number)) {
    }
    pthread_mutex_lock(&lock);
    for (int tries = 0; tries < 3; tries++) {
        for (size_t i = 0; i < n_remembered; i++) {
            rf_output_remove(remembered[i]);
        }
    }
    signal(number, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, set, NULL);
    kill(getpid(), number);
    return NULL;
}

void rf_output_clean_on_signals(void)
{
    static const int numbers[] = {SIGTERM, SIGHUP, SIGINT};
    static sigset_t set;
    pthread_t thread;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction now;
        if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL) {
            sigaddset(&set, numbers[i]);
        }
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&thread, NULL, wait_for_signal, &set) != 0) {
        pthread_sigmask(SIG_UNBLOCK, &set, NULL); /* without it they end the program at once */
    } else {
        pthread_detach(thread);
    }
}
