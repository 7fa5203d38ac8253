/* The stream of rows: complete, deterministic, packed as stated, and seekable everywhere. */
#include "tests/data/rows_test.h"

static kept_row kept[MAX_ROWS], others[MAX_ROWS];

/* --- Completeness ----------------------------------------------------------------------------- */

Test(rows, every_sample_once_and_whole)
{
    rf_corpus *corpus[] = {ragged_corpus(300, 1, 1), ragged_corpus(77, 1, 2)};
    const int64_t windows[] = {1, 2, 50, 376, 377, 378, 100000};
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        rf_rows_settings settings = make_settings(windows[w]);
        rf_rows *rows = make_rows(corpus, 2, &settings);
        for (int64_t epoch = 0; epoch < 2; epoch++) {
            int seen[2][300] = {{0}};
            int64_t n = take_epoch(kept, MAX_ROWS, rows, epoch), n_pieces = 0, n_places = 0;
            check_rows(kept, n);
            for (int64_t r = 0; r < n; r++) {
                n_places += kept[r].row.n_places;
                for (int64_t i = 0; i < kept[r].row.n_pieces; i++) {
                    const rf_piece *p = &kept[r].row.piece[i];
                    rf_corpus *c = corpus[p->corpus];
                    seen[p->corpus][p->sample]++;
                    n_pieces++;
                    cr_assert(p->occurrence == 0 && p->piece == 0);
                    cr_assert_eq(p->n_prompt, rf_corpus_prompt_length(c, p->sample));
                    cr_assert_eq(p->n_prompt + p->n_response, rf_corpus_length(c, p->sample));
                    cr_assert_eq(p->response_first, p->n_prompt);
                }
            }
            cr_assert_eq(n_pieces, 377);
            for (int64_t i = 0; i < 377; i++) {
                cr_assert_eq(i < 300 ? seen[0][i] : seen[1][i - 300], 1);
            }
            rf_rows_statistics s = measure(rows, epoch);
            cr_assert(s.n_rows == n && s.n_pieces == 377 && s.n_places == n_places &&
                      s.n_overlong == 0);
            cr_assert(windows[w] > 1 || n == 377);
            cr_assert(windows[w] < 50 || (double)n_places >= 0.85 * (double)(n * T));
            free_kept(kept, n);
        }
        rf_rows_free(rows);
    }
    rf_corpus_close(corpus[0]);
    rf_corpus_close(corpus[1]);
}

/* Counts occurrences of each sample in an epoch; each occurrence number must come once. */
static void count_epoch(int *count, int64_t n_samples, rf_rows *rows, int64_t epoch)
{
    bool seen[400][4] = {{false}};
    int64_t n = take_epoch(kept, MAX_ROWS, rows, epoch);
    memset(count, 0, (size_t)n_samples * sizeof *count);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < kept[r].row.n_pieces; i++) {
            const rf_piece *p = &kept[r].row.piece[i];
            cr_assert(p->occurrence >= 0 && p->occurrence < 4);
            cr_assert_not(seen[p->sample][p->occurrence]);
            seen[p->sample][p->occurrence] = true;
            count[p->sample]++;
        }
    }
    for (int64_t i = 0; i < n_samples; i++) {
        cr_assert(count[i] == 0 || seen[i][count[i] - 1]);
    }
    free_kept(kept, n);
}

Test(rows, weights_are_multiplicities)
{
    const double source[] = {1, 2.5, 1, 0.5}, factor[] = {2.5, 1, 0.5, 5},
                 product[] = {2.5, 2.5, 0.5, 2.5};
    for (int k = 0; k < 4; k++) {
        rf_corpus *corpus = ragged_corpus(400, source[k], 3);
        rf_rows_settings settings = make_settings(64);
        double weight = factor[k];
        settings.weight = &weight;
        rf_rows *rows = make_rows(&corpus, 1, &settings);
        weight = -1; /* it was copied */
        int count[2][400], n_differ = 0;
        for (int64_t epoch = 0; epoch < 2; epoch++) {
            int n_more = 0;
            count_epoch(count[epoch], 400, rows, epoch);
            for (int i = 0; i < 400; i++) {
                int whole = (int)product[k];
                cr_assert(count[epoch][i] == whole || count[epoch][i] == whole + 1);
                n_more += count[epoch][i] > whole;
            }
            /* Binomial(400, 1/2): 5 standard deviations are 50. */
            cr_assert(abs(n_more - 200) <= 50, "%d", n_more);
        }
        for (int i = 0; i < 400; i++) {
            n_differ += count[0][i] != count[1][i];
        }
        cr_assert(n_differ > 100); /* another half in another epoch */
        rf_rows_free(rows);
        rf_corpus_close(corpus);
    }
}

Test(rows, a_corpus_of_weight_zero_is_left_out)
{
    rf_corpus *corpus[] = {ragged_corpus(20, 1, 1), ragged_corpus(20, 1, 2)};
    rf_rows_settings settings = make_settings(64);
    settings.weight = (double[]){0, 1};
    rf_rows *rows = make_rows(corpus, 2, &settings);
    cr_assert_eq(measure(rows, 0).n_pieces, 20);
    cr_assert_eq(next(rows).piece[0].corpus, 1);
    rf_rows_free(rows);
    rf_corpus_close(corpus[0]);
    rf_corpus_close(corpus[1]);
}

Test(rows, a_corpus_ends_with_its_last_epoch)
{
    rf_corpus *corpus[] = {ragged_corpus(20, 1, 1), ragged_corpus(30, 1, 2)};
    rf_rows_settings settings = make_settings(64);
    settings.epochs = (int64_t[]){2, 0};
    rf_rows *rows = make_rows(corpus, 2, &settings);
    cr_assert_eq(measure(rows, 0).n_pieces, 50);
    cr_assert_eq(measure(rows, 1).n_pieces, 50);
    cr_assert_eq(measure(rows, 2).n_pieces, 30);
    for (int64_t n = 0; n < 160;) {
        rf_row row = next(rows);
        for (int64_t i = 0; i < row.n_pieces; i++) {
            cr_assert(row.epoch < 2 || row.piece[i].corpus == 1);
        }
        n += row.n_pieces;
    }
    rf_rows_free(rows);
    rf_corpus_close(corpus[0]);
    rf_corpus_close(corpus[1]);
}

/* --- Order ------------------------------------------------------------------------------------ */

Test(rows, the_stream_is_a_function_of_its_settings)
{
    rf_corpus *corpus[] = {ragged_corpus(150, 1.5, 1), ragged_corpus(40, 1, 2)};
    rf_rows_settings settings = make_settings(30);
    rf_rows *a = make_rows(corpus, 2, &settings), *b = make_rows(corpus, 2, &settings);
    settings.seed++;
    rf_rows *c = make_rows(corpus, 2, &settings);
    int n_differ = 0;
    for (int i = 0; i < 400; i++) {
        kept_row x = keep(a), y = keep(b), z = keep(c);
        cr_assert(same_row(&x.row, &y.row) && same_position(x.after, y.after));
        n_differ += !same_row(&x.row, &z.row);
        if (i % 7 == 0) {
            measure(b, i % 3); /* does not move the stream */
        }
        free_kept(&x, 1);
        free_kept(&y, 1);
        free_kept(&z, 1);
    }
    cr_assert(n_differ > 300);
    rf_rows_free(a);
    rf_rows_free(b);
    rf_rows_free(c);
    rf_corpus_close(corpus[0]);
    rf_corpus_close(corpus[1]);
}

Test(rows, epochs_have_different_orders)
{
    rf_corpus *corpus = ragged_corpus(200, 1, 1);
    rf_rows_settings settings = make_settings(50);
    rf_rows *rows = make_rows(&corpus, 1, &settings);
    int64_t n = take_epoch(kept, MAX_ROWS, rows, 0), m = take_epoch(others, MAX_ROWS, rows, 1);
    int n_same = 0;
    for (int64_t i = 0; i < n && i < m; i++) {
        n_same += kept[i].row.piece[0].sample == others[i].row.piece[0].sample;
    }
    cr_assert(n_same < 10);
    free_kept(kept, n);
    free_kept(others, m);
    rf_rows_free(rows);
    rf_corpus_close(corpus);
}

/* A piece came to its row because no row before it had room, and room never grows. */
Test(rows, rows_are_filled_first_fit)
{
    rf_corpus *corpus = ragged_corpus(400, 1, 5);
    rf_rows_settings settings = make_settings(100);
    rf_rows *rows = make_rows(&corpus, 1, &settings);
    int64_t n = take_epoch(kept, MAX_ROWS, rows, 0);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t q = 0; q < r; q++) {
            if (kept[q].position.window == kept[r].position.window) {
                for (int64_t i = 0; i < kept[r].row.n_pieces; i++) {
                    const rf_piece *p = &kept[r].row.piece[i];
                    cr_assert_lt(T - kept[q].row.n_places, p->n_prompt + p->n_response);
                }
            }
        }
    }
    /* At most one row of a window is at most half full. */
    for (int64_t window = 0; window < 4; window++) {
        int n_half = 0;
        for (int64_t r = 0; r < n; r++) {
            n_half += kept[r].position.window == window && 2 * kept[r].row.n_places <= T;
        }
        cr_assert(n_half <= 1);
    }
    free_kept(kept, n);
    rf_rows_free(rows);
    rf_corpus_close(corpus);
}

/* --- Positions -------------------------------------------------------------------------------- */

Test(rows, seeking_equals_running_there)
{
    rf_corpus *corpus[] = {ragged_corpus(90, 1.5, 1), ragged_corpus(40, 1, 2)};
    const int64_t windows[] = {1, 7, 50, 1000};
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        rf_rows_settings settings = make_settings(windows[w]);
        rf_rows *run = make_rows(corpus, 2, &settings), *seek = make_rows(corpus, 2, &settings);
        int64_t n = 0;
        while (rf_rows_tell(run).epoch < 3) {
            kept[n++] = keep(run);
        }
        /* Every position, in an order that jumps to and fro. */
        for (int64_t k = 0; k < n; k++) {
            int64_t r = k * 101 % n; /* n is not a multiple of 101: see below */
            rf_error err;
            cr_assert_eq(rf_rows_seek(seek, kept[r].position, &err), RF_OK, "%s", err.message);
            cr_assert(same_position(rf_rows_tell(seek), kept[r].position));
            rf_row row = next(seek);
            cr_assert(same_row(&row, &kept[r].row));
            cr_assert(same_position(rf_rows_tell(seek), kept[r].after));
            if (r + 1 < n) {
                cr_assert(same_position(kept[r].after, kept[r + 1].position));
                row = next(seek);
                cr_assert(same_row(&row, &kept[r + 1].row));
            }
        }
        cr_assert_neq(n % 101, 0);
        free_kept(kept, n);
        rf_rows_free(run);
        rf_rows_free(seek);
    }
    rf_corpus_close(corpus[0]);
    rf_corpus_close(corpus[1]);
}

Test(rows, a_position_that_does_not_exist_is_refused)
{
    rf_corpus *corpus = ragged_corpus(100, 1, 1);
    rf_rows_settings settings = make_settings(40);
    rf_rows *rows = make_rows(&corpus, 1, &settings);
    for (int i = 0; i < 3; i++) {
        next(rows);
    }
    rf_position here = rf_rows_tell(rows);
    const rf_position bad[] = {{0, 3, 0},  {0, 0, 41}, {5, 3, 0},         {-1, 0, 0},
                               {0, -1, 0}, {0, 0, -1}, {0, INT64_MAX, 0}, {1, 2, INT64_MAX}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rf_error err;
        cr_assert_eq(rf_rows_seek(rows, bad[i], &err), RF_ERR);
        cr_assert(strstr(err.message, "data.window") != NULL, "%s", err.message);
        cr_assert(same_position(rf_rows_tell(rows), here));
    }
    rf_rows *run = make_rows(&corpus, 1, &settings);
    for (int i = 0; i < 3; i++) {
        next(run);
    }
    rf_row a = next(run), b = next(rows);
    cr_assert(same_row(&a, &b));
    rf_rows_free(run);
    rf_rows_free(rows);
    rf_corpus_close(corpus);
}
