/* acts.c: where the activations of a forward pass lie.
 *
 * In training each block has memory of its own for everything that its backward pass reads, except
 * for norm1, norm2 and h: they are cheap to compute again, so that all blocks write them to the same
 * place and the backward pass fills it once more. (On a device, which multiplies so fast that this shows,
 * with RF_RECOMPUTE_NONE only h.) With RF_RECOMPUTE_SELECTIVE q and k after the norms of heads and the
 * rotation are made again too. With RF_RECOMPUTE_BLOCK the backward pass computes the whole block again, and
 * only the blocks' inputs have memory of their own.
 *
 * In decoding nothing is read after its block is done: all blocks share one set of buffers. In it the
 * buffers of the MLP lie where those of attention were, which are free by then.
 */
#include "common/model/model.h"

#include "common/base/alloc.h"
#include "common/base/arena.h"
#include "common/model/lora.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What every take of a layout needs. */
typedef struct layout {
    rf_arena *arena;
    const rf_backend *backend;
    const rf_model_config *config;
    const rf_adaptation *adaptation;
    int64_t n; /* places */
} layout;

static void *take(const layout *l, rf_class cls, int64_t per_place)
{
    return rf_arena_take(l->arena, rf_backend_bytes(l->backend, cls, l->n * per_place));
}

static int64_t query_width(const layout *l)
{
    return l->config->num_attention_heads * l->config->head_dim;
}

static int64_t key_width(const layout *l)
{
    return l->config->num_key_value_heads * l->config->head_dim;
}

static void take_heads(rf_block_acts *b, const layout *l)
{
    b->q = take(l, RF_ACTIVATION, query_width(l));
    b->k = take(l, RF_ACTIVATION, key_width(l));
}

/* All of attention but q and k as it reads them, which have their place by then. */
static void take_attention(rf_block_acts *b, const layout *l, bool keep)
{
    int64_t h = l->config->num_attention_heads, g = l->config->num_key_value_heads;
    int64_t hk = query_width(l), gk = key_width(l);
    b->v = take(l, RF_ACTIVATION, gk);
    b->o = take(l, RF_ACTIVATION, hk);
    b->lse = take(l, RF_STATISTIC, h);
    b->q_raw = b->q;
    b->k_raw = b->k;
    b->q_rstd = b->k_rstd = NULL;
    if (l->config->qk_norm) {
        /* q and k before their norms, where nobody reads them later, lie where attention will write
         * o, which is wide enough for either (G <= H): first q, and k when q's norm is done. */
        b->q_raw = keep ? take(l, RF_ACTIVATION, hk) : b->o;
        b->k_raw = keep ? take(l, RF_ACTIVATION, gk) : b->o;
        b->q_rstd = take(l, RF_STATISTIC, h);
        b->k_rstd = take(l, RF_STATISTIC, g);
    }
}

static void take_gates(rf_block_acts *b, const layout *l)
{
    b->gate = take(l, RF_ACTIVATION, l->config->intermediate_size);
    b->up = take(l, RF_ACTIVATION, l->config->intermediate_size);
}

/* What a block keeps for its backward pass, beside its input, norms, and q and k. */
static void take_kept(rf_block_acts *b, const layout *l)
{
    b->rstd1 = take(l, RF_STATISTIC, 1);
    take_attention(b, l, true);
    b->mid = take(l, RF_RESIDUAL, l->config->hidden_size);
    b->rstd2 = take(l, RF_STATISTIC, 1);
    take_gates(b, l);
}

static void take_norms(rf_block_acts *b, const layout *l)
{
    b->norm1 = take(l, RF_ACTIVATION, l->config->hidden_size);
    b->norm2 = take(l, RF_ACTIVATION, l->config->hidden_size);
}

static void take_training(rf_acts *acts, const layout *l)
{
    int64_t n_layers = l->config->num_hidden_layers, d = l->config->hidden_size;
    bool shared = acts->recompute == RF_RECOMPUTE_BLOCK;
    acts->keeps_norms = acts->recompute == RF_RECOMPUTE_NONE && !l->backend->memory->is_host;
    /* Without norms of heads q and k lie where the products left them, and turn in place. */
    acts->keeps_heads = acts->recompute == RF_RECOMPUTE_NONE ||
                        (acts->recompute == RF_RECOMPUTE_SELECTIVE && !l->config->qk_norm);
    /* What the backward pass computes again: one place for all blocks. */
    rf_block_acts one = {0};
    one.h = take(l, RF_ACTIVATION, l->config->intermediate_size);
    if (!acts->keeps_norms) {
        take_norms(&one, l);
    }
    if (!acts->keeps_heads) {
        take_heads(&one, l);
    }
    if (shared) {
        take_kept(&one, l);
    }
    for (int64_t layer = 0; layer < n_layers; layer++) {
        rf_block_acts b = one;
        b.x = take(l, RF_RESIDUAL, d);
        if (acts->keeps_heads) {
            take_heads(&b, l);
        }
        if (!shared) {
            take_kept(&b, l);
        }
        if (acts->keeps_norms) {
            take_norms(&b, l);
        }
        if (acts->block != NULL) {
            acts->block[layer] = b;
        }
    }
    acts->x = take(l, RF_RESIDUAL, d);
    acts->final = take(l, RF_ACTIVATION, d);
    acts->final_rstd = take(l, RF_STATISTIC, 1);
}

/* The residual stream is rewritten in place; all norms write to one buffer. */
static void take_inference(rf_acts *acts, const layout *l)
{
    int64_t d = l->config->hidden_size;
    rf_block_acts b = {0};
    acts->x = take(l, RF_RESIDUAL, d);
    acts->final = take(l, RF_ACTIVATION, d);
    acts->final_rstd = take(l, RF_STATISTIC, 1);
    b.x = b.mid = acts->x;
    b.norm1 = b.norm2 = acts->final;
    b.rstd1 = b.rstd2 = acts->final_rstd;
    size_t mark = l->arena->used;
    take_heads(&b, l);
    take_attention(&b, l, false);
    rf_arena_rewind(l->arena, mark);
    take_gates(&b, l);
    b.h = take(l, RF_ACTIVATION, l->config->intermediate_size);
    if (acts->block != NULL) {
        for (int64_t layer = 0; layer < l->config->num_hidden_layers; layer++) {
            acts->block[layer] = b;
        }
    }
}

/* Adapters' products are computed one after the other: all share these. */
static void take_adapter(rf_acts *acts, const layout *l)
{
    if (l->adaptation->rank > 0) {
        acts->adapter_u = take(l, RF_ACTIVATION, l->adaptation->rank);
    }
    if (l->adaptation->rank > 0 && l->adaptation->dropout > 0.0 && acts->backward) {
        acts->adapter_x = take(l, RF_ACTIVATION, rf_lora_widest(l->config));
    }
}

static void take_query(rf_acts *acts, const layout *l)
{
    acts->chosen = take(l, RF_INDEX, 1);
    acts->chosen_target = take(l, RF_INDEX, 1);
    acts->draw = take(l, RF_INDEX, RF_DRAW_WORDS);
    acts->banned =
        rf_arena_take(l->arena, rf_backend_bytes(l->backend, RF_INDEX, RF_MODEL_MAX_BANNED));
    acts->seen = rf_arena_take(l->arena, rf_backend_bytes(l->backend, RF_INDEX, acts->keys));
    acts->answer.token = take(l, RF_INDEX, 1);
    acts->answer.score = take(l, RF_STATISTIC, 1);
    acts->answer.logprob = take(l, RF_STATISTIC, 1);
    acts->answer.second = take(l, RF_STATISTIC, 1);
    acts->answer.entropy = take(l, RF_STATISTIC, 1);
}

/* Both run twice: to measure, then to bind (arena.h). */
static void lay_out(rf_acts *acts, rf_arena *arena, const rf_model_shape *shape)
{
    layout l = {arena, shape->backend, shape->config, shape->adaptation, acts->capacity};
    acts->token = take(&l, RF_INDEX, 1);
    acts->position = take(&l, RF_INDEX, 1);
    acts->place = take(&l, RF_INDEX, 1);
    acts->target = take(&l, RF_INDEX, 1);
    acts->weight = take(&l, RF_STATISTIC, 1);
    acts->loss = take(&l, RF_STATISTIC, 1);
    acts->wanted = take(&l, RF_INDEX, 1);
    take_query(acts, &l);
    acts->span_memory =
        rf_arena_take(arena, rf_backend_bytes(l.backend, RF_INDEX, acts->span_size));
    take_adapter(acts, &l);
    if (acts->backward) {
        take_training(acts, &l);
    } else {
        take_inference(acts, &l);
    }
}

static void lay_out_host(rf_acts *acts, rf_arena *arena)
{
    acts->host_wanted = rf_arena_take(arena, (size_t)acts->capacity * sizeof(int32_t));
    acts->host_span = rf_arena_take(arena, (size_t)acts->span_size * sizeof(int32_t));
    acts->host_taken = rf_arena_take(arena, (size_t)acts->keys);
}

static rf_acts describe(int64_t places, int64_t keys, bool backward, rf_recompute recompute)
{
    keys = keys > places ? keys : places;
    return (rf_acts){.capacity = places,
                     .keys = keys,
                     .backward = backward,
                     .recompute = recompute,
                     .span_size = rf_spans_size(places, keys, backward)};
}

size_t rf_acts_bytes(const rf_model_shape *shape, int64_t places, int64_t keys, bool backward,
                     rf_recompute recompute)
{
    rf_acts acts = describe(places, keys, backward, recompute);
    rf_arena arena = {0}, host = {0};
    if (places < 1 || acts.keys > RF_MODEL_MAX_PLACES) {
        return 0;
    }
    lay_out(&acts, &arena, shape);
    lay_out_host(&acts, &host);
    return arena.peak + host.peak;
}

/* Kernels' scratch was sized where the model was made. */
static int check_sizes(const rf_acts *acts, const rf_limits *limits, rf_error *err)
{
    if (acts->capacity < 1 || acts->capacity > limits->places || acts->keys > limits->keys) {
        return rf_error_set(err, RF_ERR,
                            "activations of %" PRId64 " places and %" PRId64
                            " keys: the model was made for %" PRId64 " and %" PRId64,
                            acts->capacity, acts->keys, limits->places, limits->keys);
    }
    if (acts->backward && !limits->backward) {
        return rf_error_set(err, RF_ERR,
                            "activations for a backward pass: the model was made without");
    }
    return RF_OK;
}

int rf_acts_new(rf_acts **out, rf_model *model, int64_t places, int64_t keys, bool backward,
                rf_recompute recompute, rf_error *err)
{
    rf_arena arena = {0}, host = {0};
    const rf_model_shape shape = rf_model_shape_of(model);
    *out = NULL;
    rf_acts *acts = rf_alloc(1, sizeof *acts);
    *acts = describe(places, keys, backward, recompute);
    acts->ctx = model->ctx;
    int rc;
    RF_TRY_OUT(check_sizes(acts, &model->ctx->limits, err));
    lay_out(acts, &arena, &shape);
    lay_out_host(acts, &host);
    arena = (rf_arena){.size = arena.peak};
    host = (rf_arena){.size = host.peak};
    acts->block = rf_alloc((size_t)model->config.num_hidden_layers, sizeof *acts->block);
    acts->host_memory = host.base = aligned_alloc(RF_ALIGNMENT, host.size);
    if (acts->host_memory == NULL) {
        rc = rf_error_set(err, RF_ERR, "no memory for activations: free some");
        goto out;
    }
    rc = rf_backend_alloc(&acts->memory, model->ctx, arena.size, err);
    if (rc != RF_OK) {
        rc = rf_error_prefix(err, "activations of %" PRId64 " places", places);
        goto out;
    }
    memset(acts->host_memory, 0, host.size);
    arena.base = acts->memory;
    acts->bytes = arena.size + host.size;
    lay_out(acts, &arena, &shape);
    lay_out_host(acts, &host);
    *out = acts;
    return RF_OK;
out:
    rf_acts_free(acts);
    return rc;
}

void rf_acts_free(rf_acts *acts)
{
    if (acts == NULL) {
        return;
    }
    rf_backend_free(acts->ctx, acts->memory);
    free(acts->host_memory);
    free(acts->block);
    free(acts);
}
