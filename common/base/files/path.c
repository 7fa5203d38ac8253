#include "common/base/files/path.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int too_long(const char *path, size_t bytes, rf_error *err)
{
    return rf_error_set(err, RF_ERR, "%.64s...: the path is longer than %zu bytes", path,
                        bytes - 1);
}

int rf_path_join(char *out, size_t bytes, const char *folder, const char *name, rf_error *err)
{
    const int n = snprintf(out, bytes, "%s/%s", folder, name);
    return n >= 0 && (size_t)n < bytes ? RF_OK : too_long(folder, bytes, err);
}

const char *rf_path_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

int rf_path_folder(char *out, size_t bytes, const char *path, rf_error *err)
{
    const size_t n = (size_t)(rf_path_name(path) - path); /* with the slash */
    const char *folder = n == 0 ? "." : path;
    const size_t kept = n > 1 ? n - 1 : 1;
    if (kept >= bytes) {
        return too_long(path, bytes, err);
    }
    memcpy(out, folder, kept);
    out[kept] = '\0';
    return RF_OK;
}

void rf_path_trim(char *path)
{
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--) {
        path[n - 1] = '\0';
    }
}

bool rf_path_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0;
}

bool rf_path_is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool rf_path_is_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino &&
           (S_ISREG(x.st_mode) || S_ISDIR(x.st_mode));
}
