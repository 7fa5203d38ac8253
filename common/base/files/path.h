/* path.h: names of files.                                                       all local */
#ifndef RF_BASE_FILES_PATH_H
#define RF_BASE_FILES_PATH_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>

enum { RF_PATH_BYTES = 4096 }; /* room for any path that Linux opens */

/* folder/name. What does not fit into out [bytes] is an error. */
RF_MUST_CHECK int rf_path_join(char *out, size_t bytes, const char *folder, const char *name,
                               rf_error *err);
/* What stands behind the last '/'; a part of path. */
const char *rf_path_name(const char *path);
/* The folder that holds path: "." for a bare name, "/" for a name at the root. out [bytes] */
RF_MUST_CHECK int rf_path_folder(char *out, size_t bytes, const char *path, rf_error *err);
/* Slashes at the end of path go, but one that is all of it. */
void rf_path_trim(char *path);
bool rf_path_exists(const char *path);
bool rf_path_is_folder(const char *path);
/* Do both name one file or one folder that is there, also through links? */
bool rf_path_is_same(const char *a, const char *b);

#endif
