/* rows_test.h: taking rows from a stream and looking at them. */
#ifndef RF_TESTS_DATA_ROWS_TEST_H
#define RF_TESTS_DATA_ROWS_TEST_H

#include "data/rows.h"
#include "tests/data/corpus/make_corpus.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { T = 64, SEED = 7 };

static const rf_objective objective = {
    .kind = &rf_objective_refusion, .slot_sizes = {4}, .n_slot_sizes = 1, .mask = 257};

static inline rf_rows_settings make_settings(int64_t window)
{
    return (rf_rows_settings){
        .seed = SEED, .row_length = T, .window = window, .overlong = RF_OVERLONG_DROP};
}

static inline rf_rows *make_rows(rf_corpus **corpus, int64_t n, const rf_rows_settings *settings)
{
    rf_rows *rows;
    rf_error err;
    cr_assert_eq(rf_rows_new(&rows, corpus, n, &objective, settings, &err), RF_OK, "%s",
                 err.message);
    return rows;
}

static inline rf_row next(rf_rows *rows)
{
    rf_row row;
    rf_error err;
    cr_assert_eq(rf_rows_next(rows, &row, &err), RF_OK, "%s", err.message);
    return row;
}

static inline rf_rows_statistics measure(rf_rows *rows, int64_t epoch)
{
    rf_rows_statistics statistics;
    rf_error err;
    cr_assert_eq(rf_rows_measure(rows, epoch, &statistics, &err), RF_OK, "%s", err.message);
    return statistics;
}

/* n samples with prompts of 1 to 9 and responses of 1 to 40 tokens. */
static inline rf_corpus *ragged_corpus(int64_t n, double weight, uint64_t salt)
{
    test_length *length = malloc((size_t)n * sizeof *length);
    for (int64_t i = 0; i < n; i++) {
        rf_rng rng = RF_RNG_STREAM(salt, RF_RNG_TEST, (uint64_t)i);
        length[i].n_prompt = 2 + (int64_t)rf_rng_below(&rng, 8);
        length[i].n_response = 1 + (int64_t)rf_rng_below(&rng, 40);
    }
    rf_corpus *corpus = make_corpus(length, n, weight, salt);
    free(length);
    return corpus;
}

static inline bool same_position(rf_position a, rf_position b)
{
    return a.epoch == b.epoch && a.window == b.window && a.row == b.row;
}

/* A copy of a row that outlives the next call. */
typedef struct kept_row {
    rf_position position, after;
    rf_row row;
} kept_row;

static inline kept_row keep(rf_rows *rows)
{
    kept_row kept = {.position = rf_rows_tell(rows)};
    kept.row = next(rows);
    kept.after = rf_rows_tell(rows);
    size_t bytes = (size_t)kept.row.n_pieces * sizeof *kept.row.piece;
    kept.row.piece = memcpy(malloc(bytes), kept.row.piece, bytes);
    return kept;
}

static inline bool same_row(const rf_row *a, const rf_row *b)
{
    bool same = a->epoch == b->epoch && a->n_pieces == b->n_pieces && a->n_places == b->n_places;
    for (int64_t i = 0; same && i < a->n_pieces; i++) {
        const rf_piece *x = &a->piece[i], *y = &b->piece[i];
        same = x->corpus == y->corpus && x->sample == y->sample && x->occurrence == y->occurrence &&
               x->piece == y->piece && x->n_prompt == y->n_prompt &&
               x->n_response == y->n_response && x->response_first == y->response_first;
    }
    return same;
}

/* The rows of an epoch, from its begin; returns their number. */
static inline int64_t take_epoch(kept_row *kept, int64_t capacity, rf_rows *rows, int64_t epoch)
{
    rf_error err;
    int64_t n = 0;
    cr_assert_eq(rf_rows_seek(rows, (rf_position){epoch, 0, 0}, &err), RF_OK, "%s", err.message);
    while (rf_rows_tell(rows).epoch == epoch) {
        cr_assert_lt(n, capacity);
        kept[n++] = keep(rows);
        cr_assert_eq(kept[n - 1].row.epoch, epoch);
    }
    return n;
}

static inline void free_kept(kept_row *kept, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        free(kept[i].row.piece);
    }
}

/* No row is empty or too long, and its count of places is right. */
static inline void check_rows(const kept_row *kept, int64_t n)
{
    for (int64_t r = 0; r < n; r++) {
        int64_t places = 0;
        cr_assert_gt(kept[r].row.n_pieces, 0);
        for (int64_t i = 0; i < kept[r].row.n_pieces; i++) {
            places += kept[r].row.piece[i].n_prompt + kept[r].row.piece[i].n_response;
        }
        cr_assert(places == kept[r].row.n_places && places <= T);
    }
}

enum { MAX_ROWS = 4096 };

#endif
