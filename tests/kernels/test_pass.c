/* How the kernel for whole passes of few rows (cuda/infer/pass.h) deals its products out: blocks of threads
 * and their tiles, with shared memory and tensor cores in whole numbers, beside the plain product; and how int8
 * weights lie (cuda/launch.h). */
#include "common/kernels/cuda/infer/pass.h"

#include <criterion/criterion.h>
#include <stdlib.h>

typedef struct product {
    int64_t in, out[RF_CUDA_TOGETHER];
    int count;
    bool gates;
} product;

static const product products[] = {{1024, {2048, 1024, 1024}, 3, false}, /* of Qwen3-0.6B, */
                                   {2048, {1024}, 1, false},
                                   {1024, {3072}, 1, true},
                                   {3072, {1024}, 1, false},
                                   {128, {512, 256, 256}, 3, false}, /* one slice, */
                                   {328, {128}, 1, false},           /* two, uneven */
                                   {520, {128}, 1, false},           /* three of four, */
                                   {3080, {200}, 1, true},           /* seven of eight, uneven */
                                   {200, {3080}, 1, false}};
enum { N_PRODUCTS = sizeof products / sizeof products[0] };

static rf_cuda_deal deal_of(const product *p)
{
    return rf_cuda_deal_of(p->in, p->out, p->count, p->gates);
}

/* Every row of every matrix is in one tile of one block of threads. */
Test(pass, deals_every_row_once)
{
    static const int32_t blocks[] = {1, 7, 114, 132, 1000};
    for (int i = 0; i < N_PRODUCTS; i++) {
        const rf_cuda_deal d = deal_of(&products[i]);
        for (size_t b = 0; b < sizeof blocks / sizeof blocks[0]; b++) {
            int seen[RF_CUDA_TOGETHER][4096] = {{0}};
            for (int32_t block = 0; block < blocks[b]; block++) {
                for (int32_t k = 0; k < rf_cuda_deal_count(&d, block, blocks[b]); k++) {
                    const rf_cuda_dealt at = rf_cuda_deal_at(&d, block + k * blocks[b]);
                    for (int32_t r = at.row; r < at.row + d.each && r < d.out[at.which]; r++) {
                        seen[at.which][r]++;
                    }
                }
            }
            for (int m = 0; m < RF_CUDA_TOGETHER; m++) {
                for (int32_t r = 0; r < d.out[m]; r++) {
                    cr_assert_eq(seen[m][r], 1, "product %d, matrix %d, row %d", i, m, r);
                }
            }
        }
    }
}

/* Small numbers that every index has its own of. */
static int32_t weight_at(int which, int64_t row, int64_t column)
{
    return (int32_t)((row * 131 + column * 31 + which * 17) % 61) - 30;
}

static int32_t x_at(int64_t i, int64_t column)
{
    return (int32_t)((i * 53 + column * 37) % 41) - 20;
}

/* x as the kernel puts it into shared memory; -1000 where nothing was put. */
static int32_t *put_x(const rf_cuda_deal *d, int32_t rows)
{
    const int32_t count = d->slice * rows * RF_CUDA_MOST_SLICES;
    int32_t *x = malloc((size_t)count * sizeof *x);
    for (int32_t e = 0; e < count; e++) {
        x[e] = -1000;
    }
    for (int32_t i = 0; i < rows; i++) {
        for (int32_t j = 0; j < d->slices * d->slice; j++) {
            const int32_t first = j / RF_CUDA_PIECE * RF_CUDA_PIECE;
            x[rf_cuda_deal_x(d, rows, i, first) / 2 + j - first] = j < d->in ? x_at(i, j) : 0;
        }
    }
    return x;
}

/* Column k of a chunk in a row of shared memory, as tensor cores read it. */
static int32_t permuted(int32_t row, int32_t k)
{
    return row * RF_CUDA_CHUNK + (k / RF_CUDA_PIECE ^ row % 8) * RF_CUDA_PIECE + k % RF_CUDA_PIECE;
}

/* The sum of a tile's row times a row of x in shared memory, over all chunks. */
static int64_t multiply(const rf_cuda_deal *d, rf_cuda_dealt at, bool gates, const int32_t *x,
                        int32_t rows, int32_t row, int32_t x_row)
{
    const int32_t slice = row % d->part / d->each, in_slice = row % d->each;
    const int32_t which = gates ? row / d->part : at.which;
    int64_t sum = 0;
    for (int32_t chunk = 0; chunk < d->slice / RF_CUDA_CHUNK; chunk++) {
        const int32_t *own = x + chunk * rows * RF_CUDA_MOST_SLICES * RF_CUDA_CHUNK;
        for (int32_t k = 0; k < RF_CUDA_CHUNK; k++) {
            const int32_t column = slice * d->slice + chunk * RF_CUDA_CHUNK + k;
            const int32_t w = column < d->in ? weight_at(which, at.row + in_slice, column) : 0;
            sum += (int64_t)w * own[permuted(x_row, k)];
        }
    }
    return sum;
}

/* Of some tiles; x in shared memory, all products of slices, those of one slice added up. */
static void make_products(int32_t pass_rows)
{
    for (int i = 0; i < N_PRODUCTS; i++) {
        const product *p = &products[i];
        const rf_cuda_deal d = deal_of(p);
        int32_t *x = put_x(&d, pass_rows);
        cr_assert_leq(d.each * d.slices, d.part);
        for (int32_t tile = 0; tile < d.tiles[RF_CUDA_TOGETHER - 1]; tile += 13) {
            const rf_cuda_dealt at = rf_cuda_deal_at(&d, tile);
            int64_t got[RF_CUDA_PASS_ROWS][RF_CUDA_TILE] = {{0}};
            for (int32_t row = 0; row < RF_CUDA_TILE; row++) {
                for (int32_t x_row = 0; x_row < pass_rows * RF_CUDA_MOST_SLICES; x_row++) {
                    if (rf_cuda_deal_is_own(&d, row, x_row)) {
                        got[x_row / RF_CUDA_MOST_SLICES][row / d.part * d.each + row % d.each] +=
                            multiply(&d, at, p->gates, x, pass_rows, row, x_row);
                    }
                }
            }
            const int32_t rows = RF_CUDA_TILE / d.part * d.each;
            for (int32_t e = 0; e < pass_rows * rows; e++) {
                const int32_t row = e % rows, which = p->gates ? row / d.each : at.which;
                int64_t wanted = 0;
                for (int64_t k = 0; k < p->in; k++) {
                    wanted += weight_at(which, at.row + row % d.each, k) * x_at(e / rows, k);
                }
                cr_assert_eq(got[e / rows][row], wanted, "product %d, tile %d, row %d", i, tile,
                             row);
            }
        }
        free(x);
    }
}

Test(pass, makes_the_product)
{
    for (int32_t rows = 1; rows <= RF_CUDA_PASS_ROWS; rows *= 2) { /* as there are kernels */
        make_products(rows);
    }
}

/* What is sent in a block has a place of its own, at a multiple of two letters; parts lie behind all slots. */
Test(pass, lays_out_its_mail)
{
    enum { KEYS = 1000, MANY_KEYS = RF_CUDA_PART * RF_CUDA_FEW_PARTS };
    static const int64_t size[][4] = {{1024, 3072, 16, 8}, {3080, 200, 4, 1}, {8, 8, 1, 1}};
    for (size_t i = 0; i < sizeof size / sizeof size[0]; i++) {
        for (int64_t n = 1; n <= RF_CUDA_PASS_ROWS; n++) {
            const int64_t d = size[i][0], f = size[i][1], h = size[i][2], g = size[i][3];
            const rf_cuda_slot s = rf_cuda_slot_of(n, d, f, h, g);
            const int64_t begin[] = {s.stream, s.between, s.raw, s.found, s.hidden, s.letters};
            const int64_t letters[] = {n * d, n * d, n * (h + 2 * g) * RF_CUDA_PASS_WIDTH,
                                       n * h * RF_CUDA_PASS_WIDTH / 2, n * f / 2};
            for (int k = 0; k < 5; k++) {
                cr_assert_eq(begin[k] % 2, 0);
                cr_assert_eq(begin[k + 1] - begin[k], letters[k]);
            }
            const int64_t row = h * RF_CUDA_PART_LETTERS, slots = RF_CUDA_PASS_SLOTS * s.letters;
            cr_assert_eq(rf_cuda_letters_of(n, d, f, h, g, KEYS),
                         slots + n * (KEYS / RF_CUDA_PART + 2) * row);
            cr_assert_eq(rf_cuda_letters_of(n, d, f, h, g, MANY_KEYS),
                         slots + RF_CUDA_FEW_PARTS * row, "as many as one kernel takes");
        }
    }
}

/* Every element has a byte of its own before the scales, and lane l of a warp finds in word s of its 32 bytes what
 * tensor cores take of it for elements 16 s to 16 s + 15 (PTX ISA, "wgmma.mma_async": fragments of matrix A). */
Test(pass, int8_weights_lie_as_lanes_take_them)
{
    enum { WIDTH = 1160, LANES = 4, LANE_BYTES = 32 };
    uint8_t seen[WIDTH + RF_CUDA_INT8_CHUNK] = {0};
    for (int64_t i = 0; i < WIDTH; i++) {
        const int64_t at = rf_cuda_int8_at(i), chunk = i / RF_CUDA_INT8_CHUNK;
        const int64_t lane = at % RF_CUDA_INT8_CHUNK / LANE_BYTES, step = at % LANE_BYTES / 4;
        const int64_t column = 16 * step + 2 * lane + at % 2 + at % 4 / 2 * 8;
        cr_assert(at < rf_cuda_int8_scales(WIDTH) && seen[at]++ == 0 &&
                      i == chunk * RF_CUDA_INT8_CHUNK + column && lane < LANES,
                  "element %d", (int)i);
    }
    cr_assert(rf_cuda_int8_scales(WIDTH) == 1280 && rf_cuda_int8_row(WIDTH) == 1280 + 48,
              "10 chunks, and 10 scales up to a multiple of 16 bytes");
}
