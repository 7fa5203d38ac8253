/* lines.h: a plain or gzip-compressed file, line by line.                      all local */
#ifndef RF_BASE_FILES_LINES_H
#define RF_BASE_FILES_LINES_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes go file -> input -> text; for a plain file they are copied, for gzip inflated. */
typedef struct rf_lines {
    /* For others to read: */
    char *path;
    int64_t number; /* of the line last returned, from 1 */
    int64_t offset; /* compressed bytes read so far */
    int64_t size;   /* bytes of the file; 0: unknown */
    uint32_t
        crc; /* CRC32 of the lines returned so far with their line ends; at the end of the file,
                       that of the whole uncompressed content */

    /* The reader's own. */
    int fd;
    size_t max_bytes; /* of a line; 64 MiB but in tests */
    rf_error failure; /* what stopped the reading, without a place; code RF_OK while all is well */
    unsigned char *input;
    size_t input_begin, input_end;
    bool input_is_over;
    bool is_recognised;        /* plain or gzip */
    struct z_stream_s *stream; /* NULL: plain */
    bool member_is_over;       /* between two members of a gzip file, or behind the last */
    char *text; /* [text_begin, text_end) is not returned yet; one more byte for the 0 */
    size_t text_begin, text_end, text_size;
    size_t scanned;    /* bytes behind text_begin known to hold no line end */
    bool text_is_over; /* nothing more will come into text */
} rf_lines;

/* Opens a file. gzip, also of several members, is recognised by its first bytes, not by its name;
 * "-" is stdin. The caller closes *out. */
RF_MUST_CHECK int rf_lines_open(rf_lines **out, const char *path, rf_error *err);
/* The next line without its "\n" (only \n ends a line), and the first without the byte order mark
 * that some editors begin a file with; 0-terminated, valid until the next call; *text is NULL at
 * the end of the file. A line of more than 64 MiB, a truncated or damaged gzip stream: an error
 * that names file and line, and again at every further call. The lines before it are
 * returned. */
RF_MUST_CHECK int rf_lines_next(rf_lines *lines, char **text, size_t *bytes, rf_error *err);
/* Is there nothing but blanks and control characters that stand for them? */
bool rf_lines_is_blank(const char *line, size_t bytes);
void rf_lines_close(rf_lines *lines); /* NULL is fine */

#endif
