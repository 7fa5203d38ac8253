/* file.h: whole files, and files that appear whole or not at all.              all local
 *
 * Failures of the file system that may pass (EIO, ESTALE, ...) give RF_ERR_RETRY, others RF_ERR:
 * rf_error_code_of_errno. lines.h, included here, reads files line by line; path.h has their names.
 */
#ifndef RF_BASE_FILES_FILE_H
#define RF_BASE_FILES_FILE_H

#include "common/base/error.h"
#include "common/base/files/lines.h"
#include "common/base/files/path.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- Atomic output: write to rf_atomic.temporary, then commit -------------------------------- */

typedef struct rf_atomic {
    char path[RF_PATH_BYTES]; /* behind all links */
    char temporary[RF_PATH_BYTES +
                   32]; /* beside path: "<path>.tmp-<pid>"; on the same file system */
    bool in_place;      /* path is a device, a pipe or an open descriptor; then
                                           temporary is in TMPDIR, or /tmp */
} rf_atomic;

/* Names the temporary file and removes left-overs "<path>.tmp-<pid>" of dead processes. The folder
 * must exist. A symbolic link at path is followed, also where it leads to no file yet; a device, a
 * pipe or /dev/stdout is written into at commit, never replaced (output.h). Creates nothing yet. At
 * most one at a time for a path in a process: a second one removes the first one's temporary. */
RF_MUST_CHECK int rf_atomic_begin(rf_atomic *out, const char *path, rf_error *err);
/* The same of a file that is a folder's own, as `latest` or a checkpoint of a run: a link of that name is
 * replaced at commit, lest what it leads to be written over. */
RF_MUST_CHECK int rf_atomic_begin_own(rf_atomic *out, const char *path, rf_error *err);
/* Can a file be written at path? Its temporary is made and goes again, so that it is known before long
 * work. Not while the path is begun. */
RF_MUST_CHECK int rf_atomic_try(const char *path, rf_error *err);
/* fsync of the temporary, rename to path, fsync of the folder. On failure the temporary is gone and
 * an older file at path is untouched; but when only the fsync of the folder fails, the new file is
 * already at path, and the message says that it may not survive a power failure. */
RF_MUST_CHECK int rf_atomic_commit(rf_atomic *file, rf_error *err);
/* Removes the temporary. Safe after commit and on a zeroed struct. */
void rf_atomic_abandon(rf_atomic *file);

/* --- Whole files ------------------------------------------------------------------------------ */

/* Writes all of data to path atomically (begin, write, commit). */
RF_MUST_CHECK int rf_file_write(const char *path, const void *data, size_t bytes, rf_error *err);
/* The same by rf_atomic_begin_own. */
RF_MUST_CHECK int rf_file_write_own(const char *path, const void *data, size_t bytes,
                                    rf_error *err);
/* rf_file_write of indented JSON, into folder/name. */
struct json_t;
RF_MUST_CHECK int rf_file_write_json(const char *folder, const char *name,
                                     const struct json_t *root, rf_error *err);
/* Reads a whole file, plus a terminating 0 byte not counted in *bytes. Caller frees *data.
 * A file of more than max_bytes is an error. */
RF_MUST_CHECK int rf_file_read(char **data, size_t *bytes, const char *path, size_t max_bytes,
                               rf_error *err);
/* Full write or read of a descriptor at an offset: retries short counts and EINTR. `name` for
 * messages. A file that ends before offset + bytes is an error of the read. */
RF_MUST_CHECK int rf_file_pwrite(int fd, const void *data, size_t bytes, int64_t offset,
                                 const char *name, rf_error *err);
RF_MUST_CHECK int rf_file_pread(int fd, void *data, size_t bytes, int64_t offset, const char *name,
                                rf_error *err);

/* Flushes a file to disk and closes it, also on error. `name` for messages. */
RF_MUST_CHECK int rf_file_sync_and_close(int fd, const char *name, rf_error *err);

/* --- Folders ---------------------------------------------------------------------------------- */

/* Makes renames inside the folder durable; silent where the file system has no such thing. */
RF_MUST_CHECK int rf_file_sync_folder(const char *folder, rf_error *err);
/* mkdir -p */
RF_MUST_CHECK int rf_file_make_folder(const char *path, rf_error *err);

#endif
