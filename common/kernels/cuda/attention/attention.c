/* Attention: the plain kernels, or tensor cores with the lists of tiles that they read. */
#include "common/kernels/cuda/scratch.h"

#include <string.h>

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
    return rf_cuda_has_lists(&ctx->limits) && a->head_dim == ctx->limits.head_dim && ends % 16 == 0;
}

/* Heads of the persistent forward pass. */
static bool is_wide(const rf_cuda_attention *a)
{
    return a->head_dim == 128;
}

/* The lists of tiles that meet, made if they are not there since the last layer: for forward of tiles of many
 * queries, else both. */
static void list_tiles(rf_ctx *ctx, rf_cuda_attention *a, bool forward)
{
    _Static_assert((int)RF_KEY_TILE == (int)RF_CUDA_KEYS,
                   "the host's tiles of keys are the lists'");
    const rf_cuda_tile_lists lists = rf_cuda_take_lists(ctx, forward);
    rf_cuda_spans *listed = rf_cuda_listed_of(ctx, forward);
    RF_ASSERT(a->spans.n <= ctx->limits.places &&
              a->spans.m <= max_of(ctx->limits.places, ctx->limits.keys));
    a->by_query = lists.by_query;
    a->by_key = lists.by_key;
    a->order = lists.order;
    if (memcmp(listed, &a->spans, sizeof *listed) == 0) {
        return;
    }
    LAUNCH(tiles_of_queries, lists.by_query, &a->spans,
           forward ? RF_CUDA_MANY_QUERIES : RF_CUDA_QUERIES);
    if (!forward) {
        LAUNCH(tiles_of_keys, lists.by_key, &a->spans);
    } else if (is_wide(a)) {
        LAUNCH(order_tiles, lists.order, lists.by_query, &a->spans);
    }
    *listed = a->spans;
}

void RF_CUDA_KERNEL(attention_forward)(rf_ctx *ctx, void *o, void *lse, const void *q,
                                       const void *k, const void *v, const rf_spans *spans,
                                       int64_t h, int64_t g, int64_t head_dim)
{
    rf_cuda_attention a = attention(ctx, q, k, v, spans, h, g, head_dim);
    a.o = operand(ctx, RF_ACTIVATION, o);
    a.lse = lse;
    if (by_tensor_cores(ctx, &a)) {
        list_tiles(ctx, &a, true);
        if (is_wide(&a)) {
            LAUNCH(persistent_forward, &a);
        } else {
            LAUNCH(tensor_forward, &a);
        }
    } else {
        LAUNCH(attention_forward, &a);
    }
}

void RF_CUDA_KERNEL(attention_backward)(rf_ctx *ctx, void *dq, void *dk, void *dv, void *delta,
                                        const void *d_o, const void *q, const void *k,
                                        const void *v, const void *o, const void *lse,
                                        const rf_spans *spans, int64_t h, int64_t g,
                                        int64_t head_dim)
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
