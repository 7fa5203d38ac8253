#include "serve/access.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

void rf_access_free(rf_access *access)
{
    rf_free_strings(access->key, access->n_keys);
    *access = (rf_access){0};
}

/* A line without its end is a key, unless it is empty or a comment. */
static int add_line(rf_access *access, const char *line, size_t bytes, const char *path, int number,
                    rf_error *err)
{
    if (bytes == 0 || line[0] == '#') {
        return RF_OK;
    }
    for (size_t i = 0; i < bytes; i++) {
        if ((unsigned char)line[i] <= ' ' || line[i] == '\x7F') {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s:%d: a key is the whole line, and here byte %zu is a blank or a "
                                "control character: write keys without any",
                                path, number, i + 1);
        }
    }
    access->key = rf_realloc(access->key, (size_t)access->n_keys + 1, sizeof *access->key);
    access->key[access->n_keys++] = rf_alloc_format("%.*s", (int)bytes, line);
    return RF_OK;
}

static int add_lines(rf_access *access, const char *text, size_t bytes, const char *path,
                     rf_error *err)
{
    const char *const end = text + bytes;
    int number = 1;
    for (const char *line = text; line < end; number++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop != NULL ? stop : end;
        const size_t n = (size_t)(stop - line);
        RF_TRY(add_line(access, line, n - (n > 0 && stop[-1] == '\r'), path, number, err));
        line = stop + 1;
    }
    return RF_OK;
}

int rf_access_read(rf_access *out, const char *path, rf_error *err)
{
    enum { MOST_BYTES = 1 << 20 };
    struct stat status;
    char *text = NULL;
    size_t bytes;
    *out = (rf_access){0};
    RF_TRY(rf_file_read(&text, &bytes, path, MOST_BYTES, err));
    const int rc = add_lines(out, text, bytes, path, err);
    explicit_bzero(text, bytes);
    free(text);
    RF_TRY(rc);
    if (out->n_keys == 0) {
        return rf_error_set(err, RF_ERR_USAGE, "%s: holds no key: write one a line", path);
    }
    if (stat(path, &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & 0077) != 0) {
        return rf_error_set(err, RF_ERR_USAGE, "%s: others may read these keys: chmod 600 it first",
                            path);
    }
    return RF_OK;
}

/* Looks at as many bytes as `said` has, wherever they differ. */
static bool is_equal(const char *key, const char *said)
{
    const size_t bytes = strlen(key), n = strlen(said);
    unsigned differs = bytes != n;
    for (size_t i = 0; i < n; i++) {
        differs |= (unsigned char)key[bytes > 0 ? i % bytes : 0] ^ (unsigned char)said[i];
    }
    return differs == 0;
}

int rf_access_find(const rf_access *access, const char *authorization)
{
    static const char scheme[] = "Bearer ";
    const size_t n = strlen(scheme);
    int found = access->n_keys == 0 ? 0 : -1;
    if (authorization == NULL || strncasecmp(authorization, scheme, n) != 0) {
        return found;
    }
    for (int i = 0; i < access->n_keys; i++) {
        found = is_equal(access->key[i], authorization + n) ? i : found;
    }
    return found;
}

/* A host without its port. */
static bool is_name_of_this_machine(const char *host, size_t bytes)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const size_t n = strlen(names[i]);
        if (strncasecmp(host, names[i], n) == 0 && (n == bytes || host[n] == ':')) {
            return true;
        }
    }
    return false;
}

bool rf_access_is_own_page(const char *host, const char *origin)
{
    static const char scheme[] = "http://";
    const size_t n = strlen(scheme);
    if (host != NULL && !is_name_of_this_machine(host, strlen(host))) {
        return false;
    }
    return origin == NULL ||
           (host != NULL && strncmp(origin, scheme, n) == 0 && strcasecmp(origin + n, host) == 0);
}
