/* internal.h: what the files of the cpu backend share.                          all local
 *
 * Every function that crosses files carries the ISA in its name (RF_CPU), so that the three
 * compilations of this folder link into one program.
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
 * each other along the inner dimension (simd.h). It travels as a float. */
typedef enum cell_type { CELL_F32, CELL_BF16 } cell_type;

/* A product's inner dimension is summed in blocks of K_BLOCK cells. Part of what decides the bits.
 */
enum { K_BLOCK = 512 };

/* Operands of bf16 are padded with zeros to whole steps: the rows of a, and inner cells; and their
 * panels have their own width. */
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
/* Cells from one row of n such elements to the next: whole cache lines, and no large power of two,
 * whose rows would fall into the same few sets of the caches. */
V_INLINE int64_t bf16_ld(int64_t n)
{
    int64_t cells = line_floats(bf16_cells(n));
    return cells % 256 == 0 ? cells + 16 : cells;
}
/* Share `part` of `parts` of `count` things: [*begin, *end). */
V_INLINE void share(int64_t *begin, int64_t *end, int64_t count, int64_t part, int64_t parts)
{
    *begin = count * part / parts;
    *end = count * (part + 1) / parts;
}
/* The same for elements of a buffer, in whole cache lines. */
V_INLINE void share_lines(int64_t *begin, int64_t *end, int64_t count, int64_t part, int64_t parts)
{
    share(begin, end, ceil_div(count, 16), part, parts);
    *begin = min_of(*begin * 16, count);
    *end = min_of(*end * 16, count);
}

/* Element i on of an operand of any class (its type is ctx->backend->type[class]): up to n, at most
 * VL elements. */
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
/* Where it lies. */
V_INLINE const void *element(rf_type type, const void *p, int64_t i)
{
    return (const char *)p +
           i * (type == RF_BF16 ? (int64_t)sizeof(uint16_t) : (int64_t)sizeof(float));
}
/* dst [rows, ld_dst] = src [rows, cols], of `type`. */
V_INLINE void copy_rows(float *dst, int64_t ld_dst, rf_type type, const void *src, int64_t ld_src,
                        int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, dst += ld_dst) {
        for (int64_t c = 0; c < cols; c += VL) {
            v_store_n(dst + c, load_as(type, src, r * ld_src + c, cols - c), cols - c);
        }
    }
}

/* The other way: dst, bf16, from src. */
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

/* Threads for a kernel that takes one thread about `ns` nanoseconds: all, or one. Waking a team
 * costs about 2 microseconds, and where other programs hold a core all wait for it, for
 * milliseconds; where that happened lately (threads_watch) small kernels take one. Bits never
 * depend on it (contract, 4). (No number between: OpenMP ends threads and makes them anew where the
 * size of the team changes.) threads_for: one that moves `work` floats, or makes 16 times as many
 * multiply-adds. */
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
/* Tells that a kernel for which threads_for_time gave `n_threads` began at `begin` (threads_now)
 * and has ended. Where others came late, by a millisecond and more, the next small kernels run
 * alone, twice as many each time. */
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

/* --- gemm.c ----------------------------------------------------------------------------------- */

/* How the sum over the inner dimension meets what it is added to. */
typedef enum product_mode {
    PRODUCT_SET,  /* c = sum */
    PRODUCT_ADD,  /* c = start + sum */
    PRODUCT_CHAIN /* the sum continues from c: c = fma(a_k, b_k, ... fma(a_0, b_0, c)) */
} product_mode;

/* Sizes along the inner dimension, lda, ldb and panel_floats count cells. With CELL_BF16 a is
 * row-major, panels are BF16_PANEL wide and packed (ldb = BF16_PANEL), both operands padded as
 * BF16_ROWS and BF16_CELLS say, 64-byte aligned where AMX reads them; on AMX the sum of any mode
 * continues from what it is added to.
 * c [m,n] from a [m,k] and panels of b [k,n]. Columns [jP,(j+1)P), P = PANEL, of b's row i begin at
 * b + j*panel_floats + i*ldb; whole vectors are read, whatever the lanes beyond column n hold. So b
 * may be packed (pack_panels: ldb = P) or lie as it is (panel_floats = P) where n is a multiple of
 * VL or rows are padded. a is row-major, element (r,i) at a[r*lda + i]; or, where tile_step > 0,
 * transposed: element (r + x, i), r a multiple of TILE_ROWS and x < TILE_ROWS, is at
 * a[r*tile_step + i*lda + x] (tile_step = 1: a^T as it lies; larger: pack_tiles).
 * Within one call the sum over k is one chain of fma in ascending order, the same for each element
 * whatever m, n and its place. bias [n] or NULL is added last. start may be c. */
typedef struct product {
    float *c;
    uint16_t *half; /* AMX only: where not NULL, c goes here as bf16, and start is half_start */
    const uint16_t *half_start;
    int64_t ldc;
    const float *start;
    int64_t ld_start;
    const float *bias;
    const float *a;
    int64_t lda, tile_step;
    const float *b;
    int64_t ldb, panel_floats;
    int64_t m, n, k;
    product_mode mode;
    cell_type cell;
} product;
void RF_CPU(product)(const product *p);

/* Whether all elements of src [rows,cols] are finite. */
bool RF_CPU(all_finite)(rf_type type, const void *src, int64_t ld_src, int64_t rows, int64_t cols);
/* dst[c*ld_dst + r] = src[r*ld_src + c] for r < rows, c < cols; 0 for rows <= r < width (a multiple
 * of VL). Prefetches what lies `ahead` floats behind each piece of src that it reads; 0: nothing.
 */
void RF_CPU(pack_transposed)(float *dst, int64_t ld_dst, const float *src, int64_t ld_src,
                             int64_t rows, int64_t cols, int64_t width, int64_t ahead);
/* a^T [k,m] for a product with this tile_step and lda = TILE_ROWS:
 * dst[r*tile_step + i*TILE_ROWS + x] = src[i*ld_src + r + x]. */
void RF_CPU(pack_tiles)(float *dst, int64_t tile_step, const float *src, int64_t ld_src, int64_t m,
                        int64_t k);
/* Panels of b [rows,cols]: dst[(j*rows + r)*PANEL + x] = src[r*ld_src + j*PANEL + x], padded with
 * 0. */
void RF_CPU(pack_panels)(float *dst, const float *src, int64_t ld_src, int64_t rows, int64_t cols);
/* Panels of the transpose: b [k,n] from src [n,k]. */
void RF_CPU(pack_panels_transposed)(float *dst, const float *src, int64_t ld_src, int64_t n,
                                    int64_t k);

/* cells.c: operands of bf16 from numbers of `type`, f32 or bf16. dst [rows, cells] row-major in
 * cells, ld_dst cells apart. pack_cells: of rows of src [rows,k]; pack_cells_transposed: of columns
 * of src [k,rows]. cells = bf16_cells(k), what lies beyond k is 0. */
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
/* sum [32,32] = a b with a [32,cells] of cells of 4 signed bytes, lda cells apart, b [cells,32] of
 * unsigned ones, ldb bytes apart; cells is a multiple of 16. Between amx_begin and amx_end, which
 * take and leave the thread's tiles. */
void RF_CPU(amx_int8)(int32_t *sum, const int32_t *a, int64_t lda, const char *b, int64_t ldb,
                      int64_t cells);
void RF_CPU(amx_begin)(void);
void RF_CPU(amx_end)(void);
#endif

typedef enum gemm_form {
    GEMM_NT, /* c = a b^T, b [n,k] */
    GEMM_NN, /* c = a b,   b [k,n] */
    GEMM_TN  /* c += a^T b, a [k,m], b [k,n]; one chain from c */
} gemm_form;

/* What happens to a piece of c once it is whole: nothing (gate NULL); or SwiGLU with c as up, which
 * sets h (up NULL); or its backward pass with c as dh, which sets dgate and h and turns c into dup.
 * All of c's type and shape, ldc elements from row to row. */
typedef struct gating {
    const void *gate, *up;
    void *h, *dgate;
} gating;

/* A whole product by all threads of ctx, row-major operands; rows of c and start, and of a, lie ldc
 * and lda elements apart (0: without padding). start [m,n] or NULL (may be c), bias [n] or NULL;
 * GEMM_TN takes neither. start is of c's type; only with compute = bf16 are types other than
 * RF_F32, and never b's but in GEMM_TN, where c's is RF_F32. Uses the first gemm_bytes of scratch.
 */
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
/* About what one thread takes for it (threads_for_time). */
double RF_CPU(gemm_nanoseconds)(const gemm *g);

/* gemm_bf16.c: the same with both operands rounded to bf16; lda and ldc are set. */
void RF_CPU(gemm_bf16)(rf_ctx *ctx, const gemm *g);
size_t RF_CPU(gemm_bf16_bytes)(int n_threads, const rf_limits *limits);
/* Whether the rows of a are cells as they lie: bf16, in whole steps. */
bool RF_CPU(lies_in_cells)(const gemm *g);

/* The rectangle [row,row_end) x [col,col_end) of c that a thread makes, in whole tiles of
 * tile_rows x tile_cols: empty where there is none. Costs are those of a multiply-add at full
 * speed: to pack an element of a and of b. Among equal shares the one with the most columns is
 * taken, so that each of b's panels is read by one thread. */
typedef struct area {
    int64_t row, row_end, col, col_end;
} area;
area RF_CPU(gemm_area)(const gemm *g, int64_t tile_rows, int64_t tile_cols, double pack_a,
                       double pack_b, int thread, int n_threads);
/* c = start + sum, and + bias where this is the last block of inner steps: `rows` rows from `row`
 * on of the panel of columns from `col` on. sum [rows,PANEL]; c is f32; start or NULL as c. */
void RF_CPU(finish_panel)(const gemm *g, const float *start, const float *sum, int64_t row,
                          int64_t rows, int64_t col, bool last);
/* swiglu.c: what follows for rows [row, row + rows) and columns [col, col + cols) of c. */
void RF_CPU(gate_piece)(const gemm *g, int64_t row, int64_t rows, int64_t col, int64_t cols);
/* Without inner steps a product is what it starts from. */
void RF_CPU(gemm_empty)(const gemm *g, const area *r);

/* --- packed.c, int8.c ------------------------------------------------------------------------- */

_Static_assert(RF_PACK_ROWS % PANEL == 0, "rows are packed in whole panels");

/* c = a w^T + start + bias with w of any layout; of g, b and form are not read. Uses the first
 * linear_bytes of scratch. */
void RF_CPU(linear)(rf_ctx *ctx, const gemm *g, rf_matrix w);
size_t RF_CPU(linear_bytes)(int n_threads, const rf_limits *limits);

/* int8.c: rows of activations, quantized. A row has `cells` cells of 4, padded with 0. */
typedef struct int8_rows {
    int32_t *cell;  /* [rows][cells] */
    float *scale;   /* [rows][blocks] */
    int32_t *start; /* [rows][blocks]: -128 times the sum of the block, since weights are stored as
                       q + 128 */
    int64_t cells, blocks;
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
