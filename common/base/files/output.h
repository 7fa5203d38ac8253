/* output.h: where programs write, so that nothing is lost.
 *
 * No output is one of the inputs; what a program that was killed has left behind goes away.
 * Threads: any, but for rf_output_check, which is local to its arguments.
 */
#ifndef RF_BASE_FILES_OUTPUT_H
#define RF_BASE_FILES_OUTPUT_H

#include "common/base/error.h"

#include <stdbool.h>

/* Refuses (RF_ERR_USAGE) an output that is one of the inputs or another output: the same file by
 * device and inode, also through links; where there is no such file yet, the same name in the same
 * folder. An input that is a folder stands for the files in it, "-" for what standard input comes
 * from. NULL, and "-" among the outputs, are skipped; devices and pipes are never the same. */
RF_MUST_CHECK int rf_output_check(const char *const *outputs, int n_outputs,
                                  const char *const *inputs, int n_inputs, rf_error *err);

/* Follows links to the end: where a file of this name lies or would lie. *in_place: it is no file
 * that could be replaced (a device, a pipe, a link into /proc as /dev/stdout is): open and write it.
 * out [RF_PATH_BYTES] (path.h). A folder is an error. */
RF_MUST_CHECK int rf_output_resolve(char *out, bool *in_place, const char *path, rf_error *err);
/* The same for a folder that is to be made, which may also be there; the last part of out is its name:
 * slashes and "." at the end go, "." alone and ".." are resolved. */
RF_MUST_CHECK int rf_output_resolve_folder(char *out, const char *path, rf_error *err);
/* For two paths at which nothing is yet: do they name the same place, by way of the same folder? */
bool rf_output_is_same_place(const char *a, const char *b);
/* Can something be made in this folder? What access() says of root does not hold on every file system
 * (/proc): so a folder is made there, and goes. */
RF_MUST_CHECK int rf_output_try_folder(const char *folder, rf_error *err);
/* Appends what the file `from` holds to such a path. */
RF_MUST_CHECK int rf_output_pour(const char *path, const char *from, rf_error *err);

/* --- Temporary files and folders (of files) ---------------------------------------------------- */

/* To be removed if a signal ends the program, until it is forgotten. */
void rf_output_remember(const char *temporary);
void rf_output_forget(const char *temporary);
/* Is `name` "<base>.tmp-<pid>" of a process that no longer runs? Our own pid counts as dead: the
 * number of an earlier process comes again, in containers even regularly. */
bool rf_output_is_left_over(const char *name, const char *base);
/* The folder for temporary files that have no place beside an output: TMPDIR, or /tmp where it is not
 * set or empty. One that is no folder, or may not be written, is an error that names TMPDIR. */
RF_MUST_CHECK int rf_output_temporary_folder(const char **folder, rf_error *err);
/* Removes what is left over beside path. */
RF_MUST_CHECK int rf_output_clean(const char *path, rf_error *err);
/* Removes a file, or a folder with the files in it; that there is none is fine. */
void rf_output_remove(const char *path);
/* For main, before other threads begin: TERM, HUP and INT (those that are not ignored) remove what is
 * remembered, and then end the program as they would have. */
void rf_output_clean_on_signals(void);
/* From now on each of these signals first calls this function, in a thread of its own. Where it returns
 * true, that was all: the program goes on. NULL: none is called any more. */
void rf_output_on_signal(bool (*takes)(int number));

#endif
