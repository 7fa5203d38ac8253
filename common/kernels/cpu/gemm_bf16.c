/* Whole matrix products of bf16 operands, summed in f32.
 *
 * First all threads together bring a into cells, with rows along the inner dimension whatever the
 * form: every thread may need any row. (Rows of bf16 that fill whole steps are cells already, where
 * they lie.) After a barrier each thread makes a rectangle of c and packs panels of b as it needs
 * them, as gemm.c does.
 *
 * Rule 4, order of summation: the inner dimension is cut after every K_CHAIN cells; each piece is
 * one chain (product), and the pieces are added in ascending order. With GEMM_TN, and with AMX in
 * every form, all is one chain that begins at what the product is added to. The bias comes last.
 * Where c is bf16 a piece of c is summed over the whole inner dimension before it is rounded, once.
 */
#include "common/kernels/cpu/internal.h"

#include <omp.h>

/* What lies in the L2 cache together: B_CELLS cells of packed columns of b, over K_CHUNK inner
 * cells; the ROWS rows of a that meet them; and their piece of c, which stays there for all of
 * K_CHUNK: with AMX a product takes less time than c takes to come from memory and go back. In one
 * product K_STEP inner cells. */
#if defined(RF_ISA_amx)
static const double pack_b = 100.0; /* to pack an element of b costs as much as 100 multiply-adds */
enum {
    ROW_STEP = 32,
    ROWS = 64,
    K_CHUNK = 2 * K_CHAIN,
    K_STEP = K_CHUNK,
    B_CELLS = 1 << 17,
    MOST_COLS = 512,
    C_FLOATS = 0 /* c is rounded tile by tile (amx.c) */
};
#else
static const double pack_b = 12.0;
enum {
    ROW_STEP = TILE_ROWS,
    ROWS = 96,
    K_CHUNK = K_CHAIN,
    K_STEP = K_CHAIN,
    B_CELLS = 1 << 17,
    MOST_COLS = 256,
    C_FLOATS = ROWS * MOST_COLS
};
#endif
_Static_assert(ROWS % BF16_ROWS == 0 && ROW_STEP % BF16_ROWS == 0 && K_CHAIN % BF16_CELLS == 0 &&
                   MOST_COLS % BF16_PANEL == 0 && K_CHUNK * MOST_COLS >= B_CELLS,
               "pieces are whole steps");

static int64_t left_floats(int64_t m, int64_t k)
{
    return line_floats(round_up(m, BF16_ROWS) * bf16_ld(k));
}

/* Of the largest a of any product: a matrix of all places, or (GEMM_TN) its transpose. */
static int64_t most_left_floats(const rf_limits *limits)
{
    const int64_t wide[] = {limits->width, limits->n_heads * limits->head_dim,
                            limits->n_kv_heads * limits->head_dim, limits->ffn, limits->rank};
    int64_t rows = RF_CPU(head_rows)(limits), most = 0;
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        most = max_of(most, left_floats(limits->places, wide[i]));
        most = max_of(most, left_floats(wide[i], limits->places));
    }
    most = max_of(most, left_floats(rows, limits->backward ? limits->vocab : limits->width));
    return limits->backward ? max_of(most, left_floats(limits->vocab, rows)) : most;
}

/* Cells of packed columns of b. At least a panel over the whole inner dimension, which is needed
 * where c is bf16. */
static int64_t right_cells(const rf_limits *limits)
{
    int64_t wide = max_of(max_of(limits->width, limits->ffn), limits->rank);
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

/* A thread's part of the rows of a, into cells; the padding to whole steps is 0. */
static void pack_left(const gemm *g, float *left, int64_t ld, int thread, int n_threads)
{
    int64_t begin, end, step = max_of(BF16_ROWS, VL);
    part_of(&begin, &end, ceil_div(round_up(g->m, BF16_ROWS), step), thread, n_threads);
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

/* A thread's part of c, and with what it is made. */
typedef struct part {
    area of;
    const float *left; /* all rows of a in cells, ld cells apart */
    int64_t ld;
    float *packed; /* room for packed columns of b */
    float *sums;   /* room for a piece of c that is to be rounded */
} part;

/* Columns of b over the inner elements [k0, k_end), cut after every `step` cells: one piece behind
 * the other. */
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

/* Where a piece of c is summed and what it starts from. c of f32: in place. c of bf16: in `sums`, to
 * be rounded afterwards; with AMX the product rounds. */
static product piece_of(const gemm *g, const part *at, int64_t row, int64_t rows, int64_t col,
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

/* `rows` rows and `cols` columns of c, over the inner elements [k0, k_end), cut after every `step`
 * cells. */
static void make_piece(const gemm *g, const part *at, int64_t k0, int64_t k_end, int64_t step,
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

static void make_area(const gemm *g, const part *at)
{
    const bool whole = g->c_type == RF_BF16; /* the whole inner dimension at once */
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

static void make_part(const gemm *g, const rf_limits *limits, float *scratch, int thread,
                      int n_threads)
{
    const int64_t own = right_cells(limits) + C_FLOATS;
    float *left = scratch + (int64_t)n_threads * own;
    const bool lies = RF_CPU(lies_in_cells)(g);
    part at = {.of = RF_CPU(gemm_area)(g, ROW_STEP, PANEL, 0.0, pack_b, thread, n_threads),
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
    make_part(g, &ctx->limits, scratch, omp_get_thread_num(), omp_get_num_threads());
}
