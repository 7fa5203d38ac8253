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
    {0, 5, "\3757zXZ", "compressed by xz: decompress it (unxz), or use gzip"},
    {0, 2, "\x1F\x8B", "compressed twice: decompress it once (gunzip)"},
    {0, 4, "\x04\x22\x4D\x18", "compressed by lz4: decompress it (unlz4), or use gzip"},
    {0, 6, "7z\xBC\xAF\x27\x1C", "a 7-Zip archive: unpack it, and give the files in it"},
    {0, 6, "Rar!\x1A\x07", "a RAR archive: unpack it, and give the files in it"},
    {0, 4, "Obj\x01", "an Avro file: " ROWS},
    {0, 6, "\x93NUMPY", "an array of NumPy, no text"},
    {0, 4, "\x89PNG", "a picture, no text"},
    {0, 3, "\xFF\xD8\xFF", "a picture, no text"},
    {0, 4, "\177ELF", "a program, no text"},
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

/* Fields of a line of a table; separators within double quotes count not. */
static int count_fields(const char *line, size_t bytes, char separator)
{
    bool quoted = false;
    int n = 1;
    for (size_t i = 0; i < bytes; i++) {
        quoted = quoted != (line[i] == '"');
        n += !quoted && line[i] == separator;
    }
    return n;
}

/* Names with one separator between them and no blanks, as programs write the first line of a table. */
static char separator_of(const char *line, size_t bytes)
{
    static const char names[] =
        "\"_-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    char separator = '\0';
    bool in_name = false;
    for (size_t i = 0; i < bytes && line[i] != '\r'; i++) {
        if (line[i] != '\0' && strchr(names, line[i]) != NULL) {
            in_name = true;
            continue;
        }
        if (!in_name || strchr(",;\t", line[i]) == NULL || line[i] == '\0' ||
            (separator != '\0' && line[i] != separator)) {
            return '\0';
        }
        separator = line[i];
        in_name = false;
    }
    return in_name ? separator : '\0';
}

/* Does a record or an array of records begin here? */
static bool begins_json(const char *line, size_t bytes)
{
    static const char blanks[] = " \t\r\v\f";
    const size_t begin = strspn(line, blanks);
    if (begin >= bytes || (line[begin] != '{' && line[begin] != '[')) {
        return false;
    }
    const char *next = line + begin + 1 + strspn(line + begin + 1, blanks);
    return next >= line + bytes || (line[begin] == '{' && *next == '"') ||
           (line[begin] == '[' && *next == '{');
}

const char *rf_foreign_text(rf_foreign_guess *g, const char *line, size_t bytes)
{
    if (memchr(line, '\0', bytes) != NULL) {
        return "no text, for it holds a 0 byte: give the text alone, or --format text";
    }
    if (g->n_lines == 0 && begins_json(line, bytes)) {
        return "JSON under the name of a text: give --format jsonl, or --format text";
    }
    if (g->n_lines == 0) {
        g->separator = separator_of(line, bytes);
        g->n_fields = count_fields(line, bytes, g->separator);
    } else if (g->n_lines == 1 && g->separator != '\0' &&
               count_fields(line, bytes, g->separator) == g->n_fields) {
        return "a table by its first two lines: " ROWS ", or give --format text";
    }
    g->n_lines += g->n_lines < 2;
    return NULL;
}
