#include "common/base/files/lines.h"

#include "common/base/alloc.h"
#include "common/base/crc32.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { INPUT_BYTES = 1 << 16, FIRST_TEXT_BYTES = 1 << 16 };

static int fail(rf_lines *lines, const char *what)
{
    return rf_error_set(&lines->failure, RF_ERR, "%s", what);
}

/* --- Input ------------------------------------------------------------------------------------ */

/* Reads more of the file behind what is in input. */
static int read_input(rf_lines *lines)
{
    if (lines->input_begin == lines->input_end) {
        lines->input_begin = lines->input_end = 0;
    }
    ssize_t n;
    do {
        n = read(lines->fd, lines->input + lines->input_end, INPUT_BYTES - lines->input_end);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return rf_error_set(&lines->failure, rf_error_code_of_errno(errno), "cannot read: %s",
                            strerror(errno));
    }
    lines->input_is_over = n == 0;
    lines->input_end += (size_t)n;
    lines->offset += n;
    return RF_OK;
}

/* Reads until `bytes` bytes of input are there, or the file is over. bytes is small, and asked for when
 * fewer are there: what has to be moved to the front is little. */
static int need_input(rf_lines *lines, size_t bytes)
{
    while (lines->input_end - lines->input_begin < bytes && !lines->input_is_over) {
        size_t n = lines->input_end - lines->input_begin;
        memmove(lines->input, lines->input + lines->input_begin, n);
        lines->input_begin = 0;
        lines->input_end = n;
        RF_TRY(read_input(lines));
    }
    return RF_OK;
}

static bool is_gzip_magic(const rf_lines *lines)
{
    const unsigned char *input = lines->input + lines->input_begin;
    return lines->input_end - lines->input_begin >= 2 && input[0] == 0x1F && input[1] == 0x8B;
}

/* --- Text ------------------------------------------------------------------------------------- */

/* Bytes that fit behind text_end, one kept for the 0. */
static size_t text_room(const rf_lines *lines)
{
    return lines->text_size - lines->text_end - 1;
}

/* Makes room behind text_end: moves the unreturned text to the front, then doubles. */
static int make_room(rf_lines *lines)
{
    if (text_room(lines) > 0) {
        return RF_OK;
    }
    size_t n = lines->text_end - lines->text_begin;
    if (lines->text_begin > 0) {
        memmove(lines->text, lines->text + lines->text_begin, n);
        lines->text_begin = 0;
        lines->text_end = n;
    }
    if (n >= lines->text_size / 2) {
        size_t size = 2 * lines->text_size;
        char *text = size > lines->text_size ? realloc(lines->text, size) : NULL;
        if (text == NULL) {
            return fail(lines, "no memory for a line this long");
        }
        lines->text = text;
        lines->text_size = size;
    }
    return RF_OK;
}

static int copy_text(rf_lines *lines)
{
    RF_TRY(need_input(lines, 1));
    size_t n = lines->input_end - lines->input_begin;
    if (n == 0) {
        lines->text_is_over = true;
        return RF_OK;
    }
    n = n < text_room(lines) ? n : text_room(lines);
    memcpy(lines->text + lines->text_end, lines->input + lines->input_begin, n);
    lines->input_begin += n;
    lines->text_end += n;
    return RF_OK;
}

/* Behind a member: another member, the end, or zeros (some archivers pad) and the end. */
static int next_member(rf_lines *lines)
{
    RF_TRY(need_input(lines, 2));
    if (is_gzip_magic(lines)) {
        lines->member_is_over = false;
        inflateReset(lines->stream);
        return RF_OK;
    }
    while (need_input(lines, 1) == RF_OK && lines->input_begin < lines->input_end) {
        if (lines->input[lines->input_begin] != 0) {
            return fail(lines, "bytes that are not gzip follow the gzip data: the file is damaged");
        }
        lines->input_begin++;
    }
    lines->text_is_over = true;
    return lines->failure.code;
}

static int inflate_text(rf_lines *lines)
{
    if (lines->member_is_over) {
        return next_member(lines);
    }
    RF_TRY(need_input(lines, 1));
    if (lines->input_begin == lines->input_end) {
        return fail(lines, "the gzip data ends too early: the file is truncated, fetch it again");
    }
    size_t room = text_room(lines);
    room = room < INPUT_BYTES ? room : INPUT_BYTES;
    lines->stream->next_in = lines->input + lines->input_begin;
    lines->stream->avail_in = (uInt)(lines->input_end - lines->input_begin);
    lines->stream->next_out = (unsigned char *)lines->text + lines->text_end;
    lines->stream->avail_out = (uInt)room;
    int status = inflate(lines->stream, Z_NO_FLUSH);
    lines->input_begin = lines->input_end - lines->stream->avail_in;
    lines->text_end += room - lines->stream->avail_out;
    if (status == Z_STREAM_END) {
        lines->member_is_over = true;
    } else if (status == Z_MEM_ERROR) {
        return fail(lines, "no memory to decompress");
    } else if (status != Z_OK && status != Z_BUF_ERROR) {
        return rf_error_set(&lines->failure, RF_ERR,
                            "the gzip data is damaged (%s): fetch the file again",
                            lines->stream->msg != NULL ? lines->stream->msg : "bad stream");
    }
    return RF_OK;
}

static int recognise(rf_lines *lines)
{
    RF_TRY(need_input(lines, 2));
    lines->is_recognised = true;
    if (is_gzip_magic(lines)) {
        z_stream *stream = rf_alloc(1, sizeof *stream);
        /* 15 + 16: the largest window; gzip, not zlib, around the data. */
        if (inflateInit2(stream, 15 + 16) != Z_OK) {
            free(stream);
            return fail(lines, "no memory to decompress");
        }
        lines->stream = stream;
    }
    return RF_OK;
}

/* Adds to the text, or finds out that it is over, or fails (lines->failure). */
static void fill(rf_lines *lines)
{
    if (!lines->is_recognised && recognise(lines) != RF_OK) {
        return;
    }
    if (make_room(lines) != RF_OK) {
        return;
    }
    if (lines->stream != NULL) {
        inflate_text(lines);
    } else {
        copy_text(lines);
    }
}

/* --- Lines ------------------------------------------------------------------------------------ */

int rf_lines_open(rf_lines **out, const char *path, rf_error *err)
{
    *out = NULL;
    const bool is_stdin = strcmp(path, "-") == 0;
    int rc;
    rf_lines *lines = rf_alloc(1, sizeof *lines);
    *lines = (rf_lines){.path = rf_alloc_string(is_stdin ? "standard input" : path),
                        .max_bytes = (size_t)64 << 20,
                        .input = rf_alloc(INPUT_BYTES, 1),
                        .text = rf_alloc(FIRST_TEXT_BYTES, 1),
                        .text_size = FIRST_TEXT_BYTES};
    lines->fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (lines->fd < 0 || fstat(lines->fd, &status) != 0) {
        rc = rf_error_system(err, errno, lines->path, "cannot open");
        goto out;
    }
    if (S_ISDIR(status.st_mode)) {
        rc = rf_error_set(err, RF_ERR, "%s: is a folder: give a file", lines->path);
        goto out;
    }
    lines->size = S_ISREG(status.st_mode) ? (int64_t)status.st_size : 0;
    *out = lines;
    return RF_OK;
out:
    rf_lines_close(lines);
    return rc;
}

/* Length of the next line; *has_end: whether a line end follows it. A failure is returned only when
 * all whole lines in front of it have been. */
static int find_line(rf_lines *lines, size_t *bytes, bool *has_end)
{
    for (;;) {
        size_t n = lines->text_end - lines->text_begin;
        char *begin = lines->text + lines->text_begin;
        const char *end = memchr(begin + lines->scanned, '\n', n - lines->scanned);
        lines->scanned = n;
        *has_end = end != NULL;
        *bytes = end != NULL ? (size_t)(end - begin) : n;
        if (*bytes > lines->max_bytes) {
            lines->scanned = 0;
            return rf_error_set(&lines->failure, RF_ERR,
                                "the line is longer than %zu bytes: is this a text file?",
                                lines->max_bytes);
        }
        if (end != NULL) {
            return RF_OK;
        }
        if (lines->failure.code != RF_OK || lines->text_is_over) {
            return lines->failure.code;
        }
        fill(lines);
    }
}

int rf_lines_next(rf_lines *lines, char **text, size_t *bytes, rf_error *err)
{
    *text = NULL;
    *bytes = 0;
    size_t n = 0;
    bool has_end = false;
    if (find_line(lines, &n, &has_end) != RF_OK) {
        return rf_error_set(err, lines->failure.code, "%s:%" PRId64 ": %s", lines->path,
                            lines->number + 1, lines->failure.message);
    }
    if (n == 0 && !has_end) {
        return RF_OK;
    }
    char *line = lines->text + lines->text_begin;
    lines->crc = rf_crc32(lines->crc, line, n + has_end);
    line[n] = '\0';
    lines->text_begin += n + has_end;
    lines->scanned = 0;
    size_t mark = lines->number++ == 0 && n >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    *text = line + mark;
    *bytes = n - mark;
    return RF_OK;
}

bool rf_lines_is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (line[i] != ' ' && (line[i] < '\t' || line[i] > '\r')) {
            return false;
        }
    }
    return true;
}

void rf_lines_close(rf_lines *lines)
{
    if (lines == NULL) {
        return;
    }
    if (lines->stream != NULL) {
        inflateEnd(lines->stream);
    }
    if (lines->fd > STDIN_FILENO) {
        close(lines->fd);
    }
    RF_FREE(lines->stream, lines->text, lines->input, lines->path, lines);
}
