/* Whole matrix products of bf16 operands, sums in f32.
 *
 * First all threads bring a into cells, rows along the inner dimension whatever the form: each of
 * its elements meets every column of b, by whichever thread. Rows of bf16 in whole steps are cells
 * where they lie. Then each thread makes a rectangle of c and packs panels of b as it needs them,
 * as gemm.c does.
 *
 * Rule 4: an element is summed over blocks of K_BLOCK cells, each one chain (product), in
 * ascending order; GEMM_TN, and every form with AMX, is one chain from what it is added to. The
 * bias comes last. Where c is bf16 all inner blocks of a piece of c follow each other, and it is
 * rounded once. */
#include "common/kernels/cpu/internal.h"

#include <omp.h>

/* What shares the L2 cache: packed columns of b over K_CHUNK inner cells, and the rows of a and the
 * block of c that meet them. c stays there while the inner blocks of a chunk pass: with AMX a
 * product takes less time than c takes to come from memory and go back. */
#if defined(RF_ISA_amx)
/* Multiply-adds are cheap here: what it costs to pack an element of b, in their number. */
static const double pack_b = 100.0;
enum {
    ROW_STEP = 32,
    ROWS = 64,
    K_CHUNK = 2 * K_BLOCK,
    K_STEP = K_CHUNK,
    B_CELLS = 1 << 17,
    MOST_COLS = 512,
    C_FLOATS = 0 /* AMX rounds c tile by tile */
};
#else
static const double pack_b = 12.0;
enum {
    ROW_STEP = TILE_ROWS,
    ROWS = 96,
    K_CHUNK = K_BLOCK,
    K_STEP = K_BLOCK,
    B_CELLS = 1 << 17,
    MOST_COLS = 256,
    C_FLOATS = ROWS * MOST_COLS
};
#endif
_Static_assert(ROWS % BF16_ROWS == 0 && ROW_STEP % BF16_ROWS == 0 && K_BLOCK % BF16_CELLS == 0 &&
                   MOST_COLS % BF16_PANEL == 0 && K_CHUNK * MOST_COLS >= B_CELLS,
               "blocks are whole steps");

static int64_t left_floats(int64_t m, int64_t k)
{
    return line_floats(round_up(m, BF16_ROWS) * bf16_ld(k));
}

/* The largest a of any product: places by what is wide, either way round (GEMM_TN). */
static int64_t most_left_floats(const rf_limits *limits)
{
    const int64_t wide[] = {limits->width, limits->n_heads * limits->head_dim,
                            limits->n_kv_heads * limits->head_dim, limits->ffn, limits->rank};
    int64_t rows = RF_CPU(head_rows)(limits), most = 0;
    for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++) {
        most = max_of(most, left_floats(limits->places, wide[i]));
        most = max_of(most, left_floats(wide[i], limits->places));
    }
    most = max_of(most, left_floats(rows, limits->backward ? limits->vocab : limits->width));
    return limits->backward ? max_of(most, left_floats(limits->vocab, rows)) : most;
}

/* Cells of packed columns of b: where c is bf16 a panel over the whole inner dimension. */
static int64_t right_cells(const rf_limits *limits)
{
    int64_t wide = max_of(limits->width, limits->ffn);
    wide = max_of(wide, limits->n_heads * limits->head_dim);
    return max_of(B_CELLS, bf16_cells(wide) * BF16_PANEL);
}

size_t RF_CPU(gemm_bf16_bytes)(int n_threads, const rf_limits *limits)
{
    return ((size_t)n_threads * (size_t)(right_cells(limits) + C_FLOATS) +
            (size_t)most_left_floats(limits)) *
           sizeof(float);
}

bool RF_CPU(lies_in_cells)(const gemm *g)
{
    return g->a_type == RF_BF16 && g->form != GEMM_TN && g->m % BF16_ROWS == 0 &&
           g->k % (2 * BF16_CELLS) == 0 && g->lda % 2 == 0;
}

/* Rows of a, padded to whole steps, shared among the threads. */
static void pack_left(const gemm *g, float *left, int64_t ld, int thread, int n_threads)
{
    int64_t begin, end, step = max_of(BF16_ROWS, VL);
    share(&begin, &end, ceil_div(round_up(g->m, BF16_ROWS), step), thread, n_threads);
    begin *= step;
    end = min_of(end * step, g->m);
    const void *from = element(g->a_type, g->a, g->form == GEMM_TN ? begin : begin * g->lda);
    if (begin < end && g->form == GEMM_TN) {
        RF_CPU(pack_cells_transposed)
        (left + begin * ld, ld, g->a_type, from, g->lda, end - begin, g->k);
    } else if (begin < end) {
        RF_CPU(pack_cells)(left + begin * ld, ld, g->a_type, from, g->lda, end - begin, g->k);
    }
    if (thread == n_threads - 1) {
        int64_t padding = round_up(g->m, BF16_ROWS) - g->m;
        memset(left + g->m * ld, 0, (size_t)(padding * ld) * sizeof(float));
    }
}

/* A thread's share of c and where its operands are: rows of a in cells, room for packed columns of
 * b, for a piece of c that is to be rounded. */
typedef struct place {
    area of;
    const float *left;
    int64_t ld;
    float *packed, *sums;
} place;

/* The blocks of a chunk one behind the other. */
static void pack_right(const gemm *g, float *packed, int64_t k0, int64_t k_end, int64_t step,
                       int64_t col, int64_t cols)
{
    for (; k0 < k_end; k0 += 2 * step) {
        int64_t k = min_of(2 * step, k_end - k0);
        if (g->form == GEMM_NT) {
            const void *from = element(g->b_type, g->b, col * g->k + k0);
            RF_CPU(pack_cell_panels_transposed)(packed, g->b_type, from, g->k, cols, k);
        } else {
            const void *from = element(g->b_type, g->b, k0 * g->n + col);
            RF_CPU(pack_cell_panels)(packed, g->b_type, from, g->n, k, cols);
        }
        packed += bf16_cells(k) * round_up(cols, BF16_PANEL);
    }
}

/* Where a piece of c is summed, and what it starts from: c, or as f32 in `sums`, or on AMX c as
 * bf16. */
static product piece_of(const gemm *g, const place *at, int64_t row, int64_t rows, int64_t col,
                        int64_t cols)
{
    const int64_t first = row * g->ldc + col;
    product p = {.ldc = g->ldc, .ld_start = g->ldc, .m = rows, .n = cols, .cell = CELL_BF16};
    if (g->c_type == RF_F32) {
        p.c = (float *)g->c + first;
        p.start = g->start != NULL ? (const float *)g->start + first : NULL;
    } else if (C_FLOATS == 0) {
        p.half = (uint16_t *)g->c + first;
        p.half_start = g->start != NULL ? (const uint16_t *)g->start + first : NULL;
    } else {
        p.c = at->sums;
        p.ldc = p.ld_start = MOST_COLS;
        p.start = g->start != NULL ? at->sums : NULL;
        if (g->start != NULL) {
            copy_rows(at->sums, MOST_COLS, RF_BF16, element(RF_BF16, g->start, first), g->ldc, rows,
                      cols);
        }
    }
    return p;
}

/* `rows` rows and `cols` columns of c, over the inner elements [k0, k_end) in blocks of `step`
 * cells. */
static void make_piece(const gemm *g, const place *at, int64_t k0, int64_t k_end, int64_t step,
                       int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    product p = piece_of(g, at, row, rows, col, cols);
    const float *packed = at->packed;
    p.lda = at->ld;
    p.ldb = BF16_PANEL;
    for (; k0 < k_end; k0 += 2 * step) {
        const bool starts = k0 > 0 || g->start != NULL;
        p.start = k0 > 0 ? p.c : p.start;
        p.mode = g->form == GEMM_TN ? PRODUCT_CHAIN : starts ? PRODUCT_ADD : PRODUCT_SET;
        p.bias = k0 + 2 * step >= g->k && g->bias != NULL ? g->bias + col : NULL;
        p.a = at->left + row * at->ld + k0 / 2;
        p.b = packed;
        p.k = bf16_cells(min_of(2 * step, k_end - k0));
        p.panel_floats = p.k * BF16_PANEL;
        RF_CPU(product)(&p);
        packed += p.k * round_up(cols, BF16_PANEL);
    }
    if (g->c_type == RF_BF16 && C_FLOATS > 0) {
        round_rows((uint16_t *)g->c + row * g->ldc + col, g->ldc, at->sums, MOST_COLS, rows, cols);
    }
    if (k_end == g->k) {
        RF_CPU(gate_piece)(g, row, rows, col, cols);
    }
}

static void make_area(const gemm *g, const place *at)
{
    const bool whole = g->c_type == RF_BF16; /* all inner blocks at once */
    const int64_t all = bf16_cells(g->k), chunk = whole ? all : min_of(K_CHUNK, all);
    const int64_t step = whole && C_FLOATS == 0 ? all : K_STEP;
    const int64_t fit = max_of(B_CELLS / chunk / BF16_PANEL, 1) * BF16_PANEL;
    const int64_t most_cols = min_of(MOST_COLS, fit);
    for (int64_t col = at->of.col; col < at->of.col_end; col += most_cols) {
        int64_t cols = min_of(most_cols, at->of.col_end - col);
        for (int64_t k0 = 0; k0 < g->k; k0 += 2 * chunk) {
            int64_t k_end = min_of(k0 + 2 * chunk, g->k);
            pack_right(g, at->packed, k0, k_end, step, col, cols);
            for (int64_t row = at->of.row; row < at->of.row_end; row += ROWS) {
                int64_t rows = min_of(ROWS, at->of.row_end - row);
                make_piece(g, at, k0, k_end, step, row, rows, col, cols);
            }
        }
    }
}

static void make_share(const gemm *g, const rf_limits *limits, float *scratch, int thread,
                       int n_threads)
{
    const int64_t own = right_cells(limits) + C_FLOATS;
    float *left = scratch + (int64_t)n_threads * own;
    const bool lies = RF_CPU(lies_in_cells)(g);
    place at = {.of = RF_CPU(gemm_area)(g, ROW_STEP, PANEL, 0.0, pack_b, thread, n_threads),
                .left = lies ? g->a : left,
                .ld = lies ? g->lda / 2 : bf16_ld(g->k),
                .packed = scratch + (int64_t)thread * own,
                .sums = scratch + (int64_t)thread * own + right_cells(limits)};
    if (!lies) {
        pack_left(g, left, at.ld, thread, n_threads);
#pragma omp barrier
    }
    if (at.of.col < at.of.col_end && at.of.row < at.of.row_end) {
        if (g->k == 0) {
            RF_CPU(gemm_empty)(g, &at.of);
        } else {
            make_area(g, &at);
        }
    }
}

void RF_CPU(gemm_bf16)(rf_ctx *ctx, const gemm *g)
{
    RF_ASSERT(left_floats(g->m, g->k) <= most_left_floats(&ctx->limits));
    RF_ASSERT(g->c_type == RF_F32 || bf16_cells(g->k) * BF16_PANEL <= right_cells(&ctx->limits));
    float *scratch = ctx->scratch;
#pragma omp parallel num_threads(threads_for_time(ctx, RF_CPU(gemm_nanoseconds)(g)))
    make_share(g, &ctx->limits, scratch, omp_get_thread_num(), omp_get_num_threads());
}
