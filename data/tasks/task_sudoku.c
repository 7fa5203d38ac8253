#include "data/tasks/task_rules.h"

#include <inttypes.h>
#include <string.h>

/* A grid of side x side cells in boxes of box x box, side = box * box; 0 is blank. */
enum { MAX_SIDE = 9, MAX_CELLS = MAX_SIDE * MAX_SIDE, MAX_TRIES = 100000 };

/* Bit d: digit d stands in the cell's row, column or box. */
static unsigned taken(const int *cell, int box, int at)
{
    int side = box * box, row = at / side, column = at % side;
    unsigned mask = 0;
    for (int i = 0; i < side; i++) {
        int r = row / box * box + i / box, c = column / box * box + i % box;
        mask |=
            1u << cell[row * side + i] | 1u << cell[i * side + column] | 1u << cell[r * side + c];
    }
    return mask;
}

static int n_bits(unsigned mask)
{
    return __builtin_popcount(mask);
}

/* The blank with the fewest digits left, the first of equals; -1: the grid is full. */
static int tightest_blank(const int *cell, int box)
{
    int side = box * box, best = -1, most = -1;
    for (int at = 0; at < side * side; at++) {
        int n = cell[at] == 0 ? n_bits(taken(cell, box, at) & ~1u) : -1;
        if (n > most) {
            best = at;
            most = n;
        }
    }
    return best;
}

/* Solutions of the grid, counted up to `limit`. The depth of the recursion is the number of
 * blanks. */
static int count_solutions(int *cell, int box, int limit)
{
    int side = box * box, at = tightest_blank(cell, box);
    if (at < 0) {
        return 1;
    }
    unsigned mask = taken(cell, box, at);
    int n = 0;
    for (int digit = 1; digit <= side && n < limit; digit++) {
        if ((mask >> digit & 1) == 0) {
            cell[at] = digit;
            n += count_solutions(cell, box, limit - n);
        }
    }
    cell[at] = 0;
    return n;
}

/* Fills the blanks in row order with digits in random order. false: no way from here. */
static bool fill_random(int *cell, int box, int at, rf_rng *rng)
{
    int side = box * box;
    if (at == side * side) {
        return true;
    }
    int64_t digit[MAX_SIDE];
    for (int i = 0; i < side; i++) {
        digit[i] = i + 1;
    }
    rf_rng_shuffle(rng, digit, side, sizeof *digit);
    unsigned mask = taken(cell, box, at);
    for (int i = 0; i < side; i++) {
        if ((mask >> digit[i] & 1) == 0) {
            cell[at] = (int)digit[i];
            if (fill_random(cell, box, at + 1, rng)) {
                return true;
            }
        }
    }
    cell[at] = 0;
    return false;
}

/* Blanks cells in random order while the solution stays the only one. Givens left. */
static int64_t blank_cells(int *cell, int box, int64_t n_givens, rf_rng *rng)
{
    int n = box * box * box * box;
    int64_t order[MAX_CELLS];
    for (int i = 0; i < n; i++) {
        order[i] = i;
    }
    rf_rng_shuffle(rng, order, n, sizeof *order);
    int64_t left = n;
    for (int i = 0; i < n && left > n_givens; i++) {
        int digit = cell[order[i]];
        cell[order[i]] = 0;
        if (count_solutions(cell, box, 2) == 1) {
            left--;
        } else {
            cell[order[i]] = digit;
        }
    }
    return left;
}

static void print_grid(char *text, const int *cell, int n)
{
    for (int i = 0; i < n; i++) {
        text[i] = (char)('0' + cell[i]);
    }
    text[n] = '\0';
}

static int generate(rf_task_text *out, rf_rng *rng, int box, const rf_task_options *options,
                    rf_error *err)
{
    const int n = box * box * box * box;
    for (int i = 0; i < MAX_TRIES; i++) {
        int cell[MAX_CELLS] = {0};
        RF_ASSERT(fill_random(cell, box, 0, rng));
        print_grid(out->response, cell, n);
        if (blank_cells(cell, box, options->n_parts, rng) == options->n_parts) {
            print_grid(out->query, cell, n);
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR, "no grid with %" PRId64 " givens found: raise option parts",
                        options->n_parts);
}

static int generate4(rf_task_text *out, rf_rng *rng, const rf_task_options *options, rf_error *err)
{
    return generate(out, rng, 2, options, err);
}

static int generate9(rf_task_text *out, rf_rng *rng, const rf_task_options *options, rf_error *err)
{
    return generate(out, rng, 3, options, err);
}

/* Reads the cells of a grid, '.' for 0; the side, or 0 if the text is none. */
static int read_grid(int *cell, const char *text)
{
    static const char blank[] = " \t\n\v\f\r";
    text += strspn(text, blank);
    size_t n = strcspn(text, blank);
    int side = n == 16 ? 4 : n == 81 ? 9 : 0;
    if (side == 0 || !rf_task_at_end(text + n)) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        cell[i] = text[i] == '.' ? 0 : text[i] - '0';
        if (cell[i] < 0 || cell[i] > side) {
            return 0;
        }
    }
    return side;
}

static bool check(const char *query, const char *expected, const char *answer)
{
    (void)expected;
    int given[MAX_CELLS], cell[MAX_CELLS];
    int side = read_grid(given, query);
    if (side == 0 || read_grid(cell, answer) != side) {
        return false;
    }
    for (int at = 0; at < side * side; at++) {
        int digit = cell[at];
        if (digit == 0 || (given[at] != 0 && given[at] != digit)) {
            return false;
        }
        cell[at] = 0;
        bool repeated = taken(cell, side == 4 ? 2 : 3, at) >> digit & 1;
        cell[at] = digit;
        if (repeated) {
            return false;
        }
    }
    return true;
}

/* Four is the least number of givens that a 4x4 grid with one solution can have. */
const rf_task rf_task_sudoku4 = {
    .name = "sudoku4",
    .help = "a 4x4 grid with parts=8 givens and one solution",
    .preset = {.n_parts = 8},
    .least = {.n_parts = 4},
    .most = {.n_parts = 15},
    .generate = generate4,
    .check = check,
};

/* 17 is the least for 9x9; blanking at random seldom comes below 24. */
const rf_task rf_task_sudoku9 = {
    .name = "sudoku9",
    .help = "a 9x9 grid with parts=40 givens and one solution",
    .preset = {.n_parts = 40},
    .least = {.n_parts = 24},
    .most = {.n_parts = 80},
    .generate = generate9,
    .check = check,
};
