/* Products with weights that were packed once, in panels as the register tile reads them: so many
 * rows of w side by side, inner step after inner step. A panel is read from begin to end, so few
 * rows of activations (decoding) are multiplied as fast as the weights come from memory.
 *
 * RF_PACKED_F32 and RF_PACKED_BF16 sum as gemm.c and gemm_bf16.c do (rule 4): a chain for every
 * K_CHAIN cells, added in order. So for any number of rows they give the bits of RF_ROWS with
 * compute f32 and bf16. */
#include "common/kernels/cpu/internal.h"

#include <omp.h>

enum {
    STREAMED =
        64,     /* up to so many rows pass by one chain of a panel while it is in the L2 cache, */
    PANELS = 4, /* more rows by the chains of so many panels, */
    ROWS = 96,  /* so many in one product */
    CONVERTED = 256 /* rows of activations that are converted at a time */
};

/* --- Layout ----------------------------------------------------------------------------------- */

static int64_t panel_width(rf_layout layout)
{
    return layout == RF_PACKED_BF16 ? BF16_PANEL : PANEL;
}

static size_t panel_bytes(rf_layout layout, int64_t in)
{
    RF_ASSERT(layout > RF_ROWS && layout < RF_N_LAYOUTS);
    if (layout == RF_PACKED_INT8) {
        return RF_CPU(int8_pack_bytes)(in, PANEL);
    }
    int64_t cells = layout == RF_PACKED_BF16 ? bf16_cells(in) : in;
    return (size_t)(cells * panel_width(layout)) * sizeof(float);
}

size_t RF_CPU(pack_bytes)(rf_layout layout, int64_t in, int64_t out)
{
    return panel_bytes(layout, in) * (size_t)ceil_div(out, panel_width(layout));
}

void RF_CPU(pack)(rf_ctx *ctx, void *packed, rf_layout layout, const void *w, int64_t first,
                  int64_t n, int64_t in, int64_t out)
{
    RF_ASSERT(first % RF_PACK_ROWS == 0 && first + n <= out);
    const size_t bytes = panel_bytes(layout, in);
    const int64_t width = panel_width(layout);
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * n * in))
    for (int64_t row = 0; row < n; row += width) {
        char *to = (char *)packed + (size_t)((first + row) / width) * bytes;
        const float *from = (const float *)w + row * in;
        float *cells = (float *)(void *)to;
        int64_t rows = min_of(width, n - row);
        if (layout == RF_PACKED_INT8) {
            RF_CPU(int8_pack_panel)(to, from, rows, in);
        } else if (layout == RF_PACKED_BF16) {
            RF_CPU(pack_cell_panels_transposed)(cells, RF_F32, from, in, rows, in);
        } else {
            RF_CPU(pack_panels_transposed)(cells, from, in, rows, in);
        }
    }
}

static void unpack_row(float *x, rf_matrix w, int64_t row, int64_t in)
{
    const int64_t width = panel_width(w.layout);
    const char *panel = (const char *)w.data + (size_t)(row / width) * panel_bytes(w.layout, in);
    const float *column = (const float *)(const void *)panel + row % width;
    if (w.layout == RF_PACKED_INT8) {
        RF_CPU(int8_unpack_row)(x, panel, row % width, in);
    } else if (w.layout == RF_PACKED_F32) {
        for (int64_t i = 0; i < in; i++) {
            x[i] = column[i * width];
        }
    } else {
        const uint16_t *half = (const uint16_t *)(const void *)column;
        for (int64_t i = 0; i < in; i++) {
            uint32_t bits = (uint32_t)half[i / 2 * 2 * width + i % 2] << 16;
            memcpy(x + i, &bits, sizeof bits);
        }
    }
}

void RF_CPU(embedding_forward)(rf_ctx *ctx, void *x, rf_matrix table, const int32_t *token,
                               int64_t n, int64_t d)
{
    float *to = x; /* the residual stream */
    const float *from = table.data;
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * n * d))
    for (int64_t i = 0; i < n; i++) {
        if (table.layout == RF_ROWS) {
            memcpy(to + i * d, from + token[i] * d, (size_t)d * sizeof(float));
        } else {
            unpack_row(to + i * d, table, token[i], d);
        }
    }
}

/* --- Scratch ---------------------------------------------------------------------------------- */

static int64_t widest(const rf_limits *limits)
{
    int64_t most = max_of(limits->width, limits->ffn);
    return max_of(most, limits->n_heads * limits->head_dim);
}

/* Floats for the sums of converted rows where c is bf16; AMX rounds without them. */
static int64_t sums_floats(int64_t rows, const rf_limits *limits)
{
    return (int)BF16_ROWS > 1 ? 0 : rows * line_floats(widest(limits));
}

size_t RF_CPU(linear_bytes)(int n_threads, const rf_limits *limits)
{
    int64_t floats = 0, n = min_of(CONVERTED, limits->places);
    if (limits->weights == RF_PACKED_INT8) {
        floats =
            n_threads * RF_CPU(int8_sum_floats)() + RF_CPU(int8_rows_floats)(n, widest(limits));
    } else if (limits->weights == RF_PACKED_BF16) {
        floats = round_up(n, BF16_ROWS) * bf16_ld(widest(limits)) + sums_floats(n, limits);
    }
    size_t packed = (size_t)floats * sizeof(float), rows = RF_CPU(gemm_bytes)(n_threads, limits);
    return packed > rows ? packed : rows;
}

/* --- Products of cells ------------------------------------------------------------------------ */

/* A product of activations a [m,cells], rows lda cells apart, and panels of `width` columns. */
typedef struct cell_product {
    const gemm *g;
    const float *a, *packed;
    int64_t lda, cells, width;
    cell_type cell;
} cell_product;

/* Rows [row, row + m) and columns [col, col + n) of c, over the cells [k0, k0 + k): one chain. The
 * n_next cells behind those of w are what this thread reads next. */
static void cell_chain(const cell_product *w, int64_t row, int64_t m, int64_t col, int64_t n,
                       int64_t k0, int64_t k, int64_t n_next)
{
    const gemm *g = w->g;
    const float *start = k0 == 0 ? g->start : g->c;
    const int64_t first = row * g->ldc + col;
    const bool half = g->c_type == RF_BF16;
    product p = {.c = half ? NULL : (float *)g->c + first,
                 .half = half ? (uint16_t *)g->c + first : NULL,
                 .ldc = g->ldc,
                 .start = start != NULL ? start + first : NULL,
                 .ld_start = g->ldc,
                 .bias = k0 + k == w->cells && g->bias != NULL ? g->bias + col : NULL,
                 .a = w->a + row * w->lda + k0,
                 .lda = w->lda,
                 .b = w->packed + col * w->cells + k0 * w->width,
                 .ldb = w->width,
                 .panel_floats = w->cells * w->width,
                 .n_next = n_next,
                 .m = m,
                 .n = n,
                 .k = k,
                 .mode = start != NULL ? PRODUCT_ADD : PRODUCT_SET,
                 .cell = w->cell};
    RF_CPU(product)(&p);
}

/* Rows that meet a panel at once: those of a register tile, or of AMX's four tiles. */
static int64_t tile_rows(rf_layout layout)
{
    return layout != RF_PACKED_F32 && BF16_ROWS > 1 ? (int64_t)2 * BF16_ROWS : TILE_ROWS;
}

static void cell_part(const cell_product *w, const area *s)
{
    const int64_t m = s->row_end - s->row, panels = m <= STREAMED ? 1 : PANELS;
    /* The rows of one tile read a panel once, from memory; other tiles read it again. */
    const bool repeats = m > TILE_ROWS && m <= STREAMED;
    /* Cells of this thread's panels. */
    const int64_t all = ceil_div(s->col_end - s->col, w->width) * w->width * w->cells;
    /* With AMX a chain begins at what it is added to: cut or not, the bits are the same. */
    const int64_t chain = w->cell == CELL_BF16 && BF16_ROWS > 1 ? w->cells : K_CHAIN;
    for (int64_t col = s->col; col < s->col_end; col += panels * w->width) {
        int64_t n = min_of(panels * w->width, s->col_end - col);
        for (int64_t k0 = 0; k0 < w->cells; k0 += chain) {
            int64_t k = min_of(chain, w->cells - k0);
            int64_t left = all - (col - s->col) * w->cells - (k0 + k) * w->width;
            int64_t n_next = repeats ? min_of(left, chain * w->width) : 0;
            for (int64_t row = s->row; row < s->row_end; row += ROWS) {
                cell_chain(w, row, min_of(ROWS, s->row_end - row), col, n, k0, k, n_next);
            }
        }
        RF_CPU(gate_piece)(w->g, s->row, m, col, n);
    }
}

/* --- Whole products --------------------------------------------------------------------------- */

/* How long one thread takes: 40 multiply-adds a nanosecond, or 10 bytes of weights from memory. */
static double nanoseconds(const gemm *g, rf_layout layout)
{
    double weights = (double)panel_bytes(layout, g->k) / (double)panel_width(layout) * (double)g->n;
    double work = (double)g->m * (double)g->n * (double)g->k / 40.0;
    return work > weights / 10.0 ? work : weights / 10.0;
}

static void multiply_cells(rf_ctx *ctx, const cell_product *w, rf_layout layout)
{
    const double ns = nanoseconds(w->g, layout), begin = threads_now();
    const int n_threads = threads_for_time(ctx, ns);
#pragma omp parallel num_threads(n_threads)
    {
        int thread = omp_get_thread_num();
        area s = RF_CPU(gemm_area)(w->g, tile_rows(layout), w->width, 0.0, 0.0, thread,
                                   omp_get_num_threads());
        if (s.row < s.row_end) {
            cell_part(w, &s);
        }
    }
    threads_watch(ctx, n_threads, ns, begin);
}

static void linear_f32(rf_ctx *ctx, const gemm *g, const void *packed)
{
    cell_product w = {.g = g,
                      .a = g->a,
                      .lda = g->lda,
                      .packed = packed,
                      .cells = g->k,
                      .width = PANEL,
                      .cell = CELL_F32};
    multiply_cells(ctx, &w, RF_PACKED_F32);
}

/* Rows [row, row + rows) of a product. */
static gemm rows_from(const gemm *g, int64_t row, int64_t rows)
{
    gemm part = *g;
    part.m = min_of(rows, g->m - row);
    part.c = (char *)g->c + (size_t)(row * g->ldc) * rf_type_bytes(g->c_type);
    part.a = element(g->a_type, g->a, row * g->lda);
    part.start = g->start != NULL ? element(g->c_type, g->start, row * g->ldc) : NULL;
    if (g->then.gate != NULL) {
        part.then.gate = element(g->c_type, g->then.gate, row * g->ldc);
        part.then.h = (char *)g->then.h + (size_t)(row * g->ldc) * rf_type_bytes(g->c_type);
    }
    return part;
}

/* Rows of activations in cells: where they lie if they are, else converted into `room`. */
static const float *cells_of(rf_ctx *ctx, const gemm *g, float *room, int64_t *ld)
{
    if (RF_CPU(lies_in_cells)(g)) {
        *ld = g->lda / 2;
        return g->a;
    }
    *ld = bf16_ld(g->k);
    memset(room + g->m * *ld, 0,
           (size_t)((round_up(g->m, BF16_ROWS) - g->m) * *ld) * sizeof(float));
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * g->m * g->k))
    for (int64_t i = 0; i < g->m; i++) {
        const void *from = element(g->a_type, g->a, i * g->lda);
        RF_CPU(pack_cells)(room + i * *ld, *ld, g->a_type, from, g->lda, 1, g->k);
    }
    return room;
}

/* Where nothing is to be converted, all rows meet the weights at once, so these come from memory
 * once. Otherwise CONVERTED rows at a time. */
static void linear_bf16(rf_ctx *ctx, const gemm *whole, const void *packed)
{
    float *room = ctx->scratch;
    const bool rounds = whole->c_type == RF_BF16 && (int)BF16_ROWS == 1;
    const bool together = RF_CPU(lies_in_cells)(whole) && !rounds;
    const int64_t rows = together ? whole->m : CONVERTED, ld_sums = line_floats(whole->n);
    float *sums = room + round_up(min_of(CONVERTED, whole->m), BF16_ROWS) * bf16_ld(whole->k);
    RF_ASSERT(whole->c_type == RF_F32 || whole->start == NULL);
    for (int64_t row = 0; row < whole->m; row += rows) {
        const gemm part = rows_from(whole, row, rows);
        gemm g = part;
        if (rounds) {
            g.c = sums;
            g.c_type = RF_F32;
            g.ldc = ld_sums;
            g.then = (gating){0};
        }
        cell_product w = {.g = &g,
                          .packed = packed,
                          .cells = bf16_cells(g.k),
                          .width = BF16_PANEL,
                          .cell = CELL_BF16};
        w.a = cells_of(ctx, &g, room, &w.lda);
        multiply_cells(ctx, &w, RF_PACKED_BF16);
        if (rounds) {
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 2 * part.m * part.n))
            for (int64_t i = 0; i < part.m; i++) {
                round_rows((uint16_t *)part.c + i * part.ldc, part.ldc, sums + i * ld_sums, ld_sums,
                           1, part.n);
                RF_CPU(gate_piece)(&part, i, 1, 0, part.n);
            }
        }
    }
}

static void linear_int8(rf_ctx *ctx, const gemm *whole, const void *packed)
{
    const int64_t own = RF_CPU(int8_sum_floats)(); /* of a thread */
    float *scratch = ctx->scratch, *converted = scratch + ctx->n_threads * own;
    int8_rows x = RF_CPU(int8_rows_at)(converted, min_of(CONVERTED, whole->m), whole->k);
    for (int64_t row = 0; row < whole->m; row += CONVERTED) {
        gemm g = rows_from(whole, row, CONVERTED);
#pragma omp parallel for schedule(static) num_threads(threads_for(ctx, 4 * g.m * g.k))
        for (int64_t i = 0; i < g.m; i++) {
            RF_CPU(int8_quantize_row)(&x, i, (const float *)g.a + i * g.lda, g.k);
        }
        const double ns = nanoseconds(&g, RF_PACKED_INT8), begin = threads_now();
        const int n_threads = threads_for_time(ctx, ns);
#pragma omp parallel num_threads(n_threads)
        {
            int thread = omp_get_thread_num();
            area s = RF_CPU(gemm_area)(&g, tile_rows(RF_PACKED_INT8), PANEL, 0.0, 0.0, thread,
                                       omp_get_num_threads());
            RF_CPU(int8_product)(&g, packed, &x, &s, scratch + thread * own);
        }
        threads_watch(ctx, n_threads, ns, begin);
    }
}

void RF_CPU(linear)(rf_ctx *ctx, const gemm *g, rf_matrix w)
{
    gemm job = *g;
    job.form = GEMM_NT;
    job.ldc = g->ldc > 0 ? g->ldc : g->n;
    job.lda = g->lda > 0 ? g->lda : g->k;
    if (w.layout == RF_ROWS || g->k == 0) {
        job.b = w.data;
        RF_CPU(gemm)(ctx, &job);
        return;
    }
    RF_ASSERT(RF_CPU(linear_bytes)(ctx->n_threads, &ctx->limits) <= ctx->scratch_bytes);
    RF_ASSERT((ctx->limits.compute == RF_COMPUTE_BF16) == (w.layout == RF_PACKED_BF16));
    RF_ASSERT(w.layout == RF_PACKED_F32 || w.layout == ctx->limits.weights);
    RF_ASSERT(w.layout == RF_PACKED_F32 || g->k <= widest(&ctx->limits));
    if (w.layout == RF_PACKED_INT8) {
        linear_int8(ctx, &job, w.data);
    } else if (w.layout == RF_PACKED_BF16) {
        linear_bf16(ctx, &job, w.data);
    } else {
        linear_f32(ctx, &job, w.data);
    }
}
