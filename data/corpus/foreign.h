/* foreign.h: files that are neither JSON lines nor plain text, by their name.   all local */
#ifndef RF_DATA_CORPUS_FOREIGN_H
#define RF_DATA_CORPUS_FOREIGN_H

#include <stdbool.h>
#include <stddef.h>

/* What the file is ("a Parquet file: write its rows as JSON lines"), from its first line [bytes]
 * and, of tables, the name's ending; NULL: it may be text. */
const char *rf_foreign(const char *path, const char *line, size_t bytes);

/* What was seen of a file that is taken for text; begins zeroed. */
typedef struct rf_foreign_guess {
    char separator; /* of a table whose first line holds names; 0: none */
    int n_fields, n_lines;
} rf_foreign_guess;
/* The same for each line that is not blank of a file that nobody said is text, 0-terminated: a 0 byte,
 * JSON, or a table. */
const char *rf_foreign_text(rf_foreign_guess *guess, const char *line, size_t bytes);

#endif
