/* rows.h: the stream of packed rows, a pure function of its settings.          all local
 *
 * In each epoch all samples (each as often as its weight says) are shuffled and taken window by
 * window; long texts are cut into pieces; the pieces of a window are shuffled and packed first-fit
 * into rows of T places. The stream is the same for every rank: rows depend on (seed, epoch,
 * corpora, row length, window, overlong rule, objective's footprint) and nothing else. A position
 * in the data is (epoch, window, row): the next row to be given.
 *
 * A sample that does not fit into a row is dropped, or its response is cut (and dropped all the
 * same where the prompt leaves no room). A text is cut into pieces instead: the begin token and as
 * many tokens as fit; the last piece may be short.
 *
 * Memory: 8 bytes for each sample of an epoch (twice while an epoch follows another), and about
 * 150 bytes for each piece of a window.
 */
#ifndef RF_DATA_ROWS_H
#define RF_DATA_ROWS_H

#include "data/corpus/corpus.h"
#include "data/objective.h"

typedef enum rf_overlong { RF_OVERLONG_DROP, RF_OVERLONG_CUT } rf_overlong;

/* A sample, or a window of a long text, as it lies in a row. */
typedef struct rf_piece {
    int64_t corpus, sample;
    int32_t occurrence; /* in the epoch, from 0 */
    int32_t piece;      /* window of a long text, from 0 */
    int64_t n_prompt, n_response;
    int64_t response_first; /* first response token, as an index into the sample's tokens; the
                               prompt is the sample's first n_prompt tokens */
} rf_piece;

typedef struct rf_row {
    int64_t epoch;
    rf_piece *piece; /* owned by the stream; valid until the next call */
    int64_t n_pieces;
    int64_t n_places; /* of T */
} rf_row;

typedef struct rf_position {
    int64_t epoch, window, row;
} rf_position;

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

/* Corpora and objective outlive the stream; settings are copied. Starts at (0, 0, 0). Errors: an
 * epoch without a single row, here or when one comes; a setting or a weight out of its range; a
 * sample without a response. */
RF_MUST_CHECK int rf_rows_new(rf_rows **out, rf_corpus **corpus, int64_t n_corpora,
                              const rf_objective *objective, const rf_rows_settings *settings,
                              rf_error *err);
void rf_rows_free(rf_rows *rows); /* NULL is fine */
/* Goes to a position; a window or row that the epoch does not have is an error, and then the
 * stream stays where it is. Packs that window alone. */
RF_MUST_CHECK int rf_rows_seek(rf_rows *rows, rf_position position, rf_error *err);
/* The end of an epoch is told as the begin of the next. Row 0 of a window whose samples are all
 * dropped is a position, too. */
rf_position rf_rows_tell(const rf_rows *rows);
/* The next row; epochs follow each other without end. After a failure the stream is where it was.
 */
RF_MUST_CHECK int rf_rows_next(rf_rows *rows, rf_row *row, rf_error *err);

typedef struct rf_rows_statistics {     /* of one epoch */
    int64_t n_rows, n_pieces, n_places; /* fill = n_places / (n_rows * T) */
    int64_t n_overlong;                 /* samples dropped or cut */
} rf_rows_statistics;
/* Packs epoch `epoch` by lengths alone. Does not move the stream, and may be called while another
 * thread takes rows from it. */
RF_MUST_CHECK int rf_rows_measure(const rf_rows *rows, int64_t epoch, rf_rows_statistics *out,
                                  rf_error *err);
size_t rf_rows_bytes(const rf_rows *rows); /* host memory held now */

#endif
