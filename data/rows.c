#include "data/rows.h"

#include "common/base/alloc.h"
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
    if (rf_corpus_has_turns(file) && !rows->objective->kind->takes_turns) {
        return rf_error_set(err, RF_ERR,
                            "%s: its conversations have several trained turns, which objective %s "
                            "does not define: build it with --turns each, or use "
                            "objective.kind=ar, mdm or block",
                            file->path, rows->objective->kind->name);
    }
    for (int64_t i = 0; i < file->n_samples; i++) {
        double weight = rf_rows_weight(rows, corpus, i);
        if (!(weight >= 0 && weight <= RF_MAX_OCCURRENCES - 1)) {
            return rf_error_set(err, RF_ERR,
                                "%s: sample %" PRId64 " has the weight %g: give weights from 0 "
                                "to %d in data.train and to the sources",
                                file->path, i, weight, RF_MAX_OCCURRENCES - 1);
        }
        rf_fit f = rf_rows_fit(rows, file, i);
        if (f.n_prompt < 0 || f.n_response < 1) {
            return rf_error_set(err, RF_ERR,
                                "%s: sample %" PRId64 " has no response: build the corpus again",
                                file->path, i);
        }
        if (f.n_pieces > INT32_MAX) {
            return rf_error_set(err, RF_ERR,
                                "%s: sample %" PRId64 " makes %" PRId64
                                " rows: raise data.row_length or split the text",
                                file->path, i, f.n_pieces);
        }
    }
    return RF_OK;
}

/* Copies the list of corpora and checks what they hold. */
static int take_corpora(rf_rows *rows, rf_corpus **corpus, int64_t n_corpora,
                        const rf_rows_settings *settings, rf_error *err)
{
    size_t n = (size_t)n_corpora;
    rows->corpus = rf_alloc_copy(corpus, n * sizeof *corpus);
    rows->factor = rf_alloc(n, sizeof *rows->factor);
    rows->epochs = rf_alloc(n, sizeof *rows->epochs);
    rows->first = rf_alloc(n + 1, sizeof *rows->first);
    rows->n_corpora = n_corpora;
    for (int64_t c = 0; c < n_corpora; c++) {
        rows->factor[c] = settings->weight != NULL ? settings->weight[c] : 1;
        rows->epochs[c] = settings->epochs != NULL ? settings->epochs[c] : 0;
        rows->first[c + 1] = rows->first[c] + corpus[c]->n_samples;
        RF_TRY(check_samples(rows, c, err));
    }
    return RF_OK;
}

int rf_rows_new(rf_rows **out, rf_corpus **corpus, int64_t n_corpora, const rf_objective *objective,
                const rf_rows_settings *settings, rf_error *err)
{
    *out = NULL;
    int rc;
    RF_TRY(check_settings(settings, err));
    if (n_corpora < 1) {
        return rf_error_set(err, RF_ERR_USAGE, "no corpus is given: name one in data.train");
    }
    rf_rows *rows = rf_alloc(1, sizeof *rows);
    rows->objective = objective;
    rows->settings = *settings;
    rows->settings.weight = NULL;
    rows->settings.epochs = NULL;
    RF_TRY_OUT(take_corpora(rows, corpus, n_corpora, settings, err));
    RF_TRY_OUT(rf_order_new(&rows->order, rows, 0, err));
    RF_TRY_OUT(rf_window_pack(&rows->window, rows, &rows->order, 0, err));
    *out = rows;
    return RF_OK;
out:
    rf_rows_free(rows);
    return rc;
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
    bool new_order = position.epoch != order.epoch;
    int rc;
    if (new_order) {
        RF_TRY(rf_order_new(&order, rows, position.epoch, err));
    }
    if (position.window >= order.n_windows) {
        rc = no_position(rows, position, err);
        goto out;
    }
    RF_TRY_OUT(rf_window_pack(&window, rows, &order, position.window, err));
    /* Row 0 of a window whose samples were all dropped is where a run that comes there stands. */
    if (position.row > 0 && position.row >= window.n_rows) {
        rc = no_position(rows, position, err);
        goto out;
    }
    if (new_order) {
        rf_order_free(&rows->order);
        rows->order = order;
    }
    rf_window_free(&rows->window);
    rows->window = window;
    rows->row = position.row;
    return RF_OK;
out:
    rf_window_free(&window);
    if (new_order) {
        rf_order_free(&order);
    }
    return rc;
}

int rf_rows_order(rf_position a, rf_position b)
{
    const int64_t apart = a.epoch != b.epoch     ? a.epoch - b.epoch
                          : a.window != b.window ? a.window - b.window
                                                 : a.row - b.row;
    return (apart > 0) - (apart < 0);
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
    RF_TRY(rf_order_new(&order, rows, rows->order.epoch + 1, err));
    int rc = rf_window_pack(&rows->window, rows, &order, 0, err);
    if (rc != RF_OK) {
        rf_order_free(&order);
        return rc;
    }
    rf_order_free(&rows->order);
    rows->order = order;
    return RF_OK;
}

int rf_rows_next(rf_rows *rows, rf_row *row, rf_error *err)
{
    while (rows->row >= rows->window.n_rows) {
        RF_TRY(next_window(rows, err));
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
    int rc;
    RF_TRY(rf_order_new(&order, rows, epoch, err));
    /* Also the windows at the end without a row: what they drop counts. */
    for (int64_t w = 0; w * rows->settings.window < order.n_entries; w++) {
        RF_TRY_OUT(rf_window_pack(&window, rows, &order, w, err));
        out->n_rows += window.n_rows;
        out->n_pieces += window.n_pieces;
        out->n_places += window.n_places;
        out->n_overlong += window.n_overlong;
    }
    rc = RF_OK;
out:
    rf_window_free(&window);
    rf_order_free(&order);
    return rc;
}

size_t rf_rows_bytes(const rf_rows *rows)
{
    return sizeof *rows + (size_t)rows->order.n_entries * sizeof *rows->order.entry +
           rf_window_bytes(&rows->window);
}
