/* Whole matrix products: which thread makes which part of c, and in which order operands are packed.
 *
 * Rule 4 of the contract, order of summation. With GEMM_NT and GEMM_NN the inner dimension is cut
 * after every K_CHAIN steps; each piece is one chain of fma in ascending order that begins at 0,
 * and the pieces are added, in order, to what the element starts from. With GEMM_TN (gradients of
 * weights) all inner steps are one chain that begins at c: so it does not show how the rows of a
 * batch were cut into calls. An element's sum then depends neither on the register tile that it
 * falls into nor on the thread that makes it, and c may be cut among any number of threads.
 *
 * Each thread owns a rectangle of c and packs for itself what it needs: no barrier, no shared
 * memory. b is packed into panels; several panels of one chain's length stay in the L2 cache while
 * all rows pass by. a is read where it lies, as its rows run along the inner dimension; only with
 * GEMM_TN, where they run across it and every inner step would touch another page, the columns of
 * a register tile are packed first. */
#include "common/kernels/cpu/internal.h"

#include <omp.h>

enum {
    FEW_ROWS = 4 * TILE_ROWS, /* up to so many: make_few_rows */
    COLS = 4 * PANEL,         /* columns of b that are packed at once, */
    ROWS = 96,                /* and rows of a that pass by them in one product */
    TN_COLS = 8 * PANEL,      /* the same with GEMM_TN, where these rows are packed as well */
    TN_ROWS = 96,
    TN_LD = K_CHAIN + 16, /* no power of two, so that tiles lie in different sets of the L1 cache */
    B_FLOATS = K_CHAIN * TN_COLS,
    THREAD_FLOATS = B_FLOATS + TN_ROWS * TN_LD
};
_Static_assert(TN_ROWS % 12 == 0 && ROWS % 12 == 0 && COLS <= TN_COLS, "whole tiles of every ISA");

size_t RF_CPU(gemm_bytes)(int n_threads, const rf_limits *limits)
{
    return limits->compute == RF_COMPUTE_BF16 ? RF_CPU(gemm_bf16_bytes)(n_threads, limits)
                                              : (size_t)n_threads * THREAD_FLOATS * sizeof(float);
}

/* Takes ROWS rows of a for all packed panels, then the next: so the rows stay in the L2 cache beside
 * the panels, and come from farther away once for all panels instead of once for each. */
static void make_nt_nn(const gemm *g, const area *r, float *packed)
{
    float *c = g->c;
    const float *a = g->a, *b = g->b;
    for (int64_t k0 = 0; k0 < g->k; k0 += K_CHAIN) {
        int64_t k = min_of(K_CHAIN, g->k - k0);
        for (int64_t col = r->col; col < r->col_end; col += COLS) {
            int64_t cols = min_of(COLS, r->col_end - col);
            if (g->form == GEMM_NT) {
                RF_CPU(pack_panels_transposed)(packed, b + col * g->k + k0, g->k, cols, k);
            } else {
                RF_CPU(pack_panels)(packed, b + k0 * g->n + col, g->n, k, cols);
            }
            const float *start = k0 == 0 ? g->start : c;
            for (int64_t row = r->row; row < r->row_end; row += ROWS) {
                product p = {.c = c + row * g->ldc + col,
                             .ldc = g->ldc,
                             .start = start != NULL ? start + row * g->ldc + col : NULL,
                             .ld_start = g->ldc,
                             .bias = k0 + k == g->k && g->bias != NULL ? g->bias + col : NULL,
                             .a = a + row * g->lda + k0,
                             .lda = g->lda,
                             .b = packed,
                             .ldb = PANEL,
                             .panel_floats = k * PANEL,
                             .m = min_of(ROWS, r->row_end - row),
                             .n = cols,
                             .k = k,
                             .mode = start != NULL ? PRODUCT_ADD : PRODUCT_SET};
                RF_CPU(product)(&p);
                if (k0 + k == g->k) {
                    RF_CPU(gate_piece)(g, row, p.m, col, cols);
                }
            }
        }
    }
}

static void make_tn(const gemm *g, const area *r, float *packed)
{
    float *c = g->c;
    const float *a = g->a, *b = g->b;
    float *left = packed + B_FLOATS;
    for (int64_t col = r->col; col < r->col_end; col += TN_COLS) {
        int64_t cols = min_of(TN_COLS, r->col_end - col);
        for (int64_t k0 = 0; k0 < g->k; k0 += K_CHAIN) {
            int64_t k = min_of(K_CHAIN, g->k - k0);
            RF_CPU(pack_panels)(packed, b + k0 * g->n + col, g->n, k, cols);
            for (int64_t row = r->row; row < r->row_end; row += TN_ROWS) {
                int64_t rows = min_of(TN_ROWS, r->row_end - row);
                RF_CPU(pack_tiles)(left, TN_LD, a + k0 * g->lda + row, g->lda, rows, k);
                product p = {.c = c + row * g->ldc + col,
                             .ldc = g->ldc,
                             .a = left,
                             .lda = TILE_ROWS,
                             .tile_step = TN_LD,
                             .b = packed,
                             .ldb = PANEL,
                             .panel_floats = k * PANEL,
                             .m = rows,
                             .n = cols,
                             .k = k,
                             .mode = PRODUCT_CHAIN};
                RF_CPU(product)(&p);
            }
        }
    }
}

void RF_CPU(finish_panel)(const gemm *g, const float *start, const float *sum, int64_t row,
                          int64_t rows, int64_t col, bool last)
{
    float *to = g->c;
    const int64_t cols = min_of(PANEL, g->n - col);
    for (int64_t r = row; r < row + rows; r++, sum += PANEL) {
        for (int64_t c = 0; c < cols; c += VL) {
            int64_t at = r * g->ldc + col + c;
            vf x = v_load(sum + c);
            if (start != NULL) {
                x = v_add(v_load_n(start + at, cols - c), x);
            }
            if (last && g->bias != NULL) {
                x = v_add(x, v_load_n(g->bias + col + c, cols - c));
            }
            v_store_n(to + at, x, cols - c);
        }
    }
}

/* c = a b^T for few rows, as in decoding. b comes from memory and is used only once, so it is
 * transposed in small pieces that stay in the L1 cache. A chain goes on from piece to piece through
 * `sum`, so the bits are those of make_nt_nn. */
static void make_few_rows(const gemm *g, const area *r, float *packed)
{
    const float *a = g->a, *b = g->b;
    enum { PIECE = 64 };
    float *sum = packed + PIECE * PANEL;
    int64_t m = r->row_end - r->row;
    for (int64_t col = r->col; col < r->col_end; col += PANEL) {
        int64_t cols = min_of(PANEL, r->col_end - col);
        for (int64_t k0 = 0; k0 < g->k; k0 += K_CHAIN) {
            int64_t k_end = min_of(k0 + K_CHAIN, g->k);
            for (int64_t piece = k0; piece < k_end; piece += PIECE) {
                int64_t k = min_of(PIECE, k_end - piece);
                RF_CPU(pack_transposed)
                (packed, PANEL, b + col * g->k + piece, g->k, cols, k, PANEL, PIECE);
                product p = {.c = sum,
                             .ldc = PANEL,
                             .a = a + r->row * g->lda + piece,
                             .lda = g->lda,
                             .b = packed,
                             .ldb = PANEL,
                             .m = m,
                             .n = PANEL,
                             .k = k,
                             .mode = piece == k0 ? PRODUCT_SET : PRODUCT_CHAIN};
                RF_CPU(product)(&p);
            }
            RF_CPU(finish_panel)
            (g, k0 == 0 ? g->start : g->c, sum, r->row, m, col, k_end == g->k);
        }
        RF_CPU(gate_piece)(g, r->row, m, col, cols);
    }
}

void RF_CPU(gemm_empty)(const gemm *g, const area *r)
{
    for (int64_t row = r->row; g->form != GEMM_TN && row < r->row_end; row++) {
        for (int64_t col = r->col; col < r->col_end; col += VL) {
            const int64_t at = row * g->ldc + col, n = r->col_end - col;
            vf x = g->start != NULL ? load_as(g->c_type, g->start, at, n) : v_zero();
            x = g->bias != NULL ? v_add(x, v_load_n(g->bias + col, n)) : x;
            store_as(g->c_type, g->c, at, x, n);
        }
    }
    RF_CPU(gate_piece)(g, r->row, r->row_end - r->row, r->col, r->col_end - r->col);
}

/* c is cut into s parts of its columns and n_threads / s of its rows, s a divisor of n_threads: the
 * one with the least work for the busiest thread. */
area RF_CPU(gemm_area)(const gemm *g, int64_t tile_rows, int64_t tile_cols, double pack_a,
                       double pack_b, int thread, int n_threads)
{
    int64_t panels = ceil_div(g->n, tile_cols), row_tiles = ceil_div(g->m, tile_rows);
    double least = 0.0;
    int column_parts = 0;
    for (int parts = n_threads; parts >= 1; parts--) {
        if (n_threads % parts == 0) {
            double cols = (double)(ceil_div(panels, parts) * tile_cols);
            double rows = (double)(ceil_div(row_tiles, n_threads / parts) * tile_rows);
            double cost = cols * rows + pack_b * cols + pack_a * rows;
            if (column_parts == 0 || cost < least) {
                least = cost;
                column_parts = parts;
            }
        }
    }
    area r;
    part_of(&r.col, &r.col_end, panels, thread % column_parts, column_parts);
    part_of(&r.row, &r.row_end, row_tiles, thread / column_parts, n_threads / column_parts);
    r.col = r.col * tile_cols;
    r.col_end = min_of(r.col_end * tile_cols, g->n);
    r.row = r.row * tile_rows;
    r.row_end = min_of(r.row_end * tile_rows, g->m);
    return r;
}

/* One thread's part of c. To pack an element costs as much as 12 to 18 multiply-adds (measured with
 * AVX-512). */
static void make_part(const gemm *g, float *scratch, int thread, int n_threads)
{
    area r = RF_CPU(gemm_area)(g, TILE_ROWS, PANEL, g->form == GEMM_TN ? 12.0 : 0.0, 16.0, thread,
                               n_threads);
    if (r.col >= r.col_end || r.row >= r.row_end) {
        return;
    }
    float *packed = scratch + (int64_t)thread * THREAD_FLOATS;
    if (g->k == 0) {
        RF_CPU(gemm_empty)(g, &r);
    } else if (g->form == GEMM_TN) {
        make_tn(g, &r, packed);
    } else if (g->form == GEMM_NT && r.row_end - r.row <= FEW_ROWS) {
        make_few_rows(g, &r, packed);
    } else {
        make_nt_nn(g, &r, packed);
    }
}

double RF_CPU(gemm_nanoseconds)(const gemm *g)
{
    const double a = (double)(g->m * g->k), b = (double)(g->n * g->k);
    return (a * (double)g->n / 40.0) + (a + b) * 0.3;
}

void RF_CPU(gemm)(rf_ctx *ctx, const gemm *g)
{
    RF_ASSERT(RF_CPU(gemm_bytes)(ctx->n_threads, &ctx->limits) <= ctx->scratch_bytes);
    float *scratch = ctx->scratch;
    gemm job = *g;
    job.ldc = g->ldc > 0 ? g->ldc : g->n;
    job.lda = g->lda > 0 ? g->lda : g->form == GEMM_TN ? g->m : g->k;
    if (ctx->limits.compute == RF_COMPUTE_BF16) {
        RF_CPU(gemm_bf16)(ctx, &job);
        return;
    }
#pragma omp parallel num_threads(threads_for_time(ctx, RF_CPU(gemm_nanoseconds)(&job)))
    make_part(&job, scratch, omp_get_thread_num(), omp_get_num_threads());
}
