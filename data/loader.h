/* loader.h: the rows of each step, dealt to the ranks.                         all local
 *
 * A step takes the next batch_rows rows of the stream (rows.h). micro_rows neighbours among them
 * make a leaf, which is what one forward and backward pass sees; each row is padded to T places.
 * The leaves of a step are numbered from 0; every rank gets as many (rf_loader_leaf says which) and
 * builds only those. A thread builds the next step while the caller uses the present one.
 * Validation uses the same loader, once through the data.
 */
#ifndef RF_DATA_LOADER_H
#define RF_DATA_LOADER_H

#include "data/rows.h"

typedef struct rf_loader_settings {
    rf_rows_settings rows;
    int64_t batch_rows;    /* rows of an optimizer step over all ranks */
    int64_t micro_rows;    /* rows of a leaf; divides batch_rows */
    int64_t rank, n_ranks; /* n_ranks divides batch_rows / micro_rows */
    int64_t round;         /* leaves of a rank in a round; divides its leaves. 0: all of them */
    const rf_rows_range *left_out; /* [n_left_out] rows that no step gets */
    int64_t n_left_out;
    bool lists; /* the shares say which samples they hold */
    bool once;  /* one epoch, the last step filled with empty rows; then n_leaves is 0 */
} rf_loader_settings;

/* A sample, or a part of it, in a row of a step (rows.h: rf_piece). */
typedef struct rf_loader_piece {
    int64_t row; /* of the step, over all ranks */
    int64_t epoch, corpus, sample, occurrence, piece;
} rf_loader_piece;

/* What this rank has to do in a step. */
typedef struct rf_loader_share {
    rf_batch *leaf; /* [n_leaves], each of micro_rows * T places, weights still relative */
    int64_t n_leaves;
    rf_counts counts;      /* of this rank's leaves */
    rf_position position;  /* where the stream stands after this step */
    int64_t step_rows;     /* rows with content in the step, over all ranks */
    rf_loader_piece *list; /* [n_listed] what this rank's leaves hold, in their order */
    int64_t n_listed;
} rf_loader_share;

typedef struct rf_loader rf_loader;

/* Which leaf of the step is the i-th that this rank gets? In each round every rank gets `round`
 * neighbouring leaves, in rank order. */
int64_t rf_loader_leaf(int64_t rank, int64_t n_ranks, int64_t round, int64_t i);

/* Starts the thread at position `start` of the stream; it calls neither MPI nor OpenMP, and signals
 * go to other threads. Corpora and objective must outlive the loader, and nobody else may read the
 * corpora while it lives; settings are copied. Errors: numbers that do not divide each other, a
 * start that the data does not have, those of rf_rows_new. 0 <= rank < n_ranks. */
RF_MUST_CHECK int rf_loader_new(rf_loader **out, rf_corpus **corpus, int64_t n_corpora,
                                const rf_objective *objective, const rf_loader_settings *settings,
                                rf_position start, rf_error *err);
void rf_loader_free(rf_loader *loader); /* stops the thread; NULL is fine */
/* The bytes of such a loader, which is not made: no batch is allocated and no token read. */
RF_MUST_CHECK int rf_loader_plan(size_t *bytes, rf_corpus **corpus, int64_t n_corpora,
                                 const rf_objective *objective, const rf_loader_settings *settings,
                                 rf_position start, rf_error *err);
/* Waits for the next step. *share belongs to the loader and is valid until the next call; its
 * weights may be finished in place. The noise of a sample depends on (seed, epoch, corpus, sample,
 * occurrence, piece) alone. Where the thread failed, the steps that it built before are given
 * first, then its error, at every further call. */
RF_MUST_CHECK int rf_loader_next(rf_loader *loader, rf_loader_share **share, rf_error *err);
/* Host memory held, as of the last step built. */
size_t rf_loader_bytes(const rf_loader *loader);

#endif
