/* lines.h: a plain or gzip-compressed file, line by line.                      all local */
#ifndef RF_BASE_FILES_LINES_H
#define RF_BASE_FILES_LINES_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rf_lines rf_lines;

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
/* For tests: another limit than 64 MiB. */
void rf_lines_set_max(rf_lines *lines, size_t max_bytes);
int64_t rf_lines_number(const rf_lines *lines); /* of the line last returned, from 1 */
int64_t rf_lines_offset(const rf_lines *lines); /* compressed bytes read so far */
int64_t rf_lines_size(const rf_lines *lines);   /* bytes of the file; 0: unknown */
/* CRC32 of the lines returned so far with their line ends; at the end of the file, that of the
 * whole uncompressed content. */
uint32_t rf_lines_crc32(const rf_lines *lines);
const char *rf_lines_path(const rf_lines *lines);
void rf_lines_close(rf_lines *lines); /* NULL is fine */

#endif
