/* journal.h: what answering has come to so far, so that a run that was interrupted goes on. all local
 *
 * Each rank appends to a file of its own, PATH.partial.RANK, a JSON line for each scored question and
 * each answer as it comes: {"kind", "index", "sample", "question", "settings", "elapsed", "values",
 * "text"}. A later run reads the files of all ranks, however many it has itself. What was killed in
 * the middle of a line has lost that line.
 */
#ifndef RF_STORE_JOURNAL_H
#define RF_STORE_JOURNAL_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rf_journal rf_journal;

typedef enum rf_journal_kind {
    RF_JOURNAL_SCORE,
    RF_JOURNAL_ANSWER,
    RF_JOURNAL_KINDS
} rf_journal_kind;

/* What a line is about. question: a hash of what is asked and expected. */
typedef struct rf_journal_place {
    rf_journal_kind kind;
    int64_t index, sample;
    uint64_t question;
} rf_journal_place;

/* The rank's file, PATH.partial.RANK: an output, to be held against the inputs (output.h). name
 * [bytes]: cut there; RF_PATH_BYTES + 32 suffice. */
void rf_journal_name(char *name, size_t bytes, const char *path, int64_t rank);
/* Reads what is there and opens the rank's file. settings: a hash of all but the questions that
 * results follow from; lines of other settings are RF_ERR: the files belong to another run.
 * *out: NULL where path is NULL, a device or a pipe, from which nothing could go on. Caller closes. */
RF_MUST_CHECK int rf_journal_open(rf_journal **out, const char *path, int64_t rank,
                                  uint64_t settings, rf_error *err);
void rf_journal_close(rf_journal *journal); /* the files stay; NULL is fine */
/* The work is done: removes the files of all ranks. But where earlier runs have left lines about
 * questions behind the first `limit` (0: all were asked), they stay, and a message says so. */
void rf_journal_finish(const rf_journal *journal, const char *path, int64_t limit);

/* Is it known? Then value [n_values] sets, and *text, which the caller frees. A line about another
 * question or with another number of values is unknown. */
bool rf_journal_take(rf_journal *journal, double *value, char **text, const rf_journal_place *place,
                     int64_t n_values);
/* Writes a line. value [n_values] reads. */
RF_MUST_CHECK int rf_journal_add(rf_journal *journal, const rf_journal_place *place,
                                 const double *value, int64_t n_values, const char *text,
                                 rf_error *err);

int64_t rf_journal_known(const rf_journal *journal); /* lines that were there; of NULL: 0 */
/* Seconds that earlier runs have spent on a kind: of the slowest rank. */
double rf_journal_seconds(const rf_journal *journal, rf_journal_kind kind);
/* The work of a kind begins now: lines tell how long it has gone on, earlier runs included. */
void rf_journal_begin(rf_journal *journal, rf_journal_kind kind);

#endif
