/* line.h: lines that a person types on a terminal, with editing and history.    all local
 *
 * libedit on stdin and stderr: arrow keys, Emacs' keys, and what ~/.editrc says. The history is the
 * file refusion/history in $XDG_STATE_HOME or ~/.local/state, which nobody else may read.
 */
#ifndef RF_INFER_LINE_H
#define RF_INFER_LINE_H

#include "common/base/error.h"
#include "common/text/ids.h"

#include <stdbool.h>

typedef struct rf_line rf_line;

typedef enum rf_line_end {
    RF_LINE_ENTER,   /* the line is there */
    RF_LINE_DROPPED, /* Ctrl-C: it is not wanted */
    RF_LINE_OVER     /* Ctrl-D on an empty line: nothing more comes */
} rf_line_end;

/* A history that cannot be read or written is a warning. Characters are UTF-8 from now on, whatever
 * the locale is. One at a time; caller frees. */
rf_line *rf_line_open(void);
void rf_line_close(rf_line *line); /* NULL is fine */
/* The terminal is as it was before the line was opened; from any thread, when the program ends early. */
void rf_line_restore(void);
/* Waits for a text: a line, more lines where it ends with a backslash, or (*quoted) the lines between
 * two that are """. Appends it to *out, which is empty, without a line break at the end. */
rf_line_end rf_line_read(rf_line *line, rf_text *out, bool *quoted);
/* Adds a text to the history, which is saved. */
void rf_line_remember(rf_line *line, const char *text);

#endif
