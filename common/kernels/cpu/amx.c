/* Products on AMX tiles, of bf16, and of int8 for int8.c. 32 x 32 of c are held in four tiles, and
 * each step takes 16 cells of the inner dimension: it loads four tiles for four multiplications.
 * The loads limit it. So c is not summed in pieces: it is loaded and stored once for the whole
 * inner dimension of a product. */
#include "common/kernels/cpu/internal.h"

#if defined(RF_ISA_amx)

enum {
    SIDE = 16,
    TILE_BYTES = 64,
    AHEAD = 8 * SIDE * BF16_PANEL /* floats of b from prefetch to use: 8 steps */
};
_Static_assert((int)BF16_ROWS == SIDE && (int)BF16_CELLS == SIDE && (int)BF16_PANEL == 2 * SIDE,
               "whole tiles");

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* Compilers do not all know that a tile load reads memory, and may move a store behind it. */
static inline void memory_is_written(void)
{
    __asm__ volatile("" ::: "memory");
}

void RF_CPU(amx_begin)(void)
{
    const tile_config config = {.palette = 1,
                                .row_bytes = {TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES,
                                              TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES},
                                .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    _tile_loadconfig(&config);
    memory_is_written();
}

void RF_CPU(amx_end)(void)
{
    memory_is_written();
    _tile_release();
}

/* Tiles 0 to 3 hold c: rows 0..15 with columns 0..15 and 16..31, then rows 16..31. Tiles 4 and 5
 * take a step's rows of a, 6 and 7 its columns of b. */
static void multiply_two_rows(const float *a, const float *b, int64_t lda, int64_t k)
{
    const int64_t a_bytes = lda * (int64_t)sizeof(float), b_bytes = BF16_PANEL * sizeof(float);
    for (int64_t i = 0; i < k; i += SIDE, a += SIDE, b += SIDE * BF16_PANEL) {
        _tile_loadd(4, a, a_bytes);
        _tile_loadd(6, b, b_bytes);
        _tile_loadd(5, a + SIDE * lda, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        _tile_loadd(7, b + SIDE, b_bytes);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* At most 16 rows of c: tiles 0 and 1 only. With so few rows b is mostly read from memory, faster
 * than the processor would prefetch it by itself. */
static void multiply_one_row(const float *a, const float *b, int64_t lda, int64_t k)
{
    const int64_t a_bytes = lda * (int64_t)sizeof(float), b_bytes = BF16_PANEL * sizeof(float);
    for (int64_t i = 0; i < k; i += SIDE, a += SIDE, b += SIDE * BF16_PANEL) {
        for (int64_t line = 0; line < SIDE * BF16_PANEL; line += SIDE) {
            v_prefetch(b + AHEAD + line);
        }
        _tile_loadd(4, a, a_bytes);
        _tile_loadd(6, b, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + SIDE, b_bytes);
        _tile_dpbf16ps(1, 4, 7);
    }
}

static void multiply(const float *a, const float *b, int64_t lda, int64_t k, int64_t rows)
{
    if (rows > SIDE) {
        multiply_two_rows(a, b, lda, k);
    } else {
        multiply_one_row(a, b, lda, k);
    }
}

static void load_sums(const float *c, int64_t ld, int64_t rows)
{
    const int64_t bytes = ld * (int64_t)sizeof(float);
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + SIDE, bytes);
    if (rows > SIDE) {
        _tile_loadd(2, c + SIDE * ld, bytes);
        _tile_loadd(3, c + SIDE * ld + SIDE, bytes);
    }
}

static void clear_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Of f32 or, where they are of int8, of i32. */
static void store_sums(void *c, int64_t ld, int64_t rows)
{
    const int64_t bytes = ld * (int64_t)sizeof(float);
    char *lower = (char *)c + SIDE * bytes;
    _tile_stored(0, c, bytes);
    _tile_stored(1, (char *)c + TILE_BYTES, bytes);
    if (rows > SIDE) {
        _tile_stored(2, lower, bytes);
        _tile_stored(3, lower + TILE_BYTES, bytes);
    }
}

/* Tiles of c are loaded from c and stored there where they are whole, of f32 and without bias;
 * otherwise through these. */
typedef struct sums {
    _Alignas(64) float at[2 * SIDE * BF16_PANEL];
} sums;

/* What a product is added to, or `at` NULL. */
typedef struct beginning {
    const void *at;
    int64_t ld;
} beginning;

/* s = rows x cols numbers from element `first` of `from`, and 0 around them. */
static void take_start(sums *s, rf_type type, const beginning *from, int64_t first, int64_t rows,
                       int64_t cols)
{
    for (int64_t r = 0; r < 2 * SIDE; r++) {
        for (int64_t c = 0; c < BF16_PANEL; c += VL) {
            bool exists = r < rows && c < cols;
            vf x = exists ? load_as(type, from->at, first + r * from->ld + c, cols - c) : v_zero();
            v_store(s->at + r * BF16_PANEL + c, x);
        }
    }
}

/* c of rows [row, row + rows) and columns [col, col + cols) = s + bias. */
static void give_sums(const product *p, const sums *s, int64_t row, int64_t rows, int64_t col,
                      int64_t cols)
{
    const rf_type type = p->half != NULL ? RF_BF16 : RF_F32;
    void *c = p->half != NULL ? (void *)p->half : p->c;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i += VL) {
            vf x = v_load(s->at + r * BF16_PANEL + i);
            if (p->bias != NULL) {
                x = v_add(x, v_load_n(p->bias + col + i, cols - i));
            }
            store_as(type, c, (row + r) * p->ldc + col + i, x, cols - i);
        }
    }
}

/* Prefetches, for writing, the lines of c of bf16 to which a tile will be stored. */
static void prefetch_half(const product *p, int64_t row, int64_t col)
{
    for (int64_t r = 0; r < 2 * SIDE; r++) {
        __builtin_prefetch(p->half + (row + r) * p->ldc + col, 1, 2);
    }
}

static void make_tile(const product *p, const beginning *from, int64_t row, int64_t col)
{
    sums own;
    const int64_t rows = min_of(2 * SIDE, p->m - row), cols = min_of(BF16_PANEL, p->n - col);
    const bool full = rows == 2 * SIDE && cols == BF16_PANEL;
    const bool direct = full && p->half == NULL && p->bias == NULL;
    if (from->at == NULL) {
        clear_sums();
    } else if (direct) {
        load_sums((const float *)from->at + row * from->ld + col, from->ld, rows);
    } else {
        take_start(&own, p->half != NULL ? RF_BF16 : RF_F32, from, row * from->ld + col, rows,
                   cols);
        memory_is_written();
        load_sums(own.at, BF16_PANEL, rows);
    }
    if (full && p->half != NULL) {
        prefetch_half(p, row, col);
    }
    multiply(p->a + row * p->lda, p->b + col / BF16_PANEL * p->panel_floats, p->lda, p->k, rows);
    if (direct) {
        store_sums(p->c + row * p->ldc + col, p->ldc, rows);
    } else {
        store_sums(own.at, BF16_PANEL, rows);
        memory_is_written();
        give_sums(p, &own, row, rows, col, cols);
    }
}

void RF_CPU(product_amx)(const product *p)
{
    const bool chain = p->mode == PRODUCT_CHAIN;
    const beginning from = {.at = p->mode == PRODUCT_SET ? NULL
                                  : p->half != NULL      ? (const void *)p->half_start
                                  : chain                ? p->c
                                                         : p->start,
                            .ld = chain ? p->ldc : p->ld_start};
    RF_CPU(amx_begin)();
    for (int64_t row = 0; row < p->m; row += 2 * SIDE) {
        for (int64_t col = 0; col < p->n; col += BF16_PANEL) {
            make_tile(p, &from, row, col);
        }
    }
    RF_CPU(amx_end)();
}

void RF_CPU(amx_int8)(int32_t *sum, const int32_t *a, int64_t lda, const char *b, int64_t ldb,
                      int64_t cells)
{
    const int64_t a_bytes = lda * (int64_t)sizeof *a;
    clear_sums();
    for (int64_t i = 0; i < cells; i += SIDE, a += SIDE, b += SIDE * ldb) {
        _tile_loadd(4, a, a_bytes);
        _tile_loadd(6, b, ldb);
        _tile_loadd(5, a + SIDE * lda, a_bytes);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(2, 5, 6);
        _tile_loadd(7, b + TILE_BYTES, ldb);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(3, 5, 7);
    }
    store_sums(sum, 2 * SIDE, 2 * SIDE);
    memory_is_written();
}

#endif
