/* loader.h: the rows of a step, dealt to ranks, built ahead by a thread.       all local
 *
 * An optimizer step takes batch_rows consecutive rows of the stream. micro_rows of them make a leaf
 * (one forward and backward pass), each row padded to T places; leaves are numbered globally, and
 * dealt to ranks in rounds (rf_loader_leaf). Validation uses the same loader, once through.
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
    bool once;             /* one epoch, the last step filled with empty rows; then n_leaves is 0 */
} rf_loader_settings;

/* This rank's share of a step. */
typedef struct rf_share {
    rf_batch *leaf; /* [n_leaves], each of micro_rows * T places, weights still relative */
    int64_t n_leaves;
    rf_counts counts;     /* of this rank's leaves */
    rf_position position; /* of the row after this step */
    int64_t step_rows;    /* rows with content in the step, over all ranks */
} rf_share;

typedef struct rf_loader rf_loader;

/* Which leaf of the step is the i-th that this rank gets? In each round every rank gets `round`
 * neighbouring leaves, in rank order. */
int64_t rf_loader_leaf(int64_t rank, int64_t n_ranks, int64_t round, int64_t i);

/* Corpora and objective outlive the loader, and nobody else reads the corpora while it lives;
 * settings are copied. Numbers that do not divide each other, or a start that the data does not
 * have, are errors. 0 <= rank < n_ranks. The thread calls neither MPI nor OpenMP and takes no
 * signals. */
RF_MUST_CHECK int rf_loader_new(rf_loader **out, rf_corpus **corpus, int64_t n_corpora,
                                const rf_objective *objective, const rf_loader_settings *settings,
                                rf_position start, rf_error *err);
void rf_loader_free(rf_loader *loader); /* stops the thread; NULL is fine */
/* The next step's share; it belongs to the loader and is valid until the next call (its weights may
 * be finished in place). Noise is keyed by (seed, epoch, corpus, sample, occurrence, piece). An
 * error of the thread comes out here, after the steps that were built before it, and stays. */
RF_MUST_CHECK int rf_loader_next(rf_loader *loader, rf_share **share, rf_error *err);
/* Host memory held, as of the last step built. */
size_t rf_loader_bytes(const rf_loader *loader);
/* The stream, for rf_rows_measure alone: the thread moves it. */
rf_rows *rf_loader_rows(rf_loader *loader);

#endif
