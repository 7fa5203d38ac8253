/* pass.h: all blocks of a pass of few rows by one kernel (pass.cu), and how it deals its work out.  all local
 *
 * As launch.h: read by C17 and C++. The arithmetic here is the kernel's own; tests/kernels/test_pass.c
 * checks it without a GPU. */
#ifndef RF_KERNELS_CUDA_INFER_PASS_H
#define RF_KERNELS_CUDA_INFER_PASS_H

#include "common/kernels/cuda/infer/few.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of a pass at most; blocks of a launch at most (its arguments must fit); width of a head. */
enum { RF_CUDA_PASS_ROWS = 8, RF_CUDA_PASS_BLOCKS = 30, RF_CUDA_PASS_WIDTH = 128 };

/* --- How products are cut ---------------------------------------------------------------------- */

/* The inner dimension of every product of inference is cut into `slices` slices of `slice` terms; the last
 * may be shorter. Its length alone decides. */
enum { RF_CUDA_SLICE = 256, RF_CUDA_MOST_SLICES = 8, RF_CUDA_CHUNK = 64, RF_CUDA_TILE = 64 };
RF_KERNELS_INLINE int64_t rf_cuda_slice_of(int64_t in)
{
    int64_t slices = 1;
    while (slices < RF_CUDA_MOST_SLICES && slices * RF_CUDA_SLICE < in) {
        slices *= 2;
    }
    return (in + slices * RF_CUDA_CHUNK - 1) / (slices * RF_CUDA_CHUNK) * RF_CUDA_CHUNK;
}
RF_KERNELS_INLINE int64_t rf_cuda_slices_of(int64_t in)
{
    const int64_t slice = rf_cuda_slice_of(in);
    return (in + slice - 1) / slice;
}

/* A product of a pass as the blocks of the kernel take it. Tensor cores multiply 64 rows; a tile of the
 * product has `each` rows of a matrix in each of part / each slices, one slice below the other, so that a
 * block has all slices of its rows and adds them up itself. The matrices' tiles are numbered one matrix after
 * the other; tiles[i]: of matrix i and those before it. Of gates the first half of a tile is the first
 * matrix's, the other half the second's. */
typedef struct rf_cuda_deal {
    int32_t in, slice, slices, part, each, each_log; /* part: of a tile's rows are a matrix's */
    uint32_t inverse;                                /* of slice: j / slice = j inverse / 2^32 */
    int32_t out[RF_CUDA_TOGETHER], tiles[RF_CUDA_TOGETHER];
} rf_cuda_deal;
RF_KERNELS_INLINE rf_cuda_deal rf_cuda_deal_of(int64_t in, const int64_t *out, int count,
                                               bool gates)
{
    rf_cuda_deal d;
    d.in = (int32_t)in;
    d.slice = (int32_t)rf_cuda_slice_of(in);
    d.slices = (int32_t)rf_cuda_slices_of(in);
    d.part = gates ? RF_CUDA_TILE / 2 : RF_CUDA_TILE;
    d.each = d.part;
    d.each_log = gates ? 5 : 6;
    while (d.each * d.slices > d.part) {
        d.each /= 2;
        d.each_log--;
    }
    d.inverse = (uint32_t)((((uint64_t)1 << 32) + (uint64_t)d.slice - 1) / (uint64_t)d.slice);
    for (int i = 0; i < RF_CUDA_TOGETHER; i++) {
        const int32_t before = i > 0 ? d.tiles[i - 1] : 0;
        d.out[i] = i < count ? (int32_t)out[i] : 0;
        d.tiles[i] = before + (d.out[i] + d.each - 1) / d.each;
    }
    return d;
}

/* Tiles of block `block` of `blocks`: block, block + blocks, ... */
RF_KERNELS_INLINE int32_t rf_cuda_deal_count(const rf_cuda_deal *d, int32_t block, int32_t blocks)
{
    const int32_t all = d->tiles[RF_CUDA_TOGETHER - 1];
    return block < all ? (all - block + blocks - 1) / blocks : 0;
}

/* The matrix and the first row of a tile. */
typedef struct rf_cuda_dealt {
    int32_t which, row;
} rf_cuda_dealt;
RF_KERNELS_INLINE rf_cuda_dealt rf_cuda_deal_at(const rf_cuda_deal *d, int32_t tile)
{
    rf_cuda_dealt at = {0, tile};
    while (at.which + 1 < RF_CUDA_TOGETHER && tile >= d->tiles[at.which]) {
        at.which++;
    }
    at.row = (tile - (at.which > 0 ? d->tiles[at.which - 1] : 0)) * d->each;
    return at;
}

/* Are all slices whole, and more than one? Then a copy brings a tile's rows of all of them. */
RF_KERNELS_INLINE bool rf_cuda_deal_is_even(const rf_cuda_deal *d)
{
    return d->slices > 1 && d->slices * d->slice == d->in;
}

/* x in shared memory: for each chunk of 64 columns, 8 rows of 128 bytes for each row of the pass, the s-th of
 * which is slice s of x; their pieces of 16 bytes are permuted as bulk copies permute the weights'. The byte
 * where elements [j,j + 8) of row i begin; a kernel of `rows` rows. */
enum { RF_CUDA_PIECE = 8, RF_CUDA_ROW_BYTES = 2 * RF_CUDA_CHUNK };
RF_KERNELS_INLINE int32_t rf_cuda_deal_x(const rf_cuda_deal *d, int32_t rows, int32_t i, int32_t j)
{
    const int32_t slice = (int32_t)((uint64_t)j * d->inverse >> 32), inner = j - slice * d->slice;
    const int32_t chunk = inner / RF_CUDA_CHUNK;
    const int32_t number = inner % RF_CUDA_CHUNK / RF_CUDA_PIECE;
    return ((chunk * rows + i) * RF_CUDA_MOST_SLICES + slice) * RF_CUDA_ROW_BYTES +
           (number ^ slice) * 16;
}

/* Is a row of a tile times a row of x that lies so a sum of one slice, and so wanted? */
RF_KERNELS_INLINE int rf_cuda_deal_is_own(const rf_cuda_deal *d, int32_t row, int32_t x_row)
{
    return (row & (d->part - 1)) >> d->each_log == x_row % RF_CUDA_MOST_SLICES;
}

/* --- A pass ------------------------------------------------------------------------------------ */

/* What is a block's own. Matrices: q, k, v, o, gate, up, down, all bf16. */
enum { RF_CUDA_PASS_MATRICES = 7 };
typedef struct rf_cuda_pass_block {
    const void *w[RF_CUDA_PASS_MATRICES];
    const float *attention_gain, *mlp_gain, *q_gain, *k_gain, *q_bias, *k_bias, *v_bias, *o_bias;
    uint16_t *keys, *values;
} rf_cuda_pass_block;

/* Blocks that one kernel makes, one after the other. */
typedef struct rf_cuda_pass {
    rf_cuda_pass_block block[RF_CUDA_PASS_BLOCKS];
    int32_t blocks, before; /* before: blocks of this pass in earlier launches */
    int64_t n, d, f;
    float eps;
    float *x; /* [n,d] */
    const float *cosine, *sine;
    const int32_t *position, *place;
    rf_cuda_attend attention; /* of all blocks; q, k, v, o and part are not used */
} rf_cuda_pass;

/* What blocks of threads tell each other in a block of a pass, in letters (rf_cuda_mail): the stream that
 * the block leaves, the stream between attention and the gates, sums of q, k and v, and pairs of bf16: what
 * attention found, and the gates. There are RF_CUDA_PASS_SLOTS of them, used by turns; behind them the parts
 * of attention, once. */
enum { RF_CUDA_PASS_SLOTS = 3, RF_CUDA_PART_LETTERS = RF_CUDA_PASS_WIDTH + 4 };
typedef struct rf_cuda_slot {
    int64_t stream, between, raw, found, hidden, letters; /* where each begins; all of the slot */
} rf_cuda_slot;
RF_KERNELS_INLINE rf_cuda_slot rf_cuda_slot_of(int64_t n, int64_t d, int64_t f, int64_t h,
                                               int64_t g)
{
    rf_cuda_slot s;
    s.stream = 0;
    s.between = n * d;
    s.raw = s.between + n * d;
    s.found = s.raw + n * (h + 2 * g) * RF_CUDA_PASS_WIDTH;
    s.hidden = s.found + n * h * RF_CUDA_PASS_WIDTH / 2;
    s.letters = s.hidden + n * f / 2;
    return s;
}
/* keys: of the cache. A pass of more than RF_CUDA_FEW_PARTS rows of parts is not one kernel's. */
RF_KERNELS_INLINE int64_t rf_cuda_letters_of(int64_t n, int64_t d, int64_t f, int64_t h, int64_t g,
                                             int64_t keys)
{
    const rf_cuda_slot slot = rf_cuda_slot_of(n, d, f, h, g);
    const int64_t all = n * (keys / RF_CUDA_PART + 2), most = RF_CUDA_FEW_PARTS;
    const int64_t parts = all < most ? all : most;
    return RF_CUDA_PASS_SLOTS * slot.letters + parts * h * RF_CUDA_PART_LETTERS;
}

/* Does one kernel make such a pass? All sizes; not what lies in memory. */
bool rf_cuda_takes_pass(const rf_cuda_pass *pass);
int rf_cuda_run_pass(rf_cuda_stream, const rf_cuda_pass *pass);

#ifdef __cplusplus
}
#endif

#endif
