/* Whole matrix products of bf16 operands, sums in f32.
 *
 * First all threads round a into cells, rows along the inner dimension whatever the form: each of
 * its elements meets every column of b, by whichever thread. Then each thread makes a rectangle of
 * c and packs panels of b as it needs them, as gemm.c does.
 *
 * Rule 4: an element is summed over blocks of K_BLOCK cells, each one chain (product), in
 * ascending order; GEMM_TN, and every form with AMX, is one chain from what it is added to. The
 * bias comes last. */
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
    MOST_COLS = 512
};
#else
static const double pack_b = 12.0;
enum {
    ROW_STEP = TILE_ROWS,
    ROWS = 96,
    K_CHUNK = K_BLOCK,
    K_STEP = K_BLOCK,
    B_CELLS = 1 << 17,
    MOST_COLS = 256
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

size_t RF_CPU(gemm_bf16_bytes)(int n_threads, const rf_limits *limits)
{
    return ((size_t)n_threads * B_CELLS + (size_t)most_left_floats(limits)) * sizeof(float);
}

/* Rows of a, padded to whole steps, shared among the threads. */
static void pack_left(const gemm *g, float *left, int64_t ld, int thread, int n_threads)
{
    int64_t begin, end, step = max_of(BF16_ROWS, VL);
    share(&begin, &end, ceil_div(round_up(g->m, BF16_ROWS), step), thread, n_threads);
    begin *= step;
    end = min_of(end * step, g->m);
    if (begin < end && g->form == GEMM_TN) {
        RF_CPU(pack_cells_transposed)
        (left + begin * ld, ld, g->a + begin, g->lda, end - begin, g->k);
    } else if (begin < end) {
        RF_CPU(pack_cells)(left + begin * ld, ld, g->a + begin * g->lda, g->lda, end - begin, g->k);
    }
    if (thread == n_threads - 1) {
        int64_t padding = round_up(g->m, BF16_ROWS) - g->m;
        memset(left + g->m * ld, 0, (size_t)(padding * ld) * sizeof(float));
    }
}

/* The blocks of a chunk one behind the other. */
static void pack_right(const gemm *g, float *packed, int64_t k0, int64_t k_end, int64_t col,
                       int64_t cols)
{
    for (; k0 < k_end; k0 += 2 * K_STEP) {
        int64_t k = min_of(2 * K_STEP, k_end - k0);
        if (g->form == GEMM_NT) {
            RF_CPU(pack_cell_panels_transposed)(packed, g->b + col * g->k + k0, g->k, cols, k);
        } else {
            RF_CPU(pack_cell_panels)(packed, g->b + k0 * g->n + col, g->n, k, cols);
        }
        packed += bf16_cells(k) * round_up(cols, BF16_PANEL);
    }
}

/* `rows` rows and `cols` columns of c, over the inner elements [k0, k_end). */
static void make_block(const gemm *g, const float *left, int64_t ld, const float *packed,
                       int64_t k0, int64_t k_end, int64_t row, int64_t rows, int64_t col,
                       int64_t cols)
{
    for (; k0 < k_end; k0 += 2 * K_STEP) {
        int64_t cells = bf16_cells(min_of(2 * K_STEP, k_end - k0));
        const float *start = k0 == 0 ? g->start : g->c;
        product p = {.c = g->c + row * g->ldc + col,
                     .ldc = g->ldc,
                     .start = start != NULL ? start + row * g->ldc + col : NULL,
                     .ld_start = g->ldc,
                     .bias = k0 + 2 * K_STEP >= g->k && g->bias != NULL ? g->bias + col : NULL,
                     .a = left + row * ld + k0 / 2,
                     .lda = ld,
                     .b = packed,
                     .ldb = BF16_PANEL,
                     .panel_floats = cells * BF16_PANEL,
                     .m = rows,
                     .n = cols,
                     .k = cells,
                     .mode = g->form == GEMM_TN ? PRODUCT_CHAIN
                             : start != NULL    ? PRODUCT_ADD
                                                : PRODUCT_SET,
                     .cell = CELL_BF16};
        RF_CPU(product)(&p);
        packed += cells * round_up(cols, BF16_PANEL);
    }
}

static void make_area(const gemm *g, const area *r, const float *left, int64_t ld, float *packed)
{
    int64_t chunk_cells = min_of(K_CHUNK, bf16_cells(g->k));
    int64_t most_cols = min_of(MOST_COLS, B_CELLS / chunk_cells / BF16_PANEL * BF16_PANEL);
    for (int64_t col = r->col; col < r->col_end; col += most_cols) {
        int64_t cols = min_of(most_cols, r->col_end - col);
        for (int64_t k0 = 0; k0 < g->k; k0 += 2 * K_CHUNK) {
            int64_t k_end = min_of(k0 + 2 * K_CHUNK, g->k);
            pack_right(g, packed, k0, k_end, col, cols);
            for (int64_t row = r->row; row < r->row_end; row += ROWS) {
                int64_t rows = min_of(ROWS, r->row_end - row);
                make_block(g, left, ld, packed, k0, k_end, row, rows, col, cols);
            }
        }
    }
}

static void make_share(const gemm *g, float *scratch, int thread, int n_threads)
{
    const int64_t ld = bf16_ld(g->k);
    float *packed = scratch + (int64_t)thread * B_CELLS;
    float *left = scratch + (int64_t)n_threads * B_CELLS;
    pack_left(g, left, ld, thread, n_threads);
#pragma omp barrier
    area r = RF_CPU(gemm_area)(g, ROW_STEP, 0.0, pack_b, thread, n_threads);
    if (r.col < r.col_end && r.row < r.row_end) {
        if (g->k == 0) {
            RF_CPU(gemm_empty)(g, &r);
        } else {
            make_area(g, &r, left, ld, packed);
        }
    }
}

void RF_CPU(gemm_bf16)(rf_ctx *ctx, const gemm *g)
{
    RF_ASSERT(left_floats(g->m, g->k) <= most_left_floats(&ctx->limits));
    float *scratch = ctx->scratch;
#pragma omp parallel num_threads(threads_for_time(ctx, RF_CPU(gemm_nanoseconds)(g)))
    make_share(g, scratch, omp_get_thread_num(), omp_get_num_threads());
}
