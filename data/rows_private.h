/* rows_private.h: what rows.c and rows_pack.c share.                           all local */
#ifndef RF_DATA_ROWS_PRIVATE_H
#define RF_DATA_ROWS_PRIVATE_H

#include "data/rows.h"

/* An entry of an epoch is (sample counted over all corpora) * RF_MAX_OCCURRENCES + occurrence. */
enum { RF_MAX_OCCURRENCES = 1 << 20 };

/* The samples of an epoch in their shuffled order. */
typedef struct rf_order {
    int64_t epoch;
    int64_t *entry; /* [n_entries] owned */
    int64_t n_entries;
    int64_t n_windows; /* up to the last one that has a row; those between may be empty */
} rf_order;

/* A window, packed. Arrays grow to the largest window and stay. */
typedef struct rf_window {
    int64_t index; /* in its epoch */
    int64_t n_pieces, n_rows;
    int64_t n_places, n_overlong;
    int64_t capacity;   /* pieces that fit */
    rf_piece *piece;    /* [n_pieces] row after row */
    int64_t *row_begin; /* [n_rows+1] indices of piece */
    /* Scratch of packing. */
    rf_piece *loose; /* [n_pieces] in the order of their arrival */
    int64_t *row_of; /* [n_pieces] */
    int64_t *free;   /* [2*leaves] tree of the largest free room: rows are the leaves */
} rf_window;

struct rf_rows {
    rf_corpus **corpus; /* [n_corpora] the array is owned, the corpora are not */
    double *factor;     /* [n_corpora] */
    int64_t *epochs;    /* [n_corpora] 0: all */
    int64_t *first;     /* [n_corpora+1] samples of all corpora before this one */
    int64_t n_corpora;
    const rf_objective *objective;
    rf_rows_settings settings; /* weight and epochs are NULL: see above */
    rf_order order;
    rf_window window;
    int64_t row; /* next row of the window */
};

/* What the rules make of a sample. */
typedef struct rf_fit {
    int64_t n_prompt, n_response; /* as stored */
    int64_t room;                 /* response tokens that a piece may have */
    int64_t n_pieces;
    bool overlong; /* dropped or cut */
} rf_fit;

/* Rows depend on lengths and weights alone; everything below reads the stream and its corpora and
 * changes neither. */

double rf_rows_weight(const rf_rows *rows, int64_t corpus, int64_t sample);
rf_fit rf_rows_fit(const rf_rows *rows, const rf_corpus *corpus, int64_t sample);

/* Shuffles the samples of an epoch. An epoch without a row is an error; then *out is zeroed. */
RF_MUST_CHECK int rf_order_new(rf_order *out, const rf_rows *rows, int64_t epoch, rf_error *err);
void rf_order_free(rf_order *order); /* zeroes the struct */

/* Packs window `index` of the epoch; the window starts zeroed. On failure it is as it was. */
RF_MUST_CHECK int rf_window_pack(rf_window *window, const rf_rows *rows, const rf_order *order,
                                 int64_t index, rf_error *err);
void rf_window_free(rf_window *window); /* zeroes the struct */
size_t rf_window_bytes(const rf_window *window);

#endif
