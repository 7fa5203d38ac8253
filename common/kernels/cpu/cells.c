/* Packing for products of bf16: numbers of f32 are rounded on their way into cells (simd.h), those
 * of bf16 only moved. */
#include "common/kernels/cpu/internal.h"

/* 2 VL elements from `at` on as VL cells; those beyond `left` (at least 1) are 0. */
V_INLINE vf load_pairs(rf_type type, const void *src, int64_t at, int64_t left)
{
    if (type == RF_F32) {
        const float *from = (const float *)src + at;
        return v_pairs(v_load_n(from, left), left > VL ? v_load_n(from + VL, left - VL) : v_zero());
    }
    const uint16_t *from = (const uint16_t *)src + at;
    uint16_t part[2 * VL] = {0};
    if (left < 2 * VL) {
        memcpy(part, from, (size_t)left * sizeof *from);
        from = part;
    }
    return v_load((const float *)(const void *)from);
}

void RF_CPU(pack_cells)(float *dst, int64_t ld_dst, rf_type type, const void *src, int64_t ld_src,
                        int64_t rows, int64_t k)
{
    const int64_t cells = bf16_cells(k);
    for (int64_t r = 0; r < rows; r++, dst += ld_dst) {
        for (int64_t i = 0; i < cells; i += VL) {
            const int64_t left = k - 2 * i;
            vf x = left > 0 ? load_pairs(type, src, r * ld_src + 2 * i, left) : v_zero();
            v_store_n(dst + i, x, cells - i);
        }
    }
}

/* A square of VL x VL cells, transposed: to[c*ld + r] = square[r*VL + c] for c < cells. */
static void put_transposed(float *to, int64_t ld, const float square[VL * VL], int64_t cells)
{
    vf column[VL];
    v_load_transposed(column, square, VL);
    for (int c = 0; c < VL; c++) {
        if (c < cells) {
            v_store(to + c * ld, column[c]);
        }
    }
}

void RF_CPU(pack_cell_panels_transposed)(float *dst, rf_type type, const void *src, int64_t ld_src,
                                         int64_t n, int64_t k)
{
    const int64_t cells = bf16_cells(k);
    float square[VL * VL];
    for (int64_t c0 = 0; c0 < n; c0 += BF16_PANEL, dst += cells * BF16_PANEL) {
        for (int64_t v = 0; v < BF16_PANEL; v += VL) {
            for (int64_t i = 0; i < cells; i += VL) {
                for (int64_t r = 0; r < VL; r++) {
                    const int64_t row = c0 + v + r, left = k - 2 * i;
                    bool exists = row < n && left > 0;
                    v_store(square + r * VL,
                            exists ? load_pairs(type, src, row * ld_src + 2 * i, left) : v_zero());
                }
                put_transposed(dst + i * BF16_PANEL + v, BF16_PANEL, square, cells - i);
            }
        }
    }
}

/* Rows 2i and 2i+1 of src from column c on, as cells of one number of each; what lies beyond row k
 * or `left` columns is 0. */
V_INLINE vf load_zipped(rf_type type, const void *src, int64_t ld_src, int64_t i, int64_t c,
                        int64_t k, int64_t left)
{
    if (2 * i >= k || left <= 0) {
        return v_zero();
    }
    const int64_t at = 2 * i * ld_src + c;
    vf first = load_as(type, src, at, left);
    vf second = 2 * i + 1 < k ? load_as(type, src, at + ld_src, left) : v_zero();
    return type == RF_BF16 ? v_or(v_down16(first), second) : v_zip(first, second);
}

void RF_CPU(pack_cell_panels)(float *dst, rf_type type, const void *src, int64_t ld_src, int64_t k,
                              int64_t n)
{
    enum { AHEAD = 24 }; /* rows from prefetch to use: they lie too far apart for the processor */
    const int64_t cells = bf16_cells(k), line = type == RF_BF16 ? 32 : 16;
    for (int64_t c0 = 0; c0 < n; c0 += BF16_PANEL) {
        for (int64_t i = 0; i < cells; i++, dst += BF16_PANEL) {
            for (int64_t row = 2 * i + AHEAD; row < min_of(2 * i + AHEAD + 2, k); row++) {
                for (int64_t c = c0; c < c0 + BF16_PANEL; c += line) {
                    v_prefetch(element(type, src, row * ld_src + c));
                }
            }
            for (int64_t v = 0; v < BF16_PANEL; v += VL) {
                v_store(dst + v, load_zipped(type, src, ld_src, i, c0 + v, k, n - c0 - v));
            }
        }
    }
}

/* VL columns of src from r0 on, 2 VL rows from 2 i0 on: rows r0 on of dst, cells i0 on. */
V_INLINE void turn_square(float *dst, int64_t ld_dst, rf_type type, const void *src, int64_t ld_src,
                          int64_t r0, int64_t rows, int64_t i0, int64_t k)
{
    float square[VL * VL];
    vf column[VL];
    for (int64_t i = 0; i < VL; i++) {
        v_store(square + i * VL, load_zipped(type, src, ld_src, i0 + i, r0, k, rows - r0));
    }
    v_load_transposed(column, square, VL);
    const int64_t cells = bf16_cells(k) - i0;
    for (int64_t r = 0; r < VL; r++) {
        if (r0 + r < rows) {
            v_store_n(dst + (r0 + r) * ld_dst + i0, column[r], cells);
        }
    }
}

/* Takes 2 VL columns of src at a time, which with VL = 16 are a cache line of bf16, and prefetches the
 * next rows of it meanwhile: they lie far apart. */
void RF_CPU(pack_cells_transposed)(float *dst, int64_t ld_dst, rf_type type, const void *src,
                                   int64_t ld_src, int64_t rows, int64_t k)
{
    const int64_t cells = bf16_cells(k);
    for (int64_t r0 = 0; r0 < rows; r0 += 2 * VL) {
        for (int64_t i0 = 0; i0 < cells; i0 += VL) {
            const int64_t next = 2 * (i0 + VL), end = min_of(next + 2 * VL, k);
            for (int64_t row = next; row < end; row++) {
                v_prefetch(element(type, src, row * ld_src + r0));
            }
            turn_square(dst, ld_dst, type, src, ld_src, r0, rows, i0, k);
            if (r0 + VL < rows) {
                turn_square(dst, ld_dst, type, src, ld_src, r0 + VL, rows, i0, k);
            }
        }
    }
}
