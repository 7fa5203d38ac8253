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

int rf_access_read(rf_access *out, const char *path, rf_error *err)
{
    enum { MOST_BYTES = 1 << 20 };
    struct stat status;
    char *text = NULL, *rest = NULL;
    size_t bytes;
    *out = (rf_access){0};
    RF_TRY(rf_file_read(&text, &bytes, path, MOST_BYTES, err));
    for (char *line = strtok_r(text, "\r\n", &rest); line != NULL;
         line = strtok_r(NULL, "\r\n", &rest)) {
        line += strspn(line, " \t");
        line[strcspn(line, " \t")] = '\0';
        if (line[0] != '\0' && line[0] != '#') {
            out->key = rf_realloc(out->key, (size_t)out->n_keys + 1, sizeof *out->key);
            out->key[out->n_keys++] = rf_alloc_string(line);
        }
    }
    explicit_bzero(text, bytes);
    free(text);
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
