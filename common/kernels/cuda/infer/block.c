/* Inference with bf16 activations: whole blocks, and products alone, by the kernels of few.h. */
#include "common/kernels/cuda/infer/block.h"

#include "common/base/arena.h"
#include "common/kernels/cuda/infer/pass.h"

enum { ALIGNED = 16, MOST_PART_ROWS = 8192 };

/* --- What these kernels take ----------------------------------------------------------------- */

static bool is_half(const rf_ctx *ctx, rf_class cls)
{
    return ctx->backend->type[cls] == RF_BF16;
}

static bool is_half_matrix(const rf_ctx *ctx, rf_matrix w)
{
    return w.layout == RF_PACKED_BF16 || (w.layout == RF_ROWS && is_half(ctx, RF_WEIGHT));
}

static bool is_int8(rf_matrix w)
{
    return w.layout == RF_PACKED_INT8;
}

static bool is_aligned(const void *data)
{
    return (uintptr_t)data % ALIGNED == 0;
}

static bool takes_sizes(int64_t in, int64_t out)
{
    return in > 0 && in % 8 == 0 && out % 4 == 0;
}

/* All of a context are of bf16, or all of int8. */
static bool takes_matrix(const rf_ctx *ctx, rf_matrix w, int64_t in, int64_t out)
{
    const bool int8 = ctx->limits.weights == RF_PACKED_INT8;
    return (int8 ? is_int8(w) : is_half_matrix(ctx, w)) && is_aligned(w.data) &&
           takes_sizes(in, out);
}

bool rf_cuda_takes_blocks(const rf_ctx *ctx, const rf_block *b)
{
    const int64_t hk = b->h * b->k, gk = b->g * b->k;
    return !ctx->limits.backward && is_half(ctx, RF_ACTIVATION) && (b->k == 64 || b->k == 128) &&
           b->g > 0 && b->h / b->g <= RF_CUDA_SHARED && takes_matrix(ctx, b->q_w, b->d, hk) &&
           takes_matrix(ctx, b->k_w, b->d, gk) && takes_matrix(ctx, b->v_w, b->d, gk) &&
           takes_matrix(ctx, b->o_w, hk, b->d) && takes_matrix(ctx, b->gate_w, b->d, b->f) &&
           takes_matrix(ctx, b->up_w, b->d, b->f) && takes_matrix(ctx, b->down_w, b->f, b->d);
}

/* --- Scratch: the end of the context's, which nothing else uses -------------------------------- */

typedef struct block_scratch {
    float *part;
    rf_cuda_parts *table;
    rf_cuda_unit *unit;
    int32_t *units;
    int64_t part_rows;
    rf_cuda_mail mail;
} block_scratch;

static block_scratch lay_out(rf_arena *arena, const rf_limits *l)
{
    const int64_t most = l->places * (l->keys / RF_CUDA_PART + 2), wide = l->head_dim + 4;
    block_scratch s = {.part_rows = min_of(most, MOST_PART_ROWS)};
    s.part = rf_arena_take(arena, (size_t)(s.part_rows * l->n_heads * wide) * sizeof *s.part);
    s.table = rf_arena_take(arena, (size_t)l->places * sizeof *s.table);
    s.unit = rf_arena_take(arena, (size_t)(s.part_rows + RF_CUDA_PLANNED) * sizeof *s.unit);
    s.units = rf_arena_take(arena, 2 * sizeof *s.units);
    const int64_t rows = min_of(l->places, RF_CUDA_PASS_ROWS);
    s.mail.letters =
        l->head_dim == RF_CUDA_PASS_WIDTH
            ? rf_cuda_letters_of(rows, l->width, l->ffn, l->n_heads, l->n_kv_heads, l->keys)
            : 0;
    s.mail.letter = rf_arena_take(arena, (size_t)s.mail.letters * sizeof *s.mail.letter);
    s.mail.number = rf_arena_take(arena, sizeof *s.mail.number);
    s.mail.arrived = rf_arena_take(arena, RF_CUDA_ARRIVED * sizeof *s.mail.arrived);
    return s;
}

size_t rf_cuda_block_scratch(const rf_limits *limits)
{
    rf_arena arena = {0};
    if (limits->backward || limits->compute != RF_COMPUTE_BF16) {
        return 0;
    }
    (void)lay_out(&arena, limits);
    return arena.peak;
}

static block_scratch take_scratch(rf_ctx *ctx)
{
    const size_t bytes = rf_cuda_block_scratch(&ctx->limits);
    rf_arena arena = {.base = (char *)ctx->scratch + ctx->scratch_bytes - bytes, .size = bytes};
    return lay_out(&arena, &ctx->limits);
}

/* --- A block --------------------------------------------------------------------------------- */

static rf_cuda_real half(void *data)
{
    return (rf_cuda_real){data, RF_CUDA_BF16};
}

/* x of a product: the norm of the stream, by the product itself where that is few rows. */
static rf_cuda_few normed(rf_ctx *ctx, const rf_block *b, const void *gain)
{
    rf_cuda_few product = {
        .x = b->normed, .n = b->n, .in = b->d, .eps = (float)b->eps, .int8 = is_int8(b->q_w)};
    if (rf_cuda_few_norms(b->n, b->d)) {
        product.stream = b->x;
        product.gain = gain;
    } else {
        LAUNCH(norm_stream, b->normed, b->x, gain, b->n, b->d, (float)b->eps);
    }
    return product;
}

/* x += y w^T + bias. */
static void add_product(rf_ctx *ctx, const rf_block *b, const void *y, int64_t in, rf_matrix w,
                        const void *bias)
{
    const rf_cuda_few product = {
        .x = y,
        .of = {{w.data, b->d, bias, b->x, {b->x, RF_CUDA_F32}}},
        .count = 1,
        .int8 = is_int8(w),
        .n = b->n,
        .in = in,
    };
    LAUNCH(multiply_few, &product);
}

static void make_heads(rf_ctx *ctx, const rf_block *b)
{
    const rf_cuda_heads heads = {.q = b->q,
                                 .cache_k = b->keys,
                                 .cache_v = b->values,
                                 .q_gain = b->q_gain,
                                 .k_gain = b->k_gain,
                                 .cosine = b->angles.cos,
                                 .sine = b->angles.sin,
                                 .position = b->angles.position,
                                 .place = b->place,
                                 .h = b->h,
                                 .g = b->g,
                                 .head_dim = b->k,
                                 .eps = (float)b->eps};
    rf_cuda_few product = normed(ctx, b, b->attention_gain);
    product.count = 3;
    product.heads = &heads;
    product.of[0] = (rf_cuda_factor){.w = b->q_w.data, .out = b->h * b->k, .bias = b->q_bias};
    product.of[1] = (rf_cuda_factor){.w = b->k_w.data, .out = b->g * b->k, .bias = b->k_bias};
    product.of[2] = (rf_cuda_factor){.w = b->v_w.data, .out = b->g * b->k, .bias = b->v_bias};
    LAUNCH(multiply_few, &product);
}

static rf_cuda_attend attention_of(rf_ctx *ctx, const rf_block *b)
{
    const block_scratch s = take_scratch(ctx);
    return (rf_cuda_attend){.q = b->q,
                            .k = b->keys,
                            .v = b->values,
                            .o = b->o,
                            .span = b->spans->span,
                            .run = b->spans->run,
                            .place = b->place,
                            .n = b->n,
                            .n_runs = b->n, /* the last are empty */
                            .keys = b->spans->m,
                            .h = b->h,
                            .g = b->g,
                            .head_dim = b->k,
                            .part = s.part,
                            .part_rows = s.part_rows,
                            .table = s.table,
                            .unit = s.unit,
                            .units = s.units,
                            .mail = s.mail};
}

/* x += attention's product. */
static void add_attention(rf_ctx *ctx, const rf_block *b)
{
    const rf_cuda_attend attention = attention_of(ctx, b);
    LAUNCH(attend_few, &attention);
    LAUNCH(merge_parts, &attention);
    add_product(ctx, b, b->o, b->h * b->k, b->o_w, b->o_bias);
}

static void make_block(rf_ctx *ctx, const rf_block *b)
{
    make_heads(ctx, b);
    add_attention(ctx, b);
    rf_cuda_few gates = normed(ctx, b, b->mlp_gain);
    gates.gates = true;
    gates.count = 2;
    gates.of[0] = (rf_cuda_factor){.w = b->gate_w.data, .out = b->f, .y = half(b->hidden)};
    gates.of[1] = (rf_cuda_factor){.w = b->up_w.data, .out = b->f, .y = half(b->hidden)};
    LAUNCH(multiply_few, &gates);
    add_product(ctx, b, b->hidden, b->f, b->down_w, NULL);
}

/* --- Blocks of few rows: collected, then made by one kernel ------------------------------------ */

/* What is the same for all blocks of a pass. */
static void begin_pass(rf_ctx *ctx, rf_cuda_pass *pass, const rf_block *b)
{
    *pass = (rf_cuda_pass){.n = b->n,
                           .d = b->d,
                           .f = b->f,
                           .eps = (float)b->eps,
                           .x = b->x,
                           .cosine = b->angles.cos,
                           .sine = b->angles.sin,
                           .position = b->angles.position,
                           .place = b->place,
                           .attention = attention_of(ctx, b)};
}

static void run_pass(rf_ctx *ctx, rf_cuda_pass *pass)
{
    LAUNCH(run_pass, pass);
    pass->before += pass->blocks;
    pass->blocks = 0;
}

static void add_to_pass(rf_ctx *ctx, const rf_block *b)
{
    rf_cuda_pass *pass = rf_cuda_pass_of(ctx);
    pass->block[pass->blocks++] =
        (rf_cuda_pass_block){.w = {b->q_w.data, b->k_w.data, b->v_w.data, b->o_w.data,
                                   b->gate_w.data, b->up_w.data, b->down_w.data},
                             .attention_gain = b->attention_gain,
                             .mlp_gain = b->mlp_gain,
                             .q_gain = b->q_gain,
                             .k_gain = b->k_gain,
                             .q_bias = b->q_bias,
                             .k_bias = b->k_bias,
                             .v_bias = b->v_bias,
                             .o_bias = b->o_bias,
                             .keys = b->keys,
                             .values = b->values};
    if (b->is_last || pass->blocks == RF_CUDA_PASS_BLOCKS) {
        run_pass(ctx, pass);
    }
}

/* Is the pass made by one kernel? */
static bool takes_pass(const rf_cuda_pass *pass, const rf_block *b)
{
    return !is_int8(b->q_w) && rf_cuda_takes_pass(pass);
}

void rf_cuda_block_forward(rf_ctx *ctx, const rf_block *b)
{
    rf_cuda_pass *pass = rf_cuda_pass_of(ctx);
    if (b->is_first) {
        begin_pass(ctx, pass, b);
        LAUNCH(plan_attention, &pass->attention, !takes_pass(pass, b));
    }
    if (takes_pass(pass, b)) {
        add_to_pass(ctx, b);
    } else {
        make_block(ctx, b);
    }
}

/* --- A product ------------------------------------------------------------------------------- */

bool rf_cuda_takes_product(const rf_ctx *ctx, const rf_cuda_product *p)
{
    const bool writes_half = p->c.type == RF_CUDA_BF16;
    return !ctx->limits.backward && !p->accumulates && p->a.type == RF_CUDA_BF16 &&
           (p->b.type == RF_CUDA_BF16 || p->b.type == RF_CUDA_INT8) && p->a_step == p->k &&
           p->b_step == p->k && is_aligned(p->a.data) && is_aligned(p->b.data) &&
           is_aligned(p->c.data) && is_aligned(p->start.data) && is_aligned(p->bias.data) &&
           takes_sizes(p->k, p->n) && (p->start.data == NULL || !writes_half);
}

void rf_cuda_few_product(rf_ctx *ctx, const rf_cuda_product *p)
{
    const rf_cuda_few product = {
        .x = p->a.data,
        .of = {{p->b.data, p->n, p->bias.data, p->start.data, p->c}},
        .count = 1,
        .int8 = p->b.type == RF_CUDA_INT8,
        .n = p->m,
        .in = p->k,
    };
    LAUNCH(multiply_few, &product);
}
