/* Products with weights of 8 bits. Both sides are quantized in groups (quantize.h). The sum over a
 * group is made in integers, which are exact; the groups are one chain of fma in f32, ascending. So
 * only these fma (two roundings in the portable form) differ between instruction sets.
 *
 * A panel holds, for each group, PANEL scales and then the group's cells: 4 inner elements of a row
 * each, stored as q + 128, because the instruction for it (VPDPBUSD) multiplies unsigned bytes by
 * signed ones. */
#include "common/kernels/cpu/internal.h"

#include "common/kernels/quantize.h"

enum {
    CELL = 4, /* inner elements of a cell */
    GROUP_CELLS = RF_QUANTIZE_GROUP / CELL,
    OFFSET = 128,
    WHOLE_ROWS = 32, /* rows of AMX's four tiles */
    STREAMED = 64,   /* rows that pass by a group of a panel while it is in the L1 cache */
    AHEAD = 4096     /* bytes of a panel from prefetch to use: it comes from memory */
};

/* --- Vectors of 32-bit integers --------------------------------------------------------------- */

#if defined(RF_ISA_portable)
typedef vi vq;
#elif defined(RF_ISA_avx2)
typedef __m256i vq;
#else
typedef __m512i vq;
#endif

/* q_dot(sum, w, x): sum + w0 x0 + w1 x1 + w2 x2 + w3 x3 in each lane, w unsigned and x signed
 * bytes. Nothing saturates. q_operand prepares x, the same cell in all lanes. */
#if defined(__AVX512VNNI__)
typedef vq operand;
V_INLINE operand q_operand(int32_t cell)
{
    return _mm512_set1_epi32(cell);
}
V_INLINE vq q_dot(vq sum, vq w, operand x)
{
    return _mm512_dpbusd_epi32(sum, w, x);
}
#elif defined(RF_ISA_portable)
typedef struct operand {
    vq byte[CELL];
} operand;
V_INLINE operand q_operand(int32_t cell)
{
    operand x;
    int8_t bytes[CELL];
    memcpy(bytes, &cell, sizeof bytes);
    for (int i = 0; i < CELL; i++) {
        x.byte[i] = (vq){bytes[i], bytes[i], bytes[i], bytes[i]};
    }
    return x;
}
V_INLINE vq q_dot(vq sum, vq w, operand x)
{
    for (int i = 0; i < CELL; i++) {
        sum += (w >> (8 * i) & 0xFF) * x.byte[i];
    }
    return sum;
}
#else
/* Even and odd bytes, widened to 16 bits; x's come with one multiplication for each half. */
typedef struct operand {
    vq even, odd;
} operand;
V_INLINE operand q_operand(int32_t cell)
{
    vq x = V_MM(set1_epi32)(cell);
    return (operand){V_MM(srai_epi16)(V_MM(slli_epi16)(x, 8), 8), V_MM(srai_epi16)(x, 8)};
}
V_INLINE vq q_dot(vq sum, vq w, operand x)
{
    vq even = V_MM(srli_epi16)(V_MM(slli_epi16)(w, 8), 8), odd = V_MM(srli_epi16)(w, 8);
    sum = V_MM(add_epi32)(sum, V_MM(madd_epi16)(even, x.even));
    return V_MM(add_epi32)(sum, V_MM(madd_epi16)(odd, x.odd));
}
#endif

V_INLINE vq q_set(int32_t x)
{
#if defined(RF_ISA_portable)
    return (vq){x, x, x, x};
#else
    return V_MM(set1_epi32)(x);
#endif
}
V_INLINE vq q_load(const char *p)
{
    vq a;
    memcpy(&a, p, sizeof a);
    return a;
}
V_INLINE vf q_float(vq a)
{
#if defined(RF_ISA_portable)
    return __builtin_convertvector(a, vf);
#else
    return V_MM(cvtepi32_ps)(a);
#endif
}

/* --- Packing ---------------------------------------------------------------------------------- */

/* Bytes from one group of a panel to the next. */
enum { GROUP_BYTES = PANEL * (GROUP_CELLS + 1) * 4 };

size_t RF_CPU(int8_pack_bytes)(int64_t in, int64_t out)
{
    int64_t words = rf_quantize_groups(in) + ceil_div(in, CELL);
    return (size_t)(ceil_div(out, PANEL) * PANEL * words) * sizeof(int32_t);
}

void RF_CPU(int8_pack_panel)(char *packed, const float *w, int64_t rows, int64_t in)
{
    for (int64_t k0 = 0; k0 < in; k0 += RF_QUANTIZE_GROUP, packed += GROUP_BYTES) {
        int64_t k = min_of(RF_QUANTIZE_GROUP, in - k0);
        float *scale = (float *)(void *)packed;
        char *cells = packed + PANEL * sizeof(float);
        for (int64_t r = 0; r < PANEL; r++) {
            int8_t q[RF_QUANTIZE_GROUP] = {0};
            scale[r] = r < rows ? rf_quantize(q, w + r * in + k0, k) : 0.0F;
            for (int64_t i = 0; i < ceil_div(k, CELL) * CELL; i++) {
                int64_t at = (i / CELL * PANEL + r) * CELL + i % CELL;
                cells[at] = (char)(uint8_t)(q[i] + OFFSET);
            }
        }
    }
}

void RF_CPU(int8_unpack_row)(float *x, const char *packed, int64_t row, int64_t in)
{
    for (int64_t k0 = 0; k0 < in; k0 += RF_QUANTIZE_GROUP, packed += GROUP_BYTES) {
        float scale = ((const float *)(const void *)packed)[row];
        const char *cells = packed + PANEL * sizeof(float) + row * CELL;
        for (int64_t i = 0; i < min_of(RF_QUANTIZE_GROUP, in - k0); i++) {
            int q = (uint8_t)cells[i / CELL * PANEL * CELL + i % CELL] - OFFSET;
            x[k0 + i] = scale * (float)q;
        }
    }
}

/* --- Activations ------------------------------------------------------------------------------ */

int64_t RF_CPU(int8_rows_floats)(int64_t rows, int64_t in)
{
    int64_t groups = rows * rf_quantize_groups(in);
    rows = round_up(rows, WHOLE_ROWS); /* AMX reads whole tiles */
    return line_floats(rows * ceil_div(in, CELL)) + 2 * line_floats(groups);
}

int8_rows RF_CPU(int8_rows_at)(float *scratch, int64_t rows, int64_t in)
{
    int8_rows x = {.cells = ceil_div(in, CELL), .groups = rf_quantize_groups(in)};
    x.cell = (int32_t *)(void *)scratch;
    x.scale = scratch + line_floats(round_up(rows, WHOLE_ROWS) * x.cells);
    x.start = (int32_t *)(void *)(x.scale + line_floats(rows * x.groups));
    return x;
}

void RF_CPU(int8_quantize_row)(const int8_rows *x, int64_t row, const float *from, int64_t in)
{
    for (int64_t b = 0; b < x->groups; b++) {
        int8_t q[RF_QUANTIZE_GROUP] = {0};
        int64_t n = min_of(RF_QUANTIZE_GROUP, in - b * RF_QUANTIZE_GROUP);
        int32_t sum = 0;
        x->scale[row * x->groups + b] = rf_quantize(q, from + b * RF_QUANTIZE_GROUP, n);
        for (int i = 0; i < RF_QUANTIZE_GROUP; i++) {
            sum += q[i];
        }
        x->start[row * x->groups + b] = -OFFSET * sum;
        memcpy(x->cell + row * x->cells + b * GROUP_CELLS, q, (size_t)(ceil_div(n, CELL) * CELL));
    }
}

/* --- Products --------------------------------------------------------------------------------- */

/* to[c] = fma(sum of a group, scale of w * scale of x, to[c]), with 0 for to[c] where it is the first
 * group. */
V_INLINE void add_group(float *to, vq sum, const float *w_scale, vf x_scale, bool first)
{
    vf both = v_mul(v_load(w_scale), x_scale);
    v_store(to, v_fma(q_float(sum), both, first ? v_zero() : v_load(to)));
}

/* Adds to sum [rows][PANEL] what group b of `rows` rows of x, from `row` on, and of a panel gives.
 * `rows` is a constant wherever this is inlined; `group` is where the panel's group lies. */
V_INLINE void tile(float *sum, const char *group, const int8_rows *x, int64_t row, int64_t b,
                   int64_t cells, const int rows)
{
    const char *w = group + PANEL * sizeof(float);
    const int32_t *cell = x->cell + row * x->cells + b * GROUP_CELLS;
    vq acc[TILE_ROWS][TILE_VECTORS];
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < TILE_VECTORS; v++) {
            acc[r][v] = q_set(x->start[(row + r) * x->groups + b]);
        }
    }
    for (int64_t i = 0; i < cells; i++, w += PANEL * CELL) {
        vq right[TILE_VECTORS];
        for (int v = 0; v < TILE_VECTORS; v++) {
            right[v] = q_load(w + v * VL * CELL);
            if (v * VL * CELL % 64 == 0) {
                __builtin_prefetch(w + AHEAD + v * VL * CELL, 0, 3);
            }
        }
        for (int r = 0; r < rows; r++) {
            operand left = q_operand(cell[r * x->cells + i]);
            for (int v = 0; v < TILE_VECTORS; v++) {
                acc[r][v] = q_dot(acc[r][v], right[v], left);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        vf scale = v_set(x->scale[(row + r) * x->groups + b]);
        for (int v = 0; v < TILE_VECTORS; v++) {
            add_group(sum + r * PANEL + v * VL, acc[r][v],
                      (const float *)(const void *)group + v * VL, scale, b == 0);
        }
    }
}

/* The same for any number m of rows. */
static void tiles(float *sum, const char *group, const int8_rows *x, int64_t row, int64_t m,
                  int64_t b, int64_t cells)
{
#define CASE(rows)                                                                                 \
    case rows:                                                                                     \
        tile(sum, group, x, row, b, cells, rows);                                                  \
        break
    for (; m > 0; m -= TILE_ROWS, row += TILE_ROWS, sum += TILE_ROWS * PANEL) {
        switch (min_of(TILE_ROWS, m)) {
            CASE(1);
            CASE(2);
            CASE(3);
            CASE(4);
#if !defined(RF_ISA_portable)
            CASE(5);
            CASE(6);
#endif
        }
    }
#undef CASE
}

#if defined(RF_ISA_amx)
/* The same on AMX, for groups of whole steps. */
static void amx_tiles(float *sum, const char *group, const int8_rows *x, int64_t row, int64_t m,
                      int64_t b, int64_t cells)
{
    enum { SIDE = WHOLE_ROWS };
    const float *w_scale = (const float *)(const void *)group;
    _Alignas(64) int32_t acc[SIDE * SIDE];
    for (int64_t r = 0; r < m; r += SIDE) {
        for (int64_t c = 0; c < PANEL; c += SIDE) {
            RF_CPU(amx_int8)
            (acc, x->cell + (row + r) * x->cells + b * GROUP_CELLS, x->cells,
             group + (PANEL + c) * CELL, PANEL * CELL, cells);
            for (int64_t i = 0; i < min_of(SIDE, m - r); i++) {
                const int64_t at = (row + r + i) * x->groups + b;
                const vf scale = v_set(x->scale[at]);
                for (int64_t v = 0; v < SIDE; v += VL) {
                    vq all = _mm512_add_epi32(q_load((const char *)(acc + i * SIDE + v)),
                                              q_set(x->start[at]));
                    add_group(sum + (r + i) * PANEL + c + v, all, w_scale + c + v, scale, b == 0);
                }
            }
        }
    }
}

static void multiply_group(float *sum, const char *group, const int8_rows *x, int64_t row,
                           int64_t m, int64_t b, int64_t cells)
{
    enum { FEW_ROWS = 8, STEP = 16 }; /* few rows wait for the weights, by whatever multiplied */
    if (m > FEW_ROWS && cells % STEP == 0) {
        amx_tiles(sum, group, x, row, m, b, cells);
    } else {
        tiles(sum, group, x, row, m, b, cells);
    }
}
#else
static void multiply_group(float *sum, const char *group, const int8_rows *x, int64_t row,
                           int64_t m, int64_t b, int64_t cells)
{
    tiles(sum, group, x, row, m, b, cells);
}
#endif

int64_t RF_CPU(int8_sum_floats)(void)
{
    return STREAMED * PANEL;
}

void RF_CPU(int8_product)(const gemm *g, const char *packed, const int8_rows *x, const area *s,
                          float *sum)
{
    const size_t bytes = RF_CPU(int8_pack_bytes)(g->k, PANEL);
#if defined(RF_ISA_amx)
    RF_CPU(amx_begin)();
#endif
    for (int64_t col = s->col; col < s->col_end; col += PANEL) {
        const char *from = packed + (size_t)(col / PANEL) * bytes;
        for (int64_t row = s->row; row < s->row_end; row += STREAMED) {
            int64_t m = min_of(STREAMED, s->row_end - row);
            for (int64_t b = 0; b < x->groups; b++) {
                int64_t cells = min_of(GROUP_CELLS, x->cells - b * GROUP_CELLS);
                multiply_group(sum, from + b * GROUP_BYTES, x, row, m, b, cells);
            }
            RF_CPU(finish_panel)(g, g->start, sum, row, m, col, true);
            RF_CPU(gate_piece)(g, row, m, col, min_of(PANEL, s->col_end - col));
        }
    }
#if defined(RF_ISA_amx)
    RF_CPU(amx_end)();
#endif
}
