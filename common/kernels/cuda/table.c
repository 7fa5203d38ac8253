/* The kernels of kernels.h: of which launches each is made, on which scratch. */
#include "common/kernels/cuda/internal.h"

#include "common/base/arena.h"
#include "common/kernels/cuda/infer/block.h"

#include <stddef.h>

/* Logits of a chunk, where rf_limits asks for no other budget: of inference; in training their gradient too,
 * at most so many rows. */
enum { DEFAULT_HEAD_BYTES = 256 << 20, TRAINING_HEAD_BYTES = 1536 << 20, HEAD_ROWS = 4096 };
/* Places up to which attention keeps lists of tiles; more take the plain kernels. */
enum { MOST_LISTED = 1 << 18 };

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#define LAUNCH(kernel, ...)                                                                        \
    rf_cuda_take(ctx, rf_cuda_##kernel(rf_cuda_stream_of(ctx), __VA_ARGS__), #kernel)

/* --- Operands -------------------------------------------------------------------------------- */

static rf_cuda_real operand(const rf_ctx *ctx, rf_class cls, const void *data)
{
    const bool is_half = ctx->backend->type[cls] == RF_BF16;
    return (rf_cuda_real){(void *)(uintptr_t)data, is_half ? RF_CUDA_BF16 : RF_CUDA_F32};
}

/* Of what a kernel changes: a copy of residual memory (internal.h) is old then. */
static rf_cuda_real changed(const rf_ctx *ctx, rf_class cls, void *data)
{
    if (cls == RF_RESIDUAL) {
        rf_cuda_copy_of(ctx)->of = NULL;
    }
    return operand(ctx, cls, data);
}

static rf_cuda_real array(const rf_ctx *ctx, rf_array x)
{
    return changed(ctx, x.cls, x.data);
}

static rf_cuda_real const_array(const rf_ctx *ctx, rf_const_array x)
{
    return operand(ctx, x.cls, x.data);
}

static rf_cuda_real matrix(const rf_ctx *ctx, rf_matrix w)
{
    void *data = (void *)(uintptr_t)w.data;
    switch (w.layout) {
    case RF_PACKED_F32:
        return (rf_cuda_real){data, RF_CUDA_F32};
    case RF_PACKED_BF16:
        return (rf_cuda_real){data, RF_CUDA_BF16};
    case RF_PACKED_INT8:
        return (rf_cuda_real){data, RF_CUDA_INT8};
    default:
        return operand(ctx, RF_WEIGHT, data);
    }
}

/* As a product takes it: with compute bf16 rounded to that. */
static rf_cuda_real factor(const rf_ctx *ctx, rf_cuda_real x)
{
    if (x.type == RF_CUDA_F32 && ctx->limits.compute == RF_COMPUTE_BF16) {
        x.type = RF_CUDA_F32_AS_BF16;
    }
    return x;
}

/* --- Scratch: what training's products share, then every kernel's own part --------------------- */

/* Training in bf16: large products by cuBLASLt, attention by tensor cores. Inference keeps rule 4 of the
 * contract, and f32 its precision. */
static bool trains_in_half(const rf_limits *limits)
{
    return limits->backward && limits->compute == RF_COMPUTE_BF16;
}

typedef struct product_scratch {
    void *workspace; /* RF_CUDA_BLAS_BYTES */
    void *half;      /* [places,width] bf16: an operand of class residual, rounded */
} product_scratch;

static product_scratch lay_out_products(rf_arena *arena, const rf_limits *limits)
{
    product_scratch s = {0};
    if (trains_in_half(limits)) {
        s.workspace = rf_arena_take(arena, RF_CUDA_BLAS_BYTES);
        s.half = rf_arena_take(arena, (size_t)(limits->places * limits->width) * sizeof(uint16_t));
    }
    return s;
}

static product_scratch take_products(rf_ctx *ctx)
{
    rf_arena arena = {.base = ctx->scratch, .size = ctx->scratch_bytes};
    return lay_out_products(&arena, &ctx->limits);
}

static rf_arena own_part(rf_ctx *ctx)
{
    rf_arena arena = {.base = ctx->scratch, .size = ctx->scratch_bytes};
    (void)lay_out_products(&arena, &ctx->limits);
    return arena;
}

/* Sums of a product in f32, before their bias: [places, widest_sums]. */
static int64_t widest_sums(const rf_limits *limits)
{
    return max_of(limits->width, limits->n_heads * limits->head_dim);
}

static void *take_sums(rf_arena *arena, const rf_limits *limits)
{
    return rf_arena_take(arena, (size_t)(limits->places * widest_sums(limits)) * sizeof(float));
}

/* A chunk of the head. */
typedef struct head_scratch {
    int64_t rows;
    float *logits; /* [rows + 1,V]: draws take half of it for rows of their own */
    void *slope;   /* [rows,V] bf16: the gradient of the logits, where training is in bf16 */
    void *x;       /* [rows,D] activation */
    float *dx;     /* [rows,D] */
    void *parts;   /* of rf_cuda_answer */
} head_scratch;

static int64_t head_rows(const rf_limits *limits)
{
    const bool half = trains_in_half(limits);
    const int64_t standard = half ? TRAINING_HEAD_BYTES : DEFAULT_HEAD_BYTES;
    const int64_t bytes = limits->head_bytes > 0 ? limits->head_bytes : standard;
    const int64_t each = (int64_t)(sizeof(float) + (half ? sizeof(uint16_t) : 0));
    const int64_t fit = bytes / (max_of(1, limits->vocab) * each);
    return max_of(1, min_of(half ? min_of(fit, HEAD_ROWS) : fit, limits->places));
}

/* Takes the parts, or with a base of NULL counts their bytes. */
static head_scratch lay_out_head(rf_arena *arena, const rf_limits *limits)
{
    head_scratch s = {.rows = head_rows(limits)};
    const size_t width = (size_t)(s.rows * limits->width) * sizeof(float);
    s.logits = rf_arena_take(arena, (size_t)((s.rows + 1) * limits->vocab) * sizeof(float));
    if (trains_in_half(limits)) {
        s.slope = rf_arena_take(arena, (size_t)(s.rows * limits->vocab) * sizeof(uint16_t));
    }
    s.x = rf_arena_take(arena, width);
    s.dx = rf_arena_take(arena, width);
    s.parts = rf_arena_take(arena, (size_t)rf_cuda_answer_parts(s.rows, limits->vocab) *
                                       RF_CUDA_ANSWER_BYTES);
    return s;
}

static head_scratch take_head(rf_ctx *ctx, int64_t d, int64_t v)
{
    rf_arena arena = own_part(ctx);
    RF_ASSERT(d <= ctx->limits.width && v <= ctx->limits.vocab);
    return lay_out_head(&arena, &ctx->limits);
}

/* Lists of attention's tiles. */
typedef struct tile_lists {
    int32_t *by_query, *by_key;
} tile_lists;

static bool has_lists(const rf_limits *limits)
{
    return trains_in_half(limits) && (limits->head_dim == 64 || limits->head_dim == 128) &&
           max_of(limits->places, limits->keys) <= MOST_LISTED;
}

static tile_lists lay_out_lists(rf_arena *arena, int64_t n, int64_t m)
{
    const int64_t queries = rf_cuda_tiles(n, RF_CUDA_QUERIES),
                  keys = rf_cuda_tiles(m, RF_CUDA_KEYS);
    tile_lists lists;
    lists.by_query = rf_arena_take(arena, (size_t)(queries * (keys + 1)) * sizeof(int32_t));
    lists.by_key = rf_arena_take(arena, (size_t)(keys * (queries + 1)) * sizeof(int32_t));
    return lists;
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

static float *take_part(rf_ctx *ctx, int64_t n, int64_t d)
{
    rf_arena arena = own_part(ctx);
    return rf_arena_take(&arena, (size_t)(rf_cuda_pieces(n) * d) * sizeof(float));
}

static int32_t *take_order(rf_ctx *ctx, int64_t n)
{
    rf_arena arena = own_part(ctx);
    return rf_arena_take(&arena, (size_t)(n * (1 + RF_CUDA_SORT_PARTS)) * sizeof(int32_t));
}

static size_t scratch_bytes(int n_threads, const rf_limits *limits)
{
    (void)n_threads;
    rf_arena arena = {0};
    (void)lay_out_products(&arena, limits);
    const size_t own = arena.used;
    (void)lay_out_head(&arena, limits);
    if (limits->backward) {
        rf_arena_rewind(&arena, own);
        const int64_t order = limits->places * (1 + RF_CUDA_SORT_PARTS);
        (void)rf_arena_take(&arena, (size_t)order * sizeof(int32_t));
        rf_arena_rewind(&arena, own);
        (void)rf_arena_take(&arena, part_bytes(limits));
    }
    if (trains_in_half(limits)) {
        rf_arena_rewind(&arena, own);
        (void)take_sums(&arena, limits);
    }
    if (has_lists(limits)) {
        rf_arena_rewind(&arena, own);
        (void)lay_out_lists(&arena, limits->places, max_of(limits->places, limits->keys));
    }
    return arena.peak + rf_cuda_block_scratch(limits);
}

/* --- Packed weights -------------------------------------------------------------------------- */

static size_t row_bytes(rf_layout layout, int64_t in)
{
    return layout == RF_PACKED_INT8   ? (size_t)rf_cuda_int8_row(in)
           : layout == RF_PACKED_BF16 ? (size_t)in * sizeof(uint16_t)
                                      : (size_t)in * sizeof(float);
}

static size_t pack_bytes(rf_layout layout, int64_t in, int64_t out)
{
    return (size_t)out * row_bytes(layout, in);
}

static void pack(rf_ctx *ctx, void *packed, rf_layout layout, const void *w, int64_t first,
                 int64_t n, int64_t in, int64_t out)
{
    RF_ASSERT(layout != RF_ROWS && first % RF_PACK_ROWS == 0 && first + n <= out);
    void *to = (char *)packed + (size_t)first * row_bytes(layout, in);
    if (layout == RF_PACKED_INT8) {
        LAUNCH(quantize, to, w, n, in);
    } else {
        LAUNCH(convert, matrix(ctx, (rf_matrix){to, layout}), operand(ctx, RF_MASTER, w), n * in);
    }
}

/* --- Rows ------------------------------------------------------------------------------------ */

static void embedding_forward(rf_ctx *ctx, void *x, rf_matrix table, const int32_t *token,
                              int64_t n, int64_t d)
{
    LAUNCH(move_rows, changed(ctx, RF_RESIDUAL, x), NULL, matrix(ctx, table), token, n, d);
}

static void embedding_backward(rf_ctx *ctx, void *dtable, const void *dx, const int32_t *token,
                               int64_t n, int64_t d)
{
    LAUNCH(add_by_token, dtable, operand(ctx, RF_RESIDUAL, dx), token, take_order(ctx, n), n, d);
}

static void scatter_rows(rf_ctx *ctx, void *y, const void *x, const int32_t *place, int64_t n,
                         int64_t d)
{
    LAUNCH(move_rows, operand(ctx, RF_ACTIVATION, y), place, operand(ctx, RF_ACTIVATION, x), NULL,
           n, d);
}

static void rmsnorm_forward(rf_ctx *ctx, void *y, void *rstd, rf_const_array x, const void *gain,
                            int64_t n, int64_t d, double eps)
{
    LAUNCH(norm, operand(ctx, RF_ACTIVATION, y), rstd, const_array(ctx, x),
           operand(ctx, RF_MASTER, gain), n, d, (float)eps);
}

static void rmsnorm_backward(rf_ctx *ctx, rf_array dx, void *dgain, rf_const_array dy,
                             rf_const_array x, const void *gain, const void *rstd, int64_t n,
                             int64_t d, bool accumulate)
{
    rf_cuda_norm_slopes slopes = {.dx = array(ctx, dx),
                                  .dy = const_array(ctx, dy),
                                  .x = const_array(ctx, x),
                                  .gain = operand(ctx, RF_MASTER, gain),
                                  .dgain = dgain,
                                  .part = dgain != NULL ? take_part(ctx, n, d) : NULL,
                                  .rstd = rstd,
                                  .n = n,
                                  .d = d,
                                  .accumulates = accumulate};
    const bool keeps = dx.cls == RF_RESIDUAL && trains_in_half(&ctx->limits) &&
                       n <= ctx->limits.places && d <= ctx->limits.width;
    if (keeps) { /* the products before it will read it twice */
        slopes.half = (rf_cuda_real){take_products(ctx).half, RF_CUDA_BF16};
    }
    LAUNCH(norm_backward, &slopes);
    if (keeps) {
        *rf_cuda_copy_of(ctx) = (rf_cuda_copy){dx.data, n * d};
    }
}

static void rope(rf_ctx *ctx, void *x, const void *cosine, const void *sine,
                 const int32_t *position, int64_t n, int64_t h, int64_t k, bool inverse)
{
    LAUNCH(rope, operand(ctx, inverse ? RF_PRODUCT : RF_ACTIVATION, x), cosine, sine, position, n,
           h, k, inverse);
}

/* --- Products -------------------------------------------------------------------------------- */

/* An f32 operand in the scratch's copy, if it is not there already. */
static void copy_in_half(rf_ctx *ctx, void *half, const void *x, int64_t n)
{
    rf_cuda_copy *copy = rf_cuda_copy_of(ctx);
    if (copy->of != x || copy->n != n) {
        LAUNCH(convert, (rf_cuda_real){half, RF_CUDA_BF16},
               (rf_cuda_real){(void *)(uintptr_t)x, RF_CUDA_F32}, n);
        *copy = (rf_cuda_copy){x, n};
    }
}

/* y in bf16 with a bias: the library's sums in f32 first, so that they are rounded once. */
static bool multiply_wide(rf_ctx *ctx, const rf_cuda_product *product, void *workspace)
{
    rf_arena arena = own_part(ctx);
    rf_cuda_product wide = *product;
    wide.bias.data = NULL;
    wide.c = (rf_cuda_real){take_sums(&arena, &ctx->limits), RF_CUDA_F32};
    if (product->start.data != NULL || product->n > widest_sums(&ctx->limits) ||
        !rf_cuda_blas_takes(&wide)) {
        return false;
    }
    rf_cuda_blas_multiply(ctx, &wide, workspace);
    LAUNCH(add_bias, product->c, product->bias, wide.c, product->m, product->n);
    return true;
}

/* Does cuBLASLt make this product, with what bias and f32 operands ask for around it? */
static bool multiply_by_library(rf_ctx *ctx, const rf_cuda_product *product)
{
    const product_scratch s = take_products(ctx);
    const int64_t n = product->m * product->k;
    rf_cuda_product other = *product;
    if (product->bias.data != NULL && product->c.type == RF_CUDA_BF16) {
        return multiply_wide(ctx, product, s.workspace);
    }
    if (product->start.data != NULL && product->c.type == RF_CUDA_BF16) {
        return false; /* no model has such a product */
    }
    if (product->a.type == RF_CUDA_F32_AS_BF16 && n <= ctx->limits.places * ctx->limits.width) {
        other.a = (rf_cuda_real){s.half, RF_CUDA_BF16};
    }
    if (product->bias.data != NULL) {
        other.bias.data = NULL;
        other.start = product->c;
    }
    if (!rf_cuda_blas_takes(&other)) {
        return false;
    }
    if (product->a.type == RF_CUDA_F32_AS_BF16) {
        copy_in_half(ctx, s.half, product->a.data, n);
    }
    if (product->bias.data != NULL) {
        LAUNCH(add_bias, product->c, product->bias, product->start, product->m, product->n);
    }
    rf_cuda_blas_multiply(ctx, &other, s.workspace);
    return true;
}

static void multiply(rf_ctx *ctx, rf_cuda_product product)
{
    if (!trains_in_half(&ctx->limits) || !multiply_by_library(ctx, &product)) {
        LAUNCH(multiply, &product);
    }
}

static void linear_forward(rf_ctx *ctx, rf_array y, const void *x, rf_matrix w, const void *bias,
                           const void *residual, int64_t n, int64_t in, int64_t out)
{
    const rf_cuda_product product = {.a = factor(ctx, operand(ctx, RF_ACTIVATION, x)),
                                     .b = factor(ctx, matrix(ctx, w)),
                                     .c = array(ctx, y),
                                     .bias = operand(ctx, RF_MASTER, bias),
                                     .start = operand(ctx, y.cls, residual),
                                     .m = n,
                                     .n = out,
                                     .k = in,
                                     .a_step = in,
                                     .a_inner = 1,
                                     .b_step = in,
                                     .b_inner = 1};
    if (rf_cuda_takes_product(ctx, &product)) {
        rf_cuda_few_product(ctx, &product);
        return;
    }
    multiply(ctx, product);
}

/* dx = dy w, or dx += dy w. */
static void backward_input(rf_ctx *ctx, rf_cuda_real dx, rf_cuda_real dy, const void *w, int64_t n,
                           int64_t in, int64_t out, bool accumulate)
{
    multiply(ctx, (rf_cuda_product){.a = factor(ctx, dy),
                                    .b = factor(ctx, operand(ctx, RF_WEIGHT, w)),
                                    .c = dx,
                                    .m = n,
                                    .n = in,
                                    .k = out,
                                    .a_step = out,
                                    .a_inner = 1,
                                    .b_step = 1,
                                    .b_inner = in,
                                    .accumulates = accumulate});
}

/* dw += dy^T x */
static void backward_weight(rf_ctx *ctx, void *dw, rf_cuda_real dy, const void *x, int64_t n,
                            int64_t in, int64_t out)
{
    multiply(ctx, (rf_cuda_product){.a = factor(ctx, dy),
                                    .b = factor(ctx, operand(ctx, RF_ACTIVATION, x)),
                                    .c = operand(ctx, RF_MASTER, dw),
                                    .m = out,
                                    .n = in,
                                    .k = n,
                                    .a_step = 1,
                                    .a_inner = out,
                                    .b_step = 1,
                                    .b_inner = in,
                                    .accumulates = true,
                                    .over_places = true});
}

static void linear_backward_input(rf_ctx *ctx, rf_array dx, rf_const_array dy, const void *w,
                                  int64_t n, int64_t in, int64_t out, bool accumulate)
{
    backward_input(ctx, array(ctx, dx), const_array(ctx, dy), w, n, in, out, accumulate);
}

static void linear_backward_weight(rf_ctx *ctx, void *dw, void *dbias, rf_const_array dy,
                                   const void *x, int64_t n, int64_t in, int64_t out)
{
    if (dw != NULL) {
        backward_weight(ctx, dw, const_array(ctx, dy), x, n, in, out);
    }
    if (dbias != NULL) {
        LAUNCH(sum_columns, dbias, take_part(ctx, n, out), const_array(ctx, dy), (rf_cuda_real){0},
               NULL, n, out);
    }
}

/* --- SwiGLU, dropout ------------------------------------------------------------------------- */

static void swiglu_forward(rf_ctx *ctx, void *h, const void *gate, const void *up, int64_t count)
{
    LAUNCH(swiglu, operand(ctx, RF_ACTIVATION, h), operand(ctx, RF_ACTIVATION, gate),
           operand(ctx, RF_ACTIVATION, up), count);
}

static void swiglu_backward(rf_ctx *ctx, void *dgate, void *dup, const void *dh, const void *gate,
                            const void *up, int64_t count)
{
    LAUNCH(swiglu_backward, operand(ctx, RF_ACTIVATION, dgate), operand(ctx, RF_ACTIVATION, dup),
           operand(ctx, RF_ACTIVATION, dh), operand(ctx, RF_ACTIVATION, gate),
           operand(ctx, RF_ACTIVATION, up), count);
}

static void swiglu_up_forward(rf_ctx *ctx, void *h, void *up, const void *x, rf_matrix w,
                              const void *gate, int64_t n, int64_t in, int64_t out)
{
    linear_forward(ctx, (rf_array){up, RF_ACTIVATION}, x, w, NULL, NULL, n, in, out);
    swiglu_forward(ctx, h, gate, up, n * out);
}

static void swiglu_down_backward(rf_ctx *ctx, void *dgate, void *dup, void *h, const void *dy,
                                 const void *w, const void *gate, const void *up, int64_t n,
                                 int64_t in, int64_t out)
{
    linear_backward_input(ctx, (rf_array){dup, RF_ACTIVATION}, (rf_const_array){dy, RF_RESIDUAL}, w,
                          n, in, out, false);
    LAUNCH(swiglu_again, operand(ctx, RF_ACTIVATION, dgate), operand(ctx, RF_ACTIVATION, dup),
           operand(ctx, RF_ACTIVATION, h), operand(ctx, RF_ACTIVATION, dup),
           operand(ctx, RF_ACTIVATION, gate), operand(ctx, RF_ACTIVATION, up), n * in);
}

static void scale_dropout(rf_ctx *ctx, rf_array y, const void *x, double scale, double rate,
                          uint64_t key, int64_t count, bool accumulate)
{
    LAUNCH(scale_dropout, array(ctx, y), operand(ctx, RF_ACTIVATION, x), (float)scale, rate, key,
           count, accumulate);
}

/* --- Attention ------------------------------------------------------------------------------- */

static rf_cuda_attention attention(rf_ctx *ctx, const void *q, const void *k, const void *v,
                                   const rf_spans *spans, int64_t h, int64_t g, int64_t head_dim)
{
    _Static_assert((int)RF_RUN_QUERIES <= (int)RF_CUDA_RUN, "a block takes a run");
    if (head_dim > rf_cuda_widest_head()) {
        rf_error_set(&ctx->error, RF_ERR,
                     "cuda: heads are at most %d wide: choose the backend cpu for this model",
                     (int)rf_cuda_widest_head());
        h = 0; /* no head is computed */
    }
    return (rf_cuda_attention){.q = operand(ctx, RF_ACTIVATION, q),
                               .k = operand(ctx, RF_ACTIVATION, k),
                               .v = operand(ctx, RF_ACTIVATION, v),
                               .spans = {.span = spans->span,
                                         .run = spans->run,
                                         .tile = spans->tile,
                                         .n = spans->n,
                                         .m = spans->m,
                                         .n_runs = spans->n_runs,
                                         .n_tiles = spans->n_tiles,
                                         .tile_keys = RF_KEY_TILE},
                               .h = h,
                               .g = h > 0 ? g : 0,
                               .head_dim = head_dim};
}

/* Tensor cores, by a rule that knows shapes and types only. */
static bool by_tensor_cores(const rf_ctx *ctx, const rf_cuda_attention *a)
{
    const uintptr_t ends = (uintptr_t)a->q.data | (uintptr_t)a->k.data | (uintptr_t)a->v.data |
                           (uintptr_t)a->o.data | (uintptr_t)a->d_o.data | (uintptr_t)a->dq.data |
                           (uintptr_t)a->dk.data | (uintptr_t)a->dv.data;
    return has_lists(&ctx->limits) && a->head_dim == ctx->limits.head_dim && ends % 16 == 0;
}

/* Makes the lists of tiles that meet: for forward of tiles of many queries, else both. */
static void list_tiles(rf_ctx *ctx, rf_cuda_attention *a, bool forward)
{
    _Static_assert((int)RF_KEY_TILE == (int)RF_CUDA_KEYS,
                   "the host's tiles of keys are the lists'");
    rf_arena arena = own_part(ctx);
    const tile_lists lists = lay_out_lists(&arena, a->spans.n, a->spans.m);
    a->by_query = lists.by_query;
    a->by_key = lists.by_key;
    LAUNCH(tiles_of_queries, lists.by_query, &a->spans,
           forward ? RF_CUDA_MANY_QUERIES : RF_CUDA_QUERIES);
    if (!forward) {
        LAUNCH(tiles_of_keys, lists.by_key, &a->spans);
    }
}

static void attention_forward(rf_ctx *ctx, void *o, void *lse, const void *q, const void *k,
                              const void *v, const rf_spans *spans, int64_t h, int64_t g,
                              int64_t head_dim)
{
    rf_cuda_attention a = attention(ctx, q, k, v, spans, h, g, head_dim);
    a.o = operand(ctx, RF_ACTIVATION, o);
    a.lse = lse;
    if (by_tensor_cores(ctx, &a)) {
        list_tiles(ctx, &a, true);
        LAUNCH(tensor_forward, &a);
    } else {
        LAUNCH(attention_forward, &a);
    }
}

static void attention_backward(rf_ctx *ctx, void *dq, void *dk, void *dv, void *delta,
                               const void *d_o, const void *q, const void *k, const void *v,
                               const void *o, const void *lse, const rf_spans *spans, int64_t h,
                               int64_t g, int64_t head_dim)
{
    rf_cuda_attention a = attention(ctx, q, k, v, spans, h, g, head_dim);
    a.o = operand(ctx, RF_ACTIVATION, o);
    a.d_o = operand(ctx, RF_ACTIVATION, d_o);
    a.dq = operand(ctx, RF_PRODUCT, dq);
    a.dk = operand(ctx, RF_PRODUCT, dk);
    a.dv = operand(ctx, RF_PRODUCT, dv);
    a.lse = (float *)(uintptr_t)lse;
    a.delta = delta;
    if (by_tensor_cores(ctx, &a)) {
        list_tiles(ctx, &a, false);
        LAUNCH(tensor_delta, &a);
        LAUNCH(tensor_queries, &a);
        LAUNCH(tensor_keys, &a);
        return;
    }
    LAUNCH(attention_delta, &a);
    LAUNCH(attention_queries, &a);
    LAUNCH(attention_keys, &a);
}

/* --- Head ------------------------------------------------------------------------------------ */

/* logits [m,V] of rows place[0..m) of x. */
static void make_logits(rf_ctx *ctx, float *logits, const head_scratch *s, const void *x,
                        rf_matrix w, const int32_t *place, int64_t m, int64_t d, int64_t v)
{
    LAUNCH(move_rows, operand(ctx, RF_ACTIVATION, s->x), NULL, operand(ctx, RF_ACTIVATION, x),
           place, m, d);
    linear_forward(ctx, (rf_array){logits, RF_STATISTIC}, s->x, w, NULL, NULL, m, d, v);
}

/* Where a chunk's logits leave their gradient: in their own place, or in bf16. */
static rf_cuda_real slope_of(const rf_ctx *ctx, const head_scratch *s)
{
    return s->slope != NULL ? (rf_cuda_real){s->slope, RF_CUDA_BF16}
                            : operand(ctx, RF_STATISTIC, s->logits);
}

/* From the gradient of a chunk's logits. */
static void take_gradient(rf_ctx *ctx, const head_scratch *s, void *dx, void *dw, const void *w,
                          const int32_t *place, int64_t m, int64_t d, int64_t v)
{
    const rf_cuda_real slope = slope_of(ctx, s);
    backward_input(ctx, operand(ctx, RF_STATISTIC, s->dx), slope, w, m, d, v, false);
    LAUNCH(move_rows, changed(ctx, RF_RESIDUAL, dx), place, operand(ctx, RF_STATISTIC, s->dx), NULL,
           m, d);
    if (dw != NULL) {
        backward_weight(ctx, dw, slope, s->x, m, d, v);
    }
}

static void head_loss(rf_ctx *ctx, void *loss, void *dx, void *dw, const void *x, rf_matrix w,
                      const int32_t *target, const void *weight, const int32_t *place, int64_t m,
                      int64_t n, int64_t d, int64_t v)
{
    const head_scratch s = take_head(ctx, d, v);
    RF_ASSERT(dx == NULL || w.layout == RF_ROWS);
    rf_backend_zero(ctx, loss, RF_STATISTIC, n);
    rf_backend_zero(ctx, dx, RF_RESIDUAL, dx != NULL ? n * d : 0);
    for (int64_t begin = 0; begin < m; begin += s.rows) {
        const int64_t rows = min_of(s.rows, m - begin);
        make_logits(ctx, s.logits, &s, x, w, place + begin, rows, d, v);
        LAUNCH(head_loss, loss, slope_of(ctx, &s), s.logits, target, weight, place + begin, rows, v,
               dx != NULL);
        if (dx != NULL) {
            take_gradient(ctx, &s, dx, dw, w.data, place + begin, rows, d, v);
        }
    }
}

/* The part of the query and of the answer that rows [at, ...) of it are. own: NULL where no tokens are
 * drawn. */
static rf_cuda_query query_from(const rf_head_query *query, const rf_head_answer *out, int64_t at,
                                float *own)
{
    _Static_assert(sizeof(rf_cuda_rule) == sizeof(rf_draw) &&
                       offsetof(rf_cuda_rule, top_k) == offsetof(rf_draw, top_k) &&
                       offsetof(rf_cuda_rule, key) == offsetof(rf_draw, key),
                   "one struct, for C and for kernels");
    rf_cuda_query part = {.banned = query->banned,
                          .seen = query->seen,
                          .n_banned = query->n_banned,
                          .n_usable = query->n_usable,
                          .own = own};
    if (out->logprob != NULL) {
        part.target = query->target + at;
        part.logprob = (float *)out->logprob + at;
    }
    if (out->entropy != NULL) {
        part.entropy = (float *)out->entropy + at;
    }
    if (out->token != NULL) {
        part.second = out->second != NULL ? (float *)out->second + at : NULL;
        part.draw = query->draw != NULL ? (const rf_cuda_rule *)query->draw + at : NULL;
        part.token = out->token + at;
        part.score = (float *)out->score + at;
    }
    return part;
}

static void head_query(rf_ctx *ctx, const rf_head_answer *out, const void *x, rf_matrix w,
                       const rf_head_query *query, int64_t n, int64_t d, int64_t v)
{
    const head_scratch s = take_head(ctx, d, v);
    const bool draws = out->token != NULL && query->draw != NULL;
    const int64_t most = draws ? (s.rows + 1) / 2 : s.rows;
    RF_ASSERT(query->n_usable <= v);
    for (int64_t at = 0; at < n; at += most) {
        const int64_t rows = min_of(most, n - at);
        const rf_cuda_query part = query_from(query, out, at, draws ? s.logits + rows * v : NULL);
        make_logits(ctx, s.logits, &s, x, w, query->place + at, rows, d, v);
        if (draws) {
            LAUNCH(draw, &part, s.logits, rows, v);
        }
        LAUNCH(answer, &part, s.parts, s.logits, rows, v);
    }
}

static void head_logits(rf_ctx *ctx, void *logits, const void *x, rf_matrix w, const int32_t *place,
                        int64_t n, int64_t d, int64_t v)
{
    const head_scratch s = take_head(ctx, d, v);
    for (int64_t at = 0; at < n; at += s.rows) {
        make_logits(ctx, (float *)logits + at * v, &s, x, w, place + at, min_of(s.rows, n - at), d,
                    v);
    }
}

/* --- Flat buffers ---------------------------------------------------------------------------- */

static void add(rf_ctx *ctx, void *y, const void *x, int64_t n)
{
    LAUNCH(add, y, x, n);
}

static void sum_squares(rf_ctx *ctx, void *sums, const void *x, int64_t first, int64_t n)
{
    RF_ASSERT(first % RF_SUM_RUN == 0);
    LAUNCH(sum_squares, (double *)sums + first / RF_SUM_RUN, x, n, RF_SUM_RUN);
}

static void sum_tree(rf_ctx *ctx, void *sums, int64_t n)
{
    LAUNCH(sum_tree, sums, n);
}

static void adamw(rf_ctx *ctx, void *w, void *m, void *v, const void *g, int64_t n,
                  const rf_adamw *step)
{
    const rf_cuda_step own = {.lr = (float)step->lr,
                              .beta1 = (float)step->beta1,
                              .beta2 = (float)step->beta2,
                              .rest1 = (float)(1.0 - step->beta1),
                              .rest2 = (float)(1.0 - step->beta2),
                              .eps = (float)step->eps,
                              .decay = (float)step->decay,
                              .scale = (float)step->scale,
                              .c1 = (float)step->c1,
                              .c2 = (float)step->c2};
    LAUNCH(adamw, w, m, v, g, n, &own);
}

#define ENTRY(name) .name = name,
const rf_kernels rf_cuda_kernels = {RF_KERNELS(ENTRY).takes_blocks = rf_cuda_takes_blocks,
                                    .block_forward = rf_cuda_block_forward};
