/* Operands of bf16 products: f32 is rounded on its way into cells (simd.h). */
#include "common/kernels/cpu/internal.h"

/* The next 2 VL elements of a row as VL cells; those beyond `left` are 0. */
V_INLINE vf load_pairs(const float *src, int64_t left)
{
    vf first = v_load_n(src, max_of(left, 0));
    vf second = left > VL ? v_load_n(src + VL, left - VL) : v_zero();
    return v_pairs(first, second);
}

void RF_CPU(pack_cells)(float *dst, int64_t ld_dst, const float *src, int64_t ld_src, int64_t rows,
                        int64_t k)
{
    const int64_t cells = bf16_cells(k);
    for (int64_t r = 0; r < rows; r++, dst += ld_dst, src += ld_src) {
        for (int64_t i = 0; i < cells; i += VL) {
            v_store_n(dst + i, 2 * i < k ? load_pairs(src + 2 * i, k - 2 * i) : v_zero(),
                      cells - i);
        }
    }
}

/* A block of VL x VL cells, transposed: to[c*ld + r] for r < rows (the others are 0), c < cells. */
static void put_transposed(float *to, int64_t ld, const float block[VL * VL], int64_t cells)
{
    vf column[VL];
    v_load_transposed(column, block, VL);
    for (int c = 0; c < VL; c++) {
        if (c < cells) {
            v_store(to + c * ld, column[c]);
        }
    }
}

void RF_CPU(pack_cell_panels_transposed)(float *dst, const float *src, int64_t ld_src, int64_t n,
                                         int64_t k)
{
    const int64_t cells = bf16_cells(k);
    float block[VL * VL];
    for (int64_t c0 = 0; c0 < n; c0 += BF16_PANEL, dst += cells * BF16_PANEL) {
        for (int64_t v = 0; v < BF16_PANEL; v += VL) {
            for (int64_t i = 0; i < cells; i += VL) {
                for (int64_t r = 0; r < VL; r++) {
                    bool exists = c0 + v + r < n && 2 * i < k;
                    const float *row = src + (c0 + v + r) * ld_src + 2 * i;
                    v_store(block + r * VL, exists ? load_pairs(row, k - 2 * i) : v_zero());
                }
                put_transposed(dst + i * BF16_PANEL + v, BF16_PANEL, block, cells - i);
            }
        }
    }
}

/* Rows 2i and 2i+1 of src from column c on, as cells; those beyond row k or `left` columns are 0.
 */
V_INLINE vf load_zipped(const float *src, int64_t ld_src, int64_t i, int64_t k, int64_t left)
{
    if (2 * i >= k || left <= 0) {
        return v_zero();
    }
    const float *row = src + 2 * i * ld_src;
    vf second = 2 * i + 1 < k ? v_load_n(row + ld_src, left) : v_zero();
    return v_zip(v_load_n(row, left), second);
}

void RF_CPU(pack_cell_panels)(float *dst, const float *src, int64_t ld_src, int64_t k, int64_t n)
{
    const int64_t cells = bf16_cells(k);
    for (int64_t c0 = 0; c0 < n; c0 += BF16_PANEL) {
        for (int64_t i = 0; i < cells; i++, dst += BF16_PANEL) {
            for (int64_t v = 0; v < BF16_PANEL; v += VL) {
                v_store(dst + v, load_zipped(src + c0 + v, ld_src, i, k, n - c0 - v));
            }
        }
    }
}

void RF_CPU(pack_cells_transposed)(float *dst, int64_t ld_dst, const float *src, int64_t ld_src,
                                   int64_t rows, int64_t k)
{
    const int64_t cells = bf16_cells(k);
    float block[VL * VL];
    for (int64_t r0 = 0; r0 < rows; r0 += VL) {
        for (int64_t i0 = 0; i0 < cells; i0 += VL) {
            vf column[VL];
            for (int64_t i = 0; i < VL; i++) {
                v_store(block + i * VL, load_zipped(src + r0, ld_src, i0 + i, k, rows - r0));
            }
            v_load_transposed(column, block, VL);
            for (int64_t r = 0; r < VL; r++) {
                if (r0 + r < rows) {
                    v_store_n(dst + (r0 + r) * ld_dst + i0, column[r], cells - i0);
                }
            }
        }
    }
}
