#include "common/kernels/cuda/scratch.h"

#include "common/kernels/cuda/infer/block.h"

/* Logits of a chunk, where rf_limits asks for no other budget: of inference; in training at most so many rows,
 * in whole tiles of the library's products. */
enum {
    DEFAULT_HEAD_BYTES = 256 << 20,
    TRAINING_HEAD_BYTES = 1280 << 20,
    HEAD_ROWS = 4096,
    HEAD_TILE = 256
};
/* Places up to which attention keeps lists of tiles; more take the plain kernels. */
enum { MOST_LISTED = 1 << 18 };

/* Training in bf16: large products by cuBLASLt, attention by tensor cores. Inference keeps rule 4 of the
 * contract, and f32 its precision. */
bool rf_cuda_trains_in_half(const rf_limits *limits)
{
    return limits->backward && limits->compute == RF_COMPUTE_BF16;
}

bool rf_cuda_has_lists(const rf_limits *limits)
{
    return rf_cuda_trains_in_half(limits) && (limits->head_dim == 64 || limits->head_dim == 128) &&
           max_of(limits->places, limits->keys) <= MOST_LISTED;
}

/* What lasts from one kernel to the next. */
typedef struct shared_part {
    rf_cuda_product_scratch products;
    rf_cuda_tile_lists lists[2]; /* of the backward pass, of the forward pass */
} shared_part;

static rf_cuda_tile_lists lay_out_lists(rf_arena *arena, int64_t n, int64_t m)
{
    const int64_t queries = rf_cuda_tiles(n, RF_CUDA_QUERIES),
                  keys = rf_cuda_tiles(m, RF_CUDA_KEYS);
    rf_cuda_tile_lists lists;
    lists.by_query = rf_arena_take(arena, (size_t)(queries * (keys + 1)) * sizeof(int32_t));
    lists.by_key = rf_arena_take(arena, (size_t)(keys * (queries + 1)) * sizeof(int32_t));
    lists.order =
        rf_arena_take(arena, (size_t)rf_cuda_tiles(n, RF_CUDA_MANY_QUERIES) * sizeof(int32_t));
    return lists;
}

static shared_part lay_out_shared(rf_arena *arena, const rf_limits *limits)
{
    shared_part s = {0};
    if (rf_cuda_trains_in_half(limits)) {
        s.products.workspace = rf_arena_take(arena, RF_CUDA_BLAS_BYTES);
        s.products.half =
            rf_arena_take(arena, (size_t)(limits->places * limits->width) * sizeof(uint16_t));
    }
    for (int i = 0; i < 2 && rf_cuda_has_lists(limits); i++) {
        s.lists[i] = lay_out_lists(arena, limits->places, max_of(limits->places, limits->keys));
    }
    return s;
}

rf_cuda_product_scratch rf_cuda_take_products(rf_ctx *ctx)
{
    rf_arena arena = {.base = ctx->scratch, .size = ctx->scratch_bytes};
    return lay_out_shared(&arena, &ctx->limits).products;
}

rf_cuda_tile_lists rf_cuda_take_lists(rf_ctx *ctx, bool forward)
{
    rf_arena arena = {.base = ctx->scratch, .size = ctx->scratch_bytes};
    return lay_out_shared(&arena, &ctx->limits).lists[forward];
}

rf_arena rf_cuda_own_part(rf_ctx *ctx)
{
    rf_arena arena = {.base = ctx->scratch, .size = ctx->scratch_bytes};
    (void)lay_out_shared(&arena, &ctx->limits);
    return arena;
}

/* Sums of a product in f32, before their bias: [places, widest_sums]. */
int64_t rf_cuda_widest_sums(const rf_limits *limits)
{
    return max_of(limits->width, limits->n_heads * limits->head_dim);
}

void *rf_cuda_take_sums(rf_arena *arena, const rf_limits *limits)
{
    return rf_arena_take(arena,
                         (size_t)(limits->places * rf_cuda_widest_sums(limits)) * sizeof(float));
}

static int64_t head_rows(const rf_limits *limits)
{
    const bool half = rf_cuda_trains_in_half(limits);
    const int64_t standard = half ? TRAINING_HEAD_BYTES : DEFAULT_HEAD_BYTES;
    const int64_t bytes = limits->head_bytes > 0 ? limits->head_bytes : standard;
    const int64_t fit = bytes / (max_of(1, limits->vocab) * (int64_t)sizeof(float));
    const int64_t whole = half && fit > HEAD_TILE ? fit - fit % HEAD_TILE : fit;
    return max_of(1, min_of(half ? min_of(whole, HEAD_ROWS) : whole, limits->places));
}

/* Takes the parts, or with a base of NULL counts their bytes. */
static rf_cuda_head_scratch lay_out_head(rf_arena *arena, const rf_limits *limits)
{
    rf_cuda_head_scratch s = {.rows = head_rows(limits)};
    const size_t width = (size_t)(s.rows * limits->width) * sizeof(float);
    s.logits = rf_arena_take(arena, (size_t)((s.rows + 1) * limits->vocab) * sizeof(float));
    s.x = rf_arena_take(arena, width);
    s.dx = rf_arena_take(arena, width);
    s.parts = rf_arena_take(arena, (size_t)rf_cuda_answer_parts(s.rows, limits->vocab) *
                                       RF_CUDA_ANSWER_BYTES);
    return s;
}

rf_cuda_head_scratch rf_cuda_take_head(rf_ctx *ctx, int64_t d, int64_t v)
{
    rf_arena arena = rf_cuda_own_part(ctx);
    RF_ASSERT(d <= ctx->limits.width && v <= ctx->limits.vocab);
    return lay_out_head(&arena, &ctx->limits);
}

/* Sums of pieces of rows, for the gradients of gains and biases. */
static size_t part_bytes(const rf_limits *limits)
{
    const int64_t heads = limits->n_heads * limits->head_dim;
    const int64_t wide = max_of(max_of(limits->width, limits->ffn), heads);
    const int64_t rows = rf_cuda_pieces(limits->places) * wide;
    const int64_t head_norms = rf_cuda_pieces(limits->places * limits->n_heads) * limits->head_dim;
    return (size_t)max_of(rows, head_norms) * sizeof(float);
}

float *rf_cuda_take_part(rf_ctx *ctx, int64_t n, int64_t d)
{
    rf_arena arena = rf_cuda_own_part(ctx);
    return rf_arena_take(&arena, (size_t)(rf_cuda_pieces(n) * d) * sizeof(float));
}

int32_t *rf_cuda_take_order(rf_ctx *ctx, int64_t n)
{
    rf_arena arena = rf_cuda_own_part(ctx);
    return rf_arena_take(&arena, (size_t)(n * (1 + RF_CUDA_SORT_PARTS)) * sizeof(int32_t));
}

size_t RF_CUDA_KERNEL(scratch_bytes)(int n_threads, const rf_limits *limits)
{
    (void)n_threads;
    rf_arena arena = {0};
    (void)lay_out_shared(&arena, limits);
    const size_t own = arena.used;
    (void)lay_out_head(&arena, limits);
    if (limits->backward) {
        rf_arena_rewind(&arena, own);
        const int64_t order = limits->places * (1 + RF_CUDA_SORT_PARTS);
        (void)rf_arena_take(&arena, (size_t)order * sizeof(int32_t));
        rf_arena_rewind(&arena, own);
        (void)rf_arena_take(&arena, part_bytes(limits));
    }
    if (rf_cuda_trains_in_half(limits)) {
        rf_arena_rewind(&arena, own);
        (void)rf_cuda_take_sums(&arena, limits);
    }
    return arena.peak + rf_cuda_block_scratch(limits);
}
