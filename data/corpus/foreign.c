#include "data/corpus/foreign.h"

#include <string.h>
#include <strings.h>

#define ROWS "write its rows as JSON lines"

/* Signatures stand at the beginning, but for that of tar. */
static const struct {
    size_t at, bytes;
    const char *signature, *what;
} kinds[] = {
    {0, 4, "PAR1", "a Parquet file: " ROWS},
    {0, 6, "ARROW1", "an Arrow file: " ROWS},
    {0, 4, "\x89HDF", "an HDF5 file: corpora are built from JSON lines and text"},
    {0, 15, "SQLite format 3", "an SQLite database: " ROWS},
    {0, 4, "\x28\xB5\x2F\xFD", "compressed by zstd: decompress it (zstd -d), or use gzip"},
    {0, 5,
     "\xFD"
     "7zXZ",
     "compressed by xz: decompress it (unxz), or use gzip"},
    {0, 3, "BZh", "compressed by bzip2: decompress it (bunzip2), or use gzip"},
    {0, 4, "PK\x03\x04", "a ZIP archive (or a file of an office program): unpack it"},
    {257, 5, "ustar", "a tar archive: unpack it, and give the files in it"},
    {0, 5, "%PDF-", "a PDF document: extract its text"},
    {0, 4, "GGUF", "a model in GGUF, no text"},
    {0, 23, "version https://git-lfs", "a pointer of Git LFS: fetch the file (git lfs pull)"},
};

static const char *const tables[][2] = {
    {".csv", "a table (comma-separated values): " ROWS ", or give --format text"},
    {".tsv", "a table (tab-separated values): " ROWS ", or give --format text"},
};

const char *rf_foreign(const char *path, const char *line, size_t bytes)
{
    size_t n = strlen(path);
    n -= n >= 3 && strcasecmp(path + n - 3, ".gz") == 0 ? 3 : 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        if (bytes >= kinds[k].at + kinds[k].bytes &&
            memcmp(line + kinds[k].at, kinds[k].signature, kinds[k].bytes) == 0) {
            return kinds[k].what;
        }
    }
    for (size_t k = 0; k < sizeof tables / sizeof tables[0]; k++) {
        if (n >= 4 && strncasecmp(path + n - 4, tables[k][0], 4) == 0) {
            return tables[k][1];
        }
    }
    return NULL;
}
