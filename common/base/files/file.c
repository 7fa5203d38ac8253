#include "common/base/files/file.h"

#include "common/base/files/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- Atomic output ---------------------------------------------------------------------------- */

/* A device or a pipe has no temporary file beside it that could be renamed: the file is written into
 * the folder for temporary files, and copied from there when it is whole. */
static int name_elsewhere(char *base, size_t bytes, const char *path, rf_error *err)
{
    const char *folder;
    RF_TRY(rf_output_temporary_folder(&folder, err));
    snprintf(base, bytes, "%s/refusion-%.128s", folder, rf_path_name(path));
    return RF_OK;
}

/* Where the file will lie: behind a link, or in the place of one. */
static int name_file(rf_atomic *out, const char *path, bool own, rf_error *err)
{
    struct stat status;
    memset(out, 0, sizeof *out);
    if (rf_path_name(path)[0] == '\0') {
        return rf_error_set(err, RF_ERR, "\"%s\": a file name is needed", path);
    }
    if (!own || lstat(path, &status) != 0 || !S_ISLNK(status.st_mode)) {
        return rf_output_resolve(out->path, &out->in_place, path, err);
    }
    memcpy(out->path, path, strlen(path) + 1); /* lstat takes no longer ones */
    return RF_OK;
}

static int begin(rf_atomic *out, const char *path, bool own, rf_error *err)
{
    char base[RF_PATH_BYTES];
    RF_TRY(name_file(out, path, own, err));
    snprintf(base, sizeof base, "%s", out->path);
    int rc = out->in_place ? name_elsewhere(base, sizeof base, path, err) : RF_OK;
    if (rc != RF_OK || (rc = rf_output_clean(base, err)) != RF_OK) {
        return rf_error_prefix(err, "%s", path);
    }
    snprintf(out->temporary, sizeof out->temporary, "%s.tmp-%ld", base, (long)getpid());
    rf_output_remember(out->temporary);
    return RF_OK;
}

int rf_atomic_begin(rf_atomic *out, const char *path, rf_error *err)
{
    return begin(out, path, false, err);
}

int rf_atomic_begin_own(rf_atomic *out, const char *path, rf_error *err)
{
    return begin(out, path, true, err);
}

/* Makes the temporary file; caller closes it. */
static int create(int *fd, const rf_atomic *file, rf_error *err)
{
    *fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return *fd >= 0 ? RF_OK : rf_error_system(err, errno, file->temporary, "cannot create");
}

int rf_atomic_try(const char *path, rf_error *err)
{
    rf_atomic file;
    int fd;
    RF_TRY(begin(&file, path, false, err));
    const int rc = create(&fd, &file, err);
    if (rc == RF_OK) {
        close(fd);
    }
    rf_atomic_abandon(&file);
    return rc;
}

static int sync_descriptor(int fd)
{
    int rc;
    do {
        rc = fsync(fd);
    } while (rc != 0 && errno == EINTR);
    return rc;
}

int rf_file_sync_and_close(int fd, const char *name, rf_error *err)
{
    int rc = RF_OK;
    if (sync_descriptor(fd) != 0) {
        rc = rf_error_system(err, errno, name, "cannot flush to disk");
    }
    if (close(fd) != 0 && rc == RF_OK && errno != EINTR) {
        rc = rf_error_system(err, errno, name, "cannot write");
    }
    return rc;
}

static int sync_file(const char *path, rf_error *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? rf_file_sync_and_close(fd, path, err)
                   : rf_error_system(err, errno, path, "cannot open");
}

int rf_atomic_commit(rf_atomic *file, rf_error *err)
{
    RF_ASSERT(file->temporary[0] != '\0');
    char folder[RF_PATH_BYTES];
    int rc;
    if (file->in_place) {
        rc = rf_output_pour(file->path, file->temporary, err);
        goto out;
    }
    RF_TRY_OUT(rf_path_folder(folder, sizeof folder, file->path, err));
    RF_TRY_OUT(sync_file(file->temporary, err));
    if (rename(file->temporary, file->path) != 0) {
        rc = rf_error_system(err, errno, file->path, "cannot move the finished file into place");
        goto out;
    }
    rf_output_forget(file->temporary);
    file->temporary[0] = '\0';
    rc = rf_file_sync_folder(folder, err);
    if (rc != RF_OK) {
        rc =
            rf_error_prefix(err, "%s: is written, but may not survive a power failure", file->path);
    }
out:
    rf_atomic_abandon(file);
    return rc;
}

void rf_atomic_abandon(rf_atomic *file)
{
    if (file->temporary[0] != '\0') {
        unlink(file->temporary);
        rf_output_forget(file->temporary);
        file->temporary[0] = '\0';
    }
}

/* --- Whole files ------------------------------------------------------------------------------ */

static int write_file(const char *path, bool own, const void *data, size_t bytes, rf_error *err)
{
    rf_atomic file;
    int rc, fd;
    RF_TRY(begin(&file, path, own, err));
    RF_TRY_OUT(create(&fd, &file, err));
    rc = rf_file_pwrite(fd, data, bytes, 0, path, err);
    if (close(fd) != 0 && rc == RF_OK && errno != EINTR) {
        rc = rf_error_system(err, errno, path, "cannot write");
    }
    RF_TRY_OUT(rc);
    rc = rf_atomic_commit(&file, err);
out:
    rf_atomic_abandon(&file);
    return rc;
}

int rf_file_write(const char *path, const void *data, size_t bytes, rf_error *err)
{
    return write_file(path, false, data, bytes, err);
}

int rf_file_write_own(const char *path, const void *data, size_t bytes, rf_error *err)
{
    return write_file(path, true, data, bytes, err);
}

int rf_file_write_json(const char *folder, const char *name, const json_t *root, rf_error *err)
{
    char path[RF_PATH_BYTES];
    RF_TRY(rf_path_join(path, sizeof path, folder, name, err));
    char *text = json_dumps(root, JSON_INDENT(2));
    RF_ASSERT(text != NULL);
    int rc = rf_file_write(path, text, strlen(text), err);
    free(text);
    return rc;
}

/* Reads fd to its end into a buffer that grows; a pipe has no size to ask for. */
static int read_all(char **data, size_t *bytes, int fd, const char *path, size_t max_bytes,
                    rf_error *err)
{
    size_t used = 0, size = 0;
    for (;;) {
        if (size - used < 2) {
            size_t wanted = size == 0 ? 4096 : 2 * size;
            char *grown = wanted > size ? realloc(*data, wanted) : NULL;
            if (grown == NULL) {
                return rf_error_set(err, RF_ERR, "%s: no memory for %zu bytes", path, wanted);
            }
            *data = grown;
            size = wanted;
        }
        ssize_t n = read(fd, *data + used, size - used - 1);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return rf_error_system(err, errno, path, "cannot read");
        }
        if (n == 0) {
            break;
        }
        used += (size_t)n;
        if (used > max_bytes) {
            return rf_error_set(err, RF_ERR, "%s: is larger than the %zu bytes expected at most",
                                path, max_bytes);
        }
    }
    (*data)[used] = '\0';
    *bytes = used;
    return RF_OK;
}

int rf_file_read(char **data, size_t *bytes, const char *path, size_t max_bytes, rf_error *err)
{
    *data = NULL;
    *bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return rf_error_system(err, errno, path, "cannot open");
    }
    int rc = read_all(data, bytes, fd, path, max_bytes, err);
    close(fd);
    if (rc != RF_OK) {
        free(*data);
        *data = NULL;
    }
    return rc;
}

static bool is_range(size_t bytes, int64_t offset)
{
    return offset >= 0 && bytes <= (size_t)INT64_MAX && offset <= INT64_MAX - (int64_t)bytes;
}

int rf_file_pwrite(int fd, const void *data, size_t bytes, int64_t offset, const char *name,
                   rf_error *err)
{
    RF_ASSERT(is_range(bytes, offset));
    const char *from = data;
    while (bytes > 0) {
        ssize_t n = pwrite(fd, from, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return rf_error_system(err, n < 0 ? errno : ENOSPC, name, "cannot write");
        }
        from += n;
        bytes -= (size_t)n;
        offset += n;
    }
    return RF_OK;
}

int rf_file_pread(int fd, void *data, size_t bytes, int64_t offset, const char *name, rf_error *err)
{
    RF_ASSERT(is_range(bytes, offset));
    char *to = data;
    while (bytes > 0) {
        ssize_t n = pread(fd, to, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return rf_error_system(err, errno, name, "cannot read");
        }
        if (n == 0) {
            return rf_error_set(err, RF_ERR,
                                "%s: ends at byte %" PRId64
                                ", %zu bytes too early: the file is truncated",
                                name, offset, bytes);
        }
        to += n;
        bytes -= (size_t)n;
        offset += n;
    }
    return RF_OK;
}

/* --- Folders ---------------------------------------------------------------------------------- */

int rf_file_sync_folder(const char *folder, rf_error *err)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        /* A folder that may be written but not read cannot be synced; its renames still hold. */
        return errno == EACCES ? RF_OK
                               : rf_error_system(err, errno, folder, "cannot open the folder");
    }
    int rc = RF_OK;
    /* EINVAL: some network file systems have no fsync of folders (POSIX allows this). */
    if (sync_descriptor(fd) != 0 && errno != EINVAL) {
        rc = rf_error_system(err, errno, folder, "cannot flush the folder to disk");
    }
    close(fd);
    return rc;
}

int rf_file_make_folder(const char *path, rf_error *err)
{
    char part[RF_PATH_BYTES];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part) {
        return rf_error_set(err, RF_ERR, "\"%.64s\": a folder name of 1 to %zu bytes is needed",
                            path, sizeof part - 1);
    }
    for (size_t end = 1; end <= n; end++) {
        if ((path[end] != '/' && path[end] != '\0') || path[end - 1] == '/') {
            continue;
        }
        memcpy(part, path, end);
        part[end] = '\0';
        /* An existing folder may answer mkdir with EEXIST, EROFS or EACCES: ask what it is. */
        if (mkdir(part, 0777) != 0) {
            int reason = errno;
            if (!rf_path_is_folder(part)) {
                return rf_error_system(err, reason == EEXIST ? ENOTDIR : reason, part,
                                       "cannot make the folder");
            }
            continue;
        }
        /* What is written into it later is only as durable as its own name. */
        char parent[RF_PATH_BYTES + 4];
        snprintf(parent, sizeof parent, "%s/..", part);
        RF_TRY(rf_file_sync_folder(parent, err));
    }
    return RF_OK;
}
