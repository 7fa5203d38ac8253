/* common/base/files/lines.h */
#include "common/base/files/file.h"

#include "tests/base/base_test.h"

#include <fcntl.h>
#include <zlib.h>

TestSuite(lines, .init = begin_folder, .fini = end_folder);

/* Appends a gzip member. */
static void put_gzip(const char *path, const char *mode, const void *data, size_t bytes)
{
    gzFile file = gzopen(path, mode);
    cr_assert(file != NULL);
    cr_assert(gzwrite(file, data, (unsigned)bytes) == (int)bytes);
    cr_assert(gzclose(file) == Z_OK);
}

static rf_lines *open_lines(const char *path)
{
    rf_lines *lines;
    rf_error err = {0};
    cr_assert(rf_lines_open(&lines, path, &err) == RF_OK, "%s", err.message);
    return lines;
}

static void expect_line(rf_lines *lines, const char *expected, size_t bytes)
{
    char *text;
    size_t n;
    rf_error err = {0};
    cr_assert(rf_lines_next(lines, &text, &n, &err) == RF_OK, "%s", err.message);
    cr_assert(text != NULL, "the file ends too early");
    cr_expect(n == bytes && memcmp(text, expected, bytes) == 0 && text[n] == '\0', "\"%s\"", text);
}

static void expect_end(rf_lines *lines)
{
    char *text;
    size_t n;
    rf_error err = {0};
    for (int i = 0; i < 2; i++) {
        cr_expect(rf_lines_next(lines, &text, &n, &err) == RF_OK, "%s", err.message);
        cr_expect(text == NULL && n == 0);
    }
}

/* Reads up to the failure, which must say this and come again. */
static void expect_failure(rf_lines *lines, const char *says)
{
    char *text;
    size_t n;
    rf_error err = {0};
    do {
        text = NULL;
        cr_assert(lines->number < 1000000);
        err.code = rf_lines_next(lines, &text, &n, &err);
    } while (err.code == RF_OK && text != NULL);
    cr_expect(err.code == RF_ERR);
    EXPECT_SAYS(&err, says);
    rf_error again = {0};
    cr_expect(rf_lines_next(lines, &text, &n, &again) == RF_ERR && text == NULL);
    cr_expect_str_eq(again.message, err.message);
}

/* The mark of editors is no part of the first line, but of the file's checksum. */
Test(lines, byte_order_mark)
{
    static const char text[] = "\xEF\xBB\xBFone\n\xEF\xBB\xBFtwo";
    rf_error err = {0};
    cr_assert(rf_file_write(in_folder("bom"), text, sizeof text - 1, &err) == RF_OK);
    rf_lines *lines = open_lines(in_folder("bom"));
    expect_line(lines, "one", 3);
    expect_line(lines, "\xEF\xBB\xBFtwo", 6);
    expect_end(lines);
    cr_expect(lines->crc == crc32(0, (const unsigned char *)text, sizeof text - 1));
    rf_lines_close(lines);
}

static const char sample[] = "one\r\n\nthree with \t tab\nlast";

static void expect_sample(const char *path)
{
    rf_lines *lines = open_lines(path);
    cr_expect(lines->number == 0);
    expect_line(lines, "one\r", 4);
    cr_expect(lines->number == 1);
    cr_expect(lines->crc == crc32(0, (const unsigned char *)"one\r\n", 5));
    expect_line(lines, "", 0);
    expect_line(lines, "three with \t tab", 16);
    expect_line(lines, "last", 4);
    cr_expect(lines->number == 4);
    expect_end(lines);
    cr_expect(lines->crc == crc32(0, (const unsigned char *)sample, sizeof sample - 1));
    cr_expect(lines->offset == lines->size);
    cr_expect_str_eq(lines->path, path);
    rf_lines_close(lines);
}

Test(lines, plain)
{
    put_file(in_folder("a"), sample, sizeof sample - 1);
    expect_sample(in_folder("a"));
}

/* The name says nothing: the first bytes do. */
Test(lines, gzip)
{
    put_gzip(in_folder("a.txt"), "wb", sample, sizeof sample - 1);
    expect_sample(in_folder("a.txt"));
}

Test(lines, gzip_of_several_members)
{
    const char *path = in_folder("a.gz");
    put_gzip(path, "wb", sample, 7);
    put_gzip(path, "ab", "", 0);
    put_gzip(path, "ab", sample + 7, sizeof sample - 1 - 7);
    expect_sample(path);
    FILE *file = fopen(path, "ab");
    static const char zeros[100000];
    cr_assert(fwrite(zeros, 1, sizeof zeros, file) == sizeof zeros && fclose(file) == 0);
    expect_sample(path);
}

Test(lines, garbage_behind_gzip)
{
    const char *path = in_folder("a.gz");
    put_gzip(path, "wb", sample, sizeof sample - 1);
    FILE *file = fopen(path, "ab");
    cr_assert(fputs("\n{\"text\": 1}\n", file) >= 0 && fclose(file) == 0);
    rf_lines *lines = open_lines(path);
    expect_failure(lines, "a.gz:4: bytes that are not gzip");
    rf_lines_close(lines);
}

Test(lines, empty_files)
{
    put_file(in_folder("a"), "", 0);
    put_gzip(in_folder("b"), "wb", "", 0);
    put_file(in_folder("c"), "\n", 1);
    put_file(in_folder("d"), "\x1F", 1);
    rf_lines *lines = open_lines(in_folder("a"));
    expect_end(lines);
    cr_expect(lines->crc == 0 && lines->number == 0);
    rf_lines_close(lines);
    lines = open_lines(in_folder("b"));
    expect_end(lines);
    rf_lines_close(lines);
    lines = open_lines(in_folder("c"));
    expect_line(lines, "", 0);
    expect_end(lines);
    rf_lines_close(lines);
    lines = open_lines(in_folder("d"));
    expect_line(lines, "\x1F", 1);
    expect_end(lines);
    rf_lines_close(lines);
    rf_lines_close(NULL);
}

Test(lines, zero_bytes_are_text)
{
    put_file(in_folder("a"), "a\0b\n\0", 5);
    rf_lines *lines = open_lines(in_folder("a"));
    expect_line(lines, "a\0b", 3);
    expect_line(lines, "\0", 1);
    expect_end(lines);
    rf_lines_close(lines);
}

/* Lines around every size of the inner buffers, plain and compressed. */
Test(lines, long_lines)
{
    static const size_t sizes[] = {65534, 65535, 65536, 65537, 0, 131071, 1, 3000000, 131072};
    enum { N = sizeof sizes / sizeof sizes[0] };
    size_t total = 0;
    for (int i = 0; i < N; i++) {
        total += sizes[i] + 1;
    }
    char *data = malloc(total);
    size_t at = 0;
    uint32_t noise = 1;
    for (int i = 0; i < N; i++) {
        for (size_t j = 0; j < sizes[i]; j++) {
            noise = noise * 1664525u + 1013904223u;
            data[at++] = (char)('!' + (noise >> 24) % 90);
        }
        data[at++] = '\n';
    }
    put_file(in_folder("a"), data, total);
    put_gzip(in_folder("b"), "wb1", data, total);
    for (int k = 0; k < 2; k++) {
        rf_lines *lines = open_lines(in_folder(k == 0 ? "a" : "b"));
        at = 0;
        for (int i = 0; i < N; i++) {
            expect_line(lines, data + at, sizes[i]);
            at += sizes[i] + 1;
        }
        expect_end(lines);
        cr_expect(lines->crc == crc32(0, (unsigned char *)data, (unsigned)total));
        rf_lines_close(lines);
    }
    free(data);
}

Test(lines, line_limit)
{
    put_file(in_folder("a"), "1234\n12345\n", 11);
    rf_lines *lines = open_lines(in_folder("a"));
    lines->max_bytes = 4;
    expect_line(lines, "1234", 4);
    expect_failure(lines, "a:2: the line is longer than 4 bytes");
    rf_lines_close(lines);

    /* 100 MiB without a line end in 100 kB: the limit ends it long before. */
    gzFile file = gzopen(in_folder("bomb"), "wb");
    static char zeros[1 << 20];
    for (int i = 0; i < 100; i++) {
        cr_assert(gzwrite(file, zeros, sizeof zeros) == (int)sizeof zeros);
    }
    cr_assert(gzclose(file) == Z_OK);
    lines = open_lines(in_folder("bomb"));
    lines->max_bytes = 1 << 20;
    expect_failure(lines, "longer than");
    cr_expect(lines->offset <= lines->size);
    rf_lines_close(lines);
}

static char *read_bytes(const char *path, size_t *bytes)
{
    char *data;
    rf_error err = {0};
    cr_assert(rf_file_read(&data, bytes, path, 1 << 24, &err) == RF_OK, "%s", err.message);
    return data;
}

/* Cut anywhere behind the two bytes that say gzip, the file must not pass for a shorter one. */
Test(lines, truncated_gzip)
{
    size_t bytes;
    put_gzip(in_folder("a.gz"), "wb", sample, sizeof sample - 1);
    char *data = read_bytes(in_folder("a.gz"), &bytes);
    for (size_t n = 2; n < bytes; n++) {
        put_file(in_folder("cut.gz"), data, n);
        rf_lines *lines = open_lines(in_folder("cut.gz"));
        expect_failure(lines, "truncated");
        rf_lines_close(lines);
    }
    free(data);
}

/* Reads to the end or a failure; gives the code. */
static int read_through(rf_lines *lines)
{
    char *text = NULL;
    size_t n;
    int rc;
    do {
        rc = rf_lines_next(lines, &text, &n, NULL);
    } while (rc == RF_OK && text != NULL);
    return rc;
}

/* A flipped bit in the compressed data or the checksum is found, or does not matter: the last byte
 * of the data ends with up to 7 bits that mean nothing. In front, bytes 4 to 9 (time, system) mean
 * nothing, and a flipped magic makes it a plain file. */
Test(lines, damaged_gzip)
{
    size_t bytes;
    put_gzip(in_folder("a.gz"), "wb", sample, sizeof sample - 1);
    char *data = read_bytes(in_folder("a.gz"), &bytes);
    uint32_t crc = (uint32_t)crc32(0, (const unsigned char *)sample, sizeof sample - 1);
    int n_found = 0, n_flips = 0;
    for (size_t i = 10; i < bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            data[i] = (char)(data[i] ^ (1 << bit));
            put_file(in_folder("bad.gz"), data, bytes);
            rf_lines *lines = open_lines(in_folder("bad.gz"));
            bool is_found = read_through(lines) == RF_ERR;
            cr_expect(is_found || (i == bytes - 9 && lines->crc == crc), "byte %zu, bit %d", i,
                      bit);
            n_found += is_found;
            n_flips++;
            rf_lines_close(lines);
            data[i] = (char)(data[i] ^ (1 << bit));
        }
    }
    cr_expect(n_found >= n_flips - 7);
    free(data);
}

Test(lines, damage_is_named)
{
    size_t bytes;
    put_gzip(in_folder("a.gz"), "wb", sample, sizeof sample - 1);
    char *data = read_bytes(in_folder("a.gz"), &bytes);
    data[bytes - 5] = (char)(data[bytes - 5] ^ 1);
    put_file(in_folder("bad.gz"), data, bytes);
    rf_lines *lines = open_lines(in_folder("bad.gz"));
    expect_failure(lines, "bad.gz:4: the gzip data is damaged (incorrect data check)");
    rf_lines_close(lines);
    free(data);
}

Test(lines, damage_late_in_the_file)
{
    char *text = malloc(2000000);
    size_t n = 0;
    for (int i = 0; n < 1900000; i++) {
        n += (size_t)sprintf(text + n, "line %d %u\n", i, (unsigned)i * 2654435761u);
    }
    size_t bytes;
    put_gzip(in_folder("a.gz"), "wb", text, n);
    char *data = read_bytes(in_folder("a.gz"), &bytes);
    put_file(in_folder("cut.gz"), data, bytes / 2);
    rf_lines *lines = open_lines(in_folder("cut.gz"));
    expect_failure(lines, "truncated");
    cr_expect(lines->number > 1000, "lines before the damage are read");
    rf_lines_close(lines);
    free(data);
    free(text);
}

Test(lines, not_files)
{
    rf_lines *lines;
    rf_error err = {0};
    cr_expect(rf_lines_open(&lines, folder, &err) == RF_ERR && lines == NULL);
    EXPECT_SAYS(&err, "is a folder");
    cr_expect(rf_lines_open(&lines, in_folder("none"), &err) == RF_ERR && lines == NULL);
    EXPECT_SAYS(&err, "No such file");
    cr_expect(rf_lines_open(&lines, "", &err) == RF_ERR);
}

/* Standard input is a pipe here: no size, and short reads. */
Test(lines, standard_input)
{
    int ends[2];
    cr_assert(pipe(ends) == 0 && dup2(ends[0], STDIN_FILENO) == STDIN_FILENO);
    close(ends[0]);
    if (fork() == 0) {
        close(STDIN_FILENO);
        for (size_t i = 0; i < sizeof sample - 1; i++) {
            if (write(ends[1], sample + i, 1) != 1) {
                _Exit(1);
            }
            usleep(200);
        }
        _Exit(0);
    }
    close(ends[1]);
    rf_lines *lines = open_lines("-");
    expect_line(lines, "one\r", 4);
    expect_line(lines, "", 0);
    expect_line(lines, "three with \t tab", 16);
    expect_line(lines, "last", 4);
    expect_end(lines);
    cr_expect(lines->size == 0);
    cr_expect(lines->offset == (int64_t)sizeof sample - 1);
    cr_expect_str_eq(lines->path, "standard input");
    rf_lines_close(lines);
}
