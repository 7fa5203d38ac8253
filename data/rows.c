#include "data/rows.h"

#include "data/rows_private.h"

#include <inttypes.h>
#include <stdlib.h>

static int check_settings(const rf_rows_settings *settings, rf_error *err)
{
    if (settings->row_length < 2 || settings->row_length > INT32_MAX) {
        return rf_error_set(err, RF_ERR_USAGE, "data.row_length is %" PRId64 ": give 2 to %" PRId32,
                            settings->row_length, INT32_MAX);
    }
    if (settings->window < 1 || settings->window > INT32_MAX) {
        return rf_error_set(err, RF_ERR_USAGE, "data.window is %" PRId64 ": give 1 to %" PRId32,
                            settings->window, INT32_MAX);
    }
    return RF_OK;
}

static int check_samples(const rf_rows *rows, int64_t corpus, rf_error *err)
{
    const rf_corpus *file = rows->corpus[corpus];
    for (int64_t i = 0; i < rf_corpus_n_samples(file); i++) {
        double weight = rf_rows_weight(rows, corpus, i);
        if (!(weight >= 0 && weight <= RF_MAX_OCCURRENCES - 1)) {
            return rf_error_set(err, RF_ERR,
                                "%s: sample %" PRId64 " has the weight %g: give weights from 0 "
                                "to %d in data.train and to the sources",
                                rf_corpus_path(file), i, weight, RF_MAX_OCCURRENCES - 1);
        }
        rf_fit f = rf_rows_fit(rows, file, i);
        if (f.n_prompt < 0 || f.n_response < 1) {
            return rf_error_set(err, RF_ERR,
                                "%s: sample %" PRId64 " has no response: build the corpus again",
                                rf_corpus_path(file), i);
        }
        if (f.n_pieces > INT32_MAX) {
            return rf_error_set(err, RF_ERR,
                                "%s: sample %" PRId64 " makes %" PRId64
                                " rows: raise data.row_length or split the text",
                                rf_corpus_path(file), i, f.n_pieces);
        }
    }
    return RF_OK;
}

/* Copies the list of corpora and checks what they hold. */
static int take_corpora(rf_rows *rows, rf_corpus **corpus, int64_t n_corpora,
                        const rf_rows_settings *settings, rf_error *err)
{
    size_t n = (size_t)n_corpora;
    rows->corpus = malloc(n * sizeof *rows->corpus);
    rows->factor = malloc(n * sizeof *rows->factor);
    rows->epochs = calloc(n, sizeof *rows->epochs);
    rows->first = malloc((n + 1) * sizeof *rows->first);
    if (rows->corpus == NULL || rows->factor == NULL || rows->epochs == NULL ||
        rows->first == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for %zu corpora: use fewer", n);
    }
    rows->n_corpora = n_corpora;
    rows->first[0] = 0;
    for (int64_t c = 0; c < n_corpora; c++) {
        rows->corpus[c] = corpus[c];
        rows->factor[c] = settings->weight != NULL ? settings->weight[c] : 1;
        rows->epochs[c] = settings->epochs != NULL ? settings->epochs[c] : 0;
        rows->first[c + 1] = rows->first[c] + rf_corpus_n_samples(corpus[c]);
        int code = check_samples(rows, c, err);
        if (code != RF_OK) {
            return code;
        }
    }
    return RF_OK;
}

int rf_rows_new(rf_rows **out, rf_corpus **corpus, int64_t n_corpora, const rf_objective *objective,
                const rf_rows_settings *settings, rf_error *err)
{
    *out = NULL;
    int code = check_settings(settings, err);
    if (code != RF_OK) {
        return code;
    }
    if (n_corpora < 1) {
        return rf_error_set(err, RF_ERR_USAGE, "no corpus is given: name one in data.train");
    }
    rf_rows *rows = calloc(1, sizeof *rows);
    if (rows == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the stream of rows");
    }
    rows->objective = objective;
    rows->settings = *settings;
    rows->settings.weight = NULL;
    rows->settings.epochs = NULL;
    code = take_corpora(rows, corpus, n_corpora, settings, err);
    if (code == RF_OK) {
        code = rf_order_new(&rows->order, rows, 0, err);
    }
    if (code == RF_OK) {
        code = rf_window_pack(&rows->window, rows, &rows->order, 0, err);
    }
    if (code != RF_OK) {
        rf_rows_free(rows);
        return code;
    }
    *out = rows;
    return RF_OK;
}

void rf_rows_free(rf_rows *rows)
{
    if (rows != NULL) {
        free(rows->corpus);
        free(rows->factor);
        free(rows->epochs);
        free(rows->first);
        rf_order_free(&rows->order);
        rf_window_free(&rows->window);
        free(rows);
    }
}

static int no_position(const rf_rows *rows, rf_position p, rf_error *err)
{
    return rf_error_set(err, RF_ERR,
                        "the data has no position (epoch %" PRId64 ", window %" PRId64
                        ", row %" PRId64 ") with data.row_length = %" PRId64
                        " and data.window = %" PRId64
                        ": resume with the corpora and settings that the checkpoint was made with",
                        p.epoch, p.window, p.row, rows->settings.row_length, rows->settings.window);
}

int rf_rows_seek(rf_rows *rows, rf_position position, rf_error *err)
{
    if (position.epoch < 0 || position.window < 0 || position.row < 0) {
        return no_position(rows, position, err);
    }
    rf_order order = rows->order;
    rf_window window = {0};
    int code = RF_OK;
    if (position.epoch != rows->order.epoch) {
        code = rf_order_new(&order, rows, position.epoch, err);
    }
    if (code == RF_OK && position.window >= order.n_windows) {
        code = no_position(rows, position, err);
    }
    if (code == RF_OK) {
        code = rf_window_pack(&window, rows, &order, position.window, err);
    }
    /* Row 0 of a window whose samples were all dropped is where a run that comes there stands. */
    if (code == RF_OK && position.row > 0 && position.row >= window.n_rows) {
        code = no_position(rows, position, err);
    }
    bool new_order = order.entry != rows->order.entry;
    if (code != RF_OK) {
        rf_window_free(&window);
        if (new_order) {
            rf_order_free(&order);
        }
        return code;
    }
    if (new_order) {
        rf_order_free(&rows->order);
        rows->order = order;
    }
    rf_window_free(&rows->window);
    rows->window = window;
    rows->row = position.row;
    return RF_OK;
}

rf_position rf_rows_tell(const rf_rows *rows)
{
    int64_t epoch = rows->order.epoch, window = rows->window.index;
    if (rows->row < rows->window.n_rows) {
        return (rf_position){epoch, window, rows->row};
    }
    return window + 1 < rows->order.n_windows ? (rf_position){epoch, window + 1, 0}
                                              : (rf_position){epoch + 1, 0, 0};
}

static int next_window(rf_rows *rows, rf_error *err)
{
    if (rows->window.index + 1 < rows->order.n_windows) {
        return rf_window_pack(&rows->window, rows, &rows->order, rows->window.index + 1, err);
    }
    rf_order order;
    int code = rf_order_new(&order, rows, rows->order.epoch + 1, err);
    if (code == RF_OK) {
        code = rf_window_pack(&rows->window, rows, &order, 0, err);
        if (code != RF_OK) {
            rf_order_free(&order);
        }
    }
    if (code == RF_OK) {
        rf_order_free(&rows->order);
        rows->order = order;
    }
    return code;
}

int rf_rows_next(rf_rows *rows, rf_row *row, rf_error *err)
{
    while (rows->row >= rows->window.n_rows) {
        int code = next_window(rows, err);
        if (code != RF_OK) {
            return code;
        }
        rows->row = 0;
    }
    const int64_t *begin = &rows->window.row_begin[rows->row++];
    *row = (rf_row){.epoch = rows->order.epoch,
                    .piece = rows->window.piece + begin[0],
                    .n_pieces = begin[1] - begin[0]};
    for (int64_t i = 0; i < row->n_pieces; i++) {
        row->n_places +=
            rf_objective_places(rows->objective, row->piece[i].n_prompt, row->piece[i].n_response);
    }
    return RF_OK;
}

int rf_rows_measure(const rf_rows *rows, int64_t epoch, rf_rows_statistics *out, rf_error *err)
{
    *out = (rf_rows_statistics){0};
    rf_order order;
    rf_window window = {0};
    int code = rf_order_new(&order, rows, epoch, err);
    /* Also the windows at the end without a row: what they drop counts. */
    for (int64_t w = 0; code == RF_OK && w * rows->settings.window < order.n_entries; w++) {
        code = rf_window_pack(&window, rows, &order, w, err);
        if (code == RF_OK) {
            out->n_rows += window.n_rows;
            out->n_pieces += window.n_pieces;
            out->n_places += window.n_places;
            out->n_overlong += window.n_overlong;
        }
    }
    rf_window_free(&window);
    rf_order_free(&order);
    return code;
}

size_t rf_rows_bytes(const rf_rows *rows)
{
    return sizeof *rows + (size_t)rows->order.n_entries * sizeof *rows->order.entry +
           rf_window_bytes(&rows->window);
}
