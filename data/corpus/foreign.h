/* foreign.h: files that are neither JSON lines nor plain text, by their name.   all local */
#ifndef RF_DATA_CORPUS_FOREIGN_H
#define RF_DATA_CORPUS_FOREIGN_H

#include <stddef.h>

/* What the file is ("a Parquet file: write its rows as JSON lines"), from its first line [bytes]
 * and, of tables, the name's ending; NULL: it may be text. */
const char *rf_foreign(const char *path, const char *line, size_t bytes);

#endif
