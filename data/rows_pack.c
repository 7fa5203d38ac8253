#include "common/base/alloc.h"
#include "data/rows_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- Samples ---------------------------------------------------------------------------------- */

/* The longest response that fits into a row behind the prompt; 0: none does. A footprint only ever
 * grows with the response, but it need not be a sum: so it is searched. */
static int64_t longest_response(const rf_rows *rows, int64_t n_prompt)
{
    int64_t low = 0, high = rows->settings.row_length;
    while (low < high) {
        int64_t middle = high - (high - low) / 2;
        if (rf_objective_places(rows->objective, n_prompt, middle) <= rows->settings.row_length) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

rf_fit rf_rows_fit(const rf_rows *rows, const rf_corpus *corpus, int64_t sample)
{
    rf_fit f = {.n_prompt = rf_corpus_prompt_length(corpus, sample)};
    f.room = f.n_response = rf_corpus_length(corpus, sample) - f.n_prompt;
    f.n_pieces = 1;
    if (rf_objective_places(rows->objective, f.n_prompt, f.n_response) <=
        rows->settings.row_length) {
        return f;
    }
    bool text = rf_corpus_is_text(corpus, sample);
    f.room = longest_response(rows, f.n_prompt);
    if (f.room == 0) {
        f.n_pieces = 0;
    } else if (text) {
        f.n_pieces = (f.n_response - 1) / f.room + 1;
    } else {
        f.n_pieces = rows->settings.overlong == RF_OVERLONG_CUT ? 1 : 0;
    }
    f.overlong = !text || f.room == 0;
    return f;
}

double rf_rows_weight(const rf_rows *rows, int64_t corpus, int64_t sample)
{
    return rf_corpus_weight(rows->corpus[corpus], sample) * rows->factor[corpus];
}

/* Times that a sample is seen in an epoch: the whole part of its weight, and once more with the
 * probability of the rest; never after the corpus's last epoch. */
static int64_t n_occurrences(const rf_rows *rows, int64_t epoch, int64_t corpus, int64_t sample)
{
    if (rows->epochs[corpus] > 0 && epoch >= rows->epochs[corpus]) {
        return 0;
    }
    double weight = rf_rows_weight(rows, corpus, sample);
    double whole = floor(weight);
    int64_t n = (int64_t)whole;
    if (weight > whole) {
        rf_rng rng = RF_RNG_STREAM(rows->settings.seed, RF_RNG_WEIGHT, (uint64_t)epoch,
                                   (uint64_t)corpus, (uint64_t)sample);
        n += rf_rng_uniform(&rng) < weight - whole;
    }
    return n;
}

static rf_piece entry_piece(const rf_rows *rows, int64_t entry)
{
    int64_t global = entry / RF_MAX_OCCURRENCES;
    int64_t corpus = 0;
    while (global >= rows->first[corpus + 1]) {
        corpus++;
    }
    return (rf_piece){.corpus = corpus,
                      .sample = global - rows->first[corpus],
                      .occurrence = (int32_t)(entry % RF_MAX_OCCURRENCES)};
}

static rf_fit entry_fit(const rf_rows *rows, int64_t entry)
{
    rf_piece piece = entry_piece(rows, entry);
    return rf_rows_fit(rows, rows->corpus[piece.corpus], piece.sample);
}

/* --- Epochs ----------------------------------------------------------------------------------- */

static bool window_has_row(const rf_rows *rows, const rf_order *order, int64_t index)
{
    int64_t begin = index * rows->settings.window;
    for (int64_t i = begin; i < order->n_entries && i - begin < rows->settings.window; i++) {
        if (entry_fit(rows, order->entry[i]).n_pieces > 0) {
            return true;
        }
    }
    return false;
}

/* Fills entry with the samples in their stored order, where it is not NULL, and counts them. */
static int64_t list_entries(const rf_rows *rows, int64_t epoch, int64_t *entry)
{
    int64_t n = 0;
    for (int64_t c = 0; c < rows->n_corpora; c++) {
        int64_t n_samples = rows->first[c + 1] - rows->first[c];
        for (int64_t i = 0; i < n_samples; i++) {
            int64_t n_times = n_occurrences(rows, epoch, c, i);
            for (int64_t k = 0; entry != NULL && k < n_times; k++) {
                entry[n + k] = (rows->first[c] + i) * RF_MAX_OCCURRENCES + k;
            }
            n += n_times;
        }
    }
    return n;
}

int rf_order_new(rf_order *out, const rf_rows *rows, int64_t epoch, rf_error *err)
{
    *out = (rf_order){.epoch = epoch};
    int64_t n = list_entries(rows, epoch, NULL);
    if (n == 0) {
        return rf_error_set(err, RF_ERR,
                            "epoch %" PRId64 " of the data has no sample (%" PRId64
                            " stored): raise the weights of the sources or of data.train",
                            epoch, rows->first[rows->n_corpora]);
    }
    out->entry = malloc((size_t)n * sizeof *out->entry);
    if (out->entry == NULL) {
        return rf_error_set(err, RF_ERR,
                            "no memory for the order of %" PRId64
                            " samples: lower the weights of data.train or use fewer corpora",
                            n);
    }
    out->n_entries = list_entries(rows, epoch, out->entry);
    RF_ASSERT(out->n_entries == n);
    rf_rng rng = RF_RNG_STREAM(rows->settings.seed, RF_RNG_SHUFFLE, (uint64_t)epoch);
    rf_rng_shuffle(&rng, out->entry, n, sizeof *out->entry);
    /* So that the end of an epoch is known without packing what follows it. */
    out->n_windows = (n - 1) / rows->settings.window + 1;
    while (out->n_windows > 0 && !window_has_row(rows, out, out->n_windows - 1)) {
        out->n_windows--;
    }
    if (out->n_windows == 0) {
        free(out->entry);
        *out = (rf_order){0};
        return rf_error_set(err, RF_ERR,
                            "epoch %" PRId64 " of the data has no row: each of its %" PRId64
                            " samples takes more places (%s) than data.row_length = %" PRId64
                            ": raise data.row_length%s",
                            epoch, n, rows->objective->kind->footprint, rows->settings.row_length,
                            rows->settings.overlong == RF_OVERLONG_CUT
                                ? " (not even the prompts fit)"
                                : ", or set data.overlong=cut");
    }
    return RF_OK;
}

void rf_order_free(rf_order *order)
{
    free(order->entry);
    *order = (rf_order){0};
}

/* --- Windows ---------------------------------------------------------------------------------- */

void rf_window_free(rf_window *window)
{
    RF_FREE(window->piece, window->row_begin, window->loose, window->row_of, window->free);
    *window = (rf_window){0};
}

/* Leaves of the tree over n rows: a power of two. */
static int64_t n_leaves(int64_t n)
{
    int64_t leaves = 1;
    while (leaves < n) {
        leaves *= 2;
    }
    return leaves;
}

size_t rf_window_bytes(const rf_window *window)
{
    size_t n = (size_t)window->capacity;
    return n * (sizeof *window->piece + sizeof *window->loose + sizeof *window->row_of) +
           (n + 1) * sizeof *window->row_begin +
           2 * (size_t)n_leaves(window->capacity) * sizeof *window->free;
}

static int window_reserve(rf_window *window, int64_t n, rf_error *err)
{
    if (n <= window->capacity) {
        return RF_OK;
    }
    size_t count = (size_t)n, tree = 2 * (size_t)n_leaves(n);
    rf_window grown = {
        .capacity = n,
        .piece = malloc(count * sizeof *grown.piece),
        .row_begin = malloc((count + 1) * sizeof *grown.row_begin),
        .loose = malloc(count * sizeof *grown.loose),
        .row_of = malloc(count * sizeof *grown.row_of),
        .free = malloc(tree * sizeof *grown.free),
    };
    if (grown.piece == NULL || grown.row_begin == NULL || grown.loose == NULL ||
        grown.row_of == NULL || grown.free == NULL) {
        rf_window_free(&grown);
        return rf_error_set(err, RF_ERR,
                            "no memory to pack %" PRId64
                            " pieces of samples: lower data.window or raise data.row_length",
                            n);
    }
    rf_window_free(window);
    *window = grown;
    return RF_OK;
}

/* Lists the pieces of the window's samples in `loose`. Pieces of a long text would fill consecutive
 * rows, and so whole steps: hence the pieces of a window are shuffled. */
static void list_pieces(rf_window *window, const rf_rows *rows, const rf_order *order,
                        int64_t begin, int64_t end)
{
    int64_t n = 0;
    for (int64_t i = begin; i < end; i++) {
        rf_fit f = entry_fit(rows, order->entry[i]);
        rf_piece piece = entry_piece(rows, order->entry[i]);
        piece.n_prompt = f.n_prompt;
        for (int64_t k = 0; k < f.n_pieces; k++) {
            int64_t n_left = f.n_response - k * f.room;
            piece.piece = (int32_t)k;
            piece.n_response = n_left < f.room ? n_left : f.room;
            piece.response_first = f.n_prompt + k * f.room;
            window->loose[n++] = piece;
        }
        window->n_overlong += f.overlong;
    }
    rf_rng rng = RF_RNG_STREAM(rows->settings.seed, RF_RNG_SHUFFLE, (uint64_t)order->epoch,
                               (uint64_t)window->index);
    rf_rng_shuffle(&rng, window->loose, n, sizeof *window->loose);
}

/* First fit: each piece goes to the first row with room for it. The tree holds for each node the
 * largest room below it, so a row is found in log2(rows) steps: a window with one very long text
 * may have millions. */
static void first_fit(rf_window *window, const rf_rows *rows)
{
    int64_t leaves = n_leaves(window->n_pieces);
    for (int64_t i = 0; i < 2 * leaves; i++) {
        window->free[i] = rows->settings.row_length;
    }
    for (int64_t i = 0; i < window->n_pieces; i++) {
        const rf_piece *piece = &window->loose[i];
        int64_t need = rf_objective_places(rows->objective, piece->n_prompt, piece->n_response);
        int64_t node = 1;
        while (node < leaves) {
            node = 2 * node + (window->free[2 * node] < need);
        }
        window->row_of[i] = node - leaves;
        window->n_rows = node - leaves < window->n_rows ? window->n_rows : node - leaves + 1;
        window->n_places += need;
        window->free[node] -= need;
        for (node /= 2; node > 0; node /= 2) {
            int64_t left = window->free[2 * node], right = window->free[2 * node + 1];
            window->free[node] = left > right ? left : right;
        }
    }
}

/* Counting sort of the pieces by row; inside a row they stay in the order of their arrival. */
static void sort_by_row(rf_window *window)
{
    int64_t *begin = window->row_begin;
    memset(begin, 0, (size_t)(window->n_rows + 1) * sizeof *begin);
    for (int64_t i = 0; i < window->n_pieces; i++) {
        begin[window->row_of[i] + 1]++;
    }
    for (int64_t r = 0; r < window->n_rows; r++) {
        begin[r + 1] += begin[r];
    }
    /* begin[r] runs to the end of row r, which is the begin of row r + 1: then shift back. */
    for (int64_t i = 0; i < window->n_pieces; i++) {
        window->piece[begin[window->row_of[i]]++] = window->loose[i];
    }
    memmove(begin + 1, begin, (size_t)window->n_rows * sizeof *begin);
    begin[0] = 0;
}

int rf_window_pack(rf_window *window, const rf_rows *rows, const rf_order *order, int64_t index,
                   rf_error *err)
{
    int64_t begin = index * rows->settings.window;
    int64_t end = order->n_entries - begin < rows->settings.window ? order->n_entries
                                                                   : begin + rows->settings.window;
    int64_t n = 0;
    for (int64_t i = begin; i < end; i++) {
        n += entry_fit(rows, order->entry[i]).n_pieces;
    }
    RF_TRY(window_reserve(window, n, err));
    window->index = index;
    window->n_pieces = n;
    window->n_rows = window->n_places = window->n_overlong = 0;
    list_pieces(window, rows, order, begin, end);
    if (n > 0) {
        first_fit(window, rows);
        sort_by_row(window);
    }
    return RF_OK;
}
