/* internal.h: what the files of the cpu backend share.                          all local
 *
 * Every function that one file offers to another has the instruction set in its name (RF_CPU), so
 * that this folder, compiled once for each, links into one program.
 */
#ifndef RF_KERNELS_CPU_INTERNAL_H
#define RF_KERNELS_CPU_INTERNAL_H

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/kernels/cpu/cpu.h"
#include "common/kernels/cpu/simd.h"
#include "common/kernels/host.h"

#include <time.h>

#define RF_CPU_JOIN_(name, isa) rf_cpu_##isa##_##name
#define RF_CPU_JOIN(name, isa)  RF_CPU_JOIN_(name, isa)
#define RF_CPU(name)            RF_CPU_JOIN(name, RF_ISA)

/* A cell is what one lane of a product's operand holds in 32 bits: one f32, or two bf16 that follow
 * each other along the inner dimension (simd.h). Cells are passed as floats. */
typedef enum cell_type { CELL_F32, CELL_BF16 } cell_type;

/* The sum over a product's inner dimension is cut after every K_CHAIN cells: each piece is one chain
 * of fma, and the pieces are added in order. The bits depend on it. */
enum { K_CHAIN = 512 };

/* Operands of bf16 are padded with zeros to whole steps: the left operand to a multiple of BF16_ROWS
 * rows, both to a multiple of BF16_CELLS inner cells. Their panels are BF16_PANEL wide. */
#if defined(RF_ISA_amx)
enum { BF16_ROWS = 16, BF16_CELLS = 16, BF16_PANEL = 32 };
#else
enum { BF16_ROWS = 1, BF16_CELLS = 1, BF16_PANEL = PANEL };
#endif

V_INLINE int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
V_INLINE int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
V_INLINE int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}
V_INLINE int64_t round_up(int64_t a, int64_t step)
{
    return ceil_div(a, step) * step;
}
/* Floats rounded up to whole cache lines, which keeps pieces of scratch aligned. */
V_INLINE int64_t line_floats(int64_t n)
{
    return round_up(n, 16);
}
/* The next n floats of scratch, or of ints; NULL while the arena measures. */
V_INLINE float *take_floats(rf_arena *scratch, int64_t n)
{
    return rf_arena_take(scratch, (size_t)n * sizeof(float));
}
V_INLINE int32_t *take_ints(rf_arena *scratch, int64_t n)
{
    return rf_arena_take(scratch, (size_t)n * sizeof(int32_t));
}
/* Cells that hold n inner elements of bf16, padded. */
V_INLINE int64_t bf16_cells(int64_t n)
{
    return round_up(ceil_div(n, 2), BF16_CELLS);
}
/* Cells from one row of n such elements to the next: whole cache lines, but no multiple of 256 cells,
 * with which all rows would lie in the same few sets of the caches. */
V_INLINE int64_t bf16_ld(int64_t n)
{
    int64_t cells = line_floats(bf16_cells(n));
    return cells % 256 == 0 ? cells + 16 : cells;
}
/* Part number `part` of `parts` equal parts of `count` things: [*begin, *end). */
V_INLINE void part_of(int64_t *begin, int64_t *end, int64_t count, int64_t part, int64_t parts)
{
    *begin = count * part / parts;
    *end = count * (part + 1) / parts;
}
/* The same for elements of a buffer, in whole cache lines. */
V_INLINE void part_of_lines(int64_t *begin, int64_t *end, int64_t count, int64_t part,
                            int64_t parts)
{
    part_of(begin, end, ceil_div(count, 16), part, parts);
    *begin = min_of(*begin * 16, count);
    *end = min_of(*end * 16, count);
}

/* Elements of an operand of any class (its type is ctx->backend->type[class]) from element i on: n,
 * but at most VL. */
V_INLINE vf load_as(rf_type type, const void *p, int64_t i, int64_t n)
{
    return type == RF_BF16 ? v_load_half_n((const uint16_t *)p + i, n < VL ? n : VL)
                           : v_load_n((const float *)p + i, n);
}
V_INLINE void store_as(rf_type type, void *p, int64_t i, vf x, int64_t n)
{
    if (type == RF_BF16) {
        v_store_half_n((uint16_t *)p + i, x, n < VL ? n : VL);
    } else {
        v_store_n((float *)p + i, x, n);
    }
}
/* The address of element i. */
V_INLINE const void *element(rf_type type, const void *p, int64_t i)
{
    return (const char *)p +
           i * (type == RF_BF16 ? (int64_t)sizeof(uint16_t) : (int64_t)sizeof(float));
}
/* dst = src [rows,cols] of `type`, rows ld_dst and ld_src elements apart. */
V_INLINE void copy_rows(float *dst, int64_t ld_dst, rf_type type, const void *src, int64_t ld_src,
                        int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, dst += ld_dst) {
        for (int64_t c = 0; c < cols; c += VL) {
            v_store_n(dst + c, load_as(type, src, r * ld_src + c, cols - c), cols - c);
        }
    }
}
/* The other way: dst of bf16 from src. */
V_INLINE void round_rows(uint16_t *dst, int64_t ld_dst, const float *src, int64_t ld_src,
                         int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c += VL) {
            vf x = v_load_n(src + r * ld_src + c, cols - c);
            store_as(RF_BF16, dst, r * ld_dst + c, x, cols - c);
        }
    }
}
V_INLINE rf_type type_of(const rf_ctx *ctx, rf_class cls)
{
    return ctx->backend->type[cls];
}

/* How many threads a kernel gets that would take one thread about `ns` nanoseconds: all, or one. (No
 * number between: OpenMP ends and makes threads where the size of a team changes.) To wake a team
 * costs about 2 microseconds; and where another program holds one of the cores, all threads wait
 * for the one on it, for milliseconds. Where that happened lately (threads_watch) small kernels get
 * one thread. Bits never depend on it (contract, 4). threads_for is for a kernel that moves `work`
 * floats, or makes 16 multiply-adds for each of them. */
V_INLINE int threads_for_time(const rf_ctx *ctx, double ns)
{
    const rf_host_state *state = ctx->state;
    return ns < 10e3 || (state->alone > 0 && ns < 10e6) ? 1 : ctx->n_threads;
}
V_INLINE int threads_for(const rf_ctx *ctx, int64_t work)
{
    return threads_for_time(ctx, 0.15 * (double)work);
}
V_INLINE double threads_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
/* Reports that a kernel for which threads_for_time gave `n_threads` began at `begin` (threads_now)
 * and has just ended. Where it took more than a millisecond too long, some thread came late: then
 * the next 64 small kernels get one thread, and twice as many each time that it happens again. */
V_INLINE void threads_watch(rf_ctx *ctx, int n_threads, double ns, double begin)
{
    enum { LEAST = 64, MOST = 1 << 14 };
    rf_host_state *state = ctx->state;
    if (n_threads == 1) {
        state->alone -= state->alone > 0;
    } else if (threads_now() - begin > 2.0 * ns + 1e6) {
        state->alone = state->alone_next > LEAST ? state->alone_next : LEAST;
        state->alone_next = state->alone < MOST ? 2 * state->alone : MOST;
    } else if (state->alone_next > LEAST) {
        state->alone_next -= 1 + state->alone_next / 64;
    }
}

/* --- product.c: the register tile --------------------------------------------------------------*/

/* How the sum over the inner dimension meets what it is added to. */
typedef enum product_mode {
    PRODUCT_SET,  /* c = sum */
    PRODUCT_ADD,  /* c = start + sum */
    PRODUCT_CHAIN /* the sum continues from c: c = fma(a_k, b_k, ... fma(a_0, b_0, c)) */
} product_mode;

/* c [m,n] from a [m,k] and b [k,n], by one thread. k, lda, ldb, panel_floats and n_next count cells.
 *
 * a is row-major, element (r,i) at a[r*lda + i]; or, where tile_step > 0, transposed in groups of
 * TILE_ROWS rows: element (r + x, i), r a multiple of TILE_ROWS and x < TILE_ROWS, at
 * a[r*tile_step + i*lda + x]. (With tile_step = 1 that is a^T as it lies; pack_tiles brings the
 * rows of a group together.)
 *
 * b lies in panels of P columns, P = PANEL: columns [jP, (j+1)P) of row i begin at
 * b + j*panel_floats + i*ldb. b may be packed (pack_panels: ldb = P), or be read where it lies
 * (panel_floats = P) if n is a multiple of VL or its rows are padded: whole vectors are read,
 * whatever the lanes beyond column n hold.
 *
 * With CELL_BF16 a is row-major, b packed in panels of P = BF16_PANEL (ldb = P), and both are
 * padded to BF16_ROWS and BF16_CELLS. AMX wants them 64-byte aligned.
 *
 * n_next > 0: b is one panel, and this thread reads so many cells behind it next. They come from
 * memory into the L2 cache meanwhile (not with AMX).
 *
 * The sum over k is one chain of fma in ascending order, the same for each element whatever m and n
 * are and where it lies. With AMX a chain of any mode begins at what it is added to. bias [n] or
 * NULL is added last. start may be c. */
typedef struct product {
    float *c;
    uint16_t *half; /* AMX only, or NULL: c is written here, as bf16, and half_start is the start */
    const uint16_t *half_start;
    int64_t ldc;
    const float *start;
    int64_t ld_start;
    const float *bias;
    const float *a;
    int64_t lda, tile_step;
    const float *b;
    int64_t ldb, panel_floats;
    int64_t n_next;
    int64_t m, n, k;
    product_mode mode;
    cell_type cell;
} product;
void RF_CPU(product)(const product *p);

/* Whether all elements of src [rows,cols] are finite. */
bool RF_CPU(all_finite)(rf_type type, const void *src, int64_t ld_src, int64_t rows, int64_t cols);
/* dst[c*ld_dst + r] = src[r*ld_src + c] for r < rows, c < cols; 0 for rows <= r < width, which is a
 * multiple of VL. Where ahead > 0 it prefetches what lies `ahead` floats behind what it reads. */
void RF_CPU(pack_transposed)(float *dst, int64_t ld_dst, const float *src, int64_t ld_src,
                             int64_t rows, int64_t cols, int64_t width, int64_t ahead);
/* a^T [k,m] for a product with this tile_step and lda = TILE_ROWS:
 * dst[r*tile_step + i*TILE_ROWS + x] = src[i*ld_src + r + x]. */
void RF_CPU(pack_tiles)(float *dst, int64_t tile_step, const float *src, int64_t ld_src, int64_t m,
                        int64_t k);
/* Panels of b [rows,cols], padded with 0: dst[(j*rows + r)*PANEL + x] = src[r*ld_src + j*PANEL + x].
 */
void RF_CPU(pack_panels)(float *dst, const float *src, int64_t ld_src, int64_t rows, int64_t cols);
/* Panels of the transpose: of b [k,n] from src [n,k]. */
void RF_CPU(pack_panels_transposed)(float *dst, const float *src, int64_t ld_src, int64_t n,
                                    int64_t k);

/* cells.c: operands of bf16 from numbers of `type`, f32 or bf16. dst [rows, bf16_cells(k)] row-major
 * in cells, rows ld_dst cells apart, 0 beyond element k. pack_cells takes the rows of src [rows,k],
 * pack_cells_transposed the columns of src [k,rows]. */
void RF_CPU(pack_cells)(float *dst, int64_t ld_dst, rf_type type, const void *src, int64_t ld_src,
                        int64_t rows, int64_t k);
void RF_CPU(pack_cells_transposed)(float *dst, int64_t ld_dst, rf_type type, const void *src,
                                   int64_t ld_src, int64_t rows, int64_t k);
/* Panels of b [k,n] as pack_panels and pack_panels_transposed make them, of cells, with
 * P = BF16_PANEL: dst[(j*cells + i)*P + x] holds elements 2i and 2i+1 of column j*P + x. */
void RF_CPU(pack_cell_panels)(float *dst, rf_type type, const void *src, int64_t ld_src, int64_t k,
                              int64_t n);
void RF_CPU(pack_cell_panels_transposed)(float *dst, rf_type type, const void *src, int64_t ld_src,
                                         int64_t n, int64_t k);

#if defined(RF_ISA_amx)
/* amx.c: a product of CELL_BF16 on tiles. */
void RF_CPU(product_amx)(const product *p);
/* sum [32,32] = a b in integers. a [32,cells]: cells of 4 signed bytes, rows lda cells apart;
 * b [cells,32]: cells of 4 unsigned bytes, rows ldb bytes apart; cells is a multiple of 16. To be
 * called between amx_begin and amx_end, by which the thread takes the tiles and gives them back. */
void RF_CPU(amx_int8)(int32_t *sum, const int32_t *a, int64_t lda, const char *b, int64_t ldb,
                      int64_t cells);
void RF_CPU(amx_begin)(void);
void RF_CPU(amx_end)(void);
#endif

/* --- gemm.c, gemm_bf16.c: whole products -------------------------------------------------------*/

typedef enum gemm_form {
    GEMM_NT, /* c = a b^T, b [n,k] */
    GEMM_NN, /* c = a b,   b [k,n] */
    GEMM_TN  /* c += a^T b, a [k,m], b [k,n]; one chain from c */
} gemm_form;

/* What happens to a piece of c as soon as it is finished, while it is in the cache.
 *   gate NULL            nothing
 *   gate, h              SwiGLU with c as up: sets h
 *   gate, up, h, dgate   its backward pass with c as dh: sets dgate and h, and turns c into dup
 * All of c's type and shape, rows ldc elements apart. */
typedef struct gating {
    const void *gate, *up;
    void *h, *dgate;
} gating;

/* A whole product by all threads of ctx, of row-major operands. Rows of c and start lie ldc elements
 * apart, rows of a lda (0: without padding). start [m,n] or NULL, which may be c, and bias [n] or
 * NULL are added; not with GEMM_TN. Types other than RF_F32 occur only with compute = bf16: of a;
 * of c and start, which have one type, but not with GEMM_TN; of b only with GEMM_TN. Uses the first
 * gemm_bytes of scratch. */
typedef struct gemm {
    gemm_form form;
    rf_type a_type, b_type, c_type;
    void *c;
    const void *a, *b, *start;
    const float *bias;
    int64_t m, n, k, ldc, lda;
    gating then;
} gemm;
void RF_CPU(gemm)(rf_ctx *ctx, const gemm *g);
size_t RF_CPU(gemm_bytes)(int n_threads, const rf_limits *limits);
/* About how long one thread takes for it (threads_for_time). */
double RF_CPU(gemm_nanoseconds)(const gemm *g);

/* gemm_bf16.c: the same with both operands rounded to bf16; lda and ldc are not 0. */
void RF_CPU(gemm_bf16)(rf_ctx *ctx, const gemm *g);
size_t RF_CPU(gemm_bf16_bytes)(int n_threads, const rf_limits *limits);
/* Are the rows of a cells where they lie: bf16, in whole steps? */
bool RF_CPU(lies_in_cells)(const gemm *g);

/* The rectangle [row,row_end) x [col,col_end) of c that a thread makes, whole tiles of
 * tile_rows x tile_cols; possibly empty. pack_a, pack_b: how many multiply-adds at full speed it
 * costs to pack an element of a and of b. Where ways to cut c cost the same, the one with the most
 * parts of columns is taken, so that each panel of b is read by one thread. */
typedef struct area {
    int64_t row, row_end, col, col_end;
} area;
area RF_CPU(gemm_area)(const gemm *g, int64_t tile_rows, int64_t tile_cols, double pack_a,
                       double pack_b, int thread, int n_threads);
/* c = start + sum, and + bias where `last`, for the columns from `col` on of one panel and `rows`
 * rows from `row` on. sum [rows,PANEL]; c is f32; start is NULL or laid out as c. */
void RF_CPU(finish_panel)(const gemm *g, const float *start, const float *sum, int64_t row,
                          int64_t rows, int64_t col, bool last);
/* swiglu.c: does `then` for rows [row, row + rows) and columns [col, col + cols) of c. */
void RF_CPU(gate_piece)(const gemm *g, int64_t row, int64_t rows, int64_t col, int64_t cols);
/* A product without inner steps (k = 0): c = start + bias. */
void RF_CPU(gemm_empty)(const gemm *g, const area *r);

/* --- packed.c, int8.c ------------------------------------------------------------------------- */

_Static_assert(RF_PACK_ROWS % PANEL == 0, "rows are packed in whole panels");

/* c = a w^T + start + bias with w of any layout; g->b and g->form are not read. Uses the first
 * linear_bytes of scratch. */
void RF_CPU(linear)(rf_ctx *ctx, const gemm *g, rf_matrix w);
size_t RF_CPU(linear_bytes)(int n_threads, const rf_limits *limits);

/* int8.c: rows of activations, quantized in groups (quantize.h). A row has `cells` cells of 4
 * numbers, padded with 0, and `groups` groups. */
typedef struct int8_rows {
    int32_t *cell;  /* [rows][cells] */
    float *scale;   /* [rows][groups] */
    int32_t *start; /* [rows][groups] where an integer sum begins: -128 times the sum of the group's
                       numbers, which takes back that weights are stored as q + 128 */
    int64_t cells, groups;
} int8_rows;

size_t RF_CPU(int8_pack_bytes)(int64_t in, int64_t out);
void RF_CPU(int8_pack_panel)(char *packed, const float *w, int64_t rows, int64_t in);
void RF_CPU(int8_unpack_row)(float *x, const char *packed, int64_t row, int64_t in);
/* Floats of scratch for `rows` rows, and the rows laid out in it. */
int64_t RF_CPU(int8_rows_floats)(int64_t rows, int64_t in);
int8_rows RF_CPU(int8_rows_at)(float *scratch, int64_t rows, int64_t in);
void RF_CPU(int8_quantize_row)(const int8_rows *x, int64_t row, const float *from, int64_t in);
/* Floats of a thread's scratch for int8_product. */
int64_t RF_CPU(int8_sum_floats)(void);
void RF_CPU(int8_product)(const gemm *g, const char *packed, const int8_rows *x, const area *s,
                          float *sum);

/* --- The kernels -------------------------------------------------------------------------------*/

/* rf_linear_forward_fn rf_cpu_avx2_linear_forward; and so on, one for each kernel. */
#define CPU_DECLARE(name) rf_##name##_fn RF_CPU(name);
RF_KERNELS(CPU_DECLARE)
#undef CPU_DECLARE

/* Bytes of scratch that the kernels of these files use. */
size_t RF_CPU(attention_bytes)(int n_threads, const rf_limits *limits);
size_t RF_CPU(attention_backward_bytes)(int n_threads, const rf_limits *limits);
size_t RF_CPU(head_bytes)(int n_threads, const rf_limits *limits);
size_t RF_CPU(norm_bytes)(const rf_limits *limits);

/* head.c: places of a chunk. */
int64_t RF_CPU(head_rows)(const rf_limits *limits);
/* elementwise.c: y = e^x, n numbers: v_exp as every kernel of this ISA has it, so that its error
 * can be measured. */
void RF_CPU(exp)(float *y, const float *x, int64_t n);

#endif
