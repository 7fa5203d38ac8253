/* file.h: whole files, and files that appear whole or not at all.              all local
 *
 * Failures of the file system that may pass (EIO, ESTALE, ...) give RF_ERR_RETRY, others RF_ERR:
 * rf_error_code_of_errno. lines.h, included here, reads files line by line.
 */
#ifndef RF_BASE_FILE_H
#define RF_BASE_FILE_H

#include "common/base/error.h"
#include "common/base/lines.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- Atomic output: write to rf_atomic.temporary, then commit -------------------------------- */

typedef struct rf_atomic {
    char path[4096];
    char temporary[4224]; /* beside path: "<path>.tmp-<pid>"; on the same file system */
} rf_atomic;

/* Names the temporary file and removes left-overs "<path>.tmp-<pid>" of dead processes. The folder
 * must exist; what is at path, if anything, must be a regular file (a device or a pipe would be
 * replaced by a file). A symbolic link at path is replaced, not followed. Creates nothing yet. At
 * most one at a time for a path in a process: a second one removes the first one's temporary. */
RF_MUST_CHECK int rf_atomic_begin(rf_atomic *out, const char *path, rf_error *err);
/* fsync of the temporary, rename to path, fsync of the folder. On failure the temporary is gone and
 * an older file at path is untouched; but when only the fsync of the folder fails, the new file is
 * already at path, and the message says that it may not survive a power failure. */
RF_MUST_CHECK int rf_atomic_commit(rf_atomic *file, rf_error *err);
/* Removes the temporary. Safe after commit and on a zeroed struct. */
void rf_atomic_abandon(rf_atomic *file);

/* Writes all of data to path atomically (begin, write, commit). */
RF_MUST_CHECK int rf_file_write(const char *path, const void *data, size_t bytes, rf_error *err);
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
/* Makes renames inside the folder durable; silent where the file system has no such thing. */
RF_MUST_CHECK int rf_file_sync_folder(const char *folder, rf_error *err);
/* mkdir -p */
RF_MUST_CHECK int rf_file_make_folder(const char *path, rf_error *err);
bool rf_file_exists(const char *path);
/* Valid UTF-8 (RFC 3629: no surrogates, no overlong forms)? *bad: offset of the first bad byte. */
bool rf_file_is_utf8(const char *text, size_t bytes, size_t *bad);

#endif
