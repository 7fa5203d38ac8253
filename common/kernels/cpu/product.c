/* The register tile, by which everything that multiplies matrices multiplies, and packing for it. */
#include "common/kernels/cpu/internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

enum {
    LINE = 16, /* floats of a cache line */
    AHEAD = 8 /* inner steps from the prefetch of a panel's row to its use; it is in the L2 cache */
};

/* Rows of a tile of cells: with AVX2 the two numbers of an operand's cells take two of 16 registers. */
#if defined(RF_ISA_avx2)
enum { CELL_ROWS = 4 };
#else
enum { CELL_ROWS = TILE_ROWS };
#endif

/* With the address sanitizer a tile's operands are looked at once, as rows or as what is packed for a tile, and not at
 * every step of its loop: that would be two thirds of a training's time. What is poisoned is reported as if it were
 * read. */
#if defined(__SANITIZE_ADDRESS__)
#define LOOKED_AT __attribute__((no_sanitize_address))
static void look_at(const float *from, int64_t n)
{
    const size_t bytes = n > 0 ? (size_t)n * sizeof *from : 0;
    const volatile char *bad = __asan_region_is_poisoned((void *)(uintptr_t)from, bytes);
    if (bad != NULL) {
        (void)*bad;
    }
}

static void look_at_operands(const product *p, int64_t row, int64_t col, int rows, int vectors,
                             bool transposed)
{
    const int64_t cols = min_of(vectors * VL, p->n - col);
    look_at(p->b + col / PANEL * p->panel_floats, (p->k - 1) * p->ldb + vectors * VL);
    if (transposed) {
        look_at(p->a + row * p->tile_step, (p->k - 1) * p->lda + rows);
    }
    for (int64_t r = row; r < row + rows; r++) {
        if (!transposed) {
            look_at(p->a + r * p->lda, p->k);
        }
        if (p->mode == PRODUCT_ADD) {
            look_at(p->start + r * p->ld_start + col, cols);
        }
        look_at(p->c + r * p->ldc + col, cols);
    }
    if (p->bias != NULL) {
        look_at(p->bias + col, cols);
    }
}
#else
#define LOOKED_AT
static inline void look_at_operands(const product *p, int64_t row, int64_t col, int rows,
                                    int vectors, bool transposed)
{
    (void)p, (void)row, (void)col, (void)rows, (void)vectors, (void)transposed;
}
#endif

/* One tile: `rows` x `vectors` vectors of c. Both are constants wherever this is inlined, so that
 * the sums live in registers. No sum depends on the rows and columns beside it, so tiles of fewer
 * rows, and with padded columns, give the same bits. */
LOOKED_AT V_INLINE void tile(const product *p, int64_t row, int64_t col, const int rows,
                             const int vectors, const bool transposed, const cell_type cell)
{
    look_at_operands(p, row, col, rows, vectors, transposed);
    const int64_t tile_step = transposed ? p->tile_step : p->lda;
    const float *a = p->a + row * tile_step;
    const float *b = p->b + col / PANEL * p->panel_floats;
    float *c = p->c + row * p->ldc + col;
    const int64_t lda = p->lda, ldb = p->ldb, ldc = p->ldc, k = p->k;
    const int64_t last = p->n - col - (vectors - 1) * VL; /* lanes of the last vector in use */
    const int64_t next_row = min_of(row + rows, p->m - rows);
    const float *next_a = p->a + next_row * tile_step;
    vf sum[TILE_ROWS][TILE_VECTORS];
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) {
            sum[r][v] = p->mode == PRODUCT_CHAIN
                            ? v_load_n(c + r * ldc + v * VL, v == vectors - 1 ? last : VL)
                            : v_zero();
        }
    }
    /* What is needed after the loop: the start, or c; in a chain, the next tile's c. */
    const float *soon = p->mode == PRODUCT_CHAIN ? c + (next_row - row) * ldc
                        : p->mode == PRODUCT_ADD ? p->start + row * p->ld_start + col
                                                 : c;
    const int64_t ld_soon = p->mode == PRODUCT_ADD ? p->ld_start : ldc;
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) {
            v_prefetch(soon + r * ld_soon + v * VL);
        }
    }
    /* Each tile of rows asks for its part of what comes next, spread over its steps, so that memory
     * never waits for multiplications. */
    const float *next = b, *next_end = b;
    int64_t lines = 0; /* for LINE steps */
    if (!transposed && p->n_next > 0) {
        next = b + k * ldb + p->n_next * row / p->m;
        next_end = b + k * ldb + p->n_next * (row + rows) / p->m;
        lines = ceil_div(next_end - next, k);
    }
    for (int64_t line = 0; line < k; line += LINE) { /* meanwhile prefetches the next tile's rows */
        const int64_t line_end = min_of(line + LINE, k);
        for (int r = 0; r < rows; r++) {
            v_prefetch(transposed ? next_a + line * TILE_ROWS + r * LINE : next_a + r * lda + line);
        }
        for (int64_t l = 0; l < lines && next < next_end; l++, next += LINE) {
            v_prefetch_far(next);
        }
        for (int64_t i = line; i < line_end; i++) {
            vf right[TILE_VECTORS];
            for (int v = 0; v < vectors; v++) {
                right[v] = v_load(b + i * ldb + v * VL);
                if (v * VL % LINE == 0) {
                    v_prefetch(b + (i + AHEAD) * ldb + v * VL);
                }
            }
            for (int r = 0; r < rows; r++) {
                vf left = v_set(transposed ? a[i * lda + r] : a[r * lda + i]);
                for (int v = 0; v < vectors; v++) {
                    sum[r][v] = cell == CELL_BF16 ? v_dot2(left, right[v], sum[r][v])
                                                  : v_fma(left, right[v], sum[r][v]);
                }
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) {
            int64_t lanes = v == vectors - 1 ? last : VL;
            vf x = sum[r][v];
            if (p->mode == PRODUCT_ADD) {
                x = v_add(v_load_n(p->start + (row + r) * p->ld_start + col + v * VL, lanes), x);
            }
            if (p->bias != NULL) {
                x = v_add(x, v_load_n(p->bias + col + v * VL, lanes));
            }
            v_store_n(c + r * ldc + v * VL, x, lanes);
        }
    }
}

/* One function for each number of rows and vectors. */
typedef void (*tile_function)(const product *p, int64_t row, int64_t col);
#define TILE(rows, vectors)                                                                        \
    LOOKED_AT static void tile_##rows##_##vectors(const product *p, int64_t row, int64_t col)      \
    {                                                                                              \
        tile(p, row, col, rows, vectors, false, CELL_F32);                                         \
    }                                                                                              \
    LOOKED_AT static void transposed_##rows##_##vectors(const product *p, int64_t row,             \
                                                        int64_t col)                               \
    {                                                                                              \
        tile(p, row, col, rows, vectors, true, CELL_F32);                                          \
    }                                                                                              \
    LOOKED_AT static void bf16_##rows##_##vectors(const product *p, int64_t row, int64_t col)      \
    {                                                                                              \
        tile(p, row, col, rows, vectors, false, CELL_BF16);                                        \
    }
#if defined(RF_ISA_avx512)
#define FOR_VECTORS(X, rows) X(rows, 1) X(rows, 2) X(rows, 3) X(rows, 4)
#define NAMES(form, rows)                                                                          \
    {                                                                                              \
        form##_##rows##_1, form##_##rows##_2, form##_##rows##_3, form##_##rows##_4                 \
    }
#else
#define FOR_VECTORS(X, rows) X(rows, 1) X(rows, 2)
#define NAMES(form, rows)                                                                          \
    {                                                                                              \
        form##_##rows##_1, form##_##rows##_2                                                       \
    }
#endif
FOR_VECTORS(TILE, 1)
FOR_VECTORS(TILE, 2)
FOR_VECTORS(TILE, 3)
FOR_VECTORS(TILE, 4)
#if defined(RF_ISA_avx512) || defined(RF_ISA_avx2)
FOR_VECTORS(TILE, 5)
FOR_VECTORS(TILE, 6)
#endif

#if defined(RF_ISA_avx512) || defined(RF_ISA_avx2)
#define ALL_ROWS(form)                                                                             \
    {                                                                                              \
        NAMES(form, 1), NAMES(form, 2), NAMES(form, 3), NAMES(form, 4), NAMES(form, 5),            \
            NAMES(form, 6)                                                                         \
    }
#else
#define ALL_ROWS(form)                                                                             \
    {                                                                                              \
        NAMES(form, 1), NAMES(form, 2), NAMES(form, 3), NAMES(form, 4)                             \
    }
#endif

/* By form (a row-major; a transposed; cells of bf16), rows and vectors. */
static const tile_function tiles[3][TILE_ROWS][TILE_VECTORS] = {
    ALL_ROWS(tile), ALL_ROWS(transposed), ALL_ROWS(bf16)};

void RF_CPU(product)(const product *p)
{
#if defined(RF_ISA_amx)
    if (p->cell == CELL_BF16) {
        RF_CPU(product_amx)(p);
        return;
    }
#endif
    const int form = p->cell == CELL_BF16 ? 2 : p->tile_step > 0;
    /* Tiles of about as many rows each: one of few rows would wait for b. */
    const int64_t whole = p->cell == CELL_BF16 ? CELL_ROWS : TILE_ROWS;
    const int64_t most = p->tile_step > 0 ? TILE_ROWS : ceil_div(p->m, ceil_div(p->m, whole));
    for (int64_t col = 0; col < p->n; col += PANEL) {
        int64_t vectors = ceil_div(min_of(PANEL, p->n - col), VL);
        for (int64_t row = 0; row < p->m; row += most) {
            int64_t rows = min_of(most, p->m - row);
            tiles[form][rows - 1][vectors - 1](p, row, col);
        }
    }
}

/* A square of VL x VL numbers of which only rows x cols exist; the others are 0. */
static void copy_square(float square[VL * VL], const float *src, int64_t ld, int64_t rows,
                        int64_t cols)
{
    for (int64_t r = 0; r < VL; r++) {
        v_store(square + r * VL, r < rows ? v_load_n(src + r * ld, cols) : v_zero());
    }
}

void RF_CPU(pack_transposed)(float *dst, int64_t ld_dst, const float *src, int64_t ld_src,
                             int64_t rows, int64_t cols, int64_t width, int64_t ahead)
{
    for (int64_t r0 = 0; r0 < width; r0 += VL) {
        for (int64_t c0 = 0; c0 < cols; c0 += VL) {
            int64_t n_rows = min_of(VL, rows - r0), n_cols = min_of(VL, cols - c0);
            const float *from = src + r0 * ld_src + c0;
            float *to = dst + c0 * ld_dst + r0;
            vf column[VL];
            if (n_rows == VL && n_cols == VL) {
                if (ahead > 0) {
                    for (int r = 0; r < VL; r++) {
                        v_prefetch(from + r * ld_src + ahead);
                    }
                }
                v_load_transposed(column, from, ld_src);
                for (int c = 0; c < VL; c++) {
                    v_store(to + c * ld_dst, column[c]);
                }
            } else {
                float padded[VL * VL];
                copy_square(padded, from, ld_src, n_rows, n_cols);
                v_load_transposed(column, padded, VL);
                for (int c = 0; c < VL; c++) {
                    if (c < n_cols) {
                        v_store(to + c * ld_dst, column[c]);
                    }
                }
            }
        }
    }
}

void RF_CPU(pack_tiles)(float *dst, int64_t tile_step, const float *src, int64_t ld_src, int64_t m,
                        int64_t k)
{
    const int64_t whole = m / TILE_ROWS * TILE_ROWS;
    for (int64_t i = 0; i < k; i++, src += ld_src, dst += TILE_ROWS) {
        for (int64_t c = 0; c < m; c += LINE) {
            v_prefetch(src + AHEAD * ld_src + c);
        }
        for (int64_t r = 0; r < whole; r += TILE_ROWS) {
            memcpy(dst + r * tile_step, src + r, TILE_ROWS * sizeof(float));
        }
        for (int64_t r = whole; r < m; r++) {
            dst[whole * tile_step + r - whole] = src[r];
        }
    }
}

void RF_CPU(pack_panels)(float *dst, const float *src, int64_t ld_src, int64_t rows, int64_t cols)
{
    for (int64_t c0 = 0; c0 < cols; c0 += PANEL) {
        for (int64_t r = 0; r < rows; r++) {
            for (int v = 0; v < TILE_VECTORS; v++, dst += VL) {
                int64_t c = c0 + v * VL;
                if (v * VL % LINE == 0) {
                    v_prefetch(src + (r + AHEAD) * ld_src + c);
                }
                v_store(dst, c < cols ? v_load_n(src + r * ld_src + c, cols - c) : v_zero());
            }
        }
    }
}

bool RF_CPU(all_finite)(rf_type type, const void *src, int64_t ld_src, int64_t rows, int64_t cols)
{
    vf sum = v_zero(); /* x * 0 is 0, or NaN where x is not finite */
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c += VL) {
            sum = v_fma(load_as(type, src, r * ld_src + c, cols - c), v_zero(), sum);
        }
    }
    return v_sum(sum) == 0.0F;
}

void RF_CPU(pack_panels_transposed)(float *dst, const float *src, int64_t ld_src, int64_t n,
                                    int64_t k)
{
    for (int64_t c0 = 0; c0 < n; c0 += PANEL) {
        RF_CPU(pack_transposed)
        (dst + c0 * k, PANEL, src + c0 * ld_src, ld_src, min_of(PANEL, n - c0), k, PANEL, 0);
    }
}
