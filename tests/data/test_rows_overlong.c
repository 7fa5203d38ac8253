/* Rows of samples that do not fit, and of input that cannot be packed. */
#include "tests/data/rows_test.h"

#include <math.h>

static kept_row kept[MAX_ROWS];

/* --- Long samples ----------------------------------------------------------------------------- */

Test(rows_overlong, long_texts_are_cut_into_pieces)
{
    /* A piece has the begin token and up to T-1 tokens of the text. */
    const test_length length[] = {{0, 1},         {0, T - 2},     {0, T - 1},     {0, T},
                                  {0, 2 * T - 2}, {0, 2 * T - 1}, {0, 50 * T + 3}};
    enum { N = sizeof length / sizeof *length };
    rf_corpus *corpus = make_corpus(length, N, 1, 1);
    for (int overlong = 0; overlong < 2; overlong++) {
        rf_rows_settings settings = make_settings(3);
        settings.overlong = overlong ? RF_OVERLONG_CUT : RF_OVERLONG_DROP;
        rf_rows *rows = make_rows(&corpus, 1, &settings);
        int64_t n = take_epoch(kept, MAX_ROWS, rows, 0), n_response[N] = {0};
        bool seen[N][100] = {{false}};
        check_rows(kept, n);
        for (int64_t r = 0; r < n; r++) {
            for (int64_t i = 0; i < kept[r].row.n_pieces; i++) {
                const rf_piece *p = &kept[r].row.piece[i];
                cr_assert_not(seen[p->sample][p->piece]);
                seen[p->sample][p->piece] = true;
                cr_assert_eq(p->n_prompt, 1);
                cr_assert_eq(p->response_first, 1 + p->piece * (T - 1));
                int64_t n_left = length[p->sample].n_response - p->piece * (T - 1);
                cr_assert_eq(p->n_response, n_left < T - 1 ? n_left : T - 1);
                n_response[p->sample] += p->n_response;
            }
        }
        for (int64_t i = 0; i < N; i++) {
            cr_assert_eq(n_response[i], length[i].n_response);
        }
        cr_assert_eq(measure(rows, 0).n_overlong, 0);
        free_kept(kept, n);
        rf_rows_free(rows);
    }
    rf_corpus_close(corpus);
}

Test(rows_overlong, pieces_of_a_text_are_not_in_a_row)
{
    const test_length length[] = {{0, 200 * (T - 1)}};
    rf_corpus *corpus = make_corpus(length, 1, 1, 1);
    rf_rows_settings settings = make_settings(100);
    rf_rows *rows = make_rows(&corpus, 1, &settings);
    int n_neighbours = 0;
    int32_t before = -1;
    for (int i = 0; i < 200; i++) {
        rf_row row = next(rows);
        n_neighbours += row.piece[0].piece == before + 1;
        before = row.piece[0].piece;
    }
    cr_assert(n_neighbours < 15);
    rf_rows_free(rows);
    rf_corpus_close(corpus);
}

Test(rows_overlong, overlong_samples_are_dropped_or_cut)
{
    /* fits exactly; one too long; prompt leaves one place; none; prompt alone is too long; fits */
    const test_length length[] = {{10, T - 10}, {10, T - 9},    {T - 1, 30},
                                  {T, 1},       {2 * T, 2 * T}, {5, 5}};
    const int64_t if_cut[] = {T - 10, T - 10, 1, 0, 0, 5}, if_dropped[] = {T - 10, 0, 0, 0, 0, 5};
    rf_corpus *corpus = make_corpus(length, 6, 1, 1);
    for (int cut = 0; cut < 2; cut++) {
        rf_rows_settings settings = make_settings(2);
        settings.overlong = cut ? RF_OVERLONG_CUT : RF_OVERLONG_DROP;
        rf_rows *rows = make_rows(&corpus, 1, &settings);
        for (int64_t epoch = 0; epoch < 20; epoch++) {
            int64_t n_response[6] = {0};
            int64_t n = take_epoch(kept, MAX_ROWS, rows, epoch);
            check_rows(kept, n);
            for (int64_t r = 0; r < n; r++) {
                for (int64_t i = 0; i < kept[r].row.n_pieces; i++) {
                    const rf_piece *p = &kept[r].row.piece[i];
                    cr_assert(p->piece == 0 && p->n_prompt == length[p->sample].n_prompt &&
                              p->response_first == p->n_prompt);
                    n_response[p->sample] = p->n_response;
                }
            }
            cr_assert_arr_eq(n_response, cut ? if_cut : if_dropped, sizeof n_response);
            rf_rows_statistics s = measure(rows, epoch);
            cr_assert(s.n_overlong == 4 && s.n_pieces == (cut ? 4 : 2) && s.n_rows == n);
            free_kept(kept, n);
        }
        rf_rows_free(rows);
    }
    rf_corpus_close(corpus);
}

/* Windows all of whose samples are dropped, at any place of the epoch, are passed over. */
Test(rows_overlong, empty_windows_are_passed_over)
{
    test_length length[30];
    for (int i = 0; i < 30; i++) {
        length[i] = i % 10 == 0 ? (test_length){3, 5} : (test_length){3, 2 * T};
    }
    rf_corpus *corpus = make_corpus(length, 30, 1, 1);
    rf_rows_settings settings = make_settings(1);
    rf_rows *rows = make_rows(&corpus, 1, &settings), *seek = make_rows(&corpus, 1, &settings);
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        for (int i = 0; i < 3; i++) {
            rf_error err;
            cr_assert_eq(rf_rows_tell(rows).epoch, epoch);
            cr_assert_eq(rf_rows_seek(seek, rf_rows_tell(rows), &err), RF_OK, "%s", err.message);
            rf_row a = next(rows), b = next(seek);
            cr_assert(a.epoch == epoch && same_row(&a, &b));
        }
    }
    rf_rows_statistics s = measure(rows, 4);
    cr_assert(s.n_overlong == 27 && s.n_rows == 3);
    rf_rows_free(seek);
    rf_rows_free(rows);
    rf_corpus_close(corpus);
}

/* --- Bad input -------------------------------------------------------------------------------- */

static void check_refused(rf_corpus *corpus, const rf_rows_settings *settings, const char *word)
{
    rf_rows *rows;
    rf_error err = {0};
    cr_assert_neq(rf_rows_new(&rows, &corpus, corpus != NULL, &objective, settings, &err), RF_OK);
    cr_assert_null(rows);
    cr_assert(strstr(err.message, word) != NULL, "%s", err.message);
}

Test(rows_overlong, refuses_bad_settings)
{
    rf_corpus *corpus = ragged_corpus(20, 1, 1);
    rf_rows_settings settings = make_settings(0);
    check_refused(corpus, &settings, "data.window");
    settings = make_settings(10);
    check_refused(NULL, &settings, "data.train");
    settings.row_length = 1;
    check_refused(corpus, &settings, "data.row_length");
    settings.row_length = INT64_MAX;
    check_refused(corpus, &settings, "data.row_length");
    const double weights[] = {-1, (double)NAN, (double)INFINITY, 1e30};
    for (int i = 0; i < 4; i++) {
        double weight = weights[i];
        settings = make_settings(10);
        settings.weight = &weight;
        check_refused(corpus, &settings, "data.train");
    }
    rf_corpus_close(corpus);
}

Test(rows_overlong, an_epoch_without_a_row_is_an_error)
{
    rf_corpus *corpus = ragged_corpus(20, 1, 1);
    rf_rows_settings settings = make_settings(10);
    double weight = 0;
    settings.weight = &weight;
    check_refused(corpus, &settings, "weights");
    rf_corpus_close(corpus);

    const test_length length[] = {{3, T}, {T, 3}};
    corpus = make_corpus(length, 2, 1, 1);
    settings = make_settings(10);
    check_refused(corpus, &settings, "data.overlong=cut");
    settings.overlong = RF_OVERLONG_CUT;
    rf_rows *rows = make_rows(&corpus, 1, &settings);
    cr_assert_eq(measure(rows, 0).n_pieces, 1);
    rf_rows_free(rows);
    rf_corpus_close(corpus);

    corpus = make_corpus(&length[1], 1, 1, 1); /* what is set is not advised */
    check_refused(corpus, &settings, "raise data.row_length (not even the prompts fit)");
    rf_corpus_close(corpus);
}

/* One sample in every second epoch: the first epoch without it says so, and the stream stays where
 * it is. */
Test(rows_overlong, an_epoch_that_becomes_empty_is_an_error)
{
    const test_length length[] = {{3, 5}};
    rf_corpus *corpus = make_corpus(length, 1, 1, 1);
    rf_rows_settings settings = make_settings(10);
    double weight = 0.5;
    settings.weight = &weight;
    rf_rows *rows = NULL;
    rf_error err;
    for (settings.seed = 0; rows == NULL; settings.seed++) {
        if (rf_rows_new(&rows, &corpus, 1, &objective, &settings, &err) != RF_OK) {
            cr_assert_null(rows);
        }
    }
    rf_row row;
    int64_t n = 0;
    while (rf_rows_next(rows, &row, &err) == RF_OK) {
        cr_assert_lt(n++, 100);
    }
    rf_position here = rf_rows_tell(rows);
    cr_assert(here.epoch == n);
    cr_assert_eq(rf_rows_next(rows, &row, &err), RF_ERR);
    cr_assert(strstr(err.message, "has no sample") != NULL, "%s", err.message);
    cr_assert(same_position(rf_rows_tell(rows), here));
    rf_rows_free(rows);
    rf_corpus_close(corpus);
}
