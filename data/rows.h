/* rows.h: samples packed into rows, as an endless stream.                      all local
 *
 * A row is what the model sees at once: T places, shared by several samples. The stream goes epoch
 * by epoch:
 *   1. The samples of all corpora, each as often as its weight says, are shuffled.
 *   2. The shuffled samples are taken in windows of `window` samples.
 *   3. Each sample of a window becomes a piece; a text that is longer than a row becomes several.
 *      The pieces are shuffled, so that those of one text do not fill a whole step.
 *   4. Each piece goes into the first row of the window that has room for it.
 * The stream is a pure function of its arguments: seed, corpora, weights, row length, window, the
 * rule for samples that are too long, and the places that the objective needs. All ranks see the
 * same one. A position in it is (epoch, window, row), the row that comes next.
 *
 * How many places a sample takes the objective says: some pad the response or show it twice. A
 * sample that takes more than a row is dropped, or its response is cut; where not even one token of
 * the response fits it is dropped in any case. Each piece of a text begins with the begin token; the
 * last may be short.
 *
 * Memory: 8 bytes for each sample of an epoch (twice while the next epoch is shuffled), and about
 * 150 bytes for each piece of a window.
 */
#ifndef RF_DATA_ROWS_H
#define RF_DATA_ROWS_H

#include "data/corpus/corpus.h"
#include "data/objective.h"

typedef enum rf_overlong { RF_OVERLONG_DROP, RF_OVERLONG_CUT } rf_overlong;

/* A sample, or a part of a long text, as it lies in a row. */
typedef struct rf_piece {
    int64_t corpus, sample;
    int32_t occurrence;           /* how often this sample came in this epoch before */
    int32_t piece;                /* which part of the text, from 0 */
    int64_t n_prompt, n_response; /* tokens. The prompt is the first n_prompt of the sample, */
    int64_t response_first;       /* the response those from this one on */
} rf_piece;

typedef struct rf_row {
    int64_t epoch;
    rf_piece *piece; /* owned by the stream; valid until the next call */
    int64_t n_pieces;
    int64_t n_places; /* of T; at most, where windows have random lengths */
} rf_row;

typedef struct rf_position {
    int64_t epoch, window, row;
} rf_position;

/* <0, 0, >0: is a before b? */
int rf_rows_order(rf_position a, rf_position b);

/* Rows from one position up to another. */
typedef struct rf_rows_range {
    rf_position begin, end;
} rf_rows_range;

typedef struct rf_rows_settings {
    uint64_t seed;
    int64_t row_length; /* T */
    int64_t window;     /* samples packed together */
    rf_overlong overlong;
    double *weight;  /* [n_corpora] factors on the sources' weights, or NULL: 1 */
    int64_t *epochs; /* [n_corpora] a corpus takes part in so many epochs, the first ones; 0: in
                        all, as one corpus must at least. NULL: 0 */
} rf_rows_settings;

typedef struct rf_rows rf_rows;

/* A stream at position (0, 0, 0). Corpora and objective must outlive it; settings are copied.
 * Errors: an epoch without a single row (here, or later when it comes), a setting or a weight out of
 * its range, a sample without a response, samples with several trained turns for an objective that
 * takes none. */
RF_MUST_CHECK int rf_rows_new(rf_rows **out, rf_corpus **corpus, int64_t n_corpora,
                              const rf_objective *objective, const rf_rows_settings *settings,
                              rf_error *err);
void rf_rows_free(rf_rows *rows); /* NULL is fine */
/* Goes to a position, for which only its own window is packed. A window or row that the epoch does
 * not have is an error, and then the stream stays where it is. */
RF_MUST_CHECK int rf_rows_seek(rf_rows *rows, rf_position position, rf_error *err);
/* Where the stream stands. Behind the last row of an epoch that is the begin of the next; before a
 * window whose samples are all dropped it is row 0 of that window. */
rf_position rf_rows_tell(const rf_rows *rows);
/* The next row; epochs follow each other without end. After an error the stream is where it was. */
RF_MUST_CHECK int rf_rows_next(rf_rows *rows, rf_row *row, rf_error *err);

typedef struct rf_rows_statistics {     /* of one epoch */
    int64_t n_rows, n_pieces, n_places; /* fill = n_places / (n_rows * T) */
    int64_t n_overlong;                 /* samples dropped or cut */
} rf_rows_statistics;
/* Packs all of epoch `epoch`, for which lengths suffice: no token is read. Does not move the
 * stream. */
RF_MUST_CHECK int rf_rows_measure(const rf_rows *rows, int64_t epoch, rf_rows_statistics *out,
                                  rf_error *err);
size_t rf_rows_bytes(const rf_rows *rows); /* host memory held now */

#endif
